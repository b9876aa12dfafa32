"""Training with Lightning: one module per network, and the callbacks they share.

Every random draw is a function of (seed, step, rank), so a resumed run repeats an uninterrupted
one to the bit.
"""

import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, TQDMProgressBar, WeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from minisora import video, weights, world
from minisora.captioner import Captioner
from minisora.data import CaptionData, ClipData, LatentData, generator
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_seed, check_shares
from minisora.flow import Target, draw_times, flow_loss, noised
from minisora.metrics import oracle_scores, psnr
from minisora.optim import MuonAdam, split_parameters
from minisora.patches import Grid, grid_of, patchify, positions
from minisora.pipeline import Sora, to_frames, to_pixels
from minisora.text import Encoder, PretrainedEncoder, TextEncoder
from minisora.upsampler import Upsampler, keeps
from minisora.vae import GROUP, VAE, vae_loss


class Training(L.LightningModule):
    """What all networks share: Muon and Adam, a warm-up and a linear decay to zero, draws by
    step."""

    def __init__(self, lr: float, adam_lr: float, warmup: int, seed: int) -> None:
        super().__init__()
        check_seed(seed)
        self.rates, self.warmup, self.seed = (lr, adam_lr), warmup, seed

    def draws(self, step: int) -> torch.Generator:
        return generator(self.seed, step, self.global_rank)

    def check(self, data: Any) -> None:
        """Raises InputError if the network does not fit the data, before any of it is made."""

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        """The model, and those of its blocks whose matrices Muon steps."""
        raise NotImplementedError

    def optimizer(self, in_bfloat16: bool = False) -> torch.optim.Optimizer:
        lr, adam_lr = self.rates
        parameters = split_parameters(*self.optimized())
        return MuonAdam(*parameters, lr=lr, adam_lr=adam_lr, in_bfloat16=in_bfloat16)

    def rate(self, step: int, done: float) -> float:
        """What the learning rates are multiplied by in a step with the share `done` of the run
        behind it."""
        return min((step + 1) / max(1, self.warmup), max(0.0, 1 - done))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer("bf16" in str(self.trainer.precision))
        total = max(1, self.trainer.max_steps)
        schedule = LambdaLR(optimizer, lambda step: self.rate(step, step / total))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def log_scores(self, frames: np.ndarray, truths: list[dict[str, Any]], prefix: str) -> None:
        """Logs the oracle's scores of uint8 clips (B, T, H, W, 3), averaged over validation; those
        of two objects by themselves."""
        for label, scene in ((prefix, world), (f"{prefix}-pairs", world.pairs)):
            chosen = [i for i, t in enumerate(truths) if ("objects" in t) == (scene is not world)]
            if not chosen:
                continue
            scores = oracle_scores(frames[chosen], [truths[i] for i in chosen], scene)
            for name, score in scores.items():
                self.log(
                    f"{label}/{name}",
                    score["right"],
                    batch_size=len(chosen),
                    prog_bar=name == "all",
                    sync_dist=True,
                )


class VAETraining(Training):
    """The VAE on clips. It starts as the linear PCA of the clips' patches, which stays beside it
    as the baseline. `kl_weight`: of the divergence from a normal distribution, beside the squared error."""

    def __init__(
        self,
        channels: int = 8,
        space: int = 4,
        width: int = 64,
        depth: int = 3,
        kl_weight: float = 1e-5,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        warmup: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(lr, adam_lr, warmup, seed)
        torch.manual_seed(seed)
        self.vae = VAE(channels, space, width, depth)
        self.kl_weight = kl_weight

    def check(self, data: ClipData) -> None:
        data.check_sizes(self.vae.space)

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self.vae, [*self.vae.encoder[1:-1], *self.vae.decoder[1:-1]]

    def setup(self, stage: str) -> None:
        """Before the model is spread over devices and before a checkpoint is restored."""
        clips = to_pixels(self.trainer.datamodule.frames[:256])
        self.vae.start_from_pca(clips)
        baseline = VAE(**self.vae.config)
        baseline.start_from_pca(clips)
        self.baseline = [baseline]  # in a list, so that it is no part of the checkpoint

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        loss, error, kl = vae_loss(
            self.vae, batch["video"], self.draws(batch["step"]), self.kl_weight
        )
        self.log_dict({"loss": loss, "error": error, "kl": kl}, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """PSNR and the oracle's scores of reconstructed clips, beside those of the linear PCA."""
        for vae, prefix in ((self.vae, "val"), (self.baseline[0].to(self.device), "pca")):
            rebuilt = vae.decode(vae.encode(batch["video"]))
            quality = psnr(rebuilt, batch["video"])
            self.log(
                f"{prefix}/psnr", quality, batch_size=len(rebuilt), prog_bar=True, sync_dist=True
            )
            self.log_scores(to_frames(rebuilt), batch["truths"], prefix)

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, vae=self.vae)


class DiTTraining(Training):
    """The diffusion transformer and its text encoder on latents of a trained VAE.

    `t_mean`, `t_deviation`: the logit-normal noise levels; with `t_mean_end` their mean moves there
    from `t_mean` in a straight line, from layout to detail; `encoder`: "minilm" or the folder of
    a frozen text encoder under the part that is trained along; `start`: weights to start from;
    `text_drop`: share of clips trained without their caption; `guidance`, `guidance_until`,
    `steps`, `shift`: how validation samples, and the exported model's defaults.
    """

    def __init__(
        self,
        size: str = "laptop",
        target: Target = "v",
        channels: int = 8,
        patch: Grid = (1, 2, 2),
        text_width: int = 128,
        text_depth: int = 1,
        text_length: int = 16,
        encoder: str | None = None,
        pooled: bool = True,
        start: str | None = None,
        text_drop: float = 0.1,
        t_mean: float = 0.5,
        t_deviation: float = 1.0,
        t_mean_end: float | None = None,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        warmup: int = 100,
        seed: int = 0,
        guidance: float = 2.0,
        guidance_until: float = 0.0,
        steps: int = 8,
        shift: float = 1.5,
    ) -> None:
        super().__init__(lr, adam_lr, warmup, seed)
        check_shares(text_drop=text_drop, guidance_until=guidance_until)
        check_counts(1, steps=steps)
        torch.manual_seed(seed)
        self.text: Encoder = (
            PretrainedEncoder(encoder, text_width, text_depth, length=text_length)
            if encoder
            else TextEncoder(sorted(world.WORDS), text_width, text_depth, length=text_length)
        )
        self.dit = DiT(size, channels, patch, self.text.width, target, pooled)
        if start:
            self.start_from(Sora.from_pretrained(start, "cpu"))
        self.t_mean, self.t_deviation, self.text_drop = t_mean, t_deviation, text_drop
        self.t_mean_end = t_mean if t_mean_end is None else t_mean_end
        self.defaults = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "guidance_until": guidance_until,
            "shift": shift,
            "sampler": "euler",
        }

    def start_from(self, sora: Sora) -> None:
        """Takes over the weights it has a place for; what stands on a frozen encoder that `sora` does not
        read with is learned anew. Raises InputError if they do not fill it."""
        pairs: list[tuple[Any, Any]] = [(self.dit, sora.dit)]
        mine, theirs = (part.config.get("source") for part in (self.text, sora.text))
        if mine is None and theirs:
            raise InputError(f"model.start reads with {theirs}: set model.encoder to it")
        if mine == theirs:
            pairs.append((self.text, sora.text))
        for part, other in pairs:
            for name, value in part.config.items():
                has = other.config.get(name)
                if has != value and (name, value) != ("pooled", False):  # that way can be left out
                    raise InputError(
                        f"model.start holds a model of another form: its {name} is {has}, not {value}"
                    )
            given = other.state_dict()
            part.load_state_dict({name: given[name] for name in part.state_dict()})

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self, [*self.dit.blocks, *self.text.blocks]

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        draws = self.draws(batch["step"])
        latents = batch["latents"]  # (B, C, t, h, w)
        tokens = patchify(latents, self.dit.patch)  # (B, N, P)
        mean = self.t_mean + (self.t_mean_end - self.t_mean) * self.progress()
        t = draw_times(len(tokens), draws, mean, self.t_deviation).to(tokens)
        eps = torch.randn(tokens.shape, generator=draws).to(tokens)
        dropped = torch.rand(len(tokens), generator=draws) < self.text_drop
        captions = [
            "" if drop else caption
            for drop, caption in zip(dropped, batch["captions"], strict=True)
        ]
        place = positions(grid_of(tuple(latents.shape[2:]), self.dit.patch), tokens.device)
        prediction = self.dit(noised(tokens, eps, t), t, self.text(captions), place)
        loss = flow_loss(prediction, tokens, eps, t, self.dit.target).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def progress(self) -> float:
        """How much of the training is done, from 0 to 1."""
        return self.global_step / self.trainer.max_steps if self._trainer else 0.0

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        """The oracle's scores of clips sampled for the captions, beside the ceiling: the same for
        clips that only went through the VAE. The first clips are written as an mp4, their
        captions beside it."""
        sora = self.sora()
        draws = generator(self.seed, index, self.global_rank, stream=2)
        frames = sora(batch["captions"], *batch["video"].shape[2:], generator=draws)
        self.log_scores(frames, batch["truths"], "val")
        rebuilt = to_frames(sora.vae.decode(sora.vae.encode(batch["video"].to(self.device))))
        self.log_scores(rebuilt, batch["truths"], "ceiling")
        if index == 0 and self.global_rank == 0 and not self.trainer.fast_dev_run:
            folder = Path(self.trainer.default_root_dir) / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            tiled = video.tile(frames[:16], columns=8)
            video.write(folder / f"step-{self.global_step:06d}.mp4", tiled, fps=8, scale=3)
            (folder / f"step-{self.global_step:06d}.txt").write_text(
                "\n".join(batch["captions"][:16]) + "\n"
            )

    def check(self, data: LatentData) -> None:
        channels = self.dit.config["channels"]
        if data.vae.channels != channels:
            raise InputError(
                f"model.channels is {channels}, the VAE has {data.vae.channels}: set it to that"
            )
        frames, height, width = data.shape
        space, patch = data.vae.space, self.dit.patch
        data.check_sizes(space)
        captions = [data.render(i).caption for i in range(100)]
        longest = max(captions, key=lambda caption: len(caption.split()))
        try:
            self.text([longest])
        except InputError as error:
            raise InputError(f'{error} or set model.text_length to more ("{longest}")') from None
        grid_of((1 + (frames - 1) // GROUP, height // space, width // space), patch)
        if data.shorter and patch[0] > 1:
            raise InputError(
                f"patches of {patch[0]} latents in time do not cut shorter clips: set data.shorter to 0"
            )

    def sora(self) -> Sora:
        data = self.trainer.datamodule
        return Sora(data.vae.to(self.device), self.text, self.dit, data.makes, self.defaults)

    def export(self, folder: Path) -> None:
        self.sora().save(folder)


class CaptionerTraining(Training):
    """The captioner on clips and their captions: words, and clips told apart by their texts.

    Half of each batch is seen in false colors and asked for all words but those of colors, so that
    shapes and motions are learned whatever their color.

    `contrast`: the weight of the contrastive loss beside captioning, 1/2 in CoCa.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 3,
        frames: int = 5,
        patch: int = 8,
        timed: bool = True,
        contrast: float = 0.5,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        warmup: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(lr, adam_lr, warmup, seed)
        torch.manual_seed(seed)
        words = sorted(world.WORDS)
        self.captioner = Captioner(words, width, depth, frames=frames, patch=patch, timed=timed)
        self.contrast = contrast

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self.captioner, self.captioner.blocks

    def check(self, data: CaptionData) -> None:
        if data.batch_size < 4:
            raise InputError(
                f"the captioner tells the clips of a batch apart: data.batch_size is {data.batch_size}, "
                "set it to 4 or more"
            )
        data.check_sizes(data.vae.space)

    def on_fit_start(self) -> None:
        data = self.trainer.datamodule
        self.strangers = self.captioner.strangers([*data.captions, *data.short_captions])

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        draws, captions = self.draws(batch["step"]), batch["captions"]
        pixels = nudged(self.captioner.sample_frames(batch["clips"]), draws)
        half = (len(pixels) + 1) // 2
        true, recolored = pixels[:half], in_false_colors(pixels[half:], draws)
        saying, contrast = self.captioner.losses(true, captions[:half], self.strangers)
        blind = self.captioner.losses(
            recolored, captions[half:], self.strangers, self.captioner.color_words()
        )[0]
        self.log_dict({"words": saying, "blind": blind, "contrast": contrast}, prog_bar=True)
        return (saying + blind) / 2 + self.contrast * contrast

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """The share of captions that say everything right, of true clips ("val") and of the same
        clips seen through the VAE ("rebuilt"), and how often a clip finds its own caption among
        those of its batch."""
        vae = self.trainer.datamodule.vae.to(self.device)
        rebuilt = to_frames(vae.decode(vae.encode(batch["video"])))
        true = list(map(world.pairs.in_order, batch["captions"]))
        for prefix, frames in (("val", to_frames(batch["video"])), ("rebuilt", rebuilt)):
            said = self.captioner(frames)
            right = np.mean([a == b for a, b in zip(said, true, strict=True)])
            found = self.captioner.similarity(frames, true).argmax(1).tolist()
            first = np.mean([true[i] == caption for i, caption in zip(found, true, strict=True)])
            self.log_dict(
                {f"{prefix}/all": float(right), f"{prefix}/recall": float(first)},
                batch_size=len(said),
                prog_bar=prefix == "val",
                sync_dist=True,
            )

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, captioner=self.captioner)


def nudged(pixels: Tensor, draws: torch.Generator, most: int = 3) -> Tensor:
    """Moves each clip of (B, K, C, H, W) as a whole by up to `most` pixels along x and y; edges are
    repeated. Its caption stays true, and each clip has 49 forms instead of one."""
    height, width = pixels.shape[-2:]
    wider = F.pad(pixels, (most, most, most, most, 0, 0), mode="replicate")
    corners = torch.randint(2 * most + 1, (len(pixels), 2), generator=draws).tolist()
    return torch.stack(
        [
            clip[..., y : y + height, x : x + width]
            for clip, (y, x) in zip(wider, corners, strict=True)
        ]
    )


def in_false_colors(pixels: Tensor, draws: torch.Generator) -> Tensor:
    """Each clip of (B, K, 3, H, W) with its red, green and blue in another order, and some of them
    turned into their negative."""
    count = len(pixels)
    order = torch.rand(count, 3, generator=draws).argsort(dim=1)
    sign = 2.0 * torch.randint(2, (count, 3), generator=draws) - 1
    channels = pixels[torch.arange(count)[:, None], :, order]  # (B, 3, K, H, W)
    return (channels * sign.to(pixels)[..., None, None, None]).transpose(1, 2)


class UpsamplerTraining(Training):
    """The prompt upsampler on prompts and the rich captions behind them."""

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        warmup: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(lr, adam_lr, warmup, seed)
        torch.manual_seed(seed)
        self.upsampler = Upsampler(sorted(world.WORDS), width, depth)

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self.upsampler, self.upsampler.blocks

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        loss = self.upsampler.loss(batch["short"], batch["rich"])
        self.log("loss", loss, prog_bar=True, batch_size=len(batch["short"]))
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """How often the first draw is a whole caption that keeps what the prompt names."""
        drawn = self.upsampler.draw(batch["short"], generator(self.seed, 0, stream=2))
        right = [keeps(short, rich) for short, rich in zip(batch["short"], drawn, strict=True)]
        self.log("val/kept", float(np.mean(right)), prog_bar=True, batch_size=len(right))

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, upsampler=self.upsampler)


class Progress(TQDMProgressBar):
    """Batches done of all batches, with the time left (they are endless, so Lightning knows no
    total)."""

    @property
    def total_train_batches(self) -> int | float:
        steps = self.trainer.max_steps
        return (
            steps * self.trainer.accumulate_grad_batches
            if steps > 0
            else super().total_train_batches
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.initial = trainer.global_step * trainer.accumulate_grad_batches
        self.train_progress_bar.set_description("training")


class Export(Callback):
    """Writes the trained weights and where they come from to `<root>/weights` when `max_steps` are
    done.

    On validation it notes the scores, so that the record holds the whole curve, also of a resumed
    run (but for a validation in the very step of the checkpoint, which comes after it is written).
    """

    def __init__(self) -> None:
        self.curve: list[dict[str, float]] = []
        self.minutes_before = 0.0
        self.commit = commit()
        self.config: dict[str, Any] = {}  # what the command line was given
        self.exported = False

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.monotonic()

    def minutes(self) -> float:
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        values = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        self.curve.append(
            {"step": trainer.global_step, "minutes": round(self.minutes(), 2), **values}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve, "minutes": self.minutes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curve, self.minutes_before = state["curve"], state["minutes"]

    def on_fit_end(self, trainer: L.Trainer, module: Training) -> None:
        """Exports a checkpoint of the last step too: with nothing left to train, Lightning calls
        no `on_train_end`. A run that ended early, by trainer.max_time, says so."""
        if trainer.global_step < trainer.max_steps:
            done = f"{trainer.global_step} of {trainer.max_steps} steps"
            warnings.warn(
                f"ended after {done}, so no weights are written: --ckpt_path goes on", stacklevel=1
            )
        elif not self.exported:
            for callback in trainer.callbacks:
                if isinstance(callback, WeightAveraging):
                    callback.on_train_end(trainer, module)
            self.on_train_end(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: Training) -> None:
        self.exported = True
        if trainer.fast_dev_run:  # Lightning's promise: it leaves nothing behind
            return
        if trainer.is_global_zero and trainer.global_step >= trainer.max_steps:
            folder = Path(trainer.default_root_dir) / "weights"
            module.export(folder)
            record = {
                "commit": self.commit,
                "config": self.config,
                "seed": module.seed,
                "steps": trainer.global_step,
                "minutes": round(self.minutes(), 1),
                "device": str(module.device),
                "threads": torch.get_num_threads(),
                "precision": trainer.precision,
                "torch": torch.__version__,
                "curve": self.curve,
            }
            weights.note(folder, type(module).__name__.removesuffix("Training").lower(), record)


def commit() -> str:
    """The checkout's commit, "unknown" outside of one, with a plus if files have changed since."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps in somebody else's repository
        return "unknown"
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--dirty=+"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
