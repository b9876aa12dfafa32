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

from minisora import world
from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    cached_latents,
    keep,
    results,
    sampled,
    train,
)
from minisora.metrics import wilson
from minisora.pipeline import Sora
from minisora.world.shapes import parse

ENCODERS: dict[str, dict[str, Any]] = {
    "own words": {},
    "MiniLM": {"encoder": "minilm", "text_length": 24},
}
PHRASES = ROOT / "data" / "prompts" / "paraphrases.tsv"
RESULTS = ROOT / "configs" / "paraphrases.json"
TIMES = 4  # clips for each prompt


def run(seeds: list[int], minutes: float) -> str:
    """Runs what the results do not hold yet; returns the table."""
    for seed in seeds:
        for encoder, arguments in ENCODERS.items():
            key = f"{encoder}, seed {seed}"
            if key in results(RESULTS):
                continue
            recipe = Recipe.from_config()
            recipe.model |= arguments
            sora, steps = train(recipe, cached_latents(), seed, minutes)
            keep(RESULTS, key, {"steps": steps, "minutes": minutes, **answers(sora)})
    return table(results(RESULTS), seeds)


def phrases() -> list[tuple[str, str]]:
    """(paraphrase, caption of the same meaning), all there are."""
    lines = PHRASES.read_text().splitlines()[1:]
    return [(line.split("\t")[0], line.split("\t")[1]) for line in lines]


def answers(sora: Sora) -> dict[str, list[int]]:
    """For captions and paraphrases: 1 for each clip that shows all that is meant, else 0."""
    pairs = phrases() * TIMES
    truths = [parse(caption) for _, caption in pairs]
    result = {}
    for name, prompts in (
        ("captions", [caption for _, caption in pairs]),
        ("paraphrases", [paraphrase for paraphrase, _ in pairs]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of words that are read as blanks
            clips = sampled(sora, prompts)
        reads = [world.describe(clip) for clip in clips]
        result[name] = [
            int(world.agree(truth, read)["all"]) for truth, read in zip(truths, reads, strict=True)
        ]
    return result


def table(found: dict[str, Any], seeds: list[int]) -> str:
    """Percent of clips with all right, the mean over seeds, with the interval of as many clips."""
    lines = ["| encoder | captions | paraphrases | each seed |", "|---" * 4 + "|"]
    for encoder in ENCODERS:
        runs = [found[f"{encoder}, seed {seed}"] for seed in seeds]
        cells = []
        for kind in ("captions", "paraphrases"):
            right = np.array([run[kind] for run in runs])
            low, high = wilson(int(right.sum()), right.size)
            cells.append(f"{100 * right.mean():.1f}% ({100 * low:.1f}-{100 * high:.1f})")
        each = ", ".join(f"{100 * np.mean(run['paraphrases']):.1f}" for run in runs)
        lines.append(f"| {encoder} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)
