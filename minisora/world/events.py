"""The world of events: one object to which something happens. "a small red circle moving right,
then moving up on a black background": its motion changes. "a small red circle moving right, turning
into a blue square on a black background": it becomes another object.

Everything happens at a fixed time, so a caption has one lawful answer: from frame `CHANGE` on the
object follows its second motion, or its picture is blended linearly into that of the new object
from the first frame of `BLEND` to the last. A clip of fewer than `MIN_FRAMES` frames is too short
for its event. It is a clip of the world `shapes`: the first object with its first motion.
"""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from minisora import draws
from minisora.world import oracle, shapes
from minisora.world.oracle import Fit
from minisora.world.protocol import Clip, World

# what differs after each event
CHANGES = {"then": ("motion",), "turning into": ("shape", "color")}
EVENTS = tuple(CHANGES)
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "standing still")
CHANGE = 8  # the frame at which the motion changes
BLEND = (4, 12)  # the last frame of the old object alone, the first of the new one alone
MIN_FRAMES = shapes.NO_TURN + 1  # of a clip that shows its event
SCORES = ("background", "color", "size", "shape", "motion", "event", "clean", "all")
MAX_DRIFT = 0.2  # of the new object's share from the law, in the worst frame of a clean blend
# every word of every caption: those of one object, and the events
WORDS = shapes.WORDS | {word for event in EVENTS for word in event.split()}


def clip(
    seed: int,
    index: int,
    num_frames: int = 17,
    height: int = 32,
    width: int = 32,
    split: str = "train",
) -> Clip:
    """Clip number `index` of `seed`: the same frames on every machine, in any order.

    A longer clip starts with the shorter one, if both show the event. In "held_out" and
    "held_out_motion" the first object is held out; what it changes to is from the training split.
    Raises InputError as `shapes.clip` does.
    """
    shapes.check_clip(seed, index, num_frames, height, width, split)
    rng = draws.rng("events", seed, index)
    drawn = draw_scene(rng, split)
    unit = min(height, width) / shapes.SIDE  # pixels
    path = unit * trajectory(rng, drawn, num_frames, (width / unit, height / unit))  # (T, 2)
    seen = visible(drawn, num_frames)
    return Clip(
        frames=render(seen, path, height, width),
        caption=caption(seen),
        short_caption=short_caption(seen, rng),
        truth={**seen, "clean": True, "position": path},
        world="events" if "event" in seen else "shapes",
    )


def draw_scene(rng: np.random.Generator, split: str) -> dict[str, Any]:
    """Draws an object of `split`, an event, and as "second_..." what differs after it, else None."""
    event = EVENTS[rng.integers(len(EVENTS))]
    first = shapes.draw_attributes(rng, split, MOTIONS)
    second = dict.fromkeys(("second_motion", "second_shape", "second_color"))
    return {"event": event, **first, **second, **draw_change(rng, event, first, split == "all")}


def draw_change(
    rng: np.random.Generator, event: str, first: dict[str, str], held_out: bool
) -> dict[str, str]:
    """Draws another motion, or another shape and color. Only if `held_out`, of any combination."""
    if event == "then":
        unseen = set() if held_out else shapes.HELD_OUT_MOTIONS
        others = [m for m in MOTIONS if m != first["motion"] and (first["shape"], m) not in unseen]
        return {"second_motion": others[rng.integers(len(others))]}
    while True:  # rejection sampling
        split, motion = "all" if held_out else "train", first["motion"]
        other = shapes.draw_attributes(rng, split, (motion,))
        if other["shape"] != first["shape"] and other["color"] != first["color"]:
            return {"second_shape": other["shape"], "second_color": other["color"]}


def trajectory(
    rng: np.random.Generator, drawn: dict[str, Any], num_frames: int, extent: tuple[float, float]
) -> np.ndarray:
    """Draws the object's path: (T, 2) as (x, y) in units, in a picture of `extent` (x, y).

    The start leaves room for NO_TURN steps with the event and without it, so clips of any length
    have the same first frame.
    """
    happens = num_frames >= MIN_FRAMES
    motions = (drawn["motion"], drawn["second_motion"] or drawn["motion"])
    directions = np.array([shapes.DIRECTIONS.get(motion, (0, 0)) for motion in motions])
    speeds = (
        rng.uniform(*shapes.SPEED, 2) if drawn["second_motion"] else rng.uniform(*shapes.SPEED)
    )
    first, second = np.reshape(speeds, (-1, 1)) * directions  # (2,) each

    frame = np.arange(max(num_frames, MIN_FRAMES))[:, None]  # (T, 1)
    before = np.minimum(frame, CHANGE)  # steps of the first motion
    changed = before * first + (frame - before) * second  # (T, 2)
    unchanged = frame * first  # (T, 2)
    reach = shapes.REACH * shapes.SIZES[drawn["size"]]
    low, high = np.full(2, reach), np.array(extent) - reach
    room = np.concatenate([changed[:MIN_FRAMES], unchanged[:MIN_FRAMES]])
    start = rng.uniform(low - room.min(0), high - room.max(0))  # (2,)
    path = start + (changed if happens else unchanged)[:num_frames]
    return shapes.reflect(path, low, high)  # type: ignore[arg-type]


def second_share(num_frames: int) -> np.ndarray:
    """How much of the picture is the new object's, in each frame of a blend: (T,) from 0 to 1."""
    return np.clip((np.arange(num_frames) - BLEND[0]) / (BLEND[1] - BLEND[0]), 0.0, 1.0)


def render(seen: dict[str, Any], path: np.ndarray, height: int, width: int) -> np.ndarray:
    """Paints what is seen along a path (T, 2) in pixels -> uint8 (T, H, W, 3)."""
    background = np.array(shapes.BACKGROUNDS[seen["background"]])  # (3,)
    radius = np.full(len(path), shapes.SIZES[seen["size"]] * min(height, width) / shapes.SIDE)

    def picture(shape: str, color: str) -> np.ndarray:
        alpha = shapes.cover(shape, path, radius, height, width)  # (T, H, W)
        return alpha[..., None] * (np.array(shapes.COLORS[color]) - background)  # (T, H, W, 3)

    pixels = picture(seen["shape"], seen["color"])
    if seen.get("second_shape"):
        share = second_share(len(path))[:, None, None, None]  # (T, 1, 1, 1)
        pixels = pixels + share * (picture(seen["second_shape"], seen["second_color"]) - pixels)
    return np.round(255 * (background + pixels)).astype(np.uint8)


def visible(drawn: dict[str, Any], num_frames: int) -> dict[str, Any]:
    """What a clip of `num_frames` frames can show: all, or the first object as in `shapes`."""
    if num_frames >= MIN_FRAMES:
        return drawn
    return shapes.visible({name: drawn[name] for name in shapes.VALUES}, num_frames)


# Captions


def caption(truth: dict[str, Any]) -> str:
    """The rich caption; that of one object if nothing happens."""
    if not truth.get("event"):
        return shapes.caption(truth)
    first = " ".join(
        filter(None, ["a", *(truth[n] for n in ("size", "color", "shape", "motion"))])
    )
    change = truth["second_motion"] or f"a {truth['second_color']} {truth['second_shape']}"
    return f"{first}, {truth['event']} {change} on a {truth['background']} background"


def short_caption(truth: dict[str, Any], rng: np.random.Generator) -> str:
    """As people write: "red circle moving up then moving left", "a circle turning into a square"."""
    if not truth.get("event"):
        return shapes.short_caption(truth, rng)
    forms = {
        "then": (
            "{color} {shape} {motion} then {second_motion}", "a {shape} {motion} then {second_motion}",
            "{shape} then {second_motion}",
        ),
        "turning into": (
            "{color} {shape} turning into {second_color} {second_shape}",
            "a {shape} turning into a {second_shape}",
            "a {color} {shape} {motion} turning into a {second_color} {second_shape}",
        ),
    }[truth["event"]]  # fmt: skip
    return forms[rng.integers(len(forms))].format(**truth)


def spell_out(text: str) -> str:
    """Lower-case words without punctuation, each direction as a motion: "then up" is "then moving
    up", and "then turning into" is "turning into"."""
    words = " ".join(re.findall("[a-z]+", text.lower()))
    words = re.sub(r"(?<!moving )(?<!and )\b(left|right|up|down)\b(?! of)", r"moving \1", words)
    return words.replace("then turning into", "turning into")


def parse(text: str) -> dict[str, Any] | None:
    """The event and what a text names of the object before and after it; None if not named.

    None as a whole for a text without "then" or "turning into", or without an object.
    """
    parts = re.split(rf"\b({'|'.join(EVENTS)})\b", spell_out(text), maxsplit=1)
    if len(parts) < 3:
        return None
    first, second = shapes.parse(parts[0]), shapes.parse(parts[2])
    named: dict[str, Any] = {"event": parts[1]}
    for name in shapes.VALUES:
        changes = name in CHANGES[parts[1]]
        named[name] = first[name] if changes else first[name] or second[name]
        if name not in ("size", "background"):
            named[f"second_{name}"] = second[name] if changes else None
    is_object = any(
        part[name] for part in (first, second) for name in ("shape", "color", "motion")
    )
    return named if is_object else None


# The oracle


def describe(frames: np.ndarray) -> dict[str, Any]:
    """Reads frames of one object to which something happens, uint8 (T, H, W, 3).

    Returns the keys of a clip's truth; the event is None if nothing happens. The object differs
    before and after the blend, or else its motions differ. With fewer than MIN_FRAMES frames it
    returns what the oracle of one object reads. Raises InputError for frames of another type.
    """
    if len(frames) < MIN_FRAMES:
        return oracle.describe(frames)
    difference, background, unit = oracle.subtract_background(frames)  # (T, H, W, 3)
    start, end = BLEND
    old = oracle.fit_object(difference[: start + 1], background, unit)
    new = oracle.fit_object(difference[end:], background, unit)
    turns = (old.shape, old.color) != (new.shape, new.color)
    if turns:
        fit = join(old, fit_blend(difference[start + 1 : end], old, new, unit), new)
    else:
        fit = oracle.fit_object(difference, background, unit)
    motion, second_motion, size, lawful = read_motions(fit.position / unit, fit.radius / unit)
    changes = motion != second_motion
    return {
        "event": "turning into" if turns else "then" if changes else None,
        "shape": fit.shape, "color": fit.color, "motion": motion, "size": size,
        "background": background,
        "second_motion": second_motion if changes and not turns else None,
        "second_shape": new.shape if turns else None,
        "second_color": new.color if turns else None,
        "clean": fit.is_clean and lawful and not (turns and changes), "position": fit.position,
    }  # fmt: skip


def read_motions(
    position: np.ndarray, radius: np.ndarray
) -> tuple[str | None, str | None, str | None, bool]:
    """The motions before and after CHANGE, the size, and whether every step is lawful. All lengths
    in units."""
    halves = (slice(CHANGE + 1), slice(CHANGE, MIN_FRAMES))  # before the first reversal
    (first, size, one), (second, _, other) = (
        oracle.read_motion(position[half], radius[half]) for half in halves
    )
    step = np.abs(np.diff(position, axis=0)).max()  # nan is never less
    steady = step < oracle.MAX_JUMP and np.ptp(radius) < oracle.MAX_JUMP
    return first, second, size, bool(one and other and steady)


def fit_blend(frames: np.ndarray, old: Fit, new: Fit, unit: float) -> Fit:
    """Fits the frames between those of `old` and `new`: (N, H, W, 3), pixels minus background.

    Both objects are at one place, near a straight path: no reversal is so early. Where the new
    object's share is not the lawful one, the misfit is infinite.
    """
    share = second_share(BLEND[1])[-len(frames) :]  # (N,)
    path = old.position[-1] + share[:, None] * (new.position[0] - old.position[-1])  # (N, 2)
    radius = old.radius[-1] + share * (new.radius[0] - old.radius[-1])  # (N,)
    covers = [
        np.nan_to_num(shapes.cover(fit.shape, path, radius, *frames.shape[1:3]))  # (N, H, W)
        for fit in (old, new)
    ]
    # noise far from both objects is ignored
    near = oracle.surround(covers[0] + covers[1] > 0, unit)  # (N, H, W)
    contrast = min(np.linalg.norm(fit.contrast) for fit in (old, new))
    strong = np.linalg.norm(frames, axis=-1) > 0.4 * contrast  # (N, H, W)
    stray = (strong & ~near).sum((1, 2)) / (oracle.AREA[old.shape] * radius**2)  # (N,)
    frames = np.where(near[..., None], frames, 0.0)
    pictures = [a[..., None] * fit.contrast for a, fit in zip(covers, (old, new), strict=True)]
    misfit, drift, shift = blend_errors(frames, *pictures, share)
    misfit = np.where(np.abs(drift) < MAX_DRIFT, misfit, np.inf)
    return replace(old, position=path + shift, radius=radius, misfit=misfit, stray=stray)


def blend_errors(
    frames: np.ndarray, old: np.ndarray, new: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How frames differ from the lawful blend of two pictures, all (N, H, W, 3).

    Returns the unexplained energy as a share of the pictures' own (N,), and by least squares how
    much more of the new picture would fit (N,) and how far away, (N, 2) as (x, y) in pixels.
    """
    change = new - old
    blend = old + share[:, None, None, None] * change
    down, right = np.gradient(blend, axis=(1, 2))
    columns = np.stack([change, -right, -down], -1).reshape(len(frames), -1, 3)  # (N, P, 3)
    rest = (frames - blend).reshape(len(frames), -1, 1)  # (N, P, 1)
    normal = columns.mT @ columns  # (N, 3, 3)
    found = (np.linalg.pinv(normal) @ columns.mT @ rest)[..., 0]  # (N, 3)
    energy = (1 - share) * np.square(old).sum((1, 2, 3)) + share * np.square(new).sum((1, 2, 3))
    return np.square(rest).sum((1, 2)) / energy, found[:, 0], found[:, 1:]


def join(*parts: Fit) -> Fit:
    """One fit of all frames, with the names of the first part."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("position", "radius", "misfit", "stray")
    }
    return replace(parts[0], **arrays)


def agree(truth: dict[str, Any], read: dict[str, Any]) -> dict[str, bool]:
    """Which parts were read right. Shape, color and motion must be right before and after the
    event. "all": everything is right and the clip is clean."""

    def same(name: str) -> bool:
        return truth.get(name) == read.get(name)  # a clip that is too short has no event

    right = {
        name: same(name) for name in ("background", "color", "size", "shape", "motion", "event")
    }
    for name in ("color", "shape", "motion"):
        right[name] = right[name] and same(f"second_{name}")
    right["clean"] = read["clean"]
    return {**right, "all": all(right.values())}


def order(truth: dict[str, Any], read: dict[str, Any]) -> str:
    """How a clip shows what its caption names before and after the event: in the "right" order,
    "swapped", "only one" of the two, or "neither"."""
    names = CHANGES[truth["event"]]
    # what stays the same is shown before and after
    (first, second), shown = (
        [
            tuple(one[name] for name in names),
            tuple(one[f"second_{name}"] or one[name] for name in names),
        ]
        for one in (truth, read)
    )
    if shown == [first, second]:
        return "right"
    if shown == [second, first]:
        return "swapped"
    return "only one" if first in shown or second in shown else "neither"


EVENTS_WORLD = World(
    name="events", words=WORDS, splits=("train", "held_out", "held_out_motion"), scores=SCORES,
    clip=clip, describe=describe, agree=agree, parse=parse, caption=caption, shows_all=MIN_FRAMES,
)  # fmt: skip
