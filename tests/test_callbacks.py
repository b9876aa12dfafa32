"""What every training exports beside its weights: the record of how they were made."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import fit

from minisora import callbacks


@pytest.fixture(scope="module")
def record(trained: Path) -> dict:
    return json.loads((trained / "dit" / "weights" / "provenance.json").read_text())["dit"]


def test_the_record_has_the_number_of_steps(record: dict) -> None:
    assert record["steps"] == 60


def test_the_record_has_a_point_for_each_validation(record: dict) -> None:
    assert [point["step"] for point in record["curve"]] == [30, 60]


def test_a_point_has_the_scores_and_their_ceiling(record: dict) -> None:
    assert {"val/all", "ceiling/all"} <= set(record["curve"][-1])


def test_the_record_has_the_config(record: dict) -> None:
    assert record["config"]["max_steps"] == 60
    dit = record["config"]["model"]["dit"]
    assert dit["class_path"] == "minisora.dit.DiT"
    assert dit["init_args"]["size"] == "tiny"


def test_the_record_names_what_a_repetition_needs(record: dict) -> None:
    assert {"commit", "seed", "device", "threads", "precision", "torch"} <= record.keys()


def test_a_resumed_run_keeps_the_points_and_minutes_before(
    trained: Path, on_vae: str, tmp_path: Path
) -> None:
    """The point of the checkpoint's own step too."""
    last = next((trained / "kept").glob("*step=60.ckpt"))
    fit("dit", tmp_path, on_vae, f"--ckpt_path={last}")
    resumed = json.loads((tmp_path / "dit" / "weights" / "provenance.json").read_text())["dit"]
    assert [point["step"] for point in resumed["curve"]] == [30, 60]
    assert resumed["minutes"] >= resumed["curve"][0]["minutes"] - 0.05  # one is rounded


def test_outside_of_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch) -> None:
    """Also when the package is installed into somebody else's repository."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(callbacks, "__file__", str(tmp_path / "env" / "minisora" / "callbacks.py"))
    assert callbacks.commit() == "unknown"


def test_a_resumed_run_shows_all_of_its_steps(
    trained: Path, on_vae: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Lightning starts no epoch then, where the bar would learn them."""
    checkpoint = next((trained / "kept").glob("*step=30*.ckpt"))
    resume = ["--ckpt_path", str(checkpoint), "--trainer.enable_progress_bar=true"]
    fit("dit", tmp_path, on_vae, *resume)
    bars = capfd.readouterr().out.replace("\r", "\n").splitlines()
    assert any(line.startswith("training:") and "/60 [" in line for line in bars)
