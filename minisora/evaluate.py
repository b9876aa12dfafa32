"""Evaluation: prompts of every split are sampled, the oracle reads the clips, and a table says how
often it is right."""

import time
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora import world as one_object
from minisora.captioner import Captioner
from minisora.metrics import frechet_distance, oracle_scores, psnr, wilson
from minisora.pipeline import Sora, to_frames, to_pixels
from minisora.upsampler import Upsampler
from minisora.vae import VAE
from minisora.weights import fingerprint, shipped
from minisora.world import Clip

PROMPT_SEED = 2_000_003  # evaluation's own world: its clips are never trained or validated on
SPLITS = [  # name in the table, split of the world, whether images
    ("seen", "train", False),
    ("held-out pairs", "held_out", False),
    ("held-out motions", "held_out_motion", False),
    ("images, seen", "train", True),
]
ROWS = ("background", "color", "size", "motion", "shape", "clean", "all")


def evaluate(
    sora: Sora,
    clips: int = 500,
    seed: int = 0,
    captioner: Captioner | None = None,
    upsampler: Upsampler | None = None,
    batch: int = 20,
) -> dict[str, Any]:
    """Samples `clips` prompts of every split, and of images, with the model's default settings, and
    if it makes two objects, of these.

    Each entry of "splits" and "pairs" holds the oracle's `scores` of sampled clips, and the
    `ceiling`: its scores, and `psnr` in dB, of true clips for the same prompts that only went
    through the VAE. With a `captioner` also what it says of all these clips (`judged`). With an `upsampler`,
    "short" says how often short prompts are answered right as they are typed, and upsampled. "pca" is
    the ceiling of a linear PCA.
    """
    started = time.monotonic()
    tasks = [(name, one_object, split, images) for name, split, images in SPLITS]
    if sora.makes.get("objects", 1) == 2:
        tasks += [(name, one_object.pairs, split, False) for name, split, _ in SPLITS[:3]]
    bar = tqdm(
        total=(len(tasks) + 2 * bool(upsampler)) * clips, desc="sampling and reading", unit="clip"
    )
    result: dict[str, Any] = {
        "clips": clips,
        "seed": seed,
        "defaults": sora.defaults,
        "splits": {},
        "pairs": {},
    }
    for name, world, split, images in tasks:
        frames = 1 if images else sora.makes["num_frames"]
        truth = true_clips(sora, clips, seed, frames, split, world)
        sampled = sample(sora, [clip.caption for clip in truth], seed, frames, batch, bar)
        scores = oracle_scores(sampled, [clip.truth for clip in truth], world)
        back, ceiling = rebuilt(sora.vae, truth, world)
        entry = {"scores": scores, **ceiling}
        if captioner:
            others = np.stack(
                [c.frames for c in true_clips(sora, clips, seed + 2, frames, split, world)]
            )
            true = np.stack([clip.frames for clip in truth])
            videos = {"made": sampled, "rebuilt": back, "true": true}
            entry["judged"] = judged(captioner, videos, [c.caption for c in truth], others)
        result["splits" if world is one_object else "pairs"][name] = entry
    if upsampler:
        result["short"] = short_prompts(sora, upsampler, clips, seed, bar, batch)
    bar.close()

    pca = VAE(**sora.vae.config).to(next(sora.vae.parameters()).device)
    train = true_clips(sora, 256, seed + 1, sora.makes["num_frames"], "train")
    pca.start_from_pca(to_pixels(np.stack([clip.frames for clip in train])))
    truth = true_clips(sora, clips, seed, sora.makes["num_frames"], "train")
    result["pca"] = rebuilt(pca, truth)[1]
    result["minutes"] = round((time.monotonic() - started) / 60, 1)
    return result


def fingerprints(folder: str | None = None) -> dict[str, str]:
    """Which weights were evaluated: the parts of the model in `folder` (default: the shipped one),
    the captioner and the upsampler that come with the package."""
    model = {name: fingerprint(folder or shipped(), name) for name in ("vae", "text", "dit")}
    return model | {name: fingerprint(shipped(), name) for name in ("captioner", "upsampler")}


def sample(
    sora: Sora,
    prompts: list[str],
    seed: int = 0,
    frames: int | None = None,
    batch: int = 32,
    bar: tqdm | None = None,
) -> np.ndarray:
    """A clip for each prompt, from the noise of `seed`; the bar counts them."""
    draws, made = torch.Generator().manual_seed(seed), []
    for start in range(0, len(prompts), batch):
        made.append(sora(prompts[start : start + batch], frames, generator=draws))
        if bar is not None:
            bar.update(len(made[-1]))
    return np.concatenate(made)


def short_prompts(
    sora: Sora, upsampler: Upsampler, clips: int, seed: int, bar: tqdm, batch: int
) -> dict[str, dict[str, float]]:
    """The share of short prompts, such as people write, whose clip has all that the prompt names
    and one clean object: as typed, and upsampled."""
    truth = true_clips(sora, clips, seed, sora.makes["num_frames"], "train")
    typed = [clip.short_caption for clip in truth]
    result = {}
    for name, prompts in (
        ("typed", typed),
        ("upsampled", upsampler(typed, torch.Generator().manual_seed(seed))),
    ):
        reads = map(one_object.describe, sample(sora, prompts, seed, batch=batch, bar=bar))
        right = sum(named_right(*pair) for pair in zip(typed, reads, strict=True))
        low, high = wilson(right, clips)
        result[name] = {"right": right / clips, "low": low, "high": high}
    return result


def named_right(prompt: str, read: dict[str, Any]) -> bool:
    """Whether a clean object has all that the prompt names."""
    named = one_object.parse(prompt).items()
    return read["clean"] and all(read[name] == word for name, word in named if word)


def true_clips(
    sora: Sora, count: int, seed: int, frames: int, split: str, world: Any = one_object
) -> list[Clip]:
    size = frames, sora.makes["height"], sora.makes["width"]
    return [world.clip(PROMPT_SEED + seed, index, *size, split=split) for index in range(count)]


def judged(
    captioner: Captioner, videos: dict[str, np.ndarray], prompts: list[str], others: np.ndarray
) -> dict[str, dict[str, float]]:
    """What the captioner says of each set of `videos`, which were made for, or are of, `prompts`.

    "told" is the share whose caption says just what the prompt says, "similarity" the mean cosine
    of clip and prompt, and "frechet" the distance of the clips' features from those of `others`.
    """

    def in_parts(what: Any, frames: np.ndarray) -> list[Any]:
        return [what(frames[i : i + 50]) for i in range(0, len(frames), 50)]

    wanted = [one_object.pairs.in_order(prompt) for prompt in prompts]
    texts = captioner.text_features(wanted).cpu()
    reference = torch.cat(in_parts(captioner.features, others)).cpu()
    result = {}
    for name, frames in videos.items():
        seen = torch.cat(in_parts(captioner.features, frames)).cpu()
        told = [text for part in in_parts(captioner, frames) for text in part]
        result[name] = {
            "told": float(np.mean([a == b for a, b in zip(told, wanted, strict=True)])),
            "similarity": round(float((seen * texts).sum(-1).mean()), 4),
            "frechet": round(frechet_distance(seen, reference), 4),
        }
    return result


@torch.inference_mode()
def rebuilt(
    vae: VAE, clips: list[Clip], world: Any = one_object, batch: int = 20
) -> tuple[np.ndarray, dict[str, Any]]:
    """Clips that were encoded and decoded, and their "ceiling": the oracle's scores and the PSNR."""
    device = next(vae.parameters()).device
    video = to_pixels(np.stack([clip.frames for clip in clips]))
    back = torch.cat(
        [vae.decode(vae.encode(part.to(device))).cpu() for part in video.split(batch)]
    )
    frames = to_frames(back)
    scores = oracle_scores(frames, [clip.truth for clip in clips], world)
    return frames, {"ceiling": scores, "psnr": round(psnr(back, video), 2)}


def percent(score: dict[str, float]) -> str:
    return f"{100 * score['right']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"


def table(result: dict[str, Any]) -> str:
    """The scores as Markdown: percent right with 95% intervals, beside the chance level and the
    VAE's ceiling."""
    splits = result["splits"]
    seen = splits["seen"]
    heads = [*splits, "chance (seen)", "ceiling (seen)"]
    lines = [
        f"| % right of {result['clips']} | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for row in ROWS:
        cells = [
            "" if row == "motion" and name.startswith("images") else percent(entry["scores"][row])
            for name, entry in splits.items()
        ]
        cells.append(f"{100 * seen['scores'][row]['chance']:.1f}")
        cells.append(f"{100 * seen['ceiling'][row]['right']:.1f}")
        label = "**all five and clean**" if row == "all" else row
        lines.append(f"| {label} | {' | '.join(cells)} |")
    pca = result["pca"]
    lines += [
        "",
        f"Reconstruction of seen clips: VAE {seen['psnr']:.1f} dB, "
        f"all right {100 * seen['ceiling']['all']['right']:.1f}%; "
        f"linear PCA of equal compression {pca['psnr']:.1f} dB, {100 * pca['ceiling']['all']['right']:.1f}%. "
        f"Images: VAE {splits['images, seen']['psnr']:.1f} dB, "
        f"{100 * splits['images, seen']['ceiling']['all']['right']:.1f}%.",
    ]
    if short := result.get("short"):
        lines += [
            "",
            "Short prompts, % with all that they name right and a clean object: "
            f"{percent(short['typed'])} as typed, {percent(short['upsampled'])} upsampled.",
        ]
    pairs = result.get("pairs", {})
    if pairs:
        lines += [
            "",
            f"| % right of {result['clips']} clips of two objects | {' | '.join(pairs)} |",
        ]
        lines.append("|---" * (len(pairs) + 1) + "|")
        for row in one_object.pairs.SCORES:
            cells = [percent(entry["scores"][row]) for entry in pairs.values()]
            lines.append(f"| {'**all of it**' if row == 'all' else row} | {' | '.join(cells)} |")
    if "judged" in seen:
        lines += [
            "",
            "| what the captioner says | captions right: true clips | through the VAE | made clips | "
            "cosine with the prompt: true | made | Frechet distance: true | made |",
            "|---" * 8 + "|",
        ]
        for name, entry in [*splits.items(), *((f"two: {k}", e) for k, e in pairs.items())]:
            of = entry["judged"]
            told = [f"{100 * of[key]['told']:.1f}" for key in ("true", "rebuilt", "made")]
            rest = [f"{of[k][n]:.3f}" for n in ("similarity", "frechet") for k in ("true", "made")]
            lines.append(f"| {name} | {' | '.join([*told, *rest])} |")
    return "\n".join(lines)
