"""Short trainings that can be compared: the recipe of configs/toy/dit.yaml with one thing changed,
the same computing time for each.

Time is counted in seconds of the processor on one thread, and 2 of them make one second of a
machine with two cores. So two runs can share such a machine, and other programs do no harm.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from minisora import dit, world
from minisora.data import VALIDATION_SEED, LatentData
from minisora.pipeline import Sora
from minisora.training import DiTTraining
from minisora.weights import fingerprint, shipped

ROOT = Path(__file__).parents[2]


@dataclass
class Recipe:
    """The toy config with guidance 2 at all noise levels, and everything that an experiment may change."""

    model: dict[str, Any]
    batch: int
    decay: float  # of the average of the weights, which looks less far back in early steps
    size: tuple[int, int, int] | None = None  # width, depth, heads
    sampling: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[DiTTraining], torch.optim.Optimizer] = DiTTraining.optimizer
    prepare: Callable[[DiTTraining], None] = lambda module: None
    scale: Callable[[Tensor], Tensor] = lambda deviation: torch.ones_like(deviation)
    caption: Callable[[str], str] = lambda caption: caption

    @classmethod
    def from_config(cls) -> "Recipe":
        config = yaml.safe_load((ROOT / "configs" / "toy" / "dit.yaml").read_text())
        average = config["trainer"]["callbacks"][0]["init_args"]["decay"]
        model = config["model"] | {"guidance": 2.0, "guidance_until": 0.0}
        return cls(model, config["data"]["batch_size"], average)


def cached_latents(clips: int = 24_000, pairs: float = 0.0) -> LatentData:
    """Latents of the shipped VAE, a share `pairs` of two objects, kept in runs/experiments."""
    data = LatentData(str(shipped()), clips, shorter=0.15, pairs=pairs)
    name = f"latents-{clips}-{pairs:g}-{fingerprint(shipped(), 'vae')}.pt"
    path = ROOT / "runs" / "experiments" / name
    kept = ("latents", "captions", "image_captions")
    if path.exists():
        data.__dict__.update(torch.load(path))
    else:
        data.setup("fit")
        data.vae.to("cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        torch.save({name: getattr(data, name) for name in kept}, partial)
        os.replace(partial, path)
    return data


def train(recipe: Recipe, data: LatentData, seed: int, minutes: float) -> tuple[Sora, int]:
    """A model trained for `minutes` of two cores, and its steps. Uses one thread."""
    torch.set_num_threads(1)
    if recipe.size:
        dit.SIZES["experiment"] = recipe.size
        recipe.model["size"] = "experiment"
    module = DiTTraining(**recipe.model, seed=seed)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    recipe.prepare(module)
    deviation = data.latents[:2000].float().std(dim=(0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    scale = recipe.scale(deviation)
    data.seed, data.batch_size = seed, recipe.batch
    optimizer = recipe.optimizer(module)
    rates = [group["lr"] for group in optimizer.param_groups]
    live: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in live]
    budget, started, step, done = 120 * minutes, time.process_time(), 0, 0.0
    module.progress = lambda: done  # type: ignore[method-assign]
    bar = tqdm(total=round(budget), desc=f"seed {seed}", unit="s of one core")
    while done < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min((step + 1) / module.warmup, 1 - done)
        batch = {"step": step, **data.batch(step)}
        batch["latents"] = batch["latents"] * scale
        batch["captions"] = [recipe.caption(caption) for caption in batch["captions"]]
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
        with torch.no_grad():
            late = min(recipe.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, live, 1 - late)
        step += 1
        done = (time.process_time() - started) / budget
        bar.update(min(round(budget), round(done * budget)) - bar.n)
    bar.close()
    with torch.no_grad():
        torch._foreach_copy_(live, averages)
    vae = data.vae
    if not torch.equal(scale, torch.ones_like(scale)):
        vae = Rescaled(vae, scale)  # type: ignore[assignment]
    defaults = module.defaults | recipe.sampling
    return Sora(vae, module.text, module.dit, data.makes, defaults), step


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


def found(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The results in `path`, a line of JSON each, that agree with what is `wanted`, by seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["seed"])
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def keep(path: Path, **row: Any) -> None:
    """Adds a run's result to a file that other runs may be adding to as well."""
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
