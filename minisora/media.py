"""Files as prompts: what a user has is fitted to a canvas, and what is made says how it was made."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

import minisora
from minisora import video
from minisora.errors import InputError
from minisora.sora import Sora
from minisora.weights import fingerprint, shipped

Size = tuple[int, int]  # height, width
MOST_FRAMES = 2000  # of a given clip: four minutes
MOST_PIXELS = 512  # of a side that a file says it was made at


def canvas_size(sora: Sora, path: str, height: int | None, width: int | None) -> Size:
    """The size at which to go on from a file: that which is asked for; else that at which the file
    was made, if minisora made it; else the trained size with the most similar ratio of sides.
    Raises InputError for sides that are no multiples of 8."""
    _, picture = next(video.frames(path))  # (H, W, 3)
    ratio = picture.shape[1] / picture.shape[0]
    if height is not None or width is not None:
        sora.check_sides(8 if height is None else height, 8 if width is None else width)
        high = height or 8 * max(1, round((width or 8) / ratio / 8))
        wide = width or 8 * max(1, round(high * ratio / 8))
        sora.check_tokens(1, high, wide)
        return high, wide
    made = video.about(path)
    high, wide = made.get("height"), made.get("width")
    if is_side(high) and is_side(wide):
        return int(high or 0), int(wide or 0)
    sizes = [(high, wide) for high, wide in sora.trained_on["sizes"]]
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / ratio)))


def is_side(side: Any) -> bool:
    """Whether a number that a file says can be a side of a canvas."""
    return type(side) is int and 8 <= side <= MOST_PIXELS and side % 8 == 0


def read_clip(path: str, size: Size) -> np.ndarray:
    """The clip in a file at 8 frames a second, fitted to a size: uint8 (T, H, W, 3). Says so if its
    sides have another ratio. Raises InputError if it cannot be read or is too long."""
    _, picture = next(video.frames(path))  # (H, W, 3)
    high, wide = picture.shape[:2]
    fitted = video.fitted_size(high, wide, *size)
    if fitted != size:
        rows, columns = size[0] - fitted[0], size[1] - fitted[1]
        border = f"{rows} rows" if rows else f"{columns} columns"
        print(
            f"{path}: {high} x {wide} is fitted to {size[0]} x {size[1]}, with {border} of border"
        )
    return video.read(path, video.FPS, size, most=MOST_FRAMES)


def read_mask(path: str, clip: str, size: Size) -> np.ndarray:
    """The region of a mask for the file `clip`: true where the image in a file is rather white,
    (H, W), or (T, H, W) from a clip. Raises InputError if its sides have another ratio."""
    (h, w), (high, wide) = (next(video.frames(file))[1].shape[:2] for file in (path, clip))
    if video.fitted_size(h, w, *size) != video.fitted_size(high, wide, *size):
        raise InputError(
            f"the mask is {h} x {w}, the clip {high} x {wide}: it must have its ratio"
        )
    black = np.zeros(3, dtype=np.uint8)  # a border is no part of the region
    frames = video.read(path, video.FPS, size, black, MOST_FRAMES).mean(-1) > 127  # (T, H, W)
    return frames[0] if len(frames) == 1 else frames


def provenance(sora: Sora, mode: str, prompt: str, seed: int, **more: Any) -> dict[str, Any]:
    """What is written into a file: that a model made it, which one, and from which words and seed."""
    folder = sora.folder or shipped()
    return {
        "note": "made by a model",
        # the term of the IPTC, which C2PA uses as well
        "digitalSourceType": "trainedAlgorithmicMedia",
        "software": f"minisora {minisora.__version__}",
        "weights": fingerprint(folder, "dit"),
        "mode": mode,
        "prompt": prompt,
        "seed": seed,
        **{name: value for name, value in more.items() if value is not None},
    }


def given_files(paths: list[str]) -> list[dict[str, str]]:
    """The names of files that a clip was made from, and the first digits of their SHA-256."""
    return [{"name": Path(path).name, "sha256": digest(path)[:16]} for path in paths]


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(about: dict[str, Any]) -> str:
    """A file's provenance in one line; empty if it has none."""
    if about.get("digitalSourceType") != "trainedAlgorithmicMedia":
        return ""
    known = [f"{name} {about[name]}" for name in ("mode", "seed") if name in about]
    by = [str(about["software"])] if "software" in about else []
    prompt = f': "{about["prompt"]}"' if about.get("prompt") else ""
    said = f"made by a model ({', '.join([*by, *known])}){prompt}"
    # anybody can write a note: nothing in it may act on the terminal
    return "".join(letter if letter.isprintable() else "?" for letter in said)[:500]
