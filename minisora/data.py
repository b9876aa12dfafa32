"""Training data: a source of clips, seen through a view.

The source is a mixture of worlds. A view is what a network is shown of the clips: pixels for the
VAE, latents for the transformer, frames with captions for the captioner. Clips are rendered once;
batch k is a function of (seed, k, rank), so a resumed run needs no state and no two ranks share a
clip.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minisora import draws, weights
from minisora.device import autocast, best_device
from minisora.draws import Ranks
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.vae import GROUP, VAE, to_pixels
from minisora.world import Clip, Mixture, language

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

    def durations(self, num_frames: int) -> list[int]:
        """The clip lengths, in frames, that are trained on."""
        return [num_frames]


class ClipData(StepData):
    """Clips of a mixture of worlds, seen through `view`.

    `worlds` gives each world its share of the clips. `clips` of them are rendered when training
    starts. Validation draws `validation_clips` others, from the split that the view names.
    """

    def __init__(
        self,
        view: View,
        worlds: dict[str, float] | None = None,
        clips: int = 4000,
        batch_size: int = 16,
        seed: int = 0,
        num_frames: int = 17,
        height: int = 32,
        width: int = 32,
        validation_clips: int = 64,
    ) -> None:
        super().__init__(worlds, batch_size, seed)
        if num_frames % GROUP != 1:
            near = num_frames // GROUP * GROUP + 1
            raise InputError(
                f"data.num_frames must be 1 + 4k, got {num_frames}: the nearest is {near}"
            )
        check_counts(1, 10**7, clips=clips, validation_clips=validation_clips)
        check_counts(1, 4096, num_frames=num_frames, height=height, width=width)
        self.view, self.clips, self.validation_clips = view, clips, validation_clips
        self.shape = (num_frames, height, width)
        view.check(self)

    @property
    def trained_on(self) -> dict[str, Any]:
        """What a model that is trained on these clips has seen."""
        num_frames, height, width = self.shape
        return {
            "worlds": self.source.names,
            "sizes": [[height, width]],
            "durations": self.view.durations(num_frames),
            "modes": ["text"],
            "fps": FPS,
        }

    def check_sizes(self, multiple: int) -> None:
        """Raises InputError if frames are not cut evenly by patches of `multiple` pixels."""
        _, height, width = self.shape
        if height % multiple or width % multiple:
            raise InputError(
                f"data.height and data.width must be multiples of {multiple}, got {height} and {width}"
            )

    def clip(self, index: int, num_frames: int | None = None) -> Clip:
        """Training clip number `index`, or its first frames."""
        length, height, width = self.shape
        return self.source.clip(self.seed, index, num_frames or length, height, width)

    def setup(self, stage: str) -> None:
        self.view.prepare(self)

    def batch(self, step: int) -> dict[str, Any]:
        return self.view.batch(self, step)

    def indices(self, step: int) -> np.ndarray:
        """The clips of this step on this rank."""
        ranks = self.ranks
        return batch_indices(self.clips, self.batch_size, self.seed, step, ranks.rank, ranks.count)

    def val_dataloader(self) -> DataLoader:
        """Batches of {"video", "truths", "captions", "worlds"}, the same on every rank."""
        seed, where = self.seed + VALIDATION_SEED, (*self.shape, self.view.validation_split)
        clips = [self.source.clip(seed, i, *where) for i in range(self.validation_clips)]
        return DataLoader(clips, batch_size=32, collate_fn=collate)  # type: ignore[arg-type]


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
        clips = tqdm(range(data.clips), "rendering", unit="clip")
        self.frames = np.stack([data.clip(i).frames for i in clips])  # uint8 (clips, T, H, W, 3)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        return {"video": to_pixels(self.frames[data.indices(step)])}


class EncodedView(View):
    """What views through a trained VAE share: the VAE of the bundle `vae`, held-out validation
    clips, and one length a step: with chance `shorter`, clips are cut to fewer groups of frames."""

    validation_split = "held_out"

    def __init__(self, vae: str, shorter: float) -> None:
        check_shares(shorter=shorter)
        self.vae, self.shorter = weights.load(vae, "vae", VAE), shorter

    @property
    def channels(self) -> int:
        return self.vae.channels

    def check(self, data: ClipData) -> None:
        data.check_sizes(self.vae.space)

    def durations(self, num_frames: int) -> list[int]:
        return list(range(1, num_frames + 1, GROUP)) if self.shorter else [num_frames]

    def groups(self, data: ClipData, step: int) -> int:
        """Groups of frames in the clips of this step, the same on every rank. A clip of g groups
        has 1 + 4 (g - 1) frames."""
        whole = 1 + (data.shape[0] - 1) // GROUP
        drawn = torch.rand(2, generator=draws.generator("length", data.seed, step))
        return 1 + int(drawn[1] * (whole - 1)) if drawn[0] < self.shorter else whole


class Latents(EncodedView):
    """Batches of {"latents": (B, C, t, h, w), "captions"} from the trained VAE in `vae`.

    A latent is a picture of its own group of frames, so the first latents of a clip are a shorter
    clip, and the first alone is an image. For the first `ordered_steps` optimizer steps captions
    name the upper or left object first; later, either. `captions` is a file that `minisora
    recaption` wrote for these clips; its captions replace the world's own, for images too.
    """

    def __init__(
        self, vae: str, shorter: float = 0.2, ordered_steps: int = 0, captions: str | None = None
    ) -> None:
        super().__init__(vae, shorter)
        self.ordered_steps, self.caption_file = ordered_steps, captions

    def check(self, data: ClipData) -> None:
        super().check(data)
        if self.caption_file:
            read_captions_for(data, self.caption_file)

    def prepare(self, data: ClipData) -> None:
        device = data.trainer.strategy.root_device if data.trainer else best_device()
        self.vae.to(device)
        latents, self.captions, self.image_captions = [], [], []
        bar = tqdm(total=data.clips, desc="rendering and encoding", unit="clip")
        for start in range(0, data.clips, 64):
            indices = range(start, min(start + 64, data.clips))
            clips = [data.clip(i) for i in indices]
            with torch.inference_mode(), autocast(device):
                video = to_pixels(np.stack([clip.frames for clip in clips])).to(device)
                latents.append(self.vae.encode(video).to("cpu", torch.float16))  # (64, C, t, h, w)
            self.captions += [clip.caption for clip in clips]
            self.image_captions += [data.clip(i, num_frames=1).caption for i in indices]
            bar.update(len(indices))
        bar.close()
        self.latents = torch.cat(latents)  # (clips, C, t, h, w)
        if self.caption_file:
            self.captions = self.image_captions = read_captions_for(data, self.caption_file)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        indices, groups = data.indices(step), self.groups(data, step)
        source = self.image_captions if groups == 1 else self.captions
        captions = [source[i] for i in indices]
        if data.steps_before(step) < self.ordered_steps:
            captions = [language.in_order(caption) for caption in captions]
        latents: Tensor = self.latents[indices, :, :groups].float()  # (B, C, groups, h, w)
        return {"latents": latents, "captions": captions}


class Captions(EncodedView):
    """Batches of {"clips": uint8 (B, T, H, W, 3), "captions"}.

    For the first `short_steps` optimizer steps captions are short and lossy, as people write them;
    later rich. Rich captions name the upper or left object first. The VAE in `vae` serves
    validation, which captions clips also after they went through it.
    """

    def __init__(self, vae: str, shorter: float = 0.2, short_steps: int = 300) -> None:
        super().__init__(vae, shorter)
        self.short_steps = short_steps

    def prepare(self, data: ClipData) -> None:
        self.frames = np.empty((data.clips, *data.shape, 3), np.uint8)
        self.captions, self.image_captions, self.short_captions = [], [], []
        for i in tqdm(range(data.clips), "rendering", unit="clip"):
            clip, image = data.clip(i), data.clip(i, num_frames=1)
            self.frames[i] = clip.frames
            self.captions.append(language.in_order(clip.caption))
            self.image_captions.append(language.in_order(image.caption))
            self.short_captions.append(clip.short_caption)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        indices, groups = data.indices(step), self.groups(data, step)
        captions = self.image_captions if groups == 1 else self.captions
        if data.steps_before(step) < self.short_steps:
            captions, groups = self.short_captions, 1 + (data.shape[0] - 1) // GROUP
        clips = self.frames[indices, : 1 + GROUP * (groups - 1)]  # (B, T, H, W, 3)
        return {"clips": torch.from_numpy(clips), "captions": [captions[i] for i in indices]}


class PromptData(StepData):
    """Prompts that users might type, with the rich captions behind them: batches of {"short",
    "rich"}, drawn anew for every step.

    Validation prompts have forms that are never trained on: the background comes first or in the
    middle.
    """

    def __init__(
        self,
        worlds: dict[str, float] | None = None,
        batch_size: int = 128,
        seed: int = 0,
        validation_prompts: int = 256,
    ) -> None:
        super().__init__(worlds, batch_size, seed)
        check_counts(1, 10**6, validation_prompts=validation_prompts)
        self.validation_prompts = validation_prompts

    def batch(self, step: int) -> dict[str, Any]:
        ranks = self.ranks
        first = (step * ranks.count + ranks.rank) * self.batch_size
        numbers = range(first, first + self.batch_size)
        drawn = [language.draw_prompt(self.seed, number, self.source) for number in numbers]
        short, rich = zip(*drawn, strict=True)
        return {"short": list(short), "rich": list(rich)}

    def val_dataloader(self) -> DataLoader:
        """One batch of {"short"}."""
        numbers = range(self.validation_prompts)
        prompts = [language.validation_prompt(self.seed + VALIDATION_SEED, i) for i in numbers]
        return DataLoader([{"short": prompts}], batch_size=None)  # type: ignore[arg-type]


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
    _, height, width = data.shape
    square = [data.source.clip(data.seed, i, data.shape[0]).caption for i in range(20)]
    if square != [data.clip(i).caption for i in range(20)]:
        raise InputError(
            f"{path} describes square clips, and objects stand elsewhere in frames of "
            f"{height} x {width}: set data.height and data.width to one number"
        )
    return captions[: data.clips]
