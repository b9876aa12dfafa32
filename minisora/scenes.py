"""What of a video is worth keeping: its scenes, without letterbox bars and stretches that stand still.

Everything is decided on a stream of frames at `video.FPS`, whose numbers are places in time. A cut
is a jump of the color histogram; dissolves and fades are not found.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minisora import video
from minisora.decoding import Frame

SIDE = 16  # of a clip, its height and width are multiples
GROUP = 4  # a clip has 1 + 4k frames, as the VAE takes them
SHORTEST = 9  # frames, but for images
THUMB, SAMPLES = 32, 128  # pixels to a side: of the small pictures, and for histograms
# A cut: this share of the pixels changes color, a multiple of what is usual in the scene, and
# brightness by this much in the mean. Of 5 cuts in 10 s of fast camera work all are found.
CUT, TIMES_USUAL, CUT_CHANGE = 0.25, 2.5, 8.0
STILL, STILL_FRAMES = 1.0, 16  # the mean change, of 255, that 2 s of a clip must exceed
DARK = 24  # of 255: bars are darker
MOST_DISTORTION = 1.25
LONGEST_HOLD = 3600 * video.FPS  # frames: a picture held for longer has a broken time


class Box(NamedTuple):
    """The picture without its bars, in pixels of the decoded frame."""

    left: int
    top: int
    right: int
    bottom: int


class Piece(NamedTuple):
    """Frames from `start` to `end`, at `video.FPS`, of one scene: a clip, or dropped if `why`."""

    start: int
    end: int
    box: Box
    size: tuple[int, int]  # height and width of the clip
    why: str = ""

    @property
    def length(self) -> int:
        return self.end - self.start


class Survey(NamedTuple):
    """The pieces of a whole file, and its `length` in frames."""

    pieces: list[Piece]
    length: int


Beat = Callable[[float], None]  # takes the share of the file that has been seen


def shown(path: Path, beat: Beat) -> Iterator[Frame]:
    """The frame that is on screen at each 1 / FPS of a second; the same object while it is held."""
    for frame, count in video.timeline(path, video.FPS):
        beat(min(1.0, frame.end / frame.length) if frame.length else 0.0)
        for _ in range(min(count, LONGEST_HOLD)):
            yield frame


def survey(path: Path, pixels: int, longest: int, beat: Beat) -> Survey:
    """Sees the whole file, one frame at a time, and divides it into pieces."""
    pieces: list[Piece] = []
    scene, last, length = None, None, 0
    for frame in shown(path, beat):
        if frame is not last:
            view = View(frame)
            if scene is None or scene.ends(view):
                pieces += scene.pieces(length, pixels) if scene else []
                scene = Scene(length, view, scene.usual if scene else 0.0)
            scene.add(length, view)
        last, length = frame, length + 1
    pieces += scene.pieces(length, pixels) if scene else []
    shortest = SHORTEST if length > 1 else 1  # an image is a clip of one frame
    parts = [part for each in pieces for part in clips(each, longest, shortest)]
    return Survey(joined(parts), length)


class View:
    """A frame, and what is compared of it."""

    def __init__(self, frame: Frame) -> None:
        self.frame, image = frame, Image.fromarray(frame.picture)
        self.height, self.width = frame.picture.shape[:2]
        small = np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX))  # (32, 32, 3)
        self.thumb = small.astype(np.float32)
        # pixels as they are: means of several would have colors that the picture has not
        rows, columns = (range(0, side, -(-side // SAMPLES)) for side in (self.height, self.width))
        some = frame.picture[np.ix_(rows, columns)]  # (h, w, 3)
        codes = some // 32 @ np.array([64, 8, 1])  # 8 levels a channel
        self.histogram = np.bincount(codes.ravel(), minlength=512) / codes.size  # (512,)

    def lit(self) -> tuple[np.ndarray, np.ndarray]:
        """The shares of the pixels of each row (H,) and column (W,) that are not dark."""
        bright = self.frame.picture.max(axis=2) > DARK  # (H, W)
        return bright.mean(axis=1), bright.mean(axis=0)


def change(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


class Scene:
    """The frames since a cut. Memory holds the last one, whatever their number."""

    def __init__(self, start: int, view: View, usual: float) -> None:
        self.start, self.last, self.usual = start, view, usual
        self.rows, self.columns = np.zeros(view.height), np.zeros(view.width)
        self.looked = start - video.FPS
        self.anchor, self.since = view.thumb, start  # nothing has moved since then
        self.still: list[tuple[int, int]] = []

    def ends(self, view: View) -> bool:
        """Whether a new scene begins: the histogram jumps, or the frames have another size."""
        if (view.height, view.width) != (self.last.height, self.last.width):
            return True
        jump, usual = self.jump(view), self.usual
        self.usual = 0.75 * usual + 0.25 * jump
        is_jump = jump > max(CUT, TIMES_USUAL * usual)
        return is_jump and change(view.thumb, self.last.thumb) > CUT_CHANGE

    def jump(self, view: View) -> float:
        """The share of pixels that changed color, by the histograms."""
        return float(np.abs(view.histogram - self.last.histogram).sum() / 2)

    def add(self, number: int, view: View) -> None:
        self.last = view
        if change(view.thumb, self.anchor) >= STILL:
            self.close_hold(number)
            self.anchor, self.since = view.thumb, number
        if number >= self.looked + video.FPS:  # bars once a second
            self.looked = number
            rows, columns = view.lit()
            self.rows, self.columns = (
                np.maximum(self.rows, rows),
                np.maximum(self.columns, columns),
            )

    def close_hold(self, end: int) -> None:
        if end - self.since >= STILL_FRAMES:
            self.still.append((self.since, end))

    def pieces(self, end: int, pixels: int) -> Iterator[Piece]:
        """The scene up to `end`: what moves, and what stands still for 2 s or more."""
        self.close_hold(end)
        (top, bottom), (left, right) = inside_bars(self.rows), inside_bars(self.columns)
        box, aspect = Box(left, top, right, bottom), self.last.frame.aspect
        size = clip_size(bottom - top, (right - left) * aspect, pixels)
        why, at = "" if size else "no size fits", self.start
        for start, stop in [*self.still, (end, end)]:
            yield Piece(at, start, box, size or (0, 0), why)
            yield Piece(start, stop, box, size or (0, 0), "static")
            at = stop


def inside_bars(lit: np.ndarray) -> tuple[int, int]:
    """The first row (or column) of the picture, and the one after its last, by the shares of each
    that are lit. Bars are dark, about as wide on both sides, and have a sharp edge: black space
    around the Earth is none."""
    dark = lit <= 0.01
    if dark.all():
        return 0, len(lit)
    first, after = int(np.argmin(dark)), len(lit) - int(np.argmin(dark[::-1]))
    edges = lit[first : first + 3].max(), lit[max(0, after - 3) : after].max()
    is_sharp = min(edges) >= lit.max() / 2
    is_even = abs(first - (len(lit) - after)) <= len(lit) / 32
    is_most = after - first >= len(lit) / 4
    return (first, after) if is_sharp and is_even and is_most else (0, len(lit))


def clip_size(height: float, width: float, pixels: int) -> tuple[int, int] | None:
    """Height and width of a clip, multiples of 16 with at most `pixels` and no larger than the
    picture: the least distorted of those with half the area of the largest. None if there are
    none that distorts by less than a quarter."""
    sizes = [
        (h, w, abs(math.log(w / h * height / width)))
        for h in range(SIDE, int(height) + 1, SIDE)
        for w in range(SIDE, min(int(width + 0.5), pixels // h) + 1, SIDE)
    ]
    sizes = [size for size in sizes if size[2] <= math.log(MOST_DISTORTION)]
    half = max((h * w for h, w, _ in sizes), default=0) / 2
    large = [size for size in sizes if size[0] * size[1] >= half]
    best = min(large, key=lambda s: (s[2], -s[0] * s[1]), default=None)
    return best and best[:2]


def clips(piece: Piece, longest: int, shortest: int) -> Iterator[Piece]:
    """A piece as clips of 1 + 4k frames, alike in length, with at most `longest`: up to three
    frames go. What is dropped stays whole."""
    if piece.length and (piece.why or piece.length < shortest):
        yield piece._replace(why=piece.why or "too short")
    elif piece.length:
        count = math.ceil(piece.length / longest)
        bounds = [piece.start + part * piece.length // count for part in range(count + 1)]
        for start, end in itertools.pairwise(bounds):
            yield piece._replace(start=start, end=end - (end - start - 1) % GROUP)


def joined(pieces: list[Piece]) -> list[Piece]:
    """The pieces, with neighbors that are dropped for one reason as one."""
    result: list[Piece] = []
    for piece in pieces:
        before = result[-1] if result else piece
        if piece.why and (before.why, before.end) == (piece.why, piece.start):
            result[-1] = before._replace(end=piece.end)
        else:
            result.append(piece)
    return result


def cut(picture: np.ndarray, piece: Piece) -> np.ndarray:
    """The picture of a clip, uint8 (1, h, w, 3)."""
    height, width = piece.size
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, piece.box)
    return np.asarray(image)[None]
