"""Training of the networks that write: the captioner and the prompt upsampler."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minisora import draws, weights
from minisora.captioner import Captioner
from minisora.data import ClipData
from minisora.errors import InputError, check_numbers
from minisora.training import Training, with_vocabulary
from minisora.upsampler import Upsampler
from minisora.vae import to_frames
from minisora.world import language


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
