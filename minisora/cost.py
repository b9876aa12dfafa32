"""What a network costs, from formulas: FLOPs and bytes of a training step (`minisora plan`).

FLOPs are those of matrix products, 2 for each multiplication with its addition. Bytes are those of
tensors that live at once. configs/experiments/plan.md holds both against measurements.

Sources: Kaplan et al., "Scaling Laws for Neural Language Models" (2020), table 1; Korthikanti et al.,
"Reducing Activation Recomputation in Large Transformer Models" (2022).
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from minisora.text import TextEncoder

# Bytes that autograd keeps of a DiT block, for each token and unit of width. In float32 32 numbers:
# 6 of modulation, 2 scales, 2 norms and what they modulate (2); 3 of q, k, v and 3 more as attention
# reads them; its output, twice; its and the MLP's gated outputs and inputs of norms (4); 8 inside
# the MLP; 1 of the text's share. In bf16-mixed on CUDA most have 2 bytes, but norms, their inputs
# and all that modulates them stay in float32.
KEPT = {False: 128, True: 78}
KEPT_VAE = 20  # likewise of a block of the VAE: the inputs of its layers, in float32
OUTSIDE = 24  # likewise of what follows the last block


def weights_of(modules: Iterable[nn.Module | None]) -> int:
    """The numbers in the matrices and kernels of these modules."""
    parts = (p for module in modules if module is not None for p in module.parameters())
    return sum(p.numel() for p in parts if p.ndim >= 2)


class DiTCost:
    """A transformer with its text encoder. Both may be on the meta device."""

    def __init__(self, dit: Any, text: TextEncoder) -> None:
        self.trained, self.blocks = nn.ModuleList([dit, text]), [*dit.blocks, *text.blocks]
        self.width, self.depth, self.words = dit.width, len(dit.blocks), text.length
        self.numbers = dit.embed.in_features  # of a token
        attentions = [block.attention for block in dit.blocks]
        ends = [dit.embed, dit.position_embed, dit.scale_embed, dit.head]
        inside = [part for a in attentions for part in (a.qkv, a.out)]
        # weights by what they are multiplied with: tokens, words, or the level of a clip
        self.by_token = weights_of([*ends, *inside, *(block.mlp for block in dit.blocks)])
        self.by_word = weights_of([*(a.context_kv for a in attentions), *text.blocks])
        levels = (block.modulation for block in dit.blocks)
        self.by_clip = weights_of([dit.time, dit.text, dit.modulation, *levels])

    def linear(self, tokens: int) -> float:
        """Forward FLOPs of a clip in linear layers: 2 for each weight and what it meets."""
        return 2.0 * (self.by_token * tokens + self.by_word * self.words + self.by_clip)

    def attention(self, tokens: int) -> float:
        """Forward FLOPs of a clip in q k^T and in the sums of v, over all tokens and words."""
        return 4.0 * tokens * (tokens + self.words) * self.width * self.depth

    def forward(self, tokens: int) -> float:
        """FLOPs of a clip, forward."""
        return self.linear(tokens) + self.attention(tokens)

    def training(self, tokens: int) -> float:
        """FLOPs of a clip forward and backward. Backward has two products for each forward one;
        attention, whose kernel makes its scores again, has 2.5 (Dao, "FlashAttention-2", 2023)."""
        return 3 * self.linear(tokens) + 3.5 * self.attention(tokens)

    def kept(self, tokens: int, mixed: bool, checkpointing: bool, sharing: int) -> float:
        """Bytes kept for the backward pass of so many tokens on one device. With checkpointing: the
        inputs of all blocks, and one block at a time. `sharing` devices hold clips together, but
        each all of their keys and values."""
        number = 2 if mixed else 4  # bytes
        block = self.width * (KEPT[mixed] + 2 * number * (sharing - 1))
        if checkpointing:
            blocks = self.depth * number * self.width + block
        else:
            blocks = self.depth * block + OUTSIDE * self.width
        # 82 numbers say where a token is; 6 copies of it are made; 4 gradients are on their way
        return tokens * (blocks + 4 * (82 + 6 * self.numbers) + 4 * number * self.width)


class VAECost:
    """A VAE, which may be on the meta device. Its tokens are latents. Parts that are frozen have no
    backward pass, and nothing is kept for one."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.numbers = vae.channels  # of a token
        self.trained: nn.Module = vae
        blocks = [*vae.encoder[1:-2], *vae.decoder[1:-2]]
        self.blocks = [block for block in blocks if block.first.weight.requires_grad]
        learning = (p for p in vae.parameters() if p.requires_grad and p.ndim >= 2)
        self.weights, self.learning = weights_of([vae]), sum(p.numel() for p in learning)

    def forward(self, tokens: int) -> float:
        """FLOPs of a clip, encoded and decoded: every kernel is moved over all latents."""
        return 2.0 * self.weights * tokens

    def training(self, tokens: int) -> float:
        """FLOPs of a clip forward and backward."""
        return self.forward(tokens) + 4.0 * self.learning * tokens

    def kept(self, tokens: int, mixed: bool, checkpointing: bool, sharing: int) -> float:
        """Bytes kept for the backward pass of so many latents."""
        widths = sum(block.first.in_channels for block in self.blocks)
        numbers = self.vae.encode_linear.in_channels
        return tokens * (KEPT_VAE * widths + 4.0 * 6 * numbers)  # and 6 copies of the pixels


def muon_flops(rows: int, columns: int, in_bfloat16: bool) -> float:
    """FLOPs of orthogonalizing a matrix, as `optim.orthogonalize` does in five steps."""
    m, n = sorted((rows, columns))
    if in_bfloat16:
        return 5.0 * (4 * m * m * n + 2 * m**3)
    return 4.0 * m * m * n + 5 * 8 * m**3
