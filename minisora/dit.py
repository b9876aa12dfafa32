"""The diffusion transformer: predicts the velocity (or data, or noise) of every noisy token.

Source: Peebles & Xie, "Scalable Diffusion Models with Transformers" (DiT, 2023), here with 3-D
rotary positions and QK-norm. Tokens attend to the text; its mean may also condition adaLN.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minisora.attention import MLP, Attention, rotary_frequencies, rotation_factors
from minisora.errors import InputError, check_counts, check_sizes
from minisora.flow import Target, to_velocity
from minisora.patches import MIDDLE, Grid

SIZES = {  # width, depth, heads; S to XL are the sizes of the DiT paper
    "tiny": (64, 2, 2), "toy": (96, 6, 3), "laptop": (192, 4, 6),
    "S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16),
    "3B": (2304, 30, 18),
}  # fmt: skip
HEAD_WIDTH = 32  # of sizes written as "192x2"


def dimensions(size: str) -> tuple[int, int, int]:
    """Width, depth and heads of a size. Raises InputError for an unknown one."""
    if size in SIZES:
        return SIZES[size]
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise InputError(
            f"no DiT of size {size!r}: sizes are {', '.join(SIZES)}, or WIDTHxDEPTH such as 192x2"
        )
    width, depth = int(match[1]), int(match[2])
    check_sizes(width=width, depth=depth)
    if width % HEAD_WIDTH:
        near = max(1, round(width / HEAD_WIDTH)) * HEAD_WIDTH
        raise InputError(
            f"the width of a DiT must be a multiple of {HEAD_WIDTH}, got {width}: the nearest is {near}"
        )
    return width, depth, width // HEAD_WIDTH


def fourier(x: Tensor, count: int, longest: float) -> Tensor:
    """cos and sin of x at `count` frequencies, 1 to almost 1 / longest: (..., 2 * count)."""
    frequencies = torch.exp(-math.log(longest) * torch.arange(count, device=x.device) / count)
    angles = x[..., None] * frequencies  # (..., count)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (..., 2 * count)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift: at zero, shift and scale change nothing."""
    return torch.addcmul(shift, x, 1 + scale)


def norm(x: Tensor) -> Tensor:
    """LayerNorm without parameters; shift and scale come from the modulation."""
    return F.layer_norm(x, x.shape[-1:])


class DiTBlock(nn.Module):
    """Attention and MLP with adaLN-Zero.

    A linear layer turns the conditioning into the modulation: a shift and a scale after each norm,
    a gate before each residual sum. It starts at zero, so the untrained block is the identity.
    """

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, text_width)
        self.mlp = MLP(width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        level_index: Tensor,
        factors: Tensor,
        text: Tensor,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """x: (B, N, D); conditioning: (K, D); level_index: (B, 1) or (B, N), the row of each clip
        or token; factors: rotations; text: (B, L, text width); lengths: of packed clips."""
        # computed once per distinct level and then gathered: K is far smaller than B * N
        modulation = self.modulation(conditioning)[level_index]  # (B, 1 or N, 6 D)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        h = modulate(norm(x), shift_a, scale_a)  # (B, N, D)
        x = x + gate_a * self.attention(h, factors, text, lengths=lengths)  # (B, N, D)
        return x + gate_m * self.mlp(modulate(norm(x), shift_m, scale_m))  # (B, N, D)


class DiT(nn.Module):
    """Predicts the target (v, x or eps) of tokens (B, N, P). Untrained, it predicts zero.

    `size`: a name in `SIZES` or "WIDTHxDEPTH" with heads of 32 channels. If `pooled`, the mean of
    the text's states joins the noise level in the conditioning. That helps with one object, but a
    mean of words cannot say which color belongs to which object.
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
            "size": size, "channels": channels, "patch": list(patch),
            "text_width": text_width, "target": target, "pooled": pooled,
        }  # fmt: skip
        if target not in ("v", "x", "eps"):
            raise InputError(f"no target {target!r}: targets are v, x and eps")
        check_sizes(channels=channels, text_width=text_width)
        for side in patch:
            check_counts(1, 64, patch=side)
        width, depth, heads = dimensions(size)
        self.patch: Grid = (patch[0], patch[1], patch[2])
        self.target: Target = target
        self.width = width
        self.register_buffer("frequencies", rotary_frequencies(width // heads), persistent=False)
        self.embed = nn.Linear(channels * math.prod(patch), width)
        self.position_embed = nn.Linear(3 * 16, width)
        self.scale_embed = nn.Linear(2 * 16 + 2, width)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.text = nn.Linear(text_width, width) if pooled else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, text_width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels * math.prod(patch))
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Xavier everywhere, except for the layers that start at zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # adaLN-Zero: closed gates make every block the identity
        for block in self.modules():
            if isinstance(block, DiTBlock):
                nn.init.zeros_(block.modulation.weight)
        # a zero head makes the untrained model predict zero; the scale joins in training
        for layer in (self.modulation, self.head, self.scale_embed):
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        positions: Tensor,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Predicts the target of every token.

        x: tokens (B, N, P); t: noise levels, (B,) or (B, N) per token; text: states (B, L, text
        width); positions: as `patches.positions` gives them, (N, 5) or (B, N, 5). Returns
        (B, N, P).

        With `lengths`, x is one row (1, N, P) of packed clips: so many tokens for each of the
        texts. A token attends to its own clip and text only, so all is as for one clip at a time.
        """
        owner = None
        if lengths is not None:
            clips = torch.arange(len(text), device=t.device)  # (B,)
            owner = clips.repeat_interleave(torch.tensor(lengths, device=t.device))[None]  # (1, N)
        conditioning, level_index = self.conditioning(t, text, owner)  # (K, D), (B, 1) or (B, N)
        factors = rotation_factors(positions, self.frequencies)  # ([B,] N, head width / 2)
        x = self.embed(x) + self.embed_positions(positions)  # (B, N, D)
        for block in self.blocks:
            x = block(x, conditioning, level_index, factors, text, lengths)  # (B, N, D)
        modulation = self.modulation(conditioning)[level_index]  # (B, 1 or N, 2 D)
        shift, scale = modulation.chunk(2, dim=-1)  # (B, 1 or N, D) each
        return self.head(modulate(norm(x), shift, scale))  # (B, N, P)

    def embed_positions(self, positions: Tensor) -> Tensor:
        """What is added to each token, ([B,] N, D): where it stands, in patches and as a share of
        the shorter side of its picture, and how large the picture is. positions: ([B,] N, 5)."""
        where, picture = positions[..., :3], positions[..., 3:]  # (..., N, 3), (..., N, 2)
        waves = fourier(where, 8, longest=32.0).flatten(-2)  # (..., N, 48)
        shares = (where[..., 1:] - MIDDLE) / picture.amin(
            -1, keepdim=True
        )  # (..., N, 2), from -1/2 to 1/2
        share_waves = fourier(8 * shares, 8, longest=32.0).flatten(-2)  # (..., N, 32)
        scale = torch.cat([share_waves, picture.log()], dim=-1)  # (..., N, 34)
        return self.position_embed(waves) + self.scale_embed(scale)  # (..., N, D)

    def conditioning(
        self, t: Tensor, text: Tensor, owner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The vectors of all distinct (clip, level), (K, D), and each token's index, (B, 1 or N).

        t: (B,), or (B, N) per token; text: (B, L, text width); owner: the clip of each token, (B, N),
        where a row holds several. Known tokens share level 0, so K is usually 2 B at most.
        """
        if owner is None:
            owner = torch.arange(len(text), device=t.device)[:, None]  # (B, 1)
        if t.ndim == 1:
            levels, clip_of, level_index = t, owner[:, 0], owner  # (B,), (B,), (B, 1)
        else:
            pairs = torch.stack([owner.expand_as(t).to(t.dtype), t], dim=-1)  # (B, N, 2)
            distinct, inverse = torch.unique(pairs.flatten(0, 1), dim=0, return_inverse=True)
            levels, clip_of = distinct[:, 1], distinct[:, 0].long()  # (K,) each
            level_index = inverse.view(t.shape)  # (B, N)
        # levels in thousandths, the time steps that these frequencies were made for
        conditioning = self.time(fourier(1000 * levels, 64, longest=10_000.0))  # (K, D)
        if self.text is not None:
            conditioning = conditioning + self.text(text.mean(dim=1))[clip_of]  # (K, D)
        return F.silu(conditioning), level_index

    def velocity(self, x: Tensor, t: Tensor, text: Tensor, positions: Tensor) -> Tensor:
        """The prediction converted to a velocity (B, N, P), whatever the target."""
        return to_velocity(self(x, t, text, positions), x, t, self.target)
