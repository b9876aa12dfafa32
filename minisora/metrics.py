"""Numbers for quality: reconstruction error, and the oracle's scores with intervals and chance."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minisora.vae import VAE, to_frames, to_pixels
from minisora.world import Clip, World, get, language

Row = dict[str, Any]  # a line of a result, see evaluate.py


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of clips in [-1, 1], (B, 3, T, H, W): the mean over
    clips."""
    error = (a.float().clamp(-1, 1) - b).square().flatten(1).mean(1)  # (B,)
    return float((10 * (4 / error.clamp(min=1e-10)).log10()).mean())  # the peak is 2, squared 4


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of clips in [-1, 1], (B, 3, T, H, W): the mean over frames, 1 if they
    are equal. Source: Wang et al., "Image Quality Assessment" (2004)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, other = (x.float().clamp(-1, 1).movedim(2, 1).flatten(0, 1) for x in (a, b))
    with torch.autocast(a.device.type, enabled=False):  # differences of squares need float32
        found: Any = structural_similarity_index_measure(one, other, data_range=2.0)  # (B T, ...)
    return float(found)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Frechet distance of two sets of features, (N, D) and (M, D), each taken as a Gaussian:
    |difference of means|^2 + tr(A + B - 2 (A B)^(1/2)) with covariances A and B.

    With features of clips it is the Frechet video distance. NaN if a set has fewer than two.
    Source: Unterthiner et al., "Towards Accurate Generative Models of Video" (2018).
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    cov_a, cov_b = a.mT.cov(), b.mT.cov()  # (D, D) each
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()  # (D,)
    spread = cov_a.trace() + cov_b.trace() - 2 * roots.sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a proportion. Source: Wilson, "Probable inference" (1927)."""
    share = right / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    variance = share * (1 - share) / count + z * z / (4 * count**2)
    half = z / (1 + z * z / count) * math.sqrt(variance)
    return max(0.0, center - half), min(1.0, center + half)


def proportion(right: int, count: int) -> dict[str, float]:
    """A share with its 95% interval: {"right", "low", "high"}."""
    low, high = wilson(right, count)
    return {"right": right / count, "low": low, "high": high}


def oracle_scores(
    frames: np.ndarray, truths: list[dict[str, Any]], world: World | None = None
) -> dict[str, dict[str, float]]:
    """Has the oracle of `world` (default: one object) read uint8 clips (B, T, H, W, 3).

    For each attribute, "clean" and "all": the share that is right, {"right", "low", "high"}, and
    "chance", the same readings scored against the next clip's truth.
    """
    world = world or get("shapes")
    reads = [world.describe(clip) for clip in frames]
    shifted = [*truths[1:], *truths[:1]]
    right = [world.agree(truth, read) for truth, read in zip(truths, reads, strict=True)]
    by_chance = [world.agree(truth, read) for truth, read in zip(shifted, reads, strict=True)]
    return {
        name: proportion(sum(r[name] for r in right), len(right))
        | {"chance": sum(c[name] for c in by_chance) / len(right)}
        for name in right[0]
    }


def clip_rows(
    sampled: np.ndarray,
    truth: list[Clip],
    world: World,
    vae: VAE,
    captioner: Any = None,
    reference: Sequence[Clip] = (),
    baseline: Sequence[Clip] = (),
) -> Iterator[Row]:
    """The scores of clips sampled (B, T, H, W, 3) for the captions of `truth`, beside those of the
    true clips after the VAE and, with `baseline` clips to fit it to, after the linear PCA.

    With a `captioner`, also what it says of each: see `captioner_rows`.
    """
    rebuilt, rows = reconstruction_rows("vae", vae, truth, world)
    yield from oracle_rows("sampled", sampled, truth, world)
    yield from rows
    if captioner:
        videos = {"sampled": sampled, "vae": rebuilt, "true": frames_of(truth)}
        captions = [clip.caption for clip in truth]
        yield from captioner_rows(captioner, videos, captions, frames_of(reference))
    if baseline:
        pca = type(vae)(**vae.config).to(next(vae.parameters()).device)
        pca.start_from_pca(to_pixels(frames_of(baseline)))
        yield from reconstruction_rows("pca", pca, truth, world)[1]


def frames_of(clips: Sequence[Clip]) -> np.ndarray:
    return np.stack([clip.frames for clip in clips])  # uint8 (B, T, H, W, 3)


def oracle_rows(source: str, frames: np.ndarray, truth: list[Clip], world: World) -> list[Row]:
    """The oracle's scores of clips from one source, a row for each measure."""
    scores = oracle_scores(frames, [clip.truth for clip in truth], world)
    return [{"source": source, "measure": name, **score} for name, score in scores.items()]


@torch.inference_mode()
def reconstruction_rows(
    source: str, vae: VAE, truth: list[Clip], world: World, batch: int = 20
) -> tuple[np.ndarray, list[Row]]:
    """Clips after encoding and decoding, uint8 (B, T, H, W, 3), and their scores with PSNR."""
    device = next(vae.parameters()).device
    video = to_pixels(frames_of(truth))  # (B, 3, T, H, W)
    parts = [vae.decode(vae.encode(part.to(device))).cpu() for part in video.split(batch)]
    rebuilt = torch.cat(parts)  # (B, 3, T, H, W)
    frames, quality = to_frames(rebuilt), round(psnr(rebuilt, video), 2)
    rows = oracle_rows(source, frames, truth, world)
    return frames, [*rows, {"source": source, "measure": "psnr", "value": quality}]


def captioner_rows(
    captioner: Any, videos: dict[str, np.ndarray], prompts: list[str], reference: np.ndarray
) -> Iterator[Row]:
    """The captioner as a second judge of each set of clips.

    "caption": the share whose caption is just the prompt; "cosine": mean similarity of clip and
    prompt; "frechet": distance of the clips' features from those of the `reference` clips.
    """

    def in_parts(compute: Any, frames: np.ndarray) -> list[Any]:
        return [compute(frames[i : i + 50]) for i in range(0, len(frames), 50)]

    wanted = [language.in_order(prompt) for prompt in prompts]
    texts = captioner.text_features(wanted).cpu()  # (B, D)
    others = torch.cat(in_parts(captioner.features, reference)).cpu()  # (B, D)
    for source, frames in videos.items():
        features = torch.cat(in_parts(captioner.features, frames)).cpu()  # (B, D)
        captions = [text for part in in_parts(captioner, frames) for text in part]
        right = sum(a == b for a, b in zip(captions, wanted, strict=True))
        cosine = round(float((features * texts).sum(-1).mean()), 4)
        distance = frechet_distance(features, others)
        yield {"source": source, "measure": "caption", **proportion(right, len(wanted))}
        yield {"source": source, "measure": "cosine", "value": cosine}
        known = None if math.isnan(distance) else round(distance, 4)  # JSON has no NaN
        yield {"source": source, "measure": "frechet", "value": known}


def short_prompt_row(kind: str, frames: np.ndarray, truth: list[Clip], world: World) -> Row:
    """The share of clips with one clean object and all that the clip's short caption names."""
    pairs = zip(truth, map(world.describe, frames), strict=True)
    right = sum(language.named_right(clip.short_caption, read) for clip, read in pairs)
    return {"source": "short prompts", "measure": kind, **proportion(right, len(truth))}


def percent(score: dict[str, float]) -> str:
    """A proportion as text: "98.3 (97.3-98.9)"."""
    return f"{100 * score['right']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"


def markdown(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as a Markdown table. `columns` maps the keys that are shown to their headings; a cell
    without a value stays empty."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [str(row.get(key, "")) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pivot(cells: Iterable[tuple[str, str, str]], corner: str) -> str:
    """A Markdown table of (line, column, cell) triples, in order of appearance. `corner` heads the
    column of line names."""
    lines: dict[str, dict[str, str]] = {}
    columns = {corner: corner}
    for line, column, cell in cells:
        lines.setdefault(line, {corner: line})[column] = cell
        columns[column] = column
    return markdown(list(lines.values()), columns)
