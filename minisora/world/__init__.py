"""The toy universe. A world is `clip(seed, index, ...)` -> frames, captions and truth, and
`describe(frames)`, the oracle that reads the truth back from the pixels. Here is the world of one
object; `pairs` is the world of two."""

from minisora.world import pairs, shapes
from minisora.world.oracle import ATTRIBUTES, agree, describe
from minisora.world.shapes import (
    HELD_OUT,
    HELD_OUT_MOTIONS,
    SPLITS,
    Clip,
    caption,
    clip,
    draw_attributes,
    parse,
)

WORDS = shapes.WORDS | pairs.WORDS  # every word of every caption

__all__ = [
    "ATTRIBUTES",
    "HELD_OUT",
    "HELD_OUT_MOTIONS",
    "SPLITS",
    "WORDS",
    "Clip",
    "agree",
    "caption",
    "clip",
    "describe",
    "draw_attributes",
    "pairs",
    "parse",
    "shapes",
]
