"""The canvas: what of a clip is known before sampling, and where it stands.

Every way to use the model is a choice of known tokens. A known token is clean (noise level 0), the
sampler leaves it as it is, and training does not count it; the rest starts as noise. A `Plan` says
in frames which parts of given clips stand on the canvas, and how the result is put together. A
`Canvas` is the same as tokens. `MODES` is the table of all modes.

That a group of frames can be known wherever it stands rests on the VAE: its encoder looks inside
one group only, so a latent does not depend on what comes before or after.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minisora.errors import InputError, check_counts
from minisora.patches import Grid
from minisora.vae import GROUP

MOST_CONTEXT = 4  # groups of given frames that stand on a canvas: 17 frames with the first
CANVAS = -1  # the source of frames that are sampled


@dataclass(frozen=True)
class Span:
    """Frames `start` to `stop` - 1 of given clip number `source`, or of the canvas (`CANVAS`)."""

    source: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """A canvas in frames.

    `length`: its frames, 1 + 4k. `given`: the known frames, each span with the frame of the canvas
    where it begins; spans fill whole groups. `result`: the spans that the returned clip is made of.
    """

    length: int
    given: tuple[tuple[int, Span], ...]
    result: tuple[Span, ...]

    @property
    def groups(self) -> int:
        return groups_of(self.length)

    def known_groups(self) -> Tensor:
        """Which groups of the canvas are given: (t,) bool."""
        known = torch.zeros(self.groups, dtype=torch.bool)
        for at, span in self.given:
            known[groups_of(at) : groups_of(at + len(span))] = True
        return known


@dataclass(frozen=True)
class Canvas:
    """What the sampler starts from: tokens (B, N, P), clean where `known` (B, N) is true; their
    positions (N, 5), see `patches.positions`; and the grid that they form."""

    tokens: Tensor
    known: Tensor
    positions: Tensor
    grid: Grid

    def with_noise(self, noise: Tensor, level: float = 1.0) -> Tensor:
        """The tokens, with noise (B, N, P) of `level` where nothing is known: (B, N, P)."""
        noisy = (1 - level) * self.tokens + level * noise  # (B, N, P)
        return torch.where(self.known[..., None], self.tokens, noisy)

    def without(self, unknown: Tensor) -> "Canvas":
        """The same canvas with the tokens `unknown`, (B, N) or (N,), no longer known."""
        return replace(self, known=self.known & ~unknown)

    def solved(self, tokens: Tensor) -> "Canvas":
        """The same canvas with all of its tokens known."""
        return replace(self, tokens=tokens, known=torch.ones_like(self.known))


def groups_of(frames: int) -> int:
    """Groups that so many frames fill or begin: one for the first frame, then one for each four."""
    return 0 if frames < 1 else 1 + math.ceil((frames - 1) / GROUP)


def length_of(groups: int) -> int:
    """The frames of so many groups, the first of which has one frame."""
    return 1 + GROUP * (groups - 1)


# Plans: one function for each way to use the model


def from_text(frames: int) -> Plan:
    """Nothing is given."""
    check_counts(1, num_frames=frames)
    return Plan(length_of(groups_of(frames)), (), (Span(CANVAS, 0, frames),))


def animate(frames: int) -> Plan:
    """An image is given: it is the first frame."""
    check_counts(2, num_frames=frames)
    image = Span(0, 0, 1)
    return Plan(length_of(groups_of(frames)), ((0, image),), (image, Span(CANVAS, 1, frames)))


def extend(given: int, frames: int) -> Plan:
    """A clip of `given` frames goes on until it has `frames`. Its last 1 + 4m frames stand on the
    canvas; the new ones follow."""
    check_longer(given, frames)
    context = 1 + GROUP * min((given - 1) // GROUP, MOST_CONTEXT)
    new = frames - given
    length = context + GROUP * math.ceil(new / GROUP)
    known = (0, Span(0, given - context, given))
    return Plan(length, (known,), (Span(0, 0, given), Span(CANVAS, context, context + new)))


def extend_backward(given: int, frames: int) -> Plan:
    """A clip of `given` frames gets new ones before it, so that it has `frames`. Its first 4m frames
    stand at the end of the canvas; if it has fewer than four, its last one is held."""
    check_longer(given, frames)
    context, new = GROUP * min(max(1, given // GROUP), MOST_CONTEXT), frames - given
    before = length_of(groups_of(new))
    known = (before, Span(0, 0, context))
    return Plan(
        before + context, (known,), (Span(CANVAS, before - new, before), Span(0, 0, given))
    )


def connect(first: int, second: int, frames: int) -> Plan:
    """New frames join two clips of `first` and `second` frames into one of `frames`. The last
    1 + 4m frames of one and the first 4m of the other stand at the ends of the canvas."""
    gap = check_gap(first + second, frames)
    before = 1 + GROUP * min((first - 1) // GROUP, MOST_CONTEXT)
    after = GROUP * min(max(1, second // GROUP), MOST_CONTEXT)
    known = ((0, Span(0, first - before, first)), (before + gap, Span(1, 0, after)))
    result = (Span(0, 0, first), Span(CANVAS, before, before + gap), Span(1, 0, second))
    return Plan(before + gap + after, known, result)


def loop(given: int, frames: int) -> Plan:
    """New frames lead from the end of a clip of `given` frames back to its beginning: a clip of
    `frames` that can be repeated without a seam. It is connected with itself, and the second copy
    is left out."""
    check_gap(given, frames)
    joined = connect(given, given, frames + given)
    return replace(
        joined,
        given=tuple((at, replace(span, source=0)) for at, span in joined.given),
        result=joined.result[:2],
    )


def whole(given: int) -> Plan:
    """All frames of a clip stand on the canvas, the last one held to fill its group: what is made
    anew is then a matter of tokens (inpainting) or of noise (editing)."""
    check_counts(1, given_frames=given)
    length = length_of(groups_of(given))
    return Plan(length, ((0, Span(0, 0, length)),), (Span(CANVAS, 0, given),))


def check_longer(given: int, frames: int) -> None:
    """Raises InputError unless there are given frames, and frames to be made."""
    check_counts(1, given_frames=given)
    if frames <= given:
        raise InputError(
            f"{given} frames are given, so num_frames must be {given + 1} or more, got {frames}"
        )


def check_gap(given: int, frames: int) -> int:
    """The frames between two given ends. Raises InputError unless they are whole groups."""
    check_longer(given, frames)
    gap = frames - given
    if gap % GROUP:
        near = given + GROUP * max(1, round(gap / GROUP))
        raise InputError(
            f"between two ends new frames come in multiples of {GROUP}, and {frames} in all "
            f"would need {gap}: the nearest is {near} in all"
        )
    return gap


# What is known in training


def first_latent(grid: Grid, generator: torch.Generator) -> Tensor:
    return at_start(grid, 1)


def a_beginning(grid: Grid, generator: torch.Generator) -> Tensor:
    return at_start(grid, draw(1, grid[0] - 1, generator))


def an_end(grid: Grid, generator: torch.Generator) -> Tensor:
    return at_start(grid, draw(1, grid[0] - 1, generator)).flip(0)


def both_ends(grid: Grid, generator: torch.Generator) -> Tensor:
    """At least one latent at each end is known, and at least one between them is not."""
    before = draw(1, grid[0] - 2, generator)
    after = draw(1, grid[0] - 1 - before, generator)
    return at_start(grid, before) | at_start(grid, after).flip(0)


def around_a_region(grid: Grid, generator: torch.Generator) -> Tensor:
    """All but a box, as high and wide in every latent, is known."""
    known = torch.ones(grid, dtype=torch.bool)
    sides = [draw(1, max(1, side - 1), generator) for side in grid[1:]]
    corner = [
        draw(0, whole - side, generator) for whole, side in zip(grid[1:], sides, strict=True)
    ]
    box = [slice(start, start + side) for start, side in zip(corner, sides, strict=True)]
    known[:, box[0], box[1]] = False
    return known


def nothing(grid: Grid, generator: torch.Generator) -> Tensor:
    return torch.zeros(grid, dtype=torch.bool)


def at_start(grid: Grid, count: int) -> Tensor:
    """The first `count` latents: (t, h, w)."""
    known = torch.zeros(grid, dtype=torch.bool)
    known[:count] = True
    return known


def draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


@dataclass(frozen=True)
class Mode:
    """A row of the table of modes.

    `plan` is its canvas in frames, from the numbers of given frames and of frames in all. (An edit
    starts from all frames with some noise; of a clip to be inpainted, some tokens are left out.) To
    measure it, the quarters `given` of a true clip are given, (0, 0) being the first frame alone.
    Training takes it for `share` of the clips with known tokens, if these have `least` latents, and
    `known` draws which tokens (t, h, w) are given. If it is `anywhere`, the clip is cut from
    anywhere in a longer one, else from its beginning.
    """

    plan: Callable[..., Plan]
    known: Callable[[Grid, torch.Generator], Tensor]
    given: tuple[tuple[int, int], ...] = ()
    share: float = 0.0
    least: int = 1
    anywhere: bool = False

    def example(self, frames: int) -> tuple[Plan, list[slice]]:
        """What is measured at a length of 1 + 4k frames: a plan, and the frames of a true clip that
        are given."""

        def quarter(number: int) -> int:
            return 1 + (frames - 1) * number // 4

        spans = [
            slice(quarter(start) if start else 0, quarter(stop)) for start, stop in self.given
        ]
        return self.plan(*(span.stop - span.start for span in spans), frames), spans


def from_image(given: int, frames: int) -> Plan:
    return animate(frames)


MODES = {
    "text": Mode(from_text, nothing),
    "animate": Mode(from_image, first_latent, ((0, 0),), share=0.24, least=2),
    "extend": Mode(extend, a_beginning, ((0, 2),), share=0.20, least=2, anywhere=True),
    "extend backward": Mode(
        extend_backward, an_end, ((2, 4),), share=0.20, least=2, anywhere=True
    ),
    "connect": Mode(connect, both_ends, ((0, 1), (3, 4)), share=0.28, least=3, anywhere=True),
    "loop": Mode(loop, both_ends, least=3),
    "edit": Mode(whole, nothing),
    # from the beginning: once a hidden object has turned, its caption no longer says how it moves
    "inpaint": Mode(whole, around_a_region, share=0.08),
}


def draw_mode(latents: int, known: float, generator: torch.Generator) -> str:
    """The mode of a training clip of so many latents: "text", or with chance `known` another."""
    drawn = torch.rand(2, generator=generator).tolist()
    possible = {name: mode for name, mode in MODES.items() if mode.share and mode.least <= latents}
    if drawn[0] >= known or latents == 1:
        return "text"
    total = drawn[1] * sum(mode.share for mode in possible.values())
    for name, mode in possible.items():
        total -= mode.share
        if total < 0:
            return name
    return name
