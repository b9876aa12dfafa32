"""Checkpoints that survive a crash: written whole, sealed with a digest, the last two kept.

torch.load ignores the checksums of its zip file, so one flipped bit would resume silently to other
weights. Here the zip's comment holds the SHA-256 of all bytes before it.
"""

import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from minisora.errors import InputError
from minisora.files import atomic, remove_partial

SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64


class SealedIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, with a seal."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial, open(partial, "w+b") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                raise error.__context__ or error from None  # PyTorch hides a full disk
            seal(file)


def seal(file: Any) -> None:
    """Appends the digest of an open zip file to it, as its comment."""
    file.seek(-2, io.SEEK_END)  # the last field is the length of the comment
    file.write(SEAL_BYTES.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.write(SEAL + digest.encode())


def is_whole(path: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written. One without a seal, from another
    program or an earlier version, is judged by the zip's own checksums; a folder, which several
    processes write, by the file that is written last."""
    if path.is_dir():
        return (path / "meta.pt").is_file()
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.comment
            if not found:
                unpacked = sum(entry.file_size for entry in archive.infolist())
                return unpacked < path.stat().st_size and archive.testzip() is None
    except Exception:  # a damaged file can raise anything
        return False
    digest, left = hashlib.sha256(), path.stat().st_size - len(found)
    with open(path, "rb") as file:
        while block := file.read(min(2**20, left)):
            digest.update(block)
            left -= len(block)
    return found == SEAL + digest.hexdigest().encode()


def kept(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by their step, the earliest first."""
    found = {}
    for path in folder.glob("*step=*.ckpt"):
        if number := re.search(r"step=(\d+)\.ckpt$", path.name):
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def whole(folder: Path, but: Path | None = None) -> Iterator[Path]:
    """The whole checkpoints of a folder, the latest first."""
    for path in reversed(kept(folder).values()):
        if (but is None or not path.samefile(but)) and is_whole(path):
            yield path


def newest(folder: Path) -> Path | None:
    """The latest whole checkpoint, None in a folder without any. Raises InputError if all are
    damaged."""
    found = next(whole(folder), None)
    if found is None and (damaged := [path.name for path in kept(folder).values()]):
        raise InputError(
            f"no whole checkpoint in {folder}: {' and '.join(damaged)} are damaged; "
            "delete them to begin anew"
        )
    return found


def check_checkpoint(path: str | Path) -> None:
    """Raises InputError unless the file is a whole checkpoint of a training. The message names a
    whole one beside it."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such checkpoint: {path}")
    if not is_whole(path):
        left = next(whole(path.parent, but=path), None)
        instead = f"use {left}" if left else "no whole one is left beside it"
        raise InputError(f"{path} is damaged or no checkpoint: {instead}")
    if path.is_dir():
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a zip file of another kind can raise anything
        raise InputError(f"{path} is no checkpoint ({error!r:.100})") from None
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(f"{path} is no checkpoint of a training")


class Checkpoints(Checkpoint):
    """Writes a checkpoint to `folder` every `every` steps and at the end, and keeps the last `keep`.

    It is written when its step is wholly over, validation and log included: at the start of the
    next step. `last.ckpt` is a link to the latest. A new run sets the checkpoints of the run before
    aside, in `<folder>.old`.
    """

    def __init__(self, folder: str | Path, every: int, keep: int = 2) -> None:
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.saved = 0  # the step of the latest checkpoint

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            if trainer.ckpt_path is None:
                set_aside(self.folder)
            remove_partial(self.folder)

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer, module)

    def save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Writes a checkpoint of this step, if there is none yet, and removes the oldest."""
        step = trainer.global_step
        if step == self.saved:
            return
        check_weights(trainer, module)
        for logger in trainer.loggers:
            logger.save()
        path = self.folder / f"step={step}.ckpt"
        with between_steps(trainer):
            trainer.save_checkpoint(path)
        self.saved = step
        if trainer.is_global_zero:
            link(path, self.folder / "last.ckpt")
        for old in [file for at, file in kept(self.folder).items() if at <= step][: -self.keep]:
            trainer.strategy.remove_checkpoint(old)


@contextmanager
def between_steps(trainer: L.Trainer) -> Iterator[None]:
    """In the block Lightning has not counted the batch that begins. Else a resumed run would count
    it twice, and validate a step too early."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    counts = progress.total.ready, progress.current.ready
    progress.total.ready = progress.total.completed
    progress.current.ready = progress.current.completed
    try:
        yield
    finally:
        progress.total.ready, progress.current.ready = counts


def check_weights(trainer: L.Trainer, module: torch.nn.Module) -> None:
    """Raises InputError, on all ranks, if a parameter is not finite on one of them: no good
    checkpoint gives way to such a one."""
    shards = (getattr(p, "_local_tensor", p) for p in module.parameters())
    finite = all(bool(shard.isfinite().all()) for shard in shards)
    if not trainer.strategy.reduce_boolean_decision(finite):
        raise InputError(
            f"the weights are not finite after step {trainer.global_step}, so the training ends and "
            "no checkpoint of them is written: try a smaller model.lr and model.adam_lr"
        )


def set_aside(path: Path) -> None:
    """Renames what an earlier run has left: NAME becomes NAME.old, in place of an older one."""
    old = path.with_name(f"{path.name}.old")
    if path.is_dir():
        if old.is_dir():
            shutil.rmtree(old)
        path.rename(old)
    elif path.exists():
        path.replace(old)


def link(target: Path, path: Path) -> None:
    """Makes `path` a link to a file beside it. Where links are not allowed there is none: `--ckpt_path
    last` finds the latest checkpoint without it."""
    partial = path.with_name(f".{path.name}.partial")
    with suppress(OSError):
        partial.unlink(missing_ok=True)
        os.symlink(target.name, partial)
        os.replace(partial, path)
