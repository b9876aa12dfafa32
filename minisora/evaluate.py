"""Evaluation: prompts of every split are sampled, the oracle reads the clips, and rows say how
often they are right.

A result is a flat list of rows. Each row has the world, split and length of its clips, their
source ("sampled"; "vae": true clips encoded and decoded; "pca": by the linear PCA; "true"; "short
prompts"), a measure, and its value: a share "right" with its interval "low", "high" and the chance
level, or a "value" in the measure's own unit.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora.captioner import Captioner
from minisora.metrics import Row, clip_rows, short_prompt_row
from minisora.sora import Sora
from minisora.upsampler import Upsampler
from minisora.weights import fingerprint, shipped
from minisora.world import Clip, World, get

PROMPT_SEED = 2_000_003  # evaluation's own seed: its clips are never trained or validated on


@dataclass(frozen=True)
class Case:
    """A set of prompts: the captions of a world's split, or its short captions, "as typed" or
    "completed"."""

    world: World
    split: str
    frames: int
    prompts: str = "captions"

    @property
    def about(self) -> Row:
        return {"world": self.world.name, "split": self.split, "frames": self.frames}


def evaluation_cases(sora: Sora, short: bool) -> list[Case]:
    """Every split of every world that the model was trained on; of single objects also images and,
    if `short`, short prompts."""
    frames, cases = sora.default_shape[0], []
    for name in sorted(sora.trained_on["worlds"], key=lambda name: (name != "shapes", name)):
        cases += [Case(get(name), split, frames) for split in get(name).splits]
        if name == "shapes" and frames > 1:
            cases.append(Case(get(name), "train", 1))
    if short and cases[0].world.name == "shapes":
        cases += [Case(get("shapes"), "train", frames, p) for p in ("as typed", "completed")]
    return cases


def score_model(
    sora: Sora,
    clips: int = 500,
    seed: int = 0,
    captioner: Captioner | None = None,
    upsampler: Upsampler | None = None,
    batch: int = 20,
) -> dict[str, Any]:
    """Samples `clips` prompts of every case with the model's default settings. Returns {"clips",
    "seed", "defaults", "minutes", "rows"}.

    With a `captioner` there are rows of what it says of the clips; with an `upsampler`, rows of
    short prompts. The linear PCA of 256 training clips is the baseline of the first case.
    """
    started, rows = time.monotonic(), []
    cases = evaluation_cases(sora, short=upsampler is not None)
    bar = tqdm(total=len(cases) * clips, desc="sampling and reading", unit="clip")
    for case in cases:
        truth = true_clips(sora, case, clips, seed)
        reference = true_clips(sora, case, clips, seed + 2) if captioner else []
        baseline = true_clips(sora, case, 256, seed + 1) if case is cases[0] else []
        prompts = prompts_of(case, truth, upsampler, seed)
        sampled = sample_clips(sora, prompts, seed, case.frames, batch, bar)
        if case.prompts == "captions":
            args = (sampled, truth, case.world, sora.vae, captioner, reference, baseline)
            rows += [case.about | row for row in clip_rows(*args)]
        else:
            rows.append(case.about | short_prompt_row(case.prompts, sampled, truth, case.world))
    bar.close()
    minutes = round((time.monotonic() - started) / 60, 1)
    head = {"clips": clips, "seed": seed, "defaults": sora.defaults, "minutes": minutes}
    return head | {"rows": rows}


def true_clips(sora: Sora, case: Case, count: int, seed: int) -> list[Clip]:
    """Clips that were never trained or validated on, at the model's size."""
    size = (case.frames, *sora.default_shape[1:])
    return [case.world.clip(PROMPT_SEED + seed, i, *size, case.split) for i in range(count)]


def prompts_of(case: Case, truth: list[Clip], upsampler: Upsampler | None, seed: int) -> list[str]:
    """What the model is asked to show."""
    if case.prompts == "captions":
        return [clip.caption for clip in truth]
    short = [clip.short_caption for clip in truth]
    if upsampler and case.prompts == "completed":
        return upsampler(short, torch.Generator().manual_seed(seed))
    return short


def sample_clips(
    sora: Sora,
    prompts: list[str],
    seed: int = 0,
    frames: int | None = None,
    batch: int = 32,
    bar: tqdm | None = None,
) -> np.ndarray:
    """A clip for each prompt (B, T, H, W, 3), with the noise of `seed`; the bar counts clips."""
    generator, sampled = torch.Generator().manual_seed(seed), []
    for start in range(0, len(prompts), batch):
        sampled.append(sora(prompts[start : start + batch], frames, generator=generator))
        if bar is not None:
            bar.update(len(sampled[-1]))
    return np.concatenate(sampled)


def fingerprints(folder: str | None = None) -> dict[str, str]:
    """Identifies the weights that are evaluated: the model in `folder` (default: the shipped one),
    and the captioner and upsampler that come with the package."""
    model = {name: fingerprint(folder or shipped(), name) for name in ("vae", "text", "dit")}
    return model | {name: fingerprint(shipped(), name) for name in ("captioner", "upsampler")}
