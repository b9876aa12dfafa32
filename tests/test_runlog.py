"""What a run logs, and that logging changes nothing."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, fit, keep_checkpoints
from lightning.pytorch.callbacks import Callback

from minisora.runlog import CSVLog, RunLog, tokens_of

SPEED = {"speed/steps_per_second", "speed/waiting", "speed/tokens_per_second", "speed/tflops"}
BINS = ["loss/t0.00-0.25", "loss/t0.25-0.50", "loss/t0.50-0.75", "loss/t0.75-1.00"]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def log(trained: Path) -> list[dict[str, str]]:
    return rows(trained / "dit" / "metrics.csv")


def test_there_is_a_row_for_each_step(log: list[dict[str, str]]) -> None:
    assert [int(row["step"]) for row in log] == list(range(60))


def test_a_row_has_speed_and_gradient(log: list[dict[str, str]]) -> None:
    assert all(float(row[name]) > 0 for row in log for name in SPEED)
    assert all(float(row["gradient_norm"]) > 0 for row in log)


def test_the_losses_of_the_levels_average_to_the_loss(log: list[dict[str, str]]) -> None:
    """Each lies between the smallest and the largest, whatever the number of clips."""
    for row in log:
        means = [float(row[name]) for name in BINS if row[name]]
        assert min(means) - 1e-5 <= float(row["loss"]) <= max(means) + 1e-5


def test_losses_are_put_into_the_bins_of_their_levels() -> None:
    callback = RunLog()
    callback.add_losses(torch.tensor([0.0, 0.2, 0.5, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda x, reduce_op: x))
    assert callback.losses(trainer) == {BINS[0]: 2.0, BINS[2]: 5.0, BINS[3]: 7.0}


def test_levels_seen_between_two_rows_survive_a_resume(on_vae: str, tmp_path: Path) -> None:
    """A row gathers three steps; the run is resumed after four."""
    options = [on_vae, "--trainer.max_steps=9", "--trainer.log_every_n_steps=3"]
    fit("dit", tmp_path / "whole", *options, *keep_checkpoints(tmp_path / "kept", 4))
    fit("dit", tmp_path / "resumed", *options, f"--ckpt_path={tmp_path}/kept/step=4.ckpt")
    whole, resumed = (
        [[row[name] for name in BINS] for row in rows(tmp_path / run / "dit" / "metrics.csv")]
        for run in ("whole", "resumed")
    )
    assert len(whole) == 3
    assert whole == resumed


def test_logging_changes_nothing(on_vae: str, tmp_path: Path, monkeypatch) -> None:
    fit("dit", tmp_path / "logged", on_vae, "--trainer.max_steps=4")
    monkeypatch.setattr("minisora.fit.RunLog", Callback)
    fit("dit", tmp_path / "silent", on_vae, "--trainer.max_steps=4")
    one, other = (
        (tmp_path / name / "dit" / "weights" / "dit.safetensors").read_bytes()
        for name in ("logged", "silent")
    )
    assert one == other


def test_tokens_are_patches_of_latents() -> None:
    module = SimpleNamespace(dit=SimpleNamespace(patch=(1, 2, 2)))
    assert tokens_of(module, {"latents": torch.zeros(3, 16, 5, 8, 6)}) == [60, 60, 60]
    packed = [torch.zeros(16, 1, 8, 8), torch.zeros(16, 5, 4, 4)]
    assert tokens_of(module, {"latents": packed}) == [16, 20]


def test_tokens_of_a_vae_are_latents() -> None:
    module = SimpleNamespace(vae=SimpleNamespace(space=8))
    assert tokens_of(module, {"video": torch.zeros(2, 3, 17, 32, 24)}) == [60, 60]


# The file


def test_values_of_a_step_share_a_row_unless_they_are_given_twice(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    for metrics in ({"a": 1.0}, {"b": 2.0}, {"a": 3.0}):
        log.log_metrics(metrics, step=7)
    log.save()
    assert rows(log.path) == [
        {"a": "1.0", "b": "2.0", "step": "7"},
        {"a": "3.0", "b": "", "step": "7"},
    ]


def test_a_resumed_log_has_each_row_once(tmp_path: Path) -> None:
    whole = CSVLog(tmp_path)
    for step in range(3):
        whole.log_metrics({"loss": 0.1 + step}, step=step)
    resumed = CSVLog(tmp_path / "resumed")
    resumed.resume(whole.text())
    resumed.log_metrics({"loss": 3.1, "val/all": 0.5}, step=3)
    assert [row["loss"] for row in resumed.rows] == ["0.1", "1.1", "2.1", 3.1]
    assert resumed.text().splitlines()[1:] == ["0.1,0,", "1.1,1,", "2.1,2,", "3.1,3,0.5"]


def test_a_log_that_is_unchanged_is_not_written(tmp_path: Path) -> None:
    log = CSVLog(tmp_path)
    log.resume("loss,step\n0.1,0\n")
    log.save()
    assert not log.path.exists()


# Elsewhere


def test_wandb_is_given_the_clips_of_a_validation(
    on_vae: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: no network, no account."""
    monkeypatch.chdir(tmp_path)
    fit(
        *("dit", tmp_path, on_vae, f"--config={CONFIGS}/wandb.yaml"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2"),
    )
    (clips,) = tmp_path.glob("runs/wandb/wandb/offline-run-*/files/media/videos/*.mp4")
    written = tmp_path / "dit" / "samples" / "step-000002.mp4"
    assert clips.read_bytes() == written.read_bytes()


def test_tensorboard_is_given_the_losses(on_vae: str, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(
        *("dit", tmp_path, on_vae, f"--config={CONFIGS}/tensorboard.yaml"),
        *("--trainer.max_steps=2", f"--trainer.logger.save_dir={tmp_path}/board"),
    )
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    found = events.EventAccumulator(str(file))
    found.Reload()
    assert [point.step for point in found.Scalars("loss")] == [0, 1]
