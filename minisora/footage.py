"""A folder of clips that `minisora ingest` wrote: real footage, cut, resized, and safe to read.

`index.jsonl` has a line that says how the clips were made, then one for each file of the user's:
{"file", "sha256", "clips": [{"clip", "start", "end", "frames", "height", "width"}], "dropped":
[{"start", "end", "why"}]}. `captions.jsonl` has a line {"file", "caption"} for each clip.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minisora import video
from minisora.errors import InputError
from minisora.files import read_lines

INDEX, CAPTIONS = "index.jsonl", "captions.jsonl"
LATENTS = "latents.json"  # in a folder of latents, which has the index, but no pictures


class FootageClip(NamedTuple):
    """A clip of the folder: `frames` pictures of `height` x `width` at `video.FPS` a second."""

    name: str  # of its file in the folder
    source: str  # the user's file that it was cut from
    frames: int
    height: int
    width: int
    caption: str  # empty if nobody wrote one

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def groups(self) -> int:
        """The latents along time, 1 + k, of the first 1 + 4k frames. The VAE's groups have four."""
        return 1 + (self.frames - 1) // 4

    @property
    def whole_frames(self) -> int:
        """1 + 4k: up to three frames at the end are left out."""
        return 4 * self.groups - 3


def check_types(clips: list[FootageClip]) -> None:
    """Raises TypeError if a name is no text, or a count no whole number above 0."""
    for clip in clips:
        texts, counts = (clip.name, clip.source), (clip.frames, *clip.size)
        if not all(isinstance(text, str) for text in texts) or not all(
            type(count) is int and count > 0 for count in counts
        ):
            raise TypeError(clip)


class Footage:
    """The clips of a folder, in the order of its index. `fingerprint` names index and captions, so
    that what was made of other clips can be told apart."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index, captions = self.folder / INDEX, self.folder / CAPTIONS
        if not index.is_file():
            raise InputError(f"no clips in {folder}: `minisora ingest` makes such a folder")
        rows = read_lines(index, ())[1:]
        words = {}
        if captions.is_file():
            words = {r["file"]: r["caption"] for r in read_lines(captions, ("file", "caption"))}
        try:
            self.clips = [
                FootageClip(
                    c["clip"], row["file"], c["frames"], c["height"], c["width"],
                    words.get(c["clip"], ""),
                )
                for row in rows
                for c in row["clips"]
            ]  # fmt: skip
            check_types(self.clips)
        except (KeyError, TypeError):
            raise InputError(f"{index} is damaged: run `minisora ingest` again") from None
        if not self.clips:
            raise InputError(f"{folder} has no clips: {INDEX} says why each file was dropped")
        known = json.dumps([self.clips]).encode()
        self.fingerprint = hashlib.sha256(known).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.clips)

    def check_pictures(self) -> None:
        """Raises InputError if the folder has latents of the clips, not the clips."""
        if (self.folder / LATENTS).is_file():
            raise InputError(
                f"{self.folder} holds latents, not clips: name the folder that `minisora ingest` wrote"
            )

    def read(self, number: int) -> np.ndarray:
        """The frames of clip `number`, uint8 (T, H, W, 3). Raises InputError if they are not those
        of the index."""
        clip = self.clips[number]
        frames = video.read(self.folder / clip.name)  # (T, H, W, 3)
        expected = (clip.frames, clip.height, clip.width, 3)
        if frames.shape != expected:
            raise InputError(
                f"{self.folder / clip.name} has changed: it is {frames.shape}, {INDEX} says {expected}"
            )
        return frames
