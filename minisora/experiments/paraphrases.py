"""Words that were never trained on: does a text encoder that has read far more text help?

The shipped transformer gets another text encoder: a frozen MiniLM (Wang et al., "MiniLM: Deep
Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", 2020) under
a small part that is trained, along with the transformer, on clips of one object. It learns from the
captions only, or from captions of which half are said in other words (data/prompts/wordings.tsv).
Then both, and the shipped model, are asked with captions and with paraphrases of the same meaning.
The paraphrases were written down before any training; the words that they do not share with
captions are in no training text.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minisora import draws
from minisora.evaluate import sample_clips
from minisora.experiments import runs
from minisora.experiments.runs import CLIPS, ROOT, Run, fill, found, interval, write_captions
from minisora.metrics import markdown
from minisora.sora import Sora
from minisora.weights import fingerprint, shipped
from minisora.world import agree, describe
from minisora.world.shapes import parse

PROMPTS = ROOT / "data" / "prompts"
TIMES = 4  # clips for each prompt
FORMS = (
    "a {size} {color} {shape} {motion} on a {background} background",
    "on {background}: a {size} {color} {shape} {motion}",
    "{background} background, one {color} {size} {shape} {motion}",
    "a {size} {shape} {motion}, {color} upon {background}",
    "the {size} {color} {shape} {motion} before a {background} screen",
    "with {background} behind it, {motion}, a {size} {color} {shape}",
)


def read_table(file: str) -> list[list[str]]:
    """The cells of a file of tab-separated prompts, without its first line."""
    return [line.split("\t") for line in (PROMPTS / file).read_text().splitlines()[1:]]


def phrases() -> list[tuple[str, str]]:
    """Every paraphrase with the caption of the same meaning."""
    return [(row[0], row[1]) for row in read_table("paraphrases.tsv")]


def wordings() -> dict[str, list[str]]:
    """The words that can replace each word or phrase of a caption; itself among them."""
    rows = read_table("wordings.tsv")
    return {value: [value, *others.split(", ")] for _, value, others in rows}


def worded(caption: str, words: dict[str, list[str]], rng: np.random.Generator) -> str:
    """A caption in another form and in words drawn at random. It names the same attributes."""
    named = {
        name: str(rng.choice(words[value])) if value else ""
        for name, value in parse(caption).items()
    }
    text = " ".join(str(rng.choice(FORMS)).format(**named).split())
    return text.replace(" ,", ",").replace(",,", ",")


def half_worded(seed: int, clips: int = CLIPS) -> Path:
    """The training clips' captions, half of them in other words. An image gets the caption of its
    clip."""
    words = wordings()

    def reword(index: int, caption: str) -> str:
        rng = draws.rng("wording", seed, index)
        return worded(caption, words, rng) if rng.random() < 0.5 else caption

    return write_captions(seed, reword, clips)


MINILM = (
    *("--model.text", "PretrainedEncoder"),
    *("--model.text.source", "minilm"),
    *("--model.text.length", "32"),
    *("--model.dit.size", "laptop"),
    *("--model.dit.pooled", "false"),
    *("--model.start", str(shipped())),
    *("--model.lr", "0.01"),
    *("--model.adam_lr", "0.002"),
    *("--model.guidance_scale", "1.5"),
    *("--model.guidance_until", "0"),
)
RUNS = [
    Run("shipped", "own vocabulary, as shipped", steps=0.0),  # no training
    Run("minilm-captions", "MiniLM, captions only", MINILM),
    Run("minilm-wordings", "MiniLM, several wordings", MINILM, captions=half_worded),
]
RESULTS = runs.RESULTS / "paraphrases.jsonl"
NAMES = ("color", "shape", "motion", "size", "background")
COLUMNS = {"encoder": "text encoder", "steps": "steps", "prompts": "prompts"}
COLUMNS |= {name: name for name in NAMES} | {"all": "all right", "each": "each seed"}


def run(
    seeds: list[int], steps: int, prompts: int, only: list[str], results: Path = RESULTS
) -> str:
    """Runs what the results lack for the shipped weights; returns the table. All paraphrases are
    asked, whatever `prompts` says."""
    bundle = fingerprint(shipped(), "dit")

    def measure(reader: Run, seed: int) -> dict[str, Any]:
        trained = runs.train("paraphrases", reader, seed, steps) if reader.steps else shipped()
        return answers(Sora.from_pretrained(trained, "cpu"), seed)

    for reader in runs.chosen(RUNS, only):
        settings = {"steps": round(steps * reader.steps), "weights": bundle}
        fill(results, [reader], seeds, settings, measure)
    rows = found(results, weights=bundle)
    return table([row for row in rows if row["steps"] in (0, steps)], seeds)


def answers(sora: Sora, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """Samples `TIMES` clips for each paraphrase and each caption, from the noise of `seed`: in how
    many is each attribute, "clean" and "all" right?"""
    pairs = phrases()
    truths = [parse(caption) for _, caption in pairs] * TIMES
    result = {}
    for i, kind in enumerate(("paraphrases", "captions")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about words that the model does not know
            clips = sample_clips(sora, [pair[i] for pair in pairs] * TIMES, seed)
        right = [agree(truth, describe(clip)) for truth, clip in zip(truths, clips, strict=True)]
        counts = np.array([list(each.values()) for each in right], int)  # (TIMES * prompts, names)
        counts = counts.reshape(TIMES, len(pairs), -1).sum(0)  # (prompts, names)
        result[kind] = dict(zip(right[0], counts.T.tolist(), strict=True))
    return result


def shares(rows: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """The shares of right clips, (seeds, prompts), for each attribute, "clean" and "all".

    Many paraphrases keep some words of their caption. So an attribute counts only if the caption
    names it and, for paraphrases, the paraphrase names it in another word.
    """
    result = {}
    for name in rows[0][kind]:
        right = np.array([row[kind][name] for row in rows]) / TIMES  # (seeds, prompts)
        if name not in ("clean", "all"):
            words = [(parse(other)[name], parse(caption)[name]) for other, caption in phrases()]
            counts = [own is not None and (kind == "captions" or own != o) for o, own in words]
            right = right[:, counts]
        result[name] = right
    return result


def table(kept: list[dict[str, Any]], seeds: list[int]) -> str:
    """Percent of clips right, the mean over seeds; for all right also a 95% interval (bootstrap
    over prompts and seeds) and each seed."""
    lines = []
    for reader in RUNS:
        rows = [row for row in kept if row["run"] == reader.slug and row["seed"] in seeds]
        for kind in ("captions", "paraphrases") if rows else ():
            right = shares(rows, kind)
            low, high = interval(right["all"])
            steps = f"{np.mean([row['steps'] for row in rows]):.0f}"
            line = {"encoder": reader.label, "steps": steps, "prompts": kind}
            line |= {name: f"{100 * right[name].mean():.0f}%" for name in NAMES}
            line["all"] = f"{100 * right['all'].mean():.1f}% ({low:.1f} to {high:.1f})"
            line["each"] = ", ".join(f"{100 * share:.1f}" for share in right["all"].mean(1))
            lines.append(line)
    return markdown(lines, COLUMNS)
