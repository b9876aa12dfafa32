"""Re-captioning: a captioner writes new captions for a set of clips, which replace a share `mix` of
the old ones. Both are kept.

The old captions are like people's: short, some with typos, some wrong. Source: Betker et al.,
"Improving Image Generation with Better Captions" (DALL-E 3, 2023), which found 95% synthetic
captions best; the Sora report does the same for video.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minisora import draws, video
from minisora.captioner import Captioner
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.files import check_writable, locked, read_lines, write_text, writing
from minisora.weights import fingerprint, shipped
from minisora.world import Mixture, language

START = b'{"folder": '  # of the first line


def recaption_clips(
    out: str,
    folder: str | None = None,
    clips: int = 24_000,
    seed: int = 0,
    worlds: dict[str, float] | None = None,
    wrong: float = 0.1,
    typos: float = 0.1,
    mix: float = 0.95,
    weights: str | None = None,
    batch: int = 64,
) -> None:
    """Writes a line of JSON for each clip: its "human" and its "synthetic" caption, and as
    "caption" one of the two. A run that was stopped goes on where it was.

    Args:
        out: the file to write, .jsonl; its first line says how it was made.
        folder: clips of your own, with their captions in captions.jsonl, lines of
            {"file": "a.mp4", "caption": "..."}; else the toy worlds' clips.
        clips: number of toy clips.
        seed: of the toy clips, and of every draw.
        worlds: share of each toy world, such as {"pairs": 0.45, "shapes": 0.55} (default: shapes).
        wrong: share of the toy clips' human captions that say something false.
        typos: share of the toy clips' human captions with a misspelled word.
        mix: share of clips that get the synthetic caption.
        weights: folder of the captioner (default: the shipped one).
        batch: clips captioned at once.
    """
    check_shares(wrong=wrong, typos=typos, mix=mix)
    check_counts(1, clips=clips, batch=batch)
    check_seed(seed)
    if weights == "" or folder == "":
        raise InputError("--weights and --folder need a name: leave them out for the defaults")
    head: dict[str, Any] = {"folder": folder, "clips": clips, "seed": seed, "mix": mix}
    head["captioner"] = fingerprint(weights or shipped(), "captioner")
    source: ToyClips | OwnClips
    captioner = Captioner.from_pretrained(weights)
    if folder:
        source = OwnClips(Path(folder), captioner.frames, captioner.size)
        head |= {"clips": len(source), "list": source.fingerprint}
    else:
        source = ToyClips(Mixture(worlds or {"shapes": 1.0}), clips, seed, wrong, typos)
        head |= {"worlds": source.worlds, "wrong": wrong, "typos": typos}
    check_writable(out)
    with locked(out):
        done = lines_done(Path(out), head)
        bar = tqdm(total=len(source), initial=done, desc="captioning", unit="clip")
        with writing(out), open(out, "a", encoding="utf-8") as file:
            for start in range(done, len(source), batch):
                numbers = range(start, min(start + batch, len(source)))
                for row in caption_rows(captioner, source, numbers, seed, mix):
                    file.write(json.dumps(row) + "\n")
                file.flush()
                bar.update(len(numbers))
        bar.close()
    if source.unread:
        files = ", ".join(source.unread[:3])
        raise InputError(f"{len(source.unread)} of {len(source)} clips could not be read: {files}")


def caption_rows(
    captioner: Captioner, source: "ToyClips | OwnClips", numbers: range, seed: int, mix: float
) -> list[dict[str, Any]]:
    """The rows of some clips. A clip that cannot be read keeps its human caption."""
    names, clips, human = zip(*(source[number] for number in numbers), strict=True)
    readable = [clip for clip in clips if clip is not None]
    synthetic = iter(caption_all(captioner, readable, isinstance(source, OwnClips)))
    rows = []
    for number, name, clip, old in zip(numbers, names, clips, human, strict=True):
        new = None if clip is None else next(synthetic)
        use = new is not None and draws.rng("caption choice", seed, number).random() < mix
        rows.append({"clip": name, "human": old, "synthetic": new, "caption": new if use else old})
    return rows


class ToyClips:
    """Name, frames and human caption of each clip of a mixture of worlds."""

    unread: list[str] = []  # none: they are rendered

    def __init__(self, source: Mixture, count: int, seed: int, wrong: float, typos: float) -> None:
        self.source, self.count, self.seed = source, count, seed
        self.wrong, self.typos = wrong, typos

    @property
    def worlds(self) -> dict[str, float]:
        return {name: share for name, share in self.source.shares.items() if share}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[str | int, np.ndarray, str]:
        clip = self.source.clip(self.seed, number)
        rng = draws.rng("human caption", self.seed, number)
        return number, clip.frames, language.human_caption(clip, rng, self.wrong, self.typos)


class OwnClips:
    """Name, frames and human caption of each clip that a folder's captions.jsonl lists. A damaged
    clip has no frames; its name is kept in `unread`."""

    def __init__(self, folder: Path, frames: int, size: int) -> None:
        path = folder / "captions.jsonl"
        if not path.is_file():
            raise InputError(
                f'{folder} has no captions.jsonl, lines of {{"file": ..., "caption": ...}}'
            )
        self.folder, self.rows = folder, read_lines(path, ("file", "caption"))
        self.frames, self.size = frames, size
        self.unread: list[str] = []
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        # unlike Path.is_file, isfile is false for names that are too long
        missing = [row["file"] for row in self.rows if not os.path.isfile(folder / row["file"])]
        if not self.rows:
            raise InputError(f"{path} lists no clips")
        if missing:
            raise InputError(
                f"{len(missing)} clips of {path} are missing, first {missing[0]:.100}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[str | int, np.ndarray | None, str]:
        row = self.rows[number]
        try:
            clip = video.sample(self.folder / row["file"], self.frames, self.size)
        except InputError as error:
            warnings.warn(f"{error}; its human caption is kept", stacklevel=2)
            self.unread.append(row["file"])
            clip = None
        return row["file"], clip, row["caption"]


def caption_all(captioner: Captioner, clips: list[np.ndarray], sampled: bool) -> list[str]:
    """Captions of clips, in one batch if they are of one size."""
    if len({clip.shape for clip in clips}) == 1:
        return captioner(np.stack(clips), sampled=sampled)
    return [captioner(clip[None], sampled=sampled)[0] for clip in clips]


def lines_done(path: Path, head: dict[str, Any]) -> int:
    """The number of clips that `path` has already, after an unfinished line is cut off. A new file
    gets its first line, and so does one whose first line was cut off: it holds no clip. Raises
    InputError if the file was made with other settings."""
    check_writable(path)
    content = path.read_bytes() if path.exists() else b""
    start = min(len(content), len(START))
    if b"\n" not in content and content[:start] == START[:start]:
        write_text(path, json.dumps(head) + "\n")
        return 0
    try:
        old = dict(json.loads(content[: content.index(b"\n")]))
    except (ValueError, TypeError, RecursionError):
        raise InputError(
            f"{path} is no file of captions that was begun here: move it away"
        ) from None
    if old != head:
        changed = [
            f"{key} {old.get(key)}, now {head.get(key)}"
            for key in old | head
            if old.get(key) != head.get(key)
        ]
        raise InputError(
            f"{path} was made with other settings ({'; '.join(changed)}): move it away, or use the same"
        )
    os.truncate(path, content.rfind(b"\n") + 1)
    return content.count(b"\n") - 1
