"""The language of the toy worlds: short, incomplete and wrong texts as people write them, drawn
from rich captions, and whether a rich caption keeps all that a short text names."""

import re

import numpy as np

from minisora import draws
from minisora.errors import InputError
from minisora.world import events, lexicon, pairs, shapes
from minisora.world.protocol import Clip, Mixture, Truth

WORLDS = ("shapes", "pairs", "events")  # that people speak of here
OBJECT_COLORS = tuple(shapes.COLORS)
COLOR_WORDS = (*shapes.COLORS, *shapes.BACKGROUNDS)  # of objects and backgrounds
SHAPE_WORDS = shapes.SHAPES
# "moving", "standing", ...
MOTION_WORDS = tuple(dict.fromkeys(motion.split()[0] for motion in shapes.MOTIONS))
EVENT_WORDS = tuple(event.split()[0] for event in events.EVENTS)  # "then", "turning"
# a false word is another of the same group; "moving up and left" comes before its part "moving up"
GROUPS = (OBJECT_COLORS, SHAPE_WORDS, sorted(shapes.DIRECTIONS, key=len, reverse=True))

# forms that `shorten` never draws: the background comes first or in the middle
VALIDATION_FORMS = (
    "on {background}: {color} {shape}",
    "{shape} on {background}, {motion}",
    "{background} background, {motion}, {shape}, {size}",
)
EVENT_FORMS = {
    "then": (
        "on {background}: {color} {shape} {motion}, then {second_motion}",
        "{shape} on {background}, {motion}, then {second_motion}",
    ),
    "turning into": (
        "on {background}: {color} {shape} turning into {second_color} {second_shape}",
        "{shape} on {background}, {motion}, turning into {second_shape}, {size}",
    ),
}


# What people type


def shorten(rich: str, rng: np.random.Generator) -> str:
    """Draws what a user might type for a rich caption: drops words, and may reorder the rest."""
    if event := events.parse(rich):
        return shorten_event(event, rng)
    named = pairs.parse(rich)
    return shorten_object(rich, rng) if named is None else shorten_pair(named, rng)


def shorten_object(rich: str, rng: np.random.Generator) -> str:
    """Keeps the shape and, with a chance of 0.6 each, every other attribute of one object."""
    named = shapes.parse(rich)
    kept = {name: word for name, word in named.items() if word and rng.random() < 0.6}
    kept["shape"] = str(named["shape"])  # without it "red" could mean a background
    background = kept.pop("background", "")
    names = [name for name in ("size", "color", "shape", "motion") if name in kept]
    if rng.random() < 0.3:  # any order, as in "circle red large"
        names = [names[i] for i in rng.permutation(len(names))]
    # the background comes last; the validation forms put it elsewhere
    article = "a" if rng.random() < 0.4 else ""
    forms = ("on {}", "on a {} background", "{} background")
    end = forms[rng.integers(len(forms))].format(background) if background else ""
    return " ".join(filter(None, [article, *(kept[name] for name in names), end]))


def shorten_pair(named: Truth, rng: np.random.Generator) -> str:
    """Shortens both objects; may drop the background and replace the relation by "and"."""
    first, second = (shorten_object(pairs.phrase(one), rng) for one in named["objects"])
    background = f"on {named['background']}" if rng.random() < 0.3 else ""
    relation = named["relation"] if rng.random() < 0.85 else "and"
    return f"{first} {relation} {second} {background}".strip()


def shorten_event(named: Truth, rng: np.random.Generator) -> str:
    """Shortens the object and what it turns into; keeps the event, may drop the background."""
    text = f"{shorten_object(events.phrase(named), rng)} {named['event']} "
    if named["event"] == "then":
        text += named["second_motion"]
        if rng.random() < 0.3:  # "red circle right then up"
            text = text.replace("moving ", "")
    else:
        text += shorten_object(f"a {named['second_color']} {named['second_shape']}", rng)
    return f"{text} on {named['background']}" if rng.random() < 0.3 else text


def draw_prompt(seed: int, index: int, mixture: Mixture) -> tuple[str, str]:
    """Draws what a user might type, and the rich caption behind it, from the training split."""
    rng = draws.rng("prompt", seed, index)
    world = mixture.pick(rng.random())
    # enough for a motion or an event; more frames take longer to render
    frames = events.MIN_FRAMES if world is events.EVENTS_WORLD else 2
    rich = world.clip(seed, index, frames, 8, 8).caption
    return shorten(rich, rng), rich


def validation_prompt(seed: int, index: int, world: str = "shapes") -> str:
    """A prompt about one object, in a form that `draw_prompt` never draws: of "shapes" or
    "events"."""
    clip = events.clip if world == "events" else shapes.clip
    truth = clip(seed, index, events.MIN_FRAMES, 8, 8, split="all").truth  # held-out pairs too
    forms = EVENT_FORMS[truth["event"]] if world == "events" else VALIDATION_FORMS
    form = forms[index % len(forms)]
    return form.format(**truth | {"size": truth["size"] or ""}).strip(", ")  # it may have no size


# What people write about clips


def human_caption(clip: Clip, rng: np.random.Generator, wrong: float, typos: float) -> str:
    """A short caption with a false word with chance `wrong`, and a typo with chance `typos`."""
    caption = clip.short_caption
    if rng.random() < wrong:
        caption = replace_word(caption, rng)
    if rng.random() < typos:
        caption = drop_letter(caption, rng)
    return caption


def replace_word(caption: str, rng: np.random.Generator) -> str:
    """Replaces one color, shape or direction by another. Needs a caption that names one."""
    found = [(group, next((word for word in group if word in caption), "")) for group in GROUPS]
    named = [(group, word) for group, word in found if word]
    group, word = named[rng.integers(len(named))]
    others = [other for other in group if other != word]
    return caption.replace(word, others[rng.integers(len(others))], 1)


def drop_letter(caption: str, rng: np.random.Generator) -> str:
    """Removes a letter, never the first, from one word: a long word is more likely."""
    words = caption.split()
    # one-letter words score 0 and stay as they are
    chosen = int(np.argmax([(len(word) - 1) * rng.random() for word in words]))
    letter = rng.integers(1, max(2, len(words[chosen])))
    words[chosen] = words[chosen][:letter] + words[chosen][letter + 1 :]
    return " ".join(words)


# What a prompt keeps


def keeps(short: str, rich: str) -> bool:
    """Whether `rich` is a complete caption that says all that `short` names, equally often.

    A size in `short` is ignored where captions have none: for two objects, and for growing and
    shrinking ones.
    """
    if events.parse(short) or events.parse(rich):
        return keeps_event(short, rich)
    typed, written = pairs.parse(short), pairs.parse(rich)
    if (typed is None) != (written is None) or not repeats(short, rich):
        return False
    if typed is None or written is None:
        return keeps_object(short, rich)
    # (what was typed, what is written) of every attribute; what was not typed is None
    named = [(typed[name], written[name]) for name in ("relation", "background")]
    for one, other in zip(typed["objects"], written["objects"], strict=True):
        named += [(one[name], other[name]) for name in pairs.ATTRIBUTES]
    complete = all(all(one.values()) for one in written["objects"])
    kept = all(one == other for one, other in named if one)
    return complete and kept and pairs.caption(written) == plain(rich)


def repeats(short: str, rich: str) -> bool:
    """Whether every attribute word is in `rich` at least as often as in `short`."""
    typed, written = plain(short).split(), plain(rich).split()
    words = {*COLOR_WORDS, *SHAPE_WORDS, *MOTION_WORDS, *EVENT_WORDS}
    if any(size in written for size in shapes.SIZES):  # else no size can be kept
        words |= set(shapes.SIZES)
    return all(typed.count(word) <= written.count(word) for word in words)


def keeps_object(short: str, rich: str) -> bool:
    """`keeps` for captions of one object."""
    typed, written = shapes.parse(short), shapes.parse(rich)
    required = set(written)
    if written["motion"] in shapes.FIRST_SIZE:  # such a clip has no size
        required.remove("size")
        typed["size"] = written["size"] = None
    return (
        all(written[name] for name in required)
        and shapes.caption(written) == plain(rich)
        and all(written[name] == word for name, word in typed.items() if word)
    )


def keeps_event(short: str, rich: str) -> bool:
    """`keeps` for captions of one object to which something happens: the event is kept too."""
    short, rich = events.spell_out(short), events.spell_out(rich)
    typed, written = events.parse(short), events.parse(rich)
    if typed is None or written is None or pairs.parse(short) or not repeats(short, rich):
        return False
    kept = all(written[name] == word for name, word in typed.items() if word)
    return kept and is_event(written) and plain(events.caption(written)) == rich


def is_event(named: Truth) -> bool:
    """Whether nothing is missing in what a caption names, and it can happen in `events`."""
    changes = events.CHANGES[named["event"]]
    needed = (*shapes.VALUES, *(f"second_{name}" for name in changes))
    motions = {named["motion"], named["second_motion"] or named["motion"]}
    return (
        all(named[name] for name in needed)
        and all(named[name] != named[f"second_{name}"] for name in changes)
        and motions <= set(events.MOTIONS)
    )


def plain(text: str) -> str:
    """Lower-case words, without punctuation."""
    return " ".join(re.findall("[a-z]+", text.lower()))


def is_complete(prompt: str, image: bool = False) -> bool:
    """Whether a prompt is the full caption of a clip, or of an `image`: that one has no motion."""
    if not image:
        return keeps(prompt, prompt)
    scene: Truth = pairs.parse(prompt) or shapes.parse(prompt)
    objects = scene.get("objects", [scene])
    missing = {name for part in (scene, *objects) for name, word in part.items() if not word}
    still = all(one["motion"] is None for one in objects)
    full = pairs.caption(scene) if "objects" in scene else shapes.caption(scene)
    return still and missing == {"motion"} and full == plain(prompt)


# The same scene in other words


def in_order(caption: str) -> str:
    """Rewrites the rich caption "b below a" as "a above b", and that of an event without comma, as
    a captioner writes it. Any other text stays as it is."""
    if events.parse(caption) and is_complete(caption):
        return plain(caption)
    scene = pairs.parse(caption)
    if scene is None or scene["relation"] not in pairs.SECOND_HALF:
        return caption
    if pairs.caption(scene) != caption:  # not rich
        return caption
    scene["objects"] = scene["objects"][::-1]
    scene["relation"] = pairs.OPPOSITE[scene["relation"]]
    return pairs.caption(scene)


def image_caption(rich: str) -> str:
    """The caption of the first frame of the clip that `rich` describes: it has no motion.

    Any text that is not the full caption of a clip stays as it is.
    """
    if not is_complete(rich):
        return rich
    if event := events.parse(rich):
        return shapes.caption(events.visible(event, num_frames=1))
    scene = pairs.parse(rich)
    if scene is None:
        # an empty size, of what grows or shrinks, is filled in by `visible`
        named = {name: word or "" for name, word in shapes.parse(rich).items()}
        return shapes.caption(shapes.visible(named, num_frames=1))
    scene["objects"] = [pairs.visible(one, num_frames=1) for one in scene["objects"]]
    return pairs.caption(scene)


def named_right(prompt: str, read: Truth) -> bool:
    """Whether one clean object with all that the prompt names, and its event, is what `describe`
    read."""
    named = events.parse(prompt) or shapes.parse(prompt)
    return read["clean"] and all(read.get(name) == word for name, word in named.items() if word)


# Captions of changed and joined clips

# requests are commands ("make it grow"), captions say what happens
ASKED = {form.removesuffix("s"): verb for form, verb in lexicon.FORMS.items()} | {
    "go": "going", "fly": "flying", "stop": "standing still", "stop moving": "standing still",
    "stand still": "standing still", "bigger": "large", "larger": "large", "smaller": "small",
}  # fmt: skip


def asked(request: str) -> str:
    """A request in the forms of captions: "make it move left" is "make it moving left"."""
    for words in sorted(ASKED, key=len, reverse=True):
        request = re.sub(rf"(?<!getting )\b{words}\b", ASKED[words], request, flags=re.I)
    return request


def altered(caption: str, request: str) -> str:
    """The caption of a clip or an image after a request in captions' words: "make it blue", "change
    red to green", "on a pink background", "moving left".

    A request that is a full caption is returned as it is, and so is any if `caption` is none. What
    it names replaces what the caption of one object says; of two values the one that the caption
    has not, or the last; an event is added. Raises InputError if it names nothing, if one of them
    is about two objects, and if an image is to move.
    """
    image = is_complete(caption, image=True)
    if is_complete(request) or is_complete(request, image=True):
        return request
    if not (image or is_complete(caption)):
        return request
    if pairs.parse(caption) or pairs.parse(request):
        raise InputError(
            f"{request!r} does not say which of two objects is meant: write the whole caption"
        )
    now: Truth = events.parse(caption) or shapes.parse(caption)
    named: Truth = events.parse(request) or shapes.parse(request) | others_than(now, request)
    if not any(named.values()):
        raise InputError(
            f"{request!r} names nothing that can change: name a shape, color, motion, size or "
            "background"
        )
    if image and (named.get("motion") or named.get("event")):
        raise InputError(f"an image does not move, as {request!r} asks for: animate it")
    second = dict.fromkeys(("second_motion", "second_shape", "second_color"))
    if named.get("event"):  # what happened before no longer does
        now |= second
    new = second | now | {name: word for name, word in named.items() if word}
    if not new.get("size"):  # what grows or shrinks has none
        new["size"] = shapes.FIRST_SIZE.get(now["motion"] or "", "small")
    if new.get("event"):
        if not is_event(new):
            raise InputError(
                f"no caption says {request!r} of {caption!r}: an object turns into one of another "
                "shape and color, or moves on in another way"
            )
        return events.caption(new)
    changed = {name: word or "" for name, word in new.items()}
    return shapes.caption(shapes.visible(changed, num_frames=1 if image else 2))


def others_than(now: Truth, request: str) -> Truth:
    """The values that a request names, and that a caption of `now` does not: the last of each."""
    words = re.findall("[a-z]+", request.lower())
    return {
        name: word
        for name in ("shape", "color", "size", "background")
        for word in words
        if word in shapes.VALUES[name] and word != now[name]
    }


def joined(first: str, second: str) -> str:
    """The caption of a clip that begins as `first` and ends as `second`, captions of one object: it
    turns into another, or moves on in another way. If no caption says that, it is the first."""
    start, end = shapes.parse(first), shapes.parse(second)
    scenes = [read(text) for text in (first, second) for read in (pairs.parse, events.parse)]
    if any(scenes) or start == end:
        return first
    event = (
        "turning into"
        if (start["shape"], start["color"]) != (end["shape"], end["color"])
        else "then"
    )
    changes = {f"second_{name}": end[name] for name in events.CHANGES[event]}
    scene = dict.fromkeys(("second_motion", "second_shape", "second_color")) | start | changes
    scene["event"] = event
    return events.caption(scene) if is_event(scene) else first


def is_small_change(first: str, second: str) -> bool:
    """Whether two captions differ in one attribute of one object at most, and not in a motion."""
    one, other = named_by(first), named_by(second)
    if one.keys() != other.keys():
        return False
    changed = [name for name, word in one.items() if other[name] != word]
    return len(changed) < 2 and not any(name.endswith(("motion", "event")) for name in changed)


def named_by(caption: str) -> Truth:
    """All that a caption names; of two objects "0 color", "1 color" and so on."""
    scene: Truth = pairs.parse(caption) or events.parse(caption) or shapes.parse(caption)
    objects = scene.pop("objects", [])
    parts = {f"{i} {name}": word for i, one in enumerate(objects) for name, word in one.items()}
    return scene | parts
