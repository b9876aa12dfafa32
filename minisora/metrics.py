"""Numbers for quality: reconstruction error, and the oracle's scores with intervals and chance."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora.world import World, get


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of clips in [-1, 1], (B, 3, T, H, W): the mean over
    clips."""
    error = (a.float().clamp(-1, 1) - b).square().flatten(1).mean(1)  # (B,)
    return float((10 * (4 / error.clamp(min=1e-10)).log10()).mean())  # the peak is 2, squared 4


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of two sets of features, (N, D) and (M, D), each taken as a Gaussian:
    |difference of means|^2 + tr(A + B - 2 (A B)^(1/2)) with covariances A and B.

    With features of clips it is the Frechet video distance. NaN if a set has fewer than two.
    Source: Unterthiner et al., "Towards Accurate Generative Models of Video" (2018).
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    cov_a, cov_b = a.mT.cov(), b.mT.cov()  # (D, D) each
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()  # (D,)
    spread = cov_a.trace() + cov_b.trace() - 2 * roots.sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion. Source: Wilson, "Probable inference" (1927)."""
    share = right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    variance = share * (1 - share) / count + z * z / (4 * count**2)
    half = z / (1 + z * z / count) * math.sqrt(variance)
    return max(0.0, center - half), min(1.0, center + half)


def proportion(right: int, count: int) -> dict[str, float]:
    """A share with its 95% interval: {"right", "low", "high"}."""
    low, high = wilson(right, count)
    return {"right": right / count, "low": low, "high": high}


def oracle_scores(
    frames: np.ndarray, truths: list[dict[str, Any]], world: World | None = None
) -> dict[str, dict[str, float]]:
    """Has the oracle of `world` (default: one object) read uint8 clips (B, T, H, W, 3).

    For each attribute, "clean" and "all": the share that is right, {"right", "low", "high"}, and
    "chance", the same readings scored against the next clip's truth.
    """
    world = world or get("shapes")
    reads = [world.describe(clip) for clip in frames]
    shifted = [*truths[1:], *truths[:1]]
    right = [world.agree(truth, read) for truth, read in zip(truths, reads, strict=True)]
    by_chance = [world.agree(truth, read) for truth, read in zip(shifted, reads, strict=True)]
    return {
        name: proportion(sum(r[name] for r in right), len(right))
        | {"chance": sum(c[name] for c in by_chance) / len(right)}
        for name in right[0]
    }


def percent(score: dict[str, float]) -> str:
    """A proportion as text: "98.3 (97.3-98.9)"."""
    return f"{100 * score['right']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"


def markdown(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as a Markdown table. `columns` maps the keys that are shown to their headings; a cell
    without a value stays empty."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [str(row.get(key, "")) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
