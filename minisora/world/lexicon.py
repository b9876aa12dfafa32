"""Other people's words for what captions name: "a crimson ball drifting leftwards".

The lexicon says what each wording means in the words of captions. Colors are the 949 names of the
xkcd color survey (colors.tsv, CC0), each with an RGB value: a name means the nearest of our eight,
if that is near. A third of all wordings is held out: never trained on.
"""

import itertools
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from minisora.world import shapes

NEAR = 50.0  # largest distance, in CIELAB, at which a color is called by the name of another

SHAPES = {
    "circle": "ball, disc, disk, orb, dot, round, sphere, globe, marble, bubble, coin, ring, bead, spot",
    "square": "box, block, cube, tile, quad, brick, dice, quadrangle",
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
    "gray": "grey, ash, ashen, slate, silver, concrete",
    "navy": "navy blue, midnight blue, dark blue, deep blue, night blue",
    "pink": "rose, blush, bubblegum, salmon pink, light pink, baby pink",
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
WAYS = {
    "left": "left, leftward, leftwards, to the left, west, westward",
    "right": "right, rightward, rightwards, to the right, east, eastward",
    "up": "up, upward, upwards, skyward, north, northward",
    "down": "down, downward, downwards, earthward, south, southward",
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
    "then": "and then, followed by, afterwards, later, before",
    "turning into": "becoming, changing into, morphing into, transforming into, evolving into",
}
GROUNDS = {"background": "backdrop, screen, canvas, field, ground, surface"}


@cache
def colors() -> dict[str, str]:
    """What each color name of the survey means: "crimson" -> "red". Names that no color of ours is
    near to, and those that hold another color's name, are left out."""
    lines = Path(__file__).with_name("colors.tsv").read_text().splitlines()
    named = dict(line.split("\t") for line in lines)
    values = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in named.values()])
    ours = lab(np.array(list(shapes.COLORS.values())))  # (8, 3)
    apart = np.linalg.norm(lab(values / 255)[:, None] - ours, axis=-1)  # (949, 8)
    known = {*shapes.COLORS, *shapes.BACKGROUNDS}
    return {
        name: meaning
        for name, meaning, distance in zip(
            named, np.array(list(shapes.COLORS))[apart.argmin(1)].tolist(), apart.min(1), strict=True
        )
        if distance < NEAR and name not in known and not known & set(name.split()) - {meaning}
    }


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> CIELAB under D65, (..., 3): distances are about as the eye sees them."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def motions() -> dict[str, list[str]]:
    """Wordings of each motion: a verb and a way, or one word."""
    said = {motion: split(words) for motion, words in (STILL | WHOLE_MOTIONS).items()}
    for motion in shapes.DIRECTIONS:
        ways = motion.removeprefix("moving ").split(" and ")
        spoken = [" and ".join(way) for way in itertools.product(*(split(WAYS[w]) for w in ways))]
        verbs = ["moving", *VERBS]
        both = [f"{verb} {way}" for verb in verbs for way in spoken if f"{verb} {way}" != motion]
        said.setdefault(motion, []).extend(both)
    return said


def split(words: str) -> list[str]:
    return words.split(", ")


@cache
def lexicon() -> dict[str, tuple[str, str]]:
    """Each wording -> what it means, and its kind: "color", "shape", ..."""
    kinds: dict[str, dict[str, list[str]]] = {
        "shape": {key: split(words) for key, words in SHAPES.items()},
        "size": {key: split(words) for key, words in SIZES.items()},
        "background": {key: split(words) for key, words in BACKGROUNDS.items()},
        "motion": motions(),
        "relation": {key: split(words) for key, words in RELATIONS.items()},
        "event": {key: split(words) for key, words in EVENTS.items()},
        "ground": {key: split(words) for key, words in GROUNDS.items()},
    }
    found = {name: (meaning, "color") for name, meaning in colors().items()}
    for kind, meanings in kinds.items():
        found |= {word: (meaning, kind) for meaning, words in meanings.items() for word in words}
    return found


def is_held_out(wording: str) -> bool:
    """Whether a wording is never trained on: a third of them."""
    return zlib.crc32(wording.encode()) % 3 == 0
