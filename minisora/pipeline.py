"""Sora: prompts in, clips out. Joins text, transformer, sampler and VAE."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora import weights
from minisora.device import autocast, best_device
from minisora.dit import DiT
from minisora.errors import InputError, check_counts
from minisora.patches import grid_of, positions, unpatchify
from minisora.sampling import SAMPLERS, guided, noise_levels
from minisora.text import Encoder, PretrainedEncoder, TextEncoder, warn_of_unknown
from minisora.vae import GROUP, VAE
from minisora.world import pairs


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) -> (B, 3, T, H, W) in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, 1).float() / 127.5 - 1


def to_frames(video: Tensor) -> np.ndarray:
    """(B, 3, T, H, W) in [-1, 1], clipped -> uint8 (B, T, H, W, 3)."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


class Sora:
    """A text-to-video model. `makes` bounds what it was trained to make, `defaults` is how it
    samples best.

    makes: {"num_frames", "height", "width"} and, if 2, "objects"; defaults: {"num_inference_steps",
    "guidance_scale", "shift", "sampler"} and, if not 0, "guidance_until".
    """

    def __init__(
        self,
        vae: VAE,
        text: Encoder,
        dit: DiT,
        makes: dict[str, int],
        defaults: dict[str, Any],
    ) -> None:
        for part, ours, theirs in (
            ("channels of the VAE", vae.channels, dit.config["channels"]),
            ("numbers of a text token", text.width, dit.config["text_width"]),
        ):
            if ours != theirs:
                raise InputError(
                    f"the parts do not fit: the {part} are {ours}, the DiT takes {theirs}"
                )
        self.vae, self.text, self.dit, self.makes, self.defaults = vae, text, dit, makes, defaults

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Sora":
        """Loads the shipped weights, or those in `folder`. Raises InputError if they are missing,
        damaged or do not fit."""
        folder = folder or weights.shipped()
        config = weights.read_config(folder)
        vae = weights.load(folder, "vae", VAE)
        text: Encoder
        if "source" in config.get("text", {}):
            text = weights.load(folder, "text", PretrainedEncoder)
        else:
            text = weights.load(folder, "text", TextEncoder)
        dit = weights.load(folder, "dit", DiT)
        if not {"makes", "defaults"} <= config.keys():
            raise InputError(
                f"{folder} is no whole model: its config.json lacks makes or defaults"
            )
        sora = cls(vae, text, dit, config["makes"], config["defaults"])
        return sora.to(torch.device(device) if device else best_device())

    def to(self, device: torch.device) -> "Sora":
        for part in (self.vae, self.text, self.dit):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.dit.embed.weight.device

    def save(self, folder: str | Path) -> None:
        config = {"makes": self.makes, "defaults": self.defaults}
        weights.save(folder, config, vae=self.vae, text=self.text, dit=self.dit)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Makes a clip for each prompt: uint8 (B, num_frames, height, width, 3).

        What is not given is what the weights were trained for: 17 frames of 32 x 32 for the shipped
        ones. Frame counts are rounded up to the next 1 + 4k, and the clip is cut. Words the model has
        never seen are named in a warning. Raises InputError for an empty prompt and for sizes or
        lengths the model cannot make.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        num_frames = self.makes["num_frames"] if num_frames is None else num_frames
        height = self.makes["height"] if height is None else height
        width = self.makes["width"] if width is None else width
        steps = (
            self.defaults["num_inference_steps"]
            if num_inference_steps is None
            else num_inference_steps
        )
        scale = self.defaults["guidance_scale"] if guidance_scale is None else guidance_scale
        self.check(prompts, num_frames, height, width)
        check_counts(1, num_inference_steps=steps)
        if not math.isfinite(scale):
            raise InputError(f"guidance_scale must be a number, got {scale}")
        warn_of_unknown(self.text, [*prompts, negative_prompt], stacklevel=4)
        if self.makes.get("objects", 1) < 2 and any(map(pairs.parse, prompts)):
            warnings.warn(
                "these weights were trained on one object, the prompt names two", stacklevel=3
            )
        t = 1 + math.ceil((num_frames - 1) / GROUP)
        grid = grid_of((t, height // self.vae.space, width // self.vae.space), self.dit.patch)
        numbers = self.vae.channels * math.prod(self.dit.patch)
        # drawn on the CPU, so that a seed makes the same clip on every device, if not asked otherwise
        where = generator.device if generator else "cpu"
        noise = torch.randn(
            len(prompts), math.prod(grid), numbers, generator=generator, device=where
        )
        device = self.device
        with autocast(device):
            text, null = self.text(prompts), self.text([negative_prompt] * len(prompts))
            place = positions(grid, device)
            velocity = guided(
                lambda x, t, text: self.dit.velocity(x, t, text, place).float(),
                text,
                null,
                scale,
                self.defaults.get("guidance_until", 0.0),
            )
            levels = noise_levels(steps, self.defaults["shift"]).to(device)
            *_, x = SAMPLERS[self.defaults["sampler"]](velocity, noise.to(device), levels)
            video = self.vae.decode(unpatchify(x, grid, self.dit.patch))
        return to_frames(video)[:, :num_frames]

    def check(self, prompts: list[str], num_frames: int, height: int, width: int) -> None:
        """Raises InputError for what the model cannot make."""
        if not prompts or not all(map(self.text.has_words, prompts)):
            raise InputError(
                "the prompt is empty: say what to show, "
                'e.g. "a small red circle moving left on a black background"'
            )
        most = self.makes["num_frames"]
        if not 1 <= num_frames <= most:
            near = min(max(num_frames, 1), most)
            raise InputError(
                f"these weights make 1 to {most} frames, got {num_frames}: the nearest is {near}"
            )
        if (height, width) != (self.makes["height"], self.makes["width"]):
            size = f"{self.makes['height']} x {self.makes['width']}"
            raise InputError(
                f"these weights make frames of {size}, got {height} x {width}: the nearest is {size}"
            )
