"""Short trainings that can be compared: the recipe of configs/toy/dit.yaml with one thing changed.

Their length is counted in steps, not in minutes, so that a slow machine comes to about the same
results as a fast one. They train on one thread, in the precision this CPU is fast at: a machine with
two cores makes two at a time, told to make different ones, and what they share, in runs/experiments,
is made by one while the other waits.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from minisora import dit, world
from minisora.data import VALIDATION_SEED, LatentData
from minisora.device import autocast, fast_bfloat16, keep_memory
from minisora.evaluate import sample
from minisora.files import whole
from minisora.fit import fit
from minisora.metrics import oracle_scores
from minisora.pipeline import Sora
from minisora.training import DiTTraining
from minisora.weights import fingerprint, shipped

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Recipe:
    """The toy config, and everything that an experiment may change."""

    model: dict[str, Any]
    batch: int
    decay: float  # of the average of the weights, which looks less far back in early steps
    size: tuple[int, int, int] | None = None  # width, depth, heads
    vae: Callable[[], Path] = shipped
    sampling: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[DiTTraining, bool], torch.optim.Optimizer] = DiTTraining.optimizer
    prepare: Callable[[DiTTraining], None] = lambda module: None
    scale: Callable[[Tensor], Tensor] = lambda deviation: torch.ones_like(deviation)
    caption: Callable[[str], str] = lambda caption: caption

    @classmethod
    def from_config(cls) -> "Recipe":
        config = yaml.safe_load((ROOT / "configs" / "toy" / "dit.yaml").read_text())
        average = config["trainer"]["callbacks"][0]["init_args"]["decay"]
        return cls(config["model"], config["data"]["batch_size"], average)


def alone(path: Path) -> FileLock:
    """Held by the process that makes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def toy_vae(channels: int) -> Path:
    """The weights of the VAE of configs/toy/vae.yaml with so many latent channels, trained if need
    be."""
    folder = ROOT / "runs" / "experiments" / f"vae-toy-{channels}"
    config = ["--config", str(ROOT / "configs" / "toy" / "vae.yaml"), "--trainer.logger", "false"]
    config += ["--trainer.callbacks", "null", "--trainer.default_root_dir", str(folder)]
    config += ["--model.channels", str(channels)]
    with alone(folder):
        if not (folder / "weights" / "vae.safetensors").exists():
            fit("vae", config)
    return folder / "weights"


@functools.cache
def cached_latents(clips: int = 24_000, pairs: float = 0.0, vae: Path | None = None) -> LatentData:
    """Latents of `vae` (default: the shipped one), a share `pairs` of two objects, kept in
    runs/experiments."""
    vae = vae or shipped()
    data = LatentData(str(vae), clips, shorter=0.15, pairs=pairs)
    name = f"latents-{clips}-{pairs:g}-{fingerprint(vae, 'vae')}.pt"
    path = ROOT / "runs" / "experiments" / name
    kept = ("latents", "captions", "image_captions")
    with alone(path):
        if not path.exists():
            data.setup("fit")
            data.vae.to("cpu")
            with whole(path) as partial:
                torch.save({name: getattr(data, name) for name in kept}, partial)
    data.__dict__.update(torch.load(path))
    return data


class Run:
    """A training of `recipe` that is stepped by hand."""

    def __init__(self, recipe: Recipe, data: LatentData, seed: int) -> None:
        torch.set_num_threads(1)
        keep_memory()
        if recipe.size:
            dit.SIZES["experiment"] = recipe.size
            recipe.model["size"] = "experiment"
        self.recipe, self.data, self.seed, self.count = recipe, data, seed, 0
        self.module = DiTTraining(**recipe.model, seed=seed)
        self.module.check(data)
        self.module.log = lambda *_, **__: None  # type: ignore[method-assign]
        recipe.prepare(self.module)
        deviation = data.latents[:2000].float().std(dim=(0, 2, 3, 4)).view(1, -1, 1, 1, 1)
        self.scale = recipe.scale(deviation)
        self.optimizer = recipe.optimizer(self.module, fast_bfloat16("cpu"))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.live: list[Tensor] = [p for p in self.module.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.live]

    def step(self, done: float) -> None:
        """One step, with the share `done` of the run behind it. Others may step on the same data in
        between."""
        self.module.progress = lambda: done  # type: ignore[method-assign]
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.module.rate(self.count, done)
        self.data.seed, self.data.batch_size = self.seed, self.recipe.batch
        batch = {"step": self.count, **self.data.batch(self.count)}
        batch["latents"] = batch["latents"] * self.scale
        batch["captions"] = [self.recipe.caption(caption) for caption in batch["captions"]]
        self.optimizer.zero_grad()
        with autocast(torch.device("cpu")):
            loss = self.module.training_step(batch, 0)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            late = min(self.recipe.decay, (1 + self.count) / (10 + self.count))
            torch._foreach_lerp_(self.averages, self.live, 1 - late)
        self.count += 1

    def result(self) -> Sora:
        """The model with the average of its weights."""
        with torch.no_grad():
            torch._foreach_copy_(self.live, self.averages)
        vae = self.data.vae
        if not torch.equal(self.scale, torch.ones_like(self.scale)):
            vae = Rescaled(vae, self.scale)  # type: ignore[assignment]
        defaults = self.module.defaults | self.recipe.sampling
        return Sora(vae, self.module.text, self.module.dit, self.data.makes, defaults)


def train(recipe: Recipe, data: LatentData, seed: int, steps: int) -> Sora:
    """A model trained for `steps`."""
    run = Run(recipe, data, seed)
    for step in tqdm(range(steps), desc=f"seed {seed}", unit="step"):
        run.step(step / steps)
    return run.result()


def relative_cost(run: Run, base: Run) -> float:
    """Processor time of a step, relative to one of `base`: the median of 12 in turns."""
    ratios = []
    for _ in range(14):
        seconds = []
        for each in (run, base):
            started = time.process_time()
            each.step(0.0)
            seconds.append(time.process_time() - started)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[2:])  # the first two warm up


class Rescaled:
    """A VAE whose latents were multiplied by `scale`."""

    def __init__(self, vae: Any, scale: Tensor) -> None:
        self.vae, self.scale = vae, scale
        self.channels, self.space = vae.channels, vae.space

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scale)


def fresh_clips(sora: Sora, count: int, scene: Any = world) -> list[world.Clip]:
    """Clips that no run was trained on, of held-out pairs of shape and color."""
    size = (sora.makes["num_frames"], sora.makes["height"], sora.makes["width"])
    return [scene.clip(VALIDATION_SEED + 7, i, *size, "held_out") for i in range(count)]


def scores(
    sora: Sora, clips: list[world.Clip], caption: Callable[[str], str], scene: Any = world
) -> dict[str, float]:
    """Percent right, of every attribute and of all, when the model is asked for `clips`."""
    frames = sample(sora, [caption(clip.caption) for clip in clips])
    right = oracle_scores(frames, [clip.truth for clip in clips], scene)
    return {name: round(100 * score["right"], 1) for name, score in right.items()}


def found(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The results in `path`, a line of JSON each, that agree with what is `wanted`, by seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["seed"])
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def keep(path: Path, **row: Any) -> None:
    """Adds a run's result, and the precision it was trained in, to a file that other runs may be
    adding to as well."""
    row["precision"] = "bfloat16" if fast_bfloat16("cpu") else "float32"
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def interval(shares: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95% of the means, in percent, of (seeds, prompts) drawn again with repetition."""
    rng = np.random.default_rng(0)
    seeds, prompts = shares.shape
    means = [
        shares[rng.integers(seeds, size=seeds)][:, rng.integers(prompts, size=prompts)].mean()
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)
