"""Evaluation: prompts of every split are sampled, the oracle reads the clips, and tables say how
often they are right.

A result is a flat list of rows. Each row has the world, split and length of its clips, their
source ("sampled"; "vae": true clips encoded and decoded; "pca": by the linear PCA; "true"), a
measure, and its value: a share "right" with its interval "low", "high" and the chance level, or a
"value" in the measure's own unit.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora.captioner import Captioner
from minisora.metrics import (
    frechet_distance,
    markdown,
    oracle_scores,
    percent,
    proportion,
    psnr,
)
from minisora.pipeline import Sora
from minisora.upsampler import Upsampler
from minisora.vae import VAE, to_frames, to_pixels
from minisora.weights import fingerprint, shipped
from minisora.world import Clip, World, get, language

PROMPT_SEED = 2_000_003  # evaluation's own seed: its clips are never trained or validated on
SPLITS = {"train": "seen", "held_out": "held-out pairs", "held_out_motion": "held-out motions"}
WORLDS = {"shapes": "one object", "pairs": "two objects"}
LABELS = SPLITS | WORLDS

Row = dict[str, Any]


def score_model(
    sora: Sora,
    clips: int = 500,
    seed: int = 0,
    captioner: Captioner | None = None,
    upsampler: Upsampler | None = None,
    batch: int = 20,
) -> dict[str, Any]:
    """Samples `clips` prompts of every world and split that the model was trained on, and of
    images, with its default settings. Returns {"clips", "seed", "defaults", "minutes", "rows"}.

    With a `captioner` there are rows of what it says of the clips; with an `upsampler`, rows of
    short prompts, as typed and completed.
    """
    started = time.monotonic()
    tasks = list(evaluation_tasks(sora))
    short = bool(upsampler) and any(world.name == "shapes" for world, *_ in tasks)
    total = (len(tasks) + 2 * short) * clips
    bar = tqdm(total=total, desc="sampling and reading", unit="clip")
    rows: list[Row] = []
    for world, split, frames in tasks:
        truth = true_clips(sora, clips, seed, frames, split, world)
        prompts = [clip.caption for clip in truth]
        videos = {
            "sampled": sample_clips(sora, prompts, seed, frames, batch, bar),
            "vae": reconstruct(sora.vae, truth),
            "true": np.stack([clip.frames for clip in truth]),
        }
        about = {"world": world.name, "split": split, "frames": frames}
        rows += [about | row for row in oracle_rows(videos, truth, world)]
        if captioner:
            others = true_clips(sora, clips, seed + 2, frames, split, world)
            reference = np.stack([clip.frames for clip in others])
            rows += [about | row for row in captioner_rows(captioner, videos, prompts, reference)]
    if short:
        rows += short_prompt_rows(sora, upsampler, clips, seed, batch, bar)
    bar.close()
    rows += pca_rows(sora, clips, seed)
    return {
        "clips": clips,
        "seed": seed,
        "defaults": sora.defaults,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "rows": rows,
    }


def evaluation_tasks(sora: Sora) -> Iterator[tuple[World, str, int]]:
    """(world, split, frames): every split of every world as clips, then single objects as images."""
    frames = sora.default_shape[0]
    for name in evaluation_worlds(sora):
        for split in get(name).splits:
            yield get(name), split, frames
        if name == "shapes" and frames > 1:
            yield get(name), "train", 1


def fingerprints(folder: str | None = None) -> dict[str, str]:
    """Identifies the weights that are evaluated: the model in `folder` (default: the shipped one),
    and the captioner and upsampler that come with the package."""
    model = {name: fingerprint(folder or shipped(), name) for name in ("vae", "text", "dit")}
    return model | {name: fingerprint(shipped(), name) for name in ("captioner", "upsampler")}


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


def true_clips(
    sora: Sora, count: int, seed: int, frames: int, split: str, world: World | None = None
) -> list[Clip]:
    """Clips that were never trained or validated on, at the model's size."""
    _, height, width = sora.default_shape
    draw = (world or get("shapes")).clip
    return [draw(PROMPT_SEED + seed, i, frames, height, width, split) for i in range(count)]


@torch.inference_mode()
def reconstruct(vae: VAE, clips: list[Clip], batch: int = 20) -> np.ndarray:
    """The clips after encoding and decoding, uint8 (B, T, H, W, 3)."""
    device = next(vae.parameters()).device
    video = to_pixels(np.stack([clip.frames for clip in clips]))  # (B, 3, T, H, W)
    parts = [vae.decode(vae.encode(part.to(device))).cpu() for part in video.split(batch)]
    return to_frames(torch.cat(parts))


def oracle_rows(videos: dict[str, np.ndarray], truth: list[Clip], world: World) -> Iterator[Row]:
    """The oracle's scores of each set of clips, and the PSNR of those that went through a VAE."""
    truths = [clip.truth for clip in truth]
    for source, frames in videos.items():
        if source == "true":
            continue
        for measure, score in oracle_scores(frames, truths, world).items():
            yield {"source": source, "measure": measure, **score}
        if source != "sampled":
            true = to_pixels(np.stack([clip.frames for clip in truth]))
            quality = psnr(to_pixels(frames), true)
            yield {"source": source, "measure": "psnr", "value": round(quality, 2)}


def captioner_rows(
    captioner: Captioner, videos: dict[str, np.ndarray], prompts: list[str], reference: np.ndarray
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
        distance = round(frechet_distance(features, others), 4)
        yield {"source": source, "measure": "caption", **proportion(right, len(wanted))}
        yield {"source": source, "measure": "cosine", "value": cosine}
        yield {"source": source, "measure": "frechet", "value": distance}


def short_prompt_rows(
    sora: Sora, upsampler: Upsampler | None, clips: int, seed: int, batch: int, bar: tqdm
) -> Iterator[Row]:
    """The share of short prompts whose clip has all that the prompt names and one clean object: as
    typed, and completed by the upsampler."""
    assert upsampler is not None
    frames = sora.default_shape[0]
    typed = [clip.short_caption for clip in true_clips(sora, clips, seed, frames, "train")]
    completed = upsampler(typed, torch.Generator().manual_seed(seed))
    for measure, prompts in (("as typed", typed), ("completed", completed)):
        sampled = sample_clips(sora, prompts, seed, batch=batch, bar=bar)
        reads = [get("shapes").describe(clip) for clip in sampled]
        right = sum(language.named_right(*pair) for pair in zip(typed, reads, strict=True))
        about = {"world": "shapes", "split": "train", "frames": frames, "source": "short prompts"}
        yield about | {"measure": measure, **proportion(right, clips)}


def pca_rows(sora: Sora, clips: int, seed: int) -> Iterator[Row]:
    """The scores of true clips after the linear PCA of the VAE's compression: the baseline."""
    frames, world = sora.default_shape[0], get(evaluation_worlds(sora)[0])
    pca = type(sora.vae)(**sora.vae.config).to(next(sora.vae.parameters()).device)
    train = true_clips(sora, 256, seed + 1, frames, "train", world)
    pca.start_from_pca(to_pixels(np.stack([clip.frames for clip in train])))
    truth = true_clips(sora, clips, seed, frames, "train", world)
    about = {"world": world.name, "split": "train", "frames": frames}
    rebuilt = {"pca": reconstruct(pca, truth)}
    yield from (about | row for row in oracle_rows(rebuilt, truth, world))


def evaluation_worlds(sora: Sora) -> list[str]:
    """The worlds that the model was trained on, single objects first."""
    return sorted(sora.trained_on["worlds"], key=lambda name: (name != "shapes", name))


def select(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows that agree with what is wanted."""
    return [row for row in rows if all(row.get(k) == value for k, value in wanted.items())]


def one(rows: list[Row], **wanted: Any) -> Row:
    """The only row that agrees with what is wanted."""
    (row,) = select(rows, **wanted)
    return row


def score_table(result: dict[str, Any], world: str) -> str:
    """Percent right of each measure (rows) and split (columns), with 95% intervals, beside the
    chance level and the ceiling, which is true clips after the VAE."""
    rows = select(result["rows"], world=world)
    sampled = [row for row in rows if row["source"] == "sampled" and "chance" in row]
    columns = {"measure": f"% right of {result['clips']}, {LABELS.get(world, world)}"}
    table = {row["measure"]: {"measure": row["measure"]} for row in sampled}
    for row in sampled:
        key = f"{row['split']}-{row['frames']}"
        split = LABELS.get(row["split"], row["split"])
        columns[key] = f"{split}, images" if row["frames"] == 1 else split
        shown = row["frames"] > 1 or row["measure"] != "motion"
        table[row["measure"]][key] = percent(row) if shown else ""
    frames = max(row["frames"] for row in sampled)
    for measure, cells in table.items():
        about = {"split": "train", "frames": frames, "measure": measure}
        cells["chance"] = f"{100 * one(rows, source='sampled', **about)['chance']:.1f}"
        cells["ceiling"] = f"{100 * one(rows, source='vae', **about)['right']:.1f}"
        cells["measure"] = "**all of it**" if measure == "all" else measure
    columns |= {"chance": "chance (seen)", "ceiling": "ceiling (seen)"}
    order = [name for name in get(world).scores if name in table]
    return markdown([table[name] for name in order], columns)


def captioner_table(result: dict[str, Any]) -> str:
    """What the captioner says: captions right of true clips, of those after the VAE and of sampled
    ones; cosines with the prompt and Frechet distances."""
    columns = {
        "clips": "clips",
        "caption-true": "captions right: true clips",
        "caption-vae": "through the VAE",
        "caption-sampled": "sampled",
        "cosine-true": "cosine with the prompt: true",
        "cosine-sampled": "sampled",
        "frechet-true": "Frechet distance: true",
        "frechet-sampled": "sampled",
    }
    table: dict[tuple, dict[str, str]] = {}
    for row in result["rows"]:
        if row["measure"] in ("caption", "cosine", "frechet"):
            about = (row["world"], row["split"], row["frames"])
            world, split = (LABELS.get(name, name) for name in about[:2])
            images = ", images" if row["frames"] == 1 else ""
            cells = table.setdefault(about, {"clips": f"{world}, {split}{images}"})
            value = f"{100 * row['right']:.1f}" if "right" in row else f"{row['value']:.3f}"
            cells[f"{row['measure']}-{row['source']}"] = value
    return markdown(list(table.values()), columns) if table else ""


def reconstruction(result: dict[str, Any]) -> str:
    """The VAE beside the linear PCA, in one sentence."""
    rows = select(result["rows"], split="train")
    frames = max(row["frames"] for row in rows)
    world = one(rows, source="pca", measure="psnr")["world"]
    parts = []
    for source, name in (("vae", "the VAE"), ("pca", "linear PCA at equal compression")):
        about = {"world": world, "frames": frames, "source": source}
        quality = one(rows, measure="psnr", **about)["value"]
        right = 100 * one(rows, measure="all", **about)["right"]
        parts.append(f"{name} {quality:.1f} dB, {right:.1f}% all right")
    return f"Reconstruction of seen clips: {'; '.join(parts)}."


def summary(result: dict[str, Any]) -> str:
    """The headline: percent of prompts with everything right, a row each for clips of one object,
    of two, images and short prompts."""
    rows, clips = result["rows"], result["clips"]
    columns = {"clips": f"everything right, % of {clips} prompts"}
    columns |= {split: label for split, label in SPLITS.items()}
    table: dict[Any, dict[str, str]] = {}
    for row in select(rows, source="sampled", measure="all"):
        world = LABELS.get(row["world"], row["world"])
        name = f"images of {world}" if row["frames"] == 1 else world
        table.setdefault(name, {"clips": name})[row["split"]] = percent(row)
    for row in select(rows, source="short prompts"):
        name = f'short prompts ("red circle"), {row["measure"]}'
        table[name] = {"clips": name, "train": percent(row)}
    ceilings = {r["split"]: f"{100 * r['right']:.1f}" for r in vae_ceilings(rows)}
    table["ceiling"] = {"clips": "ceiling: true clips of one object after the VAE", **ceilings}
    return markdown(list(table.values()), columns)


def vae_ceilings(rows: list[Row]) -> list[Row]:
    """The scores of true clips of the first world after the VAE."""
    found = select(rows, source="vae", measure="all")
    frames = max(row["frames"] for row in found)
    return [row for row in found if (row["world"], row["frames"]) == (found[0]["world"], frames)]


def report(result: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    worlds = dict.fromkeys(row["world"] for row in result["rows"])
    parts = [summary(result), reconstruction(result)]
    parts += [score_table(result, world) for world in worlds]
    parts.append(captioner_table(result))
    return "\n\n".join(part for part in parts if part)
