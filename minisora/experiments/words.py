"""Does the prompt upsampler understand other people's words?

It is asked with prompts in captions' words and in wordings of the lexicon, trained on or held out;
the words of the prompt stand as in training or in forms that training never has. An answer is right
if it is a complete caption that keeps what the lexicon says the prompt means. The paraphrases of
the experiment `paraphrases` were written down before there was a lexicon.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minisora import draws
from minisora.experiments import runs
from minisora.experiments.runs import ROOT, Run, chosen, fill, found
from minisora.metrics import markdown, percent, proportion
from minisora.upsampler import Upsampler
from minisora.weights import fingerprint, shipped
from minisora.world import Mixture, language, lexicon, shapes

PROMPT_SEED = 3_000_017  # added to the seed: no training or validation has these prompts
WORLDS = {"events": 0.2, "pairs": 0.35, "shapes": 0.45}
RUNS = [  # upsamplers by what they read; nothing is trained here
    Run("captions", "captions' words"),
    Run("lexicon", "captions' and the lexicon's words"),
]
RESULTS = runs.RESULTS / "words.jsonl"
COLUMNS = {
    "prompts": "prompts",
    "count": "number",
    "captions-final": "earlier upsampler, %",
    "lexicon-first": "with the lexicon: first draw, %",
    "lexicon-final": "what it returns, %",
}


def held_out(*kinds: str) -> Callable[..., str]:
    """Words a prompt in wordings of these kinds that were held out, wherever there are any."""
    return partial(lexicon.reword, held_out=True, kinds=kinds, chance=1.0)


NEW_FORMS = ", new forms"
WORDINGS: dict[str, Callable[..., str]] = {
    "captions' words": lambda prompt, rng: prompt,
    "trained wordings": lexicon.reword,
    "held-out wordings": partial(lexicon.reword, held_out=True),
}
WORDINGS |= {words + NEW_FORMS: reword for words, reword in WORDINGS.items()}
WORDINGS |= {
    "held-out color names": held_out("color"),
    "held-out color names without ours": held_out("color"),
    "held-out shapes": held_out("shape"),
    "held-out motions": held_out("motion"),
    "held-out sizes and backgrounds": held_out("size", *lexicon.GROUND_KINDS),
    "held-out relations and events": held_out("relation", "event"),
}
PARAPHRASES = ("paraphrases", "paraphrases in the lexicon's words")


def run(
    seeds: list[int],
    steps: int,
    prompts: int,
    only: list[str],
    results: Path = RESULTS,
    folder: Path | None = None,
) -> str:
    """Asks the shipped upsampler, or that in `folder`, as far as the results lack it; returns the
    table. Nothing is trained, whatever `steps` says."""
    bundle = folder or shipped()
    upsampler = Upsampler.from_pretrained(bundle)
    settings = {"prompts": prompts, "weights": fingerprint(bundle, "upsampler")}
    asked = RUNS[upsampler.uses_lexicon]
    fill(results, [r for r in chosen(RUNS, only) if r is asked], seeds, settings,
         lambda _, seed: answers(upsampler, prompts, seed))  # fmt: skip
    return table([row for row in found(results, prompts=prompts) if row["seed"] in seeds])


def answers(upsampler: Upsampler, count: int, seed: int) -> dict[str, Any]:
    """For each kind of prompts, how many there are, and how many are right at the first draw and
    in the end."""
    asked: dict[str, list[tuple[str, str]]] = {}  # a prompt and what it means
    for words in WORDINGS:
        texts = draw_prompts(words, count, seed)
        asked[words] = [(text, lexicon.in_our_words(text)) for text in texts]
    rows = (ROOT / "data" / "prompts" / "paraphrases.tsv").read_text().splitlines()[1:]
    asked[PARAPHRASES[0]] = [(row.split("\t")[0], row.split("\t")[1]) for row in rows]
    known = [pair for pair in asked[PARAPHRASES[0]] if not lexicon.unread(pair[0])]
    asked[PARAPHRASES[1]] = known
    result: dict[str, Any] = {"count": {}, "first": {}, "final": {}}
    for words, pairs in asked.items():
        right = says if words in PARAPHRASES else language.keeps
        result["count"][words] = len(pairs)
        for when in ("first", "final"):
            written = captions(upsampler, [text for text, _ in pairs], seed, when == "final")
            judged = zip(pairs, written, strict=True)
            result[when][words] = sum(right(meant, caption) for (_, meant), caption in judged)
    return result


def draw_prompts(words: str, count: int, seed: int) -> list[str]:
    """Draws prompts in such words. Each of them has at least one, unless they are captions'."""

    def drawn(number: int) -> str:
        plain = draw_prompt(seed + PROMPT_SEED, number, words.endswith(NEW_FORMS))
        return WORDINGS[words](plain, draws.rng("wording", seed + PROMPT_SEED, number))

    def fits(prompt: str) -> bool:
        if words.endswith("without ours") and set(prompt.split()) & set(shapes.COLORS):
            return False
        return words.startswith("captions") or lexicon.in_our_words(prompt) != prompt

    return list(itertools.islice(filter(fits, map(drawn, itertools.count())), count))


def draw_prompt(seed: int, number: int, new_form: bool) -> str:
    """Draws a prompt in captions' words."""
    if new_form:
        return language.validation_prompt(seed, number // 2, ("events", "shapes")[number % 2])
    return language.draw_prompt(seed, number, Mixture(WORLDS))[0]


def captions(upsampler: Upsampler, prompts: list[str], seed: int, tries: bool) -> list[str]:
    """The first draws for prompts, or with `tries` what is found in the end; an empty caption for
    a prompt that is too long or has none."""
    generator = torch.Generator().manual_seed(seed)
    short = [prompt for prompt in prompts if len(prompt.split()) <= upsampler.encoder.length]
    drawn = upsampler.search(short, generator) if tries else upsampler.draw(short, generator)
    found = dict(zip(short, drawn, strict=True))
    return [found.get(prompt) or "" for prompt in prompts]


def says(meant: str, caption: str) -> bool:
    """Whether a caption of one object says all that another says."""
    read = shapes.parse(caption)
    return all(read[name] == word for name, word in shapes.parse(meant).items() if word)


def table(rows: list[dict[str, Any]]) -> str:
    """Percent right with 95% intervals, all seeds together, of the last weights of each upsampler.
    The earlier one's first draws are as often right as what it returns, and left out."""
    lines = {words: {"prompts": words} for words in (*WORDINGS, *PARAPHRASES)}
    for reader in RUNS:
        mine = [row for row in rows if row["run"] == reader.slug]
        mine = [row for row in mine if row["weights"] == mine[-1]["weights"]]
        for words, line in lines.items() if mine else ():
            count = sum(row["count"][words] for row in mine)
            line["count"] = str(count)
            for when in ("first", "final"):
                right = sum(row[when][words] for row in mine)
                line[f"{reader.slug}-{when}"] = percent(proportion(right, count))
    return markdown(list(lines.values()), COLUMNS)
