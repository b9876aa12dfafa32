"""Sora: prompts in, clips out. Joins text encoder, transformer, sampler and VAE."""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora import weights
from minisora.device import autocast, best_device
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_numbers
from minisora.patches import Grid, grid_of, positions, unpatchify
from minisora.sampling import SAMPLERS, guided, noise_levels
from minisora.text import Encoder, warn_of_unknown
from minisora.upsampler import Upsampler
from minisora.vae import GROUP, VAE, to_frames


class Sora:
    """A text-to-video model.

    `trained_on` says what its training clips were like: {"worlds": names, "sizes": [[height,
    width]], "durations": frames, "modes": what may be given, "fps"}. `defaults` is how it samples
    best: {"num_inference_steps", "guidance_scale", "guidance_until", "shift", "sampler"}.
    """

    def __init__(
        self,
        vae: VAE,
        text: Encoder,
        dit: DiT,
        trained_on: dict[str, Any],
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
        self.vae, self.text, self.dit = vae, text, dit
        self.trained_on, self.defaults = trained_on, defaults
        self.upsampler_folder: str | Path | None = None  # default: the shipped one

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> "Sora":
        """Loads the shipped weights, or the bundle in `folder`. Raises InputError if they are
        missing, damaged or do not fit."""
        folder = folder or weights.shipped()
        config = weights.read_config(folder)
        vae = weights.load(folder, "vae", VAE)
        text: Any = weights.load(folder, "text", torch.nn.Module)
        dit = weights.load(folder, "dit", DiT)
        if not {"trained_on", "defaults"} <= config.keys():
            raise InputError(
                f"{folder} is no whole model: its config.json lacks trained_on or defaults"
            )
        if wrong := wrong_entries(config["trained_on"], config["defaults"]):
            raise InputError(f"{folder} is damaged: its config.json has no usable {wrong[0]}")
        sora = cls(vae, text, dit, config["trained_on"], config["defaults"])
        sora.upsampler_folder = folder if "upsampler" in config else None
        return sora.to(torch.device(device) if device else best_device())

    def to(self, device: torch.device) -> "Sora":
        for part in (self.vae, self.text, self.dit):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.dit.embed.weight.device

    @cached_property
    def upsampler(self) -> Upsampler:
        """The bundle's own prompt upsampler, else the shipped one; loaded at its first use."""
        return Upsampler.from_pretrained(self.upsampler_folder)

    @property
    def default_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip if nothing else is given."""
        height, width = self.trained_on["sizes"][0]
        return max(self.trained_on["durations"]), height, width

    def save(self, folder: str | Path) -> None:
        config = {"trained_on": self.trained_on, "defaults": self.defaults}
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
        upsample: bool = False,
    ) -> np.ndarray:
        """Samples a clip for each prompt: uint8 (B, num_frames, height, width, 3).

        What is not given is what the weights were trained on: 17 frames of 32 x 32 for the shipped
        ones. Frame counts are rounded up to the next 1 + 4k, and the clip is cut. With `upsample`,
        short prompts are completed first. Warns of words that the model does not know. Raises
        InputError for an empty prompt and for sizes or lengths that it was not trained on.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        num_frames, height, width = self.resolve(prompts, num_frames, height, width)
        steps = self.default("num_inference_steps", num_inference_steps)
        scale = self.default("guidance_scale", guidance_scale)
        check_counts(1, 10_000, num_inference_steps=steps)
        check_numbers(-100, 100, guidance_scale=scale)
        if upsample:
            prompts = self.upsampler.complete(prompts, generator, image=num_frames == 1)
        warn_of_unknown(self.text, [*prompts, negative_prompt], stacklevel=4)

        groups = 1 + math.ceil((num_frames - 1) / GROUP)
        latents = (groups, height // self.vae.space, width // self.vae.space)  # (t, h, w)
        grid = grid_of(latents, self.dit.patch)
        noise = self.noise(len(prompts), grid, generator)  # (B, N, P)
        with autocast(self.device):
            x = self.sample(prompts, negative_prompt, noise, grid, steps, scale)  # (B, N, P)
            video = self.vae.decode(unpatchify(x, grid, self.dit.patch))  # (B, 3, T, H, W)
        return to_frames(video)[:, :num_frames]

    def noise(self, count: int, grid: Grid, generator: torch.Generator | None) -> Tensor:
        """The tokens that sampling starts from (B, N, P). Drawn on the CPU unless the generator is
        elsewhere, so that a seed gives the same clip on every device."""
        numbers = self.vae.channels * math.prod(self.dit.patch)
        shape = (count, math.prod(grid), numbers)
        device = generator.device if generator else "cpu"
        return torch.randn(shape, generator=generator, device=device).to(self.device)

    def sample(
        self,
        prompts: list[str],
        negative_prompt: str,
        noise: Tensor,
        grid: Grid,
        steps: int,
        scale: float,
    ) -> Tensor:
        """Solves the flow from noise (B, N, P) at t = 1 to clean tokens (B, N, P) at t = 0."""
        text = self.text(prompts)  # (B, L, text width)
        null = self.text([negative_prompt] * len(prompts))  # (B, L, text width)
        token_positions = positions(grid, self.device)  # (N, 3)
        velocity = guided(
            lambda x, t, text: self.dit.velocity(x, t, text, token_positions).float(),
            text,
            null,
            scale,
            self.defaults.get("guidance_until", 0.0),
        )
        levels = noise_levels(steps, self.defaults["shift"]).to(self.device)  # (steps + 1,)
        *_, x = SAMPLERS[self.defaults["sampler"]](velocity, noise, levels)
        return x

    def default(self, name: str, given: Any) -> Any:
        return self.defaults[name] if given is None else given

    def resolve(
        self, prompts: list[str], num_frames: int | None, height: int | None, width: int | None
    ) -> tuple[int, int, int]:
        """Frames, height and width, with defaults for what is not given. Raises InputError for an
        empty prompt, and for sizes that were not trained on."""
        if not prompts or not all(map(self.text.has_words, prompts)):
            raise InputError(
                "the prompt is empty: say what to show, "
                'e.g. "a small red circle moving left on a black background"'
            )
        given = zip((num_frames, height, width), self.default_shape, strict=True)
        frames, high, wide = (default if number is None else number for number, default in given)
        most, sizes = max(self.trained_on["durations"]), self.trained_on["sizes"]
        if not 1 <= frames <= most:
            nearest = min(max(frames, 1), most)
            raise InputError(
                f"these weights make 1 to {most} frames, got {frames}: the nearest is {nearest}"
            )
        if [high, wide] not in sizes:
            h, w = min(sizes, key=lambda size: abs(size[0] - high) + abs(size[1] - wide))
            known = ", ".join(f"{h} x {w}" for h, w in sizes)
            raise InputError(
                f"these weights make frames of {known}, got {high} x {wide}: the nearest is {h} x {w}"
            )
        return frames, high, wide


def wrong_entries(trained_on: Any, defaults: Any) -> list[str]:
    """The names of entries of a bundle that `Sora` cannot sample with."""
    if not (isinstance(trained_on, dict) and isinstance(defaults, dict)):
        return ["trained_on" if isinstance(defaults, dict) else "defaults"]

    def are(name: str, is_good: Callable[[Any], bool]) -> bool:  # a list that is not empty
        values = trained_on.get(name)
        return isinstance(values, list) and bool(values) and all(map(is_good, values))

    def is_number(name: str, low: float, high: float, kinds: tuple = (int, float)) -> bool:
        return type(defaults.get(name)) in kinds and low <= defaults[name] <= high

    good = {
        "worlds": are("worlds", lambda world: isinstance(world, str)),
        "sizes": are("sizes", is_size),
        "durations": are("durations", is_length),
        "num_inference_steps": is_number("num_inference_steps", 1, 10_000, (int,)),
        "guidance_scale": is_number("guidance_scale", -100, 100),
        "guidance_until": "guidance_until" not in defaults or is_number("guidance_until", 0, 1),
        "shift": is_number("shift", 1e-3, 1e3),
        "sampler": defaults.get("sampler") in list(SAMPLERS),
    }
    return [name for name in good if not good[name]]


def is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_length, value))


def is_length(value: Any) -> bool:
    """Whether it is a number of frames or pixels that `minisora fit` trains on."""
    return type(value) is int and 1 <= value <= 4096
