"""Words that were never trained on: does a text encoder that has read far more text help?

The shipped transformer keeps what it knows of clips and gets another reader: a frozen MiniLM (Wang
et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", 2020) under a small part that is trained along. It learns from the captions alone, or
half of the time from the same said in other words. Then both are asked, as the shipped model is,
with captions and with paraphrases of the same meaning, which were written down before any training
and share no telling word with data/prompts/wordings.tsv, where those others come from.
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
from minisora.weights import shipped
from minisora.world.shapes import parse

READERS = {  # and the share of training captions that are said in other words
    "own words, as shipped": None,
    "MiniLM, captions": 0.0,
    "MiniLM, several wordings": 0.5,
}
PROMPTS = ROOT / "data" / "prompts"
RESULTS = ROOT / "configs" / "paraphrases.jsonl"
TIMES = 4  # clips for each prompt
FORMS = (
    "a {size} {color} {shape} {motion} on a {background} background",
    "on {background}: a {size} {color} {shape} {motion}",
    "{background} background, one {color} {size} {shape} {motion}",
    "a {size} {shape} {motion}, {color} against {background}",
    "the {size} {color} {shape} {motion} before a {background} screen",
    "with {background} behind it, {motion}, a {size} {color} {shape}",
)


def run(seeds: list[int], minutes: float) -> str:
    """Runs what the results do not hold yet; returns the table."""
    for seed in seeds:
        for reader, share in READERS.items():
            run = {"reader": reader, "seed": seed, "minutes": minutes}
            if found(RESULTS, **run):
                continue
            if share is None:
                sora, steps = Sora.from_pretrained(device="cpu"), 0
            else:
                sora, steps = train(recipe(share, seed), cached_latents(), seed, minutes)
            keep(RESULTS, **run, steps=steps, **answers(sora, seed))
    return table(found(RESULTS, minutes=minutes), seeds)


def recipe(share: float, seed: int) -> Recipe:
    """The shipped transformer with another reader; a `share` of captions in other words."""
    changed, words, rng = Recipe.from_config(), wordings(), np.random.default_rng(seed)
    changed.model |= {"size": "laptop", "pooled": False, "start": str(shipped()), "guidance": 1.5}
    changed.model |= {"encoder": "minilm", "text_length": 32, "lr": 0.01, "adam_lr": 0.002}
    changed.caption = lambda said: worded(said, words, rng) if rng.random() < share else said
    return changed


def rows(file: str) -> list[list[str]]:
    """The cells of a file of tab-separated prompts, without its first line."""
    return [line.split("\t") for line in (PROMPTS / file).read_text().splitlines()[1:]]


def phrases() -> list[tuple[str, str]]:
    """(paraphrase, caption of the same meaning), all there are."""
    return [(paraphrase, caption) for paraphrase, caption in rows("paraphrases.tsv")]


def wordings() -> dict[str, list[str]]:
    """What may stand for each word or phrase of a caption, itself among it."""
    return {value: [value, *others.split(", ")] for _, value, others in rows("wordings.tsv")}


def worded(caption: str, words: dict[str, list[str]], rng: np.random.Generator) -> str:
    """The same in another form and in words drawn at random; what is left open stays so."""
    said = {
        name: str(rng.choice(words[value])) if value else ""
        for name, value in parse(caption).items()
    }
    return " ".join(str(rng.choice(FORMS)).format(**said).replace(", ,", ",").split())


def answers(sora: Sora, seed: int = 0) -> dict[str, dict[str, float]]:
    """Of the clips for captions and for paraphrases, from the noise of `seed`: the shares in which
    each attribute, "clean" and "all" are what is meant."""
    pairs = phrases() * TIMES
    truths = [parse(caption) for _, caption in pairs]
    result = {}
    for i, kind in enumerate(("paraphrases", "captions")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of words that are read as blanks
            scores = oracle_scores(sampled(sora, [pair[i] for pair in pairs], seed), truths)
        result[kind] = {name: round(score["right"], 4) for name, score in scores.items()}
    return result


def table(kept: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent of clips right, the mean over seeds; of all right also the interval of as many clips,
    and each seed."""
    lines = [
        "| reader | prompts | color | shape | motion | size | background | all right | each seed |",
        "|---" * 9 + "|",
    ]
    for reader in READERS:
        runs = [run for run in kept if run["reader"] == reader and run["seed"] in seeds]
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
            lines.append(f"| {reader} | {kind} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)
