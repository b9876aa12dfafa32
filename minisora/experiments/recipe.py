"""What the recipe rests on: one change at a time from configs/toy/dit.yaml.

Changes of training get a run of their own, with fewer steps if its steps take longer and more if they
take less time (differences under 5% are noise); those of sampling share the run without a change.
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    Run,
    cached_latents,
    found,
    fresh_clips,
    keep,
    relative_cost,
    scores,
    toy_vae,
    train,
)
from minisora.training import DiTTraining
from minisora.weights import fingerprint, shipped

RESULTS = ROOT / "configs" / "recipe.jsonl"


def model(**values: object) -> Callable[[Recipe], None]:
    return lambda recipe: recipe.model.update(values)


def setting(**values: object) -> Callable[[Recipe], None]:
    def change(recipe: Recipe) -> None:
        for name, value in values.items():
            setattr(recipe, name, value)

    return change


def adamw(rate: float) -> Callable[[Recipe], None]:
    return setting(
        optimizer=lambda module, _: torch.optim.AdamW(module.parameters(), rate, (0.9, 0.99))
    )


def shaped(width: int, depth: int) -> Callable[[Recipe], None]:
    return setting(size=(width, depth, width // 32))


def latents(channels: int) -> Callable[[Recipe], None]:
    """Of a toy VAE with so many channels, trained for it."""

    def change(recipe: Recipe) -> None:
        recipe.model["channels"] = channels
        recipe.vae = lambda: toy_vae(channels)

    return change


def spread(power: float) -> Callable[[Recipe], None]:
    """Scales the channels so that their deviations are what they were to the `power`, at the same
    mean square over all channels."""

    def scale(deviation: Tensor) -> Tensor:
        wanted = deviation**power
        return wanted / deviation * (deviation.square().mean() / wanted.square().mean()).sqrt()

    return setting(scale=scale)


def no_places(module: DiTTraining) -> None:
    torch.nn.init.zeros_(module.dit.place.weight.requires_grad_(False))
    module.dit.place.bias.requires_grad_(False)


def no_guidance(recipe: Recipe) -> None:
    recipe.model["text_drop"] = 0.0
    recipe.sampling["guidance_scale"] = 1.0


def without_filling(caption: str) -> str:
    """ "a red circle growing on a black background" -> "red circle growing black"."""
    return " ".join(word for word in caption.split() if word not in ("a", "on", "background"))


CHANGES: dict[str, Callable[[Recipe], None]] = {
    "none": lambda recipe: None,
    "asked for x": model(target="x"),
    "asked for eps": model(target="eps"),
    "noise mean 0, fixed": model(t_mean=0.0, t_mean_end=None),
    "noise mean 1, fixed": model(t_mean=1.0, t_mean_end=None),
    "noise mean 2, fixed": model(t_mean=2.0, t_mean_end=None),
    "no rotary positions": setting(prepare=lambda module: module.dit.frequencies.zero_()),
    "no absolute positions": setting(prepare=no_places),
    "a toy VAE's 4 channels": latents(4),
    "a toy VAE's 8 channels": latents(8),
    "a toy VAE's 16 channels": latents(16),
    "a toy VAE's 32 channels": latents(32),
    "channels' deviations to the power 0": spread(0.0),
    "channels' deviations to the power 2": spread(2.0),
    "patches of 1 x 1 x 1": model(patch=(1, 1, 1)),
    "patches of 1 x 4 x 4": model(patch=(1, 4, 4)),
    "Muon 0.01": model(lr=0.01),
    "Muon 0.06": model(lr=0.06),
    "AdamW 0.002": adamw(2e-3),
    "AdamW 0.004": adamw(4e-3),
    "AdamW 0.008": adamw(8e-3),
    "batch 16": setting(batch=16),
    "batch 64": setting(batch=64),
    "no average of the weights": setting(decay=0.0),
    "captions without filling words": setting(caption=without_filling),
    "no text encoder blocks": model(text_depth=0),
    "text never dropped, no guidance": no_guidance,
    "text dropped 30%": model(text_drop=0.3),
    "192 wide, 2 deep": shaped(192, 2),
    "128 wide, 4 deep": shaped(128, 4),
}

SAMPLING: dict[str, dict[str, Any]] = {
    "no guidance": {"guidance_scale": 1.0},
    "guidance 1.5 at all noise levels": {"guidance_scale": 1.5, "guidance_until": 0.0},
    "guidance 2 at all noise levels": {"guidance_scale": 2.0, "guidance_until": 0.0},
    "guidance 3 at all noise levels": {"guidance_scale": 3.0, "guidance_until": 0.0},
    "sampled with shift 3": {"shift": 3.0},
    "16 steps": {"num_inference_steps": 16},
    "8 steps of Heun": {"sampler": "heun"},
}


def run(seeds: list[int], steps: int, prompts: int, only: list[str]) -> str:
    """Runs what the results do not hold yet for the shipped VAE, each as long as `steps` without a
    change take; returns the table of all of them."""
    settings = {"budget": steps, "prompts": prompts, "vae": fingerprint(shipped(), "vae")}
    for seed in seeds:
        for change in only or CHANGES:
            rows = [change, *(SAMPLING if change == "none" else ())]
            if all(found(RESULTS, change=row, seed=seed, **settings) for row in rows):
                continue
            recipe, base = Recipe.from_config(), Recipe.from_config()
            CHANGES[change](recipe)
            data, made = cached_latents(vae=recipe.vae()), steps
            if change != "none":
                usual = cached_latents(vae=base.vae())
                cost = relative_cost(Run(recipe, data, seed), Run(base, usual, seed))
                made = steps if 0.95 < cost < 1.05 else round(steps / cost)
            sora = train(recipe, data, seed, made)
            clips, defaults = fresh_clips(sora, prompts), sora.defaults
            for row in rows:
                sora.defaults = defaults | SAMPLING.get(row, {})
                right = scores(sora, clips, recipe.caption)
                keep(RESULTS, change=row, seed=seed, **settings, steps=made, **right)
    return table(found(RESULTS, **settings))


def table(runs: list[dict[str, Any]]) -> str:
    """Percent right of held-out pairs: the mean over seeds, and every seed's share of all right,
    a dash if it was not run. Of two results for a change and a seed, the later one."""
    seeds = sorted({run["seed"] for run in runs})
    lines = [
        "| change | steps | motion | shape | clean | all right | each seed |",
        "|---" * 7 + "|",
    ]
    for change in (*CHANGES, *SAMPLING):
        each = {run["seed"]: run for run in runs if run["change"] == change}
        if each:
            names = ("steps", "motion", "shape", "clean", "all")
            means = [statistics.mean(run[name] for run in each.values()) for name in names]
            cells = [f"{means[0]:.0f}", *(f"{mean:.0f}%" for mean in means[1:])]
            cells.append(", ".join(f"{each[s]['all']:.1f}" if s in each else "-" for s in seeds))
            lines.append(f"| {change} | {' | '.join(cells)} |")
    return "\n".join(lines)
