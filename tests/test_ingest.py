"""`minisora ingest`: a folder of anything becomes a folder of clips, and no file ends the run."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import refused
from PIL import Image

from minisora import InputError, decoding, ingest, video
from minisora.cli import main
from minisora.footage import CAPTIONS, INDEX, Footage

CLIPS = Path(__file__).parent.parent / "data" / "clips"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="stops processes by signals")


def pan(count: int, seed: int = 0, height: int = 64, width: int = 96) -> np.ndarray:
    """A camera that pans over blobs of color, uint8 (T, H, W, 3)."""
    small = np.random.default_rng(seed).integers(40, 220, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.stack([np.roll(np.asarray(image), 3 * k, axis=1) for k in range(count)])


def folder_of(root: Path, **clips: np.ndarray) -> Path:
    root.mkdir()
    for name, frames in clips.items():
        video.write(root / f"{name}.mp4", frames)
    return root


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    _, *rows = map(json.loads, (out / INDEX).read_text().splitlines())
    return {row["file"]: row for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of the repository, cut by the command."""
    out = tmp_path_factory.mktemp("shipped") / "clips"
    main(["ingest", str(CLIPS), "--out", str(out), "--workers", "2"])
    return out


# The clips of the repository


def test_the_shipped_clips_are_small() -> None:
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 2 * 2**20


def test_every_shipped_clip_is_kept(shipped: Path) -> None:
    assert {row["file"]: len(row["clips"]) for row in rows_of(shipped).values()} == {
        "bunny.mp4": 1,
        "city.mp4": 2,
        "earth.mp4": 2,
    }


def test_clips_are_what_the_index_says(shipped: Path) -> None:
    footage = Footage(shipped)
    for number in range(len(footage)):
        footage.read(number)


def test_clips_have_the_caption_of_their_file(shipped: Path) -> None:
    listed = map(json.loads, (CLIPS / "captions.jsonl").read_text().splitlines())
    captions = {row["file"]: row["caption"] for row in listed}
    assert all(clip.caption == captions[clip.source] for clip in Footage(shipped).clips)


def test_a_clip_looks_like_its_place_in_the_file(shipped: Path) -> None:
    clip = Footage(shipped).clips[1]  # the city, from its beginning
    source = video.read(CLIPS / "city.mp4")[20]
    small = Image.fromarray(source).resize((clip.width, clip.height), Image.Resampling.BOX)
    frame = Footage(shipped).read(1)[20]
    assert np.abs(frame.astype(float) - np.asarray(small)).mean() < 8


def test_the_table_counts_what_was_kept(shipped: Path) -> None:
    kept = ingest.table(rows_of(shipped).values()).splitlines()[1]
    assert kept.split()[:3] == ["kept", "5", "3"]


# Damaged and odd files


def write_faststart(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(9):
            silence = np.zeros((2, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            frame.rate, frame.pts = 44100, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_gif(path: Path, frames: np.ndarray, duration: int) -> None:
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=duration)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of a folder of damaged and odd files, and one that is whole."""
    folder = tmp_path_factory.mktemp("odd") / "videos"
    folder_of(folder, whole=pan(33), one=pan(1), still=np.repeat(pan(1), 40, axis=0))
    (folder / "x").mkdir()
    shutil.copy(folder / "whole.mp4", folder / "x" / "copy.mp4")
    write_faststart(folder / "long.mp4", pan(81))
    content = bytearray((folder / "long.mp4").read_bytes())
    half = len(content) // 2
    (folder / "cut.mp4").write_bytes(content[:half])
    content[half:] = random.Random(0).randbytes(len(content) - half)
    (folder / "halfway.mp4").write_bytes(content)
    stream = video.write(folder / "whole.mp4", pan(33)).read_bytes()
    with (
        av.open(str(folder / "twice.ts"), "w") as container,
        av.open(str(folder / "whole.mp4")) as source,
    ):
        copied = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                container.mux(packet)
    (folder / "twice.ts").write_bytes(2 * (folder / "twice.ts").read_bytes())
    (folder / "headless.mp4").write_bytes(stream[: len(stream) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 99)
    write_audio(folder / "audio.mp4")
    write_gif(folder / "hours.gif", pan(55), 655_350)  # ms, ten hours in all
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    Image.fromarray(pan(1, height=12, width=400)[0]).save(folder / "thin.png")
    Image.fromarray(pan(1)[0]).save(folder / "photo.jpg")
    (folder / "nowhere.mp4").symlink_to("nothing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.mp4")
    (folder / "notes.txt").write_text("no video either, and no caption of one")
    out = folder.parent / "clips"
    ingest.ingest(folder, out, workers=2)
    return rows_of(out)


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("whole.mp4", [33]),
        ("one.mp4", [1]),
        ("photo.jpg", [1]),
        ("long.mp4", [81]),
        ("twice.ts", [65]),
    ],
)
def test_whole_files_are_kept(odd: dict, name: str, frames: list[int]) -> None:
    assert [clip["frames"] for clip in odd[name]["clips"]] == frames


@pytest.mark.parametrize("name", ["cut.mp4", "halfway.mp4"])
def test_what_comes_before_the_damage_is_kept(odd: dict, name: str) -> None:
    (clip,) = odd[name]["clips"]
    assert 9 <= clip["frames"] < 81
    assert [drop["why"] for drop in odd[name]["dropped"]][-1] == "damaged"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *[(f"{name}.mp4", "unreadable") for name in ("headless", "empty", "text", "audio")],
        *[("huge.png", "unreadable"), ("nowhere.mp4", "unreadable"), ("thin.png", "no size fits")],
        *[("still.mp4", "static"), ("hours.gif", "static"), ("x/copy.mp4", "duplicate")],
    ],
)
def test_the_index_says_why_a_file_was_dropped(odd: dict, name: str, why: str) -> None:
    row = odd[name]
    assert ([drop["why"] for drop in row["dropped"]], row["clips"]) == ([why], [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(odd: dict) -> None:
    assert "not a regular file" in odd["pipe.mp4"]["dropped"][0]["detail"]


def test_texts_are_no_videos(odd: dict) -> None:
    assert "notes.txt" not in odd


def test_random_damage_never_ends_the_run(tmp_path: Path) -> None:
    folder, rng = folder_of(tmp_path / "videos", good=pan(17)), random.Random(0)
    write_gif(folder / "good.gif", pan(9), 125)
    for number in range(60):
        good = folder / rng.choice(["good.mp4", "good.gif"])
        content = bytearray(good.read_bytes())
        for _ in range(rng.choice([1, 10, 100])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        length = rng.choice([len(content), rng.randrange(len(content))])
        (folder / f"{number}{good.suffix}").write_bytes(content[:length])
    ingest.ingest(folder, tmp_path / "clips", workers=2)
    assert len(rows_of(tmp_path / "clips")) == 62


# Captions


def test_captions_come_from_the_list_or_from_a_text_beside(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "videos", a=pan(9, 1), b=pan(9, 2), c=pan(9, 3))
    (folder / "a.txt").write_text("from the\ntext\n")
    (folder / "b.txt").write_text("from the text")
    line = {"file": "./b.mp4", "caption": "from the list"}
    (folder / CAPTIONS).write_text(json.dumps(line))
    ingest.ingest(folder, tmp_path / "clips", workers=1)
    captions = {clip.source: clip.caption for clip in Footage(tmp_path / "clips").clips}
    assert captions == {"a.mp4": "from the text", "b.mp4": "from the list", "c.mp4": ""}


def test_captions_of_clips_that_somebody_else_wrote_stay(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "videos", a=pan(9)), tmp_path / "clips"
    ingest.ingest(folder, out, workers=1)
    (line,) = map(json.loads, (out / CAPTIONS).read_text().splitlines())
    (out / CAPTIONS).write_text(json.dumps(line | {"caption": "by a captioner"}) + "\n")
    ingest.ingest(folder, out, workers=1)
    assert Footage(out).clips[0].caption == "by a captioner"


def test_captions_of_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "videos", a=pan(9))
    (folder / CAPTIONS).write_text('{"file": "b.mp4", "caption": "lost"}')
    with pytest.warns(UserWarning, match=r"names 1 files that are not there, first b\.mp4"):
        ingest.ingest(folder, tmp_path / "clips", workers=1)


# Again


def test_a_second_run_changes_nothing(shipped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(shipped, tmp_path / "clips")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    ingest.ingest(CLIPS, out, workers=1)
    assert contents(out) == contents(shipped)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")} == before


def test_new_changed_and_missing_files(tmp_path: Path) -> None:
    folder, out = folder_of(tmp_path / "videos", a=pan(9, 1), b=pan(9, 2)), tmp_path / "clips"
    ingest.ingest(folder, out, workers=1)
    old = rows_of(out)
    video.write(folder / "b.mp4", pan(9, 3))
    video.write(folder / "c.mp4", pan(9, 4))
    (folder / "a.mp4").unlink()
    ingest.ingest(folder, out, workers=1)
    new = rows_of(out)
    assert (sorted(new), new["a.mp4"]) == (["a.mp4", "b.mp4", "c.mp4"], old["a.mp4"])
    names = {clip["clip"] for row in new.values() for clip in row["clips"]}
    assert {path.name for path in out.glob("*.mp4")} == names


def test_a_clip_that_was_lost_is_made_again(shipped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(shipped, tmp_path / "clips")
    next(out.glob("*.mp4")).unlink()
    ingest.ingest(CLIPS, out, workers=1)
    assert contents(out) == contents(shipped)


@LINUX
def test_a_run_that_is_killed_comes_to_the_same_folder(shipped: Path, tmp_path: Path) -> None:
    rng, out = random.Random(0), tmp_path / "clips"
    command = [sys.executable, "-m", "minisora.cli", "ingest", str(CLIPS), "--out", str(out)]
    for _ in range(3):
        run = subprocess.Popen(
            [*command, "--workers", "1"], stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(lambda: out.is_dir())
        time.sleep(rng.uniform(0, 1.5))
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    ingest.ingest(CLIPS, out, workers=1)
    assert contents(out) == contents(shipped)


def test_an_unfinished_line_is_cut_off(shipped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(shipped, tmp_path / "clips")
    lines = (out / INDEX).read_bytes()
    (out / INDEX).unlink()
    (out / ingest.JOURNAL).write_bytes(lines[:-40])
    ingest.ingest(CLIPS, out, workers=1)
    assert contents(out) == contents(shipped)


# Decoders that hang or crash


def wait_until(there: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not there() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert there()


@pytest.fixture
def stopped(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The rows of a run whose worker gets a signal while it writes a clip of its first file."""
    folder, out = folder_of(tmp_path / "videos", a=pan(600), b=pan(9, 1)), tmp_path / "clips"

    def hit() -> None:
        wait_until(lambda: list(out.glob("*.mp4")))
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, request.param)

    thread = threading.Thread(target=hit)
    thread.start()
    ingest.ingest(folder, out, workers=1, patience=8)
    thread.join()
    yield rows_of(out)


@LINUX
@pytest.mark.parametrize(
    ("stopped", "why"),
    [(signal.SIGKILL, "crash"), (signal.SIGSTOP, "hang")],
    indirect=["stopped"],
    ids=["crash", "hang"],
)
def test_a_worker_that_dies_costs_its_file_alone(stopped: dict, why: str) -> None:
    assert [drop["why"] for drop in stopped["a.mp4"]["dropped"]] == [why]
    assert len(stopped["b.mp4"]["clips"]) == 1


# Memory


def test_memory_holds_a_few_frames_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, alive, most = folder_of(tmp_path / "videos", long=pan(100)), 0, 0
    convert = decoding.to_rgb

    def counted(frame: decoding.Frame) -> np.ndarray:
        nonlocal alive, most
        picture = convert(frame)
        alive, most = alive + 1, max(most, alive + 1)
        weakref.finalize(picture, gone)
        return picture

    def gone() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(decoding, "to_rgb", counted)
    row = ingest.take((folder, "long.mp4"), lambda **_: None, tmp_path, 16384, 157, {})
    assert row["clips"][0]["frames"] == 97
    assert 1 <= most <= 5


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixels", "100"], "pixels must be 256 or more"),
        (["--seconds", "0.5"], "seconds must be from 2.125 to 3600"),
        (["--seconds", "nan"], "seconds must be from"),
        (["--pixels", "921600", "--seconds", "60"], "more than 1,073,741,824 bytes"),
        (["--workers", "1000"], "workers must be at most 256"),
        (["--patience", "0"], "patience must be from"),
    ],
)
def test_odd_options_are_refused(
    capsys: pytest.CaptureFixture, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in refused(capsys, "ingest", CLIPS, "--out", tmp_path / "clips", *options)


def test_other_settings_are_refused(
    capsys: pytest.CaptureFixture, shipped: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(shipped, tmp_path / "clips")
    error = refused(capsys, "ingest", CLIPS, "--out", out, "--pixels", 4096)
    assert "pixels 16384" in error
    assert "now rules 1, fps 8, pixels 4096" in error
    assert contents(out) == contents(shipped)


@pytest.mark.parametrize("line", ["7", "[]", '{"file": "a.mp4"}', '{"clips": 3}', "{", "\\0"])
def test_an_index_that_was_changed_is_refused(shipped: Path, tmp_path: Path, line: str) -> None:
    out = shutil.copytree(shipped, tmp_path / "clips")
    with open(out / INDEX, "a") as index:
        index.write(line + "\n")
    with pytest.raises(InputError, match=INDEX):
        ingest.ingest(CLIPS, out)


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "videos", a=pan(9))
    with pytest.raises(InputError, match="is inside"):
        ingest.ingest(folder, folder / "clips")
    with pytest.raises(InputError, match="is not a folder"):
        ingest.ingest(folder / "a.mp4", tmp_path / "clips")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="has no files"):
        ingest.ingest(tmp_path / "none", tmp_path / "clips")
    with pytest.raises(InputError, match=r"has other files, such as a\.mp4"):
        ingest.ingest(CLIPS, folder)


@LINUX
def test_a_full_disk_ends_the_run_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "videos", a=pan(9))

    def full(*_: object, **__: object) -> None:
        raise InputError("cannot write it: No space left on device")

    monkeypatch.setattr(video, "write", full)
    with pytest.raises(InputError, match="No space left"):
        ingest.take((folder, "a.mp4"), lambda **_: None, tmp_path, 16384, 157, {})
