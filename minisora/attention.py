"""Attention: queries and keys normalized, turned by their place in space and time, and one
weighted mean of values."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minisora.errors import InputError


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (B, heads, N, d), k and v (B, heads, M, d) -> (B, heads, N,
    d). `mask` (N, M) says who may look at whom.

    In bfloat16 on a CPU short sequences are faster written out than fused.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[2] < 1000 and mask is None:
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def rotary_turns(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Where each token stands as complex numbers of modulus 1: (N, 3) and (3, d / 2) -> (N, d /
    2)."""
    angles = (positions[..., None] * frequencies).sum(-2)  # a product would be rounded by autocast
    return torch.polar(torch.ones_like(angles), angles)


def rotary_frequencies(head_width: int, longest: float = 10.0) -> Tensor:
    """Angular frequencies of 3-D rotary positions: (3, head_width / 2), a quarter of the pairs for
    each of t, h and w.

    The last quarter is not turned: it compares what tokens are, wherever they stand. Source: Su et
    al., "RoFormer" (2021), carried to three axes.
    """
    pairs = head_width // 2
    each = pairs // 4
    frequencies = torch.zeros(3, pairs)
    for axis in range(3):
        own = slice(axis * each, (axis + 1) * each)
        frequencies[axis, own] = longest ** (-torch.arange(each) / each)
    return frequencies


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turns the pairs (x_2i, x_2i+1), read as complex numbers: x (..., N, d), turns (..., d / 2) of
    modulus 1."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self-attention over tokens that also look at a context (the text), in one softmax.

    QK-norm (Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023) keeps
    the logits bounded.
    """

    def __init__(self, width: int, heads: int, context_width: int = 0) -> None:
        super().__init__()
        if width % heads:
            raise InputError(
                f"a width of {width} cannot be shared by {heads} heads: set a multiple"
            )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.context_kv = (
            nn.Linear(context_width, 2 * width, bias=False) if context_width else None
        )
        self.q_norm = nn.LayerNorm(width // heads, bias=False)
        self.k_norm = nn.LayerNorm(width // heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        turns: Tensor | None = None,
        context: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """x (B, N, width), turns (N, head width / 2) complex, context (B, L, context width) -> (B,
        N, width). If `causal`, a token looks at itself, at those before it, and at the context."""
        q, k, v = self.split(self.qkv(x), 3)  # (B, h, N, d) each
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        if self.context_kv is not None and context is not None:
            ck, cv = self.split(self.context_kv(context), 2)  # (B, h, L, d)
            k = torch.cat([self.k_norm(ck).to(v.dtype), k], dim=2)  # (B, h, L + N, d)
            v = torch.cat([cv, v], dim=2)
        mask = None
        if causal:
            ahead = k.shape[2] - q.shape[2]  # tokens of the context come first
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(
                ahead
            )
        out = attend(q, k, v, mask)
        return self.out(rearrange(out, "b h n d -> b n (h d)"))

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * width) -> `parts` tensors (B, heads, N, d), each in one piece of memory."""
        x = rearrange(x, "b n (parts h d) -> parts b h n d", parts=parts, h=self.heads)
        return x.contiguous().unbind()


class MLP(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """A plain transformer block, of tokens that may also look at a context."""

    def __init__(self, width: int, heads: int, context_width: int = 0) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads, context_width), MLP(width)

    def forward(self, x: Tensor, context: Tensor | None = None, causal: bool = False) -> Tensor:
        x = x + self.attention(self.attention_norm(x), context=context, causal=causal)
        return x + self.mlp(self.mlp_norm(x))
