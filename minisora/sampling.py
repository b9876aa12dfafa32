"""Samplers: solve dx/dt = v(x, t) from noise (t = 1) to data (t = 0). Generators, so every step
can be watched."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from minisora.flow import shifted

Velocity = Callable[[Tensor, Tensor], Tensor]  # v(x, t) of x (B, ...) at noise levels t (B,)


def noise_levels(steps: int, shift: float = 1.0) -> Tensor:
    """The levels a sampler visits: steps + 1 of them from 1 to 0, nearer to noise for a larger
    shift."""
    return shifted(torch.linspace(1, 0, steps + 1), shift)


def euler(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Follows the velocity at the start of each step; yields x after every step."""
    for now, then in pairwise(levels):
        x = x + (then - now) * velocity(x, now.expand(len(x)))
        yield x


def heun(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Averages the velocities at both ends of each step, two evaluations each (Karras et al., EDM,
    algorithm 1).

    The last step is Euler's: at t = 0 there is no velocity to ask for.
    """
    for now, then in pairwise(levels):
        first = velocity(x, now.expand(len(x)))
        step = x + (then - now) * first
        if then > 0:
            step = x + (then - now) * (first + velocity(step, then.expand(len(x)))) / 2
        x = step
        yield x


def guided(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    text: Tensor,
    null: Tensor,
    scale: float,
    until: float = 0.0,
) -> Velocity:
    """Classifier-free guidance: v_null + scale (v_text - v_null), both in one batch. At scale 1,
    and once the noise level t has fallen below `until`, only the text is asked.

    velocity(x, t, text); text and null: (B, L, width). Sources: Ho & Salimans, "Classifier-Free
    Diffusion Guidance" (2022); Kynkäänniemi et al., "Applying Guidance in a Limited Interval
    Improves Sample and Distribution Quality in Diffusion Models" (2024).
    """
    if scale == 1:
        return lambda x, t: velocity(x, t, text)
    both = torch.cat([text, null])

    def guided_velocity(x: Tensor, t: Tensor) -> Tensor:
        if t[0] < until:
            return velocity(x, t, text)
        with_text, without = velocity(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return without + scale * (with_text - without)

    return guided_velocity


SAMPLERS = {"euler": euler, "heun": heun}
