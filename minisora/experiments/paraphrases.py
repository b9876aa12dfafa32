"""Words that were never trained on: does a text encoder that has read far more text help?

The shipped transformer gets another reader: a frozen MiniLM (Wang et al., "MiniLM: Deep
Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", 2020) under a
small part that is trained, along with the transformer, on clips of one object. It learns from the
captions alone, or half of the time from the same said in other words (data/prompts/wordings.tsv).
Then both are asked, as the shipped model is, with captions and with paraphrases of the same meaning,
which were written down before any training and whose own words are in neither.
"""

import warnings
from typing import Any

import numpy as np

from minisora.evaluate import sample
from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    cached_latents,
    found,
    interval,
    keep,
    train,
)
from minisora.pipeline import Sora
from minisora.weights import fingerprint, shipped
from minisora.world import agree, describe
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
    "a {size} {shape} {motion}, {color} upon {background}",
    "the {size} {color} {shape} {motion} before a {background} screen",
    "with {background} behind it, {motion}, a {size} {color} {shape}",
)


def run(seeds: list[int], steps: int) -> str:
    """Runs what the results do not hold yet for the shipped weights; returns their table."""
    weights = fingerprint(shipped(), "dit")
    for seed in seeds:
        for reader, share in READERS.items():
            made = 0 if share is None else steps
            run = {"reader": reader, "seed": seed, "steps": made, "weights": weights}
            if found(RESULTS, **run):
                continue
            if share is None:
                sora = Sora.from_pretrained(device="cpu")
            else:
                sora = train(recipe(share, seed), cached_latents(), seed, steps)
            keep(RESULTS, **run, **answers(sora, seed))
    runs = found(RESULTS, weights=weights)
    return table([run for run in runs if run["steps"] in (0, steps)], seeds)


def recipe(share: float, seed: int) -> Recipe:
    """The shipped transformer with another reader; a `share` of captions in other words."""
    changed, words, rng = Recipe.from_config(), wordings(), np.random.default_rng(seed)
    changed.model |= {"size": "laptop", "pooled": False, "start": str(shipped())}
    changed.model |= {"guidance": 1.5, "guidance_until": 0.0}
    changed.model |= {"encoder": "minilm", "text_length": 32, "lr": 0.01, "adam_lr": 0.002}
    changed.caption = lambda said: worded(said, words, rng) if rng.random() < share else said
    return changed


def rows(file: str) -> list[list[str]]:
    """The cells of a file of tab-separated prompts, without its first line."""
    return [line.split("\t") for line in (PROMPTS / file).read_text().splitlines()[1:]]


def phrases() -> list[tuple[str, str]]:
    """(paraphrase, caption of the same meaning), all there are."""
    return [(row[0], row[1]) for row in rows("paraphrases.tsv")]


def wordings() -> dict[str, list[str]]:
    """What may stand for each word or phrase of a caption, itself among it."""
    return {value: [value, *others.split(", ")] for _, value, others in rows("wordings.tsv")}


def worded(caption: str, words: dict[str, list[str]], rng: np.random.Generator) -> str:
    """The same in another form and in words drawn at random; what is left open stays so."""
    said = {
        name: str(rng.choice(words[value])) if value else ""
        for name, value in parse(caption).items()
    }
    text = " ".join(str(rng.choice(FORMS)).format(**said).split())
    return text.replace(" ,", ",").replace(",,", ",")


def answers(sora: Sora, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """Of `TIMES` clips for each caption and each paraphrase, from the noise of `seed`: in how many
    is each attribute, "clean" and "all" what is meant?"""
    said = phrases()
    truths = [parse(caption) for _, caption in said] * TIMES
    result = {}
    for i, kind in enumerate(("paraphrases", "captions")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of words that are read as blanks
            clips = sample(sora, [pair[i] for pair in said] * TIMES, seed)
        right = [agree(truth, describe(clip)) for truth, clip in zip(truths, clips, strict=True)]
        result[kind] = {
            name: [
                int(sum(each[name] for each in right[k :: len(said)])) for k in range(len(said))
            ]
            for name in right[0]
        }
    return result


def shares(runs: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """The shares of right clips, (seeds, prompts), of each attribute, "clean" and "all". An
    attribute counts where the caption names it and, of paraphrases, where they do so in another
    word: many keep some words of their caption."""
    result = {}
    for name in runs[0][kind]:
        right = np.array([run[kind][name] for run in runs]) / TIMES
        if name not in ("clean", "all"):
            words = [(parse(told)[name], parse(meant)[name]) for told, meant in phrases()]
            counts = [b is not None and (kind == "captions" or a != b) for a, b in words]
            right = right[:, counts]
        result[name] = right
    return result


def table(kept: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent of clips right, the mean over seeds; of all right also an interval of 95% (prompts
    and seeds drawn again with repetition), and each seed."""
    names = ("color", "shape", "motion", "size", "background")
    lines = [f"| reader | steps | prompts | {' | '.join(names)} | all right | each seed |"]
    lines.append("|---" * 10 + "|")
    for reader in READERS:
        runs = [run for run in kept if run["reader"] == reader and run["seed"] in seeds]
        for kind in ("captions", "paraphrases"):
            right = shares(runs, kind)
            cells = [f"{100 * right[name].mean():.0f}%" for name in names]
            low, high = interval(right["all"])
            cells.append(f"{100 * right['all'].mean():.1f}% ({low:.1f} to {high:.1f})")
            cells.append(", ".join(f"{100 * share:.1f}" for share in right["all"].mean(1)))
            steps = f"{np.mean([run['steps'] for run in runs]):.0f}"
            lines.append(f"| {reader} | {steps} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)
