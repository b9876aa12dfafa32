import pytest
import torch

from minisora import InputError
from minisora.patches import (
    MIDDLE,
    grid_of,
    pack,
    patchify,
    positions,
    tokenize,
    unpack,
    unpatchify,
)

PATCHES = [(1, 1, 1), (1, 2, 2), (2, 2, 1)]


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_unpatchify_is_the_inverse(patch: tuple[int, int, int]) -> None:
    latents = torch.randn(2, 5, 4, 6, 8)
    tokens = patchify(latents, patch)
    assert torch.equal(unpatchify(tokens, grid_of((4, 6, 8), patch), patch), latents)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_tokens_hold_all_numbers(patch: tuple[int, int, int]) -> None:
    t, h, w = grid_of((4, 6, 8), patch)
    a, b, c = patch
    assert patchify(torch.randn(2, 5, 4, 6, 8), patch).shape == (2, t * h * w, 5 * a * b * c)


@pytest.fixture
def coordinates() -> torch.Tensor:
    """Latents (1, 3, 2, 6, 8) that hold their own t, h and w."""
    axes = torch.arange(2.0), torch.arange(6.0), torch.arange(8.0)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def test_positions_are_where_the_tokens_come_from(coordinates) -> None:
    """But for one shift of the whole picture."""
    tokens = patchify(coordinates, (1, 2, 2)).view(-1, 3, 4)  # (N, 3, latents of a patch)
    upper_left = tokens[..., 0] / torch.tensor([1, 2, 2])  # in patches
    where = positions((2, 3, 4))[:, :3]  # (N, 3)
    assert torch.equal(where - where[0], upper_left)


@pytest.mark.parametrize("grid", [(2, 4, 4), (3, 1, 2), (1, 5, 8)], ids=str)
def test_the_middle_of_every_picture_is_at_one_place(grid: tuple[int, int, int]) -> None:
    where = positions(grid)[:, 1:3]  # (N, 2)
    assert where.mean(0).tolist() == [MIDDLE, MIDDLE]


def test_four_patches_are_at_zero_to_three() -> None:
    """As they were before pictures had a middle, so older weights stay good."""
    axes = torch.arange(5.0), torch.arange(4.0), torch.arange(4.0)
    counted = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    assert torch.equal(positions((5, 4, 4))[:, :3], counted)


def test_a_wider_picture_adds_positions_at_its_edges_only() -> None:
    narrow, wide = (set(map(tuple, positions((2, 3, w))[:, :3].tolist())) for w in (4, 6))
    assert {column for _, _, column in wide - narrow} == {-1.0, 4.0}


def test_every_token_knows_the_size_of_its_picture() -> None:
    assert torch.equal(positions((2, 3, 4))[:, 3:], torch.tensor([[3.0, 4.0]]).expand(24, 2))


def test_time_may_count_from_a_later_group() -> None:
    later = positions((2, 3, 4), start=5) - positions((2, 3, 4))
    assert torch.equal(later, torch.tensor([5.0, 0, 0, 0, 0]).expand(24, 5))


def test_tokenize_gives_tokens_and_their_positions(coordinates) -> None:
    tokens, where = tokenize(coordinates, (1, 2, 2))
    assert torch.equal(tokens, patchify(coordinates, (1, 2, 2)))
    assert torch.equal(where, positions((2, 3, 4)))


@pytest.mark.parametrize("cut", [patchify, tokenize])
def test_patches_must_fit(cut) -> None:
    message = r"latents of \(1, 5, 8\) are not cut evenly by patches of \(1, 2, 2\)"
    with pytest.raises(InputError, match=message):
        cut(torch.zeros(1, 2, 1, 5, 8), (1, 2, 2))


def test_clips_of_any_size_share_a_row() -> None:
    clips = [torch.randn(80, 64), torch.randn(16, 64), torch.randn(48, 64)]
    row, lengths = pack(clips)
    assert row.shape == (144, 64)
    assert lengths == [80, 16, 48]
    assert all(torch.equal(a, b) for a, b in zip(clips, unpack(row, lengths), strict=True))


def test_unpacking_needs_the_right_lengths() -> None:
    with pytest.raises(InputError, match="add up to 96, the row has 144"):
        unpack(torch.randn(144, 64), [80, 16])
