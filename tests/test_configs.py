"""Every config: what its head says of its size is true, and two steps of it run, made small."""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, stage_of

from minisora import plan, video, weights
from minisora.cli import main
from minisora.fit import STAGES, parse
from minisora.footage import CAPTIONS, INDEX
from minisora.vae import VAE

FILES = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if stage_of(path) in STAGES]
EVERY_CONFIG = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix(""))
)
PLANNED = pytest.mark.parametrize(
    "path",
    [path for path in FILES if stage_of(path) in ("dit", "vae")],
    ids=lambda path: str(path.relative_to(CONFIGS).with_suffix("")),
)
SMALL = {  # stage: arguments that make any config small
    "vae": {"model.vae.decoder_width": 8, "model.vae.decoder_depth": 1},
    "dit": {"model.dit.size": "tiny", "model.text.width": 32, "model.text.heads": 2},
    "captioner": {"model.captioner.width": 32, "model.captioner.depth": 1, "model.captioner.heads": 2},
    "upsampler": {"model.upsampler.width": 32, "model.upsampler.depth": 1},
}  # fmt: skip
SHORT = {
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.limit_val_batches": 0,
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "data.batch_size": 4,
}


# Sizes


@cache
def parsed(path: Path) -> dict:
    """The whole config. Parsing takes a while, so it is done once for all tests."""
    return parse(stage_of(path), ["--config", str(path)])


def parameters(path: Path) -> int:
    """The parameters of the network that a config trains, words apart."""
    stage = stage_of(path)
    linked = {
        "vae": {},
        "dit": {"channels": 16, "text_width": 128},
        "captioner": {"words": []},
        "upsampler": {"words": [], "prompt_words": []},
    }
    built = plan.built(parsed(path)["model"][stage], **linked[stage])
    assert all(p.is_meta for p in built.parameters())
    return sum(p.numel() for p in built.parameters())


@EVERY_CONFIG
def test_every_network_is_built(path: Path) -> None:
    assert parameters(path) > 10_000


@pytest.mark.parametrize("stage", ["vae", "dit", "captioner"])
def test_networks_grow_with_the_scale(stage: str) -> None:
    scales = ("tiny", "laptop", "gpu", "node", "cluster")
    files = [CONFIGS / scale / f"{stage}.yaml" for scale in scales]
    sizes = [parameters(path) for path in files if path.exists()]
    assert sizes == sorted(sizes)


# Plans


def planned(path: Path) -> plan.Plan:
    """The plan of a config, as it stands, for clips of 256 x 256."""
    return plan.read(
        str(path), [], lambda _, given: parsed(Path(given[1])), None, {(256, 256): 1.0}
    )


@PLANNED
def test_every_config_has_a_plan(path: Path) -> None:
    assert planned(path).steps == yaml.safe_load(path.read_text())["trainer"]["max_steps"]


@PLANNED
def test_a_head_says_how_many_parameters_there_are(path: Path) -> None:
    said = re.findall(
        r"(\d[\d.,]*) (M|billion) parameters", path.read_text().partition("\ndata:")[0]
    )
    numbers = [float(n.replace(",", "")) * (1e9 if unit == "billion" else 1e6) for n, unit in said]
    built = planned(path).parameters, parameters(path)  # with the text encoder, and without
    assert not numbers or any(pytest.approx(each, rel=0.05) in numbers for each in built)


@pytest.mark.parametrize("scale", ["gpu", "node"])
@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_large_configs_fit_their_devices(scale: str, stage: str) -> None:
    needed = sum(planned(CONFIGS / scale / f"{stage}.yaml").bytes().values())
    assert needed < 0.8e9 * {"gpu": 24, "node": 80}[scale]


# Steps


@pytest.fixture(scope="module")
def small_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    weights.save(folder, {}, vae=VAE(channels=4, width=8, depth=1))
    return folder


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips as `minisora ingest` leaves them."""
    folder, generator = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows, captions = [{"format": "clips"}], []
    for number, (height, width) in enumerate([(32, 48), (48, 32)]):
        name = f"{number}.mp4"
        frames = generator.integers(0, 255, (40, height, width, 3), dtype=np.uint8)
        video.write(folder / name, frames, fps=8)
        clip = {"clip": name, "start": 0, "end": 5, "frames": 40, "height": height, "width": width}
        rows.append({"file": f"{number}.mov", "sha256": str(number), "clips": [clip]})
        captions.append({"file": name, "caption": "a gray sea"})
    for name, lines in ((INDEX, rows), (CAPTIONS, captions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def smaller(path: Path) -> dict[str, object]:
    """What has to be set to make this config small, but for its folders."""
    stage, own = stage_of(path), yaml.safe_load(path.read_text())
    changed = SHORT | SMALL[stage]
    if stage == "vae" and "encoder" not in own["model" if "model" in own else "data"]:
        changed |= {"model.vae.width": 8, "model.vae.depth": 1}
    if "start" in own.get("model", {}):
        changed["model.start"] = "null"
    if "folder" in own["data"]:
        changed |= {"data.num_frames": 9, "data.workers": 0}
        if stage == "dit":
            changed["data.view.lengths"] = "{1: 0.5, 9: 0.5}"
    elif stage != "upsampler":
        changed["data.clips"] = 16
    if own.get("model", {}).get("compile"):
        changed["model.compile"] = "false"
    return changed


@EVERY_CONFIG
def test_two_steps_run(
    path: Path, small_vae: Path, footage: Path, tiny_t5: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    stage, text, changed = stage_of(path), path.read_text(), smaller(path)
    changed["trainer.default_root_dir"] = tmp_path
    if "folder:" in text:
        changed["data.folder"] = footage
    if stage in ("dit", "captioner"):
        changed["data.view.vae"] = small_vae
    if "PretrainedEncoder" in text:
        changed["model.text.source"] = tiny_t5
    main(
        ["fit", stage, f"--config={path}", *(f"--{key}={value}" for key, value in changed.items())]
    )
    trained = weights.load(tmp_path / "weights", stage, torch.nn.Module)
    assert all(p.isfinite().all() for p in trained.parameters())
