"""Evaluation over sizes, lengths and modes: is the model as good at all of them as at its usual
clip?

Rows are like those of evaluate.py, with the clip's height and width, the mode, and whether its size
and length were trained on. For modes that go on from true frames, the measure
"far end" is the share of clips whose object is within 1.5 units of the true one in the frame that
is furthest from what was given.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora.canvas import MODES
from minisora.evaluate import PROMPT_SEED
from minisora.metrics import Row, oracle_scores, proportion
from minisora.pipeline import Settings
from minisora.sora import Sora
from minisora.world import Clip, events, get

NEW_SIZES = ((40, 40), (24, 56), (56, 24))  # between those of the shipped weights
NEW_LENGTHS = (9, 25, 41)
FAR = 1.5  # units; the shorter side of a picture has 32
# the part of a clip after which comes the frame that is furthest from what is given, where the
# given frames say how the object goes on
FAR_FRAME = {"extend": 1.0, "extend backward": 0.0, "connect": 0.5}


@dataclass(frozen=True)
class Part:
    """Clips of one world, size and length, made in one mode."""

    world: str
    frames: int
    height: int
    width: int
    mode: str = "text"
    split: str = "held_out"


def parts_of(sora: Sora) -> Iterator[Part]:
    """All that is measured: text to video at every size and length, trained on or between them,
    images at every size, and every mode."""
    frames, height, width = sora.default_shape
    known = sora.trained_on
    lengths, sizes = known["durations"], known["sizes"]
    worlds = sorted(known["worlds"], key=lambda name: (name != "shapes", name))
    for high, wide in sizes:
        yield from (Part(world, frames, high, wide) for world in worlds)
    yield from (Part("shapes", frames, h, w) for h, w in NEW_SIZES)
    yield from (Part("shapes", t, height, width) for t in sorted({*lengths, *NEW_LENGTHS}))
    yield from (Part("shapes", 1, h, w) for h, w in (*sizes, *NEW_SIZES))
    for mode in [name for name, mode in MODES.items() if mode.given and name in known["modes"]]:
        yield Part("shapes", frames, height, width, mode)
        yield Part("shapes", 2 * frames - 1, height, width, mode)
        yield from (Part("shapes", frames, h, w, mode) for h, w in sizes[1:])


def score_breadth(sora: Sora, clips: int = 500, seed: int = 0) -> dict[str, Any]:
    """Samples `clips` prompts of every part with the model's default settings. Returns {"clips",
    "seed", "defaults", "minutes", "rows"}, as `evaluate.score_model` does."""
    started, rows = time.monotonic(), []
    parts = list(dict.fromkeys(parts_of(sora)))
    bar = tqdm(total=len(parts) * clips, desc="sizes, lengths and modes", unit="clip")
    for part in parts:
        rows += score_part(sora, part, clips, seed, bar)
    bar.close()
    minutes = round((time.monotonic() - started) / 60, 1)
    head = {"clips": clips, "seed": seed, "defaults": sora.defaults, "minutes": minutes}
    return head | {"rows": rows}


def score_part(
    sora: Sora, part: Part, clips: int, seed: int, bar: tqdm | None = None
) -> list[Row]:
    """The oracle's scores of one part, and how near the far end is to the true one."""
    truth = [true_clip(part, seed, i) for i in range(clips)]
    sampled = sample_part(sora, part, truth, seed, bar)
    about: Row = asdict(part) | {
        "trained_size": [part.height, part.width] in sora.trained_on["sizes"],
        "trained_length": part.frames in sora.trained_on["durations"],
    }
    scores = oracle_scores(sampled, [clip.truth for clip in truth], get(part.world))
    rows = [about | {"measure": name, **score} for name, score in scores.items()]
    if part.world == "events":
        pairs = zip(truth, map(events.describe, sampled), strict=True)
        orders = Counter(events.order(clip.truth, read) for clip, read in pairs)
        rows += [
            about | {"measure": f"order: {name}", **proportion(count, clips)}
            for name, count in sorted(orders.items())
        ]
    if part.mode in FAR_FRAME:
        frame = int(FAR_FRAME[part.mode] * (part.frames - 1))
        near = sum(off <= FAR for off in far_ends(part, sampled, truth, frame))
        rows.append(about | {"measure": "far end", **proportion(near, clips)})
    return rows


def true_clip(part: Part, seed: int, index: int) -> Clip:
    size = (part.frames, part.height, part.width)
    return get(part.world).clip(PROMPT_SEED + seed, index, *size, part.split)


def sample_part(
    sora: Sora, part: Part, truth: list[Clip], seed: int, bar: tqdm | None
) -> np.ndarray:
    """A clip for each true one, from its caption and what the mode is given: (B, T, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    plan, spans = MODES[part.mode].example(part.frames)
    batch = max(1, 2000 * 17 * 1024 // (80 * part.frames * part.height * part.width))
    sampled = []
    for start in range(0, len(truth), batch):
        clips = truth[start : start + batch]
        frames = np.stack([clip.frames for clip in clips])  # (B, T, H, W, 3)
        parts = [frames[:, span] for span in spans]
        prompts, settings = [clip.caption for clip in clips], Settings(generator=generator)
        sampled.append(sora.sample(plan, prompts, parts, (part.height, part.width), settings))
        if bar is not None:
            bar.update(len(clips))
    return np.concatenate(sampled)


def far_ends(part: Part, sampled: np.ndarray, truth: list[Clip], frame: int) -> list[float]:
    """How far, in units, each clip's object is from the true one in `frame`; infinity if none."""
    unit = min(part.height, part.width) / 32
    read = [get(part.world).describe(clip)["position"][frame] for clip in sampled]  # (2,) each
    pairs = zip(read, truth, strict=True)
    off = [float(np.linalg.norm(at - clip.truth["position"][frame])) / unit for at, clip in pairs]
    return np.nan_to_num(off, nan=np.inf).tolist()
