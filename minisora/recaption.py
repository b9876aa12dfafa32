"""Re-captioning: clips with captions as people write them, short, with typos and sometimes wrong,
get the captions that a captioner writes, in a share of `mix`. Both are kept.

Source: Betker et al., "Improving Image Generation with Better Captions" (DALL-E 3, 2023), which found
95% synthetic captions best; the Sora report does the same for video.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minisora import video, world
from minisora.captioner import Captioner
from minisora.data import ClipData
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.files import check_writable
from minisora.weights import fingerprint, shipped

KINDS = (
    tuple(world.shapes.COLORS),
    world.shapes.SHAPES,
    tuple(sorted(world.shapes.DIRECTIONS, key=len, reverse=True)),  # diagonals first
)  # what a wrong word is taken from


def human_caption(clip: world.Clip, rng: np.random.Generator, wrong: float, typos: float) -> str:
    """A short caption; with chance `wrong` a color, shape or direction is another one than the
    clip shows, with chance `typos` a word has lost a letter."""
    caption = clip.short_caption
    if rng.random() < wrong:
        said = [(kind, next((word for word in kind if word in caption), "")) for kind in KINDS]
        named = [(kind, word) for kind, word in said if word]
        kind, word = named[rng.integers(len(named))]
        others = [other for other in kind if other != word]
        caption = caption.replace(word, others[rng.integers(len(others))], 1)
    if rng.random() < typos:
        words = caption.split()
        which = int(np.argmax([(len(word) - 1) * rng.random() for word in words]))
        letter = rng.integers(1, max(2, len(words[which])))
        words[which] = words[which][:letter] + words[which][letter + 1 :]
        caption = " ".join(words)
    return caption


def recaption(
    out: str,
    folder: str | None = None,
    clips: int = 24_000,
    seed: int = 0,
    pairs: float = 0.0,
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
            {"file": "a.mp4", "caption": "..."}; else the toy world's.
        clips: how many of the toy world's.
        seed: of the toy world, and of every draw.
        pairs: of the toy world's clips, the share with two objects.
        wrong: of the toy world's human captions, the share that say something false.
        typos: of the toy world's human captions, the share with a word misspelled.
        mix: share of clips that get the synthetic caption.
        weights: folder of the captioner (default: the shipped one).
        batch: clips captioned at once.
    """
    check_shares(pairs=pairs, wrong=wrong, typos=typos, mix=mix)
    check_counts(1, clips=clips, batch=batch)
    check_seed(seed)
    head: dict[str, Any] = {"folder": folder, "clips": clips, "seed": seed, "mix": mix}
    head["captioner"] = fingerprint(weights or shipped(), "captioner")
    own = OwnClips(Path(folder)) if folder else None
    source = ToyClips(seed, pairs, wrong, typos) if own is None else own
    count = len(own) if own else clips
    if own:
        head |= {"clips": count, "list": own.fingerprint}
    else:
        head |= {"pairs": pairs, "wrong": wrong, "typos": typos}
    captioner = Captioner.from_pretrained(weights)
    done = lines_done(Path(out), head)
    bar = tqdm(total=count, initial=done, desc="captioning", unit="clip")
    with open(out, "a") as file:
        for start in range(done, count, batch):
            numbers = range(start, min(start + batch, count))
            names, frames, human = zip(*(source[number] for number in numbers), strict=True)
            synthetic = caption_all(captioner, list(frames))
            for number, *row in zip(numbers, names, human, synthetic, strict=True):
                chosen = (
                    row[2] if np.random.default_rng((seed, number, 5)).random() < mix else row[1]
                )
                keys = ("clip", "human", "synthetic", "caption")
                file.write(json.dumps(dict(zip(keys, (*row, chosen), strict=True))) + "\n")
            file.flush()
            bar.update(len(numbers))
    bar.close()


class ToyClips:
    """Name, frames and human caption of each of the toy world's clips."""

    def __init__(self, seed: int, pairs: float, wrong: float, typos: float) -> None:
        self.data, self.rates = ClipData(seed=seed, pairs=pairs), (wrong, typos)

    def __getitem__(self, number: int) -> tuple[str | int, np.ndarray, str]:
        clip = self.data.render(number)
        rng = np.random.default_rng((self.data.seed, number, 6))
        return number, clip.frames, human_caption(clip, rng, *self.rates)


class OwnClips:
    """Name, frames and human caption of each clip that a folder's captions.jsonl lists."""

    def __init__(self, folder: Path) -> None:
        path = folder / "captions.jsonl"
        if not path.is_file():
            raise InputError(
                f'{folder} has no captions.jsonl, lines of {{"file": ..., "caption": ...}}'
            )
        self.folder, self.rows = folder, read_lines(path, ("file", "caption"))
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        missing = [row["file"] for row in self.rows if not (folder / row["file"]).is_file()]
        if not self.rows:
            raise InputError(f"{path} lists no clips")
        if missing:
            raise InputError(f"{len(missing)} clips of {path} are missing, first {missing[0]}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[str | int, np.ndarray, str]:
        row = self.rows[number]
        return row["file"], video.read(self.folder / row["file"]), row["caption"]


def caption_all(captioner: Captioner, clips: list[np.ndarray]) -> list[str]:
    """Captions of clips, in one go if they are of one size."""
    if len({clip.shape for clip in clips}) == 1:
        return captioner(np.stack(clips))
    return [captioner(clip[None])[0] for clip in clips]


def read_lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The lines of a .jsonl file. Raises InputError, naming the line, if one lacks a text."""
    rows = []
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text in UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n") if text else [], 1):
        try:
            row = json.loads(line)
            texts = [row[key] for key in keys]
        except (ValueError, KeyError, TypeError):
            texts = [None]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}, line {number}: no JSON with texts for {' and '.join(keys)}")
        rows.append(row)
    return rows


def lines_done(path: Path, head: dict[str, Any]) -> int:
    """How many clips `path` has already, after cutting off a line that was not finished. A new file
    gets its first line. Raises InputError if it was made in another way."""
    check_writable(path)
    if not path.exists():
        path.write_text(json.dumps(head) + "\n")
        return 0
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    try:
        was = dict(json.loads(whole[: whole.index(b"\n")]))
    except (ValueError, TypeError):
        raise InputError(
            f"{path} is no file of captions that was begun here: move it away"
        ) from None
    if was != head:
        changed = [
            f"{key} {was.get(key)}, now {head.get(key)}"
            for key in was | head
            if was.get(key) != head.get(key)
        ]
        raise InputError(
            f"{path} was made otherwise ({'; '.join(changed)}): move it away or do the same"
        )
    os.truncate(path, end)
    return whole.count(b"\n") - 1
