"""The diffusion transformer: tokens at their noise levels and the text in, a prediction for every
token out.

Source: Peebles & Xie, "Scalable Diffusion Models with Transformers" (DiT, 2023), with 3-D rotary
positions and QK-norm. The text is attended to and, if asked for, its mean is added to what adaLN is
told.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisora.attention import MLP, Attention, rotary_frequencies, rotary_turns
from minisora.errors import InputError, check_counts
from minisora.flow import Target, to_velocity
from minisora.patches import Grid

SIZES = {  # width, depth, heads; the capitals are the paper's
    "tiny": (64, 2, 2),
    "toy": (96, 6, 3),
    "laptop": (192, 4, 6),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}


def fourier(x: Tensor, count: int, longest: float) -> Tensor:
    """cos and sin of x at `count` frequencies from 1 down towards 1 / longest: (...,) -> (..., 2 *
    count)."""
    frequencies = torch.exp(-math.log(longest) * torch.arange(count, device=x.device) / count)
    return torch.cat(
        [(x[..., None] * frequencies).cos(), (x[..., None] * frequencies).sin()], dim=-1
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class DiTBlock(nn.Module):
    """Attention and MLP. Their shifts, scales and gates are computed from the noise level and, if
    the DiT is `pooled`, the mean of the text's states (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, text_width)
        self.mlp = MLP(width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x: Tensor, condition: Tensor, which: Tensor, turns: Tensor, text: Tensor
    ) -> Tensor:
        """x (B, N, D); condition (K, D), of which each token takes `which` (B, 1 or N)."""
        told = self.modulation(condition)[which]  # (B, 1 or N, 6 D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = told.chunk(6, dim=-1)
        x = x + gate_a * self.attention(modulate(norm(x), shift_a, scale_a), turns, text)
        return x + gate_m * self.mlp(modulate(norm(x), shift_m, scale_m))  # (B, N, D)


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class DiT(nn.Module):
    """Predicts v, x or eps (`target`) for tokens (B, N, P) of `channels` latent channels cut into
    patches.

    `size` names width, depth and heads. If `pooled`, adaLN is also told the mean of the text's
    states: good for one object, but a mean of words does not say which color is whose. The
    untrained model predicts zero, and its blocks are the identity.
    """

    frequencies: Tensor

    def __init__(
        self,
        size: str = "laptop",
        channels: int = 8,
        patch: Grid = (1, 2, 2),
        text_width: int = 128,
        target: Target = "v",
        pooled: bool = True,
    ) -> None:
        super().__init__()
        self.config = {
            "size": size,
            "channels": channels,
            "patch": list(patch),
            "text_width": text_width,
            "target": target,
            "pooled": pooled,
        }
        if size not in SIZES or target not in ("v", "x", "eps"):
            raise InputError(
                f"no DiT of size {size!r} with target {target!r}: "
                f"sizes are {', '.join(SIZES)}, targets v, x and eps"
            )
        check_counts(1, patch=min(patch))
        width, depth, heads = SIZES[size]
        self.patch: Grid = (patch[0], patch[1], patch[2])
        self.target: Target = target
        self.width = width
        self.register_buffer("frequencies", rotary_frequencies(width // heads), persistent=False)
        self.embed = nn.Linear(channels * math.prod(patch), width)
        self.place = nn.Linear(3 * 16, width)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.text = nn.Linear(text_width, width) if pooled else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, text_width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * math.prod(patch))
        self.initialize_weights()

    def initialize_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for block in self.modules():  # adaLN-Zero: closed gates make every block the identity
            if isinstance(block, DiTBlock):
                nn.init.zeros_(block.modulation.weight)
        for layer in (self.modulation, self.head):  # and the untrained model predicts zero
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, positions: Tensor) -> Tensor:
        """x: tokens (B, N, P); t: noise levels, (B,) or one per token (B, N); text: (B, L, text
        width); positions: (N, 3) as (t, h, w) in patches. Returns (B, N, P)."""
        condition, which = self.condition(t, text)  # (K, D), indices (B, 1) or (B, N)
        turns = rotary_turns(positions, self.frequencies)  # (N, head width / 2)
        place = fourier(positions, 8, longest=32.0).flatten(-2)  # (N, 48)
        x = self.embed(x) + self.place(place)  # (B, N, D)
        for block in self.blocks:
            x = block(x, condition, which, turns, text)  # (B, N, D)
        shift, scale = self.modulation(condition)[which].chunk(2, dim=-1)  # (B, 1 or N, D) each
        return self.head(modulate(norm(x), shift, scale))  # (B, N, P)

    def condition(self, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What adaLN is told, once for each distinct noise level of each clip, and which of these
        each token takes. t: (B,) or (B, N); text: (B, L, text width). Returns (K, D) and indices
        (B, 1) or (B, N)."""
        clips = torch.arange(len(text), device=t.device)
        if t.ndim == 1:  # one level a clip
            levels, clip_of, which = t, clips, clips[:, None]
        else:
            pairs = torch.stack([clips[:, None].expand_as(t).to(t.dtype), t], dim=-1).flatten(0, 1)
            distinct, inverse = torch.unique(pairs, dim=0, return_inverse=True)
            levels, clip_of, which = distinct[:, 1], distinct[:, 0].long(), inverse.view(t.shape)
        condition = self.time(fourier(1000 * levels, 64, longest=10_000.0))  # (K, D)
        if self.text is not None:
            condition = condition + self.text(text.mean(dim=1))[clip_of]
        return F.silu(condition), which

    def velocity(self, x: Tensor, t: Tensor, text: Tensor, positions: Tensor) -> Tensor:
        """The prediction as a velocity, whatever the target."""
        return to_velocity(self(x, t, text, positions), x, t, self.target)
