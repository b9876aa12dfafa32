"""Training data: a source of clips, seen through a view.

The source is a mixture of worlds. A view is what a network is shown of the clips: pixels for the
VAE, latents for the transformer, frames with captions for the captioner. Clips are rendered once;
batch k is a function of (seed, k, rank), so a resumed run needs no state. Ranks share no clips,
but for packed rows, whose clips are drawn freely.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minisora import draws, weights
from minisora.canvas import MODES, draw, draw_mode
from minisora.device import autocast, best_device
from minisora.draws import Ranks
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.vae import GROUP, VAE, to_pixels
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
    """Endless batches from a mixture of worlds, each a function of its step. Subclasses have
    `batch(step)`."""

    def __init__(self, worlds: dict[str, float] | None, batch_size: int, seed: int) -> None:
        super().__init__()
        check_seed(seed)
        check_counts(1, 10**6, batch_size=batch_size)
        self.source = Mixture(worlds or {"shapes": 1.0})
        self.batch_size, self.seed = batch_size, seed

    @property
    def words(self) -> list[str]:
        """The vocabulary of the captions."""
        return self.source.words

    def batch(self, step: int) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def ranks(self) -> Ranks:
        if not self.trainer:
            return Ranks()
        return Ranks.of(self.trainer.global_rank, self.trainer.world_size)

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

    size: int  # its number in `ClipData.sizes`
    frames: int

    @property
    def groups(self) -> int:
        return 1 + (self.frames - 1) // GROUP


class View:
    """What a network is shown of the clips. `validation_split` is the split that it is validated
    on."""

    validation_split = "all"

    def check(self, data: "ClipData") -> None:
        """Raises InputError if the view cannot be made of these clips."""

    def prepare(self, data: "ClipData") -> None:
        """Renders all clips and keeps what the view needs of them."""

    def batch(self, data: "ClipData", step: int) -> dict[str, Any]:
        raise NotImplementedError

    def durations(self, num_frames: int) -> dict[int, float]:
        """The clip lengths, in frames, that are trained on, with the share of steps of each."""
        return {num_frames: 1.0}

    def batch_size(self, data: "ClipData", bucket: Bucket) -> int:
        """Clips in a step of this bucket."""
        return data.batch_size

    @property
    def modes(self) -> list[str]:
        """What may be given, see `canvas.MODES`."""
        return ["text"]


class ClipData(StepData):
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
        super().__init__(worlds, batch_size, seed)
        if num_frames % GROUP != 1:
            near = num_frames // GROUP * GROUP + 1
            raise InputError(
                f"data.num_frames must be 1 + 4k, got {num_frames}: the nearest is {near}"
            )
        check_counts(1, 10**7, clips=clips, validation_clips=validation_clips)
        check_counts(1, 4096, num_frames=num_frames)
        self.view, self.clips, self.validation_clips = view, clips, validation_clips
        self.num_frames, self.sizes = num_frames, checked_sizes(sizes or [[32, 32]], clips)
        view.check(self)

    @property
    def trained_on(self) -> dict[str, Any]:
        """What a model that is trained on these clips has seen."""
        return {
            "worlds": self.source.names,
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

    def clip(self, index: int, num_frames: int | None = None) -> Clip:
        """Training clip number `index`, or its first frames."""
        size = self.sizes[index % len(self.sizes)]
        return self.source.clip(self.seed, index, num_frames or self.num_frames, *size)

    def numbers(self, size: int) -> np.ndarray:
        """The clips of size number `size`."""
        return np.arange(size, self.clips, len(self.sizes))

    def setup(self, stage: str) -> None:
        self.view.prepare(self)

    def batch(self, step: int) -> dict[str, Any]:
        return self.view.batch(self, step)

    def bucket(self, step: int) -> Bucket:
        """Size and length of the clips of this step, the same on every rank."""
        durations = self.view.durations(self.num_frames)
        drawn = torch.rand(2, generator=draws.generator("length", self.seed, step)).tolist()
        return Bucket(int(drawn[1] * len(self.sizes)), pick(durations, drawn[0]))

    def indices(self, step: int) -> np.ndarray:
        """The clips of this step on this rank."""
        bucket, ranks = self.bucket(step), self.ranks
        numbers, batch = self.numbers(bucket.size), self.view.batch_size(self, bucket)
        at = (batch, self.seed, step, ranks.rank, ranks.count)
        return numbers[batch_indices(len(numbers), *at)]

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


class Pixels(View):
    """Batches of {"video": (B, 3, T, H, W) in [-1, 1]}."""

    def prepare(self, data: ClipData) -> None:
        bar = tqdm(total=data.clips, desc="rendering", unit="clip")
        self.frames = []  # for each size uint8 (clips, T, H, W, 3)
        for size in range(len(data.sizes)):
            clips = []
            for i in data.numbers(size):
                clips.append(data.clip(i).frames)
                bar.update()
            self.frames.append(np.stack(clips))
        bar.close()

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        rows = data.indices(step) // len(data.sizes)
        return {"video": to_pixels(self.frames[data.bucket(step).size][rows])}


class EncodedView(View):
    """What views through a trained VAE share: the VAE of the bundle `vae`, held-out validation
    clips, and one length a step.

    `lengths` gives each length of clips, in frames, its share of the steps. The default: 85% of the
    steps have whole clips, the others clips of 1, 5, 9, ... frames.
    """

    validation_split = "held_out"

    def __init__(self, vae: str, lengths: dict[int, float] | None) -> None:
        for frames, share in (lengths or {}).items():
            check_counts(1, 4096, frames=frames)
            check_shares(share=share)
            if frames % GROUP != 1:
                raise InputError(f"data.view.lengths are 1 + 4k frames, got {frames}")
        if lengths is not None and not sum(lengths.values()):
            raise InputError("data.view.lengths give no length a share: set one above 0")
        self.vae, self.lengths = weights.load(vae, "vae", VAE), lengths

    @property
    def channels(self) -> int:
        return self.vae.channels

    def check(self, data: ClipData) -> None:
        data.check_sizes(self.vae.space)
        longest = max(self.durations(data.num_frames))
        if longest > data.num_frames:
            raise InputError(
                f"data.view.lengths has {longest} frames, clips have {data.num_frames}: "
                "set data.num_frames"
            )
        for world in data.source.worlds:
            for frames in self.durations(data.num_frames):
                if data.source.shares[world.name] and 1 < frames < world.shows_all:
                    raise InputError(
                        f"clips of the world {world.name} are cut to 1 frame or to {world.shows_all} "
                        f"or more, not to {frames}: set data.view.lengths"
                    )

    def durations(self, num_frames: int) -> dict[int, float]:
        if self.lengths:
            return {frames: share for frames, share in self.lengths.items() if share}
        shorter = range(1, num_frames, GROUP)
        if not shorter:
            return {num_frames: 1.0}
        return {num_frames: 0.85} | {frames: 0.15 / len(shorter) for frames in shorter}

    def captions_of(self, data: ClipData, index: int, clip: Clip) -> dict[int, str]:
        """The caption of clip number `index` at each length. It names what such a clip shows."""
        world = data.source.world_of(data.seed, index)
        return {
            frames: clip.caption if frames >= world.shows_all else data.clip(index, frames).caption
            for frames in self.durations(data.num_frames)
        }


class Latents(EncodedView):
    """Batches of {"latents": (B, C, t, h, w), "captions", "modes", "start": (B,)} from the trained
    VAE in `vae`.

    A latent is a picture of its own group of frames, so any latents in a row are a clip, and the
    first alone is an image. For the first `ordered_steps` optimizer steps captions name the upper
    or left object first; later, either. `captions` is a file that `minisora recaption` wrote for
    these clips; its captions replace the world's own, for images too.

    A share `known` of the clips has known tokens: "modes" names what is given (see `canvas.MODES`;
    "text": nothing). Those clips are cut from anywhere in the whole clip, whose caption they keep,
    and half of them begin up to three frames late; half of those from further inside are without
    the latent of one frame that every clip begins with: "start" is 1 for these, else 0.

    If `packed`, a step is one row of clips of all sizes and lengths, as long as a usual batch, and
    "latents" is a list of (C, t, h, w). Source: Dehghani et al., "Patch n' Pack: NaViT" (2023).
    """

    def __init__(
        self,
        vae: str,
        lengths: dict[int, float] | None = None,
        known: float = 0.0,
        packed: bool = False,
        ordered_steps: int = 0,
        captions: str | None = None,
    ) -> None:
        super().__init__(vae, lengths)
        check_shares(known=known)
        self.packed = packed
        self.known, self.ordered_steps, self.caption_file = known, ordered_steps, captions

    @property
    def modes(self) -> list[str]:
        return ["text", *(name for name, mode in MODES.items() if self.known and mode.share)]

    def check(self, data: ClipData) -> None:
        super().check(data)
        if self.caption_file:
            read_captions_for(data, self.caption_file)

    def batch_size(self, data: ClipData, bucket: Bucket) -> int:
        """As many clips as have the latents of `data.batch_size` usual ones, at least one."""

        usual, here = self.latents_of(data, data.usual), self.latents_of(data, bucket)
        return max(1, round(data.batch_size * usual / here))

    def latents_of(self, data: ClipData, bucket: Bucket) -> int:
        """The latents, t * h * w, of a clip."""
        return bucket.groups * math.prod(data.sizes[bucket.size]) // self.vae.space**2

    def prepare(self, data: ClipData) -> None:
        self.device = data.trainer.strategy.root_device if data.trainer else best_device()
        self.vae.to(self.device)
        self.captions: list[dict[int, str]] = [{} for _ in range(data.clips)]  # by length
        # by size: the latents (clips, C, t, h, w), and each group's last frame alone, likewise
        self.latents, self.images = [], []
        bar = tqdm(total=data.clips, desc="rendering and encoding", unit="clip")
        for size in range(len(data.sizes)):
            parts = [
                self.encode(data, part, bar)
                for part in np.array_split(data.numbers(size), math.ceil(data.clips / 64))
                if len(part)
            ]
            latents, images = zip(*parts, strict=True)
            self.latents.append(torch.cat(latents))
            self.images.append(torch.cat(images))
        bar.close()
        if self.caption_file:
            given = read_captions_for(data, self.caption_file)
            lengths = self.durations(data.num_frames)
            self.captions = [dict.fromkeys(lengths, caption) for caption in given]

    def encode(self, data: ClipData, indices: np.ndarray, bar: tqdm) -> tuple[Tensor, Tensor]:
        """Latents (64, C, t, h, w) of clips, and those of each group's last frame as an image,
        which are left out, t = 0, if no clip has known tokens."""
        frames = []
        for i in indices:
            late = self.late_frames(data, i)
            clip = data.clip(i, data.num_frames + late)
            self.captions[i] = self.captions_of(data, i, clip)
            frames.append(clip.frames[late:])
        video = to_pixels(np.stack(frames)).to(self.device)
        lasts = video[:, :, ::GROUP] if self.known else video[:, :, :0]  # (64, 3, t, H, W)
        with torch.inference_mode(), autocast(self.device):
            latents = self.vae.encode(video)  # (64, C, t, h, w)
            images = [self.vae.encode(frame[:, :, None]) for frame in lasts.unbind(2)]
        bar.update(len(indices))
        alone = torch.cat([latents[:, :, :0], *images], dim=2)  # (64, C, t or 0, h, w)
        return latents.to("cpu", torch.float16), alone.to("cpu", torch.float16)

    def says_when(self, data: ClipData, index: int) -> bool:
        """Whether the caption of a clip says when something happens in it."""
        return data.source.world_of(data.seed, index).shows_all > 2

    def late_share(self, data: ClipData, index: int) -> float:
        """The chance that a clip starts late: none where its caption says what happens when."""
        return 0.0 if self.says_when(data, index) else self.known / 2

    def late_frames(self, data: ClipData, index: int) -> int:
        """Frames that are left out at the beginning of a clip, up to 3, so that groups begin at any
        frame of a motion."""
        rng = draws.rng("late", data.seed, index)
        late = rng.random() < self.late_share(data, index)
        return int(rng.integers(1, GROUP)) if late else 0

    def draw_mode(
        self, data: ClipData, index: int, groups: int, generator: torch.Generator
    ) -> str:
        """All clips that start late have known tokens, and of the others so many that it is a share
        `known` of all."""
        late = self.late_share(data, index)
        known = (self.known - late) / (1 - late)
        return draw_mode(groups, 1.0 if self.late_frames(data, index) else known, generator)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        generator = draws.generator("window", data.seed, step, data.ranks.rank)
        if self.packed:
            drawn = self.fill_row(data, generator)
        else:
            drawn = [(data.bucket(step), index) for index in data.indices(step)]
        captions = [self.captions[index][bucket.frames] for bucket, index in drawn]
        if data.steps_before(step) < self.ordered_steps:
            captions = [language.in_order(caption) for caption in captions]
        modes = [self.draw_mode(data, i, bucket.groups, generator) for bucket, i in drawn]
        windows = [
            self.window(data, bucket, index, mode, generator)
            for (bucket, index), mode in zip(drawn, modes, strict=True)
        ]
        latents = [window.float() for window, _ in windows]  # (C, t, h, w) each
        return {
            "latents": latents if self.packed else torch.stack(latents),
            "captions": captions,
            "modes": modes,
            "start": torch.tensor([start for _, start in windows]),  # (B,)
        }

    def fill_row(self, data: ClipData, generator: torch.Generator) -> list[tuple["Bucket", int]]:
        """Draws clips until a row is as long as a usual batch, greedily: what does not fit is
        drawn again, 20 times at most. Buckets have the shares of latents that steps give them."""
        room, misses, drawn = data.batch_size * self.latents_of(data, data.usual), 0, []
        buckets = [
            Bucket(size, t)
            for size in range(len(data.sizes))
            for t in self.durations(data.num_frames)
        ]
        lengths = self.durations(data.num_frames)
        shares = {b: lengths[b.frames] / self.latents_of(data, b) for b in buckets}
        while misses < 20:
            bucket = pick(shares, float(torch.rand(1, generator=generator)))
            if (count := self.latents_of(data, bucket)) > room:
                misses += 1
                continue
            numbers = data.numbers(bucket.size)
            drawn.append((bucket, int(numbers[draw(0, len(numbers) - 1, generator)])))
            room -= count
        return drawn

    def window(
        self, data: ClipData, bucket: Bucket, index: int, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The latents (C, t, h, w) of a part of a clip, and 0 if the first has one frame, else 1.
        Where something happens it is seen in at least half of the parts."""
        row, groups = index // len(data.sizes), bucket.groups
        whole = self.latents[bucket.size][row]  # (C, t, h, w)
        shows_event = self.says_when(data, index) and draw(0, 1, generator)
        if not MODES[mode].anywhere or shows_event:
            return whole[:, :groups], 0
        first = draw(0, whole.shape[1] - groups, generator)
        if first and draw(0, 1, generator):
            return whole[:, first : first + groups], 1
        image = self.images[bucket.size][row][:, first : first + 1]  # (C, 1, h, w)
        return torch.cat([image, whole[:, first + 1 : first + groups]], dim=1), 0


class Captions(EncodedView):
    """Batches of {"clips": uint8 (B, T, H, W, 3), "captions"}.

    For the first `short_steps` optimizer steps captions are short and lossy, as people write them;
    later rich. Rich captions name the upper or left object first. The VAE in `vae` serves
    validation, which captions clips also after they went through it.
    """

    def __init__(
        self, vae: str, lengths: dict[int, float] | None = None, short_steps: int = 300
    ) -> None:
        super().__init__(vae, lengths)
        self.short_steps = short_steps

    def prepare(self, data: ClipData) -> None:
        self.frames: list[np.ndarray] = []
        self.captions: list[dict[int, str]] = []  # by length
        self.short_captions: list[str] = []
        for i in tqdm(range(data.clips), "rendering", unit="clip"):
            clip = data.clip(i)
            self.frames.append(clip.frames)  # uint8 (T, H, W, 3)
            captions = self.captions_of(data, i, clip).items()
            self.captions.append({frames: language.in_order(text) for frames, text in captions})
            self.short_captions.append(clip.short_caption)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        indices, frames = data.indices(step), data.bucket(step).frames
        captions = [self.captions[i][frames] for i in indices]
        if data.steps_before(step) < self.short_steps:
            captions, frames = [self.short_captions[i] for i in indices], data.num_frames
        clips = np.stack([self.frames[i][:frames] for i in indices])  # (B, T, H, W, 3)
        return {"clips": torch.from_numpy(clips), "captions": captions}


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
        super().__init__(worlds, batch_size, seed)
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


def read_captions(path: str, kind: str = "caption") -> tuple[dict[str, Any], list[str]]:
    """The head of a file of `minisora recaption`, and one caption a clip: "caption", "human" or
    "synthetic". Raises InputError if the file is missing or of another kind."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        head, *rows = (json.loads(line) for line in lines)
        captions, numbers = [row[kind] for row in rows], [row["clip"] for row in rows]
        rendered = head["folder"] is None  # clips of one's own have names instead of numbers
    except OSError:
        raise InputError(f"no captions in {path}: `minisora recaption` writes them") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{path} is damaged or not from `minisora recaption`") from None
    if rendered and numbers != list(range(len(rows))):
        raise InputError(f"{path} is damaged: its lines are not in the order of their clips")
    return head, captions


def read_captions_for(data: ClipData, path: str) -> list[str]:
    """The captions in a file, one a clip of `data`. Raises InputError if they describe others."""
    head, captions = read_captions(path)
    shares = {name: share for name, share in data.source.shares.items() if share}
    needed = {"seed": data.seed, "worlds": shares, "folder": None}
    held = {name: head.get(name) for name in needed}
    if needed != held or len(captions) < data.clips:
        raise InputError(
            f"{path} holds {len(captions)} captions of clips with {held}, "
            f"the training needs {data.clips} with {needed}"
        )
    square = [data.source.clip(data.seed, i, data.num_frames).caption for i in range(20)]
    if square != [data.clip(i).caption for i in range(20)]:
        raise InputError(
            f"{path} describes square clips, and objects stand elsewhere in others: "
            "set data.sizes to square ones"
        )
    return captions[: data.clips]
