"""The toy universe. A world is `clip(seed, index, ...)` -> frames, captions and truth, and
`describe(frames)`, the oracle that reads the truth back from the pixels."""

from minisora.world.oracle import ATTRIBUTES, agree, describe
from minisora.world.shapes import (
    HELD_OUT,
    HELD_OUT_MOTIONS,
    SPLITS,
    WORDS,
    Clip,
    caption,
    clip,
    draw_attributes,
)

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
]
