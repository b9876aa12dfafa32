"""Views of toy clips: pixels for the VAE, latents for the transformer, frames with captions for the
captioner. All clips are rendered, and encoded, before the first step."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minisora import draws, weights
from minisora.canvas import MODES, draw, draw_mode
from minisora.data import Bucket, ClipData, VideoData, View, pick
from minisora.device import autocast, best_device
from minisora.errors import InputError, check_counts, check_shares
from minisora.vae import GROUP, VAE, to_pixels
from minisora.world import Clip, language


class Pixels(View):
    """Batches of {"video": (B, 3, T, H, W) in [-1, 1]}."""

    def prepare(self, data: ClipData) -> None:
        bar = tqdm(total=data.clips, desc="rendering", unit="clip")
        self.frames = []  # for each size uint8 (clips, T, H, W, 3)
        for bucket in data.buckets:
            clips = []
            for i in data.numbers(bucket):
                clips.append(data.clip(i).frames)
                bar.update()
            self.frames.append(np.stack(clips))
        bar.close()

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        rows = data.indices(step) // len(data.sizes)
        return {"video": to_pixels(self.frames[data.bucket(step).size][rows])}

    def examples(self, data: ClipData) -> Tensor:
        return to_pixels(self.frames[0][:256])  # (256, 3, T, H, W)


class EncodedView(View):
    """What views through a trained VAE share: the VAE of the bundle `vae`, held-out validation
    clips, and one length a step. Subclasses have `captions`.

    `lengths` gives each length of clips, in frames, its share of the steps. The default: 85% of the
    steps have whole clips, the others clips of 1, 5, 9, ... frames.
    """

    validation_split = "held_out"

    def __init__(self, vae: str, lengths: dict[int, float] | None) -> None:
        check_shares_of(lengths)
        self.vae, self.lengths = weights.load(vae, "vae", VAE), lengths

    @property
    def channels(self) -> int:
        return self.vae.channels

    def check(self, data: Any) -> None:
        data.check_sizes(self.vae.space)
        longest = max(self.durations(data.num_frames))
        if longest > data.num_frames:
            raise InputError(
                f"data.view.lengths has {longest} frames, clips have {data.num_frames}: "
                "set data.num_frames"
            )

    def durations(self, num_frames: int) -> dict[int, float]:
        if self.lengths:
            return {frames: share for frames, share in self.lengths.items() if share}
        shorter = range(1, num_frames, GROUP)
        if not shorter:
            return {num_frames: 1.0}
        return {num_frames: 0.85} | {frames: 0.15 / len(shorter) for frames in shorter}


class LatentView(EncodedView):
    """Batches of {"latents": (B, C, t, h, w), "captions", "modes", "start": (B,)} of the VAE in
    `vae`.

    A latent is a picture of its own group of frames, so any latents in a row are a clip, and the
    first alone is an image. A share `known` of the clips has known tokens: "modes" names what is
    given (see `canvas.MODES`; "text": nothing). Some windows are without the latent of one frame
    that every clip begins with: "start" is 1 for these, else 0.

    If `packed`, a step is one row of clips of all sizes and lengths, as long as a usual batch, and
    "latents" is a list of (C, t, h, w). Source: Dehghani et al., "Patch n' Pack: NaViT" (2023).
    """

    def __init__(
        self, vae: str, lengths: dict[int, float] | None, known: float, packed: bool
    ) -> None:
        super().__init__(vae, lengths)
        check_shares(known=known)
        self.known, self.packed = known, packed

    def caption(self, data: Any, bucket: Bucket, index: int, step: int) -> str:
        raise NotImplementedError

    def draw_mode(self, data: Any, index: int, groups: int, generator: torch.Generator) -> str:
        """What is given of a clip, a name in `canvas.MODES`."""
        return draw_mode(groups, self.known, generator)

    def window(
        self, data: Any, bucket: Bucket, index: int, mode: str, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The latents (C, t, h, w) of a part of a clip, and 0 if the first has one frame, else 1."""
        raise NotImplementedError

    @property
    def modes(self) -> list[str]:
        return ["text", *(name for name, mode in MODES.items() if self.known and mode.share)]

    def batch_size(self, data: VideoData, bucket: Bucket) -> int:
        """As many clips as have the latents of `data.batch_size` usual ones, at least one."""
        usual, here = self.latents_of(data, data.usual), self.latents_of(data, bucket)
        return max(1, round(data.batch_size * usual / here))

    def latents_of(self, data: VideoData, bucket: Bucket) -> int:
        """The latents, t * h * w, of a clip."""
        return bucket.groups * math.prod(data.sizes[bucket.size]) // self.vae.space**2

    def batch(self, data: VideoData, step: int) -> dict[str, Any]:
        generator = draws.generator("window", data.seed, step, data.ranks.rank)
        if self.packed:
            drawn = self.fill_row(data, generator)
        else:
            drawn = [(data.bucket(step), index) for index in data.indices(step)]
        captions = [self.caption(data, bucket, index, step) for bucket, index in drawn]
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

    def fill_row(self, data: VideoData, generator: torch.Generator) -> list[tuple[Bucket, int]]:
        """Draws clips until a row is as long as a usual batch, greedily: what does not fit is
        drawn again, 20 times at most, but for the first clip. Buckets are drawn so that they have
        the shares of latents that steps give them; small ones come to a little more, as they fit
        where large ones do not."""
        room, misses = data.batch_size * self.latents_of(data, data.usual), 0
        drawn: list[tuple[Bucket, int]] = []
        shares = {b: share / self.latents_of(data, b) for b, share in data.buckets.items()}
        while misses < 20:
            bucket = pick(shares, float(torch.rand(1, generator=generator)))
            if (count := self.latents_of(data, bucket)) > room and drawn:
                misses += 1
                continue
            numbers = data.numbers(bucket)
            drawn.append((bucket, int(numbers[draw(0, len(numbers) - 1, generator)])))
            room -= count
        return drawn


def check_shares_of(lengths: dict[int, float] | None) -> None:
    """Raises InputError for impossible lengths, and if none has a share."""
    for frames, share in (lengths or {}).items():
        check_counts(1, 4096, frames=frames)
        check_shares(share=share)
        if frames % GROUP != 1:
            raise InputError(f"data.view.lengths are 1 + 4k frames, got {frames}")
    if lengths is not None and not sum(lengths.values()):
        raise InputError("data.view.lengths give no length a share: set one above 0")


def check_lengths(view: EncodedView, data: ClipData) -> None:
    """Raises InputError for lengths at which clips of a world do not show what they are about."""
    for world in data.source.worlds:
        for frames in view.durations(data.num_frames):
            if data.source.shares[world.name] and 1 < frames < world.shows_all:
                raise InputError(
                    f"clips of the world {world.name} are cut to 1 frame or to {world.shows_all} "
                    f"or more, not to {frames}: set data.view.lengths"
                )


def captions_of(view: EncodedView, data: ClipData, index: int, clip: Clip) -> dict[int, str]:
    """The caption of clip number `index` at each length. It names what such a clip shows."""
    world = data.source.world_of(data.seed, index)
    return {
        frames: clip.caption if frames >= world.shows_all else data.clip(index, frames).caption
        for frames in view.durations(data.num_frames)
    }


class Latents(LatentView):
    """Latents of toy clips.

    For the first `ordered_steps` optimizer steps captions name the upper or left object first;
    later, either. `captions` is a file that `minisora recaption` wrote for these clips; its
    captions replace the world's own, for images too.

    Clips with known tokens are cut from anywhere in the whole clip, whose caption they keep, and
    half of them begin up to three frames late; half of those from further inside are without the
    latent of one frame.
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
        super().__init__(vae, lengths, known, packed)
        self.ordered_steps, self.caption_file = ordered_steps, captions

    def check(self, data: ClipData) -> None:
        super().check(data)
        check_lengths(self, data)
        if self.caption_file:
            read_captions_for(data, self.caption_file)

    def prepare(self, data: ClipData) -> None:
        self.device = data.trainer.strategy.root_device if data.trainer else best_device()
        self.vae.to(self.device)
        self.captions: list[dict[int, str]] = [{} for _ in range(data.clips)]  # by length
        # by size: the latents (clips, C, t, h, w), and each group's last frame alone, likewise
        self.latents, self.images = [], []
        bar = tqdm(total=data.clips, desc="rendering and encoding", unit="clip")
        for size in range(len(data.sizes)):
            numbers = data.numbers(Bucket(size, data.num_frames))
            parts = [
                self.encode(data, part, bar)
                for part in np.array_split(numbers, math.ceil(data.clips / 64))
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
            self.captions[i] = captions_of(self, data, i, clip)
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

    def caption(self, data: ClipData, bucket: Bucket, index: int, step: int) -> str:
        caption = self.captions[index][bucket.frames]
        ordered = data.steps_before(step) < self.ordered_steps
        return language.in_order(caption) if ordered else caption

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

    def check(self, data: ClipData) -> None:
        super().check(data)
        check_lengths(self, data)

    def prepare(self, data: ClipData) -> None:
        self.frames: list[np.ndarray] = []
        self.captions: list[dict[int, str]] = []  # by length
        self.short_captions: list[str] = []
        for i in tqdm(range(data.clips), "rendering", unit="clip"):
            clip = data.clip(i)
            self.frames.append(clip.frames)  # uint8 (T, H, W, 3)
            captions = captions_of(self, data, i, clip).items()
            self.captions.append({frames: language.in_order(text) for frames, text in captions})
            self.short_captions.append(clip.short_caption)

    def batch(self, data: ClipData, step: int) -> dict[str, Any]:
        indices, frames = data.indices(step), data.bucket(step).frames
        captions = [self.captions[i][frames] for i in indices]
        if data.steps_before(step) < self.short_steps:
            captions, frames = [self.short_captions[i] for i in indices], data.num_frames
        clips = np.stack([self.frames[i][:frames] for i in indices])  # (B, T, H, W, 3)
        return {"clips": torch.from_numpy(clips), "captions": captions}


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
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
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
