"""What a world is: clips with captions, and an oracle that reads the pixels back.

A world draws clip number `index` of a `seed`, says what is in it, and judges whether a clip shows
what its prompt names. Training and evaluation know worlds by this protocol only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minisora import draws
from minisora.errors import InputError

Truth = dict[str, Any]  # what a clip shows, attribute by attribute


@dataclass(frozen=True)
class Clip:
    """A clip and the truth about it. `truth` has the keys of the world's `describe`."""

    frames: np.ndarray  # uint8 (T, H, W, 3)
    caption: str  # rich: every attribute
    short_caption: str  # lossy, as people write
    truth: Truth
    world: str  # the name of the world it belongs to


@dataclass(frozen=True)
class World:
    """A named set of functions that agree with each other: for every clip,
    `agree(clip.truth, describe(clip.frames))["all"]` and `parse(clip.caption)` gives the truth."""

    name: str
    words: frozenset[str]  # every word of every caption
    splits: tuple[str, ...]  # disjoint parts; "train" is trained on
    scores: tuple[str, ...]  # the keys of `agree`, in the order of a table; the last is "all"
    # (seed, index, num_frames, height, width, split); validation asks for the splits "held_out" and
    # "all", which a world without held-out clips may take for "train"
    clip: Callable[..., Clip]
    # uint8 (T, H, W, 3) -> the keys of a truth, among them "clean": nothing is wrong with the clip
    describe: Callable[[np.ndarray], Truth]
    agree: Callable[[Truth, Truth], dict[str, bool]]  # (truth, what describe read)
    parse: Callable[[str], Truth | None]  # what a text names; None if it is of another world
    caption: Callable[[Truth], str]  # the rich caption of a truth
    shows_all: int = 2  # frames from which on a longer clip has the same caption


WORLDS: dict[str, World] = {}


def register(world: World) -> World:
    """Makes a world known by its name."""
    WORLDS[world.name] = world
    return world


def get(name: str) -> World:
    """The world of that name. Raises InputError if there is none."""
    if name not in WORLDS:
        raise InputError(f"no world {name!r}: the worlds are {', '.join(WORLDS)}")
    return WORLDS[name]


class Mixture:
    """Several worlds, each with its share of the clips: {"pairs": 0.45, "shapes": 0.55}.

    Shares are relative to their sum, and their order does not matter. Raises InputError for
    unknown worlds and impossible shares.
    """

    def __init__(self, shares: dict[str, float]) -> None:
        shares = dict(sorted(shares.items()))
        total = sum(shares.values())
        if not shares or min(shares.values()) < 0 or not 0 < total < float("inf"):
            raise InputError(
                f"worlds need shares of 0 or more that sum to more than 0, got {shares}"
            )
        self.worlds = [get(name) for name in shares]
        self.shares = {name: share / total for name, share in shares.items()}

    @property
    def names(self) -> list[str]:
        """The worlds that clips are drawn from, sorted: those with a share above 0."""
        return [name for name, share in self.shares.items() if share]

    @property
    def words(self) -> list[str]:
        """All words, sorted, also of worlds with share 0: room for later training."""
        return sorted(frozenset().union(*(world.words for world in self.worlds)))

    def pick(self, drawn: float) -> World:
        """The world of a uniform number in [0, 1): each has its share of the interval."""
        for world in self.worlds:
            drawn -= self.shares[world.name]
            if drawn < 0:
                return world
        return self.worlds[-1]  # the shares sum to 1 only up to rounding

    def world_of(self, seed: int, index: int) -> World:
        """The world that clip number `index` comes from."""
        return self.pick(draws.rng("mixture", seed, index).random())

    def clip(
        self,
        seed: int,
        index: int,
        num_frames: int = 17,
        height: int = 32,
        width: int = 32,
        split: str = "train",
    ) -> Clip:
        """Clip number `index`: the same clip on every machine, in any order."""
        return self.world_of(seed, index).clip(seed, index, num_frames, height, width, split)
