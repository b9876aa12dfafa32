import pytest
import torch

from minisora import InputError
from minisora.patches import grid_of, pack, patchify, positions, unpack, unpatchify


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 1)])
def test_unpatchify_is_the_inverse(patch: tuple[int, int, int]) -> None:
    latents = torch.randn(2, 5, 4, 6, 8)
    tokens = patchify(latents, patch)
    grid = grid_of((4, 6, 8), patch)
    assert tokens.shape == (2, grid[0] * grid[1] * grid[2], 5 * patch[0] * patch[1] * patch[2])
    assert torch.equal(unpatchify(tokens, grid, patch), latents)


def test_positions_say_where_each_token_stands() -> None:
    t, h, w = torch.meshgrid(
        torch.arange(2.0), torch.arange(6.0), torch.arange(8.0), indexing="ij"
    )
    latents = torch.stack([t, h, w])[None]  # each latent holds its own place
    tokens = patchify(latents, (1, 2, 2)).view(-1, 3, 4)[
        ..., 0
    ]  # of the upper left latent of each patch
    assert torch.equal(tokens, positions((2, 3, 4)) * torch.tensor([1, 2, 2]))


def test_uneven_latents() -> None:
    with pytest.raises(
        InputError, match=r"latents of \(1, 5, 8\) are not cut evenly by patches of \(1, 2, 2\)"
    ):
        patchify(torch.zeros(1, 2, 1, 5, 8), (1, 2, 2))


def test_clips_of_any_size_share_a_row() -> None:
    clips = [torch.randn(80, 64), torch.randn(16, 64), torch.randn(48, 64)]
    row, lengths = pack(clips)
    assert row.shape == (144, 64) and lengths == [80, 16, 48]
    assert all(torch.equal(a, b) for a, b in zip(clips, unpack(row, lengths), strict=True))
    with pytest.raises(InputError, match="add up to 96, the row has 144"):
        unpack(row, [80, 16])
