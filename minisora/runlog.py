"""What a run logs beside its losses: how fast it is, where its time goes, and at which noise levels
it is wrong. `CSVLog`, the default logger, loses no row."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from minisora.checkpoints import set_aside
from minisora.cost import DiTCost, VAECost
from minisora.errors import InputError
from minisora.files import write_text
from minisora.parallel import ranks_of
from minisora.plan import GPUS
from minisora.shards import whole
from minisora.vae import GROUP

BINS = 4  # of noise levels
SECONDS = 10  # between two writings of the log


class CSVLog(Logger):
    """Writes metrics.csv, whole or not at all.

    Its rows travel in the checkpoints, so that a resumed run loses none and doubles none. A new run
    sets the log of the run before aside, in metrics.csv.old.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.is_new, self.changed, self.saved_at = True, False, time.monotonic()

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Adds values to the row of their step, or a row if it has others of these names."""
        values = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        last = self.rows[-1] if self.rows else {}
        if last.get("step") == step and all(last.get(k, v) == v for k, v in values.items()):
            last |= values
        else:
            self.rows.append(values)
        self.changed = True
        if time.monotonic() - self.saved_at > SECONDS:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        if self.changed:
            if self.is_new:
                set_aside(self.path)
            write_text(self.path, self.text())
            self.is_new, self.changed, self.saved_at = False, False, time.monotonic()

    def finalize(self, status: str) -> None:
        """Writes the last rows. What ended a run that failed is said, not that this fails too."""
        try:
            self.save()
        except InputError:
            if status != "failed":
                raise

    def text(self) -> str:
        """The rows as CSV."""
        table = io.StringIO()
        writer = csv.DictWriter(table, sorted({key for row in self.rows for key in row}))
        writer.writeheader()
        writer.writerows(self.rows)
        return table.getvalue()

    def resume(self, text: str) -> None:
        """Goes on from the rows of a checkpoint."""
        self.rows, self.is_new = [], False
        for row in csv.DictReader(io.StringIO(text)):
            cells = {key: cell for key, cell in row.items() if cell}  # as they were written
            self.rows.append({**cells, "step": int(cells["step"])})


def cost_of(module: Any) -> DiTCost | VAECost | None:
    """The formulas of a network's FLOPs, None if it has none."""
    if hasattr(module, "dit"):
        return DiTCost(module.dit, module.text)
    return VAECost(module.vae) if hasattr(module, "vae") else None


def tokens_of(module: Any, batch: dict[str, Any]) -> list[int]:
    """The tokens of each clip of a batch: patches of latents, or latents."""
    if hasattr(module, "dit"):
        patch = math.prod(module.dit.patch)
        return [math.prod(latents.shape[-3:]) // patch for latents in batch["latents"]]
    clips, _, frames, *size = batch["video"].shape
    sides = [side // module.vae.space for side in size]
    return [(1 + (frames - 1) // GROUP) * math.prod(sides)] * clips


def peak_of(device: torch.device) -> float | None:
    """The FLOP/s of a device in bfloat16, None if they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).replace(" ", "")
    return next((peak * 1e12 for gpu, (peak, _) in GPUS.items() if gpu in name), None)


class RunLog(Callback):
    """Logs, every `log_every_n_steps`, the norm of the gradient, the mean loss of each quarter of
    the noise levels, and under "speed/" steps, tokens and FLOPs per second of all devices, the share
    of their peak (MFU) where that is known, and the share of time spent waiting for data. Validation
    is not counted.

    Nothing here draws a number or touches a gradient: the training is the same without it.
    """

    def __init__(self) -> None:
        self.levels = torch.zeros(2, BINS)  # sums of losses, and how many, since the last row
        self.gradient_norm: Tensor | None = None  # of a step that is logged
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.levels = self.levels.to(module.device)
        self.cost, self.peak = cost_of(module), peak_of(module.device)
        self.start_clock()

    def start_clock(self) -> None:
        self.began = self.free = time.perf_counter()
        self.waited, self.steps, self.tokens, self.flops = 0.0, 0, 0, 0.0

    # A step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.waited += time.perf_counter() - self.free
        # Lightning counts a step too much after a resume, which would shift the rows
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, _: Any
    ) -> None:
        self.steps += 1
        every = trainer.log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            self.gradient_norm = nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.cost:
            counts = tokens_of(module, batch)
            self.tokens += sum(counts)
            self.flops += sum(map(self.cost.training, counts))
        if module.loss_by_level is not None:
            self.add_losses(*module.loss_by_level)
        if self.gradient_norm is not None:
            values = self.speed(trainer) | self.losses(trainer)
            values["gradient_norm"] = float(whole(self.gradient_norm))
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step - 1)
            self.gradient_norm = None
            self.levels.zero_()
            self.start_clock()
        self.free = time.perf_counter()

    def add_losses(self, t: Tensor, losses: Tensor) -> None:
        """Adds losses of clips (B,) to the bins of their noise levels (B,)."""
        bins = (t * BINS).long().clamp(0, BINS - 1)
        self.levels.index_add_(1, bins, torch.stack([losses, torch.ones_like(losses)]))

    def losses(self, trainer: L.Trainer) -> dict[str, float]:
        """The mean loss of each bin that has any, over all ranks."""
        sums, counts = trainer.strategy.reduce(self.levels.clone(), reduce_op="sum").tolist()
        names = [f"loss/t{i / BINS:.2f}-{(i + 1) / BINS:.2f}" for i in range(BINS)]
        means = zip(names, sums, counts, strict=True)
        return {name: total / count for name, total, count in means if count}

    def speed(self, trainer: L.Trainer) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        rates = {"steps_per_second": self.steps / seconds, "waiting": self.waited / seconds}
        groups = ranks_of(trainer).count  # of processes, each with clips of its own
        if self.tokens:
            rates["tokens_per_second"] = self.tokens * groups / seconds
            rates["tflops"] = self.flops * groups / seconds / 1e12
        if self.tokens and self.peak:
            rates["mfu"] = rates["tflops"] * 1e12 / (self.peak * trainer.world_size)
        return {f"speed/{name}": value for name, value in rates.items()}

    # Validation

    def on_validation_start(self, *_: Any) -> None:
        self.validation_began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stops the clock, and sends the clips that were written to Weights & Biases."""
        took = time.perf_counter() - self.validation_began
        self.began, self.free = self.began + took, self.free + took
        name = f"step-{trainer.global_step:06d}.mp4"
        clips = Path(trainer.default_root_dir) / "samples" / name
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and clips.is_file():
                logger.log_video("samples", [str(clips)], step=trainer.global_step)

    # What travels in a checkpoint

    def on_save_checkpoint(self, trainer: L.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss_by_level"] = trainer.strategy.reduce(self.levels.clone(), reduce_op="sum")
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                checkpoint["metrics.csv"] = logger.text()

    def on_load_checkpoint(self, trainer: L.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero and "loss_by_level" in checkpoint:
            self.levels = checkpoint["loss_by_level"]
        for logger in trainer.loggers:
            if isinstance(logger, CSVLog):
                logger.resume(checkpoint.get("metrics.csv", ""))
