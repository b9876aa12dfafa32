"""Lightning callbacks of every training: a progress bar that knows the end, and the export of the
trained weights."""

import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from minisora import weights
from minisora.average import Average
from minisora.errors import InputError


class Progress(TQDMProgressBar):
    """Batches done out of all batches, with the time left. (Batches are endless, so Lightning
    itself knows no total.)"""

    @property
    def total_train_batches(self) -> int | float:
        steps = self.trainer.max_steps
        if steps <= 0:
            return super().total_train_batches
        return steps * self.trainer.accumulate_grad_batches

    def on_train_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_start(trainer, *arguments)
        self.begin(trainer)  # a resumed run is in the middle of an epoch and starts none

    def on_train_epoch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.begin(trainer)

    def begin(self, trainer: L.Trainer) -> None:
        bar = self.train_progress_bar
        bar.total = self.total_train_batches
        bar.initial = trainer.global_step * trainer.accumulate_grad_batches
        bar.set_description("training")


class Export(Callback):
    """Writes the trained weights and their provenance to `<root>/weights` after `max_steps`.

    Every validation adds its scores to the provenance, also those before a resume.
    """

    def __init__(self) -> None:
        self.curve: list[dict[str, float]] = []
        self.minutes_before = 0.0
        self.commit = commit()
        self.config: dict[str, Any] = {}  # the config that the command line was given
        self.exported = False

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.monotonic()

    def minutes(self) -> float:
        """Minutes of training so far, those before a resume included."""
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        values = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        point = {"step": trainer.global_step, "minutes": round(self.minutes(), 2)}
        self.curve.append(point | values)

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve, "minutes": self.minutes(), "config": self.config}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the record of the run. Raises InputError if its settings were others: the
        optimizer's would be ignored, and the rest would change the run half-way."""
        self.curve, self.minutes_before = state["curve"], state["minutes"]
        old, new = flat(state.get("config", {})), flat(self.config)
        changed = [f"{k} was {old[k]}, now {new[k]}" for k in old if k in new and old[k] != new[k]]
        if changed := [line for line in changed if not line.startswith("max_steps")]:
            raise InputError(
                f"a resumed run keeps its settings ({'; '.join(changed)}): start a new run for others"
            )

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Exports a checkpoint of the last step too: with nothing left to train, Lightning skips
        `on_train_end`. Warns if the run ended early, by trainer.max_time."""
        if trainer.global_step < trainer.max_steps:
            done = f"{trainer.global_step} of {trainer.max_steps} steps"
            warnings.warn(
                f"ended after {done}, so no weights are written: resume with --ckpt_path last",
                stacklevel=1,
            )
        elif not self.exported:
            for callback in trainer.callbacks:
                if isinstance(callback, Average):
                    callback.on_train_end(trainer, module)
            self.on_train_end(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.exported = True
        if trainer.fast_dev_run:  # a trial run leaves nothing behind
            return
        if trainer.global_step < trainer.max_steps:
            return
        folder = Path(trainer.default_root_dir) / "weights"
        module.export(folder)  # on all ranks, which gather their shards for the first
        if trainer.is_global_zero:
            name = type(module).__name__.removesuffix("Training").lower()
            weights.record_provenance(folder, name, self.record(trainer, module))

    def record(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        """Everything needed to repeat the run, and how it went."""
        return {
            "commit": self.commit,
            "config": self.config,
            "seed": module.seed,
            "steps": trainer.global_step,
            "minutes": round(self.minutes(), 1),
            "device": str(module.device),
            "threads": torch.get_num_threads(),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "torch": torch.__version__,
            "curve": self.curve,
        }


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as one level: {"model": {"lr": 0.02}} -> {"model.lr": 0.02}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        result |= {f"{prefix}{key}": value} if nested is None else nested
    return result


def commit() -> str:
    """The checkout's commit, with a plus if files have changed since; "unknown" outside of one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps into somebody else's repository
        return "unknown"
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--dirty=+"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
