"""The oracle: reads the attributes of a clip of one object from its pixels. It learns nothing.

Analysis by synthesis: find the background and the color; draw each shape with the center and the
radius that match the covered area, and keep the shape that leaves the least energy unexplained.
The change of center and radius over time shows the motion.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minisora.errors import check_frames
from minisora.world import shapes
from minisora.world.law import off_bounce
from minisora.world.protocol import World

ATTRIBUTES = ("shape", "color", "motion", "size", "background")
# area of a shape of radius 1
AREA = {
    "circle": np.pi, "square": 1.76**2, "triangle": 3 * np.sqrt(3) * 0.62**2,
    "star": 5 * 1.25 * 0.55 * np.sin(np.pi / 5), "cross": 8 * 1.05 * 0.34 - 4 * 0.34**2,
}  # fmt: skip
# Limits of a clean clip. Each is for the worst frame.
MAX_MISFIT = 0.30  # unexplained energy around the object, as a share of the object's own
MAX_STRAY = 0.10  # pixels of anything else, as a share of the object's area
MAX_JUMP = 1.5  # units: a step, a change of radius, or a distance from the path of a bounce
MAX_DRIFT = 0.2  # difference of the new picture's share of a blend from the lawful share


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames, uint8 (T, H, W, 3): a clip, a part of one, or an image.

    Returns the five attributes (motion is None for an image, size if it grows or shrinks), `clean`
    and `position`. Clean: one object explains every frame and never moves or grows faster than its
    motion allows. Position: (T, 2) as (x, y) in pixels, nan in frames without an object.
    """
    return read_object(*subtract_background(frames))[0]


def subtract_background(frames: np.ndarray, side: int = 1) -> tuple[np.ndarray, str, float]:
    """Pixels minus background (T, H, W, 3), the background's name, and the unit in pixels.

    Raises InputError unless frames are uint8 (T, H, W, 3) with sides of at least `side` pixels.
    """
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)", side)
    pixels = frames / 255.0
    median = np.median(pixels, axis=(0, 1, 2))  # (3,)
    palette = {name: np.array(rgb) for name, rgb in shapes.BACKGROUNDS.items()}
    name = min(palette, key=lambda name: float(np.linalg.norm(median - palette[name])))
    return pixels - palette[name], name, min(frames.shape[1:3]) / shapes.SIDE


@dataclass(frozen=True)
class Fit:
    """The one object that explains some frames best, and what it leaves unexplained."""

    shape: str
    color: str
    contrast: np.ndarray  # (3,): the color minus the background
    position: np.ndarray  # (T, 2) as (x, y) in pixels, nan in frames without an object
    radius: np.ndarray  # (T,) in pixels
    misfit: np.ndarray  # (T,): unexplained energy around the object, as a share of its own
    stray: np.ndarray  # (T,): pixels of anything else, as a share of the object's area

    @property
    def is_clean(self) -> bool:
        """Whether the object explains every frame."""
        explained = (self.misfit < MAX_MISFIT) & (self.stray < MAX_STRAY)  # nan is never less
        return bool(np.all(explained))


def fit_object(difference: np.ndarray, background: str, unit: float) -> Fit:
    """Fits one object to frames (T, H, W, 3), pixels minus background; unit: in pixels."""
    color, alpha, contrast = read_color(difference, background)
    # the object and its rim; noise elsewhere is ignored
    near = surround(alpha > 0.5, unit)  # (T, H, W)
    shape, position, radius, misfit = read_shape(
        difference, contrast, np.where(near, alpha, 0.0), near
    )
    strong = np.linalg.norm(difference, axis=-1) > 0.4 * np.linalg.norm(contrast)  # (T, H, W)
    area = AREA[shape] * radius**2  # (T,)
    stray = (strong & ~near).sum((1, 2)) / area  # (T,)
    return Fit(shape, color, contrast, position, radius, misfit, stray)


def fit_blend(frames: np.ndarray, old: Fit, new: Fit, unit: float) -> Fit:
    """Fits the frames between those of two fits, (N, H, W, 3) minus background, and joins all.

    One picture is blended linearly into the other at one place, near a straight path. Where the
    share of the new picture is not the lawful one, the misfit is infinite. Names are the old ones.
    """
    share = np.linspace(0, 1, len(frames) + 2)[1:-1]  # (N,), of the new picture
    path = old.position[-1] + share[:, None] * (new.position[0] - old.position[-1])  # (N, 2)
    radius = old.radius[-1] + share * (new.radius[0] - old.radius[-1])  # (N,)
    _, height, width, _ = frames.shape
    one, other = (  # (N, H, W); empty if there is no object to start from
        np.nan_to_num(shapes.cover(fit.shape, path, radius, height, width)) for fit in (old, new)
    )
    near = surround(one + other > 0, unit)  # (N, H, W)
    faintest = min(float(np.linalg.norm(fit.contrast)) for fit in (old, new))
    strong = np.linalg.norm(frames, axis=-1) > 0.4 * faintest  # (N, H, W)
    stray = (strong & ~near).sum((1, 2)) / (AREA[old.shape] * radius**2)  # (N,)
    misfit, drift, shift = blend_errors(
        np.where(near[..., None], frames, 0.0),
        one[..., None] * old.contrast, other[..., None] * new.contrast, share,
    )  # fmt: skip
    misfit = np.where(np.abs(drift) < MAX_DRIFT, misfit, np.inf)
    parts = (
        (old.position, path + shift, new.position), (old.radius, radius, new.radius),
        (old.misfit, misfit, new.misfit), (old.stray, stray, new.stray),
    )  # fmt: skip
    return Fit(old.shape, old.color, old.contrast, *map(np.concatenate, parts))


def blend_errors(
    frames: np.ndarray, old: np.ndarray, new: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How frames differ from a blend with `share` (N,) of the new picture, all (N, H, W, 3).

    Returns the unexplained energy as a share of the pictures' own (N,), and by least squares how
    much more of the new picture would fit (N,) and how far away, (N, 2) as (x, y) in pixels.
    """
    change = new - old
    blend = old + share[:, None, None, None] * change
    down, right = np.gradient(blend, axis=(1, 2))
    effects = np.stack([change, -right, -down]).reshape(3, len(frames), -1)  # (3, N, P)
    rest = (frames - blend).reshape(len(frames), -1)  # (N, P)
    normal = np.einsum("inp,jnp->nij", effects, effects)
    found = np.linalg.pinv(normal) @ np.einsum("inp,np->ni", effects, rest)[..., None]  # (N, 3, 1)
    energy = (1 - share) * np.square(old).sum((1, 2, 3)) + share * np.square(new).sum((1, 2, 3))
    misfit = np.square(rest).sum(1) / np.maximum(energy, 1e-9)
    return misfit, found[:, 0, 0], found[:, 1:, 0]


def read_object(
    difference: np.ndarray, background: str, unit: float
) -> tuple[dict[str, Any], float]:
    """What `describe` returns, and the share of the object left unexplained in the worst frame.

    difference (T, H, W, 3): pixels minus background; unit: in pixels.
    """
    fit = fit_object(difference, background, unit)
    motion, size, lawful = read_motion(fit.position / unit, fit.radius / unit)
    read = {
        "shape": fit.shape, "color": fit.color, "motion": motion, "size": size,
        "background": background, "clean": fit.is_clean and lawful, "position": fit.position,
    }  # fmt: skip
    return read, float(np.max(fit.misfit + fit.stray))


def agree(truth: dict[str, Any], read: dict[str, Any]) -> dict[str, bool]:
    """Which attributes were read right. "all": all five are right and the clip is clean."""
    right = {name: truth[name] == read[name] for name in ATTRIBUTES}
    return {**right, "clean": read["clean"], "all": all(right.values()) and read["clean"]}


def dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """Grows each frame's mask by `steps` pixels along both axes: (T, H, W) -> (T, H, W)."""
    mask = np.pad(mask, [(0, 0), (steps, steps), (steps, steps)])
    for axis in (1, 2):  # a pixel joins if any other within `steps` pixels is in the mask
        mask = np.lib.stride_tricks.sliding_window_view(mask, 2 * steps + 1, axis).max(-1)
    return mask


def surround(mask: np.ndarray, unit: float) -> np.ndarray:
    """Grows each frame's mask by 2 units, at least 2 pixels: (T, H, W) -> (T, H, W)."""
    return dilate(mask, max(2, round(2 * unit)))


def blur(alpha: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels: (T, H, W) -> (T, H, W)."""
    height, width = alpha.shape[1:]
    padded = np.pad(alpha, [(0, 0), (1, 1), (1, 1)], mode="edge")  # (T, H + 2, W + 2)
    rows = padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2:]  # (T, H, W + 2)
    return (rows[:, :, :width] + rows[:, :, 1 : width + 1] + rows[:, :, 2:]) / 9


def read_color(difference: np.ndarray, background: str) -> tuple[str, np.ndarray, np.ndarray]:
    """The color that explains the pixels best when mixed with the background: its name, its share
    of each pixel (T, H, W), and its contrast with the background (3,)."""
    fits = []
    for name, rgb in shapes.COLORS.items():
        contrast = np.array(rgb) - np.array(shapes.BACKGROUNDS[background])  # (3,)
        # least-squares share of the color in each pixel
        alpha = np.clip(difference @ contrast / (contrast @ contrast), 0.0, 1.0)  # (T, H, W)
        rest = np.square(difference - alpha[..., None] * contrast).sum()
        fits.append((rest, name, alpha, contrast))
    _, color, alpha, contrast = min(fits, key=lambda fit: fit[0])
    return color, alpha, contrast


def read_shape(
    difference: np.ndarray, contrast: np.ndarray, alpha: np.ndarray, near: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The shape that explains the covered pixels best: its name, center (T, 2) and radius (T,) in
    pixels, and the energy (T,) left unexplained around it, as a share of the object's own."""
    _, height, width = alpha.shape
    area = alpha.sum((1, 2))  # (T,)
    area[area == 0] = np.nan  # no object in this frame
    x = (alpha.sum(1) @ (np.arange(width) + 0.5)) / area  # center of mass
    y = (alpha.sum(2) @ (np.arange(height) + 0.5)) / area
    fits = []
    for shape in shapes.SHAPES:
        radius = np.sqrt(area / AREA[shape])
        # a triangle's center of mass is below its center
        center = np.stack([x, y - (0.2 * radius if shape == "triangle" else 0.0)], -1)  # (T, 2)
        sharp = np.nan_to_num(shapes.cover(shape, center, radius, height, width))  # (T, H, W)
        for drawn in (sharp, blur(sharp)):  # a shape with a soft rim is the same shape
            rest = np.square(difference - drawn[..., None] * contrast).sum(-1)  # (T, H, W)
            misfit = np.where(near, rest, 0.0).sum((1, 2)) / (contrast @ contrast) / area  # (T,)
            fits.append((np.nansum(misfit), shape, center, radius, misfit))
    _, shape, center, radius, misfit = min(fits, key=lambda fit: fit[0])
    return shape, center, radius, misfit


def read_motion(position: np.ndarray, radius: np.ndarray) -> tuple[str | None, str | None, bool]:
    """The motion, the size, and whether the motion allows every step. All lengths in units."""
    if not np.all(np.isfinite(radius)):  # some frame has no object
        return (None if len(radius) == 1 else "standing still"), "small", False
    size = "small" if radius.mean() < sum(shapes.SIZES.values()) / 2 else "large"
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
    found = (name for name, step in shapes.DIRECTIONS.items() if step == direction)
    motion = next(found, "standing still")
    return motion, size, bool(np.abs(steps).max() < MAX_JUMP and np.ptp(radius) < MAX_JUMP)


def slope(path: np.ndarray) -> np.ndarray:
    """Least-squares change per frame before the first reversal: (T, ...) -> (...)."""
    path = path[: shapes.NO_TURN + 1]
    time = np.arange(len(path)) - (len(path) - 1) / 2
    return np.tensordot(time, path, 1) / (time @ time)


SHAPES_WORLD = World(
    name="shapes", words=shapes.WORDS, splits=("train", "held_out", "held_out_motion"),
    scores=("background", "color", "size", "motion", "shape", "clean", "all"),
    clip=shapes.clip, describe=describe, agree=agree, parse=shapes.parse, caption=shapes.caption,
)  # fmt: skip
