"""Training data: a source of clips, seen through a view (see views.py).

The source is a mixture of toy worlds here, and a folder of footage in footage_data.py. Batch k is a
function of (seed, k, rank), so a resumed run needs no state. Ranks share no clips, but for packed
rows, whose clips are drawn freely.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minisora import draws
from minisora.draws import Ranks
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.parallel import ranks_of
from minisora.vae import GROUP, to_pixels
from minisora.world import Clip, Mixture, language, lexicon

Key = TypeVar("Key")
VALIDATION_SEED = 1_000_003  # added to the seed: validation clips are never trained on
FPS = 8


def batch_indices(
    size: int, batch: int, seed: int, step: int, rank: int = 0, ranks: int = 1
) -> np.ndarray:
    """The indices of the clips in this batch, out of `size`: every epoch is a new permutation,
    dealt to the ranks in turn."""
    # positions in the endless sequence of clips
    positions = (step * ranks + rank) * batch + np.arange(batch)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in np.unique(positions // size)
    }
    return np.array([orders[p // size][p % size] for p in positions])


class StepData(L.LightningDataModule):
    """Endless batches, each a function of its step. Subclasses have `batch(step)`, and `words`, the
    vocabulary of the captions."""

    words: list[str]

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        check_seed(seed)
        check_counts(1, 10**6, batch_size=batch_size)
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def ranks(self) -> Ranks:
        return ranks_of(self.trainer)

    def steps_before(self, batch: int) -> int:
        """Optimizer steps taken before this batch; gradients may be accumulated."""
        return batch // (self.trainer.accumulate_grad_batches if self.trainer else 1)

    def train_dataloader(self) -> DataLoader:
        """The batches from the trainer's step on: a resumed run goes on where it was."""
        start = 0
        if self.trainer:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        steps = itertools.count(start)
        return DataLoader(Steps(self.batch), sampler=steps, batch_size=None)  # type: ignore[arg-type]


class Steps(Dataset):
    """Item k is the batch of step k, with its number as "step"."""

    def __init__(self, batch: Callable[[int], dict[str, Any]]) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> dict[str, Any]:
        return {"step": step, **self.batch(step)}


@dataclass(frozen=True)
class Bucket:
    """What the clips of one step have in common, so that they form one tensor."""

    size: int  # its number in `VideoData.sizes`
    frames: int

    @property
    def groups(self) -> int:
        return 1 + (self.frames - 1) // GROUP


class View:
    """What a network is shown of the clips. `validation_split` is the split of the toy worlds that
    it is validated on; `of_footage` says that it shows footage instead."""

    of_footage = False

    validation_split = "all"

    def check(self, data: Any) -> None:
        """Raises InputError if the view cannot be made of these clips, a `VideoData`."""

    def prepare(self, data: Any) -> None:
        """Gets ready before the first batch."""

    def batch(self, data: Any, step: int) -> dict[str, Any]:
        raise NotImplementedError

    def examples(self, data: Any) -> Tensor:
        """Clips for the PCA that a VAE starts from, (N, 3, T, H, W) in [-1, 1]."""
        raise NotImplementedError

    def durations(self, num_frames: int) -> dict[int, float]:
        """The clip lengths, in frames, that are trained on, with the share of steps of each."""
        return {num_frames: 1.0}

    def held_out(self, data: Any, number: int) -> dict[str, Any]:
        """A validation batch of footage: the end of a clip."""
        raise NotImplementedError

    def batch_size(self, data: Any, bucket: Bucket) -> int:
        """Clips in a step of this bucket."""
        return data.batch_size

    @property
    def modes(self) -> list[str]:
        """What may be given, see `canvas.MODES`."""
        return ["text"]


class VideoData(StepData):
    """Clips in buckets of one size and length, seen through `view`. Subclasses say which clips and
    `sizes` there are."""

    worlds: list[str]  # that the clips are from, by name
    sizes: list[tuple[int, int]]  # (height, width)

    def __init__(self, view: View, batch_size: int, seed: int, num_frames: int) -> None:
        super().__init__(batch_size, seed)
        if num_frames % GROUP != 1:
            near = num_frames // GROUP * GROUP + 1
            raise InputError(
                f"data.num_frames must be 1 + 4k, got {num_frames}: the nearest is {near}"
            )
        check_counts(1, 4096, num_frames=num_frames)
        self.view, self.num_frames = view, num_frames

    @property
    def buckets(self) -> dict[Bucket, float]:
        """Every size with every length, and its share of the steps."""
        raise NotImplementedError

    def bucket(self, step: int) -> Bucket:
        """Size and length of the clips of this step, the same on every rank."""
        raise NotImplementedError

    def numbers(self, bucket: Bucket) -> np.ndarray:
        """The clips that have this size and at least this length."""
        raise NotImplementedError

    def captions(self) -> list[str]:
        """Some captions, by which a text encoder can be checked."""
        raise NotImplementedError

    @property
    def trained_on(self) -> dict[str, Any]:
        """What a model that is trained on these clips has seen."""
        return {
            "worlds": self.worlds,
            "sizes": [list(size) for size in self.sizes],
            "durations": sorted(self.view.durations(self.num_frames)),
            "modes": self.view.modes,
            "fps": FPS,
        }

    @property
    def usual(self) -> Bucket:
        """The first size and the most frequent length: what is validated on."""
        durations = self.view.durations(self.num_frames)
        return Bucket(0, max(durations, key=lambda frames: (durations[frames], frames)))

    def check_sizes(self, multiple: int) -> None:
        """Raises InputError if frames are not cut evenly by patches of `multiple` pixels."""
        for height, width in self.sizes:
            if height % multiple or width % multiple:
                raise InputError(
                    f"data.sizes must be multiples of {multiple}, got {height} x {width}"
                )

    def setup(self, stage: str) -> None:
        self.view.prepare(self)

    def batch(self, step: int) -> dict[str, Any]:
        return self.view.batch(self, step)

    def indices(self, step: int) -> np.ndarray:
        """The clips of this step on this rank."""
        bucket, ranks = self.bucket(step), self.ranks
        numbers, batch = self.numbers(bucket), self.view.batch_size(self, bucket)
        at = (batch, self.seed, step, ranks.rank, ranks.count)
        return numbers[batch_indices(len(numbers), *at)]


class ClipData(VideoData):
    """Clips of a mixture of worlds, seen through `view`.

    `worlds` gives each world its share of the clips. `clips` of them, of `num_frames` frames, are
    rendered when training starts, equally many of each of the `sizes` [height, width]. Each step
    draws one size and, if the view says so, one length. Validation draws `validation_clips` others
    of the first size, from the split that the view names.
    """

    def __init__(
        self,
        view: View,
        worlds: dict[str, float] | None = None,
        clips: int = 4000,
        batch_size: int = 16,
        seed: int = 0,
        num_frames: int = 17,
        sizes: list[list[int]] | None = None,
        validation_clips: int = 64,
    ) -> None:
        if view.of_footage:
            raise InputError("data.view shows real footage: name its folder in data.folder")
        super().__init__(view, batch_size, seed, num_frames)
        check_counts(1, 10**7, clips=clips, validation_clips=validation_clips)
        self.source = Mixture(worlds or {"shapes": 1.0})
        self.worlds, self.words = self.source.names, self.source.words
        self.clips, self.validation_clips = clips, validation_clips
        self.sizes = checked_sizes(sizes or [[32, 32]], clips)
        view.check(self)

    @property
    def buckets(self) -> dict[Bucket, float]:
        lengths = self.view.durations(self.num_frames)
        sizes = range(len(self.sizes))
        return {Bucket(size, t): lengths[t] for size in sizes for t in lengths}

    def bucket(self, step: int) -> Bucket:
        durations = self.view.durations(self.num_frames)
        drawn = torch.rand(2, generator=draws.generator("length", self.seed, step)).tolist()
        return Bucket(int(drawn[1] * len(self.sizes)), pick(durations, drawn[0]))

    def numbers(self, bucket: Bucket) -> np.ndarray:
        return np.arange(bucket.size, self.clips, len(self.sizes))

    def clip(self, index: int, num_frames: int | None = None) -> Clip:
        """Training clip number `index`, or its first frames."""
        size = self.sizes[index % len(self.sizes)]
        return self.source.clip(self.seed, index, num_frames or self.num_frames, *size)

    def captions(self) -> list[str]:
        return [self.clip(index).caption for index in range(min(100, self.clips))]

    def val_dataloader(self) -> DataLoader:
        """Batches of {"video", "truths", "captions", "worlds"}, the same on every rank."""
        seed = self.seed + VALIDATION_SEED
        where = (self.usual.frames, *self.sizes[0], self.view.validation_split)
        clips = [self.source.clip(seed, i, *where) for i in range(self.validation_clips)]
        return DataLoader(clips, batch_size=32, collate_fn=collate)  # type: ignore[arg-type]


def checked_sizes(sizes: list[list[int]], clips: int) -> list[tuple[int, int]]:
    """The sizes as tuples. Raises InputError for impossible ones, and if one would get no clip."""
    for size in sizes:
        if len(size) != 2:
            raise InputError(f"data.sizes holds [height, width] each, got {size}")
        check_counts(1, 4096, height=size[0], width=size[1])
    if clips < len(sizes):
        raise InputError(f"{clips} clips are too few for {len(sizes)} sizes: set data.clips")
    return [(height, width) for height, width in sizes]


def pick(shares: dict[Key, float], drawn: float) -> Key:
    """The key of a uniform number in [0, 1): each has its share of the interval."""
    drawn *= sum(shares.values())
    for key, share in shares.items():
        drawn -= share
        if drawn < 0:
            return key
    return key


def collate(clips: list[Clip]) -> dict[str, Any]:
    """A validation batch: pixels (B, 3, T, H, W), and what the clips show."""
    return {
        "video": to_pixels(np.stack([clip.frames for clip in clips])),
        "truths": [clip.truth for clip in clips],
        "captions": [clip.caption for clip in clips],
        "worlds": [clip.world for clip in clips],
    }


class PromptData(StepData):
    """Prompts that users might type, with the rich captions behind them: batches of {"short",
    "rich"}, drawn anew for every step. A share `reworded` of them is in other people's words.

    Validation prompts have forms that are never trained on: the background comes first or in the
    middle.
    """

    def __init__(
        self,
        worlds: dict[str, float] | None = None,
        batch_size: int = 128,
        seed: int = 0,
        reworded: float = 0.5,
        validation_prompts: int = 256,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source = Mixture(worlds or {"shapes": 1.0})
        self.words = self.source.words
        check_shares(reworded=reworded)
        check_counts(1, 10**6, validation_prompts=validation_prompts)
        self.reworded, self.validation_prompts = reworded, validation_prompts

    @property
    def prompt_words(self) -> list[str]:
        """The vocabulary of the prompts."""
        return sorted({*self.words, *lexicon.vocabulary()})

    def prompt(self, number: int) -> tuple[str, str]:
        """Training prompt number `number`, and the rich caption behind it."""
        short, rich = language.draw_prompt(self.seed, number, self.source)
        rng = draws.rng("other words", self.seed, number)
        return lexicon.reword(short, rng) if rng.random() < self.reworded else short, rich

    def batch(self, step: int) -> dict[str, Any]:
        ranks = self.ranks
        first = (step * ranks.count + ranks.rank) * self.batch_size
        drawn = [self.prompt(number) for number in range(first, first + self.batch_size)]
        short, rich = zip(*drawn, strict=True)
        return {"short": list(short), "rich": list(rich)}

    def val_dataloader(self) -> DataLoader:
        """A batch of {"words", "short"} for each kind of words."""
        kinds = ("kept", "other_words", "held_out_words")
        batches = [{"words": kind, "short": self.validation(kind)} for kind in kinds]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def validation(self, words: str) -> list[str]:
        """Validation prompts: in captions' words ("kept"), in wordings that are trained on
        ("other_words"), or in those held out ("held_out_words")."""
        seed, prompts = self.seed + VALIDATION_SEED, []
        worlds = [name for name in self.source.names if name == "events"] + ["shapes"]
        for i in range(self.validation_prompts):
            number, turn = divmod(i, len(worlds))
            prompt = language.validation_prompt(seed, number, worlds[turn])
            if words != "kept":
                rng = draws.rng("other words", seed, i)
                prompt = lexicon.reword(prompt, rng, held_out=words == "held_out_words")
            prompts.append(prompt)
        return prompts
