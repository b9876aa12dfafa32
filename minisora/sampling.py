"""Samplers: integrate dx/dt = v(x, t) from noise (t = 1) to data (t = 0).

They are generators that yield x after every step, so the whole path can be watched.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from minisora.flow import add_noise, shift_levels

Velocity = Callable[[Tensor, Tensor], Tensor]  # v(x, t) of x (B, ...) at noise levels t (B,)


def noise_levels(steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels from 1 to 0: (steps + 1,). A larger shift spends more steps near noise."""
    return shift_levels(torch.linspace(1, 0, steps + 1), shift)


def euler(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Follows the velocity at the start of each step."""
    for t, t_next in pairwise(levels):
        # t_next < t, so the step goes against the velocity, which points to noise
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))  # (B, ...)
        yield x


def heun(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Averages the velocities at both ends of each step: two evaluations per step.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (EDM, 2022), algorithm 1.
    """
    for t, t_next in pairwise(levels):
        first = velocity(x, t.expand(len(x)))  # (B, ...)
        end = x + (t_next - t) * first  # (B, ...), Euler's step
        if t_next > 0:  # the last step stays Euler's: at t = 0 there is no velocity
            second = velocity(end, t_next.expand(len(x)))  # (B, ...)
            end = x + (t_next - t) * (first + second) / 2
        x = end
        yield x


def guided(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    text: Tensor,
    null: Tensor,
    scale: float,
    until: float = 0.0,
) -> Velocity:
    """Classifier-free guidance: v_null + scale (v_text - v_null).

    It computes v_text alone, at half the cost, if scale is 1, or if all noise levels t, (B,) or
    (B, N) per token, are below `until`. velocity: (x, t, text) -> v; text and null: (B, L, width).

    Sources: Ho & Salimans, "Classifier-Free Diffusion Guidance" (2022); Kynkäänniemi et al.,
    "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
    Models" (2024).
    """
    if scale == 1:
        return lambda x, t: velocity(x, t, text)
    both = torch.cat([text, null])  # (2 B, L, width)

    def guided_velocity(x: Tensor, t: Tensor) -> Tensor:
        # the highest level is that of the unknown tokens; known tokens stay at 0
        if t.max() < until:
            return velocity(x, t, text)
        v = velocity(torch.cat([x, x]), torch.cat([t, t]), both)  # (2 B, ...), in one batch
        with_text, without = v.chunk(2)  # (B, ...) each
        return without + scale * (with_text - without)  # (B, ...)

    return guided_velocity


def held(velocity: Velocity, known: Tensor) -> Velocity:
    """Keeps known tokens as they are: their noise level is 0, and their velocity too.

    velocity: of x (B, N, P) at levels (B, N); known: (B, N), or (1, N) for all clips.
    """
    if not known.any():
        return velocity

    def held_velocity(x: Tensor, t: Tensor) -> Tensor:
        levels = t[:, None].expand(x.shape[:2]).masked_fill(known, 0.0)  # (B, N)
        return velocity(x, levels).masked_fill(known[..., None], 0.0)  # (B, N, P)

    return held_velocity


def edited(
    target: Velocity, source: Velocity, x_0: Tensor, noise: Callable[[], Tensor]
) -> Velocity:
    """The velocity that leads from a clip x_0 (B, N, P) to an edited one, without inverting the
    flow: the difference of what two prompts ask for, at two points with the same noise.

    target, source: the velocities of the prompts for the edited clip and for x_0; noise: draws
    (B, N, P). Source: Kulikov et al., "FlowEdit: Inversion-Free Text-Based Editing Using
    Pre-Trained Flow Models" (2024), algorithm 1 with one draw a step.
    """

    def difference(x: Tensor, t: Tensor) -> Tensor:
        noisy = add_noise(x_0, noise(), t)  # (B, N, P)
        return target(x + noisy - x_0, t) - source(noisy, t)  # (B, N, P)

    return difference


SAMPLERS = {"euler": euler, "heun": heun}
