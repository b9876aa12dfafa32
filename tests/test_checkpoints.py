"""Checkpoints are whole or refused: one flipped bit is seen, the last two are kept, and a full disk,
a loss that is not finite and a process that dies leave the last good one."""

import os
import signal
import sys
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import files_of_at_most, fit
from torch.utils.data import DataLoader, get_worker_info

from minisora import InputError, data, language_training
from minisora.checkpoints import SealedIO, check_checkpoint, is_whole, kept, newest

CONTENT = {"pytorch-lightning_version": "2.6", "weights": torch.arange(64.0)}


def written(path: Path) -> Path:
    SealedIO().save_checkpoint(CONTENT, path)
    return path


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


# Files


def test_a_sealed_checkpoint_can_be_loaded(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt")
    check_checkpoint(path)
    assert torch.equal(torch.load(path)["weights"], CONTENT["weights"])


def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    """In the weights, in the zip's own fields, in the seal."""
    path = written(tmp_path / "a.ckpt")
    good = path.read_bytes()
    unseen = []
    for byte in range(len(good)):
        flip(path, byte, byte % 8)
        if is_whole(path):
            unseen.append(byte)
        path.write_bytes(good)
    assert unseen == []


def test_torch_itself_does_not_see_it(tmp_path: Path) -> None:
    """Else the seal would not be needed."""
    path = written(tmp_path / "a.ckpt")
    flip(path, path.read_bytes().index(CONTENT["weights"].numpy().tobytes()) + 100)
    assert not torch.equal(torch.load(path)["weights"], CONTENT["weights"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(share: float, tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt")
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(InputError, match=r"a\.ckpt is damaged or no checkpoint"):
        check_checkpoint(path)


def test_checkpoints_without_a_seal_are_judged_by_the_checksums_of_the_zip(tmp_path: Path) -> None:
    """Those of earlier versions."""
    path = tmp_path / "old.ckpt"
    torch.save(CONTENT, path)
    check_checkpoint(path)
    flip(path, path.read_bytes().index(CONTENT["weights"].numpy().tobytes()))
    assert not is_whole(path)


def test_a_zip_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InputError, match="is no checkpoint"):
        check_checkpoint(tmp_path / "a.ckpt")


def test_the_message_names_the_whole_one_that_is_left(tmp_path: Path) -> None:
    for step in (6, 8, 10):
        written(tmp_path / f"step={step}.ckpt")
    for step in (8, 10):
        flip(tmp_path / f"step={step}.ckpt", 300)
    with pytest.raises(InputError, match=r"step=10\.ckpt is damaged .*: use .*step=6\.ckpt"):
        check_checkpoint(tmp_path / "step=10.ckpt")


def test_the_newest_is_the_latest_whole_one(tmp_path: Path) -> None:
    for step in (8, 10, 100):
        written(tmp_path / f"step={step}.ckpt")
    flip(tmp_path / "step=100.ckpt", 300)
    assert newest(tmp_path) == tmp_path / "step=10.ckpt"


def test_there_is_no_newest_before_the_first(tmp_path: Path) -> None:
    assert newest(tmp_path / "checkpoints") is None


def test_a_folder_of_damaged_ones_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step=2.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"step=2\.ckpt are damaged; delete them"):
        newest(tmp_path)


# Runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of six steps."""
    fit("upsampler", tmp_path, "--trainer.max_steps=6")
    return tmp_path / "upsampler"


def test_the_last_two_checkpoints_are_kept(run: Path) -> None:
    assert list(kept(run / "checkpoints")) == [5, 6]
    assert (run / "checkpoints" / "last.ckpt").resolve().name == "step=6.ckpt"


def test_nothing_unfinished_is_left(run: Path) -> None:
    assert [path.name for path in run.rglob(".*")] == []


def test_a_new_run_sets_the_one_before_aside(run: Path) -> None:
    """Also where somebody forgot --ckpt_path."""
    log = (run / "metrics.csv").read_text()
    fit("upsampler", run.parent, "--trainer.max_steps=3")
    assert list(kept(run / "checkpoints")) == [2, 3]
    assert list(kept(run / "checkpoints.old")) == [5, 6]
    assert (run / "metrics.csv.old").read_text() == log


def refusal(root: Path, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The message of a training that has to end with code 2."""
    with pytest.raises(SystemExit) as stop:
        fit("upsampler", root, "--trainer.max_steps=6", *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_last_passes_over_a_damaged_checkpoint(run: Path) -> None:
    before = (run / "weights" / "upsampler.safetensors").read_bytes()
    os.truncate(run / "checkpoints" / "step=6.ckpt", 1000)
    (run / "weights" / "upsampler.safetensors").unlink()
    fit("upsampler", run.parent, "--trainer.max_steps=6", "--ckpt_path=last")
    assert (run / "weights" / "upsampler.safetensors").read_bytes() == before


def test_last_begins_anew_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    fit("upsampler", tmp_path, "--trainer.max_steps=2", "--ckpt_path=last")
    assert list(kept(tmp_path / "upsampler" / "checkpoints")) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_keeps_the_last_good_state(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "checkpoints" / "step=6.ckpt").unlink()
    size = (run / "checkpoints" / "step=5.ckpt").stat().st_size
    with files_of_at_most(size // 2):
        message = refusal(run.parent, capsys, "--ckpt_path=last")
    assert "cannot write" in message
    assert "step=6.ckpt: File too large" in message
    assert "the checkpoint of step 5 is kept (--ckpt_path last)" in message
    assert list(kept(run / "checkpoints")) == [5]
    assert newest(run / "checkpoints") == run / "checkpoints" / "step=5.ckpt"
    assert [path.name for path in run.rglob(".*")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("file", ["config.yaml", "weights/upsampler.safetensors"])
def test_a_full_disk_leaves_no_half_written_file(
    file: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The limit is just below the file's size; what is larger is not written before it."""
    without = "--trainer.enable_checkpointing=false"
    size = (run / file).stat().st_size
    with files_of_at_most(size - size // 8):
        message = refusal(tmp_path / "full", capsys, without)
    assert f"{file}: File too large" in message
    assert not (tmp_path / "full" / "upsampler" / file).exists()


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = language_training.UpsamplerTraining.training_step
    monkeypatch.setattr(
        language_training.UpsamplerTraining,
        "training_step",
        lambda self, batch, i: step(self, batch, i) * (torch.nan if batch["step"] == 4 else 1),
    )
    message = refusal(tmp_path, capsys)
    assert "the loss is nan at step 4" in message
    assert "the checkpoint of step 4 is kept" in message
    assert newest(tmp_path / "upsampler" / "checkpoints").name == "step=4.ckpt"


def test_weights_that_are_not_finite_are_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss that made them was finite."""

    def spoil(self: L.LightningModule, optimizer: object) -> None:
        if self.global_step == 4:
            next(self.parameters()).grad.fill_(torch.inf)

    monkeypatch.setattr(language_training.UpsamplerTraining, "on_before_optimizer_step", spoil)
    message = refusal(tmp_path, capsys)
    assert "the weights are not finite after step 5" in message
    assert newest(tmp_path / "upsampler" / "checkpoints").name == "step=4.ckpt"


class Dying(torch.utils.data.Dataset):
    """Batches of a run; the process that reads them dies at the fourth."""

    def __init__(self, batches: torch.utils.data.Dataset) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> dict:
        if step == 3 and get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.batches[step]


def test_a_process_that_dies_ends_the_run_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = data.StepData.train_dataloader

    def in_a_process(self: data.StepData) -> DataLoader:
        usual = loader(self)
        batches = Dying(usual.dataset)
        return DataLoader(
            batches, batch_size=None, sampler=usual.sampler, num_workers=1, prefetch_factor=1
        )

    monkeypatch.setattr(data.StepData, "train_dataloader", in_a_process)
    assert "a process that reads data has died" in refusal(tmp_path, capsys)
