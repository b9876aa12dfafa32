"""Training on real footage: clips of a folder that `minisora ingest` wrote, or their latents, which
`minisora encode` wrote. As for toy clips, a step has windows of one size and length, or is packed.
"""

import gc
import math
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minisora import draws
from minisora.canvas import MODES, draw
from minisora.data import Bucket, Steps, VideoData, View, pick
from minisora.device import autocast, best_device
from minisora.errors import InputError, check_counts
from minisora.footage import Footage, FootageClip
from minisora.latents import HEAD, LatentStore, encode_groups, stream
from minisora.text import split_words
from minisora.vae import GROUP, VAE, to_pixels
from minisora.views import LatentView
from minisora.weights import fingerprint

SHORTEST = 2  # windows in a clip whose last one is held out
MOST_HELD = 64  # clips that are validated on
MAX_CACHED_BYTES = 2**30  # of decoded clips


class FootageData(VideoData):
    """Windows of `num_frames` from the clips in `folder`, seen through `view`.

    Each size has its share of the steps by the latents of its clips. A clip that is at least two
    windows long is not trained on in its last one; those of 64 clips are validated on. `workers`
    processes prepare batches beside the training.
    """

    worlds = ["footage"]

    def __init__(
        self,
        view: View,
        folder: str,
        batch_size: int = 16,
        seed: int = 0,
        num_frames: int = 17,
        workers: int = 0,
    ) -> None:
        if not view.of_footage:
            raise InputError("data.view shows toy clips: leave data.folder or data.view out")
        super().__init__(view, batch_size, seed, num_frames)
        check_counts(0, 256, workers=workers)
        self.folder, self.workers, self.footage = Path(folder), workers, Footage(folder)
        clips = self.footage.clips
        self.sizes = usual_first(clips)
        self.held = {i for i, clip in enumerate(clips) if clip.frames >= SHORTEST * num_frames}
        self.by_bucket = {
            bucket: np.array([i for i in range(len(clips)) if self.fits(i, bucket)])
            for size in range(len(self.sizes))
            for bucket in (Bucket(size, t) for t in view.durations(num_frames))
        }
        self.check_windows()
        view.check(self)

    def trained_groups(self, number: int) -> int:
        """The groups of a clip that may be trained on, from its first on."""
        groups = self.footage.clips[number].groups
        return groups - self.usual.groups if number in self.held else groups

    def fits(self, number: int, bucket: Bucket) -> bool:
        same_size = self.footage.clips[number].size == self.sizes[bucket.size]
        return same_size and self.trained_groups(number) >= bucket.groups

    def check_windows(self) -> None:
        """Raises InputError if no clip is long enough for one of the lengths."""
        for frames in self.view.durations(self.num_frames):
            if not any(len(v) for b, v in self.by_bucket.items() if b.frames == frames):
                longest = max(clip.frames for clip in self.footage.clips)
                raise InputError(
                    f"no clip in {self.folder} has {frames} frames to train on, the longest has "
                    f"{longest}: set a smaller data.num_frames"
                )

    @property
    def words(self) -> list[str]:  # type: ignore[override]
        """The words of all captions."""
        captions = {clip.caption for clip in self.footage.clips}
        return sorted({word for caption in captions for word in split_words(caption)})

    @cached_property
    def buckets(self) -> dict[Bucket, float]:  # type: ignore[override]
        lengths = self.view.durations(self.num_frames)
        shares = {
            bucket: lengths[bucket.frames] * sum(self.trained_groups(i) for i in numbers)
            * math.prod(self.sizes[bucket.size])
            for bucket, numbers in self.by_bucket.items()
        }  # fmt: skip
        return {bucket: share for bucket, share in shares.items() if share}

    def bucket(self, step: int) -> Bucket:
        generator = draws.generator("length", self.seed, step)
        return pick(self.buckets, float(torch.rand(1, generator=generator)))

    def numbers(self, bucket: Bucket) -> np.ndarray:
        return self.by_bucket[bucket]

    def captions(self) -> list[str]:
        return [clip.caption for clip in self.footage.clips]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self.trainer or self.trainer.is_global_zero:
            print(self.summary())

    def summary(self) -> str:
        """What is trained on, in a line for each size."""
        ends = f"{len(self.held)} ends held out" if self.held else "too short to hold out any end"
        lines = [f"{self.folder}: {len(self.footage)} clips, {ends}"]
        for number, (height, width) in enumerate(self.sizes):
            own = [i for i, clip in enumerate(self.footage.clips) if clip.size == (height, width)]
            share = sum(s for b, s in self.buckets.items() if b.size == number)
            share /= sum(self.buckets.values())
            lines.append(f"  {height} x {width}: {len(own)} clips, {share:.0%} of the steps")
        return "\n".join(lines)

    def train_dataloader(self) -> DataLoader:
        steps = super().train_dataloader().sampler
        workers: Any = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return Loader(Steps(self.batch), sampler=steps, batch_size=None, **workers)

    def val_dataloader(self) -> DataLoader:
        """A batch for each of up to 64 clips with an end held out, the same on every rank."""
        order = np.random.default_rng(self.seed).permutation(sorted(self.held))
        numbers = sorted(order[:MOST_HELD].tolist())
        return DataLoader(HeldOut(self, numbers), batch_size=None)


class HeldOut(Dataset):
    """The ends of clips, read when they are needed."""

    def __init__(self, data: FootageData, numbers: list[int]) -> None:
        self.data, self.numbers = data, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.data.view.held_out(self.data, self.numbers[item])


class Loader(DataLoader):
    """Frees what a decoder has left before it starts workers. In a worker the garbage collector would
    wait for the decoder's threads, which are not there."""

    def __iter__(self) -> Any:
        gc.collect()
        return super().__iter__()


def usual_first(clips: list[FootageClip]) -> list[tuple[int, int]]:
    """The sizes of clips, that of most groups of frames first."""
    groups: Counter = Counter()
    for clip in clips:
        groups[clip.size] += clip.groups
    return [size for size, _ in groups.most_common()]


class FootagePixels(View):
    """Batches of {"video": (B, 3, T, H, W) in [-1, 1]}: windows from anywhere in clips, half of them
    mirrored along each of time, height and width, since footage is scarce and a VAE may see it so.
    """

    of_footage = True

    def prepare(self, data: FootageData) -> None:
        data.footage.check_pictures()
        self.cache: dict[int, np.ndarray] = {}

    def read(self, data: FootageData, number: int) -> np.ndarray:
        """A clip, uint8 (T, H, W, 3), kept in memory as long as there is room."""
        if number not in self.cache:
            clip = data.footage.read(number)
            if sum(each.nbytes for each in self.cache.values()) + clip.nbytes > MAX_CACHED_BYTES:
                self.cache.clear()
            self.cache[number] = clip
        return self.cache[number]

    def window(self, data: FootageData, number: int, generator: torch.Generator) -> np.ndarray:
        """A window that may be trained on, uint8 (T, H, W, 3)."""
        last = 1 + GROUP * (data.trained_groups(number) - 1) - data.num_frames
        start = draw(0, last, generator)
        return self.read(data, number)[start : start + data.num_frames]

    def batch(self, data: FootageData, step: int) -> dict[str, Any]:
        generator = draws.generator("window", data.seed, step, data.ranks.rank)
        windows = [mirror(self.window(data, i, generator), generator) for i in data.indices(step)]
        return {"video": to_pixels(np.stack(windows))}

    def held_out(self, data: FootageData, number: int) -> dict[str, Any]:
        end = data.footage.clips[number].whole_frames
        clip = self.read(data, number)[end - data.num_frames : end]
        caption = data.footage.clips[number].caption
        return {"video": to_pixels(clip[None]), "captions": [caption]}

    def examples(self, data: FootageData) -> Tensor:
        """64 windows, of as many clips as there are, cut to the smallest height and width."""
        generator = draws.generator("examples", data.seed, 0)
        height, width = (min(sides) for sides in zip(*data.sizes, strict=True))
        long_enough = [numbers for numbers in data.by_bucket.values() if len(numbers)]
        order = np.random.default_rng(data.seed).permutation(np.concatenate(long_enough))
        windows = [
            self.window(data, i, generator)[:, :height, :width] for i in np.resize(order, 64)
        ]
        return to_pixels(np.stack(windows))  # (64, 3, T, height, width)


def mirror(clip: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """A clip (T, H, W, 3), mirrored along some of its first three axes."""
    axes = torch.randint(2, (3,), generator=generator).nonzero().flatten().tolist()
    return np.flip(clip, tuple(axes))


class FootageLatents(LatentView):
    """Latents of footage. If the folder has clips, not latents, they are encoded at the start.

    Windows begin at any group, with a latent of one frame, as clips do; half of those that go on
    from known tokens inside a clip are without it.
    """

    of_footage = True

    def __init__(
        self,
        vae: str,
        lengths: dict[int, float] | None = None,
        known: float = 0.0,
        packed: bool = False,
    ) -> None:
        super().__init__(vae, lengths, known, packed)
        self.vae_fingerprint = fingerprint(vae, "vae")

    def durations(self, num_frames: int) -> dict[int, float]:
        return super().durations(num_frames) if self.lengths else {num_frames: 1.0}

    def prepare(self, data: FootageData) -> None:
        if (data.folder / HEAD).is_file():
            self.store: Any = LatentStore(data.folder, self.vae_fingerprint)
        else:
            device = data.trainer.strategy.root_device if data.trainer else best_device()
            self.store = Encoded(data.footage, self.vae.to(device))

    def caption(self, data: FootageData, bucket: Bucket, index: int, step: int) -> str:
        return data.footage.clips[index].caption

    def window(
        self, data: FootageData, bucket: Bucket, index: int, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        first = draw(0, data.trained_groups(index) - bucket.groups, generator)
        if first and MODES[mode].anywhere and draw(0, 1, generator):
            return self.store.latents(index, first, first + bucket.groups), 1
        return self.cut(index, first, bucket.groups), 0

    def cut(self, index: int, first: int, groups: int) -> Tensor:
        """The latents (C, groups, h, w) of a clip that begins with the last frame of group
        `first`."""
        image = self.store.images(index, first)  # (C, 1, h, w)
        rest = self.store.latents(index, first + 1, first + groups)  # (C, groups - 1, h, w)
        return torch.cat([image, rest], dim=1)

    def held_out(self, data: FootageData, number: int) -> dict[str, Any]:
        groups = data.usual.groups
        first = data.footage.clips[number].groups - groups
        latents = self.cut(number, first, groups).float()
        return {"latents": latents[None], "captions": [data.footage.clips[number].caption]}


class Encoded:
    """The latents of clips in memory; see `latents.LatentStore`, which has them on disk."""

    def __init__(self, footage: Footage, vae: VAE) -> None:
        self.held = []
        device = next(vae.parameters()).device
        for number in tqdm(range(len(footage)), "encoding", unit="clip"):
            with torch.inference_mode(), autocast(device):
                groups = [*encode_groups(vae, stream(footage, number))]
            both = [torch.cat(part, dim=1).cpu().half() for part in zip(*groups, strict=True)]
            self.held.append(both)  # latents and images, (C, t, h, w) each

    def latents(self, number: int, start: int = 0, stop: int | None = None) -> Tensor:
        return self.held[number][0][:, start:stop]

    def images(self, number: int, group: int) -> Tensor:
        return self.held[number][1][:, group : group + 1]
