"""Two moving shapes: "a red circle moving left above a blue square standing still on a black
background".

Each object keeps to its half of the picture, so the relation holds in every frame. Objects are of
one size, differ in color, and stand still or move along the border between the halves.
"""

import re
from typing import Any

import numpy as np

from minisora.errors import check_frames
from minisora.world import shapes
from minisora.world.oracle import nearest, read_object
from minisora.world.shapes import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    MOTIONS,
    NO_TURN,
    REACH,
    SIDE,
    SPEED,
    Clip,
    check_clip,
    cover,
    draw_attributes,
    mirrored,
)

RADIUS = 4.2  # units
OPPOSITE = {"above": "below", "left of": "right of", "below": "above", "right of": "left of"}
RELATIONS = tuple(OPPOSITE)
ATTRIBUTES = ("shape", "color", "motion")
SCORES = ("background", "layout", "relation", "color", "motion", "shape", "clean", "all")
WORDS = frozenset(word for relation in RELATIONS for word in relation.split())


def axis_of(relation: str) -> int:
    """Along which axis the objects are apart: 0 is x, 1 is y."""
    return 0 if relation in ("left of", "right of") else 1


def clip(
    seed: int,
    index: int,
    num_frames: int = 17,
    height: int = 32,
    width: int = 32,
    split: str = "train",
) -> Clip:
    """Clip number `index` of the world of pairs, as `world.clip`. The truth is {"objects",
    "relation", "background", "clean", "position"}: "objects" holds shape, color and motion of the
    first and the second, "position" is (2, T, 2).

    Of "held_out" and "held_out_motion" the first object is held out, the second is not.
    """
    check_clip(seed, index, num_frames, height, width, split)
    rng = np.random.default_rng((seed, index, 2))
    unit = min(height, width) / SIDE
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    apart = axis_of(relation)
    motions = tuple(
        m for m in MOTIONS if m == "standing still" or DIRECTIONS.get(m, (1, 1))[apart] == 0
    )
    while True:
        first = draw_attributes(rng, split, motions)
        second = draw_attributes(rng, "all" if split == "all" else "train", motions)
        paths = [
            trajectory(rng, one["motion"], half, apart, num_frames, (width / unit, height / unit))
            for one, half in (
                (first, relation in ("below", "right of")),
                (second, relation in ("above", "left of")),
            )
        ]
        position = np.stack(paths)  # (2, T, 2)
        gap = np.abs(position[0, 0] - position[1, 0])  # in the first frame: no diagonals
        if first["color"] != second["color"] and gap[apart] > gap[1 - apart] + 2:
            break
    background = np.array(BACKGROUNDS[first["background"]])
    frames = np.broadcast_to(background, (num_frames, height, width, 3))
    for one, path in zip((first, second), position, strict=True):
        radius = np.full(num_frames, RADIUS * unit)
        alpha = cover(one["shape"], path * unit, radius, height, width)[..., None]
        frames = frames + alpha * (np.array(COLORS[one["color"]]) - frames)
    truth = {
        "objects": [
            {
                "shape": one["shape"],
                "color": one["color"],
                "motion": one["motion"] if num_frames > 1 else None,
            }
            for one in (first, second)
        ],
        "relation": relation,
        "background": first["background"],
        "clean": True,
        "position": position * unit,
    }
    return Clip(
        np.round(255 * frames).astype(np.uint8), caption(truth), short_caption(truth, rng), truth
    )


def trajectory(
    rng: np.random.Generator,
    motion: str,
    far: bool,
    apart: int,
    num_frames: int,
    extent: tuple[float, float],
) -> np.ndarray:
    """Position (T, 2) as (x, y) in units of an object that keeps to its half: the `far` one is the
    right or the lower."""
    reach = REACH * RADIUS
    path = np.empty((num_frames, 2))
    half = extent[apart] / 2
    low, high = (half + reach, 2 * half - reach) if far else (reach, half - reach)
    path[:, apart] = rng.uniform(low, high)
    along = 1 - apart
    low, high = reach, extent[along] - reach
    step = DIRECTIONS.get(motion, (0, 0))[along] * rng.uniform(*SPEED)
    start = rng.uniform(max(low, low - NO_TURN * step), min(high, high - NO_TURN * step))
    path[:, along] = mirrored(start + step * np.arange(num_frames), low, high)
    return path


def phrase(one: dict[str, Any]) -> str:
    return " ".join(filter(None, ("a", one["color"], one["shape"], one["motion"])))


def caption(truth: dict[str, Any]) -> str:
    first, second = truth["objects"]
    return f"{phrase(first)} {truth['relation']} {phrase(second)} on a {truth['background']} background"


def short_caption(truth: dict[str, Any], rng: np.random.Generator) -> str:
    """As people write: "red circle above blue square", "a red circle and a blue square"."""
    forms = ("{0[color]} {0[shape]} {relation} {1[color]} {1[shape]}", "a {0[shape]} {relation} a {1[shape]}",
             "a {0[color]} {0[shape]} and a {1[color]} {1[shape]}")  # fmt: skip
    form = forms[rng.integers(len(forms))]
    return form.format(*truth["objects"], relation=truth["relation"])


def parse(text: str) -> dict[str, Any] | None:
    """What a text of two objects names: {"objects", "relation", "background"}, None for what it
    does not say; None if it has no relation and no "and" with a color or a shape on both sides."""
    parts = re.split(
        rf"\b({'|'.join(RELATIONS)}|and (?!left|right|up|down))\b", text.lower(), maxsplit=1
    )
    if len(parts) < 3:
        return None
    first, second = shapes.parse(parts[0]), shapes.parse(parts[2])
    if not all(one["color"] or one["shape"] for one in (first, second)):
        return None
    return {
        "objects": [{name: one[name] for name in ATTRIBUTES} for one in (first, second)],
        "relation": parts[1] if parts[1] in OPPOSITE else None,
        "background": second["background"] or first["background"],
    }


def in_order(text: str) -> str:
    """A caption of two objects told from the upper or the left one ("b below a" is "a above b");
    any other text as it is."""
    said = parse(text)
    if said is None or said["relation"] not in ("below", "right of") or caption(said) != text:
        return text
    turned = {"objects": said["objects"][::-1], "relation": OPPOSITE[said["relation"]]}
    return caption({**said, **turned})


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames, uint8 (T, H, W, 3), that show two objects: the truth of `clip`, its relation
    "above" or "left of".

    The picture is cut where it is emptiest near its middle, along each axis; each part is read as
    a picture of one object. The cut that explains more is taken. If both do, the objects stand
    diagonally: then they are apart along the axis that neither moves along, or else the one along
    which they are further apart.
    """
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)", side=8)
    pixels = frames / 255.0
    unit = min(frames.shape[1:3]) / SIDE
    background = nearest(np.median(pixels, axis=(0, 1, 2)), BACKGROUNDS)
    difference = pixels - np.array(BACKGROUNDS[background])
    readings = [cut(difference, background, unit, apart) for apart in (0, 1)]
    return min(readings, key=lambda reading: reading[0])[1]


def cut(
    difference: np.ndarray, background: str, unit: float, apart: int
) -> tuple[tuple[bool, bool, float], dict[str, Any]]:
    """The picture read as two objects apart along x (0) or y (1), and how far that is to be
    believed: smaller is better."""
    axis = 2 - apart  # of (T, H, W, 3)
    size = difference.shape[axis]
    mass = np.square(difference).sum((0, 3, 3 - axis))
    middle = range(size // 3, size - size // 3 + 1)
    at = min(middle, key=lambda i: (round(mass[i - 1] + mass[i], 3), abs(i - size / 2)))
    objects, misfit, positions, clean = [], [], [], True
    for part, offset in zip(np.split(difference, [at], axis), (0, at), strict=True):
        read, rest = read_object(part, background, unit)
        objects.append({name: read[name] for name in ATTRIBUTES})
        misfit.append(rest)
        clean = clean and read["clean"]
        position = read["position"].copy()
        position[:, apart] += offset
        positions.append(position)
    gap = np.abs(positions[0] - positions[1]).min(0)
    across = all(DIRECTIONS.get(one["motion"] or "", (0, 0))[apart] == 0 for one in objects)
    truth = {
        "objects": objects,
        "relation": "above" if apart else "left of",
        "background": background,
        "clean": clean and across,
        "position": np.stack(positions),
    }
    return (
        not clean,
        not across,
        float(-gap[apart]) if clean else float(np.nan_to_num(sum(misfit), nan=np.inf)),
    ), truth


def agree(truth: dict[str, Any], read: dict[str, Any]) -> dict[str, bool]:
    """Which parts are right. "layout": the objects are apart along the right axis. "relation":
    that, and the two are not better explained by each other's places. An attribute is right if it
    is of both objects, each in its place; "all" is everything."""
    wanted, relation = list(truth["objects"]), truth["relation"]
    if relation in ("below", "right of"):
        wanted, relation = wanted[::-1], OPPOSITE[relation]
    got = read["objects"]
    layout = relation == read["relation"]
    matches = [
        sum(w[name] == g[name] for w, g in zip(wanted, order, strict=True) for name in ATTRIBUTES)
        for order in (got, got[::-1])
    ]
    right = {
        name: layout and all(w[name] == g[name] for w, g in zip(wanted, got, strict=True))
        for name in ATTRIBUTES
    }
    right |= {
        "background": truth["background"] == read["background"],
        "layout": layout,
        "relation": layout and matches[0] >= matches[1],
        "clean": read["clean"],
    }
    return {**right, "all": all(right.values())}
