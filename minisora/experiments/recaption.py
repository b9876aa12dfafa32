"""The report's "Language understanding": do synthetic captions make a better model?

Three transformers learn from the same clips for as many steps. The first is told what people wrote,
the second mostly what the captioner says, the third the truth. They are asked with rich prompts, with
short ones, and with the short ones upsampled; of a short one, only what it names has to be right.
"""

import copy
from typing import Any

import numpy as np
import torch

from minisora.data import LatentData, read_captions
from minisora.evaluate import named_right, sample
from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    alone,
    cached_latents,
    found,
    fresh_clips,
    interval,
    keep,
    train,
)
from minisora.pipeline import Sora
from minisora.recaption import recaption
from minisora.upsampler import Upsampler
from minisora.weights import fingerprint, shipped
from minisora.world import Clip, describe

ARMS = {"what people wrote": "human", "95% synthetic": "caption", "the truth": ""}
RESULTS = ROOT / "configs" / "recaption.jsonl"


def run(seeds: list[int], steps: int, prompts: int) -> str:
    """Runs what the results do not hold yet for the shipped VAE; returns the table."""
    settings: dict[str, Any] = {"steps": steps, "prompts": prompts}
    settings |= {name: fingerprint(shipped(), name) for name in ("vae", "captioner")}
    for seed in seeds:
        for arm, kind in ARMS.items():
            run = {"captions": arm, "seed": seed, **settings}
            if found(RESULTS, **run):
                continue
            sora = train(Recipe.from_config(), told(kind), seed, steps)
            clips = fresh_clips(sora, prompts)
            keep(RESULTS, **run, **answers(sora, clips))
    return table(found(RESULTS, **settings), seeds)


def told(kind: str) -> LatentData:
    """The clips with captions of that kind, "" for the truth; an image has that of its clip."""
    data = copy.copy(cached_latents())
    if kind:
        name = f"captions-{data.clips}-{fingerprint(shipped(), 'captioner')}.jsonl"
        path = ROOT / "runs" / "experiments" / name
        with alone(path):
            recaption(str(path), clips=data.clips)
        data.captions = read_captions(str(path), kind)[1]
    data.image_captions = data.captions
    return data


def answers(sora: Sora, clips: list[Clip]) -> dict[str, list[int]]:
    """Of each clip's prompts: 1 if the sampled clip shows all that is named, else 0."""
    rich, short = [clip.caption for clip in clips], [clip.short_caption for clip in clips]
    upsampled = Upsampler.from_pretrained()(short, torch.Generator().manual_seed(0))
    right = {}
    for kind, named, prompts in (
        ("rich", rich, rich),
        ("short", short, short),
        ("upsampled", short, upsampled),
    ):
        made = zip(named, sample(sora, prompts), strict=True)
        right[kind] = [int(named_right(prompt, describe(clip))) for prompt, clip in made]
    return right


def table(runs: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent right of each arm, its seeds, and its gain over what people wrote with an interval of
    95% (bootstrap over prompts, and over seeds)."""
    lines = ["| captions | prompts | right | each seed | gain |", "|---" * 5 + "|"]
    base = next(iter(ARMS))
    for kind in ("rich", "short", "upsampled"):
        scores = {
            arm: np.array(
                [run[kind] for run in runs if run["captions"] == arm and run["seed"] in seeds]
            )
            for arm in ARMS
        }
        for arm, right in scores.items():
            each = ", ".join(f"{100 * share:.1f}" for share in right.mean(1))
            low, high = interval(right - scores[base])
            gain = 100 * (right - scores[base]).mean()
            said = "" if arm == base else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
            lines.append(f"| {arm} | {kind} | {100 * right.mean():.1f}% | {each} | {said} |")
    return "\n".join(lines)
