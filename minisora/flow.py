"""Rectified flow: straight paths from data to noise, and what a network may be trained to say
about them.

x_t = (1 - t) x_0 + t eps, so dx_t/dt = v = eps - x_0; t = 0 is data, t = 1 is noise. Source: Liu
et al., "Flow Straight and Fast" (2022); Esser et al., "Scaling Rectified Flow Transformers" (SD3,
2024).
"""

from typing import Literal

import torch
from torch import Tensor

Target = Literal["v", "x", "eps"]
SMALLEST = 0.02  # what to_velocity divides by at least


def like(t: Tensor, x: Tensor) -> Tensor:
    """Lays noise levels, (B,) or (B, N), along the leading dimensions of x."""
    return t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))


def noised(x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t on the straight path; t is (B,), or (B, N) with a level per token."""
    t = like(t, x_0)
    return (1 - t) * x_0 + t * eps


def target_of(x_0: Tensor, eps: Tensor, target: Target) -> Tensor:
    """What the network is asked for, of the shape of x_0."""
    return {"v": eps - x_0, "x": x_0, "eps": eps}[target]


def to_velocity(prediction: Tensor, x_t: Tensor, t: Tensor, target: Target) -> Tensor:
    """v = (x_t - x) / t = (eps - x_t) / (1 - t): singular where the data, or the noise, is all
    there is. prediction, x_t: (B, ...); t: (B,), or (B, N) with a level per token."""
    t = like(t, x_t)
    if target == "x":
        return (x_t - prediction) / t.clamp(min=SMALLEST)
    if target == "eps":
        return (prediction - x_t) / (1 - t).clamp(min=SMALLEST)
    return prediction


def shifted(t: Tensor, shift: float) -> Tensor:
    """Moves noise levels towards noise: shift t / (1 + (shift - 1) t). Source: SD3, equation
    23."""
    return shift * t / (1 + (shift - 1) * t)


def draw_times(
    count: int, generator: torch.Generator, mean: float = 0.0, deviation: float = 1.0
) -> Tensor:
    """Logit-normal noise levels (count,) in (0, 1). Source: SD3, equation 19."""
    return torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))


def flow_loss(prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor, target: Target) -> Tensor:
    """Squared error of each clip (B,), a mean over its unknown tokens. Tokens at t = 0 are known:
    they do not count.

    prediction, x_0, eps: (B, N, P); t: (B,) or (B, N).
    """
    error = (prediction.float() - target_of(x_0, eps, target)).square().mean(-1)  # (B, N)
    unknown = like(t > 0, error).expand_as(error).to(error.dtype)
    return (error * unknown).sum(1) / unknown.sum(1).clamp(min=1)


def ideal_velocity(x_t: Tensor, t: Tensor, data: Tensor) -> Tensor:
    """The exact velocity when the data is a finite set: x_t (B, ...), t (B,), data (K, ...) -> (B,
    ...).

    E[x_0 | x_t] weighs each data point by how likely it leads to x_t; v = (x_t - E[x_0 | x_t]) /
    t. Nothing can be trained to do better, so samplers are tested with it.
    """
    points, flat = data.flatten(1), x_t.flatten(1)
    level = t.clamp(min=1e-4)[:, None]
    distance = (flat[:, None] - (1 - level)[..., None] * points).square().sum(-1)  # (B, K)
    weights = (-distance / (2 * level.square())).softmax(dim=-1)
    return ((flat - weights @ points) / level).reshape(x_t.shape)
