"""Lengths at which a clip of one object can be a loop: its own motion leads back to its beginning."""

import numpy as np

from minisora.world import law, oracle, shapes

LONGEST = 80  # frames of a loop
STEP = 4  # frames are added in groups
LAWFUL = 0.75  # units: how near a lawful path the given frames have to be
NEAR = 0.5  # units: how near the object's own motion has to come to its beginning


def closing(frames: np.ndarray) -> tuple[int, int] | None:
    """How many frames of a clip (T, H, W, 3) to keep, and the length of a loop of them: that with the
    fewest new frames at which the object's own motion leads back to within half a unit of its first
    place, on its way to the border and back, through whole bounces, to the largest size and back.

    Up to three of the last frames may give way, since frames are added in groups of four. Where no
    frame needs to be added, as after two whole bounces, both numbers are equal. None if there is no
    length up to 80 frames, for an image, and unless one clean object explains the clip.
    """
    read = oracle.describe(frames)
    if len(frames) < 2 or not read["clean"]:
        return None
    unit = min(frames.shape[1:3]) / shapes.SIDE  # pixels
    extent = frames.shape[2] / unit, frames.shape[1] / unit
    difference, background, _ = oracle.subtract_background(frames)
    radius = oracle.fit_object(difference, background, unit).radius
    path, motion, size = read["position"] / unit, read["motion"], read["size"]
    if law.off_law(motion, size, extent, path, radius / unit) > LAWFUL:
        return None  # something else happens in it
    parts = law.periods(motion, size, extent, path)
    fewest = max(2, len(frames) - STEP + 1)
    lengths = [
        (length, given)
        for given in range(len(frames), fewest - 1, -1)
        for length in range(given, LONGEST + 1, STEP)
        if closes(length, parts)
    ]
    if not lengths:
        return None
    length, given = min(lengths, key=lambda found: (found[0] - found[1], -found[1]))
    return given, length


def closes(length: int, parts: list[tuple[float, float]]) -> bool:
    """Whether every part of a motion, a period in frames with a speed, has come back to within
    `NEAR` units of its beginning after `length` frames."""
    turns = [max(1, round(length / period)) for period, _ in parts]
    return all(
        abs(length - count * period) * speed <= NEAR
        for count, (period, speed) in zip(turns, parts, strict=True)
    )
