"""Words that were never trained on: does a text encoder that has read far more text help?

Two transformers learn from the same clips and captions for the same time, one with our small
encoder, one with a frozen MiniLM (Wang et al., "MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers", 2020). Then both are asked with captions and
with paraphrases of the same meaning, which were written down before any training and never trained
on.
"""

import warnings
from typing import Any

import numpy as np

from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    cached_latents,
    found,
    keep,
    sampled,
    train,
)
from minisora.metrics import oracle_scores, wilson
from minisora.pipeline import Sora
from minisora.world.shapes import parse

ENCODERS: dict[str, dict[str, Any]] = {
    "own words": {},
    "MiniLM": {"encoder": "minilm", "text_length": 24},
}
PHRASES = ROOT / "data" / "prompts" / "paraphrases.tsv"
RESULTS = ROOT / "configs" / "paraphrases.jsonl"
TIMES = 4  # clips for each prompt


def run(seeds: list[int], minutes: float) -> str:
    """Runs what the results do not hold yet; returns the table."""
    for seed in seeds:
        for encoder, arguments in ENCODERS.items():
            run = {"encoder": encoder, "seed": seed, "minutes": minutes}
            if found(RESULTS, **run):
                continue
            recipe = Recipe.from_config()
            recipe.model |= arguments
            sora, steps = train(recipe, cached_latents(), seed, minutes)
            keep(RESULTS, **run, steps=steps, **answers(sora))
    return table(found(RESULTS, minutes=minutes), seeds)


def phrases() -> list[tuple[str, str]]:
    """(paraphrase, caption of the same meaning), all there are."""
    lines = PHRASES.read_text().splitlines()[1:]
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


def answers(sora: Sora) -> dict[str, dict[str, float]]:
    """Of the clips for captions and for paraphrases: the shares in which each attribute, "clean"
    and "all" are what is meant."""
    pairs = phrases() * TIMES
    truths = [parse(caption) for _, caption in pairs]
    result = {}
    for i, kind in enumerate(("paraphrases", "captions")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of words that are read as blanks
            scores = oracle_scores(sampled(sora, [pair[i] for pair in pairs]), truths)
        result[kind] = {name: round(score["right"], 4) for name, score in scores.items()}
    return result


def table(kept: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent of clips right, the mean over seeds; of all right also the interval of as many clips,
    and each seed."""
    lines = [
        "| encoder | prompts | color | shape | motion | size | background | all right | each seed |",
        "|---" * 9 + "|",
    ]
    for encoder in ENCODERS:
        runs = [run for run in kept if run["encoder"] == encoder and run["seed"] in seeds]
        for kind in ("captions", "paraphrases"):
            cells = [
                f"{100 * np.mean([run[kind][name] for run in runs]):.0f}%"
                for name in ("color", "shape", "motion", "size", "background")
            ]
            right = [run[kind]["all"] for run in runs]
            clips = len(phrases()) * TIMES * len(runs)
            low, high = wilson(round(float(np.mean(right)) * clips), clips)
            cells.append(f"{100 * np.mean(right):.1f}% ({100 * low:.1f}-{100 * high:.1f})")
            each = ", ".join(f"{100 * share:.1f}" for share in right)
            lines.append(f"| {encoder} | {kind} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)
