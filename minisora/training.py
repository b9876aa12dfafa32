"""Training with Lightning: what all trainings share, and that of the VAE. The networks are handed in
as objects, so a variant is a class of its own and needs no change here.

Every random draw is a function of (seed, step, rank), so a resumed run repeats an uninterrupted
one to the bit.
"""

import warnings
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from minisora import draws, weights
from minisora.data import VideoData
from minisora.errors import InputError, check_counts, check_numbers, check_seed, check_shares
from minisora.metrics import oracle_scores, psnr, ssim
from minisora.optim import MuonAdam, split_parameters
from minisora.parallel import Sharded, mean_over_processes, ranks_of
from minisora.vae import VAE, to_frames, vae_loss
from minisora.world import get


class Training(L.LightningModule):
    """What all trainings share: the optimizer, a warm-up and a linear decay to zero, draws by step.

    `optimizer`: "muon" steps the blocks' matrices by Muon with rate `lr` and the rest by Adam with
    rate `adam_lr`; "adamw" steps everything by AdamW with `adam_lr`. `average`: decay of the moving
    average of the weights (EMA) that is validated and exported; 0 is none.
    """

    def __init__(
        self,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        warmup: int = 50,
        average: float = 0.0,
        optimizer: Literal["muon", "adamw"] = "muon",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_seed(seed)
        check_numbers(0, 10, lr=lr, adam_lr=adam_lr)
        check_counts(0, 10**6, warmup=warmup)
        check_shares(average=average)
        self.lr, self.adam_lr, self.warmup = lr, adam_lr, warmup
        self.average, self.optimizer_name, self.seed = average, optimizer, seed
        self.begun = False
        self.loss_by_level: tuple[Tensor, Tensor] | None = None  # for the log

    def check(self, data: Any) -> None:
        """Raises InputError if the network does not fit the data, before any of it is rendered."""

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        """The module that is trained, and its blocks, whose matrices Muon steps."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Writes the trained parts to a bundle."""
        raise NotImplementedError

    @property
    def ranks(self) -> draws.Ranks:
        """Which samples this process works on."""
        return ranks_of(self._trainer)

    def generator(self, step: int) -> torch.Generator:
        """The random numbers of a training step on this rank."""
        return draws.generator("training", self.seed, step, self.ranks.rank)

    def configure_model(self) -> None:
        """Raises InputError if the network is to be sharded and cannot be."""
        if isinstance(self.trainer.strategy, Sharded):
            raise InputError(
                "only the transformer is trained in shards: set trainer.strategy to ddp"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ranks"] = self.ranks.count

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Warns if the run goes on with another number of batches a step."""
        before, now = checkpoint.get("ranks", 1), self.ranks.count
        if before != now and self.trainer.is_global_zero:
            size = self.trainer.datamodule.batch_size
            warnings.warn(
                f"the run so far had {before} x {size} clips a step and goes on with {now} x {size}, "
                "and with other draws, since draws go by rank: trainer.accumulate_grad_batches keeps "
                "the number of clips",
                stacklevel=1,
            )

    def optimizer(self, in_bfloat16: bool = False) -> torch.optim.Optimizer:
        module, blocks = self.optimized()
        if self.optimizer_name == "adamw":
            trained = [p for p in module.parameters() if p.requires_grad]
            return torch.optim.AdamW(trained, self.adam_lr, betas=(0.9, 0.99))
        matrices, others = split_parameters(module, blocks)
        return MuonAdam(matrices, others, self.lr, self.adam_lr, in_bfloat16=in_bfloat16)

    def rate(self, step: int, done: float) -> float:
        """The factor on the learning rates: linear warm-up, and linear decay with the share `done`
        of the run."""
        return min((step + 1) / max(1, self.warmup), max(0.0, 1 - done))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(in_bfloat16="bf16" in str(self.trainer.precision))
        total = max(1, self.trainer.max_steps)
        schedule = LambdaLR(optimizer, lambda step: self.rate(step, step / total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        self.begun = True  # a checkpoint, if there is one, has been restored

    def on_before_backward(self, loss: Tensor) -> None:
        """Ends the training, on all ranks, at the first loss that is not finite. Nothing is
        exported."""
        loss = mean_over_processes(loss)
        if not loss.isfinite():
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step}, so the training ends and "
                "exports nothing: try a smaller model.lr and model.adam_lr"
            )

    def log_scores(self, frames: np.ndarray, batch: dict[str, Any], prefix: str) -> None:
        """Logs the oracle's scores of uint8 clips (B, T, H, W, 3) against a validation batch, world
        by world: "val/all", or "val-pairs/all" where the data has several worlds."""
        several = len(self.trainer.datamodule.source.names) > 1
        for name in sorted(set(batch["worlds"])):
            chosen = [i for i, world in enumerate(batch["worlds"]) if world == name]
            truths = [batch["truths"][i] for i in chosen]
            scores = oracle_scores(frames[chosen], truths, get(name))
            label = f"{prefix}-{name}" if several else prefix
            self.log_shares(
                {f"{label}/{key}": s["right"] for key, s in scores.items()}, len(chosen)
            )

    def log_shares(self, shares: dict[str, float], count: int) -> None:
        """Logs validation shares over `count` clips; those called "all" also in the bar."""
        for name, share in shares.items():
            in_bar = name.endswith("all")
            self.log(name, share, batch_size=count, prog_bar=in_bar, sync_dist=True)


class VAETraining(Training):
    """Trains the VAE on clips. It starts as the linear PCA of the clips' patches, which is kept as
    the baseline. `kl_weight` weighs the KL divergence against the squared error.

    `encoder` is a bundle whose encoder is kept as it is, so that its latents stay valid: the
    decoder alone is trained.
    """

    def __init__(
        self, vae: VAE, kl_weight: float = 1e-5, encoder: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        check_numbers(0, 1000, kl_weight=kl_weight)
        self.vae, self.kl_weight = vae, kl_weight
        # in a list: the given VAE is not part of the checkpoint
        self.given = [weights.load(encoder, "vae", VAE)] if encoder else []
        for given in self.given:
            self.keep_encoder(given)

    def keep_encoder(self, given: VAE) -> None:
        """Freezes the encoder at that of another VAE. Raises InputError if they differ in form."""
        for name in ("channels", "space", "width", "depth"):
            ours, theirs = self.vae.config[name], given.config[name]
            if ours != theirs:
                raise InputError(
                    f"model.encoder holds another encoder: its {name} is {theirs}, not {ours}"
                )
        for name in ("encode_linear", "encoder"):
            part = getattr(self.vae, name)
            part.load_state_dict(getattr(given, name).state_dict())
            part.requires_grad_(False)

    def check(self, data: VideoData) -> None:
        data.check_sizes(self.vae.space)

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        encoder: Any = [] if self.given else self.vae.encoder[1:-1]
        return self.vae, [*encoder, *self.vae.decoder[1:-1]]

    def setup(self, stage: str) -> None:
        """Sets VAE and baseline to the PCA, before the model is moved to its device and before a
        checkpoint is restored."""
        data = self.trainer.datamodule
        clips = data.view.examples(data)  # (N, 3, T, H, W)
        if self.given:
            self.vae.decode_linear.load_state_dict(self.given[0].decode_linear.state_dict())
        else:
            self.vae.start_from_pca(clips)
        baseline = type(self.vae)(**self.vae.config)
        baseline.start_from_pca(clips)
        self.baseline = [baseline]  # in a list: it is not part of the checkpoint

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        generator = self.generator(batch["step"])
        loss, error, kl = vae_loss(self.vae, batch["video"], generator, self.kl_weight)
        self.log_dict({"loss": loss, "error": error, "kl": kl}, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Logs PSNR, and the oracle's scores or SSIM, of reconstructed clips beside those of the
        PCA."""
        for vae, prefix in ((self.vae, "val"), (self.baseline[0].to(self.device), "pca")):
            rebuilt = vae.decode(vae.encode(batch["video"]))  # (B, 3, T, H, W)
            quality = psnr(rebuilt, batch["video"])
            self.log_shares({f"{prefix}/psnr": quality}, len(rebuilt))
            if "truths" in batch:
                self.log_scores(to_frames(rebuilt), batch, prefix)
            else:  # real footage
                self.log_shares({f"{prefix}/ssim": ssim(rebuilt, batch["video"])}, len(rebuilt))

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, vae=self.vae)


def load_shared(mine: Any, other: Any) -> None:
    """Copies the parameters of `other`. Raises InputError if the two are built differently."""
    for name, value in mine.config.items():
        theirs = other.config.get(name)
        if theirs != value and (name, value) != ("pooled", False):  # that path can be left out
            raise InputError(
                f"model.start holds a network of another form: its {name} is {theirs}, not {value}"
            )
    given = other.state_dict()
    mine.load_state_dict({name: given[name] for name in mine.state_dict()})


def with_vocabulary(mine: Any, other: Any) -> Any:
    """The network `other`, trained, with the words of both; new words start fresh. Raises
    InputError if the two are built differently."""
    new = [word for word in mine.config["words"] if word not in other.config["words"]]
    words = {"words": [*other.config["words"], *new]}
    grown = type(other)(**{**other.config, **words})
    state = grown.state_dict()
    for name, value in other.state_dict().items():
        known = slice(len(value)) if value.ndim else ...  # new words have the last rows
        state[name][known] = value
    network = type(mine)(**{**mine.config, **words})
    load_shared(network, grown)
    return network
