import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from minisora import InputError, video, world

CLIP = world.clip(0, 0).frames


STILL = next(
    c.frames for i in range(99) if (c := world.clip(0, i)).truth["motion"] == "standing still"
)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".MP4"])
@pytest.mark.parametrize("clip", [CLIP, STILL], ids=["moving", "still"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    path = video.write(tmp_path / f"clip{suffix}", clip, fps=8, scale=4)
    back = video.read(path)
    image = clip is STILL and suffix == ".webp"  # nothing in it changes: webp keeps an image
    assert back.shape == (1 if image else 17, 128, 128, 3)
    small = back[:, 2::4, 2::4]
    assert np.abs(small.astype(int) - clip).mean() < 6
    if not image:
        read = world.describe(np.ascontiguousarray(small))
        assert read["motion"] == world.describe(clip)["motion"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_frames_that_are_held_stay_in_their_place(tmp_path: Path, suffix: str) -> None:
    grays = [10, 60, 110, 110, 110, 200, 200]
    clip = np.stack([np.full((16, 16, 3), gray, np.uint8) for gray in grays])
    back = video.read(video.write(tmp_path / f"held{suffix}", clip))
    assert back[:, 0, 0, 0].tolist() == grays


def test_a_rate_need_not_be_whole(tmp_path: Path) -> None:
    with av.open(str(video.write(tmp_path / "clip.mp4", CLIP, fps=12.5))) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)


def test_png_is_a_film_strip_or_an_image(tmp_path: Path) -> None:
    assert np.array_equal(video.read(video.write(tmp_path / "a.png", CLIP[:1]))[0], CLIP[0])
    assert video.read(video.write(tmp_path / "b.png", CLIP)).shape == (1, 32, 17 * 32, 3)


def test_odd_sizes_and_tiles(tmp_path: Path) -> None:
    assert video.read(video.write(tmp_path / "odd.mp4", CLIP[:, :31, :29])).shape == (
        17,
        32,
        30,
        3,
    )
    assert video.tile(np.stack([CLIP] * 3), columns=2).shape == (17, 68, 68, 3)


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    for path, frames, words in (
        (tmp_path / "clip.avi", CLIP, "unknown suffix '.avi', use one of .mp4, .gif, .png, .webp"),
        (tmp_path / "no" / "clip.mp4", CLIP, "is no folder"),
        (tmp_path / "clip.mp4", CLIP / 255, "uint8"),
        (tmp_path / "clip.mp4", CLIP[:0], "uint8"),
    ):
        with pytest.raises(InputError, match=words):
            video.write(path, frames)
    for name, arguments, words in (
        ("clip.gif", {"fps": 0}, "fps must be from 1 to 1000, got 0"),
        ("clip.webp", {"scale": 600}, "cannot write"),  # larger than the format can be
    ):
        with pytest.raises(InputError, match=words):
            video.write(tmp_path / name, CLIP[:2], **arguments)
    with pytest.raises(InputError, match="no such file"):
        video.read(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        video.read(tmp_path / "text.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_damaged_files_are_refused_or_read(tmp_path: Path, suffix: str) -> None:
    path, rng, refused = tmp_path / f"clip{suffix}", np.random.default_rng(0), 0
    whole = video.write(path, CLIP).read_bytes()
    for _ in range(40):
        damaged = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(len(damaged), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert video.read(path).ndim == 4
        except InputError:
            refused += 1
    assert refused > 10


def test_what_is_no_file_is_not_replaced_and_links_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gif")
    with pytest.raises(InputError, match="it is no file"):
        video.write(tmp_path / "pipe.gif", CLIP)
    (tmp_path / "link.gif").symlink_to(tmp_path / "clip.gif")
    video.write(tmp_path / "link.gif", CLIP)
    assert (tmp_path / "link.gif").is_symlink() and len(video.read(tmp_path / "clip.gif")) == 17
