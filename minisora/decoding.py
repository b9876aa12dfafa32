"""Decodes videos and images into a stream of upright RGB frames with their times.

Formats are recognized by content, not by name; Pillow reads images, FFmpeg the rest. Transparent
pixels are shown on white. What a damaged file holds before the damage is read, with a warning.
"""

import io
import itertools
import math
import os
import re
import stat
import struct
import sys
import warnings
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from PIL import Image, ImageOps, UnidentifiedImageError, features

from minisora.errors import InputError

MAX_PIXELS = 2**26  # of a frame
TOO_LARGE = f"a frame has more than {MAX_PIXELS:,} pixels"
EVERY = range(sys.maxsize)
# Pillow's formats; those of animations with the unit of their durations, in seconds
UNITS = {"AVIF": 0.001, "GIF": 0.01, "PNG": 0.0, "WEBP": 0.001}
IMAGES = {*UNITS, "BMP", "JPEG", "PPM", "TIFF"}
if "avif" not in features.modules or not features.check("avif"):
    IMAGES -= {"AVIF"}  # Pillow has it since 11.3
HOLD = 0.125  # seconds that a frame of an animation without durations is on screen
# FFmpeg's formats; playlists are left out, since they open other files
CONTAINERS = "asf,avi,flac,flv,h264,hevc,ivf,m4v,matroska,mov,mp3,mpeg,mpegts,mpegvideo,ogg,wav"
# the comment in film strips, and in webp files, which store a clip that stands still as an image
MARK = "minisora: {} frames at {} fps"
ALPHA = 0x10  # the flag of transparency in a webp's header
DESCRIPTION, COMMENT = 0x010E, 0x9286  # the EXIF tags for it in webp, and for a file's note
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# the exceptions that PyAV and Pillow raise for damaged files
DAMAGE = (
    av.FFmpegError, OSError, ValueError, IndexError, KeyError, TypeError, AttributeError,
    ArithmeticError, EOFError, SyntaxError, struct.error, *BOMB,
)  # fmt: skip
UPRIGHT = (1, 0, 0, 0, 1, 0, 0, 0, 1)  # the display matrix of what need not be turned


class Frame(NamedTuple):
    """A frame that is on screen from `start` to `end`, in seconds after the first frame."""

    start: float
    end: float
    picture: Any  # as decoded; from `decode` on uint8 (H, W, 3), or None if it is not wanted
    unit: float = 0.0  # times are rounded to multiples of it
    length: float = 0.0  # seconds of the clip by the file's header, 0 if it does not say
    matrix: tuple[int, ...] = UPRIGHT  # turns what is decoded
    aspect: float = 1.0  # a pixel's width by its height, once it is turned


def decode(path: str | Path, wanted: Container[int] = EVERY) -> Iterator[Frame]:
    """All frames; those with `wanted` numbers are converted to upright RGB.

    Warns of damage after the first frame. Raises InputError if no frame can be read.
    """
    frame = None
    with open_file(path) as file:
        try:
            for number, raw in enumerate(raw_frames(file)):
                frame = raw._replace(picture=to_rgb(raw) if number in wanted else None)
                yield frame
            check_complete(frame)
        except DAMAGE as error:
            reason = getattr(error, "strerror", None) or error
            if frame is None:
                raise InputError(f"{path} cannot be read as a video: {reason}") from None
            length = f" of {frame.length:.2f}" if frame.length else ""
            warnings.warn(
                f"{path} is damaged ({reason}): read {frame.end:.2f}{length} s",
                stacklevel=2,
            )


def check_complete(last: Frame | None) -> None:
    """Raises ValueError if there is no last frame, or if it ends long before the clip does."""
    if last is None:
        raise ValueError("it has no frames")
    if last.length - last.end > 2 * (last.end - last.start) + last.length / 50:
        raise ValueError("it ends too early")


def open_file(path: str | Path) -> BinaryIO:
    """Raises InputError if it cannot be read. What is no regular file, as a pipe, stays closed."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size:
            return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:  # a ValueError if the name has a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}") from None
    kind = "empty" if stat.S_ISREG(status.st_mode) else "not a regular file"
    raise InputError(f"cannot read {path}: it is {'a folder' if os.path.isdir(path) else kind}")


def raw_frames(file: BinaryIO) -> Iterator[Frame]:
    image = open_image(file)
    if image is None:
        file.seek(0)
        return video_frames(file)
    if image.format == "GIF" or (image.format in UNITS and image.n_frames > 1):
        return animation_frames(image, file)
    return still_frames(image)


def open_image(file: BinaryIO) -> Any:
    """The image, not yet decoded, or None if Pillow does not know it."""
    header = file.read(30)
    check_pixels(*webp_size(header))  # Pillow allocates a canvas when it opens a webp
    if header[8:16] == b"WEBPVP8X":  # then its canvas is transparent, whatever its flag says
        file = io.BytesIO(header[:20] + bytes([header[20] | ALPHA]) + header[21:] + file.read())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=sorted(IMAGES))
    except UnidentifiedImageError:
        return None
    except BOMB:
        raise ValueError(TOO_LARGE) from None
    check_pixels(*image.size)
    return image


def check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_LARGE)


def webp_size(header: bytes) -> tuple[int, int]:
    """Width and height by the first 30 bytes of a webp file, zeros for others. Source: RFC 9649."""
    number, kind = partial(int.from_bytes, byteorder="little"), header[8:16]
    if kind == b"WEBPVP8X":
        return number(header[24:27]) + 1, number(header[27:30]) + 1
    if kind == b"WEBPVP8L":
        sides = number(header[21:25])  # 14 bits each
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        return number(header[26:28]) & 0x3FFF, number(header[28:30]) & 0x3FFF
    return 0, 0


def still_frames(image: Any) -> Iterator[Frame]:
    """An image, or the clip that `write` made one: a film strip, or a frame that is held."""
    mark = re.fullmatch(MARK.format(r"([1-9]\d{0,8})", r"(\d+\.\d+)"), comment_of(image))
    count, fps = (int(mark[1]), float(mark[2])) if mark else (1, math.inf)
    if image.format == "WEBP":
        yield Frame(0.0, count / fps, image)
    elif count == 1 or image.width % count:
        yield Frame(0.0, 0.0, image)
    else:
        width = image.width // count
        for number in range(count):
            part = image.crop((number * width, 0, (number + 1) * width, image.height))
            yield Frame(number / fps, (number + 1) / fps, part)


def note_of(path: str | Path) -> str:
    """The comment in a file of one of the formats that are written, else "". Raises InputError if
    it cannot be read, and the exceptions in `DAMAGE`."""
    with open_file(path) as file:
        image = open_image(file)
        if image is None:
            file.seek(0)
            with open_container(file) as container:
                return str(container.metadata.get("comment", ""))
        if image.format == "WEBP":
            return str(image.getexif().get(COMMENT, ""))
        note = image.info.get("comment" if image.format == "GIF" else "Description", "")
        return note.decode(errors="replace") if isinstance(note, bytes) else str(note)


def comment_of(image: Any) -> str:
    if image.format == "WEBP":
        return str(image.getexif().get(DESCRIPTION))
    return str(image.info.get("Comment"))


def animation_frames(image: Any, file: BinaryIO) -> Iterator[Frame]:
    """A frame without duration is held for 1/8 s. Raises ValueError if the file is cut."""
    end = 0.0
    for number in itertools.count():
        try:
            image.seek(number)
        except EOFError:
            break
        if number == 0 and image.info.get("default_image"):
            continue  # what viewers of still png show
        check_pixels(*image.size)  # frames of a gif can exceed its canvas
        image.load()  # webp knows its duration only now
        start, end = end, end + (image.info.get("duration") or 1000 * HOLD) / 1000
        yield Frame(start, end, image, UNITS[image.format])
    file.seek(-1, os.SEEK_END)
    is_whole = file.read() == b";" if image.format == "GIF" else number == image.n_frames
    if not is_whole:
        raise ValueError("it ends too early")


def open_container(file: BinaryIO) -> Any:
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)  # "cat%02d.jpg"
    return av.open(nameless, "r", options={"format_whitelist": CONTAINERS})


def video_frames(file: BinaryIO) -> Iterator[Frame]:
    """A frame whose time is missing or goes back follows the one before."""
    with open_container(file) as container:
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError("it has no video of a known codec")
        if stream.disposition & Disposition.attached_pic:
            raise ValueError("it has no video but a cover")
        check_pixels(stream.width, stream.height)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # sizes can change
        tick, step = float(stream.time_base), 1 / float(stream.average_rate or 1 / HOLD)
        aspect = float(stream.sample_aspect_ratio or 1)
        first, start, end = None, 0.0, 0.0
        for raw in decode_all(container, stream):
            if first is None:
                first, matrix = raw.time or 0.0, display_matrix(raw)
                length = (stream.duration or 0) * tick or (container.duration or 0) / 1e6 - first
            # avi has a fixed rate, and no times of reordered frames
            is_timed = raw.time is not None and container.format.name != "avi"
            time = raw.time - first if is_timed else end
            start = time if time >= start else end
            end = start + (raw.duration * tick or step)
            seen = 1 / aspect if is_turned(matrix) else aspect
            yield Frame(start, end, raw, min(tick, 0.001), max(0.0, length), matrix, seen)


def decode_all(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """All frames. If a packet is damaged, those that the decoder holds come before the error."""
    try:
        for packet in container.demux(stream):
            # an empty one repeats a frame, but for the last, without a time, which ends the stream
            if packet.size or packet.dts is None:
                yield from packet.decode()
    except av.FFmpegError:
        yield from stream.codec_context.decode(None)
        raise


def to_rgb(frame: Frame) -> np.ndarray:
    """Upright RGB, uint8 (H, W, 3), of a frame as Pillow or PyAV decodes it."""
    picture = frame.picture
    if isinstance(picture, Image.Image):
        return on_white(ImageOps.exif_transpose(picture))
    if any(part.is_alpha for part in picture.format.components):
        rgb = on_white(Image.fromarray(picture.to_ndarray(format="rgba")))
    else:
        rgb = picture.to_ndarray(format="rgb24")
    return upright(rgb, frame.matrix)


def on_white(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        return on_white(Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)))
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return np.array(white)


def display_matrix(picture: Any) -> tuple[int, ...]:
    """a, b, u, c, d, v, x, y, w of the matrix that makes a frame upright.

    Asked for once in a file: `side_data` ties a frame into a circle, which lets go of it late.
    """
    matrix = picture.side_data.get(Type.DISPLAYMATRIX)
    return UPRIGHT if matrix is None else struct.unpack("9i", bytes(matrix))


def is_turned(matrix: tuple[int, ...]) -> bool:
    """Whether a display matrix swaps height and width."""
    a, b, *_ = matrix
    return abs(b) > abs(a)


def upright(rgb: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Applies a display matrix, (x, y) -> (a x + c y, b x + d y), in quarter turns and mirrors."""
    a, b, _, c, d, *_ = matrix
    if is_turned(matrix):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
