"""The world of events: one object to which something happens. "a small red circle moving right,
then moving up on a black background": its motion changes. "a small red circle moving right, turning
into a blue square on a black background": it becomes another object.

Everything happens at a fixed time, so a caption has one lawful answer: from frame `CHANGE` on the
object follows its second motion, or its picture is blended linearly into that of the new object
from the first frame of `BLEND` to the last. A clip of fewer than `MIN_FRAMES` frames is too short
for its event. It is a clip of the world `shapes`: the first object with its first motion.
"""

import re

import numpy as np

from minisora import draws
from minisora.world import oracle, shapes
from minisora.world.protocol import Clip, Truth, World

# what differs after each event
CHANGES = {"then": ("motion",), "turning into": ("shape", "color")}
EVENTS = tuple(CHANGES)
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "standing still")
CHANGE = 8  # the frame at which the motion changes
BLEND = (4, 12)  # the last frame of the old object alone, the first of the new one alone
MIN_FRAMES = shapes.NO_TURN + 1  # of a clip that shows its event
SHORT_FORMS = {
    "then": (
        "{color} {shape} {motion} then {second_motion}", "{shape} then {second_motion}",
        "a {shape} {motion} then {second_motion}",
    ),
    "turning into": (
        "{color} {shape} turning into {second_color} {second_shape}",
        "a {shape} turning into a {second_shape}",
        "a {color} {shape} {motion} turning into a {second_color} {second_shape}",
    ),
}  # fmt: skip
SCORES = ("background", "color", "size", "shape", "motion", "event", "clean", "all")
# every word of every caption: those of one object, and the events
WORDS = shapes.WORDS | {word for event in EVENTS for word in event.split()}


# Clips


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


def draw_scene(rng: np.random.Generator, split: str) -> Truth:
    """Draws an event, an object of `split`, and as "second_..." what differs after the event."""
    event = EVENTS[rng.integers(len(EVENTS))]
    first = shapes.draw_attributes(rng, split, MOTIONS)
    same = dict.fromkeys(("second_motion", "second_shape", "second_color"))
    return {"event": event, **first, **same, **draw_change(rng, event, first, split == "all")}


def draw_change(
    rng: np.random.Generator, event: str, first: dict[str, str], anything: bool
) -> dict[str, str]:
    """Draws another motion, or another shape and color: of the training split, or `anything`."""
    shape, motion = first["shape"], first["motion"]
    if event == "then":
        unseen = frozenset() if anything else shapes.HELD_OUT_MOTIONS
        others = [name for name in MOTIONS if name != motion and (shape, name) not in unseen]
        return {"second_motion": others[rng.integers(len(others))]}
    while True:  # rejection sampling
        other = shapes.draw_attributes(rng, "all" if anything else "train", (motion,))
        if other["shape"] != shape and other["color"] != first["color"]:
            return {"second_shape": other["shape"], "second_color": other["color"]}


def trajectory(
    rng: np.random.Generator, drawn: Truth, num_frames: int, extent: tuple[float, float]
) -> np.ndarray:
    """Draws the object's path: (T, 2) as (x, y) in units, in a picture of `extent` (x, y).

    There is room for NO_TURN steps with and without the event, so clips of all lengths start at
    one place.
    """
    first = draw_velocity(rng, drawn["motion"])  # (2,)
    second = draw_velocity(rng, drawn["second_motion"]) if drawn["second_motion"] else first
    frame = np.arange(max(num_frames, MIN_FRAMES))[:, None]  # (T, 1)
    unchanged = frame * first  # (T, 2)
    changed = unchanged + np.maximum(frame - CHANGE, 0) * (second - first)  # (T, 2)
    reach = shapes.REACH * shapes.SIZES[drawn["size"]]
    low, high = np.full(2, reach), np.array(extent) - reach
    ahead = np.concatenate([unchanged[:MIN_FRAMES], changed[:MIN_FRAMES]])
    start = rng.uniform(low - ahead.min(0), high - ahead.max(0))  # (2,)
    path = start + (changed if num_frames >= MIN_FRAMES else unchanged)[:num_frames]
    return shapes.reflect(path, low, high)


def draw_velocity(rng: np.random.Generator, motion: str) -> np.ndarray:
    """Draws a step of a motion: (2,) as (x, y) in units."""
    return rng.uniform(*shapes.SPEED) * np.array(shapes.DIRECTIONS.get(motion, (0, 0)))


def render(seen: Truth, path: np.ndarray, height: int, width: int) -> np.ndarray:
    """Paints what is seen along a path (T, 2) in pixels -> uint8 (T, H, W, 3)."""
    background = np.array(shapes.BACKGROUNDS[seen["background"]])  # (3,)
    radius = np.full(len(path), shapes.SIZES[seen["size"]] * min(height, width) / shapes.SIDE)

    def picture(shape: str, color: str) -> np.ndarray:
        alpha = shapes.cover(shape, path, radius, height, width)  # (T, H, W)
        return alpha[..., None] * (np.array(shapes.COLORS[color]) - background)  # (T, H, W, 3)

    pixels = picture(seen["shape"], seen["color"])
    if seen.get("second_shape"):
        share = np.clip((np.arange(len(path)) - BLEND[0]) / (BLEND[1] - BLEND[0]), 0, 1)  # (T,)
        change = picture(seen["second_shape"], seen["second_color"]) - pixels
        pixels = pixels + share[:, None, None, None] * change
    return np.round(255 * (background + pixels)).astype(np.uint8)


def visible(drawn: Truth, num_frames: int) -> Truth:
    """What a clip of `num_frames` frames can show: all, or the first object as in `shapes`."""
    if num_frames >= MIN_FRAMES:
        return drawn
    return shapes.visible({name: drawn[name] for name in shapes.VALUES}, num_frames)


# Captions


def caption(truth: Truth) -> str:
    """The rich caption; that of one object if nothing happens."""
    if not truth.get("event"):
        return shapes.caption(truth)
    change = truth["second_motion"] or f"a {truth['second_color']} {truth['second_shape']}"
    return f"{phrase(truth)}, {truth['event']} {change} on a {truth['background']} background"


def phrase(truth: Truth) -> str:
    """The object before the event, in words: "a small red circle moving left"."""
    return " ".join(filter(None, ["a", *(truth[n] for n in ("size", "color", "shape", "motion"))]))


def short_caption(truth: Truth, rng: np.random.Generator) -> str:
    """As people write: "red circle moving up then moving left", "a circle turning into a star"."""
    if not truth.get("event"):
        return shapes.short_caption(truth, rng)
    forms = SHORT_FORMS[truth["event"]]
    return forms[rng.integers(len(forms))].format(**truth)


def spell_out(text: str) -> str:
    """Lower-case words without punctuation: "up, then left" is "moving up then moving left", and
    "and then turning into" is "turning into"."""
    words = " ".join(re.findall("[a-z]+", text.lower()))
    # not in "moving up and left" or "left of"
    bare = r"(?<!moving )(?<!and )\b(left|right|up|down)\b(?! of)"
    words = re.sub(bare, r"moving \1", words)
    return re.sub(r"\b(?:and )?(?:then )?(turning into|then)\b", r"\1", words)


def parse(text: str) -> Truth | None:
    """The event and what a text names before and after it; None if not named.

    None as a whole for a text without "then" or "turning into", or with nothing of an object.
    """
    parts = re.split(rf"\b({'|'.join(EVENTS)})\b", spell_out(text), maxsplit=1)
    if len(parts) < 3:
        return None
    first, event, second = shapes.parse(parts[0]), parts[1], shapes.parse(parts[2])
    named: Truth = {"event": event}
    for name in shapes.VALUES:
        # what does not change may be named on either side
        named[name] = first[name] or (None if name in CHANGES[event] else second[name])
    for name in ("motion", "shape", "color"):
        named[f"second_{name}"] = second[name] if name in CHANGES[event] else None
    is_object = any(
        part[name] for part in (first, second) for name in ("motion", "shape", "color")
    )
    return named if is_object else None


# The oracle


def describe(frames: np.ndarray) -> Truth:
    """Reads frames of one object to which something happens, uint8 (T, H, W, 3).

    Returns the keys of a clip's truth. If the object is another after the blend, it turned; else
    its motions before and after CHANGE are compared, and the event may be None. With fewer than
    MIN_FRAMES frames, returns what the oracle of one object reads. Raises InputError for frames of
    another type.
    """
    if len(frames) < MIN_FRAMES:
        return oracle.describe(frames)
    difference, background, unit = oracle.subtract_background(frames)  # (T, H, W, 3)
    start, end = BLEND[0] + 1, BLEND[1]
    old = oracle.fit_object(difference[:start], background, unit)
    new = oracle.fit_object(difference[end:], background, unit)
    turns = (old.shape, old.color) != (new.shape, new.color)
    if turns:
        fit = oracle.fit_blend(difference[start:end], old, new, unit)
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
    # no reversal is so early
    halves = (slice(CHANGE + 1), slice(CHANGE, MIN_FRAMES))
    (first, size, before), (second, _, after) = (
        oracle.read_motion(position[half], radius[half]) for half in halves
    )
    step = np.abs(np.diff(position, axis=0)).max()  # nan is never less
    steady = step < oracle.MAX_JUMP and np.ptp(radius) < oracle.MAX_JUMP
    return first, second, size, bool(before and after and steady)


def agree(truth: Truth, read: Truth) -> dict[str, bool]:
    """Which parts were read right; shape, color and motion must be right before and after the
    event. "all": everything is right and the clip is clean."""
    right = {
        # a clip that is too short has no event and nothing second
        name: all(truth.get(key) == read.get(key) for key in (name, f"second_{name}"))
        for name in SCORES[:-2]
    }
    right["clean"] = read["clean"]
    return {**right, "all": all(right.values())}


def order(truth: Truth, read: Truth) -> str:
    """In which order a clip shows what its caption names before and after the event: "right",
    "swapped", "only one" if one of the two is shown, or "neither"."""
    names = CHANGES[truth["event"]]

    def before_and_after(one: Truth) -> list[list[str]]:
        second = [one.get(f"second_{name}") or one[name] for name in names]
        return [[one[name] for name in names], second]

    wanted, shown = before_and_after(truth), before_and_after(read)
    if wanted == shown:
        return "right"
    if wanted == shown[::-1]:
        return "swapped"
    return "only one" if any(one in shown for one in wanted) else "neither"


EVENTS_WORLD = World(
    name="events", words=WORDS, splits=("train", "held_out", "held_out_motion"), scores=SCORES,
    clip=clip, describe=describe, agree=agree, parse=parse, caption=caption, shows_all=MIN_FRAMES,
)  # fmt: skip
