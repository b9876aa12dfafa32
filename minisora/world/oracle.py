"""The oracle: reads the attributes of a clip of one object from its pixels. It learns nothing.

It is analysis by synthesis: find the background and the color; for each shape find the center and
radius that match the covered area, draw that shape, and keep the shape that leaves the least
unexplained. The remaining energy tells whether one object explains the clip. How center and radius
change over time tells the motion.
"""

from typing import Any

import numpy as np

from minisora.errors import check_frames
from minisora.world import shapes
from minisora.world.protocol import World
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
# area of a shape of radius 1
AREA = {
    "circle": np.pi,
    "square": 1.76**2,
    "triangle": 3 * np.sqrt(3) * 0.62**2,
    "star": 5 * 1.25 * 0.55 * np.sin(np.pi / 5),
    "cross": 8 * 1.05 * 0.34 - 4 * 0.34**2,
}
# Limits of a clean clip. Each is for the worst frame.
MAX_MISFIT = 0.30  # unexplained energy around the object, as a share of the object's own
MAX_STRAY = 0.10  # pixels of anything else, as a share of the object's area
MAX_JUMP = 1.5  # units: a step, a change of radius, or a distance from the path of a bounce


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames, uint8 (T, H, W, 3): a clip, a part of one, or an image.

    Returns shape, color, motion (None for an image), size (None when it grows or shrinks),
    background, `clean` and `position`. A clip is clean if one object explains every frame and
    never jumps, nor changes its size faster than its motion allows. Position is (T, 2) as (x, y)
    in pixels, nan in frames without an object. Raises InputError for frames of another form.
    """
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)")
    pixels = frames / 255.0
    unit = min(frames.shape[1:3]) / SIDE  # pixels
    background = nearest(np.median(pixels, axis=(0, 1, 2)), BACKGROUNDS)
    read, _ = read_object(pixels - np.array(BACKGROUNDS[background]), background, unit)
    return read


def read_object(
    difference: np.ndarray, background: str, unit: float
) -> tuple[dict[str, Any], float]:
    """Reads one object before a known background.

    difference (T, H, W, 3): pixels minus background; unit: in pixels. Returns what `describe`
    returns, and the share of the object left unexplained in the worst frame.
    """
    color, alpha, contrast = read_color(difference, background)
    # the object and its rim; noise elsewhere is ignored
    near = dilate(alpha > 0.5, max(2, round(2 * unit)))  # (T, H, W)
    shape, position, radius, misfit = read_shape(
        difference, contrast, np.where(near, alpha, 0.0), near
    )
    strong = np.linalg.norm(difference, axis=-1) > 0.4 * np.linalg.norm(contrast)  # (T, H, W)
    stray = (strong & ~near).sum((1, 2))  # (T,)
    motion, size, lawful = read_motion(position / unit, radius / unit)

    area = AREA[shape] * radius**2  # (T,)
    one = bool(
        np.all(np.isfinite(area))
        and np.all(misfit < MAX_MISFIT)
        and np.all(stray < MAX_STRAY * area)
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
    """Which attributes were read right. "all": all five are right and the clip is clean."""
    right = {name: truth[name] == read[name] for name in ATTRIBUTES}
    return {**right, "clean": read["clean"], "all": all(right.values()) and read["clean"]}


def nearest(rgb: np.ndarray, palette: dict[str, tuple[float, float, float]]) -> str:
    """The name of the palette's color nearest to `rgb` (3,)."""
    return min(palette, key=lambda name: float(np.linalg.norm(rgb - np.array(palette[name]))))


def dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """Grows each frame's mask by `steps` pixels along both axes: (T, H, W) -> (T, H, W)."""
    for _ in range(steps):
        for axis in (1, 2):
            border = [(0, 0), (0, 0), (0, 0)]
            border[axis] = (1, 1)
            padded, side = np.pad(mask, border), mask.shape[axis]
            # a pixel joins if the neighbor before or after it is in the mask
            mask = mask | padded.take(range(side), axis) | padded.take(range(2, side + 2), axis)
    return mask


def blur(alpha: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels: (T, H, W) -> (T, H, W)."""
    height, width = alpha.shape[1:]
    padded = np.pad(alpha, [(0, 0), (1, 1), (1, 1)], mode="edge")  # (T, H + 2, W + 2)
    rows = padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2:]  # (T, H, W + 2)
    return (rows[:, :, :width] + rows[:, :, 1 : width + 1] + rows[:, :, 2:]) / 9


def read_color(difference: np.ndarray, background: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Finds the color that explains the pixels best when mixed with the background.

    Returns its name, its share of each pixel (T, H, W), and its contrast with the background (3,).
    """
    fits = []
    for name, rgb in COLORS.items():
        contrast = np.array(rgb) - np.array(BACKGROUNDS[background])  # (3,)
        # least-squares share of the color in each pixel
        alpha = np.clip(difference @ contrast / (contrast @ contrast), 0.0, 1.0)  # (T, H, W)
        rest = np.square(difference - alpha[..., None] * contrast).sum()
        fits.append((rest, name, alpha, contrast))
    _, color, alpha, contrast = min(fits, key=lambda fit: fit[0])
    return color, alpha, contrast


def read_shape(
    difference: np.ndarray, contrast: np.ndarray, alpha: np.ndarray, near: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Finds the shape that explains the covered pixels best.

    Returns its name, its center (T, 2) and radius (T,) in pixels, and the energy (T,) around the
    object that it leaves unexplained, as a share of the object's own.
    """
    _, height, width = alpha.shape
    area = alpha.sum((1, 2))  # (T,)
    area[area == 0] = np.nan  # no object in this frame
    x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / area  # center of mass
    y = (alpha.sum(2) @ (np.arange(height) + 0.5)) / area
    fits = []
    for shape in SHAPES:
        radius = np.sqrt(area / AREA[shape])
        # a triangle's center of mass is below its center
        center = np.stack([x, y - (0.2 * radius if shape == "triangle" else 0.0)], -1)  # (T, 2)
        sharp = np.nan_to_num(cover(shape, center, radius, height, width))  # (T, H, W)
        for drawn in (sharp, blur(sharp)):  # a shape with a soft rim is the same shape
            rest = np.square(difference - drawn[..., None] * contrast).sum(-1)  # (T, H, W)
            misfit = np.where(near, rest, 0.0).sum((1, 2)) / (contrast @ contrast) / area  # (T,)
            fits.append((np.nansum(misfit), shape, center, radius, misfit))
    _, shape, center, radius, misfit = min(fits, key=lambda fit: fit[0])
    return shape, center, radius, misfit


def read_motion(position: np.ndarray, radius: np.ndarray) -> tuple[str | None, str | None, bool]:
    """Finds the motion, the size, and whether the motion allows every step.

    position (T, 2) and radius (T,) are in units.
    """
    if not np.all(np.isfinite(radius)):  # some frame has no object
        return (None if len(radius) == 1 else "standing still"), "small", False
    size = "small" if radius.mean() < sum(SIZES.values()) / 2 else "large"
    if len(radius) == 1:  # an image
        return None, size, True

    steps = np.diff(position, axis=0)  # (T - 1, 2)
    if np.abs(steps[:, 1]).max() > 1.4:  # no other motion is so fast
        return "bouncing", size, off_bounce(position) < MAX_JUMP and np.ptp(radius) < MAX_JUMP
    growth = slope(radius)
    if abs(growth) > 0.19:  # half of GROWTH
        smooth = np.abs(np.diff(radius)).max() < MAX_JUMP
        still = np.ptp(position, axis=0).max() < 2 * MAX_JUMP
        return ("growing" if growth > 0 else "shrinking"), None, bool(smooth and still)
    direction = tuple(int(np.sign(v)) if abs(v) > 0.3 else 0 for v in slope(position))
    motion = next((name for name, d in DIRECTIONS.items() if d == direction), "standing still")
    return motion, size, bool(np.abs(steps).max() < MAX_JUMP and np.ptp(radius) < MAX_JUMP)


def slope(path: np.ndarray) -> np.ndarray:
    """Least-squares change per frame before the first reversal: (T, ...) -> (...)."""
    path = path[: NO_TURN + 1]
    time = np.arange(len(path)) - (len(path) - 1) / 2
    return np.tensordot(time, path, 1) / (time @ time)


def off_bounce(position: np.ndarray) -> float:
    """Largest distance, in units, from the best-fitting bounce: any phase, a fixed floor."""
    frame = np.arange(len(position)) + np.arange(0, BOUNCE_FRAMES, 0.125)[:, None]  # (phases, T)
    phase = frame % BOUNCE_FRAMES / BOUNCE_FRAMES
    # undo the bounce: with the right phase only the constant floor is left
    floor = position[:, 1] + 4 * BOUNCE_HEIGHT * phase * (1 - phase)  # (phases, T)
    height = np.abs(floor - np.median(floor, axis=1, keepdims=True)).max(1).min()
    return float(max(height, np.ptp(position[:, 0]) / 2))


SHAPES_WORLD = World(
    name="shapes",
    words=shapes.WORDS,
    splits=("train", "held_out", "held_out_motion"),
    scores=("background", "color", "size", "motion", "shape", "clean", "all"),
    clip=shapes.clip,
    describe=describe,
    agree=agree,
    parse=shapes.parse,
    caption=shapes.caption,
)
