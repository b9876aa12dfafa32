"""Short trainings that can be compared: the recipe of configs/toy/dit.yaml with one thing changed,
the same computing time for each.

Time is counted in seconds of the processor on one thread, and 2 of them make one second of a
machine with two cores. So two runs can share such a machine, and other programs do no harm.
"""

import csv
import json
import statistics
import time
from collections.abc import Callable, Iterable
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
from minisora.metrics import oracle_scores
from minisora.pipeline import Sora
from minisora.training import DiTTraining

ROOT = Path(__file__).parents[2]
COLUMNS = ["change", "seed", "minutes", "steps", "motion", "shape", "clean", "all"]


@dataclass
class Recipe:
    """The toy config, with everything that an experiment may change."""

    model: dict[str, Any]
    batch: int
    decay: float  # of the average of the weights
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
        return cls(dict(config["model"]), config["data"]["batch_size"], average)


def cached_latents(clips: int = 24_000, pairs: float = 0.0) -> LatentData:
    """Latents of the shipped VAE, a share `pairs` of two objects, kept in runs/experiments."""
    data = LatentData(str(ROOT / "data" / "weights"), clips, shorter=0.15, pairs=pairs)
    path = ROOT / "runs" / "experiments" / f"latents-{clips}-{pairs:g}.pt"
    kept = ("latents", "captions", "image_captions")
    if path.exists():
        data.__dict__.update(torch.load(path))
    else:
        data.setup("fit")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: getattr(data, name) for name in kept}, path)
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
    makes = dict(zip(("num_frames", "height", "width"), data.shape, strict=True))
    vae = data.vae
    if not torch.equal(scale, torch.ones_like(scale)):
        vae = Rescaled(vae, scale)  # type: ignore[assignment]
    return Sora(vae, module.text, module.dit, makes, module.defaults | recipe.sampling), step


class Rescaled:
    """A VAE whose latents were multiplied by `scale`."""

    def __init__(self, vae: Any, scale: Tensor) -> None:
        self.vae, self.scale = vae, scale
        self.channels, self.space = vae.channels, vae.space

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.scale)


def sampled(sora: Sora, prompts: list[str]) -> np.ndarray:
    """Clips for the prompts, always from the same noise."""
    draws = torch.Generator().manual_seed(0)
    parts = [sora(prompts[i : i + 32], generator=draws) for i in range(0, len(prompts), 32)]
    return np.concatenate(parts)


def fresh_clips(sora: Sora, count: int, scene: Any = world) -> list[world.Clip]:
    """Clips that no run was trained on, of held-out pairs of shape and color."""
    size = (sora.makes["num_frames"], sora.makes["height"], sora.makes["width"])
    return [scene.clip(VALIDATION_SEED + 7, i, *size, "held_out") for i in range(count)]


def score(sora: Sora, recipe: Recipe, prompts: int) -> dict[str, float]:
    """The oracle's scores of held-out pairs, in percent."""
    clips = fresh_clips(sora, prompts)
    frames = sampled(sora, [recipe.caption(clip.caption) for clip in clips])
    scores = oracle_scores(frames, [clip.truth for clip in clips])
    return {name: round(100 * value["right"], 1) for name, value in scores.items()}


def compare(
    changes: dict[str, Callable[[Recipe], None]],
    wanted: Iterable[str],
    seeds: Iterable[int],
    minutes: float,
    prompts: int,
    path: Path,
) -> None:
    """Runs what the results in `path` do not hold yet, and adds it there."""
    data = cached_latents()
    for seed in seeds:
        for name in wanted:
            if any(row["change"] == name and row["seed"] == str(seed) for row in rows(path)):
                continue
            recipe = Recipe.from_config()
            changes[name](recipe)
            sora, steps = train(recipe, data, seed, minutes)
            scores = score(sora, recipe, prompts)
            new = not path.exists()
            with open(path, "a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                if new:
                    writer.writeheader()
                writer.writerow(
                    {"change": name, "seed": seed, "minutes": minutes, "steps": steps, **scores}
                )


def results(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def keep(path: Path, key: str, result: dict[str, Any]) -> None:
    """Adds a run's result to a JSON file that other runs may have written to meanwhile."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(entry)}"
        for name, entry in {**results(path), key: result}.items()
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path, names: Iterable[str]) -> str:
    """The results as Markdown: the mean over seeds, and every seed's share of clips all right."""
    lines = [
        "| change | steps | motion | shape | clean | all right | each seed |",
        "|---" * 7 + "|",
    ]
    for name in names:
        found = [row for row in rows(path) if row["change"] == name]
        if found:
            means = [
                statistics.mean(float(row[column]) for row in found) for column in COLUMNS[3:]
            ]
            each = ", ".join(row["all"] for row in found)
            cells = [f"{means[0]:.0f}", *(f"{mean:.0f}%" for mean in means[1:])]
            lines.append(f"| {name} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)
