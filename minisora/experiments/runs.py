"""What all experiments share: trainings by `minisora fit dit` that differ in a few flags, their
scores, and the files that keep the results.

A run is as long as its number of steps, not as a number of minutes, so slow and fast machines
come to about the same results. It trains on one CPU thread; on two cores, start two processes with
different seeds or runs. What both need is made by one of them while the other waits.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from minisora import fit, world
from minisora.data import VALIDATION_SEED
from minisora.device import fast_bfloat16
from minisora.evaluate import sample_clips
from minisora.files import write_text
from minisora.metrics import oracle_scores
from minisora.sora import Sora
from minisora.weights import fingerprint, shipped
from minisora.world import Clip

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "runs" / "experiments"
RESULTS = ROOT / "configs" / "experiments"
CLIPS = 24_000  # that a run trains on, as configs/toy/dit.yaml says


@dataclass(frozen=True)
class Run:
    """A row of an experiment: flags for `minisora fit dit`, and what flags cannot say."""

    slug: str  # names the run in files and on the command line
    label: str  # names it in tables
    flags: tuple[str, ...] = ()
    steps: float = 1.0  # share of the usual steps: below 1 if a step takes longer than usual
    vae: Callable[[], Path] = shipped  # returns the bundle, and trains it if need be
    captions: Callable[[int], Path] | None = None  # writes the captions file for a seed
    prompt: Callable[[str], str] = str  # words a caption as a prompt; `str` changes nothing
    sampling: dict[str, Any] = field(default_factory=dict)  # defaults to change when scoring


def chosen(runs: Sequence[Run], slugs: Sequence[str]) -> list[Run]:
    """The runs with these slugs, all if none is given."""
    return [run for run in runs if not slugs or run.slug in slugs]


def train(experiment: str, run: Run, seed: int, steps: int) -> Path:
    """Trains a run for its share of `steps`; returns the bundle of weights. One that is there
    already, from the same flags and the same VAE, is not trained again."""
    vae = run.vae()
    flags = [*run.flags, "--data.view.vae", str(vae), "--data.seed", str(seed)]
    if run.captions:
        flags += ["--data.view.captions", str(run.captions(seed))]
    flags += ["--trainer.max_steps", str(round(steps * run.steps))]
    flags += ["--trainer.limit_val_batches", "0"]  # `score` comes instead
    origin = {"vae": fingerprint(vae, "vae"), "shipped": fingerprint(shipped(), "dit")}
    return fit_once("dit", flags, FOLDER / experiment / f"{run.slug}-{seed}", origin)


def fit_once(stage: str, flags: list[str], folder: Path, origin: dict[str, str]) -> Path:
    """Trains configs/toy/STAGE.yaml with other flags, on one CPU thread; returns the bundle.

    Does nothing if `folder` holds weights of the same flags and `origin`, the fingerprints of what
    the training starts from.
    """
    made_of = json.dumps({"flags": flags, **origin}, indent=1)
    record = folder / "made-of.json"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not record.exists() or record.read_text() != made_of:
            torch.set_num_threads(1)
            config = str(ROOT / "configs" / "toy" / f"{stage}.yaml")
            common = ["--trainer.accelerator", "cpu", "--trainer.enable_checkpointing", "false"]
            common += ["--trainer.default_root_dir", str(folder)]
            fit.train(stage, ["--config", config, *flags, *common])
            write_text(record, made_of)
    return folder / "weights"


def alone(path: Path) -> FileLock:
    """A lock for the process that makes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


def write_captions(seed: int, reword: Callable[[int, str], str], clips: int = CLIPS) -> Path:
    """Writes a captions file for training clips of one object, `reword(index, caption)` for each,
    and returns its path. The name holds a hash of the captions, so other captions are other flags.
    """
    lines = [json.dumps({"folder": None, "clips": clips, "seed": seed, "worlds": {"shapes": 1.0}})]
    for index in tqdm(range(clips), "writing captions", unit="clip"):
        said = world.clip(seed, index, height=8, width=8).caption  # the same at every size
        worded = reword(index, said)
        row = {"clip": index, "human": said, "synthetic": worded, "caption": worded}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + "\n"
    path = FOLDER / f"captions-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
    with alone(path):
        write_text(path, text)
    return path


def fresh_clips(count: int, name: str = "shapes") -> list[Clip]:
    """Clips of the world `name` with held-out pairs of shape and color; no run has seen them."""
    clip = world.get(name).clip
    return [clip(VALIDATION_SEED + 7, index, split="held_out") for index in range(count)]


def score(
    model: Path | Sora,
    clips: list[Clip],
    prompt: Callable[[str], str] = str,
    sampling: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Samples a clip for each caption and compares it with the clip itself: percent right, for
    each attribute, "clean" and "all"."""
    sora = Sora.from_pretrained(model, "cpu") if isinstance(model, Path) else model
    sora.defaults = sora.defaults | (sampling or {})
    frames = sample_clips(sora, [prompt(clip.caption) for clip in clips])
    truths = [clip.truth for clip in clips]
    scores = oracle_scores(frames, truths, world.get(clips[0].world))
    return {name: round(100 * each["right"], 1) for name, each in scores.items()}


def fill(
    results: Path,
    runs: Sequence[Run],
    seeds: Sequence[int],
    settings: dict[str, Any],
    measure: Callable[[Run, int], dict[str, Any]],
) -> None:
    """Adds what `results` lacks: a row for each run and seed with these settings and what `measure`
    returns for it."""
    for seed in seeds:
        for run in runs:
            row = {"run": run.slug, "seed": seed, **settings}
            if not found(results, **row):
                keep(results, **row, **measure(run, seed))


def found(results: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of a results file, one JSON object a line, that have the `wanted` values, sorted by
    seed."""
    lines = results.read_text().splitlines() if results.exists() else []
    rows = sorted(map(json.loads, lines), key=lambda row: row["seed"])
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def keep(results: Path, **row: Any) -> None:
    """Adds a row, and the precision of this machine, to a results file. Another process may be
    adding to it too."""
    row["precision"] = "bfloat16" if fast_bfloat16("cpu") else "float32"
    with open(results, "a") as file:
        file.write(json.dumps(row) + "\n")


def interval(shares: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """The 95% bootstrap interval, in percent, of the mean of (seeds, prompts): both are drawn with
    replacement."""
    rng = np.random.default_rng(0)
    seeds, prompts = shares.shape
    means = [
        shares[rng.integers(seeds, size=seeds)][:, rng.integers(prompts, size=prompts)].mean()
        for _ in range(draws)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)
