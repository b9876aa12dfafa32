"""Other people's words for what captions name: "a crimson ball drifting leftwards".

The lexicon says what each wording means in the words of captions. `in_our_words` looks wordings up
in a text, `reword` puts them into one. A third of all wordings is held out: never trained on.

Color names are those of the xkcd color survey (colors.tsv, CC0: 949 names, each with an RGB value).
A name that ends with one of our colors means that one, any other the color of the nearest hue.
"""

import itertools
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from minisora.world import shapes

# What captions say: other wordings of it

SHAPES = {
    "circle": "ball, disc, disk, orb, dot, sphere, globe, marble, bubble, coin, ring, bead, spot",
    "square": "box, block, cube, tile, quad, dice, quadrangle",
    "triangle": "pyramid, wedge, cone, delta, arrowhead, trigon",
    "star": "pentagram, starlet, asterisk, sparkle, starfish, pentacle",
    "cross": "plus, crucifix, plus sign, crosshair, letter x, times sign",
}
SIZES = {
    "small": "tiny, little, mini, miniature, petite, minute, wee, teeny, compact, slight",
    "large": "big, huge, giant, enormous, massive, great, sizeable, jumbo, immense, bulky",
}
BACKGROUNDS = {
    "black": "pitch black, jet black, coal black, inky, ebony, night",
    "gray": "grey, ash, ashen, silver, concrete",
    "navy": "navy blue, midnight blue, dark blue, deep blue, night blue",
    "pink": "rose, blush, bubblegum",
}
STILL = {
    "standing still": "at rest, resting, motionless, not moving, stationary, static, frozen, fixed, "
    "parked, idle, holding still",
    "growing": "expanding, swelling, enlarging, inflating, getting bigger, getting larger, widening",
    "shrinking": "contracting, deflating, dwindling, getting smaller, diminishing, narrowing",
    "bouncing": "hopping, jumping, bobbing, leaping, springing, skipping, rebounding",
}
VERBS = (
    "going", "drifting", "sliding", "gliding", "heading", "traveling", "floating", "flying",
    "running", "rolling", "crawling", "shifting", "creeping", "racing",
)  # fmt: skip
FORMS = {  # "a ball drifts left"
    "moves": "moving", "goes": "going", "drifts": "drifting", "slides": "sliding",
    "glides": "gliding", "heads": "heading", "travels": "traveling", "floats": "floating",
    "flies": "flying", "runs": "running", "rolls": "rolling", "crawls": "crawling",
    "shifts": "shifting", "creeps": "creeping", "races": "racing", "rises": "rising",
    "climbs": "climbing", "falls": "falling", "drops": "dropping", "sinks": "sinking",
    "rests": "resting", "grows": "growing", "expands": "expanding", "swells": "swelling",
    "enlarges": "enlarging", "shrinks": "shrinking", "contracts": "contracting",
    "deflates": "deflating", "bounces": "bouncing", "hops": "hopping", "jumps": "jumping",
    "turns": "turning", "becomes": "becoming", "changes": "changing",
}  # fmt: skip
WAYS = {
    "left": "left, leftward, leftwards, to the left, west, westward",
    "right": "right, rightward, rightwards, to the right, east, eastward",
    "up": "up, upward, upwards, skyward, north, northward",
    "down": "down, downward, downwards, earthward, south, southward",
}
DIAGONALS = {
    "moving up and left": "to the upper left, to the top left, northwest",
    "moving up and right": "to the upper right, to the top right, northeast",
    "moving down and left": "to the lower left, to the bottom left, southwest",
    "moving down and right": "to the lower right, to the bottom right, southeast",
}
WHOLE_MOTIONS = {
    "moving up": "rising, climbing, ascending, soaring, lifting off",
    "moving down": "falling, dropping, sinking, descending, coming down",
}
RELATIONS = {
    "above": "over, on top of, higher than, atop",
    "below": "under, beneath, underneath, lower than",
    "left of": "to the left of, on the left of, west of",
    "right of": "to the right of, on the right of, east of",
}
EVENTS = {
    "then": "and then, followed by, afterwards, later, after that",
    "turning into": "becoming, changing into, morphing into, transforming into, evolving into",
}
PREPOSITIONS = {"on": "against, over, before, in front of, upon"}  # that lead to a background
GROUNDS = {"background": "backdrop, screen, canvas, field, ground, surface"}
ARTICLES = ("a", "an", "the", "one")
TABLES = {
    "shape": SHAPES, "size": SIZES, "background": BACKGROUNDS, "relation": RELATIONS,
    "event": EVENTS, "preposition": PREPOSITIONS, "ground": GROUNDS,
}  # fmt: skip

LETTERS = re.compile("[A-Za-z]+")

# Kinds of wordings. Those of a ground count in a phrase such as "on a grey screen" alone, so that
# "dark blue" is navy there and blue anywhere else.
GROUND_KINDS = ("preposition", "background", "ground")
OBJECT_KINDS = ("motion", "relation", "event", "shape", "size", "color")
KINDS = (*OBJECT_KINDS, *GROUND_KINDS)

# Color names

SPELLED = {"grey": "gray"}
CRUDE = {"poo", "poop", "shit", "piss", "puke", "vomit", "diarrhea", "snot", "booger", "bile"}
MODIFIERS = {"pale", "dark", "bland", "drab", "royal"}  # names, but more often parts of names
GRAY, PALE, DARK = 0.04, 0.09, 0.25  # chroma of grays, of tints of white, lightness of near black
CONES = np.array([[0.4122, 0.5363, 0.0515], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]])
AXES = np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> lightness, a and b, (..., 3). The angle of (a, b) is the hue as the eye
    sees it. Source: Ottosson, "A perceptual color space for image processing" (2020)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ CONES.T) @ AXES.T


def nearest(rgb: np.ndarray) -> str | None:
    """The color of ours of the nearest hue, "white" for tints of it, "gray", or None if nearly
    black."""
    lightness, a, b = oklab(rgb)
    chroma = np.hypot(a, b)
    if chroma < GRAY:
        return "white" if lightness > 0.75 else "gray" if lightness > 0.35 else None
    if lightness > 0.93 and chroma < PALE:
        return "white"
    colors = [name for name in shapes.COLORS if name != "white"]
    ours = oklab(np.array([shapes.COLORS[name] for name in colors]))  # (7, 3)
    turn = np.angle((a + 1j * b) / (ours[:, 1] + 1j * ours[:, 2]))  # (7,) from -pi to pi
    return colors[np.abs(turn).argmin()] if lightness > DARK else None


def meaning_of(name: str, rgb: np.ndarray) -> str | None:
    """What a color name means: the word of ours that it ends with or, if it holds none, the nearest.
    None for a name with two of our words, or with one that does not fit its color."""
    words = [SPELLED.get(word, word) for word in re.findall("[a-z]+", name)]
    ours = {word for word in words if word in shapes.COLORS or word in shapes.BACKGROUNDS}
    if name in ours or name in MODIFIERS or CRUDE.intersection(words):
        return None
    if len(ours) == 1 and words[-1] in ours:
        return words[-1]
    found = nearest(rgb)
    return found if ours <= {found} else None


@cache
def color_names() -> dict[str, str]:
    """Names of the survey and what they mean: "crimson" -> "red", "steel grey" -> "gray"."""
    lines = Path(__file__).with_name("colors.tsv").read_text().splitlines()
    found = {}
    for name, code in (line.split("\t") for line in lines):  # "acid green", "#8ffe09"
        rgb = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        if meaning := meaning_of(name, rgb):
            found[name] = meaning
    return found


# The lexicon


def split(words: str) -> list[str]:
    return words.split(", ")


def motions() -> dict[str, list[str]]:
    """Wordings of each motion: one word, or a verb and a way: "drifting up and to the left"."""
    said = {motion: split(words) for motion, words in (STILL | WHOLE_MOTIONS).items()}
    for motion in shapes.DIRECTIONS:
        ways = motion.removeprefix("moving ").split(" and ")
        orders = itertools.permutations([split(WAYS[way]) for way in ways])
        spoken = [" and ".join(way) for order in orders for way in itertools.product(*order)]
        spoken += split(DIAGONALS[motion]) if motion in DIAGONALS else []
        both = [f"{verb} {way}" for verb in ("moving", *VERBS) for way in spoken]
        # "to the left" alone is a place, and "left" a word of captions
        alone = [way for way in spoken if not way.startswith("to ") and way not in ways]
        said.setdefault(motion, []).extend(way for way in (*both, *alone) if way != motion)
    return said


@cache
def lexicon() -> dict[str, dict[str, str]]:
    """What each wording means, by its kind: "dark blue" -> {"color": "blue", "background": "navy"}."""
    found = {
        name: {"color" if meaning in shapes.COLORS else "background": meaning}
        for name, meaning in color_names().items()
    }
    said = [("motion", meaning, words) for meaning, words in motions().items()]
    for kind, table in TABLES.items():
        said += [(kind, meaning, split(words)) for meaning, words in table.items()]
    for kind, meaning, words in said:
        for word in words:
            found.setdefault(word, {})[kind] = meaning
    return found


def is_held_out(wording: str) -> bool:
    """Whether a wording is never trained on: a third of them."""
    return zlib.crc32(wording.encode()) % 3 == 0


@cache
def wordings(kind: str, meaning: str, held_out: bool) -> list[str]:
    """The wordings of a word of captions that are trained on, or those held out."""
    means = {word: kinds for word, kinds in lexicon().items() if kinds.get(kind) == meaning}
    return sorted(word for word in means if is_held_out(word) == held_out)


@cache
def own_words() -> dict[str, dict[str, str]]:
    """The words of captions, each of which means itself, by kind."""
    words = {kind: list(table) for kind, table in TABLES.items()}
    words |= {"color": list(shapes.COLORS), "motion": list(shapes.MOTIONS)}
    return {word: {kind: word} for kind, each in words.items() for word in each}


@cache
def vocabulary() -> list[str]:
    """Every word of every wording and caption, sorted."""
    texts = (*lexicon(), *own_words(), *VERBS, *ARTICLES, "and")
    return sorted({word for text in texts for word in LETTERS.findall(text)})


@cache
def table() -> tuple[dict[tuple[str, ...], dict[str, str]], dict[str, int]]:
    """What wordings and captions' words mean, by kind; and for each first word of a wording how
    many words the longest has."""
    means: dict[tuple[str, ...], dict[str, str]] = {}
    longest: dict[str, int] = {}
    for text, kinds in (*lexicon().items(), *own_words().items()):
        words = tuple(LETTERS.findall(text))
        means[words] = means.get(words, {}) | kinds
        longest[words[0]] = max(longest.get(words[0], 0), len(words))
    return means, longest


# Reading a text


@dataclass(frozen=True)
class Part:
    """Words `start` to `end` of a text, of one kind, and what they mean in words of captions."""

    start: int
    end: int
    kind: str
    meaning: str


class Reading:
    """A text cut into `parts`, the longest wordings first; words that mean nothing are in none."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = list(LETTERS.finditer(text))
        words = [match.group().lower() for match in found]
        self.words = [FORMS.get(word, word) for word in words]
        self.spans = [match.span() for match in found]
        self.parts: list[Part] = []
        start = 0
        while start < len(self.words):
            parts = self.ground(start) or self.object(start)
            for part in parts:
                self.add(part)
            start = parts[-1].end if parts else start + 1

    def add(self, part: Part) -> None:
        """Adds a part. What is said twice in a row, "scarlet red", is one part."""
        last = self.parts[-1] if self.parts else part
        twice = (last.end, last.kind, last.meaning) == (part.start, part.kind, part.meaning)
        if twice and self.joined(part.start):
            part = Part(self.parts.pop().start, part.end, part.kind, part.meaning)
        self.parts.append(part)

    def joined(self, i: int) -> bool:
        """Whether word `i` follows another without punctuation."""
        if not 0 < i < len(self.words):
            return False
        between = self.text[self.spans[i - 1][1] : self.spans[i][0]]
        return not between.strip(" \t\n-/'")

    def longest(self, start: int, kinds: Collection[str]) -> Part | None:
        """The longest wording of these kinds that starts at a word."""
        means, longest = table()
        most = longest.get(self.words[start], 0) if start < len(self.words) else 0
        for end in range(min(start + most, len(self.words)), start, -1):
            found = means.get(tuple(self.words[start:end]), {})
            kind = next((kind for kind in kinds if kind in found), None)
            if kind and all(map(self.joined, range(start + 1, end))):
                return Part(start, end, kind, found[kind])
        return None

    def following(self, start: int, *kinds: str) -> Part | None:
        """`longest`, if no punctuation comes before it."""
        return self.longest(start, kinds) if self.joined(start) else None

    def ground(self, start: int) -> list[Part]:
        """The parts of a phrase such as "on a grey screen", "grey screen" or "on grey"."""
        preposition = self.longest(start, ("preposition",))
        if preposition:
            start = preposition.end
            start += self.joined(start) and self.words[start] in ARTICLES
            background = self.following(start, "background")
        else:
            background = self.longest(start, ("background",))
        if not background:
            return []
        ground = self.following(background.end, "ground")
        if not ground and (not preposition or self.is_shape(background.end)):
            return []
        return [part for part in (preposition, background, ground) if part]

    def is_shape(self, start: int) -> bool:
        """Whether a shape follows, after its colors and sizes."""
        while part := self.following(start, "shape", "color", "size"):
            if part.kind == "shape":
                return True
            start = part.end
        return False

    def object(self, start: int) -> list[Part]:
        """The part of any other kind that starts at a word."""
        part = self.longest(start, OBJECT_KINDS)
        return [part] if part and (part.kind != "event" or self.happens(part)) else []

    def happens(self, event: Part) -> bool:
        """Whether a motion follows "then", or an object "turning into"."""
        start = event.end
        if event.meaning == "then":
            bare = start < len(self.words) and self.words[start] in WAYS
            return bare or self.longest(start, ("motion",)) is not None
        start += start < len(self.words) and self.words[start] in ARTICLES
        return self.longest(start, ("shape", "color", "size")) is not None

    def said(self, part: Part) -> str:
        """A part as the text says it."""
        return self.text[self.spans[part.start][0] : self.spans[part.end - 1][1]]

    def replaced(self, wordings: list[str]) -> str:
        """The text with other wordings of its parts."""
        text, done = "", 0
        for part, wording in zip(self.parts, wordings, strict=True):
            start, end = self.spans[part.start][0], self.spans[part.end - 1][1]
            text, done = text + self.text[done:start] + wording, end
        return text + self.text[done:]


def in_our_words(text: str) -> str:
    """The text in words of captions, where the lexicon knows its wordings: "a crimson ball over
    dark blue" is "a red circle on navy". Captions stay as they are."""
    reading = Reading(text)
    return reading.replaced([part.meaning for part in reading.parts])


def unread(text: str) -> list[str]:
    """The words of a text that neither captions nor the lexicon have, as typed and in order."""
    reading = Reading(text)
    rest = reading.replaced([" "] * len(reading.parts))
    known = {*VERBS, *FORMS, *ARTICLES, "and", *" ".join(own_words()).split()}
    return [word for word in re.findall(r"\w+", rest) if word.lower() not in known]


# Writing one


def reword(
    text: str,
    rng: np.random.Generator,
    held_out: bool = False,
    kinds: Collection[str] = KINDS,
    chance: float = 0.6,
) -> str:
    """Draws another wording, with `chance` each, for the parts of a text in words of captions:
    wordings that are trained on, or those held out. It means the same: a wording that its
    neighbors change is drawn again."""
    reading = Reading(text)
    for _ in range(10):
        said = [reading.said(part) for part in reading.parts]
        for i, part in enumerate(reading.parts):
            others = wordings(part.kind, part.meaning, held_out) if part.kind in kinds else []
            if others and said[i].lower() == part.meaning and rng.random() < chance:
                said[i] = others[rng.integers(len(others))]
        drawn = with_articles(reading.replaced(said), rng)
        if meanings(Reading(drawn)) == meanings(reading):
            return drawn
    return text


def meanings(reading: Reading) -> list[tuple[str, str]]:
    return [(part.kind, part.meaning) for part in reading.parts]


def with_articles(text: str, rng: np.random.Generator) -> str:
    """Writes "an" before a vowel, and "the" for one article of ten."""

    def article(match: re.Match[str]) -> str:
        if rng.random() < 0.1:
            return "the"
        return "an" if match["next"] in "aeiou" else "a"

    return re.sub(r"\ban?(?= (?P<next>[a-z]))", article, text)
