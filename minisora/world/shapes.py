"""Moving shapes: one object, one motion, one background, rendered with smooth edges at any length and size.

A clip is a function of `(seed, index)`: the attributes and the start are drawn from them, the laws
of motion do the rest. Lengths are in *units*: the shorter side of the picture is 32 units, so one
world exists at every size.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from minisora.errors import InputError

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

SIDE = 32.0  # units along the shorter side of a picture
SPEED = (0.6, 0.8)  # units a frame on each moving axis
GROWTH, RADII = 0.375, (4.0, 10.0)  # units a frame, and where growing and shrinking turn
BOUNCE_FRAMES, BOUNCE_HEIGHT = 8, 11.0
REACH = 1.25  # no shape goes further from its center along x or y, in radii
NO_TURN = 16  # steps after the first frame in which nothing turns round

WORDS = frozenset(
    word
    for phrase in ("a on background", *SHAPES, *COLORS, *MOTIONS, *SIZES, *BACKGROUNDS)
    for word in phrase.split()
)  # every word of every caption

# Never trained on. Every word of them is still seen often in other company.
HELD_OUT = frozenset({
    ("circle", "yellow"), ("circle", "cyan"), ("square", "red"), ("square", "orange"),
    ("triangle", "blue"), ("triangle", "white"), ("star", "green"), ("cross", "purple"),
})  # fmt: skip
HELD_OUT_MOTIONS = frozenset({
    ("circle", "moving up and left"), ("square", "growing"), ("triangle", "moving right"),
    ("star", "bouncing"), ("cross", "moving down"), ("cross", "moving up and right"),
})  # fmt: skip
SPLITS = ("train", "held_out", "held_out_motion", "all")


@dataclass(frozen=True)
class Clip:
    """A clip and the truth about it. `truth` has the keys of `describe`; an image (T = 1) has no
    motion."""

    frames: np.ndarray  # uint8 (T, H, W, 3)
    caption: str  # rich: every attribute
    short_caption: str  # lossy, as people write
    truth: dict[str, Any]


def in_split(shape: str, color: str, motion: str, split: str) -> bool:
    """Whether these attributes belong to `split`. A clip that is held out twice is in "all"
    alone."""
    pair, moving = (shape, color) in HELD_OUT, (shape, motion) in HELD_OUT_MOTIONS
    return {"train": not pair and not moving, "held_out": pair and not moving,
            "held_out_motion": moving and not pair, "all": True}[split]  # fmt: skip


def draw_attributes(
    rng: np.random.Generator, split: str = "train", motions: tuple[str, ...] = MOTIONS
) -> dict[str, str]:
    """Draws shape, color, motion, size and background, each uniformly, until they belong to
    `split`."""
    choices = {"shape": SHAPES, "color": tuple(COLORS), "motion": motions, "size": tuple(SIZES),
               "background": tuple(BACKGROUNDS)}  # fmt: skip
    while True:
        drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        if in_split(drawn["shape"], drawn["color"], drawn["motion"], split):
            return drawn


def coverage(shape: str, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers, in [0, 1].

    x, y: offsets of the pixel centers from the object's center, y down; r: radius; all in pixels,
    broadcast together. The signed distance to the outline, blended over one pixel, is the
    anti-aliasing.
    """
    if shape == "circle":
        inside = r - np.hypot(x, y)
    elif shape == "square":
        inside = 0.88 * r - np.maximum(np.abs(x), np.abs(y))
    elif (
        shape == "triangle"
    ):  # equilateral, pointing up: three sides 0.62 r from a center 0.2 r below the object's
        below = y - 0.2 * r
        inside = 0.62 * r - np.maximum(below, np.sqrt(0.75) * np.abs(x) - 0.5 * below)
    elif (
        shape == "star"
    ):  # fold the plane onto half a point: one edge is left, from the tip to the inner corner
        angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
        corner = 0.55 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        edge = np.array([corner[0] - 1.25, corner[1]]) / np.hypot(corner[0] - 1.25, corner[1])
        inside = across * edge[0] - (along - 1.25 * r) * edge[1]
    elif shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        inside = np.maximum(
            np.minimum(1.05 * r - ax, 0.34 * r - ay), np.minimum(0.34 * r - ax, 1.05 * r - ay)
        )
    else:
        raise InputError(f"no shape {shape!r}: the shapes are {', '.join(SHAPES)}")
    return np.clip(inside + 0.5, 0.0, 1.0)


def cover(
    shape: str, position: np.ndarray, radius: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Coverage of whole frames: position (T, 2) as (x, y) and radius (T,) in pixels -> (T, H,
    W)."""
    x = np.arange(width) + 0.5 - position[:, 0, None, None]
    y = np.arange(height)[:, None] + 0.5 - position[:, 1, None, None]
    return coverage(shape, x, y, radius[:, None, None])


def mirrored(path: np.ndarray, low: float, high: float) -> np.ndarray:
    """Turns a straight path round wherever it would leave [low, high]."""
    return low + (high - low) - np.abs((path - low) % (2 * (high - low)) - (high - low))


def trajectory(
    rng: np.random.Generator, motion: str, size: str, num_frames: int, height: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Position (T, 2) as (x, y) and radius (T,) in units, from a start that leaves `NO_TURN` steps
    without a turn."""
    frame = np.arange(num_frames)
    radius = np.full(num_frames, SIZES[size])
    if motion in ("growing", "shrinking"):
        start = RADII[0] if motion == "growing" else RADII[1]
        radius = mirrored(start + (GROWTH if motion == "growing" else -GROWTH) * frame, *RADII)
    reach = REACH * (RADII[1] if motion in ("growing", "shrinking") else SIZES[size])

    position = np.empty((num_frames, 2))
    for axis, extent in enumerate((width, height)):
        low, high = reach, extent - reach
        step = DIRECTIONS.get(motion, (0, 0))[axis] * rng.uniform(*SPEED)
        floor = low + BOUNCE_HEIGHT if motion == "bouncing" and axis == 1 else low  # room to rise
        start = rng.uniform(max(floor, low - NO_TURN * step), min(high, high - NO_TURN * step))
        position[:, axis] = mirrored(start + step * frame, low, high)
    if motion == "bouncing":
        phase = frame % BOUNCE_FRAMES / BOUNCE_FRAMES
        position[:, 1] -= 4 * BOUNCE_HEIGHT * phase * (1 - phase)
    return position, radius


def caption(truth: dict[str, Any]) -> str:
    """The rich caption of the attributes. No motion for an image, no size word for growing and
    shrinking."""
    words = (
        "a",
        truth["size"],
        truth["color"],
        truth["shape"],
        truth["motion"],
        f"on a {truth['background']} background",
    )
    return " ".join(word for word in words if word)


def short_caption(truth: dict[str, Any], rng: np.random.Generator) -> str:
    """A lossy caption as people write them: "red circle", "a circle", "red circle moving left"."""
    motion = truth["motion"] or ""
    forms = (
        "{color} {shape}",
        "a {shape}",
        "a {color} {shape}",
        "{color} {shape} {motion}",
        "{shape} {motion}",
    )
    return (
        forms[rng.integers(len(forms))]
        .format(color=truth["color"], shape=truth["shape"], motion=motion)
        .strip()
    )


def parse(text: str) -> dict[str, str | None]:
    """Which attributes of one object a text names; None for those it does not. Every word belongs
    to one attribute, so their order does not matter."""
    words = re.findall(r"[a-z]+", text.lower())
    plain = re.sub(r"\b(left|right) and (up|down)\b", r"\2 and \1", " ".join(words))
    motions = [motion for motion in MOTIONS if re.search(rf"\b{motion}\b", plain)]
    named: dict[str, str | None] = {"motion": max(motions, key=len, default=None)}
    kinds = {"shape": SHAPES, "color": COLORS, "size": SIZES, "background": BACKGROUNDS}
    for name, values in kinds.items():
        named[name] = next((word for word in words if word in values), None)
    return named


def shown(attributes: dict[str, str], num_frames: int) -> dict[str, str | None]:
    """What a clip of these attributes can show: an image has no motion, growing and shrinking
    clips have no size."""
    seen: dict[str, str | None] = dict(attributes)
    changing = {"growing": "small", "shrinking": "large"}.get(
        attributes["motion"]
    )  # as the first frame looks
    if changing:
        seen["size"] = changing if num_frames == 1 else None
    if num_frames == 1:
        seen["motion"] = None
    return seen


def check_clip(
    seed: int, index: int, num_frames: int, height: int, width: int, split: str
) -> None:
    """Raises InputError for a clip that cannot be."""
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
    """Clip number `index` of the world `seed`: the same frames on every machine, in any order.

    The first frames of a longer clip are the shorter clip. Raises InputError on an unknown split
    or an empty size.
    """
    check_clip(seed, index, num_frames, height, width, split)
    rng = np.random.default_rng((seed, index))
    attributes = draw_attributes(rng, split)
    unit = min(height, width) / SIDE
    path, radius = trajectory(
        rng, attributes["motion"], attributes["size"], num_frames, height / unit, width / unit
    )
    seen = shown(attributes, num_frames)
    alpha = cover(attributes["shape"], path * unit, radius * unit, height, width)[..., None]
    color, background = (
        np.array(COLORS[attributes["color"]]),
        np.array(BACKGROUNDS[attributes["background"]]),
    )
    frames = np.round(255 * (background + alpha * (color - background))).astype(np.uint8)
    truth = {**seen, "clean": True, "position": path * unit}
    return Clip(frames, caption(seen), short_caption(seen, rng), truth)
