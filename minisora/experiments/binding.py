"""Two objects: does the model know which color belongs to which?

Transformers learn from random weights, for the same number of steps, from clips of one object and
of two. The text conditions them by cross-attention and through its mean in adaLN, or by
cross-attention only. Captions name the two objects in either order, or always the upper or left one
first.
"""

from pathlib import Path
from typing import Any

from minisora.experiments import runs
from minisora.experiments.runs import Run, fill, found, fresh_clips, score
from minisora.metrics import markdown
from minisora.weights import fingerprint, shipped
from minisora.world.language import in_order

BOTH = ("--data.worlds", '{"pairs": 0.5, "shapes": 0.5}')
POOLED = (*BOTH, "--model.dit.pooled", "true")
UNPOOLED = (*BOTH, "--model.dit.pooled", "false")
ORDERED = ("--data.view.ordered_steps", "1000000")  # longer than any run

RUNS = [
    Run("pooled", "attention + pooled text", POOLED),
    Run("attention", "attention only", UNPOOLED),
    Run(
        "pooled-ordered",
        "attention + pooled text, ordered captions",
        POOLED + ORDERED,
        prompt=in_order,
    ),
    Run(
        "attention-ordered",
        "attention only, ordered captions",
        UNPOOLED + ORDERED,
        prompt=in_order,
    ),
]
RESULTS = runs.RESULTS / "binding.jsonl"
SCORES = ("layout", "relation", "color", "motion", "shape", "clean", "all")
COLUMNS = {"label": "text conditioning", "seed": "seed", "steps": "steps"}
COLUMNS |= {name: name for name in SCORES}


def run(
    seeds: list[int], steps: int, prompts: int, only: list[str], results: Path = RESULTS
) -> str:
    """Runs what the results lack for the shipped VAE; returns the table."""
    settings = {"steps": steps, "prompts": prompts, "vae": fingerprint(shipped(), "vae")}
    clips = fresh_clips(prompts, "pairs")

    def measure(way: Run, seed: int) -> dict[str, Any]:
        return score(runs.train("binding", way, seed, steps), clips, way.prompt)

    fill(results, runs.chosen(RUNS, only), seeds, settings, measure)
    return table(found(results, **settings))


def table(rows: list[dict[str, Any]]) -> str:
    """Percent right of clips of two objects with held-out pairs of shape and color."""
    labels = {way.slug: way.label for way in RUNS}
    lines = [
        {**row, "label": labels[row["run"]], **{name: f"{row[name]:.0f}%" for name in SCORES}}
        for row in rows
    ]
    return markdown(lines, COLUMNS)
