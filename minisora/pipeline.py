"""From a canvas to a clip: joins text encoder, transformer, sampler and VAE. What can be asked of
it is in sora.py."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minisora import weights
from minisora.canvas import CANVAS, Canvas, Plan, groups_of
from minisora.captioner import Captioner
from minisora.device import autocast, best_device
from minisora.dit import DiT
from minisora.errors import InputError, check_counts, check_numbers, outside
from minisora.flow import shift_for
from minisora.patches import grid_of, tokenize, unpatchify
from minisora.sampling import SAMPLERS, Velocity, guided, held, noise_levels
from minisora.text import Encoder, warn_of_unknown
from minisora.upsampler import Upsampler
from minisora.vae import VAE, to_frames, to_pixels

MOST_TOKENS = 16_384  # of a clip: what attention can do in a few GB


class Pipeline:
    """The parts of a text-to-video model, and the three steps to a clip: `prepare` makes a canvas of
    what is given, `solve` samples the rest, `decode` turns all tokens into frames.

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
        self.folder: str | Path | None = None  # the bundle that it was loaded from
        # of the bundle's own captioner and upsampler; without, they are the shipped ones
        self.folders: dict[str, str | Path] = {}

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, device: str | torch.device | None = None
    ) -> Self:
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
        pipeline = cls(vae, text, dit, config["trained_on"], config["defaults"])
        pipeline.folder = folder
        pipeline.folders = {name: folder for name in ("captioner", "upsampler") if name in config}
        return pipeline.to(torch.device(device) if device else best_device())

    def to(self, device: torch.device) -> Self:
        for part in (self.vae, self.text, self.dit):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.dit.embed.weight.device

    @property
    def of_footage(self) -> bool:
        """Whether it was trained on real footage, of which captioner, upsampler and oracle know
        nothing: prompts are then read as typed."""
        return "footage" in self.trained_on["worlds"]

    @cached_property
    def upsampler(self) -> Upsampler:
        """The bundle's own prompt upsampler, else the shipped one; loaded at its first use."""
        return Upsampler.from_pretrained(self.folders.get("upsampler"))

    @cached_property
    def captioner(self) -> Captioner:
        """The bundle's own captioner, else the shipped one; loaded at its first use."""
        return Captioner.from_pretrained(self.folders.get("captioner"), self.device)

    @property
    def default_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip if nothing else is given."""
        height, width = self.trained_on["sizes"][0]
        frames = self.defaults.get("num_frames", max(self.trained_on["durations"]))
        return frames, height, width

    def save(self, folder: str | Path) -> None:
        config = {"trained_on": self.trained_on, "defaults": self.defaults}
        weights.save(folder, config, vae=self.vae, text=self.text, dit=self.dit)

    def sample(
        self,
        plan: Plan,
        prompts: list[str],
        given: list[np.ndarray],
        size: tuple[int, int],
        settings: "Settings",
    ) -> np.ndarray:
        """Samples a plan for each prompt: uint8 (B, T, H, W, 3). given: clips of one length and
        size, a batch (B, T, H, W, 3) for each source of the plan.

        Three steps: known frames become tokens, the rest is sampled, all tokens become frames.
        """
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
        latents = self.empty_latents(count, plan.groups, size)  # (B, C, t, h, w)
        for at, span in plan.given:
            frames = given[span.source][:, span.start : span.stop]  # (B, n, H, W, 3)
            held = np.repeat(frames[:, -1:], len(span) - frames.shape[1], axis=1)
            video = to_pixels(np.concatenate([frames, held], axis=1)).to(self.device)
            if at:  # whole groups: a frame before them, whose latent is left out
                video = torch.cat([video[:, :, :1], video], dim=2)
            encoded = self.vae.encode(video)[:, :, bool(at) :]  # (B, C, n, h, w)
            first = groups_of(at)
            latents[:, :, first : first + encoded.shape[2]] = encoded.to(latents)
        return self.canvas_of(latents, plan.known_groups())

    def empty_latents(self, count: int, groups: int, size: tuple[int, int]) -> Tensor:
        """Zeros for `count` clips of so many groups and pixels: (B, C, t, h, w)."""
        height, width = (side // self.vae.space for side in size)
        return torch.zeros(count, self.vae.channels, groups, height, width, device=self.device)

    def canvas_of(self, latents: Tensor, known_groups: Tensor, start: int = 0) -> Canvas:
        """Latents (B, C, t, h, w) as a canvas, with the groups (t,) that are known. Its first group
        is number `start` of a clip: 0 for one of a single frame, else 1."""
        grid = grid_of((latents.shape[2], latents.shape[3], latents.shape[4]), self.dit.patch)
        tokens, where = tokenize(latents, self.dit.patch)  # (B, N, P), (N, 5)
        where = where + F.pad(where.new_tensor([start]), (0, 4))  # (N, 5), later by `start`
        known = known_groups[:: self.dit.patch[0]]  # (t,)
        known = known[:, None].expand(-1, grid[1] * grid[2]).reshape(1, -1)  # (1, N)
        return Canvas(tokens, known.expand(len(latents), -1).to(self.device), where, grid)

    def velocity(self, canvas: Canvas, prompts: list[str], settings: "Settings") -> Velocity:
        """The velocity that the prompts ask for, guided, of the canvas's unknown tokens."""
        scale = self.default("guidance_scale", settings.guidance_scale)
        text = self.text(prompts)  # (B, L, text width)
        null = self.text([settings.negative_prompt] * len(prompts))  # (B, L, text width)
        velocity = guided(
            lambda x, t, text: self.dit.velocity(x, t, text, canvas.positions).float(),
            text,
            null,
            scale,
            self.defaults.get("guidance_until", 0.0),
        )
        return held(velocity, canvas.known)

    def levels(self, canvas: Canvas, settings: "Settings", start: float = 1.0) -> Tensor:
        """Noise levels from `start` to 0: (steps + 1,)."""
        steps = self.default("num_inference_steps", settings.num_inference_steps)
        shift = self.defaults["shift"]
        if base := self.defaults.get("base_tokens"):
            shift *= shift_for(canvas.tokens.shape[1], base)
        return start * noise_levels(steps, shift).to(self.device)  # (steps + 1,)

    def solve(
        self, canvas: Canvas, prompts: list[str], settings: "Settings", start: float = 1.0
    ) -> Canvas:
        """Samples the unknown tokens: solves the flow from noise, of level `start`, to data."""
        velocity, levels = (
            self.velocity(canvas, prompts, settings), self.levels(canvas, settings, start),
        )  # fmt: skip
        x = canvas.with_noise(self.noise(canvas.tokens, settings.generator), start)  # (B, N, P)
        return canvas.solved(self.follow(velocity, x, levels))

    def follow(self, velocity: Velocity, x: Tensor, levels: Tensor) -> Tensor:
        """Follows a velocity from tokens x (B, N, P) down the noise levels, to the end."""
        *_, x = SAMPLERS[self.defaults["sampler"]](velocity, x, levels)
        return x

    def decode(self, canvas: Canvas) -> Tensor:
        """The frames of a canvas, all of whose tokens are known: (B, 3, T, H, W)."""
        return self.vae.decode(self.latents_of(canvas))

    def latents_of(self, canvas: Canvas) -> Tensor:
        """The tokens of a canvas as latents (B, C, t, h, w)."""
        return unpatchify(canvas.tokens, canvas.grid, self.dit.patch)

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
        self.check_sides(high, wide)
        check_counts(1, 10**6, num_frames=frames)
        self.check_tokens(frames, high, wide)
        return frames, high, wide

    def check_tokens(self, frames: int, high: int, wide: int) -> None:
        """Raises InputError if a clip has more tokens than fit into memory."""
        tokens = groups_of(frames) * high * wide // self.vae.space**2 // math.prod(self.dit.patch)
        if tokens > MOST_TOKENS:
            raise InputError(
                f"{frames} frames of {high} x {wide} are {tokens:,} tokens, "
                f"the most is {MOST_TOKENS:,}: make the clip shorter or smaller"
            )

    def check_sides(self, height: int, width: int) -> None:
        """Raises InputError unless both are multiples of 8 (or of what the parts need)."""
        multiple = max(8, self.vae.space * math.lcm(*self.dit.patch[1:]))
        for name, side in (("height", height), ("width", width)):
            if side < multiple or side % multiple:
                near = multiple * max(1, round(side / multiple))
                raise InputError(
                    f"{name} must be a multiple of {multiple}, got {side}: the nearest is {near}"
                )

    def warn(
        self, plan: Plan, prompts: list[str], size: tuple[int, int], settings: "Settings"
    ) -> None:
        """Warns of words that the model does not know, of a size that was not trained on, and of a
        length outside of those trained on (between them quality is between theirs, measured). The
        length is the canvas's: given frames that do not stand on it do not count."""
        warn_of_unknown(self.text, [*prompts, settings.negative_prompt])
        (height, width), total = size, sum(map(len, plan.result))
        groups = [groups_of(number) for number in self.trained_on["durations"]]
        new = [f"{height} x {width}"] if [height, width] not in self.trained_on["sizes"] else []
        if not min(groups) <= plan.groups <= max(groups):
            new += [f"{min(total, plan.length)} frames"]
        if new:
            message = f"not trained on {' or '.join(new)}: it may look worse"
            warnings.warn(message, stacklevel=outside())


@dataclass(frozen=True)
class Settings:
    """How a clip is sampled; None stands for the model's default. Raises InputError for impossible
    numbers."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.num_inference_steps is not None:
            check_counts(1, 10_000, num_inference_steps=self.num_inference_steps)
        if self.guidance_scale is not None:
            check_numbers(-100, 100, guidance_scale=self.guidance_scale)


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
        "modes": are("modes", lambda mode: isinstance(mode, str)),
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
