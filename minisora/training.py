"""Training with Lightning: one module per network. The networks are handed in as objects, so a
variant is a class of its own and needs no change here.

Every random draw is a function of (seed, step, rank), so a resumed run repeats an uninterrupted
one to the bit.
"""

import math
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint

from minisora import draws, video, weights
from minisora.canvas import MODES
from minisora.captioner import Captioner
from minisora.data import ClipData, VideoData
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_numbers, check_seed, check_shares
from minisora.flow import add_noise, draw_levels, flow_loss, shift_for
from minisora.metrics import oracle_scores, psnr, ssim
from minisora.optim import MuonAdam, split_parameters
from minisora.parallel import Context, Sharded, mean_over_processes, ranks_of
from minisora.patches import grid_of, tokenize
from minisora.pipeline import Settings
from minisora.sora import Sora
from minisora.text import PretrainedEncoder, TextEncoder
from minisora.upsampler import Upsampler
from minisora.vae import GROUP, VAE, to_frames, vae_loss
from minisora.world import get, language


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


@dataclass(frozen=True)
class Noised:
    """Clips as training shows them: clean tokens and noise (B, N, P), the level of each token
    (B, N), positions (B, N, 5), and which tokens are known (B, N), None if none is."""

    tokens: Tensor
    eps: Tensor
    t: Tensor
    positions: Tensor
    known: Tensor | None

    @property
    def x(self) -> Tensor:
        """The noisy tokens (B, N, P)."""
        return add_noise(self.tokens, self.eps, self.t)

    @property
    def level(self) -> Tensor:
        """The noise level of each clip's unknown tokens (B,)."""
        return self.t.amax(dim=1)

    @property
    def unknown(self) -> Tensor:
        """How many tokens are not known: (B,)."""
        known = torch.zeros_like(self.t) if self.known is None else self.known  # (B, N)
        return (known == 0).sum(dim=1)

    def only(self, kept: Tensor | slice) -> "Noised":
        """The tokens with these indices."""
        known = None if self.known is None else self.known[:, kept]
        tokens, eps, t, positions = (
            part[:, kept] for part in (self.tokens, self.eps, self.t, self.positions)
        )
        return Noised(tokens, eps, t, positions, known)


class DiTTraining(Training):
    """Trains the diffusion transformer and its text encoder on latents of a trained VAE.

    Noise levels are logit-normal with mean `t_mean` and standard deviation `t_deviation`; with
    `t_mean_end` the mean moves there in a straight line over the run, from layout to detail.
    Clips of more than `base_tokens` tokens get more noise, those of fewer less (see
    `flow.shift_for`), in training and in sampling; without `base_tokens` all get the same.
    `text_drop` is the share of clips trained without caption, for guidance; `token_drop`, of packed
    clips only, the share of tokens left out at first, which falls to none. `start` is a bundle to
    start from. `num_inference_steps`, `guidance_scale`, `guidance_until` and `shift` are how
    validation samples, and the defaults of the exported model.

    With `checkpointing` the blocks keep only their inputs for the backward pass and compute the rest
    again: less memory, more time. With `compile` torch.compile compiles them, for GPUs and clips
    that are not packed (not measured).
    """

    def __init__(
        self,
        text: TextEncoder | PretrainedEncoder,
        dit: DiT,
        start: str | None = None,
        text_drop: float = 0.1,
        token_drop: float = 0.0,
        base_tokens: int | None = None,
        t_mean: float = 0.5,
        t_deviation: float = 1.0,
        t_mean_end: float | None = None,
        guidance_scale: float = 2.0,
        guidance_until: float = 0.0,
        num_inference_steps: int = 8,
        shift: float = 1.5,
        checkpointing: bool = False,
        compile: bool = False,
        warmup: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(warmup=warmup, **options)
        check_shares(text_drop=text_drop, token_drop=token_drop, guidance_until=guidance_until)
        check_counts(1, 10_000, num_inference_steps=num_inference_steps)
        check_numbers(
            -20, 20, t_mean=t_mean, t_mean_end=t_mean if t_mean_end is None else t_mean_end
        )
        check_numbers(0, 20, t_deviation=t_deviation)
        check_numbers(0.01, 100, shift=shift)
        check_numbers(-100, 100, guidance_scale=guidance_scale)
        self.text, self.dit = text, dit
        if start:
            self.start_from(Sora.from_pretrained(start, "cpu"))
        for block in self.dit.blocks:
            if compile:
                block.forward = torch.compile(block.forward)
            if checkpointing:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        self.compiled, self.context = compile, Context()
        self.t_mean, self.t_deviation = t_mean, t_deviation
        self.text_drop, self.token_drop = text_drop, token_drop
        self.t_mean_end = t_mean if t_mean_end is None else t_mean_end
        self.defaults: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_until": guidance_until,
            "shift": shift,
            "sampler": "euler",
        }
        if base_tokens is not None:
            check_counts(1, 10**6, base_tokens=base_tokens)
            self.defaults["base_tokens"] = base_tokens

    def start_from(self, sora: Sora) -> None:
        """Loads every shared parameter; if the frozen encoders differ, the layers above them start
        fresh. Raises InputError if the shapes differ."""
        mine, theirs = (part.config.get("source") for part in (self.text, sora.text))
        if mine is None and theirs:
            raise InputError(
                f"model.start reads its text with {theirs}: "
                f"set model.text to PretrainedEncoder and model.text.source to {theirs}"
            )
        load_shared(self.dit, sora.dit)
        if mine == theirs and mine is None:
            self.text = with_vocabulary(self.text, sora.text)
        elif mine == theirs:
            load_shared(self.text, sora.text)

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, Sharded):
            strategy.shard(self.text, self.dit)
            self.context = strategy.share_tokens(self.dit)

    def on_validation_start(self) -> None:
        self.context.whole()  # each process samples its own clips

    def check(self, data: VideoData) -> None:
        view: Any = data.view
        if view.packed and self.compiled:
            raise InputError(
                "each packed row would be compiled anew: set model.compile or data.view.packed to false"
            )
        space, patch = view.vae.space, self.dit.patch
        longest = max(data.captions(), key=lambda caption: len(caption.split()))
        try:
            self.text([longest])
        except InputError as error:
            raise InputError(f'{error} or set model.text.length to more ("{longest}")') from None
        for height, width in data.sizes:
            for frames in view.durations(data.num_frames):
                latents = (1 + (frames - 1) // GROUP, height // space, width // space)
                grid_of(latents, patch)
        if view.known and patch[0] > 1:
            raise InputError(
                f"known tokens need patches of one latent in time, got {patch[0]}: "
                "set data.view.known to 0 or model.dit.patch"
            )

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self, [*self.dit.blocks, *self.text.blocks]

    def progress(self) -> float:
        """The share of the training that is done, from 0 to 1."""
        return self.global_step / self.trainer.max_steps if self._trainer else 0.0

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        return self.mean_of_step(self.clip_losses(batch))

    def clip_losses(self, batch: dict[str, Any]) -> Tensor:
        """The losses of the batch's clips: (B,) or fewer."""
        generator = self.generator(batch["step"])
        dropped = torch.rand(len(batch["captions"]), generator=generator) < self.text_drop  # (B,)
        pairs = zip(dropped, batch["captions"], strict=True)
        text = self.text(["" if drop else caption for drop, caption in pairs])  # (B, L, width)
        packed = isinstance(batch["latents"], list)
        return (self.packed_losses if packed else self.losses)(batch, text, generator)

    def mean_of_step(self, losses: Tensor) -> Tensor:
        """The mean loss of the clips of all ranks, as far as it comes from these losses (B,), times
        the number of processes, over which gradients are averaged. Logs the whole mean."""
        count = mean_over_processes(losses.new_tensor(len(losses)))  # packed rows differ
        loss = losses.sum() * self.context.size / count
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def losses(self, batch: dict[str, Any], text: Tensor, generator: torch.Generator) -> Tensor:
        """The losses (B,) of clips of one size and length."""
        made = self.noised(batch["latents"], batch["modes"], batch["start"], generator)
        own = made.only(self.context.share([made.tokens.shape[1]])[0])
        prediction = self.dit(own.x, own.t, text, own.positions)  # (B, N, P)
        losses = self.losses_of(prediction, own, made)  # (B,)
        self.loss_by_level = made.level, losses.detach() * self.context.size
        return losses

    def packed_losses(
        self, batch: dict[str, Any], text: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The losses of clips of any size and length, as one row of tokens: (B,) or fewer. `token_drop`
        leaves tokens out, fewer and fewer until the end of the training."""
        clips = zip(batch["latents"], batch["modes"], batch["start"], strict=True)
        made = [self.noised(z[None], [mode], start[None], generator) for z, mode, start in clips]
        kept = [self.kept_tokens(each.tokens.shape[1], generator) for each in made]
        made = [each.only(tokens) for each, tokens in zip(made, kept, strict=True)]
        shares = self.context.share([each.tokens.shape[1] for each in made])
        own = [each.only(share) for each, share in zip(made, shares, strict=True)]
        lengths = [each.x.shape[1] for each in own]
        row, t, positions = (
            torch.cat(parts, dim=1)  # (1, N, ...), N tokens of all clips
            for parts in zip(*((each.x, each.t, each.positions) for each in own), strict=True)
        )
        predictions = self.dit(row, t, text, positions, lengths).split(lengths, dim=1)
        clips = zip(predictions, own, made, strict=True)
        shown = [clip for clip in clips if clip[2].unknown > 0]  # all unknown ones may be left out
        losses = torch.cat([self.losses_of(*clip) for clip in shown])  # (B,)
        levels = torch.cat([whole.level for _, _, whole in shown])  # (B,)
        self.loss_by_level = levels, losses.detach() * self.context.size
        return losses

    def losses_of(self, prediction: Tensor, own: "Noised", whole: "Noised") -> Tensor:
        """The losses (B,) of clips, as far as they come from this process's own tokens of them."""
        target, count = self.dit.target, whole.unknown
        return flow_loss(prediction, own.tokens, own.eps, target, own.known, count)

    def kept_tokens(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices of the tokens that are not left out, in order, at least one."""
        share = self.token_drop * (1 - self.progress())
        kept = max(1, round(count * (1 - share)))
        return torch.randperm(count, generator=generator)[:kept].sort().values.to(self.device)

    def noised(
        self, latents: Tensor, modes: list[str], start: Tensor, generator: torch.Generator
    ) -> "Noised":
        """Draws known tokens, levels and noise for latents (B, C, t, h, w)."""
        tokens, positions = tokenize(latents, self.dit.patch)  # (B, N, P), (N, 5)
        known = None
        if set(modes) != {"text"}:
            frames, height, width = latents.shape[2:]
            grid = grid_of((frames, height, width), self.dit.patch)
            drawn = [MODES[mode].known(grid, generator).flatten() for mode in modes]
            known = torch.stack(drawn).to(tokens.device)  # (B, N)
        # windows that begin inside a longer clip count t from 1
        positions = positions + F.pad(start[:, None, None], (0, 4)).to(positions)  # (B, N, 5)
        t = self.levels(tokens, known, generator)  # (B, N)
        eps = torch.randn(tokens.shape, generator=generator).to(tokens)  # (B, N, P)
        return Noised(tokens, eps, t, positions, known)

    def levels(self, tokens: Tensor, known: Tensor | None, generator: torch.Generator) -> Tensor:
        """Noise levels of tokens, (B, N). Known ones are clean in 4 of 5 clips, and slightly noisy in
        the others, so that small errors do no harm when a model goes on from what it has made."""
        count, base = tokens.shape[1], self.defaults.get("base_tokens")
        mean = self.t_mean + (self.t_mean_end - self.t_mean) * self.progress()
        # a shift by s adds log s to the mean of the logits
        mean += math.log(shift_for(count, base)) if base else 0.0
        t = draw_levels(len(tokens), generator, mean, self.t_deviation)  # (B,)
        if known is None:
            return t.to(tokens)[:, None].expand(tokens.shape[:2])  # (B, N)
        drawn = torch.rand(2, len(tokens), generator=generator)  # (2, B)
        slight = torch.where(drawn[0] < 0.2, 0.1 * drawn[1], 0.0)  # (B,)
        return torch.where(known, slight[:, None].to(tokens), t[:, None].to(tokens))  # (B, N)

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        """Logs the oracle's scores of clips sampled for the captions ("val"), and of true clips
        that only went through the VAE ("ceiling"). Writes the first clips as an mp4."""
        if "latents" in batch:
            self.validate_footage(batch, index)
            return
        sora = self.sora()
        generator = draws.generator("validation", self.seed, index, self.ranks.rank)
        frames = sora(batch["captions"], *batch["video"].shape[2:], generator=generator)
        self.log_scores(frames, batch, "val")
        rebuilt = sora.vae.decode(sora.vae.encode(batch["video"].to(self.device)))
        self.log_scores(to_frames(rebuilt), batch, "ceiling")
        if index == 0:
            self.validate_modes(sora, batch, generator)
        if index == 0:
            self.write_samples(frames[:16], batch["captions"][:16])

    def validate_footage(self, batch: dict[str, Any], index: int) -> None:
        """Logs the loss of a held-out window at five noise levels ("val/loss"). Writes as an mp4
        the first window, and what is sampled for its caption."""
        generator = draws.generator("validation", self.seed, index)
        clean, text = batch["latents"], self.text(batch["captions"] * 5)  # (5, L, width)
        tokens, positions = tokenize(clean.repeat(5, 1, 1, 1, 1), self.dit.patch)  # (5, N, P)
        t = torch.linspace(0.1, 0.9, 5).to(tokens)  # (5,)
        eps = torch.randn(tokens.shape, generator=generator).to(tokens)  # (5, N, P)
        noisy = add_noise(tokens, eps, t[:, None].expand(tokens.shape[:2]))  # (5, N, P)
        prediction = self.dit(noisy, t, text, positions)  # (5, N, P)
        loss = flow_loss(prediction, tokens, eps, self.dit.target, None).mean()
        self.log("val/loss", loss, batch_size=1, prog_bar=True, sync_dist=True)
        if index == 0 and not self.trainer.fast_dev_run:
            sora = self.sora()
            true = to_frames(sora.vae.decode(clean))  # (1, T, H, W, 3)
            sampled = sora(batch["captions"], *true.shape[1:4], generator=generator)
            self.write_samples(np.concatenate([true, sampled]), [*batch["captions"] * 2])

    def validate_modes(
        self, sora: Sora, batch: dict[str, Any], generator: torch.Generator
    ) -> None:
        """Logs the scores of clips that go on from parts of true ones ("val-extend")."""
        video = to_frames(batch["video"])  # (B, T, H, W, 3)
        frames, size = video.shape[1], (video.shape[2], video.shape[3])
        for name in sora.trained_on["modes"]:
            if MODES[name].given and frames > GROUP:
                plan, spans = MODES[name].example(frames)
                given, settings = [video[:, span] for span in spans], Settings(generator=generator)
                sampled = sora.sample(plan, batch["captions"], given, size, settings)
                self.log_scores(sampled, batch, f"val-{name.replace(' ', '-')}")

    def write_samples(self, frames: np.ndarray, captions: list[str]) -> None:
        """Writes clips as one mp4 to <root>/samples, their captions beside it, on the first rank."""
        if self.trainer.fast_dev_run or not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.global_step:06d}.mp4"
        scale = 3 if frames.shape[3] < 64 else 1
        video.write(path, video.tile(frames, columns=min(8, len(frames))), fps=8, scale=scale)
        path.with_suffix(".txt").write_text("\n".join(captions) + "\n")

    def sora(self) -> Sora:
        """The video model as trained so far."""
        data = self.trainer.datamodule
        vae = data.view.vae.to(self.device)
        defaults = self.defaults | {"num_frames": data.usual.frames}
        return Sora(vae, self.text, self.dit, data.trained_on, defaults)

    def export(self, folder: Path) -> None:
        self.sora().save(folder)


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


class CaptionerTraining(Training):
    """Trains the captioner on clips and their captions, to write captions and to tell clips apart
    by their texts.

    Half of each batch is shown in false colors, with the words for colors left out of the loss, so
    that shapes and motions are learned whatever their color. `contrast` weighs the contrastive loss
    against captioning; CoCa uses 1/2. `start` is a bundle with a captioner to start from.
    """

    def __init__(
        self,
        captioner: Captioner,
        contrast: float = 0.5,
        start: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_numbers(0, 1000, contrast=contrast)
        if start:
            captioner = with_vocabulary(captioner, weights.load(start, "captioner", Captioner))
            captioner.requires_grad_(True).train()
        self.captioner, self.contrast = captioner, contrast

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self.captioner, self.captioner.blocks

    def check(self, data: ClipData) -> None:
        if data.batch_size < 4:
            raise InputError(
                f"the captioner tells the clips of a batch apart: data.batch_size is {data.batch_size}, "
                "set it to 4 or more"
            )

    def on_fit_start(self) -> None:
        view = self.trainer.datamodule.view
        rich = (caption for captions in view.captions for caption in captions.values())
        captions = [*dict.fromkeys(rich), *view.short_captions]
        self.unseen_pairs = self.captioner.unseen_pairs(
            captions, language.OBJECT_COLORS, language.SHAPE_WORDS
        )
        self.color_words = self.captioner.word_mask(language.COLOR_WORDS)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        generator, captions = self.generator(batch["step"]), batch["captions"]
        pixels = shift_clips(self.captioner.sample_frames(batch["clips"]), generator)
        half = (len(pixels) + 1) // 2
        recolored = in_false_colors(pixels[half:], generator)  # (B / 2, K, 3, size, size)
        words, contrast = self.captioner.losses(pixels[:half], captions[:half], self.unseen_pairs)
        blind = self.captioner.losses(
            recolored, captions[half:], self.unseen_pairs, self.color_words
        )[0]
        self.log_dict({"words": words, "blind": blind, "contrast": contrast}, prog_bar=True)
        return (words + blind) / 2 + self.contrast * contrast

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Logs the share of captions that are right in full ("all"), and how often a clip finds its
        own caption among those of its batch ("recall"): for true clips ("val"), and for the same
        clips after the VAE ("rebuilt")."""
        vae = self.trainer.datamodule.view.vae.to(self.device)
        rebuilt = to_frames(vae.decode(vae.encode(batch["video"])))
        true = [language.in_order(caption) for caption in batch["captions"]]
        for prefix, frames in (("val", to_frames(batch["video"])), ("rebuilt", rebuilt)):
            written = self.captioner(frames)
            right = np.mean([a == b for a, b in zip(written, true, strict=True)])
            nearest = self.captioner.similarity(frames, true).argmax(1).tolist()  # (B,)
            recall = np.mean([true[i] == own for i, own in zip(nearest, true, strict=True)])
            shares = {f"{prefix}/all": float(right), f"{prefix}/recall": float(recall)}
            self.log_shares(shares, len(written))

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, captioner=self.captioner)


def shift_clips(pixels: Tensor, generator: torch.Generator, most: int = 3) -> Tensor:
    """Shifts each clip of (B, K, C, H, W) as a whole by up to `most` pixels along x and y,
    repeating edges. Captions stay true, and each clip has 49 forms instead of one."""
    height, width = pixels.shape[-2:]
    wider = F.pad(pixels, (most, most, most, most, 0, 0), mode="replicate")  # (B, K, C, H+6, W+6)
    corners = torch.randint(2 * most + 1, (len(pixels), 2), generator=generator).tolist()
    cuts = zip(wider, corners, strict=True)
    return torch.stack([clip[..., y : y + height, x : x + width] for clip, (y, x) in cuts])


def in_false_colors(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Permutes red, green and blue of each clip of (B, K, 3, H, W) and inverts some of them."""
    count = len(pixels)
    order = torch.rand(count, 3, generator=generator).argsort(dim=1)  # a permutation a clip
    sign = 2.0 * torch.randint(2, (count, 3), generator=generator) - 1  # -1 inverts
    channels = pixels[torch.arange(count)[:, None], :, order]  # (B, 3, K, H, W)
    return (channels * sign.to(pixels)[..., None, None, None]).transpose(1, 2)


class UpsamplerTraining(Training):
    """Trains the prompt upsampler on short prompts and the rich captions behind them."""

    def __init__(self, upsampler: Upsampler, **options: Any) -> None:
        super().__init__(**options)
        self.upsampler = upsampler

    def optimized(self) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
        return self.upsampler, self.upsampler.blocks

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        loss = self.upsampler.loss(batch["short"], batch["rich"])
        self.log("loss", loss, prog_bar=True, batch_size=len(batch["short"]))
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Logs how often the first draw is a complete caption that keeps what the prompt means."""
        generator = draws.generator("validation", self.seed, 0)
        drawn = self.upsampler.draw(batch["short"], generator)
        pairs = zip(map(self.upsampler.meaning, batch["short"]), drawn, strict=True)
        kept = [language.keeps(meant, rich) for meant, rich in pairs]
        self.log_shares({f"val/{batch['words']}": float(np.mean(kept))}, len(kept))

    def export(self, folder: Path) -> None:
        weights.save(folder, {}, upsampler=self.upsampler)
