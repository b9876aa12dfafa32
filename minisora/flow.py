"""Rectified flow: straight paths between data and noise, and the targets a network can predict.

x_t = (1 - t) x_0 + t eps, so the velocity is v = dx_t / dt = eps - x_0. The noise level t is 0 for
data and 1 for noise. Sources: Liu et al., "Flow Straight and Fast" (2022); Esser et al., "Scaling
Rectified Flow Transformers" (SD3, 2024).
"""

import math
from typing import Literal

import torch
from torch import Tensor

Target = Literal["v", "x", "eps"]
MIN_DIVISOR = 0.02  # to_velocity divides by t or 1 - t, and both can be 0


def broadcast_levels(t: Tensor, x: Tensor) -> Tensor:
    """Reshapes noise levels, (B,) or (B, N), so that they broadcast over x (B, ...)."""
    return t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))  # (B, 1, 1) or (B, N, 1) for tokens


def add_noise(x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """The point x_t on the straight path from x_0 to eps. t: (B,), or (B, N) per token."""
    t = broadcast_levels(t, x_0)
    return (1 - t) * x_0 + t * eps  # x_0's shape


def training_target(x_0: Tensor, eps: Tensor, target: Target) -> Tensor:
    """The tensor that the network should predict, in the shape of x_0."""
    return {"v": eps - x_0, "x": x_0, "eps": eps}[target]


def to_velocity(prediction: Tensor, x_t: Tensor, t: Tensor, target: Target) -> Tensor:
    """Converts a prediction of any target to a velocity.

    v = (x_t - x) / t = (eps - x_t) / (1 - t). The divisor is at least `MIN_DIVISOR`. prediction
    and x_t: (B, ...); t: (B,), or (B, N) per token.
    """
    t = broadcast_levels(t, x_t)
    if target == "x":
        return (x_t - prediction) / t.clamp(min=MIN_DIVISOR)
    if target == "eps":
        return (prediction - x_t) / (1 - t).clamp(min=MIN_DIVISOR)
    return prediction


def shift_levels(t: Tensor, shift: float) -> Tensor:
    """Moves noise levels towards 1 if shift > 1; 0 and 1 stay. Source: SD3, equation 23."""
    return shift * t / (1 + (shift - 1) * t)


def shift_for(tokens: int, reference: int) -> float:
    """The shift that makes up for a clip of more tokens, sqrt(tokens / reference): the same noise
    hides less of it, since its tokens repeat each other. Source: SD3, equation 23."""
    return math.sqrt(tokens / reference)


def draw_levels(
    count: int, generator: torch.Generator, mean: float = 0.0, deviation: float = 1.0
) -> Tensor:
    """Logit-normal noise levels in (0, 1): (count,). Source: SD3, equation 19."""
    return torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))


def flow_loss(
    prediction: Tensor,
    x_0: Tensor,
    eps: Tensor,
    target: Target,
    known: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Squared error of each clip, averaged over its unknown tokens: (B,).

    prediction, x_0, eps: (B, N, P); known: (B, N), true for tokens that are given and do not count.
    Where these are only some of a clip's tokens, `count` (B,) is the number of all unknown ones, and
    the losses of the parts add up to that of the clip.
    """
    # in float32 even if the network computes in bfloat16
    error = prediction.float() - training_target(x_0, eps, target)  # (B, N, P)
    error = error.square().mean(-1)  # (B, N)
    unknown = torch.ones_like(error) if known is None else (~known).to(error.dtype)  # (B, N)
    count = unknown.sum(1) if count is None else count  # (B,)
    return (error * unknown).sum(1) / count.clamp(min=1)  # (B,)


def ideal_velocity(x_t: Tensor, t: Tensor, data: Tensor) -> Tensor:
    """The exact velocity if the data is a finite set. No trained network can have a lower loss.

    v = (x_t - E[x_0 | x_t]) / t, where the expectation weighs each data point by its likelihood of
    leading to x_t. x_t: (B, ...); t: (B,); data: (K, ...). Returns (B, ...).
    """
    points, flat = data.flatten(1), x_t.flatten(1)  # (K, D), (B, D)
    level = t.clamp(min=1e-4)[:, None]  # (B, 1)
    offset = flat[:, None] - (1 - level)[..., None] * points  # (B, K, D), equal to t * eps
    distance = offset.square().sum(-1)  # (B, K)
    weights = (-distance / (2 * level.square())).softmax(dim=-1)  # (B, K), Gaussian likelihoods
    return ((flat - weights @ points) / level).reshape(x_t.shape)
