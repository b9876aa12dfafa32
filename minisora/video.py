"""Video in and out: mp4, gif, png (one image or a film strip) and webp are written, by suffix.

Whatever `decode` knows is read, as a whole (`read`), in part (`sample`) or in a stream (`frames`).
"""

import itertools
import json
import math
import struct
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minisora.decoding import (
    COMMENT,
    DAMAGE,
    DESCRIPTION,
    EVERY,
    MARK,
    Frame,
    check_pixels,
    decode,
    note_of,
)
from minisora.errors import InputError, check_counts, check_frames, check_numbers
from minisora.files import atomic, check_writable

SUFFIXES = (".mp4", ".gif", ".png", ".webp")
FPS = 8  # of the clips that the models see
MAX_BYTES = 2**30  # of all frames that `read` returns


# Reading


def frames(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """Streams each frame's time, in seconds after the first, and upright RGB, uint8 (H, W, 3).

    Warns if the file is damaged after its first frame. Raises InputError if it has no frame.
    """
    for frame in decode(path):
        yield frame.start, frame.picture


def read(
    path: str | Path,
    fps: float = FPS,
    size: tuple[int, int] | None = None,
    color: np.ndarray | None = None,
    most: int | None = None,
) -> np.ndarray:
    """The clip at `fps` frames a second, uint8 (T, H, W, 3): frame k is on screen at k / fps.

    With `size` (height, width) each frame is fitted to it, with a border of `color`, see `fit`.
    Warns and raises like `frames`. Raises InputError for more than 2^30 bytes, and for more than
    `most` frames.
    """
    check_numbers(1, 1000, fps=fps)
    pictures, held, total = [], 0, 0
    for picture, count in resample(path, fps):
        if size and count:
            color = border_color(picture) if color is None else color
            picture = fit(picture, *size, color)
        held, total = held + count * picture.nbytes, total + count
        if most is not None and total > most:
            raise InputError(
                f"{path} has more than {most} frames at {fps:g} a second, the most there can be: "
                "cut it"
            )
        if held > MAX_BYTES:
            raise InputError(
                f"{path} has more than {MAX_BYTES:,} bytes at {fps:g} frames a second"
            )
        if count:
            pictures.append(np.broadcast_to(picture, (count, *picture.shape)))  # (count, H, W, 3)
    check_sizes(path, pictures)
    return np.concatenate(pictures)


def sample(path: str | Path, count: int, size: int | None = None) -> np.ndarray:
    """At most `count` evenly spread frames of the clip at 8 fps, uint8 (K, H, W, 3).

    They equal `clip[spread(len(clip), count)]` for `clip = read(path)`, but memory holds these K
    frames alone: the first pass counts, the second converts. With `size` they are resized to
    size x size, each pixel the mean of its area. Warns and raises like `frames`.
    """
    check_counts(1, count=count, size=1 if size is None else size)
    # ends[i]: the frames at 8 fps up to the end of the file's frame i
    ends = list(itertools.accumulate(held for _, held in resample(path, FPS, wanted=())))
    chosen = [bisect_right(ends, number) for number in spread(ends[-1], count)]
    pictures: dict[int, np.ndarray] = {}
    for number, frame in enumerate(decode(path, wanted=chosen)):
        if number in chosen:
            pictures[number] = resize(frame.picture, size) if size else frame.picture
        if number == chosen[-1]:
            break
    check_sizes(path, list(pictures.values()))
    return np.stack([pictures[number] for number in chosen if number in pictures])


def spread(length: int, count: int) -> list[int]:
    """Evenly spread numbers below `length`: `count` of them, but at most half, rounded up."""
    count = min(count, (length + 1) // 2)
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    return np.array(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))


def fit(
    picture: np.ndarray, height: int, width: int, color: np.ndarray | None = None
) -> np.ndarray:
    """A picture (H, W, 3) as large as fits into height x width, in the middle: nothing is cut off.
    The rest has the `color` (3,), by default that of the picture's border."""
    color = border_color(picture) if color is None else color
    high, wide = fitted_size(picture.shape[0], picture.shape[1], height, width)
    small = Image.fromarray(picture).resize((wide, high), Image.Resampling.BOX)
    canvas = np.broadcast_to(color, (height, width, 3)).astype(np.uint8)
    top, left = (height - high) // 2, (width - wide) // 2
    canvas[top : top + high, left : left + wide] = np.asarray(small)
    return canvas


def fitted_size(height: int, width: int, most_high: int, most_wide: int) -> tuple[int, int]:
    """The largest height and width of that ratio in most_high x most_wide."""
    share = min(most_high / height, most_wide / width)
    return max(1, round(share * height)), max(1, round(share * width))


def border_color(picture: np.ndarray) -> np.ndarray:
    """The median color (3,) of the outermost pixels of a picture (H, W, 3)."""
    sides = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    return np.median(np.concatenate(sides), axis=0).astype(np.uint8)


def check_sizes(path: str | Path, pictures: list[np.ndarray]) -> None:
    sizes = sorted({picture.shape[-3:-1] for picture in pictures})
    if len(sizes) > 1:
        raise InputError(f"{path} cannot be read as a video: its frames change size, {sizes}")


def resample(
    path: str | Path, fps: float, wanted: Container[int] = EVERY
) -> Iterator[tuple[Any, int]]:
    """Each frame's picture, and how many frames show it at `fps`."""
    for frame, count in timeline(path, fps, wanted):
        yield frame.picture, count


def timeline(
    path: str | Path, fps: float, wanted: Container[int] = EVERY
) -> Iterator[tuple[Frame, int]]:
    """Each frame of the file, and how many frames show it at `fps`."""
    last, done = None, 0
    for frame in decode(path, wanted):
        if last is not None:
            until = frames_before(frame.start, fps, frame.unit)
            yield last, until - done
            done = until
        last = frame
    if last is not None:  # a file without duration has one frame
        yield last, max(1, frames_before(last.end, fps, last.unit)) - done


def frames_before(seconds: float, fps: float, unit: float) -> int:
    """How many k have k / fps < seconds, a time that may be half a unit too large or small."""
    return max(0, math.ceil((seconds - unit / 2) * fps - 1e-6))


# Writing


def check_output(path: str | Path) -> Path:
    """The path. Raises InputError for an unknown suffix or a folder that cannot be written to."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"cannot write {path.name}: unknown suffix {path.suffix!r}, use one of {', '.join(SUFFIXES)}"
        )
    return check_writable(path)


def check_room(path: Path, frames: int, height: int, width: int, scale: int) -> None:
    """Raises InputError if a file of that name cannot hold such a clip, before it is made."""
    check_counts(1, scale=scale)
    strip = path.suffix.lower() == ".png"
    try:
        check_pixels(scale * height, scale * width * (frames if strip else 1))
    except ValueError as error:
        raise InputError(f"cannot write {path}: {error}: make the scale smaller") from None


class SourceError(Exception):
    """What went wrong while frames were made, not while they were written."""


def from_source(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from parts
    except Exception as error:
        raise SourceError from error


def write(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float = FPS,
    scale: int = 1,
    about: dict[str, Any] | None = None,
) -> Path:
    """Writes uint8 frames (T, H, W, 3), each pixel as scale x scale: a whole file or none.

    mp4: H.264; an odd side is repeated once, as sizes must be even. gif and webp loop. png: one
    frame, or a strip from left to right with a comment by which `read` splits it. `frames` may
    also come in parts (n, H, W, 3), of which an mp4 holds one at a time in memory. `about` is kept
    in the file as JSON, see `about`. Raises InputError if the path cannot be written, if there is
    no frame, if frames differ in size, or if a frame or strip is too large to be read.
    """
    path = check_output(path)
    check_counts(1, scale=scale)
    check_numbers(1, 1000, fps=fps)
    parts = from_source(iter([frames] if isinstance(frames, np.ndarray) else frames))
    note = json.dumps(about, default=lambda number: number.item()) if about else ""  # of NumPy
    try:
        with atomic(path) as partial:
            enlarged = alike(enlarge(part, scale) for part in parts)
            if partial.suffix == ".mp4":
                write_mp4(partial, enlarged, fps, note)
            elif partial.suffix == ".png":
                write_strip(partial, np.concatenate([*enlarged]), fps, note)
            else:
                write_animation(partial, np.concatenate([*enlarged]), fps, note)
    except InputError:
        raise
    except SourceError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    # Pillow's errors have no base; those of old versions are struct's
    except (
        OSError,
        ValueError,
        RuntimeError,
        OverflowError,
        struct.error,
        av.FFmpegError,
    ) as error:
        raise InputError(f"cannot write {path}: {error}") from None
    return path


def alike(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The parts (n, H, W, 3). Raises InputError if there is none, or if they differ in size."""
    size = None
    for part in parts:
        size = size or part.shape[1:3]
        if part.shape[1:3] != size:
            raise InputError(f"all frames need one size, got {size} and {part.shape[1:3]}")
        yield part
    if size is None:
        raise InputError("there is no frame to write")


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Frames (T, H, W, 3) with each pixel as scale x scale. Raises InputError for other arrays."""
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)")
    check_pixels(scale * frames.shape[1], scale * frames.shape[2])
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def write_mp4(path: Path, parts: Iterator[np.ndarray], fps: float, note: str) -> None:
    first = next(parts)  # (n, H, W, 3)
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = note
        rate = Fraction(fps).limit_denominator(1001)
        # x264's mbtree gives other bytes each time for narrow clips
        options = {"crf": "12", "preset": "veryfast", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = (side + side % 2 for side in first.shape[1:3])
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes depend on the number
        odd = [(0, 0), (0, first.shape[1] % 2), (0, first.shape[2] % 2), (0, 0)]
        for part in itertools.chain([first], parts):
            for frame in np.pad(part, odd, mode="edge"):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_strip(path: Path, frames: np.ndarray, fps: float, note: str) -> None:
    strip, comment = np.concatenate(frames, axis=1), PngInfo()
    check_pixels(*strip.shape[:2])
    if len(frames) > 1:
        comment.add_text("Comment", MARK.format(len(frames), float(fps)))
    if note:
        comment.add_itxt("Description", note)
    Image.fromarray(strip).save(path, pnginfo=comment)


def write_animation(path: Path, frames: np.ndarray, fps: float, note: str) -> None:
    unit = 10 if path.suffix == ".gif" else 1  # ms
    # each frame begins at the first unit from its time on, so that errors do not add up
    starts = np.ceil(np.arange(len(frames) + 1) * 1000 / fps / unit - 1e-6) * unit  # ms
    durations = np.diff(starts).clip(unit).astype(int).tolist()
    exif = Image.Exif()
    exif[DESCRIPTION] = MARK.format(len(frames), float(fps))
    if note:
        exif[COMMENT] = note
    first, *rest = map(Image.fromarray, frames)
    options: dict[str, Any] = {"duration": durations, "loop": 0, "save_all": True}
    # read by webp alone, which stores a clip that stands still as an image
    options |= {"lossless": True, "exif": exif}
    first.save(path, append_images=rest, comment=note.encode(), **options)


def about(path: str | Path) -> dict[str, Any]:
    """What `write` was told about a file; empty if nothing, or if another program wrote it."""
    try:
        note = json.loads(note_of(path))
    except (*DAMAGE, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def tile(clips: np.ndarray, columns: int) -> np.ndarray:
    """Clips (B, T, H, W, 3) in rows of `columns`, with a white line between: (T, H', W', 3)."""
    border = [(0, -len(clips) % columns), (0, 0), (1, 1), (1, 1), (0, 0)]
    clips = np.pad(clips, border, constant_values=255)
    rows = clips.reshape(-1, columns, *clips.shape[1:])
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
