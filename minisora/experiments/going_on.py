"""How should a model go on from what is known, and what helps against drift in long clips?

Nothing is trained: the shipped weights, or others, go on in several ways. Two clips of three parts
say how good a way is: `extend` from 9 to 17 frames, `extend_backward` from 8 to 17, `connect`
over 8 frames; and clips of 30 seconds, read in their last two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minisora.canvas import Canvas, Plan, connect, extend, extend_backward
from minisora.experiments import runs
from minisora.experiments.runs import Run, chosen, fill, found
from minisora.flow import add_noise
from minisora.metrics import markdown, percent, proportion
from minisora.pipeline import Settings
from minisora.prompting import Bench, compared, judge
from minisora.sampling import Velocity
from minisora.sora import CONTEXT, WINDOW, Sora
from minisora.weights import fingerprint, shipped
from minisora.world import Clip

RESULTS = runs.RESULTS / "going_on.jsonl"
SECONDS = 30
SHORT: dict[str, tuple[Plan, Sequence[slice], int]] = {
    # a plan, the given frames, and the number of the frame that is furthest from them
    "extend": (extend(9, 17), (slice(0, 9),), 16),
    "backward": (extend_backward(8, 17), (slice(9, 17),), 0),
    "connect": (connect(5, 4, 17), (slice(0, 5), slice(13, 17)), 8),
}


class Replacing(Sora):
    """The network sees one noise level; known tokens are replaced, before each step, by themselves
    with noise of that level. With `repeats`, each step is made several times, with new noise
    between. Source: Lugmayr et al., "RePaint" (2022)."""

    repeats = 1

    def solve(
        self, canvas: Canvas, prompts: list[str], settings: Settings, start: float = 1.0
    ) -> Canvas:
        nothing = canvas.without(torch.ones_like(canvas.known[0]))
        velocity = self.velocity(nothing, prompts, settings)
        x = nothing.with_noise(self.noise(canvas.tokens, settings.generator))  # (B, N, P)
        for t, t_next in pairwise(self.levels(canvas, settings, start)):
            for again in range(self.repeats):
                x = self.replaced(canvas, x, t, settings)
                end = x + (t_next - t) * velocity(x, t.expand(len(x)))
                if again < self.repeats - 1:  # back to level t
                    x = self.renoised(end, t_next, t, settings)
            x = end
        return canvas.solved(torch.where(canvas.known[..., None], canvas.tokens, x))

    def replaced(self, canvas: Canvas, x: Tensor, t: Tensor, settings: Settings) -> Tensor:
        noisy = add_noise(canvas.tokens, self.noise(x, settings.generator), t.expand(len(x)))
        return torch.where(canvas.known[..., None], noisy, x)

    def renoised(self, x: Tensor, t: Tensor, higher: Tensor, settings: Settings) -> Tensor:
        """x of level t as a point of a higher level, with the lawful mean and variance."""
        share = (1 - higher) / (1 - t)
        rest = (higher**2 - (share * t) ** 2).clamp(min=0).sqrt()
        return share * x + rest * self.noise(x, settings.generator)


class RePaint(Replacing):
    repeats = 4


class Guided(Sora):
    """Guidance by what is known too: v_without + scale (v - v_without), where the known tokens are
    noise like all others in v_without. Source: Brooks et al., "InstructPix2Pix" (2022)."""

    scale = 1.5

    def velocity(self, canvas: Canvas, prompts: list[str], settings: Settings) -> Velocity:
        seeing = super().velocity(canvas, prompts, settings)
        blind = super().velocity(
            canvas.without(torch.ones_like(canvas.known[0])), prompts, settings
        )
        eps = self.noise(canvas.tokens, torch.Generator().manual_seed(1))

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            noisy = torch.where(canvas.known[..., None], add_noise(canvas.tokens, eps, t), x)
            without = blind(noisy, t)
            guided = without + self.scale * (seeing(x, t) - without)
            return guided.masked_fill(canvas.known[..., None], 0.0)

        return velocity


class NoisyContext(Sora):
    """Known tokens with a little noise, of which the network is told."""

    level = 0.02

    def solve(
        self, canvas: Canvas, prompts: list[str], settings: Settings, start: float = 1.0
    ) -> Canvas:
        if not canvas.known.any():
            return super().solve(canvas, prompts, settings, start)
        free = canvas.without(torch.ones_like(canvas.known[0]))
        velocity = self.velocity(free, prompts, settings)
        eps = self.noise(canvas.tokens, settings.generator)
        noisy = add_noise(canvas.tokens, eps, torch.full((len(eps),), self.level))
        x = torch.where(canvas.known[..., None], noisy, eps)

        def held(x: Tensor, t: Tensor) -> Tensor:
            levels = torch.where(canvas.known, self.level, t[:, None])  # (B, N)
            return velocity(x, levels).masked_fill(canvas.known[..., None], 0.0)

        x = self.follow(held, x, self.levels(canvas, settings, start))
        return canvas.solved(torch.where(canvas.known[..., None], canvas.tokens, x))


class NoisierContext(NoisyContext):
    level = 0.1


@dataclass(frozen=True)
class Way:
    """How to go on: a model, and the window and context of long clips."""

    model: type[Sora] = Sora
    window: int = WINDOW
    context: int = CONTEXT


RUNS = [
    Run("known", "known tokens at level 0"),
    Run("replaced", "known tokens replaced at every step"),
    Run("repaint", "RePaint, four times each step"),
    Run("guided", "guidance by what is known, 1.5"),
    Run("noisy", "context with noise of 0.02"),
    Run("noisier", "context with noise of 0.1"),
    Run("9-5", "windows of 9 latents, 5 known"),
    Run("9-7", "windows of 9, 7 known"),
    Run("9-3", "windows of 9, 3 known"),
    Run("17-9", "windows of 17, 9 known"),
]
WAYS = {
    "known": Way(), "replaced": Way(Replacing), "repaint": Way(RePaint), "guided": Way(Guided),
    "noisy": Way(NoisyContext), "noisier": Way(NoisierContext), "9-5": Way(window=9, context=5),
    "9-7": Way(window=9, context=7), "9-3": Way(window=9, context=3), "17-9": Way(window=17, context=9),
}  # fmt: skip
COLUMNS = {"way": "going on by"}


def run(
    seeds: list[int],
    steps: int,
    prompts: int,
    only: list[str],
    results: Path = RESULTS,
    folder: Path | None = None,
) -> str:
    """Measures the ways, as far as the results lack them; returns the table. Nothing is trained,
    whatever `steps` says."""
    bundle = folder or shipped()
    settings = {"prompts": prompts, "weights": fingerprint(bundle, "dit")}
    fill(results, chosen(RUNS, only), seeds, settings,
         lambda way, seed: measure(WAYS[way.slug], bundle, prompts, seed))  # fmt: skip
    return table([row for row in found(results, **settings) if row["seed"] in seeds])


def measure(way: Way, bundle: Path, prompts: int, seed: int) -> dict[str, Any]:
    """How many clips are right: {"count", "right": {what: number}, "long count"}."""
    sora = way.model.from_pretrained(bundle, "cpu")
    bench = Bench(sora, prompts, seed, tqdm(desc="going on", unit="clip", leave=False))
    right: dict[str, int] = {}
    if (way.window, way.context) == (WINDOW, CONTEXT):
        truth = bench.true_clips()
        for name, (plan, given, far) in SHORT.items():
            ways = {"sampled": sample(bench, plan, truth, given)}
            rows = {row["measure"]: row for row in compared({}, ways, truth, True, far)}
            right[name] = round(prompts * rows["all"]["right"])
            right[f"{name}: far end"] = round(prompts * rows["far end"]["right"])
    count = max(1, prompts // 6)
    truth = replace(bench, clips=count).true_clips(frames=1 + 8 * SECONDS)
    long = [*bench.sora.stream([clip.caption for clip in truth], 1 + 8 * SECONDS,
        window=way.window, context=way.context, generator=bench.settings().generator)]  # fmt: skip
    last = np.concatenate(long, axis=1)[:, -17:]  # (B, 17, H, W, 3)
    judged = [judge(part, clip) for part, clip in zip(last, truth, strict=True)]
    for name in judged[0]:
        right[f"{SECONDS} s: {name}"] = sum(one[name] for one in judged)
    return {"count": prompts, "long count": count, "right": right}


def sample(bench: Bench, plan: Plan, truth: list[Clip], given: Sequence[slice]) -> np.ndarray:
    """A clip for each true one, of which the frames `given` are known: (B, T, H, W, 3)."""
    true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
    return bench.sample(plan, truth, [true[:, part] for part in given])


def table(rows: list[dict[str, Any]]) -> str:
    """Percent right with 95% intervals, all seeds together."""
    lines, columns = [], dict(COLUMNS)
    for way in RUNS:
        mine = [row for row in rows if row["run"] == way.slug]
        line = {"way": way.label}
        for name in mine[0]["right"] if mine else ():
            count = "long count" if name.startswith(str(SECONDS)) else "count"
            total = sum(row[count] for row in mine)
            line[name] = percent(proportion(sum(row["right"][name] for row in mine), total))
            columns[name] = name
        lines += [line] if mine else []
    return markdown(lines, columns)
