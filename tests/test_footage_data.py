"""Training on real footage: windows of clips or of their latents, by steps; the ends held out."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused

from minisora import InputError, video, weights
from minisora.cli import main
from minisora.data import Bucket, ClipData
from minisora.footage import CAPTIONS, INDEX, Footage
from minisora.footage_data import FootageData, FootageLatents, FootagePixels
from minisora.latents import encode_footage
from minisora.text import TextEncoder
from minisora.vae import VAE, to_frames
from minisora.views import Latents

CLIPS = Path(__file__).parent.parent / "data" / "clips"
LONG, WIDE, SHORT = (36, (32, 48)), (37, (32, 48)), (9, (48, 32))  # frames, (height, width)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three clips as `minisora ingest` leaves them: numbered gray frames, so that windows show
    where they are from."""
    path = tmp_path_factory.mktemp("clips")
    head, rows, captions = {"format": "clips"}, [], []
    for number, (count, (height, width)) in enumerate((LONG, WIDE, SHORT)):
        gray = 10 + 6 * np.arange(count, dtype=np.uint8)  # (T,)
        frames = np.broadcast_to(gray[:, None, None, None], (count, height, width, 3))
        name = f"{number}.mp4"
        video.write(path / name, np.ascontiguousarray(frames), fps=8)
        size = {"frames": count, "height": height, "width": width}
        clip = {"clip": name, "start": 0, "end": count / 8, **size}
        rows.append({"file": f"{number}.mov", "sha256": str(number), "clips": [clip]})
        captions.append({"file": name, "caption": f"Clip {number}, a gray one."})
    for name, lines in ((INDEX, [head, *rows]), (CAPTIONS, captions)):
        (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def pixels(folder: Path, **options) -> FootageData:
    data = FootageData(
        FootagePixels(), str(folder), **{"num_frames": 9, "batch_size": 4} | options
    )
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    weights.save(folder, {}, vae=VAE(width=8, depth=1))
    return str(folder)


def latents(folder: Path, vae_folder: str, **options) -> FootageData:
    view = FootageLatents(vae_folder, **options)
    data = FootageData(view, str(folder), num_frames=9, batch_size=4)
    data.setup("fit")
    return data


def times(batch: dict) -> np.ndarray:
    """The numbers of the frames of windows, (B, T)."""
    gray = to_frames(batch["video"])[:, :, 8, 8].mean(-1)  # (B, T)
    return np.round((gray - 10) / 6).astype(int)


def test_the_most_usual_size_comes_first(folder: Path) -> None:
    assert pixels(folder).sizes == [(32, 48), (48, 32)]


def test_windows_are_frames_in_a_row(folder: Path) -> None:
    data = pixels(folder)
    for step in range(20):
        steps = np.diff(times(data.batch(step)), axis=1)  # (B, T - 1)
        assert (abs(steps) == 1).all()
        assert (steps == steps[:, :1]).all()


def test_half_of_the_windows_run_backwards(folder: Path) -> None:
    data = pixels(folder)
    ends = [times(data.batch(step))[:, [0, -1]] for step in range(50)]
    backwards = np.mean([first > last for pairs in ends for first, last in pairs])
    assert backwards == pytest.approx(0.5, abs=0.15)


def test_windows_come_from_everywhere_but_the_end_held_out(folder: Path) -> None:
    data = pixels(folder)
    seen = {
        int(t)
        for step in range(100)
        if data.bucket(step).size == 0
        for t in times(data.batch(step)).flat
    }
    # 36 frames are 9 groups, of which the last 3 are held out: frames 0 to 20 remain; of 37 frames
    # 10 groups, frames 0 to 24
    assert seen == set(range(25))


def test_the_window_held_out_is_the_end_of_the_clip(folder: Path) -> None:
    first, second = pixels(folder).val_dataloader()
    assert times(first).tolist() == [list(range(24, 33))]
    assert times(second).tolist() == [list(range(28, 37))]


def test_sizes_have_their_share_of_the_steps(folder: Path) -> None:
    data = pixels(folder)
    drawn = Counter(data.bucket(step).size for step in range(2000))
    # 6 and 7 groups of one size, 3 of the other
    assert drawn[1] / 2000 == pytest.approx(3 / 16, abs=0.03)


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    first, again = pixels(folder).batch(7)["video"], pixels(folder).batch(7)["video"]
    assert torch.equal(first, again)
    assert not torch.equal(first, pixels(folder, seed=1).batch(7)["video"])


def test_words_are_those_of_the_captions(folder: Path) -> None:
    assert pixels(folder).words == ["0", "1", "2", "a", "clip", "gray", "one"]


def test_every_word_of_a_caption_is_known(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    odd = "A slow-motion shot of a man's T-shirt — red/blue, CAFÉ (2nd take)."
    (tmp_path / CAPTIONS).write_text(json.dumps({"file": "0.mp4", "caption": odd}) + "\n")
    encoder = TextEncoder(pixels(tmp_path).words, width=32)
    assert encoder.unknown(odd) == []


def test_workers_give_the_same_batches(folder: Path) -> None:
    alone, helped = pixels(folder), pixels(folder, workers=2)
    batches = zip(alone.train_dataloader(), helped.train_dataloader(), strict=False)
    for one, other in itertools.islice(batches, 4):
        assert torch.equal(one["video"], other["video"])


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_held_out_is_never_read(
    folder: Path, vae_folder: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = latents(folder, vae_folder, known=0.7, packed=packed, lengths={1: 0.3, 9: 0.7})
    read = []  # (clip, one after its last group)

    class Watched:
        def latents(self, number: int, start: int, stop: int) -> torch.Tensor:
            read.append((number, stop))
            return store.latents(number, start, stop)

        def images(self, number: int, group: int) -> torch.Tensor:
            read.append((number, group + 1))
            return store.images(number, group)

    store = data.view.store
    monkeypatch.setattr(data.view, "store", Watched())
    for step in range(100):
        data.batch(step)
    # 9 and 10 groups, the last 3 held out; 3 groups, of which none is
    assert [max(stop for number, stop in read if number == clip) for clip in range(3)] == [6, 7, 3]


@pytest.mark.parametrize("kind", [Latents, FootagePixels])
def test_a_view_of_other_clips_is_refused(kind: type, folder: Path, vae_folder: str) -> None:
    with pytest.raises(InputError, match=r"data\.folder"):
        if kind is Latents:
            FootageData(Latents(vae_folder), str(folder))
        else:
            ClipData(FootagePixels())


def test_windows_of_latents_are_latents_of_windows(folder: Path, vae_folder: str) -> None:
    data = latents(folder, vae_folder)
    whole = data.view.store.latents(0).float()  # (C, 9, h, w)
    for step in range(20):
        batch = data.batch(step)
        if data.bucket(step) != Bucket(0, 9):
            continue
        for row, caption in zip(batch["latents"], batch["captions"], strict=True):
            if "0" not in caption:
                continue
            first = next(g for g in range(7) if torch.equal(row[:, 1:], whole[:, g + 1 : g + 3]))
            image = data.view.store.images(0, first).float()
            assert torch.equal(row[:, :1], image)
            assert first + 3 <= 6


def test_stored_latents_train_as_those_encoded_at_the_start(
    folder: Path, vae_folder: str, tmp_path: Path
) -> None:
    assert encode_footage(str(folder), str(tmp_path / "latents"), vae_folder) == []
    stored = latents(tmp_path / "latents", vae_folder, known=0.5)
    fresh = latents(folder, vae_folder, known=0.5)
    for step in range(10):
        one, other = stored.batch(step), fresh.batch(step)
        assert torch.equal(one.pop("latents"), other.pop("latents"))
        assert torch.equal(one.pop("start"), other.pop("start"))
        assert one == other


def test_a_packed_row_has_clips_of_both_sizes(folder: Path, vae_folder: str) -> None:
    data = latents(folder, vae_folder, packed=True)
    shapes = {tuple(z.shape[-2:]) for step in range(10) for z in data.batch(step)["latents"]}
    assert len(shapes) == 2


def test_some_windows_inside_a_clip_have_no_latent_of_one_frame(
    folder: Path, vae_folder: str
) -> None:
    data = latents(folder, vae_folder, known=1.0)
    starts = {int(start) for step in range(20) for start in data.batch(step)["start"]}
    assert starts == {0, 1}


def test_clips_that_are_too_short_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no clip in .* has 41 frames.*longest has 37"):
        pixels(folder, num_frames=41)


def test_a_folder_that_was_not_ingested_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="minisora ingest"):
        Footage(tmp_path)


def test_a_clip_that_has_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    video.write(tmp_path / "0.mp4", np.zeros((5, 32, 48, 3), np.uint8), fps=8)
    with pytest.raises(InputError, match=r"0\.mp4 has changed"):
        Footage(tmp_path).read(0)


RUN = ["--trainer.max_steps=4", "--trainer.val_check_interval=2"]


def curve(folder: Path, stage: str) -> list[dict]:
    return json.loads((folder / stage / "weights" / "provenance.json").read_text())[stage]["curve"]


def test_a_vae_and_a_transformer_are_trained_on_footage(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = [f"--data.folder={folder}", "--data.num_frames=9", "--data.batch_size=2", *RUN]
    config = [f"--trainer.default_root_dir={tmp_path}/vae", "--model.vae.width=8"]
    main(["fit", "vae", *given, *config, "--model.vae.depth=1"])
    assert {"val/psnr", "val/ssim", "pca/psnr", "pca/ssim"} <= curve(tmp_path, "vae")[-1].keys()

    view = [f"--data.view.vae={tmp_path}/vae/weights", "--data.view.known=0.5"]
    config = [f"--trainer.default_root_dir={tmp_path}/dit", "--model.dit.size=tiny"]
    main(["fit", "dit", *given, *view, *config])
    assert curve(tmp_path, "dit")[-1]["val/loss"] > 0
    assert len(list((tmp_path / "dit" / "samples").glob("*.mp4"))) == 2

    capsys.readouterr()
    weights_folder = f"{tmp_path}/dit/weights"
    main(["sample", "clip 0", "--weights", weights_folder, "--out", f"{tmp_path}/a.mp4"])
    given = [f"{tmp_path}/a.mp4", "clip 0", "--weights", weights_folder]
    main(["extend", *given, "--out", f"{tmp_path}/b.mp4"])
    said = capsys.readouterr().out
    # both know toy clips alone
    assert "oracle" not in said
    assert "completed" not in said
    assert video.about(tmp_path / "a.mp4")["prompt"] == "clip 0"


def test_without_a_prompt_footage_has_no_captioner(capsys: pytest.CaptureFixture) -> None:
    clip, shipped = CLIPS / "bunny.mp4", CLIPS.parent / "clips-weights"
    said = refused(capsys, "extend", clip, "--weights", shipped, "--out", "never.mp4")
    assert "write a prompt" in said


@pytest.mark.parametrize("stage", ["captioner", "upsampler"])
def test_other_networks_are_not_trained_on_footage(
    stage: str, capsys: pytest.CaptureFixture
) -> None:
    assert "leave data.folder out" in refused(capsys, "fit", stage, "--data.folder=clips")


def test_the_shipped_vae_of_footage_is_better_than_the_pca() -> None:
    curve = json.loads((CLIPS.parent / "clips-weights" / "provenance.json").read_text())
    last = curve["vae"]["curve"][-1]
    assert last["val/psnr"] > last["pca/psnr"] + 1
