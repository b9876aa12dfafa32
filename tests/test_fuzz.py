"""A part of the fuzz, which `python tests/fuzz.py` runs whole, and what it has found before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minisora import InputError, Sora, fit
from minisora.recaption import OwnClips
from minisora.views import read_captions


@pytest.mark.skipif(sys.platform != "linux", reason="the fuzz forks and reads /proc")
def test_damaged_files_and_odd_commands_are_refused() -> None:
    script = Path(__file__).parent / "fuzz.py"
    command = [sys.executable, str(script), "--files", "250", "--commands", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("trained_on", {"sizes": []}, "no usable sizes"),
        ("trained_on", {"durations": ["x"]}, "no usable durations"),
        ("defaults", {"num_inference_steps": "x"}, "no usable num_inference_steps"),
        ("defaults", {"sampler": 65536}, "no usable sampler"),
        ("dit", {"config": {"size": "16384x1000"}}, "does not fit dit.safetensors"),
        ("dit", {"config": {"patch": []}}, "does not fit this version"),
        ("makes", {"num_frames": 10**9}, "num_frames must be at most 4096"),
        ("makes", {"num_frames": 17}, "damaged: KeyError"),
    ],
    ids=["sizes", "durations", "steps", "sampler", "huge", "patch", "old length", "old size"],
)
def test_bundles_that_cannot_be_built_or_sampled_are_refused(
    part: str, changes: dict, message: str, tiny_sora: Sora, tmp_path: Path
) -> None:
    tiny_sora.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config[part] = config.get(part, {}) | changes
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        Sora.from_pretrained(tmp_path)


def test_a_training_config_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vae.yaml"
    path.write_text('model: "\\0"\n')
    with pytest.raises(InputError, match="cannot be read"):
        fit.parse("vae", [f"--config={path}"])


def test_a_list_of_clips_with_a_name_too_long_is_refused(tmp_path: Path) -> None:
    row = {"file": "x" * 300, "caption": "a red circle"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="are missing"):
        OwnClips(tmp_path, frames=5, size=32)


def test_captions_with_deep_brackets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"folder": null}\n' + "[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        read_captions(str(path))
