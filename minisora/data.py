"""Training data: a set of clips rendered once, and batches that are a function of (seed, step,
rank).

Because batch k can be asked for at any time, resuming needs no state, and ranks are disjoint by
construction.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minisora import weights, world
from minisora.device import autocast, best_device
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.pipeline import to_pixels
from minisora.upsampler import drawn_prompt
from minisora.vae import GROUP, VAE

VALIDATION_SEED = 1_000_003  # added to the seed: validation clips come from another world


def generator(seed: int, step: int, rank: int = 0, stream: int = 0) -> torch.Generator:
    """The random numbers of one step on one rank. `stream` separates uses within a step."""
    state = np.random.SeedSequence((seed, step, rank, stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def batch_indices(
    size: int, batch: int, seed: int, step: int, rank: int = 0, ranks: int = 1
) -> np.ndarray:
    """Which of `size` clips make up this batch: each epoch a new permutation, dealt out to the
    ranks in turn."""
    place = (step * ranks + rank) * batch + np.arange(batch)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in np.unique(place // size)
    }
    return np.array([orders[p // size][p % size] for p in place])


class Steps(Dataset):
    """Item k is the batch of step k, and says so."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> dict[str, Any]:
        return {"step": step, **self.batch(step)}


def endless(data: Any) -> DataLoader:
    """The batches of a data module, from the step on that training has come to."""
    start = 0
    if data.trainer:  # the step is already restored when a checkpoint is resumed
        start = data.trainer.global_step * data.trainer.accumulate_grad_batches
    return DataLoader(Steps(data.batch), sampler=itertools.count(start), batch_size=None)  # type: ignore[arg-type]


class ClipData(L.LightningDataModule):
    """Clips of the world. Batches are {"video": (B, 3, T, H, W) in [-1, 1]}.

    `clips` are rendered when training starts, a share `pairs` of them with two objects; validation
    draws `validation_clips` from every attribute there is.
    """

    validation_split = "all"

    def __init__(
        self,
        clips: int = 4000,
        batch_size: int = 16,
        seed: int = 0,
        num_frames: int = 17,
        height: int = 32,
        width: int = 32,
        validation_clips: int = 64,
        pairs: float = 0.0,
    ) -> None:
        super().__init__()
        if num_frames % GROUP != 1:
            near = num_frames // GROUP * GROUP + 1
            raise InputError(
                f"data.num_frames must be 1 + 4k, got {num_frames}: the nearest is {near}"
            )
        check_seed(seed)
        check_counts(1, clips=clips, batch_size=batch_size, validation_clips=validation_clips)
        check_shares(pairs=pairs)
        self.clips, self.batch_size, self.seed = clips, batch_size, seed
        self.validation_clips, self.pairs = validation_clips, pairs
        self.shape = (num_frames, height, width)

    @property
    def makes(self) -> dict[str, int]:
        """What a model makes that was trained on these clips."""
        sizes = dict(zip(("num_frames", "height", "width"), self.shape, strict=True))
        return sizes | ({"objects": 2} if self.pairs else {})

    def check_sizes(self, space: int) -> None:
        """Raises InputError if frames are not cut evenly by patches of `space` x `space` pixels."""
        _, height, width = self.shape
        if height % space or width % space:
            raise InputError(
                f"data.height and data.width must be multiples of {space}, got {height} and {width}"
            )

    def steps_before(self, batch: int) -> int:
        """Of the optimizer, which steps once for so many batches as are accumulated."""
        return batch // (self.trainer.accumulate_grad_batches if self.trainer else 1)

    def render(self, index: int, num_frames: int | None = None) -> world.Clip:
        _, height, width = self.shape
        return self.draw(self.seed, index, (num_frames or self.shape[0], height, width))

    def draw(
        self, seed: int, index: int, size: tuple[int, int, int], split: str = "train"
    ) -> world.Clip:
        """A clip of one object or, in a share `pairs` of all indices, of two."""
        two = self.pairs > np.random.default_rng((seed, index, 3)).random()
        return (world.pairs.clip if two else world.clip)(seed, index, *size, split)

    def setup(self, stage: str) -> None:
        frames = [self.render(i).frames for i in tqdm(range(self.clips), "rendering", unit="clip")]
        self.frames = np.stack(frames)  # uint8 (clips, T, H, W, 3)

    def batch(self, step: int) -> dict[str, Any]:
        return {"video": to_pixels(self.frames[self.indices(step)])}

    def indices(self, step: int) -> np.ndarray:
        rank = self.trainer.global_rank if self.trainer else 0
        ranks = self.trainer.world_size if self.trainer else 1
        return batch_indices(self.clips, self.batch_size, self.seed, step, rank, ranks)

    def train_dataloader(self) -> DataLoader:
        return endless(self)

    def val_dataloader(self) -> DataLoader:
        """Batches of {"video", "truths"}, the truths as a list of dicts; the same on every rank."""
        clips = [
            self.draw(self.seed + VALIDATION_SEED, i, self.shape, self.validation_split)
            for i in range(self.validation_clips)
        ]
        return DataLoader(clips, batch_size=32, collate_fn=self.collate)  # type: ignore[arg-type]

    @staticmethod
    def collate(clips: list[world.Clip]) -> dict[str, Any]:
        return {
            "video": to_pixels(np.stack([clip.frames for clip in clips])),
            "truths": [clip.truth for clip in clips],
            "captions": [clip.caption for clip in clips],
        }


def drawn_groups(seed: int, step: int, whole: int, shorter: float) -> int:
    """How many groups of frames the clips of this step have, the same on every rank: all, or with
    chance `shorter` fewer."""
    drawn = torch.rand(2, generator=generator(seed, step, stream=1))
    return 1 + int(drawn[1] * (whole - 1)) if drawn[0] < shorter else whole


class CaptionData(ClipData):
    """Clips with captions. Batches are {"clips": uint8 (B, T, H, W, 3), "captions"}.

    In the first `short_steps` steps the captions are short and lossy, as people write them, then
    rich, and two objects are told from the upper or the left one. Every step draws one length, as
    `LatentData` does. Validation clips are of held-out pairs, and each is also seen through the VAE
    in `vae`.
    """

    validation_split = "held_out"

    def __init__(
        self,
        vae: str,
        clips: int = 12_000,
        batch_size: int = 64,
        seed: int = 0,
        num_frames: int = 17,
        height: int = 32,
        width: int = 32,
        validation_clips: int = 256,
        pairs: float = 0.3,
        shorter: float = 0.2,
        short_steps: int = 300,
    ) -> None:
        super().__init__(
            clips, batch_size, seed, num_frames, height, width, validation_clips, pairs
        )
        check_shares(shorter=shorter)
        self.vae = weights.load(vae, "vae", VAE)
        self.shorter, self.short_steps = shorter, short_steps

    def setup(self, stage: str) -> None:
        self.frames = np.empty((self.clips, *self.shape, 3), np.uint8)
        self.captions, self.image_captions, self.short_captions = [], [], []
        for i in tqdm(range(self.clips), "rendering", unit="clip"):
            clip = self.render(i)
            self.frames[i] = clip.frames
            self.captions.append(world.pairs.in_order(clip.caption))
            self.short_captions.append(clip.short_caption)
            self.image_captions.append(world.pairs.in_order(self.render(i, num_frames=1).caption))

    def batch(self, step: int) -> dict[str, Any]:
        indices = self.indices(step)
        groups = drawn_groups(self.seed, step, 1 + (self.shape[0] - 1) // GROUP, self.shorter)
        captions = self.image_captions if groups == 1 else self.captions
        if self.steps_before(step) < self.short_steps:
            captions, groups = self.short_captions, 1 + (self.shape[0] - 1) // GROUP
        clips = self.frames[indices, : 1 + GROUP * (groups - 1)]
        return {"clips": torch.from_numpy(clips), "captions": [captions[i] for i in indices]}


class PromptData(L.LightningDataModule):
    """What users might type, and the rich captions behind it: batches of {"short", "rich"}, drawn
    anew for every step. A share `pairs` names two objects. Validation prompts are of forms that are
    never trained on: the background comes first or in the middle."""

    def __init__(
        self,
        batch_size: int = 128,
        seed: int = 0,
        pairs: float = 0.4,
        validation_prompts: int = 256,
    ) -> None:
        super().__init__()
        check_seed(seed)
        check_counts(1, batch_size=batch_size, validation_prompts=validation_prompts)
        check_shares(pairs=pairs)
        self.batch_size, self.seed, self.pairs = batch_size, seed, pairs
        self.validation_prompts = validation_prompts

    def batch(self, step: int) -> dict[str, Any]:
        rank = self.trainer.global_rank if self.trainer else 0
        ranks = self.trainer.world_size if self.trainer else 1
        first = (step * ranks + rank) * self.batch_size
        drawn = [drawn_prompt(self.seed, first + i, self.pairs) for i in range(self.batch_size)]
        short, rich = zip(*drawn, strict=True)
        return {"short": list(short), "rich": list(rich)}

    def train_dataloader(self) -> DataLoader:
        return endless(self)

    def val_dataloader(self) -> DataLoader:
        """One batch of {"short"}."""
        forms = (
            "on {background}: {color} {shape}",
            "{shape} on {background}, {motion}",
            "{background} background, {motion}, {shape}, {size}",
        )
        prompts = []
        for i in range(self.validation_prompts):
            truth = world.clip(self.seed + VALIDATION_SEED, i, 2, 8, 8, split="all").truth
            truth["size"] = truth["size"] or ""
            prompts.append(forms[i % len(forms)].format(**truth).strip(", "))
        return DataLoader([{"short": prompts}], batch_size=None)  # type: ignore[arg-type]


def read_captions(path: str, kind: str = "caption") -> tuple[dict[str, Any], list[str]]:
    """How a file of `minisora recaption` was made, and of each clip its caption, or its "human" or
    "synthetic" one. Raises InputError if the file is missing or none of these."""
    try:
        lines = Path(path).read_text().splitlines()
        return json.loads(lines[0]), [json.loads(line)[kind] for line in lines[1:]]
    except OSError:
        raise InputError(f"no captions in {path}: `minisora recaption` writes them") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{path} is damaged or not of `minisora recaption`") from None


class LatentData(ClipData):
    """Clips encoded by a trained VAE. Batches are {"latents": (B, C, t, h, w), "captions"}.

    A latent is a picture of its own group, so the first latents of a clip are a shorter clip, and
    the first alone is an image. Every step draws one length: the whole clip, or with chance
    `shorter` one of the shorter ones. Validation clips are of held-out pairs. In the first
    `ordered_steps` steps two objects are told from the upper or the left one, so that the first words
    are always of the same place; then from either. `captions` is a file that `minisora recaption`
    wrote, of these clips, instead of the world's own captions; an image has that of its clip.
    """

    validation_split = "held_out"

    def __init__(
        self,
        vae: str,
        clips: int = 40_000,
        batch_size: int = 64,
        seed: int = 0,
        num_frames: int = 17,
        height: int = 32,
        width: int = 32,
        validation_clips: int = 64,
        pairs: float = 0.0,
        shorter: float = 0.2,
        ordered_steps: int = 0,
        captions: str | None = None,
    ) -> None:
        super().__init__(
            clips, batch_size, seed, num_frames, height, width, validation_clips, pairs
        )
        check_shares(shorter=shorter)
        self.vae = weights.load(vae, "vae", VAE)
        self.shorter, self.file, self.ordered_steps = shorter, captions, ordered_steps
        if captions:
            self.read_file()

    def setup(self, stage: str) -> None:
        latents, self.captions, self.image_captions = [], [], []
        device = self.trainer.strategy.root_device if self.trainer else best_device()
        self.vae.to(device)
        bar = tqdm(total=self.clips, desc="rendering and encoding", unit="clip")
        for start in range(0, self.clips, 64):
            indices = range(start, min(start + 64, self.clips))
            clips = [self.render(i) for i in indices]
            with torch.inference_mode(), autocast(device):
                video = to_pixels(np.stack([clip.frames for clip in clips])).to(device)
                latents.append(self.vae.encode(video).to("cpu", torch.float16))
            self.captions += [clip.caption for clip in clips]
            self.image_captions += [self.render(i, num_frames=1).caption for i in indices]
            bar.update(len(indices))
        bar.close()
        if self.file:
            self.captions = self.image_captions = self.read_file()
        self.latents = torch.cat(latents)  # (clips, C, t, h, w)

    def read_file(self) -> list[str]:
        """Those of `file`. Raises InputError if they are not of these clips."""
        head, captions = read_captions(self.file or "")
        ours = {"seed": self.seed, "pairs": self.pairs, "folder": None}
        theirs = {name: head.get(name) for name in ours}
        if ours != theirs or len(captions) < self.clips:
            raise InputError(
                f"{self.file} holds {len(captions)} captions of clips with {theirs}, "
                f"needed are {self.clips} with {ours}"
            )
        if self.pairs and self.shape[1] != self.shape[2]:
            raise InputError(
                f"two objects stand otherwise in frames of {self.shape[1]} x {self.shape[2]} than in the "
                f"square ones of {self.file}: set data.height and data.width to one number"
            )
        return captions[: self.clips]

    def batch(self, step: int) -> dict[str, Any]:
        indices = self.indices(step)
        groups = drawn_groups(self.seed, step, self.latents.shape[2], self.shorter)
        captions = self.image_captions if groups == 1 else self.captions
        told = [captions[i] for i in indices]
        if self.steps_before(step) < self.ordered_steps:
            told = [world.pairs.in_order(caption) for caption in told]
        latents: Tensor = self.latents[indices, :, :groups].float()
        return {"latents": latents, "captions": told}
