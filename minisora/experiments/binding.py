"""Two objects: does the model know which color is whose?

Transformers learn from scratch, for the same number of steps, from clips of one object and of two. Words reach
the picture by attention and as a mean in adaLN, or by attention alone; and the two objects are told
in any order, or always from the upper or the left one.
"""

from typing import Any

from minisora.experiments.short_runs import (
    ROOT,
    Recipe,
    cached_latents,
    found,
    fresh_clips,
    keep,
    scores,
    train,
)
from minisora.weights import fingerprint, shipped
from minisora.world import pairs

WAYS = {  # name: whether adaLN gets the mean of the words, whether captions are in order
    "attention and a mean": (True, False),
    "attention alone": (False, False),
    "attention and a mean, in order": (True, True),
    "attention alone, in order": (False, True),
}
RESULTS = ROOT / "configs" / "binding.jsonl"
COLUMNS = ("layout", "relation", "color", "motion", "shape", "clean", "all")


def run(seeds: list[int], steps: int, prompts: int, only: list[str]) -> str:
    """Runs what the results do not hold yet for the shipped VAE; returns the table."""
    settings = {"steps": steps, "prompts": prompts, "vae": fingerprint(shipped(), "vae")}
    for seed in seeds:
        for way, (pooled, ordered) in WAYS.items():
            run = {"words by": way, "seed": seed, **settings}
            if found(RESULTS, **run) or (only and way not in only):
                continue
            recipe = Recipe.from_config()
            recipe.model["pooled"] = pooled
            if ordered:
                recipe.caption = pairs.in_order
            sora = train(recipe, cached_latents(pairs=0.5), seed, steps)
            clips = fresh_clips(sora, prompts, pairs)
            keep(RESULTS, **run, **scores(sora, clips, recipe.caption, pairs))
    return table(found(RESULTS, **settings))


def table(runs: list[dict[str, Any]]) -> str:
    """Percent right of clips of two objects, held-out pairs of shape and color."""
    heads = ("words by", "seed", "steps")
    lines = [f"| {' | '.join((*heads, *COLUMNS))} |", "|---" * len(heads + COLUMNS) + "|"]
    for run in runs:
        cells = [str(run[head]) for head in heads] + [f"{run[name]:.0f}%" for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
