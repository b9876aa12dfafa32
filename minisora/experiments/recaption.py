"""The report's "Language understanding": do synthetic captions make a better model?

Three transformers learn from the same clips for the same number of steps: from captions as people
write them, from captions of which the captioner wrote 95%, and from the true ones. They are asked
with rich prompts, with short ones, and with the short ones upsampled. A clip is right if it shows
all that the prompt names; an upsampled prompt counts as the short one it came from.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minisora.evaluate import sample_clips
from minisora.experiments import runs
from minisora.experiments.runs import CLIPS, Run, alone, fill, found, fresh_clips, interval
from minisora.metrics import markdown
from minisora.recaption import recaption_clips
from minisora.sora import Sora
from minisora.upsampler import Upsampler
from minisora.views import read_captions
from minisora.weights import fingerprint, shipped
from minisora.world import Clip, describe
from minisora.world.language import named_right


def captions_file(kind: str, seed: int, clips: int = CLIPS) -> Path:
    """Captions of the training clips: "human", "synthetic" (95% of them) or "true". An image gets
    the caption of its clip."""
    if kind == "true":
        return runs.write_captions(seed, lambda _, caption: caption, clips)
    name = f"recaptioned-{clips}-{seed}-{fingerprint(shipped(), 'captioner')}.jsonl"
    path = runs.FOLDER / name
    with alone(path):
        recaption_clips(str(path), clips=clips, seed=seed)  # goes on where it stopped
    if kind == "synthetic":
        return path
    human = read_captions(str(path), "human")[1]
    return runs.write_captions(seed, lambda index, _: human[index], clips)


RUNS = [
    Run("human", "human captions", captions=partial(captions_file, "human")),
    Run("synthetic", "95% synthetic captions", captions=partial(captions_file, "synthetic")),
    Run("true", "true captions", captions=partial(captions_file, "true")),
]
RESULTS = runs.RESULTS / "recaption.jsonl"
PROMPTS = ("rich", "short", "upsampled")
COLUMNS = {
    "captions": "captions",
    "prompts": "prompts",
    "right": "right",
    "each": "each seed",
    "gain": "gain",
}


def run(
    seeds: list[int], steps: int, prompts: int, only: list[str], results: Path = RESULTS
) -> str:
    """Runs what the results lack for the shipped VAE and captioner; returns the table."""
    settings: dict[str, Any] = {"steps": steps, "prompts": prompts}
    settings |= {name: fingerprint(shipped(), name) for name in ("vae", "captioner")}
    clips = fresh_clips(prompts)

    def measure(arm: Run, seed: int) -> dict[str, Any]:
        bundle = runs.train("recaption", arm, seed, steps)
        return answers(Sora.from_pretrained(bundle, "cpu"), clips)

    fill(results, runs.chosen(RUNS, only), seeds, settings, measure)
    return table(found(results, **settings), seeds)


def answers(sora: Sora, clips: list[Clip]) -> dict[str, list[int]]:
    """For each kind of prompt, a 1 for every clip that shows all that is named, else a 0."""
    rich, short = [clip.caption for clip in clips], [clip.short_caption for clip in clips]
    upsampled = Upsampler.from_pretrained()(short, torch.Generator().manual_seed(0))
    asked = {"rich": (rich, rich), "short": (short, short), "upsampled": (short, upsampled)}
    right = {}
    for kind, (named, prompts) in asked.items():
        pairs = zip(named, sample_clips(sora, prompts), strict=True)
        right[kind] = [int(named_right(text, describe(frames))) for text, frames in pairs]
    return right


def table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent right of each run, each of its seeds, and its gain over human captions with a 95%
    interval (bootstrap over prompts and seeds)."""
    lines = []
    for kind in PROMPTS:
        base = shares(rows, "human", kind, seeds)
        for arm in RUNS:
            if right := shares(rows, arm.slug, kind, seeds):
                gain = "" if arm.slug == "human" else paired_gain(right, base)
                mean = np.mean(list(right.values()))
                each = ", ".join(f"{100 * np.mean(values):.1f}" for values in right.values())
                cells = {"right": f"{100 * mean:.1f}%", "each": each, "gain": gain}
                lines.append({"captions": arm.label, "prompts": kind, **cells})
    return markdown(lines, COLUMNS)


def shares(
    rows: list[dict[str, Any]], slug: str, kind: str, seeds: list[int]
) -> dict[int, list[int]]:
    """The answers of a run to one kind of prompts, by seed."""
    return {row["seed"]: row[kind] for row in rows if row["run"] == slug and row["seed"] in seeds}


def paired_gain(right: dict[int, list[int]], base: dict[int, list[int]]) -> str:
    """Points gained over `base` on the same prompts and seeds, with the interval; empty if they
    have no seed in common."""
    both = [seed for seed in right if seed in base]
    if not both:
        return ""
    gain = np.array([right[seed] for seed in both]) - np.array([base[seed] for seed in both])
    low, high = interval(gain)  # of (seeds, prompts)
    return f"{100 * gain.mean():+.1f} ({low:+.1f} to {high:+.1f})"
