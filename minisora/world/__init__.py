"""The toy worlds: each draws clips with captions, and reads its own pixels back.

The functions here are those of the world of one object, `shapes`; `pairs` is the world of two, and
in `events` something happens to one. `WORLDS` holds all worlds by name, `Mixture` draws from
several, and `language` is what people type about them. A new world is one file and one line that
registers it.
"""

from minisora.world import events, language, oracle, pairs, shapes
from minisora.world.oracle import ATTRIBUTES, agree, describe
from minisora.world.protocol import WORLDS, Clip, Mixture, World, get, register
from minisora.world.shapes import (
    HELD_OUT,
    HELD_OUT_MOTIONS,
    SPLITS,
    caption,
    clip,
    draw_attributes,
    parse,
)

# `world_of_prompt` asks the last one first; "shapes" accepts any text
register(oracle.SHAPES_WORLD)
register(pairs.PAIRS_WORLD)
register(events.EVENTS_WORLD)

# every word of every caption of every world
WORDS: frozenset[str] = frozenset().union(*(world.words for world in WORLDS.values()))


def world_of_prompt(text: str) -> World:
    """The world that a text is about: the last registered world that can parse it."""
    return next(world for world in reversed(WORLDS.values()) if world.parse(text) is not None)


__all__ = [
    "ATTRIBUTES", "HELD_OUT", "HELD_OUT_MOTIONS", "SPLITS", "WORDS", "WORLDS",
    "Clip", "Mixture", "World",
    "agree", "caption", "clip", "describe", "draw_attributes", "events", "get", "language", "pairs",
    "parse", "register", "shapes", "world_of_prompt",
]  # fmt: skip
