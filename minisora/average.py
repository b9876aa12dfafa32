"""The moving average of the weights (EMA)."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from minisora.parallel import gathered
from minisora.shards import cut_like, local


class Average(Callback):
    """Averages the weights over the steps: a <- decay a + (1 - decay) w. The average is validated and,
    at the end, takes the place of the weights.

    Every process averages what it holds. In checkpoints the average is "state_dict", the weights
    are "current_model_state". Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation
    by Averaging" (1992).
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.weights: dict[str, Tensor] = {}  # empty until the first step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            return  # gradients are being accumulated
        self.step = trainer.global_step
        if not self.weights:
            self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}
            return
        for name, p in module.named_parameters():
            mean = local(self.weights[name])
            mean.copy_(self.decay * mean + (1 - self.decay) * local(p.detach()))

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Follows the weights to their device: a checkpoint may be restored before they move."""
        self.weights = {name: x.to(module.device) for name, x in self.weights.items()}

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.swap(module)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.swap(module)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for name, p in module.named_parameters() if self.weights else ():
            local(p.detach()).copy_(local(self.weights[name]))

    @torch.no_grad()
    def swap(self, module: L.LightningModule) -> None:
        """Exchanges the weights and their average."""
        for name, p in module.named_parameters() if self.weights else ():
            own, mean = local(p.detach()), local(self.weights[name])
            kept = mean.clone()
            mean.copy_(own)
            own.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.weights:
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint["state_dict"] | gathered(self.weights)

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if current := checkpoint.get("current_model_state"):
            mean, params = checkpoint["state_dict"], module.named_parameters()
            self.weights = {name: cut_like(mean[name], p).clone() for name, p in params}
            trainer.strategy.load_model_state_dict({"state_dict": current})
