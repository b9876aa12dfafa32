"""Sora: prompts in, clips out. Joins text encoder, transformer, sampler and VAE."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from minisora import weights
from minisora.canvas import (
    CANVAS,
    Canvas,
    Plan,
    animate,
    connect,
    extend,
    extend_backward,
    from_text,
    groups_of,
)
from minisora.device import autocast, best_device
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_frames, check_numbers
from minisora.flow import shift_for
from minisora.patches import grid_of, tokenize, unpatchify
from minisora.sampling import SAMPLERS, guided, held, noise_levels
from minisora.text import Encoder, warn_of_unknown
from minisora.upsampler import Upsampler
from minisora.vae import GROUP, VAE, to_frames, to_pixels

MOST_TOKENS = 16_384  # of a clip: what attention can do in a few GB


class Sora:
    """A text-to-video model.

    `trained_on` says what its training clips were like: {"worlds": names, "sizes": [[height,
    width]], "durations": frames, "modes": what may be given, "fps"}. `defaults` is how it samples
    best: {"num_inference_steps", "guidance_scale", "guidance_until", "shift", "sampler"}, with
    "base_tokens" if the shift grows with the number of tokens, and its usual "num_frames".
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
        frames = self.defaults.get("num_frames", max(self.trained_on["durations"]))
        return frames, height, width

    def save(self, folder: str | Path) -> None:
        config = {"trained_on": self.trained_on, "defaults": self.defaults}
        weights.save(folder, config, vae=self.vae, text=self.text, dit=self.dit)

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

        What is not given is the first size and the usual length that the weights were trained on:
        17 frames of 32 x 32 for the shipped ones. Other sizes (multiples of 8) and lengths are made
        too, with a warning if they were not trained on. With `upsample`, short prompts are
        completed first. Warns of words that the model does not know. Raises InputError for an empty
        prompt and for impossible sizes or lengths.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        num_frames, height, width = self.resolve(prompts, num_frames, height, width)
        if upsample:
            prompts = self.upsampler.complete(prompts, generator, image=num_frames == 1)
        settings = Settings(num_inference_steps, guidance_scale, negative_prompt, generator)
        return self.sample(from_text(num_frames), prompts, [], (height, width), settings)

    def animate(
        self,
        image: np.ndarray,
        prompt: str | list[str],
        num_frames: int | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Clips that begin with an image (H, W, 3): uint8 (B, num_frames, H, W, 3), one a prompt.
        `settings` are those of a call: `num_inference_steps`, `guidance_scale`, `negative_prompt`,
        `generator`. Raises InputError as a call does."""
        image = np.asarray(image)
        check_frames(image, "(H, W, 3)")
        plan = animate(self.default_shape[0] if num_frames is None else num_frames)
        return self.continue_clips(plan, prompt, [image[None]], Settings(**settings))

    def extend(
        self,
        video: np.ndarray,
        prompt: str | list[str],
        num_frames: int,
        direction: Literal["forward", "backward"] = "forward",
        **settings: Any,
    ) -> np.ndarray:
        """Extends a clip (T, H, W, 3) to `num_frames`: uint8 (B, num_frames, H, W, 3), one a
        prompt. The given frames are its beginning, or its end if the direction is "backward".
        Raises InputError as a call does, and for an unknown direction."""
        video = np.asarray(video)
        check_frames(video, "(T, H, W, 3)")
        if direction not in ("forward", "backward"):
            raise InputError(f'a clip is extended "forward" or "backward", not {direction!r}')
        plan = (extend if direction == "forward" else extend_backward)(len(video), num_frames)
        return self.continue_clips(plan, prompt, [video], Settings(**settings))

    def connect(
        self,
        first: np.ndarray,
        second: np.ndarray,
        prompt: str | list[str],
        num_frames: int | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Joins two clips (T, H, W, 3) by new frames, by default 8, to `num_frames` in all: uint8
        (B, num_frames, H, W, 3), one a prompt. Raises InputError as a call does, and if the clips
        differ in size."""
        clips = [np.asarray(first), np.asarray(second)]
        for clip in clips:
            check_frames(clip, "(T, H, W, 3)")
        if clips[0].shape[1:] != clips[1].shape[1:]:
            (_, h, w, _), (_, high, wide, _) = clips[0].shape, clips[1].shape
            raise InputError(
                f"clips to be joined need one size, got {h} x {w} and {high} x {wide}"
            )
        lengths = len(first), len(second)
        plan = connect(*lengths, sum(lengths) + 2 * GROUP if num_frames is None else num_frames)
        return self.continue_clips(plan, prompt, clips, Settings(**settings))

    def continue_clips(
        self, plan: Plan, prompt: str | list[str], clips: list[np.ndarray], settings: "Settings"
    ) -> np.ndarray:
        """Samples what a plan leaves open of given clips (T, H, W, 3), once for each prompt."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _, height, width = self.resolve(prompts, plan.length, *clips[0].shape[1:3])
        given = [np.repeat(clip[None], len(prompts), axis=0) for clip in clips]
        return self.sample(plan, prompts, given, (height, width), settings, stacklevel=5)

    def sample(
        self,
        plan: Plan,
        prompts: list[str],
        given: list[np.ndarray],
        size: tuple[int, int],
        settings: "Settings",
        stacklevel: int = 4,
    ) -> np.ndarray:
        """Samples a plan for each prompt: uint8 (B, T, H, W, 3). given: clips of one length and
        size, a batch (B, T, H, W, 3) for each source of the plan. `stacklevel` is that of
        `warnings.warn`: the line that a warning points at.

        Three steps: known frames become tokens, the rest is sampled, all tokens become frames.
        """
        warn_of_unknown(self.text, [*prompts, settings.negative_prompt], stacklevel)
        self.warn_of_untrained(plan, size, stacklevel)
        with torch.inference_mode(), autocast(self.device):
            canvas = self.prepare(plan, given, len(prompts), size)
            canvas = self.solve(canvas, prompts, settings)
            video = self.decode(canvas)  # (B, 3, T, H, W)
        return put_together(plan, to_frames(video), given)

    def prepare(
        self, plan: Plan, given: list[np.ndarray], count: int, size: tuple[int, int]
    ) -> Canvas:
        """The canvas of a plan for `count` prompts: the given frames as tokens, zeros elsewhere.
        Raises InputError if frames are given and a token is more than one group of them."""
        if plan.given and self.dit.patch[0] > 1:
            raise InputError(
                f"patches of this model join {self.dit.patch[0]} groups of frames, "
                "so it goes on from no given frames: use one with patches of 1 in time"
            )
        space, channels = self.vae.space, self.vae.channels
        shape = (plan.groups, size[0] // space, size[1] // space)  # (t, h, w)
        latents = torch.zeros(count, channels, *shape, device=self.device)  # (B, C, t, h, w)
        for at, span in plan.given:
            frames = given[span.source][:, span.start : span.stop]  # (B, n, H, W, 3)
            held = np.repeat(frames[:, -1:], len(span) - frames.shape[1], axis=1)
            video = to_pixels(np.concatenate([frames, held], axis=1)).to(self.device)
            if at:  # whole groups: a frame before them, whose latent is left out
                video = torch.cat([video[:, :, :1], video], dim=2)
            encoded = self.vae.encode(video)[:, :, bool(at) :]  # (B, C, n, h, w)
            first = groups_of(at)
            latents[:, :, first : first + encoded.shape[2]] = encoded.to(latents)
        grid = grid_of(shape, self.dit.patch)
        tokens, where = tokenize(latents, self.dit.patch)  # (B, N, P), (N, 5)
        known = plan.known_groups()[:: self.dit.patch[0]]  # (t,)
        known = known[:, None].expand(-1, grid[1] * grid[2]).reshape(1, -1)  # (1, N)
        return Canvas(tokens, known.expand(count, -1).to(self.device), where, grid)

    def solve(self, canvas: Canvas, prompts: list[str], settings: "Settings") -> Canvas:
        """Samples the unknown tokens: solves the flow from noise at t = 1 to data at t = 0."""
        steps = self.default("num_inference_steps", settings.num_inference_steps)
        scale = self.default("guidance_scale", settings.guidance_scale)
        check_counts(1, 10_000, num_inference_steps=steps)
        check_numbers(-100, 100, guidance_scale=scale)
        text = self.text(prompts)  # (B, L, text width)
        null = self.text([settings.negative_prompt] * len(prompts))  # (B, L, text width)
        velocity = guided(
            lambda x, t, text: self.dit.velocity(x, t, text, canvas.positions).float(),
            text,
            null,
            scale,
            self.defaults.get("guidance_until", 0.0),
        )
        shift = self.defaults["shift"]
        if base := self.defaults.get("base_tokens"):
            shift *= shift_for(canvas.tokens.shape[1], base)
        levels = noise_levels(steps, shift).to(self.device)  # (steps + 1,)
        x = canvas.with_noise(self.noise(canvas.tokens, settings.generator))  # (B, N, P)
        sampler = SAMPLERS[self.defaults["sampler"]]
        *_, x = sampler(held(velocity, canvas.known), x, levels)
        return canvas.solved(x)

    def decode(self, canvas: Canvas) -> Tensor:
        """The frames of a canvas, all of whose tokens are known: (B, 3, T, H, W)."""
        return self.vae.decode(unpatchify(canvas.tokens, canvas.grid, self.dit.patch))

    def noise(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Noise in the shape of tokens (B, N, P). Drawn on the CPU unless the generator is
        elsewhere, so that a seed gives the same clip on every device."""
        device = generator.device if generator else "cpu"
        return torch.randn(like.shape, generator=generator, device=device).to(self.device)

    def default(self, name: str, given: Any) -> Any:
        return self.defaults[name] if given is None else given

    def resolve(
        self, prompts: list[str], num_frames: int | None, height: int | None, width: int | None
    ) -> tuple[int, int, int]:
        """Frames, height and width, with defaults for what is not given. Raises InputError for an
        empty prompt, and for impossible sizes and lengths."""
        if not prompts or not all(map(self.text.has_words, prompts)):
            raise InputError(
                "the prompt is empty: say what to show, "
                'e.g. "a small red circle moving left on a black background"'
            )
        given = zip((num_frames, height, width), self.default_shape, strict=True)
        frames, high, wide = (default if number is None else number for number, default in given)
        multiple = max(8, self.vae.space * math.lcm(*self.dit.patch[1:]))
        for name, side in (("height", high), ("width", wide)):
            if side < multiple or side % multiple:
                near = multiple * max(1, round(side / multiple))
                raise InputError(
                    f"{name} must be a multiple of {multiple}, got {side}: the nearest is {near}"
                )
        check_counts(1, 10**6, num_frames=frames)
        tokens = groups_of(frames) * high * wide // self.vae.space**2 // math.prod(self.dit.patch)
        if tokens > MOST_TOKENS:
            raise InputError(
                f"{frames} frames of {high} x {wide} are {tokens:,} tokens, "
                f"the most is {MOST_TOKENS:,}: make the clip shorter or smaller"
            )
        return frames, high, wide

    def warn_of_untrained(self, plan: Plan, size: tuple[int, int], stacklevel: int) -> None:
        """Warns of a size or a length that was not trained on. The length is the canvas's: given
        frames that do not stand on it do not count."""
        (height, width), total = size, sum(map(len, plan.result))
        groups = {groups_of(number) for number in self.trained_on["durations"]}
        new = [f"{height} x {width}"] if [height, width] not in self.trained_on["sizes"] else []
        new += [f"{min(total, plan.length)} frames"] if plan.groups not in groups else []
        if new:
            warnings.warn(
                f"not trained on {' or '.join(new)}: it may look worse", stacklevel=stacklevel
            )


@dataclass(frozen=True)
class Settings:
    """How a clip is sampled; None stands for the model's default."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    generator: torch.Generator | None = None


def put_together(plan: Plan, sampled: np.ndarray, given: list[np.ndarray]) -> np.ndarray:
    """The result of a plan, (B, T, H, W, 3), from sampled frames and given ones, which are copied."""
    sources = {CANVAS: sampled, **dict(enumerate(given))}
    spans = [sources[span.source][:, span.start : span.stop] for span in plan.result]
    return np.concatenate(spans, axis=1)


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
        "base_tokens": is_length(defaults.get("base_tokens", 1)),
        "num_frames": is_length(defaults.get("num_frames", 1)),
    }
    return [name for name in good if not good[name]]


def is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_length, value))


def is_length(value: Any) -> bool:
    """Whether it is a number of frames or pixels that `minisora fit` trains on."""
    return type(value) is int and 1 <= value <= 4096
