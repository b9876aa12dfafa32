"""Files by others: they are read as a player shows them, or refused with one sentence."""

import os
import struct
import warnings
import wave
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from minisora import InputError, decoding, video, world

MOVING = world.clip(0, 0).frames
WHITE = [255, 255, 255]


def write_movie(
    path: Path,
    frames: np.ndarray = MOVING,
    times: Iterable[float] | None = None,
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Writes frames with their times in seconds, 8 a second if there are none."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgba" if codec == "png" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        pixels = "rgba" if codec == "png" else "rgb24"
        for number, time in enumerate(times or [k / 8 for k in range(len(frames))]):
            frame = av.VideoFrame.from_ndarray(frames[number], format=pixels)
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_images(path: Path, frames: np.ndarray = MOVING, **options) -> Path:
    first, *rest = map(Image.fromarray, frames)
    options = {"save_all": True, "append_images": rest, "duration": 125, **options}
    first.save(path, **options, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def write_any(path: Path) -> Path:
    """The moving clip in any format."""
    if path.suffix in (".gif", ".png", ".webp"):
        return write_images(path)
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    return write_movie(path, codec=codec, **options)


def numbers(clip: np.ndarray) -> list[int]:
    return np.rint(clip.mean((1, 2, 3)) / 20).astype(int).tolist()


GRAYS = np.broadcast_to(20 * np.arange(8)[:, None, None, None], (8, 32, 32, 3)).astype(np.uint8)


# Upright

CORNERS = np.zeros((64, 32, 3), np.uint8)  # red above left, green above right, blue below left
CORNERS[:16, :16, 0] = CORNERS[:16, 16:, 1] = CORNERS[48:, :16, 2] = 255

# by EXIF orientation: how the pixels are stored, and (a, b, c, d) of the matrix that undoes it
ORIENTATIONS = pytest.mark.parametrize(
    ("orientation", "stored", "matrix"),
    [
        (1, CORNERS, (1, 0, 0, 1)),
        (2, CORNERS[:, ::-1], (-1, 0, 0, 1)),
        (3, CORNERS[::-1, ::-1], (-1, 0, 0, -1)),
        (4, CORNERS[::-1], (1, 0, 0, -1)),
        (5, CORNERS.swapaxes(0, 1), (0, 1, 1, 0)),
        (6, np.rot90(CORNERS), (0, 1, -1, 0)),
        (7, CORNERS[::-1, ::-1].swapaxes(0, 1), (0, -1, -1, 0)),
        (8, np.rot90(CORNERS, -1), (0, -1, 1, 0)),
    ],
    ids=range(1, 9),
)


@ORIENTATIONS
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_images_come_upright(
    tmp_path: Path, suffix: str, orientation: int, stored: np.ndarray, matrix: tuple
) -> None:
    path, exif = tmp_path / f"photo{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    image = video.read(path)[0]
    assert np.abs(image[8::16, 8::16].astype(int) - CORNERS[8::16, 8::16]).max() < 30


@ORIENTATIONS
def test_videos_come_upright(
    tmp_path: Path, orientation: int, stored: np.ndarray, matrix: tuple
) -> None:
    path = write_movie(tmp_path / "phone.mp4", np.stack([stored] * 3))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # of the display matrix
    a, b, c, d = (65536 * entry for entry in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frame = video.read(path)[0]
    assert np.abs(frame[8::16, 8::16].astype(int) - CORNERS[8::16, 8::16]).max() < 60


# Names


@pytest.mark.parametrize("suffix", [".mp4", ".png", ".gif"])
@pytest.mark.parametrize(
    "name", ["cat%02d", "12:30", "http:x", "file:x", "concat:a|b", "pipe:0", "-", "[1]*?", "é 猫"]
)
def test_a_name_is_a_name(tmp_path: Path, monkeypatch, name: str, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    video.write(tmp_path / f"cat00{suffix}", GRAYS[:2])
    video.write(tmp_path / "other.mp4", GRAYS[5:6]).rename(f"{name}{suffix}")
    assert numbers(video.read(f"{name}{suffix}")) == [5]


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".webp", ".png"])
def test_formats_go_by_content(tmp_path: Path, suffix: str) -> None:
    path = video.write(tmp_path / f"clip{suffix}", MOVING)
    for name in ("clip.jpg", "clip.mp4", "clip"):
        path = path.rename(tmp_path / name)
        assert len(video.read(path)) == 17


@pytest.mark.parametrize(
    "playlist",
    ["ffconcat version 1.0\nfile clip.ts\n", "#EXTM3U\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n"],
    ids=["concat", "m3u8"],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, playlist: str) -> None:
    write_movie(tmp_path / "clip.ts")
    (tmp_path / "list.mp4").write_text(playlist)
    with pytest.raises(InputError, match="cannot be read as a video"):
        video.read(tmp_path / "list.mp4")


# Times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rates_can_vary(tmp_path: Path, suffix: str) -> None:
    times = [0, 0.05, 0.1, 0.4, 1.0, 1.2, 1.3]
    clip = video.read(write_movie(tmp_path / f"screen{suffix}", GRAYS, times))
    shown = [max(n for n, time in enumerate(times) if time <= k / 8) for k in range(11)]
    assert numbers(clip)[:11] == shown


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv"])
def test_times_start_at_the_first_frame(tmp_path: Path, suffix: str) -> None:
    path = write_movie(tmp_path / f"late{suffix}", GRAYS, [3 + k / 8 for k in range(8)])
    assert next(video.frames(path))[0] == 0
    assert numbers(video.read(path)) == list(range(8))


def test_an_avi_has_a_fixed_rate(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "reordered.avi")  # H.264 stores frames out of order
    assert [time for time, _ in video.frames(path)] == [k / 8 for k in range(17)]


def test_a_raw_stream_has_the_rate_of_its_header(tmp_path: Path) -> None:
    assert len(list(video.frames(write_movie(tmp_path / "raw.h264")))) == 17


def test_an_animated_png_is_a_clip(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.png", GRAYS[:4], duration=[125, 250, 125, 375])
    assert numbers(video.read(path)) == [0, 1, 1, 2, 3, 3, 3]


def test_the_image_for_still_viewers_is_no_frame(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.png", GRAYS[:4], default_image=True)
    assert numbers(video.read(path)) == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".ppm"])
def test_an_image_is_one_frame_at_any_rate(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(MOVING[0]).save(tmp_path / f"a{suffix}")
    assert video.read(tmp_path / f"a{suffix}", fps=30).shape == (1, 32, 32, 3)


# Transparency and depth


@pytest.mark.parametrize("hidden", [(255, 105, 180), (0, 0, 0)], ids=["pink", "black"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".mov"])
def test_transparent_pixels_are_white(tmp_path: Path, suffix: str, hidden: tuple) -> None:
    frame = np.full((32, 32, 4), (*hidden, 0), np.uint8)
    frame[8:24, 8:24] = 0, 0, 255, 255
    clip = np.stack([frame, np.roll(frame, 4, axis=1)])
    write = write_movie if suffix == ".mov" else write_images
    options = {"codec": "png"} if suffix == ".mov" else {"disposal": 2}
    path = write(tmp_path / f"a{suffix}", clip, **options)
    back = video.read(path)
    assert back[:, 0, 0].tolist() == [WHITE] * 2
    assert back[1, 16, 10].tolist() == WHITE  # no longer covered
    assert back[:, 16, 16].tolist() == [[0, 0, 255]] * 2


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("LA", (8, 8), (0, 128)).save(tmp_path / "a.png")
    assert video.read(tmp_path / "a.png")[0, 0, 0].tolist() == [127] * 3


def test_a_transparent_color_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 3)
    image.putpalette(bytes(12))
    image.save(tmp_path / "a.png", transparency=3)
    assert video.read(tmp_path / "a.png")[0, 0, 0].tolist() == WHITE


def test_deep_images_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "a.png")
    assert video.read(tmp_path / "a.png")[0, 0, 0].tolist() == [128] * 3


# Damage

FORMATS = [".mp4", ".mkv", ".webm", ".avi", ".ts", ".gif", ".webp", ".png"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_whole_file_warns_of_nothing(tmp_path: Path, suffix: str) -> None:
    path = write_any(tmp_path / f"clip{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(video.read(path)) == 17
        assert len(video.sample(path, 9)) == 9


@pytest.mark.parametrize(("suffix", "share"), [(".mkv", 0.7), (".webm", 0.7), (".mp4", 0.9)])
@pytest.mark.parametrize(
    "read", [video.read, lambda path: video.sample(path, 99)], ids=["read", "sample"]
)
def test_what_is_left_of_a_cut_video_is_read(
    tmp_path: Path, suffix: str, share: float, read
) -> None:
    path = write_any(tmp_path / f"clip{suffix}")
    whole = video.read(path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.warns(
        UserWarning, match=r"is damaged \(.*\): read [01]\.\d\d of 2\.1\d s"
    ) as warned:
        left = read(path)
    assert len(warned) == 1
    assert np.array_equal(left[0], whole[0])
    assert len(left) < 17


@pytest.mark.parametrize(("suffix", "share"), [(".gif", 0.7), (".png", 0.7)])
def test_what_is_left_of_a_cut_animation_is_read(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = write_images(tmp_path / f"clip{suffix}")
    whole = video.read(path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.warns(UserWarning, match=r"is damaged \(.*\): read \d\.\d\d s"):
        left = video.read(path)
    assert 0 < len(left) < 17
    assert np.array_equal(left, whole[: len(left)])


def test_a_gif_that_only_lacks_its_end_is_whole_but_warns(tmp_path: Path) -> None:
    path = write_images(tmp_path / "clip.gif")
    os.truncate(path, path.stat().st_size - 1)
    with pytest.warns(UserWarning, match="it ends too early"):
        assert len(video.read(path)) == 17


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".png"])
def test_a_file_cut_before_its_first_frame_ends_is_refused(tmp_path: Path, suffix: str) -> None:
    path = video.write(tmp_path / f"clip{suffix}", MOVING)  # an mp4 has its header at the end
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="cannot be read as a video"):
        video.read(path)


@pytest.mark.filterwarnings("ignore:.*is damaged")
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


# Too large


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + bytes(13)


HUGE = {
    "canvas.webp": webp(b"VP8X", bytes(4) + b"\xff\xff\x00" + b"\xff\xff\x00"),
    "lossy.webp": webp(b"VP8 ", b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
    "lossless.webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16383 << 14 | 16383) + bytes(5)),
    "image.png": png(12_000, 12_000),
    "bomb.png": png(60_000, 60_000),
    "canvas.gif": b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
    + b"," + struct.pack("<HHHHBB", 0, 0, 1, 1, 0, 2) + b"\x00;",
    "frame.gif": b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    + b"," + struct.pack("<HHHHBB", 0, 0, 9_000, 9_000, 0, 2) + b"\x00;",
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_frame_that_is_too_large_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HUGE[name])
    with pytest.raises(InputError, match="a frame has more than 67,108,864 pixels"):
        video.sample(tmp_path / name, 9)


def test_a_video_that_is_too_large_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = write_movie(tmp_path / "clip.mp4")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 32 * 32 - 1)
    with pytest.raises(InputError, match="a frame has more than"):
        video.sample(path, 9)


# No video


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        video.read(tmp_path / "nothing.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no video", "cannot be read as a video"), (b"", "it is empty")],
    ids=["text", "empty"],
)
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        video.read(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "it is a folder"),
        ("pipe.mp4", "it is not a regular file"),
        ("clip.gif/clip.gif", "no such file"),
        ("nul\0.mp4", "null"),
        ("n" * 300 + ".mp4", "too long"),
    ],
    ids=["folder", "pipe", "in a file", "nul", "long"],
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, name: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    video.write(tmp_path / "clip.gif", MOVING)
    with pytest.raises(InputError, match=message):
        video.read(f"{tmp_path}/{name}")


def test_a_device_is_not_opened() -> None:
    with pytest.raises(InputError, match="it is not a regular file"):
        video.read("/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all files")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = video.write(tmp_path / "clip.gif", MOVING)
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        video.read(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    with pytest.raises(InputError, match="it has no video of a known codec"):
        video.read(tmp_path / "sound.mp4")


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(InputError, match="it has no video of a known codec"):
        video.read(path)
