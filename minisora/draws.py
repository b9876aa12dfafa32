"""Random numbers by name: every draw is a function of (name, seed, step or index, rank).

Nothing is drawn from a global generator. So a resumed run needs no random state, a clip is the same
on every machine, and two uses of one seed never share their numbers.
"""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The streams that shipped clips and weights were made with keep their numbers. Any other name
# gets its number from a hash, so a new world or a new draw needs no entry here.
NUMBERS = {
    # by clip index
    "shapes": 0,  # NumPy ignores a trailing 0 in a short key: equals default_rng((seed, index))
    "pairs": 2,
    "mixture": 3,
    "prompt": 4,
    "caption choice": 5,
    "human caption": 6,
    # by training step
    "training": 0,
    "length": 1,
    "validation": 2,
}


def stream_number(name: str) -> int:
    """The number that keeps the stream `name` apart from all others."""
    return NUMBERS.get(name, zlib.crc32(name.encode()))


def rng(name: str, seed: int, index: int) -> np.random.Generator:
    """NumPy's generator for item `index` (a clip, a prompt) of the stream `name`."""
    return np.random.default_rng((seed, index, stream_number(name)))


def generator(name: str, seed: int, step: int, rank: int = 0) -> "torch.Generator":
    """PyTorch's generator for one training step on one rank."""
    import torch  # here, so that the worlds load without it

    key = (seed, step, rank, stream_number(name))
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@dataclass(frozen=True)
class Ranks:
    """Which samples this process works on.

    `sharing` neighboring processes work on one sample together (context parallelism), so they must
    draw alike: they have one `rank` here. `count` is the number of such groups.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of(cls, process: int, processes: int, sharing: int = 1) -> "Ranks":
        """Process number `process` of `processes`. Raises ValueError if groups come out uneven."""
        if processes % sharing:
            raise ValueError(f"{processes} processes do not form groups of {sharing}")
        return cls(process // sharing, processes // sharing)
