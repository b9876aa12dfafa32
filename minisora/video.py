"""Video in and out: mp4, gif, png (one image or a film strip) and webp are written, by suffix.

Whatever `decode` knows is read, as a whole (`read`), in part (`sample`) or in a stream (`frames`).
"""

import itertools
import math
import struct
from bisect import bisect_right
from collections.abc import Container, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minisora.decoding import DESCRIPTION, EVERY, MARK, check_pixels, decode
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


def read(path: str | Path, fps: float = FPS) -> np.ndarray:
    """The clip at `fps` frames a second, uint8 (T, H, W, 3): frame k is on screen at k / fps.

    Warns and raises like `frames`. Raises InputError for more than 2^30 bytes.
    """
    check_numbers(1, 1000, fps=fps)
    pictures, size = [], 0
    for picture, count in resample(path, fps):
        size += count * picture.nbytes
        if size > MAX_BYTES:
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


def check_sizes(path: str | Path, pictures: list[np.ndarray]) -> None:
    sizes = sorted({picture.shape[-3:-1] for picture in pictures})
    if len(sizes) > 1:
        raise InputError(f"{path} cannot be read as a video: its frames change size, {sizes}")


def resample(
    path: str | Path, fps: float, wanted: Container[int] = EVERY
) -> Iterator[tuple[Any, int]]:
    """Each frame's picture, and how many frames show it at `fps`."""
    last, done = None, 0
    for frame in decode(path, wanted):
        if last is not None:
            until = frames_before(frame.start, fps, frame.unit)
            yield last.picture, until - done
            done = until
        last = frame
    if last is not None:  # a file without duration has one frame
        yield last.picture, max(1, frames_before(last.end, fps, last.unit)) - done


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


def write(path: str | Path, frames: np.ndarray, fps: float = FPS, scale: int = 1) -> Path:
    """Writes uint8 frames (T, H, W, 3), each pixel as scale x scale: a whole file or none.

    mp4: H.264; an odd side is repeated once, as sizes must be even. gif and webp loop. png: one
    frame, or a strip from left to right with a comment by which `read` splits it. Raises
    InputError if the path cannot be written, or if a frame or strip is too large to be read.
    """
    path = check_output(path)
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)")
    check_counts(1, scale=scale)
    check_numbers(1, 1000, fps=fps)
    try:
        check_pixels(scale * frames.shape[1], scale * frames.shape[2])
        frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
        with atomic(path) as partial:
            if partial.suffix == ".mp4":
                write_mp4(partial, frames, fps)
            elif partial.suffix == ".png":
                write_strip(partial, frames, fps)
            else:
                write_animation(partial, frames, fps)
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


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    frames = np.pad(frames, odd, mode="edge")
    with av.open(str(path), "w") as container:
        rate, options = Fraction(fps).limit_denominator(1001), {"crf": "12", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_strip(path: Path, frames: np.ndarray, fps: float) -> None:
    strip, comment = np.concatenate(frames, axis=1), PngInfo()
    check_pixels(*strip.shape[:2])
    if len(frames) > 1:
        comment.add_text("Comment", MARK.format(len(frames), float(fps)))
    Image.fromarray(strip).save(path, pnginfo=comment)


def write_animation(path: Path, frames: np.ndarray, fps: float) -> None:
    unit = 10 if path.suffix == ".gif" else 1  # ms
    # each frame begins at the first unit from its time on, so that errors do not add up
    starts = np.ceil(np.arange(len(frames) + 1) * 1000 / fps / unit - 1e-6) * unit  # ms
    durations = np.diff(starts).clip(unit).astype(int).tolist()
    exif = Image.Exif()
    exif[DESCRIPTION] = MARK.format(len(frames), float(fps))
    first, *rest = map(Image.fromarray, frames)
    options: dict[str, Any] = {"duration": durations, "loop": 0, "save_all": True}
    # read by webp alone, which stores a clip that stands still as an image
    options |= {"lossless": True, "exif": exif}
    first.save(path, append_images=rest, **options)


def tile(clips: np.ndarray, columns: int) -> np.ndarray:
    """Clips (B, T, H, W, 3) in rows of `columns`, with a white line between: (T, H', W', 3)."""
    border = [(0, -len(clips) % columns), (0, 0), (1, 1), (1, 1), (0, 0)]
    clips = np.pad(clips, border, constant_values=255)
    rows = clips.reshape(-1, columns, *clips.shape[1:])
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
