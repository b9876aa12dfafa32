"""Training of the diffusion transformer and its text encoder."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minisora import draws, video
from minisora.canvas import MODES
from minisora.data import VideoData
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_numbers, check_shares
from minisora.flow import add_noise, draw_levels, flow_loss, shift_for
from minisora.parallel import Context, Sharded, mean_over_processes
from minisora.patches import grid_of, tokenize
from minisora.pipeline import Settings
from minisora.sora import Sora
from minisora.text import PretrainedEncoder, TextEncoder, split_words
from minisora.training import Training, load_shared, with_vocabulary
from minisora.vae import GROUP, to_frames


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
        longest = max(data.captions(), key=lambda caption: len(split_words(caption)))
        try:
            self.text([longest])
        except InputError as error:
            shown = longest if len(longest) <= 80 else f"{longest[:80]}..."
            raise InputError(f'{error} or set model.text.length to more ("{shown}")') from None
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
        """The losses of clips of any size and length, as one row of tokens: (B,). `token_drop` leaves
        tokens out, fewer and fewer until the end of the training."""
        clips = zip(batch["latents"], batch["modes"], batch["start"], strict=True)
        made = [self.noised(z[None], [mode], start[None], generator) for z, mode, start in clips]
        kept = [self.kept_tokens(each, generator) for each in made]
        made = [each.only(tokens) for each, tokens in zip(made, kept, strict=True)]
        shares = self.context.share([each.tokens.shape[1] for each in made])
        own = [each.only(share) for each, share in zip(made, shares, strict=True)]
        lengths = [each.x.shape[1] for each in own]
        row, t, positions = (
            torch.cat(parts, dim=1)  # (1, N, ...), N tokens of all clips
            for parts in zip(*((each.x, each.t, each.positions) for each in own), strict=True)
        )
        predictions = self.dit(row, t, text, positions, lengths).split(lengths, dim=1)
        parts = [self.losses_of(*clip) for clip in zip(predictions, own, made, strict=True)]
        losses = torch.cat(parts)  # (B,)
        levels = torch.cat([whole.level for whole in made])  # (B,)
        self.loss_by_level = levels, losses.detach() * self.context.size
        return losses

    def losses_of(self, prediction: Tensor, own: "Noised", whole: "Noised") -> Tensor:
        """The losses (B,) of clips, as far as they come from this process's own tokens of them."""
        target, count = self.dit.target, whole.unknown
        return flow_loss(prediction, own.tokens, own.eps, target, own.known, count)

    def kept_tokens(self, clip: Noised, generator: torch.Generator) -> Tensor:
        """Indices of the tokens of a clip that are not left out, in order, at least an unknown one."""
        count, share = clip.tokens.shape[1], self.token_drop * (1 - self.progress())
        order = torch.randperm(count, generator=generator).to(self.device)
        kept = order[: max(1, round(count * (1 - share)))]
        if clip.known is not None and clip.known[0, kept].all():
            kept[0] = order[~clip.known[0, order]][0]
        return kept.sort().values

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
