"""The laws of motion of one object: how far a path is from the nearest lawful one, and after how many
frames a motion repeats. All lengths are in units: the shorter side of a picture has 32."""

import numpy as np

from minisora.world import shapes

PHASE, SPEEDS = 0.25, np.linspace(*shapes.SPEED, 17)  # what is tried: units, and units per frame


def off_law(
    motion: str,
    size: str | None,
    extent: tuple[float, float],
    position: np.ndarray,
    radius: np.ndarray,
) -> float:
    """The largest distance of a path from the nearest one that a motion allows, which may begin
    anywhere: one speed, turning round at borders and nowhere else, no drift of what stands still.

    extent: width and height of the picture; position (T, 2) and radius (T,), read from a part of a
    clip. Infinite if a frame has no object.
    """
    if not np.all(np.isfinite(position)):
        return float("inf")
    if motion == "bouncing":
        return max(off_bounce(position), float(np.ptp(radius)))
    off = []
    for axis, moves in enumerate(shapes.DIRECTIONS.get(motion, (0, 0))):
        path = position[:, axis]
        off.append(off_wave(path, SPEEDS, *room(size, extent[axis])) if moves else np.ptp(path))
    if motion in shapes.FIRST_SIZE:
        off.append(off_wave(radius, np.array([shapes.GROWTH]), *shapes.RADII))
    else:
        off.append(np.ptp(radius))
    return float(max(off))


def room(size: str | None, side: float) -> tuple[float, float]:
    """The least and the largest coordinate of a moving object's center."""
    reach = shapes.REACH * shapes.SIZES[size or "large"]
    return reach, max(reach, side - reach)


def off_wave(path: np.ndarray, speeds: np.ndarray, low: float, high: float) -> float:
    """The largest distance of a path (T,) from the nearest one that goes from border to border and
    back at one of the speeds (S,)."""
    if low == high:
        return float(np.abs(path - low).max())
    # the second half of a period goes backward
    starts = low + np.arange(0, 2 * (high - low), PHASE)[:, None, None]  # (phases, 1, 1)
    frame = np.arange(len(path))  # (T,)
    waves = shapes.reflect(starts + speeds[:, None] * frame, low, high)  # (phases, S, T)
    return float(np.abs(waves - path).max(-1).min())


def off_bounce(position: np.ndarray) -> float:
    """The largest distance of a path (T, 2) from the nearest bounce: any phase, a fixed floor."""
    shift = np.arange(0, shapes.BOUNCE_FRAMES, 0.125)[:, None]  # (phases, 1)
    frame = np.arange(len(position)) + shift  # (phases, T)
    phase = frame % shapes.BOUNCE_FRAMES / shapes.BOUNCE_FRAMES
    # undo the bounce: with the right phase only the constant floor is left
    floor = position[:, 1] + 4 * shapes.BOUNCE_HEIGHT * phase * (1 - phase)  # (phases, T)
    height = np.abs(floor - np.median(floor, axis=1, keepdims=True)).max(1).min()
    return float(max(height, np.ptp(position[:, 0]) / 2))


def periods(
    motion: str, size: str | None, extent: tuple[float, float], position: np.ndarray
) -> list[tuple[float, float]]:
    """After how many frames each part of a motion repeats, with its speed in units a frame. None for
    what stands still. The speeds are read from the path, position (T, 2)."""
    if motion in shapes.FIRST_SIZE:
        way = 2 * (shapes.RADII[1] - shapes.RADII[0])
        return [(way / shapes.GROWTH, shapes.GROWTH)]
    if motion == "bouncing":
        return [(shapes.BOUNCE_FRAMES, shapes.BOUNCE_HEIGHT)]
    found = []
    for axis, moves in enumerate(shapes.DIRECTIONS.get(motion, (0, 0))):
        if moves:
            low, high = room(size, extent[axis])
            speed = speed_of(position[:, axis])
            found.append((2 * (high - low) / max(speed, 1e-3), speed))
    return found


def speed_of(path: np.ndarray) -> float:
    """The speed of a path (T,) between its reversals, from the longest part without one."""
    turns = np.flatnonzero(np.diff(np.sign(np.diff(path)))) + 1
    parts = np.split(path, turns)
    longest = max(parts, key=len)
    return float(abs(longest[-1] - longest[0]) / max(1, len(longest) - 1))
