"""Clips in files: what is written reads back, at 8 frames a second and in memory that is bounded."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minisora import InputError, decoding, video, world
from minisora.captioner import Captioner

MOVING = world.clip(0, 0).frames
STILL = next(
    clip.frames
    for clip in (world.clip(0, index) for index in range(99))
    if clip.truth["motion"] == "standing still"
)

SUFFIXES = pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png", ".MP4"])
ANIMATIONS = pytest.mark.parametrize("suffix", [".gif", ".webp"])
CLIPS = pytest.mark.parametrize("clip", [MOVING, STILL], ids=["moving", "still"])


def read_back(path: Path, clip: np.ndarray) -> np.ndarray:
    """Writes a clip with pixels of 4 x 4 and reads one pixel of each."""
    back = video.read(video.write(path, clip, fps=8, scale=4))
    assert back.shape[1:] == (128, 128, 3)
    return np.ascontiguousarray(back[:, 2::4, 2::4])


def gray_clip(count: int) -> np.ndarray:
    """Frame k has the gray 6 k, so that a frame that was read tells its number."""
    return np.broadcast_to(6 * np.arange(count)[:, None, None, None], (count, 32, 32, 3)).astype(
        "u1"
    )


def numbers(clip: np.ndarray) -> list[int]:
    return np.rint(clip.mean((1, 2, 3)) / 6).astype(int).tolist()


def write_animation(path: Path, frames: np.ndarray, durations: int | list[int]) -> Path:
    """Writes a gif or webp with the durations of its frames in ms."""
    first, *rest = map(Image.fromarray, frames)
    options = {"duration": durations, "loop": 0, "lossless": True}
    first.save(path, save_all=True, append_images=rest, **options)
    return path


# Round trips


@SUFFIXES
@CLIPS
def test_pixels_read_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    back = read_back(tmp_path / f"clip{suffix}", clip)
    assert np.abs(back.astype(int) - clip).mean() < 6


@SUFFIXES
@CLIPS
def test_every_frame_reads_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    assert len(read_back(tmp_path / f"clip{suffix}", clip)) == 17


@SUFFIXES
@pytest.mark.parametrize("count", [1, 2, 5, 16, 33, 40])
def test_clips_of_any_length_read_back(tmp_path: Path, suffix: str, count: int) -> None:
    back = video.read(video.write(tmp_path / f"clip{suffix}", gray_clip(count)))
    assert numbers(back) == list(range(count))


@SUFFIXES
@CLIPS
def test_the_motion_reads_back(tmp_path: Path, suffix: str, clip: np.ndarray) -> None:
    back = read_back(tmp_path / f"clip{suffix}", clip)
    assert world.describe(back)["motion"] == world.describe(clip)["motion"]


@ANIMATIONS
def test_held_frames_are_repeated(tmp_path: Path, suffix: str) -> None:
    grays = [10, 60, 110, 110, 110, 200, 200]
    clip = np.stack([np.full((16, 16, 3), gray, np.uint8) for gray in grays])
    back = video.read(video.write(tmp_path / f"held{suffix}", clip))
    assert back[:, 0, 0, 0].tolist() == grays


def test_a_rate_need_not_be_whole(tmp_path: Path) -> None:
    with av.open(str(video.write(tmp_path / "clip.mp4", MOVING, fps=12.5))) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)


@pytest.mark.parametrize(("suffix", "unit"), [(".mp4", 0.001), (".gif", 0.01), (".png", 0)])
def test_the_stream_has_each_frame_with_its_time(tmp_path: Path, suffix: str, unit: float) -> None:
    path = video.write(tmp_path / f"clip{suffix}", gray_clip(17), fps=12.5)
    times, frames = zip(*video.frames(path), strict=True)
    assert numbers(np.stack(frames)) == list(range(17))
    assert np.abs(np.array(times) - np.arange(17) / 12.5).max() <= unit + 1e-9


def test_a_png_of_one_frame_is_an_image(tmp_path: Path) -> None:
    back = video.read(video.write(tmp_path / "a.png", MOVING[:1]))
    assert np.array_equal(back[0], MOVING[0])


def test_a_png_of_more_frames_is_a_film_strip(tmp_path: Path) -> None:
    path = video.write(tmp_path / "b.png", MOVING)
    assert Image.open(path).size == (17 * 32, 32)
    assert np.array_equal(video.read(path), MOVING)


@pytest.mark.parametrize("comment", ["", "minisora: 999 frames at 8.0 fps", "minisora: 0 frames"])
def test_a_strip_that_does_not_say_so_is_one_image(tmp_path: Path, comment: str) -> None:
    info = PngInfo()
    info.add_text("Comment", comment)
    Image.fromarray(np.concatenate(MOVING, axis=1)).save(tmp_path / "b.png", pnginfo=info)
    assert video.read(tmp_path / "b.png").shape == (1, 32, 17 * 32, 3)


def test_odd_sizes_are_padded_by_a_pixel(tmp_path: Path) -> None:
    back = video.read(video.write(tmp_path / "odd.mp4", MOVING[:, :31, :29]))
    assert back.shape == (17, 32, 30, 3)


def test_tiles_have_a_line_between_them() -> None:
    assert video.tile(np.stack([MOVING] * 3), columns=2).shape == (17, 68, 68, 3)


# Frames a second


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("rate", [1, 4, 10, 24, 30])
def test_every_format_is_resampled_alike(tmp_path: Path, suffix: str, rate: int) -> None:
    path = video.write(tmp_path / f"clip{suffix}", gray_clip(26), fps=rate)
    shown = [k * rate // 8 for k in range(math.ceil(26 * 8 / rate))]
    assert numbers(video.read(path)) == shown


@pytest.mark.parametrize("fps", [4, 8, 12, 24])
def test_the_rate_of_reading_can_be_chosen(tmp_path: Path, fps: float) -> None:
    path = video.write(tmp_path / "clip.mp4", gray_clip(24), fps=24)
    assert numbers(video.read(path, fps)) == [k * 24 // fps for k in range(fps)]


@ANIMATIONS
def test_each_frame_lasts_as_long_as_it_says(tmp_path: Path, suffix: str) -> None:
    path = write_animation(tmp_path / f"a{suffix}", gray_clip(5), [40, 500, 100, 10, 1000])
    # they begin at 0, 0.04, 0.54, 0.64 and 0.65 s; the last ends at 1.65 s
    assert numbers(video.read(path)) == [0, 1, 1, 1, 1, 2, *[4] * 8]


@pytest.mark.parametrize("first", [120, 130])
def test_durations_rounded_either_way_are_an_eighth(tmp_path: Path, first: int) -> None:
    durations = [first, 250 - first] * 8
    path = write_animation(tmp_path / "a.gif", gray_clip(16), durations)
    assert numbers(video.read(path)) == list(range(16))


def test_frames_without_a_duration_are_an_eighth_each(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", gray_clip(5), 0)
    assert numbers(video.read(path)) == [0, 1, 2, 3, 4]


# Some frames


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    torch.manual_seed(0)
    return Captioner(sorted(world.WORDS), width=32, depth=1)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
@pytest.mark.parametrize("rate", [5, 8, 24])
@pytest.mark.parametrize("count", [1, 2, 17, 18, 40])
def test_samples_are_what_the_captioner_sees_of_the_whole(
    tmp_path: Path, suffix: str, rate: int, count: int, captioner: Captioner
) -> None:
    path = video.write(tmp_path / f"clip{suffix}", gray_clip(count), fps=rate)
    seen = captioner.sample_frames(video.read(path)[None])[0]  # (K, 3, 32, 32)
    sampled = torch.tensor(video.sample(path, captioner.frames))  # (K, 32, 32, 3)
    assert torch.equal(sampled.movedim(-1, 1) / 127.5 - 1, seen)


def test_the_rule_of_spreading_is_the_captioners(captioner: Captioner) -> None:
    for length in range(1, 300):
        ramp = torch.arange(length) % 251
        clip = ramp.byte().view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
        seen = captioner.sample_frames(clip[None])[0, :, 0, 0, 0]
        chosen = ramp[video.spread(length, captioner.frames)]
        assert torch.equal(chosen / 127.5 - 1, seen), length


def test_samples_can_be_resized(tmp_path: Path) -> None:
    path = video.write(tmp_path / "clip.webp", MOVING, scale=3)
    assert np.array_equal(video.sample(path, 9, size=32), MOVING[::2])


# Memory


def peak_of(code: str, path: Path) -> float:
    """MB of memory that a process needs at most."""
    lines = (
        "import re, sys; from minisora import video; path = sys.argv[1]",
        code,
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said) / 1000


@pytest.fixture(params=["long.mp4", "held.gif"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small file whose frames take over 300 MB: 120 frames, or one that is held for 655 s."""
    path = tmp_path / request.param
    if path.suffix == ".gif":
        return write_animation(path, np.full((1, 200, 200, 3), 99, np.uint8), 655_350)
    frame = np.full((704, 1280, 3), 99, np.uint8)
    return video.write(path, np.broadcast_to(frame, (120, *frame.shape)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_sampling_takes_no_memory_for_the_whole_clip(large: Path) -> None:
    assert peak_of("video.sample(path, 9)", large) < 250


def test_reading_stops_at_too_many_bytes(tmp_path: Path) -> None:
    frame = np.full((1, 1000, 1000, 3), 99, np.uint8)
    path = write_animation(tmp_path / "held.gif", frame, 655_350)
    with pytest.raises(InputError, match="more than 1,073,741,824 bytes at 8 frames a second"):
        video.read(path)


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
        # longer than the format can hold a frame
        ("clip.gif", STILL[[0] * 700], {"fps": 1}, "cannot write"),
        # larger than what is read
        ("clip.png", MOVING, {"scale": 64}, "a frame has more than 67,108,864 pixels"),
    ],
    ids=["suffix", "folder", "floats", "no frames", "rate", "size", "duration", "strip"],
)
def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, name: str, frames: np.ndarray, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        video.write(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: video.read(path, fps=0), "fps must be from 1 to 1000, got 0"),
        (lambda path: video.read(path, fps=math.nan), "fps must be from 1 to 1000, got nan"),
        (lambda path: video.sample(path, 0), "count must be 1 or more, got 0"),
        (lambda path: video.sample(path, 9, size=0), "size must be 1 or more, got 0"),
    ],
    ids=["rate", "no rate", "count", "size"],
)
def test_bad_numbers_are_refused(tmp_path: Path, call, message: str) -> None:
    path = video.write(tmp_path / "clip.gif", MOVING)
    with pytest.raises(InputError, match=message):
        call(path)


def test_frames_that_change_size_are_no_clip(tmp_path: Path, monkeypatch) -> None:
    shown = [decoding.Frame(k / 8, (k + 1) / 8, MOVING[k, : 32 - k]) for k in range(3)]
    monkeypatch.setattr(video, "decode", lambda path, wanted: iter(shown))
    for call in (video.read, lambda path: video.sample(path, 2)):
        with pytest.raises(InputError, match="its frames change size"):
            call(tmp_path / "clip.mp4")


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


# What `write` is given


def test_no_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no frame to write"):
        video.write(tmp_path / "a.mp4", iter([]))


def test_parts_of_two_sizes_are_refused(tmp_path: Path) -> None:
    parts = [np.zeros((2, side, 32, 3), dtype=np.uint8) for side in (32, 40)]
    with pytest.raises(InputError, match="all frames need one size"):
        video.write(tmp_path / "a.mp4", iter(parts))
    assert not list(tmp_path.iterdir())


def test_an_error_while_frames_are_made_stays_what_it_is(tmp_path: Path) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield np.zeros((2, 32, 32, 3), dtype=np.uint8)
        raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match=r"^no memory left$"):
        video.write(tmp_path / "a.mp4", failing())
    assert not list(tmp_path.iterdir())


def test_notes_may_hold_numbers_of_numpy(tmp_path: Path) -> None:
    path = video.write(tmp_path / "a.gif", gray_clip(3), about={"seed": np.int64(7)})
    assert video.about(path) == {"seed": 7}


@pytest.mark.parametrize(("name", "frames"), [("a.mp4", 9), ("a.png", 9)])
def test_what_is_too_large_for_its_file_is_known_before(
    tmp_path: Path, name: str, frames: int
) -> None:
    with pytest.raises(InputError, match="pixels"):
        video.check_room(tmp_path / name, frames, 32, 32, 100_000)
