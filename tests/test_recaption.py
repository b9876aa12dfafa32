"""`minisora recaption`: a file with a human and a synthetic caption for each clip."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import files_of_at_most

from minisora import InputError, video, weights, world
from minisora.captioner import Captioner
from minisora.cli import main
from minisora.data import ClipData
from minisora.files import locked, read_lines
from minisora.recaption import recaption_clips
from minisora.vae import VAE
from minisora.views import Latents, read_captions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundle of an untrained captioner and VAE."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vae = VAE(channels=4, space=8, width=16, depth=1)
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(folder, {}, captioner=captioner, vae=vae)
    return str(folder)


def rows_of(path: Path) -> list[dict]:
    """The lines after the first, which says how the file was made."""
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


# Both captions


@pytest.fixture(scope="module")
def mixed(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captions of 200 clips, three quarters of them synthetic."""
    path = tmp_path_factory.mktemp("mixed") / "captions.jsonl"
    recaption_clips(str(path), clips=200, mix=0.75, weights=folder)
    return path


def test_the_first_line_says_how_the_file_was_made(mixed: Path, folder: str) -> None:
    head, _ = read_captions(str(mixed))
    assert head["mix"] == 0.75
    assert head["worlds"] == {"shapes": 1.0}
    assert head["captioner"] == weights.fingerprint(folder, "captioner")


def test_every_clip_has_a_line(mixed: Path) -> None:
    assert [row["clip"] for row in rows_of(mixed)] == list(range(200))


def test_a_caption_is_the_human_or_the_synthetic_one(mixed: Path) -> None:
    assert all(row["caption"] in (row["human"], row["synthetic"]) for row in rows_of(mixed))


def test_the_share_of_synthetic_captions_is_the_mix(mixed: Path) -> None:
    assert 130 <= sum(row["caption"] == row["synthetic"] for row in rows_of(mixed)) <= 170


@pytest.mark.parametrize("kind", ["caption", "human", "synthetic"])
def test_each_kind_of_caption_can_be_read(mixed: Path, kind: str) -> None:
    _, captions = read_captions(str(mixed), kind)
    assert captions == [row[kind] for row in rows_of(mixed)]


# Going on


@pytest.fixture
def stopped(folder: str, tmp_path: Path) -> tuple[Path, bytes]:
    """A file that was cut in the middle of a line, and what the whole file held."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    recaption_clips(str(whole), clips=50, batch=8, weights=folder)
    shutil.copy(whole, path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    return path, whole.read_bytes()


def test_a_stopped_run_goes_on_to_the_same_file(stopped: tuple[Path, bytes], folder: str) -> None:
    """In batches of another size too."""
    path, whole = stopped
    recaption_clips(str(path), clips=50, batch=16, weights=folder)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", [0, 5, 12, 40])
def test_a_first_line_that_was_cut_off_is_begun_anew(
    left: int, stopped: tuple[Path, bytes], folder: str
) -> None:
    path, whole = stopped
    path.write_bytes(whole[:left])
    recaption_clips(str(path), clips=50, batch=16, weights=folder)
    assert path.read_bytes() == whole


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_said_and_the_next_start_goes_on(
    stopped: tuple[Path, bytes], folder: str
) -> None:
    path, whole = stopped
    with files_of_at_most(len(whole) * 3 // 4), pytest.raises(InputError, match="cannot write"):
        recaption_clips(str(path), clips=50, batch=8, weights=folder)
    recaption_clips(str(path), clips=50, batch=8, weights=folder)
    assert path.read_bytes() == whole


def test_a_run_with_other_settings_does_not_go_on(
    stopped: tuple[Path, bytes], folder: str
) -> None:
    path, _ = stopped
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"made with other settings \(mix 0.95, now 0.5\)"):
        recaption_clips(str(path), clips=50, mix=0.5, weights=folder)
    assert path.read_bytes() == before


# Clips of one's own


def list_clips(folder: Path, rows: list[dict]) -> None:
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def own(tmp_path: Path) -> list[dict]:
    """The list of three clips in `tmp_path`: two of other lengths and sizes, and an image."""
    sizes = {"0.gif": (17, 32, 32), "1.gif": (5, 32, 32), "2.png": (1, 64, 64)}
    for index, (name, size) in enumerate(sizes.items()):
        video.write(tmp_path / name, world.clip(0, index, *size).frames)
    rows = [{"file": name, "caption": "a thing"} for name in sizes]
    list_clips(tmp_path, rows)
    return rows


def recaption_own(tmp_path: Path, weights_folder: str) -> Path:
    out = tmp_path / "out.jsonl"
    clips = ["--folder", str(tmp_path), "--weights", weights_folder]
    main(["recaption", str(out), *clips, "--mix", "1"])
    return out


def test_clips_of_ones_own_are_named(own: list[dict], folder: str, tmp_path: Path) -> None:
    rows = rows_of(recaption_own(tmp_path, folder))
    assert [row["clip"] for row in rows] == ["0.gif", "1.gif", "2.png"]


def test_their_own_captions_are_the_human_ones(
    own: list[dict], folder: str, tmp_path: Path
) -> None:
    for row in rows_of(recaption_own(tmp_path, folder)):
        assert row["human"] == "a thing"
        assert row["caption"] == row["synthetic"]


def test_another_list_of_clips_does_not_go_on(
    own: list[dict], folder: str, tmp_path: Path
) -> None:
    out = recaption_own(tmp_path, folder)
    before = out.read_bytes()
    list_clips(tmp_path, own[::-1])  # as many
    with pytest.raises(InputError, match="made with other settings"):
        recaption_clips(str(out), folder=str(tmp_path), mix=1, weights=folder)
    assert out.read_bytes() == before


# Training on the captions


@pytest.fixture
def human(folder: str, tmp_path: Path) -> str:
    """The human captions of 16 clips."""
    path = tmp_path / "captions.jsonl"
    recaption_clips(str(path), clips=16, mix=0, weights=folder)
    return str(path)


def test_training_uses_the_captions(human: str, folder: str) -> None:
    view = Latents(folder, lengths={17: 1.0}, captions=human)
    data = ClipData(view, clips=16, batch_size=16)
    data.setup("fit")
    assert sorted(data.batch(0)["captions"]) == sorted(read_captions(human, "human")[1])


def test_the_captions_serve_every_length(human: str, folder: str) -> None:
    """Images too, as it says in `Latents`."""
    view = Latents(folder, lengths={1: 0.5, 17: 0.5}, captions=human)
    data = ClipData(view, clips=16, batch_size=16)
    data.setup("fit")
    first = next(step for step in range(20) if data.bucket(step).frames == 1)
    assert set(data.batch(first)["captions"]) <= set(read_captions(human, "human")[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 17}, "holds 16 captions"),
        ({"clips": 16, "seed": 1}, "'seed': 0"),
        ({"clips": 16, "worlds": {"pairs": 1.0}}, "'worlds': {'shapes': 1.0}"),
    ],
    ids=["too few", "another seed", "another world"],
)
def test_captions_of_other_clips_are_refused(
    human: str, folder: str, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ClipData(Latents(folder, captions=human), **options)


WORLDS = {"pairs": 0.5, "shapes": 0.5}


@pytest.fixture
def of_pairs(folder: str, tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    recaption_clips(str(path), clips=4, worlds=WORLDS, mix=0, weights=folder)
    return str(path)


def test_captions_fit_square_clips_of_any_size(of_pairs: str, folder: str) -> None:
    view = Latents(folder, captions=of_pairs)
    data = ClipData(view, WORLDS, clips=4, sizes=[[64, 64], [32, 32]])
    assert data.trained_on["sizes"] == [[64, 64], [32, 32]]


def test_captions_do_not_fit_clips_that_are_no_squares(of_pairs: str, folder: str) -> None:
    with pytest.raises(InputError, match=r"square clips, .*: set data.sizes to square ones"):
        ClipData(Latents(folder, captions=of_pairs), WORLDS, clips=4, sizes=[[32, 32], [32, 48]])


def test_the_order_of_the_worlds_does_not_matter(of_pairs: str, folder: str) -> None:
    turned = dict(reversed(WORLDS.items()))
    data = ClipData(Latents(folder, captions=of_pairs), turned, clips=4)
    assert data.words


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 95}, "mix is a share, from 0 to 1, got 95"),
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1"),
        ({"batch": 0}, "1 or more"),
        ({"worlds": {"room": 1.0}}, "no world 'room'"),
    ],
    ids=["mix", "seed", "batch", "world"],
)
def test_impossible_settings_are_refused(
    folder: str, tmp_path: Path, options: dict, message: str
) -> None:
    out = tmp_path / "a.jsonl"
    with pytest.raises(InputError, match=message):
        recaption_clips(str(out), weights=folder, **options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no captions\.jsonl"),
        (b'{"file": "a.mp4"}\n', "line 1: no JSON with texts for file and caption"),
        (b'{"file": "a.mp4", "caption": "a"}', r"1 clips of .* are missing, first a\.mp4"),
        (b"", "lists no clips"),
        ('{"file": "a.mp4", "caption": "é"}'.encode("latin-1"), "as text in UTF-8"),
    ],
    ids=["no list", "no caption", "no clip", "empty", "another encoding"],
)
def test_a_damaged_list_of_clips_is_refused(
    folder: str, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "captions.jsonl").write_bytes(content)
    out = tmp_path / "a.jsonl"
    with pytest.raises(InputError, match=message):
        recaption_clips(str(out), folder=str(tmp_path), weights=folder)
    assert not out.exists()


@pytest.mark.parametrize("content", ["hello\n", "[1]\n"])
def test_a_file_of_another_kind_is_kept(folder: str, tmp_path: Path, content: str) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(content)
    with pytest.raises(InputError, match="move it away"):
        recaption_clips(str(other), weights=folder)
    assert other.read_text() == content


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "no" / "a.jsonl", "is not a folder"),
    ],
    ids=["a folder", "no folder"],
)
def test_what_cannot_be_written_is_refused(
    folder: str, tmp_path: Path, out: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        recaption_clips(str(out(tmp_path)), weights=folder)


def test_weights_without_a_captioner_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    with pytest.raises(InputError, match=r"captioner\.safetensors is missing"):
        recaption_clips(str(out), weights=str(tmp_path))
    assert not out.exists()


# Several at once, and damage


def test_a_file_that_another_process_writes_is_refused(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    with locked(out), pytest.raises(InputError, match=r"o\.jsonl is being written by another"):
        recaption_clips(str(out), clips=4, weights=folder)


def test_rows_out_of_order_are_refused(mixed: Path, tmp_path: Path) -> None:
    head, *rows = mixed.read_text().splitlines()
    (tmp_path / "reversed.jsonl").write_text("\n".join([head, *rows[::-1]]))
    with pytest.raises(InputError, match="not in the order of their clips"):
        read_captions(str(tmp_path / "reversed.jsonl"))


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    text = '\ufeff{"file": "a.gif", "caption": "a"}\n\n{"file": "b.gif", "caption": "b"}\n\n'
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-8")
    rows = read_lines(tmp_path / "captions.jsonl", ("file", "caption"))
    assert [row["file"] for row in rows] == ["a.gif", "b.gif"]


def test_a_damaged_clip_keeps_its_human_caption_and_is_counted(
    folder: str, tmp_path: Path
) -> None:
    names = ["good.gif", "bad.gif", "fine.gif"]
    for name in names:
        video.write(tmp_path / name, world.clip(0, 0).frames)
    (tmp_path / "bad.gif").write_bytes(b"GIF89a damaged")
    lines = [json.dumps({"file": name, "caption": f"human {name}"}) for name in names]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.jsonl"
    with (
        pytest.warns(UserWarning, match=r"bad\.gif"),
        pytest.raises(InputError, match=r"1 of 3 clips could not be read: bad\.gif"),
    ):
        recaption_clips(str(out), folder=str(tmp_path), mix=1, weights=folder)
    rows = rows_of(out)
    assert [row["clip"] for row in rows] == names
    assert rows[1]["caption"] == "human bad.gif"
    assert rows[2]["caption"] == rows[2]["synthetic"]
