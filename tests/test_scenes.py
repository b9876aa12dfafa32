"""What is kept of a video: cuts, stretches that stand still, bars, sizes and lengths of clips."""

import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from minisora import scenes, video
from minisora.scenes import Box, Piece

CLIPS = Path(__file__).parent.parent / "data" / "clips"
PIXELS, LONGEST = 16384, 157


def texture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """Smooth blobs of color, uint8 (H, W, 3), alike at both sides, so that they can turn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] * 2 * np.pi / [[[height]], [[width]]]
    turns, phases = rng.integers(1, 4, (2, 3)), rng.uniform(0, 6, 3)
    waves = [np.sin(turns[0, c] * x + phases[c]) + np.cos(turns[1, c] * y) for c in range(3)]
    base = rng.uniform(60, 160, 3)
    return (base + 22 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)


def pan(count: int, seed: int = 0, step: int = 3, **size: int) -> np.ndarray:
    """A camera that pans over a texture, uint8 (T, H, W, 3)."""
    picture = texture(seed, **size)
    return np.stack([np.roll(picture, step * k, axis=1) for k in range(count)])


def movie(
    path: Path,
    frames: np.ndarray,
    times: list[float] | None = None,
    aspect: Fraction | None = None,
    **options: str,
) -> Path:
    """Writes frames 8 a second, or at their times in seconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, time in enumerate(times or [k / 8 for k in range(len(frames))]):
            frame = av.VideoFrame.from_ndarray(frames[number], format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def survey(path: Path, pixels: int = PIXELS, longest: int = LONGEST) -> list[Piece]:
    return scenes.survey(path, pixels, longest, lambda share: None).pieces


def spans(pieces: list[Piece], why: str = "") -> list[tuple[int, int]]:
    return [(piece.start, piece.end) for piece in pieces if piece.why == why]


# Cuts


def test_a_pan_is_one_clip(tmp_path: Path) -> None:
    assert spans(survey(movie(tmp_path / "a.mp4", pan(41)))) == [(0, 41)]


@pytest.mark.parametrize("step", [1, 6])
def test_scenes_are_cut_where_the_picture_changes(tmp_path: Path, step: int) -> None:
    frames = np.concatenate([pan(count, seed, step) for seed, count in enumerate((21, 13, 33))])
    assert spans(survey(movie(tmp_path / "a.mp4", frames))) == [(0, 21), (21, 34), (34, 67)]


def test_noise_that_is_new_in_each_frame_is_not_cut(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (25, 64, 64, 3), dtype=np.uint8)
    assert spans(survey(movie(tmp_path / "a.mp4", frames))) == [(0, 25)]


def test_a_slow_fade_is_not_cut(tmp_path: Path) -> None:
    light = np.linspace(1, 0.2, 41)[:, None, None, None]
    assert len(spans(survey(movie(tmp_path / "a.mp4", (pan(41) * light).astype(np.uint8))))) == 1


def test_the_city_is_cut_once() -> None:
    assert spans(survey(CLIPS / "city.mp4")) == [(0, 37), (38, 59)]


def test_frames_of_another_size_begin_a_new_clip(tmp_path: Path) -> None:
    parts = [movie(tmp_path / f"{n}.ts", pan(17, height=h)) for n, h in enumerate((96, 64))]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [piece.size for piece in survey(both)] == [(96, 128), (64, 128)]


# Time


def test_frames_are_placed_by_their_times(tmp_path: Path) -> None:
    times = [k / 24 if k < 48 else 2 + (k - 48) / 4 for k in range(60)]  # 24, then 4 a second
    path = movie(tmp_path / "a.mkv", pan(60), times)
    shown = [frame.start for frame in scenes.shown(path, lambda share: None)]
    assert np.abs(np.array(shown) - np.arange(len(shown)) / 8).max() <= 0.125


def test_a_picture_that_is_held_for_days_ends(tmp_path: Path) -> None:
    path = movie(tmp_path / "a.mkv", pan(3), [0, 0.125, 1e6])
    assert sum(1 for _ in scenes.shown(path, lambda share: None)) < 2 * scenes.LONGEST_HOLD


# What stands still


def test_a_stretch_that_stands_still_is_dropped(tmp_path: Path) -> None:
    moving = pan(21)
    frames = np.concatenate([moving, np.repeat(moving[-1:], 24, axis=0), pan(21, step=-4)])
    pieces = survey(movie(tmp_path / "a.mp4", frames))
    assert spans(pieces, "static") == [(20, 45)]
    assert spans(pieces) == [(0, 17), (45, 66)]


def test_a_pause_below_two_seconds_is_kept(tmp_path: Path) -> None:
    frames = np.concatenate([pan(21), np.repeat(pan(21)[-1:], 12, axis=0), pan(21, step=4)])
    assert spans(survey(movie(tmp_path / "a.mp4", frames)), "static") == []


def test_a_cursor_that_blinks_does_not_move_the_picture(tmp_path: Path) -> None:
    frames = np.repeat(pan(1), 40, axis=0)
    frames[::4, 40:44, 60:62] = 255
    assert spans(survey(movie(tmp_path / "a.mp4", frames)), "static") == [(0, 40)]


def test_the_slow_earth_moves() -> None:
    assert spans(survey(CLIPS / "earth.mp4"), "static") == []


# Bars


def box_of(path: Path) -> Box:
    return survey(path)[0].box


@pytest.mark.parametrize(
    ("above", "beside"), [(12, 0), (0, 20), (16, 24)], ids=["letterbox", "pillarbox", "both"]
)
def test_bars_are_cut_off(tmp_path: Path, above: int, beside: int) -> None:
    frames = np.pad(pan(17), ((0, 0), (above, above), (beside, beside), (0, 0)))
    left, top, right, bottom = box_of(movie(tmp_path / "a.mp4", frames))
    assert abs(top - above) <= 1
    assert abs(bottom - top - 96) <= 2
    assert abs(left - beside) <= 1
    assert abs(right - left - 128) <= 2


def test_the_bars_of_a_clip_that_fades_in_are_found(tmp_path: Path) -> None:
    frames = np.pad(pan(41), ((0, 0), (12, 12), (0, 0), (0, 0)))
    frames = (frames * np.linspace(0, 1, 41)[:, None, None, None]).astype(np.uint8)
    assert abs(survey(movie(tmp_path / "a.mp4", frames))[-1].box.top - 12) <= 1


def test_a_dark_sky_above_a_lit_street_is_no_bar(tmp_path: Path) -> None:
    frames = pan(17)
    frames[:, :40] = 5
    assert box_of(movie(tmp_path / "a.mp4", frames)) == (0, 0, 128, 96)


def test_black_space_around_the_earth_is_no_bar() -> None:
    assert box_of(CLIPS / "earth.mp4") == (0, 0, 320, 180)


def test_the_bunny_loses_its_bars() -> None:
    assert box_of(CLIPS / "bunny.mp4") == (0, 30, 320, 210)


# Sizes


@pytest.mark.parametrize("pixels", [4096, 16384, 921600])
@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (1920, 1080), (480, 640), (803, 1920)]
)
def test_sizes_are_multiples_of_16_below_the_budget(height: int, width: int, pixels: int) -> None:
    h, w = scenes.clip_size(height, width, pixels) or (0, 0)
    assert (h % 16, w % 16) == (0, 0)
    assert pixels / 3 <= h * w <= pixels
    assert abs(np.log(w / h * height / width)) < np.log(1.15)


def test_nothing_is_enlarged() -> None:
    assert scenes.clip_size(50, 70, 16384) == (48, 64)


@pytest.mark.parametrize(("height", "width"), [(15, 200), (200, 8), (16, 3000), (31, 47)])
def test_pictures_that_no_size_fits_have_none(height: int, width: int) -> None:
    assert scenes.clip_size(height, width, 16384) is None


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = movie(tmp_path / "a.mp4", pan(17, width=96), aspect=Fraction(2, 1))
    assert survey(path)[0].size == scenes.clip_size(96, 192, PIXELS)


def test_a_clip_on_its_side_is_turned() -> None:
    height, width = survey(CLIPS / "city.mp4")[0].size
    assert height > width


# Lengths


@pytest.mark.parametrize("count", [9, 40, 41, 200, 333])
def test_clips_have_one_frame_and_fours_and_lose_three_at_most(count: int) -> None:
    piece = Piece(5, 5 + count, Box(0, 0, 64, 64), (64, 64))
    parts = list(scenes.clips(piece, 41, 9))
    assert {part.length % 4 for part in parts} == {1}
    assert max(part.length for part in parts) <= 41
    gaps = [b.start - a.end for a, b in pairwise([*parts, Piece(5 + count, 0, piece.box, (0, 0))])]
    assert parts[0].start == 5
    assert set(gaps) <= {0, 1, 2, 3}


def test_eight_frames_are_too_short(tmp_path: Path) -> None:
    assert spans(survey(movie(tmp_path / "a.mp4", pan(8))), "too short") == [(0, 8)]


def test_a_single_frame_is_a_clip(tmp_path: Path) -> None:
    assert spans(survey(movie(tmp_path / "a.mp4", pan(1)))) == [(0, 1)]


# What decoders say


def test_packets_without_content_repeat_the_frame_before(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"  # whose writer fills gaps in time with such packets
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for number, picture in enumerate(pan(16)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number + 4 * (number > 7), Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the time that an avi lacks
        assert sum(1 for _ in video.frames(path)) == 16
