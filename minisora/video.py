"""Video in and out: mp4, gif, png (a strip of frames or one image) and webp, by suffix."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence

from minisora.errors import InputError, check_counts, check_frames
from minisora.files import atomic, check_writable

SUFFIXES = (".mp4", ".gif", ".png", ".webp")
# the exceptions that PyAV, Pillow and NumPy raise for damaged files
DAMAGE = (
    av.FFmpegError, OSError, ValueError, IndexError, struct.error, Image.DecompressionBombError,
)  # fmt: skip


def read(path: str | Path) -> np.ndarray:
    """All frames of a video or image, uint8 (T, H, W, 3). Raises InputError if it cannot be read.

    gif and webp store unchanged frames once, with a duration: they are repeated at 8 per second.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        if path.suffix.lower() in (".gif", ".webp"):
            with Image.open(path) as image:
                frames = []
                for frame in ImageSequence.Iterator(image):
                    pixels = np.array(frame.convert("RGB"))  # webp says its duration only now
                    eighths = round(frame.info.get("duration", 0) * 8 / 1000)
                    frames += max(1, eighths) * [pixels]
        else:
            with av.open(str(path)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        if not frames:
            raise ValueError("it holds no frames")
        return np.stack(frames)  # a ValueError if their sizes differ
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as a video: {error}") from None


def check_output(path: str | Path) -> Path:
    """The path. Raises InputError for an unknown suffix or a folder that cannot be written to."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"cannot write {path.name}: unknown suffix {path.suffix!r}, use one of {', '.join(SUFFIXES)}"
        )
    return check_writable(path)


def write(path: str | Path, frames: np.ndarray, fps: float = 8, scale: int = 1) -> Path:
    """Writes uint8 frames (T, H, W, 3), each pixel as scale x scale: a whole file or none.

    mp4: H.264; an odd side is repeated once, as sizes must be even. gif and webp loop. png: one
    frame, or a strip from left to right. Raises InputError if the path cannot be written.
    """
    path = check_output(path)
    frames = np.asarray(frames)
    check_frames(frames, "(T, H, W, 3)")
    check_counts(1, scale=scale)
    if not 1 <= fps <= 1000:
        raise InputError(f"fps must be from 1 to 1000, got {fps}")
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    try:
        with atomic(path) as partial:
            if partial.suffix == ".mp4":
                write_mp4(partial, frames, fps)
            elif partial.suffix == ".png":
                Image.fromarray(np.concatenate(frames, axis=1)).save(partial)
            else:
                first, *rest = map(Image.fromarray, frames)
                options: dict[str, Any] = {"duration": round(1000 / fps), "loop": 0}
                options["lossless"] = True  # read by webp alone
                first.save(partial, save_all=True, append_images=rest, **options)
    except (OSError, ValueError, RuntimeError, av.FFmpegError) as error:  # Pillow's have no base
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


def tile(clips: np.ndarray, columns: int) -> np.ndarray:
    """Clips (B, T, H, W, 3) in rows of `columns`, with a white line between: (T, H', W', 3)."""
    border = [(0, -len(clips) % columns), (0, 0), (1, 1), (1, 1), (0, 0)]
    clips = np.pad(clips, border, constant_values=255)
    rows = clips.reshape(-1, columns, *clips.shape[1:])
    return np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1)
