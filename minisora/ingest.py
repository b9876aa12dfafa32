"""Real video in: a folder of anything becomes a folder of clips, read by `footage`.

Worker processes decode, so that a file that hangs or crashes a decoder costs that file alone. What
is done is kept in a journal; the index is written at the end, in the order of the names. A run that
was killed therefore comes to the same folder when it is started again.
"""

import hashlib
import json
import os
import posixpath
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minisora import scenes, video
from minisora.crew import Crew, Done
from minisora.decoding import MAX_PIXELS, open_file
from minisora.errors import InputError, check_counts, check_numbers
from minisora.files import locked, make_folder, read_lines, remove_partial, write_text
from minisora.footage import CAPTIONS, INDEX
from minisora.scenes import GROUP, SHORTEST, Beat, Piece

JOURNAL = ".journal.jsonl"
RULES = 1  # goes up when the same files would give other clips
TEXTS = {".txt", ".md", ".json", ".jsonl"}  # beside the videos, none of them
CLIP_NAME = re.compile(r"[0-9a-f]{16}-\d{4,}\.mp4")
AGAIN = {"crash", "hang", "duplicate"}  # dropped for these reasons: tried again
BEAT = 0.2  # seconds between a worker's reports
Row = dict[str, Any]
Say = Callable[..., None]


def ingest(
    folder: str | Path,
    out: str | Path,
    pixels: int = 16384,
    seconds: float = 20.0,
    workers: int | None = None,
    patience: float = 120.0,
) -> list[Row]:
    """Cuts every video and image below `folder` into clips in `out`, and returns the index's rows.

    Clips have at most `pixels` in a frame and `seconds`, see `scenes`. Their caption is that of
    their file in the folder's captions.jsonl, or in the .txt beside it. Goes on where it was
    stopped; what an earlier run made of files that are gone stays. A file whose decoder shows no
    progress for `patience` seconds is given up. Raises InputError if `out` was
    made with other settings, or cannot be written.
    """
    head, longest = settings(pixels, seconds)
    files = find_files(Path(folder), Path(out))
    captions = read_captions(Path(folder), files)
    out = make_folder(out).resolve()
    with locked(out):
        remove_partial(out)
        before, written = begin(out, head), read_words(out)
        done = known(before)
        with Crew(workers or cpu_count(), patience, take, out, pixels, longest, done) as crew:
            rows = take_all(crew, Path(folder), files, out / JOURNAL)
        rows = merge(before, rows)
        finish(out, head, rows, captions, written)
    return rows


def settings(pixels: int, seconds: float) -> tuple[Row, int]:
    """The index's first line, and the most frames of a clip."""
    check_counts(scenes.SIDE**2, MAX_PIXELS, pixels=pixels)
    # a piece that is a little longer is halved, and halves must not be too short
    check_numbers((2 * SHORTEST - 1) / video.FPS, 3600, seconds=seconds)
    longest = int(seconds * video.FPS)
    if 3 * pixels * longest > video.MAX_BYTES:
        raise InputError(
            f"clips of {seconds:g} s with {pixels:,} pixels have more than {video.MAX_BYTES:,} bytes: "
            "make them shorter or smaller"
        )
    head = {"rules": RULES, "fps": video.FPS, "pixels": pixels, "seconds": float(seconds)}
    return head, longest - (longest - 1) % GROUP


def cpu_count() -> int:
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


# The user's folder


def find_files(folder: Path, out: Path) -> list[str]:
    """The names of all files below the folder, sorted, but for texts and hidden ones."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one with videos")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out} is inside {folder}: put the clips elsewhere")
    found = []
    for parent, folders, names in os.walk(folder, onerror=skip_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(parent) / name).relative_to(folder).as_posix()
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() not in TEXTS
        ]
    if not found:
        raise InputError(f"{folder} has no files to read")
    return sorted(found)


def skip_folder(error: OSError) -> None:
    warnings.warn(f"cannot read {error.filename}: {error.strerror}; it is left out", stacklevel=2)


def read_captions(folder: Path, files: list[str]) -> dict[str, str]:
    """The captions of the files, by name."""
    captions = {}
    for name in files:
        path = (folder / name).with_suffix(".txt")
        if path.is_file():
            try:
                captions[name] = " ".join(path.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError) as error:
                warnings.warn(f"cannot read {path}: {error}; {name} has no caption", stacklevel=2)
    listed = {}
    if (folder / CAPTIONS).is_file():
        rows = read_lines(folder / CAPTIONS, ("file", "caption"))
        listed = {posixpath.normpath(row["file"]): row["caption"] for row in rows}
    if missing := sorted(set(listed) - set(files)):
        warnings.warn(
            f"{folder / CAPTIONS} names {len(missing)} files that are not there, first {missing[0]}",
            stacklevel=2,
        )
    return captions | listed


# The folder of clips


def begin(out: Path, head: Row) -> list[Row]:
    """The rows that earlier runs wrote. Raises InputError if they had other settings, or if the
    folder has other files."""
    before: list[Row] = []
    for path in [out / INDEX, out / JOURNAL]:
        if path.is_file():
            cut_unfinished_line(path)
            first, *rows = read_lines(path, ()) or [{}]
            if first != head:
                old = ", ".join(f"{key} {first.get(key)}" for key in head)
                new = ", ".join(f"{key} {head[key]}" for key in head)
                raise InputError(f"{out} was made with {old}, now {new}: name another folder")
            check_rows(path, rows)
            before += rows
    is_new = not (out / INDEX).is_file() and not (out / JOURNAL).is_file()
    others = [each.name for each in out.iterdir() if not each.name.startswith(".")]
    if is_new and others:
        raise InputError(f"{out} has other files, such as {min(others)}: name another folder")
    if not (out / JOURNAL).is_file():
        write_text(out / JOURNAL, json.dumps(head) + "\n")
    return before


def check_rows(path: Path, rows: list[Row]) -> None:
    """Raises InputError if they are not as they were written."""
    try:
        known(rows)
        table(merge([], rows))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path} is damaged: name another folder for the clips") from None


def cut_unfinished_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def read_words(out: Path) -> dict[str, str]:
    """The captions of clips, by name, that an earlier run or somebody else wrote."""
    if not (out / CAPTIONS).is_file():
        return {}
    return {r["file"]: r["caption"] for r in read_lines(out / CAPTIONS, ("file", "caption"))}


def known(rows: list[Row]) -> dict[str, Row]:
    """What became of files, by their content."""
    return {row["sha256"]: row for row in rows if not AGAIN & {d["why"] for d in row["dropped"]}}


def merge(before: list[Row], rows: list[Row]) -> list[Row]:
    """One row for each file, sorted. The first of those with the same content has its clips."""
    merged = {row["file"]: row for row in [*before, *rows]}
    first: dict[str, str] = {}
    for name in sorted(merged):
        row = merged[name]
        if row["clips"] and first.setdefault(row["sha256"], name) != name:
            merged[name] = row | dropped("duplicate", f"the same as {first[row['sha256']]}")
    return [merged[name] for name in sorted(merged)]


def dropped(why: str, detail: str = "", start: float = 0.0, end: float = 0.0) -> Row:
    """The part of a row that says why a file has no clips."""
    drop = {"start": start, "end": end, "why": why} | ({"detail": detail} if detail else {})
    return {"clips": [], "dropped": [drop]}


def finish(
    out: Path, head: Row, rows: list[Row], captions: dict[str, str], written: dict[str, str]
) -> None:
    """Writes captions and index, and removes clips that no row has any more."""
    clips = {clip["clip"]: row["file"] for row in rows for clip in row["clips"]}
    words = [
        {"file": clip, "caption": captions.get(file) or written.get(clip, "")}
        for clip, file in clips.items()
    ]
    write_text(out / CAPTIONS, "".join(json.dumps(line) + "\n" for line in words))
    write_text(out / INDEX, "".join(json.dumps(line) + "\n" for line in [head, *rows]))
    for path in out.iterdir():
        if CLIP_NAME.fullmatch(path.name) and path.name not in clips:
            path.unlink()
    (out / JOURNAL).unlink()


# All files


def take_all(crew: Crew, folder: Path, files: list[str], journal: Path) -> list[Row]:
    """A row for each file, in the order in which they were done. Each is in the journal at once."""
    sizes, rows, done = {file: size_of(folder / file) for file in files}, [], 0
    with (
        open(journal, "a", encoding="utf-8") as log,
        tqdm(total=sum(sizes.values()), desc="cutting", unit="B", unit_scale=True) as bar,
    ):
        for ended in crew.run((folder, file) for file in files):
            for each in ended:
                rows.append(row_of(each))
                log.write(json.dumps(rows[-1]) + "\n")
                log.flush()
                done += sizes[rows[-1]["file"]]
            begun = [(w.task[1], w.said.get("share", 0.0)) for w in crew.busy]
            bar.update(int(done + sum(sizes[file] * share for file, share in begun)) - bar.n)
    return rows


def row_of(done: Done) -> Row:
    _, file = done.task
    if not done.why:
        return {"file": file, **done.result}
    share = done.said.get("share", 0.0)
    said = {"crash": "its decoder crashed", "hang": "its decoder hung"}[done.why]
    gone = dropped(done.why, f"{said} when {share:.0%} of the work was done")
    return {"file": file, "sha256": done.said.get("sha256", ""), **gone}


def size_of(path: Path) -> int:
    """Its bytes and one more, so that empty files count."""
    try:
        return path.stat().st_size + 1
    except OSError:
        return 1


# One file, in a worker


class Unreadable(Exception):
    """A file that could be read at first, and then no more."""


def take(
    task: tuple[Path, str], say: Say, out: Path, pixels: int, longest: int, done: dict[str, Row]
) -> Row:
    """The row of a file, but for its name. Raises InputError if a clip cannot be written."""
    folder, file = task
    path, sha256 = folder / file, ""
    try:
        sha256 = hash_file(path, say)
        say(sha256=sha256)
        old = done.get(sha256)
        if old and all((out / clip["clip"]).is_file() for clip in old["clips"]):
            return {key: old[key] for key in ("sha256", "clips", "dropped")}
        plan, damage = look(path, pixels, longest, throttled(say, 0.0))
    except Exception as error:  # whatever a decoder raises, the file is to blame
        return {"sha256": sha256, **dropped("unreadable", explain(error, path))}
    try:
        clips = write_clips(path, out, sha256, plan, throttled(say, 0.5))
    except Unreadable as error:
        return {"sha256": sha256, **dropped("unreadable", explain(error, path))}
    gone = [
        {"start": in_seconds(piece.start), "end": in_seconds(piece.end), "why": piece.why}
        for piece in plan
        if piece.why
    ]
    return {"sha256": sha256, "clips": clips, "dropped": gone + damage}


def hash_file(path: Path, say: Say) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(2**20):
            digest.update(block)
            say(share=0.0)
    return digest.hexdigest()


def throttled(say: Say, done: float) -> Beat:
    """A function that reports a share of one of two passes, not too often."""
    last = 0.0

    def beat(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > BEAT:
            last = time.monotonic()
            say(share=done + share / 2)

    return beat


def look(path: Path, pixels: int, longest: int, beat: Beat) -> tuple[list[Piece], list[Row]]:
    """The pieces of a file, and what is dropped because it is damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pieces, length = scenes.survey(path, pixels, longest, beat)
    texts = [str(warning.message) for warning in caught]
    end = in_seconds(length)
    return pieces, [
        {"start": end, "end": end, "why": "damaged", "detail": explain(text, path)}
        for text in texts
        if text.startswith(f"{path} is damaged")
    ]


def explain(error: object, path: Path) -> str:
    """What an error or a warning says, without the folders, which may be others next time."""
    text = str(error) or type(error).__name__
    return text.replace(str(path), path.name)


def in_seconds(frames: int) -> float:
    return frames / video.FPS


def write_clips(path: Path, out: Path, sha256: str, plan: list[Piece], beat: Beat) -> list[Row]:
    """Streams the file once more, and writes the pieces that are kept."""
    stream = Stream(path, beat)
    rows: list[Row] = []
    for piece in plan:
        if not piece.why:
            name = f"{sha256[:16]}-{len(rows):04}.mp4"
            video.write(out / name, stream.clip(piece))
            start, end = in_seconds(piece.start), in_seconds(piece.end)
            height, width = piece.size
            size = {"frames": piece.length, "height": height, "width": width}
            rows.append({"clip": name, "start": start, "end": end, **size})
    return rows


class Stream:
    """The frames of a file, from which clips are cut in order."""

    def __init__(self, path: Path, beat: Beat) -> None:
        self.frames, self.at = scenes.shown(path, beat), 0

    def clip(self, piece: Piece) -> Iterator[np.ndarray]:
        """Its frames, one at a time. Raises Unreadable if they end too early."""
        held, picture = None, np.empty(0)
        try:
            while self.at < piece.end:
                frame = next(self.frames)
                self.at += 1
                if self.at > piece.start:
                    if frame is not held:
                        held, picture = frame, scenes.cut(frame.picture, piece)
                    yield picture
        except Exception as error:
            raise Unreadable(str(error) or "it has become shorter") from None


# The table at the end


def table(rows: Iterable[Row]) -> str:
    """What was kept and dropped, by reason."""
    rows = list(rows)
    clips = [clip for row in rows for clip in row["clips"]]
    lines = [("kept", len(clips), sum(bool(row["clips"]) for row in rows), spent(clips))]
    gone: dict[str, list[Row]] = {}
    files: Counter = Counter()
    for row in rows:
        files.update({drop["why"] for drop in row["dropped"]})
        for drop in row["dropped"]:
            gone.setdefault(drop["why"], []).append(drop)
    for why in sorted(gone):
        lines.append((f"dropped: {why}", len(gone[why]), files[why], spent(gone[why])))
    width = max(len(line[0]) for line in lines)
    head = f"{'':{width}}  pieces  files   seconds"
    body = [f"{name:{width}}  {n:6,}  {f:5,}  {s:8,.1f}" for name, n, f, s in lines]
    return "\n".join([head, *body])


def spent(pieces: list[Row]) -> float:
    return sum(piece["end"] - piece["start"] for piece in pieces)
