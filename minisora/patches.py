"""Spacetime patches: latents become a sequence of tokens with positions.

Sources: "Turning visual data into patches" in the Sora report; Dosovitskiy et al., "An Image is
Worth 16x16 Words" (2020).
"""

import torch
from einops import rearrange
from torch import Tensor

from minisora.errors import InputError

Grid = tuple[int, int, int]  # sizes or counts along t, h, w
MIDDLE = 1.5  # position of a picture's middle along h and w, so that 4 patches are at 0, 1, 2, 3


def grid_of(latents_shape: tuple[int, int, int], patch: Grid) -> Grid:
    """The number of patches along t, h and w. Raises InputError if a patch would stick out."""
    (t, h, w), (a, b, c) = latents_shape, patch
    if t % a or h % b or w % c:
        raise InputError(
            f"latents of {latents_shape} are not cut evenly by patches of {patch}: need a multiple of each"
        )
    return t // a, h // b, w // c


def patchify(latents: Tensor, patch: Grid) -> Tensor:
    """(B, C, t, h, w) -> tokens (B, N, P): N patches in the order t, h, w, each of P numbers."""
    t, h, w = latents.shape[2:]
    grid_of((t, h, w), patch)  # an InputError is clearer than einops' own
    a, b, c = patch
    # N = (t / a) * (h / b) * (w / c), P = C * a * b * c
    return rearrange(latents, "n ch (t a) (h b) (w c) -> n (t h w) (ch a b c)", a=a, b=b, c=c)


def unpatchify(tokens: Tensor, grid: Grid, patch: Grid) -> Tensor:
    """The inverse of `patchify`: (B, N, P) -> (B, C, t, h, w). `grid` counts patches."""
    (t, h, w), (a, b, c) = grid, patch
    # einops finds C = P / (a * b * c)
    return rearrange(
        tokens, "n (t h w) (ch a b c) -> n ch (t a) (h b) (w c)", t=t, h=h, w=w, a=a, b=b, c=c
    )


def positions(grid: Grid, device: torch.device | None = None, start: int = 0) -> Tensor:
    """Where each token stands, all in patches: (N, 5).

    The columns are t, counted from `start`; h and w, such that the middle of every picture is at
    `MIDDLE` and a wider picture only adds positions at its edges; and the height and width of the
    picture.
    """
    t, height, width = grid
    axes = [
        torch.arange(t, device=device, dtype=torch.float32) + start,
        torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2 + MIDDLE,
        torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2 + MIDDLE,
    ]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)  # (N, 3)
    picture = torch.tensor([height, width], device=device, dtype=torch.float32)  # (2,)
    return torch.cat([where, picture.expand(len(where), 2)], dim=-1)  # (N, 5)


def tokenize(latents: Tensor, patch: Grid) -> tuple[Tensor, Tensor]:
    """Latents (B, C, t, h, w) -> tokens (B, N, P), positions (N, 5). Raises as `grid_of` does."""
    t, h, w = latents.shape[2:]
    grid = grid_of((t, h, w), patch)
    return patchify(latents, patch), positions(grid, latents.device)  # (B, N, P), (N, 5)


def pack(sequences: list[Tensor]) -> tuple[Tensor, list[int]]:
    """Joins the tokens of clips of any size into one row without padding.

    Tensors (N_i, ...) -> (sum of N_i, ...) and the lengths N_i. Source: Dehghani et al., "Patch n'
    Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution" (2023).
    """
    return torch.cat(sequences), [len(tokens) for tokens in sequences]  # (sum of N_i, ...)


def unpack(row: Tensor, lengths: list[int]) -> list[Tensor]:
    """The inverse of `pack`. Raises InputError if the lengths do not add up to the row's."""
    if sum(lengths) != len(row):
        raise InputError(f"lengths add up to {sum(lengths)}, the row has {len(row)} tokens")
    return list(row.split(lengths))  # tensors (N_i, ...)
