import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from minisora import InputError, video, weights, world
from minisora.captioner import Captioner
from minisora.cli import main
from minisora.data import LatentData, read_captions
from minisora.recaption import human_caption, recaption
from minisora.vae import VAE
from minisora.world import shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained captioner and VAE."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    vae = VAE(channels=4, space=8, width=16, depth=1)
    captioner = Captioner(sorted(world.WORDS), width=32, depth=1)
    weights.save(folder, {}, captioner=captioner, vae=vae)
    return str(folder)


def test_rates_are_what_they_say() -> None:
    wrong, unknown = Counter(), Counter()
    rng = np.random.default_rng(0)
    for index in range(400):
        clip = world.clip(0, index, 2, 8, 8)
        assert human_caption(clip, rng, 0, 0) == clip.short_caption
        for rate in (0.2, 1.0):
            said = shapes.parse(human_caption(clip, rng, rate, 0))
            wrong[rate] += any(word not in (None, clip.truth[name]) for name, word in said.items())
            words = human_caption(clip, rng, 0, rate).split()
            unknown[rate] += any(word not in world.WORDS for word in words)
        two = world.pairs.clip(0, index, 2, 8, 8)
        words = human_caption(two, rng, 1, 0).split()
        if len(words) == len(two.short_caption.split()):  # "up" may have become "up and left"
            assert sum(a != b for a, b in zip(words, two.short_caption.split(), strict=True)) == 1
    assert wrong[1.0] == 400 and 50 < wrong[0.2] < 110
    assert unknown[1.0] > 375 and 50 < unknown[0.2] < 110


def test_both_captions_are_kept_and_mixed(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    recaption(str(out), clips=200, mix=0.75, weights=folder)
    head, chosen = read_captions(str(out))
    _, human = read_captions(str(out), "human")
    _, synthetic = read_captions(str(out), "synthetic")
    assert head["mix"] == 0.75 and len(chosen) == 200
    assert 130 <= sum(a == b for a, b in zip(chosen, synthetic, strict=True)) <= 170
    assert all(c in (h, s) for c, h, s in zip(chosen, human, synthetic, strict=True))


def test_a_stopped_run_goes_on_to_the_same_file(folder: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    recaption(str(whole), clips=50, batch=8, weights=folder)
    shutil.copy(whole, stopped)
    with open(stopped, "r+b") as file:
        file.truncate(stopped.stat().st_size * 2 // 3)  # in the middle of a line
    recaption(str(stopped), clips=50, batch=16, weights=folder)
    assert stopped.read_bytes() == whole.read_bytes()
    with pytest.raises(InputError, match=r"made otherwise \(mix 0.95, now 0.5\)"):
        recaption(str(stopped), clips=50, mix=0.5, weights=folder)
    assert stopped.read_bytes() == whole.read_bytes()


def test_clips_of_your_own(folder: str, tmp_path: Path) -> None:
    rows = []
    for index, (frames, size) in enumerate([(17, 32), (5, 32), (1, 64)]):
        name = f"{index}.gif" if frames > 1 else f"{index}.png"
        video.write(tmp_path / name, world.clip(0, index, frames, size, size).frames, scale=1)
        rows.append({"file": name, "caption": "a thing"})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out.jsonl"
    main(["recaption", str(out), "--folder", str(tmp_path), "--weights", folder, "--mix", "1"])
    lines = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    assert [line["clip"] for line in lines] == ["0.gif", "1.gif", "2.png"]
    assert all(
        line["human"] == "a thing" and line["caption"] == line["synthetic"] for line in lines
    )
    whole = out.read_bytes()
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    with pytest.raises(InputError, match="made otherwise"):  # other clips, as many
        recaption(str(out), folder=str(tmp_path), mix=1, weights=folder)
    assert out.read_bytes() == whole


def test_training_takes_the_captions(folder: str, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    recaption(str(out), clips=16, mix=0, weights=folder)
    data = LatentData(folder, clips=16, batch_size=16, shorter=0, captions=str(out))
    data.setup("fit")
    batch = data.batch(0)
    assert sorted(batch["captions"]) == sorted(read_captions(str(out), "human")[1])
    with pytest.raises(InputError, match="holds 16 captions"):
        LatentData(folder, clips=17, captions=str(out))
    with pytest.raises(InputError, match="'seed': 0"):
        LatentData(folder, clips=16, seed=1, captions=str(out))
    out = tmp_path / "pairs.jsonl"
    recaption(str(out), clips=4, pairs=0.5, mix=0, weights=folder)
    LatentData(folder, clips=4, pairs=0.5, height=64, width=64, captions=str(out))
    with pytest.raises(InputError, match="stand otherwise in frames of 32 x 48"):
        LatentData(folder, clips=4, pairs=0.5, width=48, captions=str(out))


def test_bad_input(folder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mix is a share, from 0 to 1, got 95"):
        recaption(str(tmp_path / "a.jsonl"), mix=95, weights=folder)
    with pytest.raises(InputError, match=r"has no captions\.jsonl"):
        recaption(str(tmp_path / "a.jsonl"), folder=str(tmp_path), weights=folder)
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4"}\n')
    with pytest.raises(InputError, match="line 1: no JSON with texts for file and caption"):
        recaption(str(tmp_path / "a.jsonl"), folder=str(tmp_path), weights=folder)
    for content, said in (
        (b'{"file": "a.mp4", "caption": "a"}', r"1 clips of .* are missing, first a\.mp4"),
        (b"", "lists no clips"),
        ('{"file": "a.mp4", "caption": "é"}'.encode("latin-1"), "as text in UTF-8"),
    ):
        (tmp_path / "captions.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=said):
            recaption(str(tmp_path / "a.jsonl"), folder=str(tmp_path), weights=folder)
    for argument, said in (
        ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1"),
        ({"batch": 0}, "1 or more"),
    ):
        with pytest.raises(InputError, match=said):
            recaption(str(tmp_path / "a.jsonl"), weights=folder, **argument)
    for content in ("hello\n", "[1]\n"):
        (tmp_path / "other.jsonl").write_text(content)
        with pytest.raises(InputError, match="move it away"):
            recaption(str(tmp_path / "other.jsonl"), weights=folder)
    with pytest.raises(InputError, match="is a folder"):
        recaption(str(tmp_path), weights=folder)
    with pytest.raises(InputError, match=r"captioner\.safetensors is missing"):
        recaption(str(tmp_path / "a.jsonl"), weights=str(tmp_path))
    with pytest.raises(InputError, match="is no folder"):
        recaption(str(tmp_path / "no" / "a.jsonl"), weights=folder)
    assert not (tmp_path / "a.jsonl").exists()
