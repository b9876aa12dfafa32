"""The world of two objects: "a red circle moving left above a blue square standing still on a
black background".

Each object stays in its half of the picture, so the relation holds in every frame: it stands still
or moves along the border between the halves. Both have the same size and differ in color.
"""

import re
from typing import Any

import numpy as np

from minisora import draws
from minisora.world import shapes
from minisora.world.oracle import read_object, subtract_background
from minisora.world.protocol import Clip, World

Extent = tuple[float, float]  # width and height of a picture in units

RADIUS = 4.2  # units
OPPOSITE = {"above": "below", "left of": "right of", "below": "above", "right of": "left of"}
RELATIONS = tuple(OPPOSITE)
SECOND_HALF = ("below", "right of")  # relations that put the first object below or on the right
ATTRIBUTES = ("shape", "color", "motion")  # of each object
SCORES = ("background", "layout", "relation", "color", "motion", "shape", "clean", "all")
# every word of every caption: those of one object, and the relations
WORDS = shapes.WORDS | {word for relation in RELATIONS for word in relation.split()}


def axis_of(relation: str) -> int:
    """The axis along which the objects are apart: 0 is x, 1 is y."""
    return 0 if relation in ("left of", "right of") else 1


def clip(
    seed: int,
    index: int,
    num_frames: int = 17,
    height: int = 32,
    width: int = 32,
    split: str = "train",
) -> Clip:
    """Clip number `index` of `seed`: the same frames on every machine, in any order.

    In "held_out" and "held_out_motion" the first object is held out and the second is from the
    training split. Raises InputError as `shapes.clip` does.
    """
    shapes.check_clip(seed, index, num_frames, height, width, split)
    rng = draws.rng("pairs", seed, index)
    unit = min(height, width) / shapes.SIDE  # pixels
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    # two dictionaries of attributes, and (2, T, 2) in units
    drawn, path = draw_scene(rng, relation, split, num_frames, (width / unit, height / unit))
    truth = {
        "objects": [visible(attributes, num_frames) for attributes in drawn],
        "relation": relation,
        "background": drawn[0]["background"],  # the second object's is not used
        "clean": True,
        "position": path * unit,  # (2, T, 2)
    }
    return Clip(
        frames=render(drawn, path * unit, RADIUS * unit, height, width),
        caption=caption(truth),
        short_caption=short_caption(truth, rng),
        truth=truth,
        world="pairs",
    )


def draw_scene(
    rng: np.random.Generator, relation: str, split: str, num_frames: int, extent: Extent
) -> tuple[list[dict[str, str]], np.ndarray]:
    """Draws two objects of different colors and their paths (2, T, 2) in units."""
    axis = axis_of(relation)
    along_border = [name for name, step in shapes.DIRECTIONS.items() if step[axis] == 0]
    motions = (*along_border, "standing still")
    first_is_far = relation in SECOND_HALF
    while True:  # rejection sampling
        first = shapes.draw_attributes(rng, split, motions)
        second = shapes.draw_attributes(rng, "all" if split == "all" else "train", motions)
        path = np.stack([
            trajectory(rng, first["motion"], first_is_far, axis, num_frames, extent),
            trajectory(rng, second["motion"], not first_is_far, axis, num_frames, extent),
        ])  # fmt: skip
        # a diagonal in the first frame would leave the relation open
        gap = np.abs(path[0, 0] - path[1, 0])  # (2,)
        if first["color"] != second["color"] and gap[axis] > gap[1 - axis] + 2:
            return [first, second], path


def trajectory(
    rng: np.random.Generator, motion: str, far: bool, axis: int, num_frames: int, extent: Extent
) -> np.ndarray:
    """Draws the path of an object that stays in its half: (T, 2) as (x, y) in units.

    The halves are apart along `axis`; the `far` one is the lower or the right.
    """
    reach = shapes.REACH * RADIUS
    path = np.empty((num_frames, 2))
    # across the border: a constant
    half = extent[axis] / 2
    low, high = (half + reach, 2 * half - reach) if far else (reach, half - reach)
    path[:, axis] = rng.uniform(low, high)
    # along the border: a straight path, reflected at the edges of the picture
    along = 1 - axis
    low, high = reach, extent[along] - reach
    step = shapes.DIRECTIONS.get(motion, (0, 0))[along] * rng.uniform(*shapes.SPEED)
    ahead = shapes.NO_TURN * step  # room before the first reversal
    start = rng.uniform(max(low, low - ahead), min(high, high - ahead))
    path[:, along] = shapes.reflect(start + step * np.arange(num_frames), low, high)
    return path


def render(
    drawn: list[dict[str, str]], path: np.ndarray, radius: float, height: int, width: int
) -> np.ndarray:
    """Paints both objects: path (2, T, 2) and radius in pixels -> uint8 (T, H, W, 3)."""
    num_frames = path.shape[1]
    background = np.array(shapes.BACKGROUNDS[drawn[0]["background"]])
    frames = np.broadcast_to(background, (num_frames, height, width, 3))
    radii = np.full(num_frames, radius)  # (T,)
    for attributes, position in zip(drawn, path, strict=True):
        alpha = shapes.cover(attributes["shape"], position, radii, height, width)  # (T, H, W)
        color = np.array(shapes.COLORS[attributes["color"]])  # (3,)
        frames = frames + alpha[..., None] * (color - frames)  # (T, H, W, 3)
    return np.round(255 * frames).astype(np.uint8)


def visible(attributes: dict[str, str], num_frames: int) -> dict[str, str | None]:
    """The attributes of an object that a clip of `num_frames` frames can show."""
    motion = attributes["motion"] if num_frames > 1 else None
    return {"shape": attributes["shape"], "color": attributes["color"], "motion": motion}


def phrase(attributes: dict[str, Any]) -> str:
    """One object in words: "a red circle moving left"."""
    words = ("a", attributes["color"], attributes["shape"], attributes["motion"])
    return " ".join(filter(None, words))


def caption(truth: dict[str, Any]) -> str:
    """The rich caption: both objects, their relation and the background."""
    first, second = truth["objects"]
    return f"{phrase(first)} {truth['relation']} {phrase(second)} on a {truth['background']} background"


def short_caption(truth: dict[str, Any], rng: np.random.Generator) -> str:
    """As people write: "red circle above blue square", "a red circle and a blue square"."""
    forms = (
        "{0[color]} {0[shape]} {relation} {1[color]} {1[shape]}",
        "a {0[shape]} {relation} a {1[shape]}",
        "a {0[color]} {0[shape]} and a {1[color]} {1[shape]}",
    )
    form = forms[rng.integers(len(forms))]
    return form.format(*truth["objects"], relation=truth["relation"])


def parse(text: str) -> dict[str, Any] | None:
    """The objects, relation and background that a text about two objects names; None if not named.

    None as a whole for any other text: one without a relation or an "and" that has a color or a
    shape on both sides.
    """
    # the "and" of "moving up and left" joins no objects
    joint = rf"\b({'|'.join(RELATIONS)}|and (?!left|right|up|down))\b"
    parts = re.split(joint, text.lower(), maxsplit=1)
    if len(parts) < 3:
        return None
    first, second = shapes.parse(parts[0]), shapes.parse(parts[2])
    if not all(named["color"] or named["shape"] for named in (first, second)):
        return None
    return {
        "objects": [{name: named[name] for name in ATTRIBUTES} for named in (first, second)],
        "relation": parts[1] if parts[1] in OPPOSITE else None,
        "background": second["background"] or first["background"],
    }


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames of two objects, uint8 (T, H, W, 3).

    Returns the keys of a clip's truth, with the relation "above" or "left of". Each axis cuts the
    picture in two; each part is read as a picture of one object, and the better reading wins. If
    both are clean, the objects are on a diagonal: they are apart along the axis that neither moves
    along, or else along that of the wider gap. Raises InputError if a side is below 8 pixels.
    """
    difference, background, unit = subtract_background(frames, side=8)  # (T, H, W, 3)
    readings = [read_halves(difference, background, unit, axis) for axis in (0, 1)]
    return min(readings, key=lambda reading: reading[1])[0]


def read_halves(
    difference: np.ndarray, background: str, unit: float, axis: int
) -> tuple[dict[str, Any], tuple[bool, bool, float]]:
    """Reads two objects that are apart along x (0) or y (1), and the doubt about that reading."""
    border = find_border(difference, axis)
    objects, positions, clean, misfit = [], [], True, 0.0
    parts = np.split(difference, [border], 2 - axis)  # y is dimension 1, x dimension 2
    for part, offset in zip(parts, (0, border), strict=True):
        read, rest = read_object(part, background, unit)
        objects.append({name: read[name] for name in ATTRIBUTES})
        position = read["position"].copy()  # (T, 2), within the part
        position[:, axis] += offset
        positions.append(position)
        clean, misfit = clean and read["clean"], misfit + rest

    # no object of this world moves across the border
    across = [shapes.DIRECTIONS.get(read["motion"] or "", (0, 0))[axis] for read in objects]
    lawful = not any(across)
    gap = np.abs(positions[0] - positions[1]).min(0)  # (2,)
    # clean readings compare by their gap, others by what they leave unexplained
    doubt = float(-gap[axis]) if clean else float(np.nan_to_num(misfit, nan=np.inf))
    truth = {
        "objects": objects,
        "relation": "above" if axis else "left of",
        "background": background,
        "clean": clean and lawful,
        "position": np.stack(positions),  # (2, T, 2)
    }
    return truth, (not clean, not lawful, doubt)  # compared from left to right


def find_border(difference: np.ndarray, axis: int) -> int:
    """The row (axis 1) or column (axis 0) where the picture is emptiest, in its middle third."""
    dimension = 2 - axis  # of (T, H, W, 3)
    size = difference.shape[dimension]
    mass = np.square(difference).sum((0, 3, 3 - dimension))  # (size,)
    middle = range(size // 3, size - size // 3 + 1)
    # among equally empty borders take the most central; rounding makes near ties equal
    return min(middle, key=lambda i: (round(mass[i - 1] + mass[i], 3), abs(i - size / 2)))


def agree(truth: dict[str, Any], read: dict[str, Any]) -> dict[str, bool]:
    """Which parts of a scene were read right; attributes must be right for both objects.

    "layout": the objects are apart along the right axis. "relation": the layout is right, and
    swapping the two objects would not match the truth better.
    """
    wanted, relation = list(truth["objects"]), truth["relation"]
    if relation in SECOND_HALF:  # the oracle starts with the upper or the left object
        wanted, relation = wanted[::-1], OPPOSITE[relation]
    found = read["objects"]
    layout = relation == read["relation"]
    right = {
        name: layout and all(w[name] == f[name] for w, f in zip(wanted, found, strict=True))
        for name in ATTRIBUTES
    }
    in_order = count_matches(wanted, found) >= count_matches(wanted, found[::-1])
    right |= {
        "background": truth["background"] == read["background"],
        "layout": layout,
        "relation": layout and in_order,
        "clean": read["clean"],
    }
    return {**right, "all": all(right.values())}


def count_matches(wanted: list[dict[str, Any]], found: list[dict[str, Any]]) -> int:
    """How many attributes two lists of objects have in common, object by object."""
    pairs = zip(wanted, found, strict=True)
    return sum(one[name] == other[name] for one, other in pairs for name in ATTRIBUTES)


PAIRS_WORLD = World(
    name="pairs", words=WORDS, splits=("train", "held_out", "held_out_motion"), scores=SCORES,
    clip=clip, describe=describe, agree=agree, parse=parse, caption=caption,
)  # fmt: skip
