"""The oracle: reads a clip's pixels back into the words of the world. It needs no learning.

It explains the clip by synthesis: find the background, the color, then for each shape the center
and radius that the covered area asks for, draw that shape, and keep the one which leaves the least
unexplained. What is left says whether one object explains the clip; how its center and radius
change says how it moves.
"""

from typing import Any

import numpy as np

from minisora.errors import check_frames
from minisora.world.shapes import (
    BACKGROUNDS,
    BOUNCE_FRAMES,
    BOUNCE_HEIGHT,
    COLORS,
    DIRECTIONS,
    NO_TURN,
    SHAPES,
    SIDE,
    SIZES,
    cover,
)

ATTRIBUTES = ("shape", "color", "motion", "size", "background")
AREA = {  # of a shape of radius 1
    "circle": np.pi,
    "square": 1.76**2,
    "triangle": 3 * np.sqrt(3) * 0.62**2,
    "star": 5 * 1.25 * 0.55 * np.sin(np.pi / 5),
    "cross": 8 * 1.05 * 0.34 - 4 * 0.34**2,
}
MISFIT = 0.30  # unexplained energy around the object, as a share of the object's own, in the worst frame
STRAY = 0.10  # pixels of something else, as a share of the object's area, in the worst frame
LAWLESS = 1.5  # units: a step, a change of radius, a distance from a bounce, that no law allows


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames, uint8 (T, H, W, 3): a clip, a window of one, or an image.

    Returns shape, color, motion (None for an image), size (None when it grows or shrinks),
    background, `clean` (one object explains every frame, and it nowhere jumps or changes its size
    by more than its motion allows) and `position`, (T, 2) as (x, y) in pixels, nan where no object
    is.
    """
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)")
    pixels = frames / 255.0
    unit = min(frames.shape[1:3]) / SIDE
    background = nearest(np.median(pixels, axis=(0, 1, 2)), BACKGROUNDS)
    read, _ = read_object(pixels - np.array(BACKGROUNDS[background]), background, unit)
    return read


def read_object(
    difference: np.ndarray, background: str, unit: float
) -> tuple[dict[str, Any], float]:
    """What `describe` says of one object before its background, and the share of the object that
    stays unexplained in the worst frame: difference (T, H, W, 3) from the background, `unit` in
    pixels."""
    color, alpha, contrast = read_color(difference, background)
    # the object and its rim; noise elsewhere is left out
    near = dilate(alpha > 0.5, max(2, round(2 * unit)))
    shape, position, radius, misfit = read_shape(
        difference, contrast, np.where(near, alpha, 0.0), near
    )
    stray = ((np.linalg.norm(difference, axis=-1) > 0.4 * np.linalg.norm(contrast)) & ~near).sum(
        (1, 2)
    )
    motion, size, lawful = read_motion(position / unit, radius / unit)

    area = AREA[shape] * radius**2
    one = bool(
        np.all(np.isfinite(area)) and np.all(misfit < MISFIT) and np.all(stray < STRAY * area)
    )
    read = {
        "shape": shape,
        "color": color,
        "motion": motion,
        "size": size,
        "background": background,
        "clean": one and lawful,
        "position": position,
    }
    return read, float(np.max(misfit + stray / area))


def agree(truth: dict[str, Any], read: dict[str, Any]) -> dict[str, bool]:
    """Which attributes are right; "all" is all five and clean."""
    right = {name: truth[name] == read[name] for name in ATTRIBUTES}
    return {**right, "clean": read["clean"], "all": all(right.values()) and read["clean"]}


def nearest(rgb: np.ndarray, palette: dict[str, tuple[float, float, float]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(rgb - np.array(palette[name]))))


def dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """Grows each frame's mask by `steps` pixels along both axes: (T, H, W) -> (T, H, W)."""
    for _ in range(steps):
        for axis in (1, 2):
            border = [(0, 0), (0, 0), (0, 0)]
            border[axis] = (1, 1)
            grown, side = np.pad(mask, border), mask.shape[axis]
            mask = mask | grown.take(range(side), axis) | grown.take(range(2, side + 2), axis)
    return mask


def blurred(alpha: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels: (T, H, W) -> (T, H, W)."""
    height, width = alpha.shape[1:]
    padded = np.pad(alpha, [(0, 0), (1, 1), (1, 1)], mode="edge")
    rows = padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2:]
    return (rows[:, :, :width] + rows[:, :, 1 : width + 1] + rows[:, :, 2:]) / 9


def read_color(difference: np.ndarray, background: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The color whose mixtures with the background come nearest to the pixels, how much of it each
    pixel holds (T, H, W), and its contrast with the background (3,)."""
    fits = []
    for name, rgb in COLORS.items():
        contrast = np.array(rgb) - np.array(BACKGROUNDS[background])
        alpha = np.clip(difference @ contrast / (contrast @ contrast), 0.0, 1.0)
        rest = np.square(difference - alpha[..., None] * contrast).sum()
        fits.append((rest, name, alpha, contrast))
    _, color, alpha, contrast = min(fits, key=lambda fit: fit[0])
    return color, alpha, contrast


def read_shape(
    difference: np.ndarray, contrast: np.ndarray, alpha: np.ndarray, near: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The shape that explains the covered pixels best, its center (T, 2) and radius (T,) in
    pixels, and the energy around the object that it leaves unexplained (T,), as a share of the
    object's own."""
    _, height, width = alpha.shape
    area = alpha.sum((1, 2))
    area[area == 0] = np.nan
    x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / area
    y = (alpha.sum(2) @ (np.arange(height) + 0.5)) / area
    fits = []
    for shape in SHAPES:
        radius = np.sqrt(area / AREA[shape])
        center = np.stack([x, y - (0.2 * radius if shape == "triangle" else 0.0)], -1)
        sharp = np.nan_to_num(cover(shape, center, radius, height, width))
        for drawn in (sharp, blurred(sharp)):  # a soft rim is no other shape
            rest = np.square(difference - drawn[..., None] * contrast).sum(-1)
            misfit = np.where(near, rest, 0.0).sum((1, 2)) / (contrast @ contrast) / area
            fits.append((np.nansum(misfit), shape, center, radius, misfit))
    _, shape, center, radius, misfit = min(fits, key=lambda fit: fit[0])
    return shape, center, radius, misfit


def read_motion(position: np.ndarray, radius: np.ndarray) -> tuple[str | None, str | None, bool]:
    """Motion, size and whether every step is one that the motion allows: position (T, 2) and
    radius (T,) in units."""
    if not np.all(np.isfinite(radius)):
        return (None if len(radius) == 1 else "standing still"), "small", False
    size = "small" if radius.mean() < sum(SIZES.values()) / 2 else "large"
    if len(radius) == 1:
        return None, size, True

    steps = np.diff(position, axis=0)
    if np.abs(steps[:, 1]).max() > 1.4:  # no other motion is so fast
        return "bouncing", size, off_bounce(position) < LAWLESS and np.ptp(radius) < LAWLESS
    growth = slope(radius)
    if abs(growth) > 0.19:
        lawful = (
            np.abs(np.diff(radius)).max() < LAWLESS
            and np.ptp(position, axis=0).max() < 2 * LAWLESS
        )
        return ("growing" if growth > 0 else "shrinking"), None, bool(lawful)
    direction = tuple(int(np.sign(v)) if abs(v) > 0.3 else 0 for v in slope(position))
    motion = next((name for name, d in DIRECTIONS.items() if d == direction), "standing still")
    return motion, size, bool(np.abs(steps).max() < LAWLESS and np.ptp(radius) < LAWLESS)


def slope(path: np.ndarray) -> np.ndarray:
    """Least-squares change a frame over the frames in which nothing turns round: (T, ...) ->
    (...)."""
    path = path[: NO_TURN + 1]
    time = np.arange(len(path)) - (len(path) - 1) / 2
    return np.tensordot(time, path, 1) / (time @ time)


def off_bounce(position: np.ndarray) -> float:
    """Largest distance, in units, from the best bounce of any phase above a fixed floor."""
    frame = np.arange(len(position)) + np.arange(0, BOUNCE_FRAMES, 0.125)[:, None]  # (phases, T)
    phase = frame % BOUNCE_FRAMES / BOUNCE_FRAMES
    off = position[:, 1] + 4 * BOUNCE_HEIGHT * phase * (1 - phase)
    height = np.abs(off - np.median(off, axis=1, keepdims=True)).max(1).min()
    return float(max(height, np.ptp(position[:, 0]) / 2))
