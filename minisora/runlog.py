"""What a run logs beside its losses: how fast it is, where its time goes, and at which noise levels
it is wrong. `CSVLog`, the default logger, loses no row."""

import csv
import io
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from minisora.attention import Attention
from minisora.checkpoints import set_aside
from minisora.errors import InputError
from minisora.files import write_text

BINS = 4  # of noise levels
SECONDS = 10  # between two writings of the log
ATTENTION = ("x", "factors", "context", "causal", "lengths")  # arguments, in their order


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


class Work:
    """Counts the tokens and the FLOPs of training steps, through hooks on the layers: a matrix
    product of (N, K) and (K, M) is 2 N K M. The gradients by input and weight cost as much as the
    forward pass each. Layers under `torch.compile` have no hooks and are not counted.
    """

    def __init__(self) -> None:
        self.active, self.flops, self.tokens = False, 0, Counter[nn.Module]()

    def attach(self, network: nn.Module) -> None:
        compiled = [part for part in network.modules() if part._compiled_call_impl is not None]
        hidden = {each for part in compiled for each in part.modules()}
        for part in set(network.modules()) - hidden:
            if isinstance(part, nn.Linear | nn.Conv3d):
                part.register_forward_hook(self.count_layer)
            elif isinstance(part, Attention):
                part.register_forward_hook(self.count_attention, with_kwargs=True)

    def count_layer(self, layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        if self.active:
            weight: Any = layer.weight
            passes = 1 + weight.requires_grad + inputs[0].requires_grad
            self.flops += passes * 2 * out.numel() * (weight.numel() // weight.shape[0])

    def count_attention(
        self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], out: Tensor
    ) -> None:
        """Two products, of queries and keys and of weights and values."""
        if self.active:
            given = dict(zip(ATTENTION, inputs, strict=False)) | named
            batch, count, width = given["x"].shape
            context = given.get("context")
            more = 0 if context is None else context.shape[1]
            lengths = given.get("lengths") or [count]
            pairs = batch * sum(length * (length + more) for length in lengths)
            self.flops += (3 if out.requires_grad else 1) * 2 * 2 * pairs * width
            self.tokens[layer] += batch * count


class RunLog(Callback):
    """Logs, every `log_every_n_steps`, the norm of the gradient, the mean loss of each quarter of
    the noise levels, and under "speed/" steps, tokens and FLOPs per second of all devices, the share
    of their peak (MFU), and the share of time spent waiting for data. Validation is not counted.

    Nothing here draws a number or touches a gradient: the training is the same without it.
    """

    def __init__(self) -> None:
        self.work = Work()
        self.levels = torch.zeros(2, BINS)  # sums of losses, and how many, since the last row
        self.gradient_norm: Tensor | None = None  # of a step that is logged
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.levels = self.levels.to(module.device)
        self.work.attach(module)
        self.start_clock()

    def start_clock(self) -> None:
        self.began = self.free = time.perf_counter()
        self.waited, self.steps, self.work.flops = 0.0, 0, 0
        self.work.tokens.clear()

    # A step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.waited += time.perf_counter() - self.free
        # Lightning counts a step too much after a resume, which would shift the rows
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        self.work.active = True

    def on_before_backward(self, *_: Any) -> None:
        self.work.active = False  # what is computed again for the gradients does not count

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, _: Any
    ) -> None:
        self.steps += 1
        every = trainer.log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            self.gradient_norm = nn.utils.get_total_norm(gradients)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if module.loss_by_level is not None:
            self.add_losses(*module.loss_by_level)
        if self.gradient_norm is not None:
            values = self.speed(trainer) | self.losses(trainer)
            values["gradient_norm"] = float(self.gradient_norm)
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
        if self.work.tokens:
            tokens = max(self.work.tokens.values())  # of the longest sequences, the clips
            rates["tokens_per_second"] = tokens * trainer.world_size / seconds
        if self.work.flops:
            rates["tflops"] = self.work.flops * trainer.world_size / seconds / 1e12
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
