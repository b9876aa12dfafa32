"""The world of one object: one shape, one motion, one background, with smooth edges, at any size.

A clip is a function of `(seed, index)`: they draw the attributes and the start, and the laws of
motion do the rest. Lengths are in *units*: the shorter side of the picture is 32 units, so the
world is the same at every size.
"""

import re
from typing import Any

import numpy as np

from minisora import draws
from minisora.errors import InputError
from minisora.world.protocol import Clip

# RGB in [0, 1]
COLORS = {
    "red": (0.90, 0.10, 0.10), "green": (0.10, 0.70, 0.15), "blue": (0.10, 0.25, 0.95), "yellow": (0.95, 0.90, 0.10),
    "purple": (0.60, 0.10, 0.75), "cyan": (0.10, 0.85, 0.90), "orange": (1.00, 0.55, 0.05), "white": (1.0, 1.0, 1.0),
}  # fmt: skip
BACKGROUNDS = {
    "black": (0.04, 0.04, 0.04), "gray": (0.5, 0.5, 0.5), "navy": (0.05, 0.05, 0.30), "pink": (1.0, 0.75, 0.80),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"small": 4.8, "large": 7.5}  # radius in units
# (x, y) direction of each moving object; y points down
DIRECTIONS = {
    "moving left": (-1, 0), "moving right": (1, 0), "moving up": (0, -1), "moving down": (0, 1),
    "moving up and left": (-1, -1), "moving up and right": (1, -1),
    "moving down and left": (-1, 1), "moving down and right": (1, 1),
}  # fmt: skip
MOTIONS = (*DIRECTIONS, "standing still", "growing", "shrinking", "bouncing")
# clips whose size changes have no size word; this is the size of their first frame
FIRST_SIZE = {"growing": "small", "shrinking": "large"}

SIDE = 32.0  # units along the shorter side of a picture
SPEED = (0.6, 0.8)  # units per frame along each axis of motion
GROWTH = 0.375  # units per frame
RADII = (4.0, 10.0)  # units: a changing radius reverses here
BOUNCE_FRAMES, BOUNCE_HEIGHT = 8, 11.0  # frames per bounce, units
REACH = 1.25  # radii: no shape extends further from its center along x or y
NO_TURN = 16  # steps at the start of a clip without a reversal

PHRASES = ("a on background", *SHAPES, *COLORS, *MOTIONS, *SIZES, *BACKGROUNDS)
WORDS = frozenset(" ".join(PHRASES).split())  # every word of every caption
# the values of each attribute, in the order in which they are drawn
VALUES = {
    "shape": SHAPES, "color": tuple(COLORS), "motion": MOTIONS, "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
}  # fmt: skip

# Combinations that are never trained on. Each of their words is common in other combinations.
HELD_OUT = frozenset({
    ("circle", "yellow"), ("circle", "cyan"), ("square", "red"), ("square", "orange"),
    ("triangle", "blue"), ("triangle", "white"), ("star", "green"), ("cross", "purple"),
})  # fmt: skip
HELD_OUT_MOTIONS = frozenset({
    ("circle", "moving up and left"), ("square", "growing"), ("triangle", "moving right"),
    ("star", "bouncing"), ("cross", "moving down"), ("cross", "moving up and right"),
})  # fmt: skip
SPLITS = ("train", "held_out", "held_out_motion", "all")


def in_split(shape: str, color: str, motion: str, split: str) -> bool:
    """Whether an object belongs to `split`. If color and motion are held out, only to "all"."""
    new_color, new_motion = (shape, color) in HELD_OUT, (shape, motion) in HELD_OUT_MOTIONS
    return {
        "train": not new_color and not new_motion,
        "held_out": new_color and not new_motion,
        "held_out_motion": new_motion and not new_color,
        "all": True,
    }[split]


def draw_attributes(
    rng: np.random.Generator, split: str = "train", motions: tuple[str, ...] = MOTIONS
) -> dict[str, str]:
    """Draws shape, color, motion, size and background uniformly from `split`."""
    choices = VALUES | {"motion": motions}
    while True:  # rejection sampling
        drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        if in_split(drawn["shape"], drawn["color"], drawn["motion"], split):
            return drawn


def coverage(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers, in [0, 1].

    x, y: offsets of the pixel centers from the object's center, y down; r: radius; all in pixels,
    broadcast together. The signed distance to the outline gives smooth edges. Raises InputError
    for an unknown shape.
    """
    if shape == "circle":
        inside = r - np.hypot(x, y)
    elif shape == "square":
        inside = 0.88 * r - np.maximum(np.abs(x), np.abs(y))
    # equilateral, pointing up: three sides 0.62 r from a center 0.2 r below the object's
    elif shape == "triangle":
        below = y - 0.2 * r
        inside = 0.62 * r - np.maximum(below, np.sqrt(0.75) * np.abs(x) - 0.5 * below)
    # the plane folded onto half a point leaves one edge, from the tip to the inner corner
    elif shape == "star":
        angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
        corner = 0.55 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        edge = np.array([corner[0] - 1.25, corner[1]]) / np.hypot(corner[0] - 1.25, corner[1])
        inside = across * edge[0] - (along - 1.25 * r) * edge[1]
    # the union of two bars: the larger of their signed distances
    elif shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        level = np.minimum(1.05 * r - ax, 0.34 * r - ay)
        inside = np.maximum(level, np.minimum(0.34 * r - ax, 1.05 * r - ay))
    else:
        raise InputError(f"no shape {shape!r}: the shapes are {', '.join(SHAPES)}")
    return np.clip(inside + 0.5, 0.0, 1.0)


def cover(
    shape: str, position: np.ndarray, radius: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Coverage of whole frames: position (T, 2) as (x, y), radius (T,), in pixels -> (T, H, W)."""
    x = np.arange(width) + 0.5 - position[:, 0, None, None]  # (T, 1, W)
    y = np.arange(height)[:, None] + 0.5 - position[:, 1, None, None]  # (T, H, 1)
    return coverage(shape, x, y, radius[:, None, None])  # (T, H, W)


def reflect(path: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Keeps a straight path inside [low, high] by reflecting it at both ends."""
    return low + (high - low) - np.abs((path - low) % (2 * (high - low)) - (high - low))


def trajectory(
    rng: np.random.Generator, motion: str, size: str, num_frames: int, height: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws an object's path: position (T, 2) as (x, y) and radius (T,), both in units."""
    frame = np.arange(num_frames)  # (T,)
    radius = np.full(num_frames, SIZES[size])  # (T,)
    if motion in FIRST_SIZE:
        start, growth = (RADII[0], GROWTH) if motion == "growing" else (RADII[1], -GROWTH)
        radius = reflect(start + growth * frame, *RADII)
    reach = REACH * (RADII[1] if motion in FIRST_SIZE else SIZES[size])

    position = np.empty((num_frames, 2))
    for axis, extent in enumerate((width, height)):
        low, high = reach, extent - reach
        step = DIRECTIONS.get(motion, (0, 0))[axis] * rng.uniform(*SPEED)
        # a bouncing object needs room above its floor
        floor = low + BOUNCE_HEIGHT if motion == "bouncing" and axis == 1 else low
        # room for NO_TURN steps before the first reversal
        start = rng.uniform(max(floor, low - NO_TURN * step), min(high, high - NO_TURN * step))
        position[:, axis] = reflect(start + step * frame, low, high)
    if motion == "bouncing":
        phase = frame % BOUNCE_FRAMES / BOUNCE_FRAMES
        position[:, 1] -= 4 * BOUNCE_HEIGHT * phase * (1 - phase)  # a parabola, 0 at phase 0 and 1
    return position, radius


def caption(truth: dict[str, Any]) -> str:
    """The rich caption: every attribute that is not None."""
    words = ["a", *(truth[name] for name in ("size", "color", "shape", "motion"))]
    return " ".join(filter(None, [*words, f"on a {truth['background']} background"]))


def short_caption(truth: dict[str, Any], rng: np.random.Generator) -> str:
    """A lossy caption, as people write: "red circle", "a circle", "red circle moving left"."""
    forms = (
        "{color} {shape}", "a {shape}", "a {color} {shape}",
        "{color} {shape} {motion}", "{shape} {motion}",
    )  # fmt: skip
    form = forms[rng.integers(len(forms))]
    return form.format(**truth | {"motion": truth["motion"] or ""}).strip()  # images have none


def parse(text: str) -> dict[str, str | None]:
    """The attributes of one object that a text names, in any word order; None if not named.

    Never None as a whole: any text can be about one object.
    """
    words = re.findall(r"[a-z]+", text.lower())
    # "left and up" is "up and left"
    ordered = re.sub(r"\b(left|right) and (up|down)\b", r"\2 and \1", " ".join(words))
    motions = [motion for motion in MOTIONS if re.search(rf"\b{motion}\b", ordered)]
    # the longest: "moving up" is part of "moving up and left"
    named: dict[str, str | None] = {"motion": max(motions, key=len, default=None)}
    for name in ("shape", "color", "size", "background"):
        named[name] = next((word for word in words if word in VALUES[name]), None)
    return named


def visible(attributes: dict[str, str], num_frames: int) -> dict[str, str | None]:
    """The attributes that a clip of `num_frames` frames can show.

    An image has no motion; a clip of a growing or shrinking object has no size.
    """
    seen: dict[str, str | None] = dict(attributes)
    if first_size := FIRST_SIZE.get(attributes["motion"]):
        seen["size"] = first_size if num_frames == 1 else None
    if num_frames == 1:
        seen["motion"] = None
    return seen


def check_clip(
    seed: int, index: int, num_frames: int, height: int, width: int, split: str
) -> None:
    """Raises InputError for an unknown split, a negative seed or index, and too small a size."""
    if split not in SPLITS:
        raise InputError(f"no split {split!r}: the splits are {', '.join(SPLITS)}")
    if min(seed, index) < 0:
        raise InputError(f"seed and index must be 0 or more, got {seed} and {index}")
    if num_frames < 1 or min(height, width) < 8:
        raise InputError(
            f"a clip needs at least 1 frame of 8 x 8 pixels, got {num_frames} of {height} x {width}"
        )


def clip(
    seed: int,
    index: int,
    num_frames: int = 17,
    height: int = 32,
    width: int = 32,
    split: str = "train",
) -> Clip:
    """Clip number `index` of `seed`: the same frames on every machine, in any order.

    A longer clip starts with the shorter one. Raises InputError as `check_clip` does.
    """
    check_clip(seed, index, num_frames, height, width, split)
    rng = draws.rng("shapes", seed, index)
    drawn = draw_attributes(rng, split)
    unit = min(height, width) / SIDE  # pixels
    path, radius = trajectory(
        rng, drawn["motion"], drawn["size"], num_frames, height / unit, width / unit
    )
    alpha = cover(drawn["shape"], path * unit, radius * unit, height, width)  # (T, H, W)
    color = np.array(COLORS[drawn["color"]])
    background = np.array(BACKGROUNDS[drawn["background"]])
    pixels = background + alpha[..., None] * (color - background)  # (T, H, W, 3)

    seen = visible(drawn, num_frames)
    return Clip(
        frames=np.round(255 * pixels).astype(np.uint8),
        caption=caption(seen),
        short_caption=short_caption(seen, rng),
        truth={**seen, "clean": True, "position": path * unit},
        world="shapes",
    )
