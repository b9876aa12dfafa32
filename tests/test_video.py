"""Clips in files: what is written reads back, and what cannot be written leaves nothing behind."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from minisora import InputError, video, world

MOVING = world.clip(0, 0).frames
STILL = next(
    clip.frames
    for clip in (world.clip(0, index) for index in range(99))
    if clip.truth["motion"] == "standing still"
)

SUFFIXES = pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".MP4"])
CLIPS = pytest.mark.parametrize("clip", [MOVING, STILL], ids=["moving", "still"])


def read_back(path: Path, clip: np.ndarray) -> np.ndarray:
    """Writes a clip with pixels of 4 x 4 and reads one pixel of each."""
    back = video.read(video.write(path, clip, fps=8, scale=4))
    assert back.shape[1:] == (128, 128, 3)
    return np.ascontiguousarray(back[:, 2::4, 2::4])


@SUFFIXES
@CLIPS
def test_pixels_read_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    back = read_back(tmp_path / f"clip{suffix}", clip)
    assert np.abs(back.astype(int) - clip).mean() < 6


@SUFFIXES
@CLIPS
def test_every_frame_reads_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    back = read_back(tmp_path / f"clip{suffix}", clip)
    # webp keeps a clip in which nothing changes as an image
    assert len(back) == (1 if clip is STILL and suffix == ".webp" else 17)


@SUFFIXES
@CLIPS
def test_the_motion_reads_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    if clip is STILL and suffix == ".webp":
        pytest.skip("it is one image, which has no motion")
    back = read_back(tmp_path / f"clip{suffix}", clip)
    assert world.describe(back)["motion"] == world.describe(clip)["motion"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_held_frames_are_repeated(tmp_path: Path, suffix: str) -> None:
    grays = [10, 60, 110, 110, 110, 200, 200]
    clip = np.stack([np.full((16, 16, 3), gray, np.uint8) for gray in grays])
    back = video.read(video.write(tmp_path / f"held{suffix}", clip))
    assert back[:, 0, 0, 0].tolist() == grays


def test_a_rate_need_not_be_whole(tmp_path: Path) -> None:
    with av.open(str(video.write(tmp_path / "clip.mp4", MOVING, fps=12.5))) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)


def test_a_png_of_one_frame_is_an_image(tmp_path: Path) -> None:
    back = video.read(video.write(tmp_path / "a.png", MOVING[:1]))
    assert np.array_equal(back[0], MOVING[0])


def test_a_png_of_more_frames_is_a_film_strip(tmp_path: Path) -> None:
    back = video.read(video.write(tmp_path / "b.png", MOVING))
    assert back.shape == (1, 32, 17 * 32, 3)


def test_odd_sizes_are_padded_by_a_pixel(tmp_path: Path) -> None:
    back = video.read(video.write(tmp_path / "odd.mp4", MOVING[:, :31, :29]))
    assert back.shape == (17, 32, 30, 3)


def test_tiles_have_a_line_between_them() -> None:
    assert video.tile(np.stack([MOVING] * 3), columns=2).shape == (17, 68, 68, 3)


# Bad input


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        ("clip.avi", MOVING, {}, "unknown suffix '.avi', use one of .mp4, .gif, .png, .webp"),
        ("no/clip.mp4", MOVING, {}, "is not a folder"),
        ("clip.mp4", MOVING / 255, {}, "uint8"),
        ("clip.mp4", MOVING[:0], {}, "uint8"),
        ("clip.gif", MOVING, {"fps": 0}, "fps must be from 1 to 1000, got 0"),
        # larger than the format can be
        ("clip.webp", MOVING[:2], {"scale": 600}, "cannot write"),
    ],
    ids=["suffix", "folder", "floats", "no frames", "rate", "size"],
)
def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, name: str, frames: np.ndarray, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        video.write(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        video.read(tmp_path / "nothing.mp4")


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        video.read(path)
    assert path.read_text() == "no video"


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_damaged_files_are_refused_or_read(tmp_path: Path, suffix: str) -> None:
    path, rng, refused = tmp_path / f"clip{suffix}", np.random.default_rng(0), 0
    whole = video.write(path, MOVING).read_bytes()
    for _ in range(40):
        damaged = bytearray(whole[: rng.integers(1, len(whole))])
        for position in rng.integers(len(damaged), size=8):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert video.read(path).ndim == 4
        except InputError:
            refused += 1
    assert refused > 10


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gif")
    with pytest.raises(InputError, match="it is not a regular file"):
        video.write(tmp_path / "pipe.gif", MOVING)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, file = tmp_path / "link.gif", tmp_path / "clip.gif"
    link.symlink_to(file)
    video.write(link, MOVING)
    assert link.is_symlink()
    assert len(video.read(file)) == 17
