"""Numbers for quality: reconstruction error, and the oracle's scores with intervals and chance."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora import world as one_object


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of clips in [-1, 1], (B, 3, T, H, W): the mean over
    clips."""
    error = (a.float().clamp(-1, 1) - b).square().flatten(1).mean(1)
    return float((10 * (4 / error.clamp(min=1e-10)).log10()).mean())


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """How far two sets of features, (N, D) and (M, D), are apart, each taken as a Gaussian: |mean
    difference|^2 + tr(A + B - 2 (A B)^(1/2)) of their covariances. With features of clips it is the
    Frechet video distance. Source: Unterthiner et al., "Towards Accurate Generative Models of
    Video" (2018). Not a number if a set has fewer than two."""
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    covariances = a.mT.cov(), b.mT.cov()
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * roots.sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion. Source: Wilson, "Probable inference" (1927)."""
    share = right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    )
    return max(0.0, center - half), min(1.0, center + half)


def oracle_scores(
    clips: np.ndarray, truths: list[dict[str, Any]], world: Any = one_object
) -> dict[str, dict[str, float]]:
    """Asks the oracle of `world` what uint8 clips (B, T, H, W, 3) show. For each attribute, "clean"
    and "all": the share that is right, its 95% interval, and chance: the same readings held against
    the next clip's truth."""
    reads = [world.describe(clip) for clip in clips]
    right = [world.agree(truth, read) for truth, read in zip(truths, reads, strict=True)]
    shuffled = [
        world.agree(truth, read)
        for truth, read in zip(truths[1:] + truths[:1], reads, strict=True)
    ]
    table = {}
    for name in right[0]:
        count = sum(r[name] for r in right)
        low, high = wilson(count, len(right))
        chance = sum(s[name] for s in shuffled) / len(right)
        table[name] = {
            "right": float(count / len(right)),
            "low": low,
            "high": high,
            "chance": chance,
        }
    return table
