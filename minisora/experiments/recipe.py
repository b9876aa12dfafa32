"""What does the recipe of configs/toy/dit.yaml rest on? One change at a time.

A change of training is a run of its own. If its steps take longer it makes fewer, so that all runs
take about the same time; differences under 5% are left alone. A change of sampling needs no
training: it samples the baseline.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora import weights, world
from minisora.experiments import runs
from minisora.experiments.runs import (
    Run,
    alone,
    fill,
    fit_once,
    fresh_clips,
    score,
    write_captions,
)
from minisora.metrics import markdown
from minisora.vae import VAE, to_pixels
from minisora.weights import fingerprint, shipped

RESULTS = runs.RESULTS / "recipe.jsonl"
COLUMNS = {
    "change": "change",
    "steps": "steps",
    "motion": "motion",
    "shape": "shape",
    "clean": "clean",
    "all": "all right",
    "each": "each seed",
}


def toy_vae(channels: int) -> Path:
    """The VAE of configs/toy/vae.yaml with so many latent channels."""
    flags = ["--model.vae.channels", str(channels)]
    return fit_once("vae", flags, runs.FOLDER / f"vae-{channels}", {})


def rescaled_vae(power: float) -> Path:
    """The shipped VAE with its latent channels rescaled: their standard deviations are the old ones
    to the `power`, with the same mean square over channels. It decodes to the same pixels."""
    folder = runs.FOLDER / f"vae-power-{power:g}-{fingerprint(shipped(), 'vae')}"
    with alone(folder):
        if not (folder / "config.json").exists():
            vae = weights.load(shipped(), "vae", VAE)
            deviations = channel_deviations(vae)
            rescale_channels(vae, power_scale(deviations, power))
            weights.save(folder, {}, vae=vae)
    return folder


@torch.inference_mode()
def channel_deviations(vae: VAE, clips: int = 2000) -> Tensor:
    """The standard deviation of each latent channel over training clips: (C,)."""
    latents = []
    for start in range(0, clips, 50):
        frames = [world.clip(0, index).frames for index in range(start, min(start + 50, clips))]
        latents.append(vae.encode(to_pixels(np.stack(frames))))  # (50, C, t, h, w)
    return torch.cat(latents).transpose(0, 1).flatten(1).std(dim=1)  # (C,)


def power_scale(deviations: Tensor, power: float) -> Tensor:
    """The factors that raise standard deviations to the `power` and keep their mean square."""
    wanted = deviations**power
    return wanted / deviations * (deviations.square().mean() / wanted.square().mean()).sqrt()


@torch.no_grad()
def rescale_channels(vae: VAE, scale: Tensor) -> None:
    """Multiplies latent channels by `scale` (C,) in the encoder and divides by it in the decoder."""
    net: Any = vae  # to mypy, the layers of a Sequential are modules of any kind
    mean = slice(vae.channels)  # the encoder's other outputs are the log-variances
    for layer in (net.encode_linear, net.encoder[-1]):
        layer.weight[mean] *= scale.view(-1, 1, 1, 1, 1)  # (C, inputs, 1, 1, 1)
        layer.bias[mean] *= scale  # (C,)
    net.encoder[-1].bias[vae.channels :] += 2 * scale.log()  # (C,)
    for layer in (net.decode_linear, net.decoder[0]):
        layer.weight /= scale.view(-1, 1, 1, 1)  # (outputs, C, 1, 1, 1)


def bare(caption: str) -> str:
    """A caption without its function words: "a red circle growing on a black background" -> "red
    circle growing black"."""
    return " ".join(word for word in caption.split() if word not in ("a", "on", "background"))


def bare_captions(seed: int) -> Path:
    """The training clips' captions, bare. An image gets the caption of its clip."""
    return write_captions(seed, lambda _, caption: bare(caption))


def adamw(rate: str) -> tuple[str, ...]:
    return ("--model.optimizer", "adamw", "--model.adam_lr", rate)


def fixed_noise(mean: str) -> tuple[str, ...]:
    return ("--model.t_mean", mean, "--model.t_mean_end", mean)


POSITIONS = "minisora.variants.positions"
NO_DROP = ("--model.text_drop", "0", "--model.guidance_scale", "1")
EQUAL = "all channels scaled to equal standard deviation"

BASELINE = Run("baseline", "baseline")
TRAINING = [
    BASELINE,
    Run("predict-x", "predict x", ("--model.dit.target", "x")),
    Run("predict-eps", "predict eps", ("--model.dit.target", "eps")),
    Run("noise-mean-0", "noise mean fixed at 0", fixed_noise("0")),
    Run("noise-mean-1", "noise mean fixed at 1", fixed_noise("1")),
    Run("noise-mean-2", "noise mean fixed at 2", fixed_noise("2")),
    Run("no-rotary", "no rotary position embedding", ("--model.dit", f"{POSITIONS}.NoRotations")),
    Run(
        "no-absolute",
        "no absolute position embedding",
        ("--model.dit", f"{POSITIONS}.NoPositionEmbedding"),
    ),
    Run("vae-4", "toy VAE, 4 channels", vae=partial(toy_vae, 4)),
    Run("vae-8", "toy VAE, 8 channels", vae=partial(toy_vae, 8)),
    Run("vae-16", "toy VAE, 16 channels", vae=partial(toy_vae, 16)),
    Run("vae-32", "toy VAE, 32 channels", vae=partial(toy_vae, 32)),
    Run("equal-channels", EQUAL, vae=partial(rescaled_vae, 0.0)),
    Run("squared-channels", "standard deviations squared", vae=partial(rescaled_vae, 2.0)),
    Run("patch-1x1x1", "patch 1 x 1 x 1", ("--model.dit.patch", "[1, 1, 1]"), steps=540 / 2100),
    Run("patch-1x4x4", "patch 1 x 4 x 4", ("--model.dit.patch", "[1, 4, 4]"), steps=4012 / 2100),
    Run("muon-0.01", "Muon, learning rate 0.01", ("--model.lr", "0.01")),
    Run("muon-0.06", "Muon, learning rate 0.06", ("--model.lr", "0.06")),
    Run("adamw-0.002", "AdamW, learning rate 0.002", adamw("0.002"), steps=2400 / 2100),
    Run("adamw-0.004", "AdamW, learning rate 0.004", adamw("0.004"), steps=2400 / 2100),
    Run("adamw-0.008", "AdamW, learning rate 0.008", adamw("0.008"), steps=2400 / 2100),
    Run("batch-16", "batch size 16", ("--data.batch_size", "16"), steps=3174 / 2100),
    Run("batch-64", "batch size 64", ("--data.batch_size", "64"), steps=1256 / 2100),
    Run("no-ema", "no weight averaging (EMA)", ("--model.average", "0")),
    Run("bare-captions", "captions without function words", captions=bare_captions, prompt=bare),
    Run(
        "no-text-blocks", "no text encoder blocks", ("--model.text.depth", "0"), steps=2298 / 2100
    ),
    Run("keep-text", "never drop text, no guidance", NO_DROP),
    Run("drop-text-30", "drop text in 30%", ("--model.text_drop", "0.3")),
    Run("192x2", "width 192, depth 2", ("--model.dit.size", "192x2")),
    Run("128x4", "width 128, depth 4", ("--model.dit.size", "128x4")),
]


def guidance(scale: float) -> dict[str, float]:
    return {"guidance_scale": scale, "guidance_until": 0.0}


SAMPLING = [  # of the baseline
    Run("no-guidance", "no guidance", sampling={"guidance_scale": 1.0}),
    Run("guidance-1.5", "guidance 1.5 at all noise levels", sampling=guidance(1.5)),
    Run("guidance-2", "guidance 2 at all noise levels", sampling=guidance(2.0)),
    Run("guidance-3", "guidance 3 at all noise levels", sampling=guidance(3.0)),
    Run("shift-3", "sample with shift 3", sampling={"shift": 3.0}),
    Run("16-steps", "16 Euler steps", sampling={"num_inference_steps": 16}),
    Run("heun", "8 Heun steps", sampling={"sampler": "heun"}),
]
RUNS = TRAINING + SAMPLING


def run(
    seeds: list[int], steps: int, prompts: int, only: list[str], results: Path = RESULTS
) -> str:
    """Runs what the results lack for the shipped VAE, each about as long as `steps` of the baseline
    take; returns the table."""
    settings = {"budget": steps, "prompts": prompts, "vae": fingerprint(shipped(), "vae")}
    clips = fresh_clips(prompts)

    def measure(change: Run, seed: int) -> dict[str, Any]:
        trained = BASELINE if change.sampling else change
        bundle = runs.train("recipe", trained, seed, steps)
        right = score(bundle, clips, change.prompt, change.sampling)
        return {"steps": round(steps * change.steps), **right}

    fill(results, runs.chosen(RUNS, only), seeds, settings, measure)
    return table(runs.found(results, **settings))


def table(rows: list[dict[str, Any]]) -> str:
    """Percent right of held-out pairs, the mean over seeds, and "all" of each seed: a dash if it
    was not run. Of two results for a run and a seed, the later one counts."""
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for change in RUNS:
        by_seed = {row["seed"]: row for row in rows if row["run"] == change.slug}
        if by_seed:
            lines.append({"change": change.label, **summary(by_seed, seeds)})
    return markdown(lines, COLUMNS)


def summary(by_seed: dict[int, dict[str, Any]], seeds: list[int]) -> dict[str, str]:
    """The cells of a run: means over its seeds, and every seed."""
    names = ("steps", "motion", "shape", "clean", "all")
    means = {name: statistics.mean(row[name] for row in by_seed.values()) for name in names}
    cells = {name: f"{mean:.0f}" + "%" * (name != "steps") for name, mean in means.items()}
    each = (f"{by_seed[seed]['all']:.1f}" if seed in by_seed else "-" for seed in seeds)
    return {**cells, "each": ", ".join(each)}
