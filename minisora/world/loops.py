"""Lengths at which a clip of one object can be a loop: its own motion leads back to its beginning."""

import numpy as np

from minisora.world import oracle, shapes

STRETCH = 0.15  # the most by which the speed may differ on the way back
LONGEST = 80  # frames of a loop
STEP = 4  # frames are added in groups


def closing_length(frames: np.ndarray) -> int | None:
    """The number of frames after which the object of a clip (T, H, W, 3) is back at its first
    place, with its first speed, on its lawful way: to the border and back, through a whole bounce,
    to the largest size and back.

    It is T plus a multiple of 4, the shortest at which the speed needs to differ by at most 15%, and
    that of a bounce not at all. None if there is none up to 80 frames, for an image, or unless one
    clean object explains the clip.
    """
    read = oracle.describe(frames)
    if len(frames) < 2 or not read["clean"]:
        return None
    lengths = range(len(frames) + STEP, LONGEST + 1, STEP)
    return next((n for n in lengths if closes(read, frames.shape[1:3], len(frames), n)), None)


def closing(frames: np.ndarray) -> tuple[int, int] | None:
    """How many frames of a clip (T, H, W, 3) to keep, and the length of a loop of them: all if they
    have one, else up to three fewer. A bounce of eight frames closes after 16 of 17 frames."""
    for given in range(len(frames), max(0, len(frames) - STEP), -1):
        if length := closing_length(frames[:given]):
            return given, length
    return None


def closes(read: dict, size: tuple[int, int], given: int, length: int) -> bool:
    """Whether the object that the oracle `read` in `given` frames is back after `length`."""
    # a bounce cannot be slower or faster
    most = 0.5 if read["motion"] == "bouncing" else STRETCH * (length - given)
    return all(period == 0 or off_phase(length, period) <= most for period in periods(read, size))


def off_phase(length: float, period: float) -> float:
    """How many frames a motion of that period is away from its beginning after `length`."""
    return abs(length - period * max(1, round(length / period)))


def periods(read: dict, size: tuple[int, int]) -> list[float]:
    """The frames after which each part of a motion repeats; 0 for what stands still."""
    motion = read["motion"]
    if motion in shapes.FIRST_SIZE:
        return [2 * (shapes.RADII[1] - shapes.RADII[0]) / shapes.GROWTH]
    if motion == "bouncing":
        return [shapes.BOUNCE_FRAMES]
    if motion not in shapes.DIRECTIONS:
        return [0.0]
    unit = min(size) / shapes.SIDE  # pixels
    reach = shapes.REACH * shapes.SIZES[read["size"]]
    speed = np.median(np.abs(np.diff(read["position"], axis=0)), axis=0) / unit  # (2,) as (x, y)
    moves = np.array(shapes.DIRECTIONS[motion]) != 0
    rooms = np.array([size[1], size[0]]) / unit - 2 * reach
    return [float(2 * room / v) for room, v, move in zip(rooms, speed, moves, strict=True) if move]
