"""Attention with normalized queries and keys, rotary positions, and an optional context."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora.errors import InputError

Lengths = list[int] | None  # the tokens of each packed clip
Gather = Callable[[Tensor, Tensor, Lengths], tuple[Tensor, Tensor, Lengths]]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, where a query attends only to keys that are true in the mask.

    q: (B, heads, N, d); k, v: (B, heads, M, d); mask: (N, M). Returns (B, heads, N, d).
    """
    # for short sequences in bfloat16 on a CPU this is faster than PyTorch's fused kernel
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] < 1000 and mask is None:
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v  # (B, heads, N, d)
    return F.scaled_dot_product_attention(q, k, v, mask)  # (B, heads, N, d)


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ck: Tensor,
    cv: Tensor,
    lengths: list[int],
    key_lengths: Lengths = None,
) -> Tensor:
    """Attention inside each sequence of a packed row and to its own context: (1, heads, N, d).

    q: (1, heads, N, d), N the sum of `lengths`; k, v: (1, heads, M, d), M that of `key_lengths`,
    which are the same unless another process has some of the queries;
    ck, cv: (S, heads, L, d), a context for each of the S sequences.
    """
    key_lengths = key_lengths or lengths
    parts = zip(k.split(key_lengths, dim=2), v.split(key_lengths, dim=2), ck, cv, strict=True)
    keys, values = zip(
        *((torch.cat([c[None], a], 2), torch.cat([d[None], b], 2)) for a, b, c, d in parts),
        strict=True,
    )  # (1, heads, L + m, d) each
    if q.device.type == "cuda":
        own = [length + ck.shape[2] for length in key_lengths]
        return attend_segments(q, torch.cat(keys, 2), torch.cat(values, 2), lengths, own)
    outs = map(attend, q.split(lengths, dim=2), keys, values)
    return torch.cat(list(outs), dim=2)  # (1, heads, N, d)


def attend_segments(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], key_lengths: list[int]
) -> Tensor:
    """Attention inside each sequence of a row in one kernel, for CUDA, in bfloat16 (not measured).

    q: (1, heads, N, d); k, v: (1, heads, M, d). Returns (1, heads, N, d).
    """
    from torch.nn.attention.varlen import varlen_attn

    def ends(counts: list[int]) -> Tensor:
        return torch.tensor([0, *counts], device=q.device).cumsum(0).to(torch.int32)  # (S + 1,)

    row, keys, values = (rearrange(x, "1 h n d -> n h d").to(torch.bfloat16) for x in (q, k, v))
    at = ends(lengths), ends(key_lengths), max(lengths), max(key_lengths)
    out: Any = varlen_attn(row, keys, values, *at)  # (N, h, d)
    return rearrange(out, "n h d -> 1 h n d").to(q.dtype)


def rotary_frequencies(head_width: int, longest: float = 10.0) -> Tensor:
    """Angular frequencies of 3-D rotary positions, in radians per patch: (3, head_width / 2).

    A quarter of the channel pairs rotates with each of t, h and w. The last does not rotate: it
    compares content at any distance. Source: Su et al., "RoFormer" (2021), extended to three axes.
    """
    per_axis = head_width // 8
    frequencies = torch.zeros(3, head_width // 2)  # (3, d / 2), one nonzero axis per pair
    for axis in range(3):
        own = slice(axis * per_axis, (axis + 1) * per_axis)
        frequencies[axis, own] = longest ** (-torch.arange(per_axis) / per_axis)
    return frequencies


def rotation_factors(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Rotations as complex numbers of modulus 1, by t, h and w, the first three columns:
    (..., N, 3 or 5) and (3, d / 2) -> (..., N, d / 2)."""
    # a sum, not a matrix product, since autocast would round a product to bfloat16
    angles = (positions[..., :3, None] * frequencies).sum(-2)  # (..., N, d / 2)
    return torch.polar(torch.ones_like(angles), angles)  # (..., N, d / 2) complex


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotates each channel pair (x_2i, x_2i+1), read as a complex number.

    x: (B, heads, N, d); factors: (N, d / 2), or (B, N, d / 2) if clips differ in their positions.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, heads, N, d / 2)
    factors = factors.unsqueeze(-3)  # (1, N, d / 2) or (B, 1, N, d / 2)
    return torch.view_as_real(pairs * factors).flatten(-2).to(x.dtype)  # (B, heads, N, d)


def keep(k: Tensor, v: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor, Lengths]:
    """Keys and values as they are: this process holds all tokens."""
    return k, v, lengths


class Attention(nn.Module):
    """Self-attention and cross-attention to a context (the text) in a single softmax.

    `gather` brings together the keys and values of processes that share a clip (context
    parallelism); one process keeps its own. QK-norm keeps the logits bounded. Source: Dehghani et
    al., "Scaling Vision Transformers to 22 Billion Parameters" (2023).
    """

    def __init__(self, width: int, heads: int, context_width: int = 0) -> None:
        super().__init__()
        if width % heads:
            raise InputError(
                f"a width of {width} cannot be shared by {heads} heads: set a multiple"
            )
        self.heads = heads
        self.gather: Gather = keep
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.context_kv = None
        if context_width:
            self.context_kv = nn.Linear(context_width, 2 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, bias=False)
        self.k_norm = nn.LayerNorm(width // heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        factors: Tensor | None = None,
        context: Tensor | None = None,
        causal: bool = False,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Attends from every token to the context and all tokens, or no later ones if `causal`.

        x: (B, N, width); factors: see `rotate`; context: (B, L, context width). Same shape as x.
        With `lengths`, x is one row (1, N, width) of sequences, one for each context, and tokens
        attend to their own sequence and context only.
        """
        q, k, v = self.split_heads(self.qkv(x), 3)  # (B, h, N, d) each
        # autocast normalizes in float32
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)  # (B, h, N, d)
        if factors is not None:
            q, k = rotate(q, factors), rotate(k, factors)  # (B, h, N, d)
        k, v, key_lengths = self.gather(k, v, lengths)  # (B, h, N, d), N of all processes
        if self.context_kv is not None and context is not None:
            ck, cv = self.split_heads(self.context_kv(context), 2)  # (B, h, L, d) each
            ck = self.k_norm(ck).to(v.dtype)  # (B, h, L, d)
            if lengths is not None and key_lengths is not None:
                out = attend_packed(q, k, v, ck, cv, lengths, key_lengths)  # (1, h, N, d)
                return self.out(rearrange(out, "b h n d -> b n (h d)"))  # (1, N, width)
            k, v = torch.cat([ck, k], dim=2), torch.cat([cv, v], dim=2)  # (B, h, L + N, d)
        mask = causal_mask(q.shape[2], k.shape[2], x.device) if causal else None
        out = attend(q, k, v, mask)  # (B, h, N, d)
        return self.out(rearrange(out, "b h n d -> b n (h d)"))  # (B, N, width)

    def split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * width) -> `parts` contiguous tensors (B, heads, N, d)."""
        x = rearrange(x, "b n (parts h d) -> parts b h n d", parts=parts, h=self.heads)
        return x.contiguous().unbind()  # one copy for all parts


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where query i may attend to a key: (queries, keys). The last keys are the queries'."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return mask.tril(keys - queries)  # the keys before them are the context, visible to all


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))  # (..., width)


class Block(nn.Module):
    """A plain pre-norm transformer block with an optional context."""

    def __init__(self, width: int, heads: int, context_width: int = 0) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads, context_width), MLP(width)

    def forward(self, x: Tensor, context: Tensor | None = None, causal: bool = False) -> Tensor:
        x = x + self.attention(self.attention_norm(x), context=context, causal=causal)
        return x + self.mlp(self.mlp_norm(x))  # (B, N, width)
