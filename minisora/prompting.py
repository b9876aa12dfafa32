"""Evaluation of prompts with images and videos: is what is made right, and does it fit what was
given?

Each mode is measured on clips of held-out pairs beside simple ways to do the same without a model
("baseline" in a row's source). Rows are like those of evaluate.py, with the mode, and for some of
them a setting: the strength of an edit, the number of given frames, the second of a long clip.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora.canvas import Plan, connect, extend, extend_backward, from_text, loop
from minisora.canvas import animate as animate_plan
from minisora.evaluate import PROMPT_SEED
from minisora.metrics import Row, proportion
from minisora.pipeline import Settings
from minisora.sora import LARGE_STRENGTH, STRENGTH, Sora
from minisora.vae import to_frames, to_pixels
from minisora.world import Clip, World, get, oracle, pairs, shapes
from minisora.world.loops import closing_length

FAR = 1.5  # units; the shorter side of a picture has 32
KEPT = 2.0  # units: an edit keeps a path if it is so near, root mean square
SEAM = 1.5  # the step from a loop's end to its beginning, in median steps
STRENGTHS = (0.6, STRENGTH, 0.8, 0.85, LARGE_STRENGTH, 1.0)
TIMES = (2, 8, 15, 30, 45, 60)  # seconds after which a long clip is read
LAWFUL = "lawful"
BATCH = 40
Frames = np.ndarray  # uint8 (B, T, H, W, 3)


@dataclass(frozen=True)
class Bench:
    """What the measurements of all modes share."""

    sora: Sora
    clips: int
    seed: int
    bar: tqdm

    def true_clips(
        self, world: str = "shapes", frames: int = 17, count: int = 0, split: str = "held_out"
    ) -> list[Clip]:
        size = (frames, *self.sora.default_shape[1:])
        numbers = range(count or self.clips)
        return [get(world).clip(PROMPT_SEED + self.seed, i, *size, split) for i in numbers]

    def settings(self) -> Settings:
        return Settings(generator=torch.Generator().manual_seed(self.seed))

    def in_batches(self, make: Callable[..., Frames], *lists: Any) -> Frames:
        """`make` of parts of the lists, and all that it makes."""
        made = []
        for start in range(0, len(lists[0]), BATCH):
            part = [each[start : start + BATCH] for each in lists]
            made.append(make(*part))
            self.bar.update(len(part[0]))
        return np.concatenate(made)

    def sample(self, plan: Plan, truth: list[Clip], given: Sequence[Frames]) -> Frames:
        """A clip for each true one, from its caption and given clips (B, T, H, W, 3)."""
        settings = self.settings()

        def make(clips: list[Clip], *parts: Frames) -> Frames:
            size = clips[0].frames.shape[1:3]
            return self.sora.sample(plan, [c.caption for c in clips], [*parts], size, settings)

        return self.in_batches(make, truth, *given)


def score_prompting(sora: Sora, clips: int = 300, seed: int = 0) -> dict[str, Any]:
    """Measures every mode on `clips` clips with the model's default settings. Returns {"clips",
    "seed", "defaults", "minutes", "rows"}, as `evaluate.score_model` does."""
    started = time.monotonic()
    rows: list[Row] = []
    bar = tqdm(desc="images and videos as prompts", unit="clip")
    bench = Bench(sora, clips, seed, bar)
    for measure in MEASURES:
        rows += measure(bench)
    bar.close()
    minutes = round((time.monotonic() - started) / 60, 1)
    head = {"clips": clips, "seed": seed, "defaults": sora.defaults, "minutes": minutes}
    return head | {"rows": rows}


# Going on from given frames


def animate(bench: Bench) -> Iterator[Row]:
    truth = bench.true_clips()
    true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
    first, length = true[:, :1], true.shape[1]
    fresh = bench.sample(from_text(length), truth, [])
    ways = {
        "sampled": bench.sample(animate_plan(length), truth, [first]),
        "baseline: the image, held": first.repeat(length, axis=1),
        "baseline: a new clip after it": np.concatenate([first, fresh[:, 1:]], axis=1),
    }
    for source, frames in ways.items():
        yield from right_rows(
            {"mode": "animate", "frames": length, "source": source}, frames, truth
        )


def extend_forward(bench: Bench) -> Iterator[Row]:
    for given, length in ((9, 17), (17, 33)):
        truth = bench.true_clips(frames=length)
        true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
        part, fresh = true[:, :given], bench.sample(from_text(length), truth, [])
        ways = {
            "sampled": bench.sample(extend(given, length), truth, [part]),
            "baseline: the last frame, held": hold(part, length),
            "baseline: a new clip after it": np.concatenate([part, fresh[:, given:]], axis=1),
        }
        for source, frames in ways.items():
            about = {"mode": "extend", "frames": length, "source": source}
            yield from right_rows(about, frames, truth, new=slice(given - 1, None))
            yield about | near_row(frames, truth, length - 1)


def backward(bench: Bench) -> Iterator[Row]:
    for given, length in ((8, 17), (16, 33)):
        truth = bench.true_clips(frames=length)
        true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
        part, fresh = true[:, -given:], bench.sample(from_text(length), truth, [])
        new = length - given
        ways = {
            "sampled": bench.sample(extend_backward(given, length), truth, [part]),
            "baseline: the first frame, held": hold(part[:, ::-1], length)[:, ::-1],
            "baseline: a new clip before it": np.concatenate([fresh[:, :new], part], axis=1),
        }
        for source, frames in ways.items():
            about = {"mode": "extend backward", "frames": length, "source": source}
            yield from right_rows(about, frames, truth, new=slice(new + 1))
            yield about | near_row(frames, truth, 0)


def given_frames(bench: Bench) -> Iterator[Row]:
    """How much more is right if more is given: `extend` from 1, 5, 9 and 13 of 17 frames."""
    truth = bench.true_clips()
    true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
    for given in (1, 5, 9, 13):
        frames = bench.sample(extend(given, 17), truth, [true[:, :given]])
        about = {"mode": "given frames", "frames": 17, "source": "sampled", "given": given}
        yield from right_rows(about, frames, truth, new=slice(given - 1, None))
        yield about | near_row(frames, truth, 16)


def joined(bench: Bench) -> Iterator[Row]:
    """Two parts of one clip, 8 frames apart: of one object, and of one that turns into another."""
    for world, first, length in (("shapes", 9, 25), ("events", 5, 17)):
        truth = [
            clip
            for clip in bench.true_clips(world, length, 3 * bench.clips)
            if world == "shapes" or clip.truth["event"] == "turning into"
        ][: bench.clips]
        true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
        second = length - first - 8
        before, after = true[:, :first], true[:, -second:]
        share = np.linspace(0, 1, 10)[1:-1, None, None, None]  # (8, 1, 1, 1), of the second clip
        fade = (1 - share) * before[:, -1:] + share * after[:, :1]  # (B, 8, H, W, 3)
        fresh = bench.sample(from_text(length), truth, [])
        ways = {
            "sampled": bench.sample(connect(first, second, length), truth, [before, after]),
            "baseline: cross-fade": np.concatenate(
                [before, np.round(fade).astype(np.uint8), after], 1
            ),
            "baseline: a new clip between": np.concatenate(
                [before, fresh[:, first:-second], after], 1
            ),
        }
        for source, frames in ways.items():
            about = {"mode": "connect", "world": world, "frames": length, "source": source}
            new = slice(first - 1, first + 9) if world == "shapes" else None
            yield from right_rows(about, frames, truth, get(world), new)


# Loops


def loops(bench: Bench) -> Iterator[Row]:
    """Clips of 16 frames of what moves, bounces, grows or shrinks, at the shortest length at which
    their own motion leads back."""
    cases: dict[int, list[Clip]] = {}
    moving = (
        clip for clip in bench.true_clips(frames=16, count=2 * bench.clips)
        if clip.truth["motion"] != "standing still"
    )  # fmt: skip
    for _, clip in zip(range(bench.clips), moving, strict=False):
        if length := closing_length(clip.frames):
            cases.setdefault(length, []).append(clip)
    read: dict[str, list[tuple[str, bool]]] = {}
    for length, truth in sorted(cases.items()):
        true = np.stack([clip.frames for clip in truth])  # (B, T, H, W, 3)
        new = length - true.shape[1]
        share = np.linspace(0, 1, new + 2)[1:-1, None, None, None]  # (new, 1, 1, 1)
        fade = np.round((1 - share) * true[:, -1:] + share * true[:, :1]).astype(np.uint8)
        ways = {
            "sampled": bench.sample(loop(true.shape[1], length), truth, [true]),
            "baseline: the clip alone": true,
            "baseline: cross-fade": np.concatenate([true, fade], axis=1),
        }
        for source, frames in ways.items():
            read.setdefault(source, []).extend(
                (str(clip.truth["motion"]), is_loop(made, clip))
                for made, clip in zip(frames, truth, strict=True)
            )
    for source, results in read.items():
        about = {"mode": "loop", "source": source}
        kinds = dict.fromkeys(kind_of(motion) for motion, _ in results)
        yield about | {"measure": LAWFUL} | share_of([right for _, right in results])
        for kind in kinds:
            part = [right for motion, right in results if kind_of(motion) == kind]
            yield about | {"measure": f"{LAWFUL}: {kind}"} | share_of(part)


def is_loop(frames: np.ndarray, clip: Clip) -> bool:
    """Whether a clip (T, H, W, 3) is lawful when it is played twice: everything is as in the given
    one, one clean object in every frame, no step too large, and none at the seam that stands out."""
    twice = np.concatenate([frames, frames])  # (2 T, H, W, 3)
    read = get("shapes").describe(twice)
    right = get("shapes").agree(clip.truth, read)["all"]
    steps = np.linalg.norm(np.diff(read["position"], axis=0), axis=1)  # (2 T - 1,)
    given = steps[: len(clip.frames) - 1]
    unit = min(frames.shape[1:3]) / shapes.SIDE
    # the quickest step of a bounce is at the floor; what stands still has steps of nearly 0
    limit = max(SEAM * np.median(steps), given.max(), 0.5 * unit)
    return bool(right and steps[len(frames) - 1] <= limit)


def kind_of(motion: str) -> str:
    return "moving" if motion.startswith("moving") else motion


# Edits


def edits(bench: Bench) -> Iterator[Row]:
    """One attribute of a true clip changes, all others and the path are to stay. All clips at the
    default strength, a third of them at others."""
    for attribute in ("color", "shape", "background", "motion"):
        truth = [
            clip for clip in bench.true_clips(split="train", count=2 * bench.clips)
            if clip.truth["motion"] in shapes.DIRECTIONS or attribute != "motion"
        ][: bench.clips]  # fmt: skip
        wanted = [with_other(clip, attribute, i) for i, clip in enumerate(truth)]
        usual = LARGE_STRENGTH if attribute == "motion" else STRENGTH
        for method in ("flow", "noise"):
            for strength in STRENGTHS:
                few = slice(None if strength == usual else max(1, bench.clips // 3))
                part = truth[few], wanted[few]
                frames = edit_clips(bench, *part, strength, method)
                about = {
                    "mode": "edit",
                    "changed": attribute,
                    "method": method,
                    "strength": strength,
                }
                yield from edit_rows(about, frames, *part, attribute)


def edit_clips(
    bench: Bench, truth: list[Clip], wanted: list[dict], strength: float, method: str
) -> Frames:
    settings = bench.settings()

    def make(clips: list[Clip], goals: list[dict]) -> Frames:
        frames = np.stack([clip.frames for clip in clips])  # (B, T, H, W, 3)
        prompts, sources = map(shapes.caption, goals), (clip.caption for clip in clips)
        return bench.sora.edit_clips(frames, [*prompts], [*sources], strength, method, settings)

    return bench.in_batches(make, truth, wanted)


def with_other(clip: Clip, attribute: str, number: int) -> dict[str, Any]:
    """The truth of a clip with another value of one attribute."""
    if attribute == "motion":
        others = [name for name in shapes.DIRECTIONS if name != clip.truth["motion"]]
    else:
        others = [name for name in shapes.VALUES[attribute] if name != clip.truth[attribute]]
    return clip.truth | {attribute: others[number % len(others)]}


def edit_rows(
    about: Row, frames: Frames, truth: list[Clip], wanted: list[dict], attribute: str
) -> Iterator[Row]:
    """How often the attribute has changed, everything is as wanted, and the path is kept."""
    world = get("shapes")
    read = [world.describe(clip) for clip in frames]
    agreed = [world.agree(goal, one) for goal, one in zip(wanted, read, strict=True)]
    yield about | {"measure": "changed"} | share_of([one[attribute] for one in agreed])
    yield about | {"measure": "all"} | share_of([one["all"] for one in agreed])
    off = [
        float(np.sqrt(np.square(one["position"] - clip.truth["position"]).sum(1).mean()))
        for one, clip in zip(read, truth, strict=True)
    ]
    limit = KEPT * min(frames.shape[2:4]) / shapes.SIDE
    kept = [far <= limit for far in off]  # false for nan
    both = [one["all"] and near for one, near in zip(agreed, kept, strict=True)]
    yield about | {"measure": "path kept"} | share_of(kept)
    yield about | {"measure": "just that"} | share_of(both)


def inpainted(bench: Bench) -> Iterator[Row]:
    """One of two objects is replaced by another: its half of the picture is made anew."""
    truth = bench.true_clips("pairs", split="train")
    wanted, masks = zip(*(with_other_half(clip, i) for i, clip in enumerate(truth)), strict=True)
    settings = bench.settings()

    def make(clips: list[Clip], goals: list[dict], regions: list[np.ndarray]) -> Frames:
        frames = np.stack([clip.frames for clip in clips])  # (B, T, H, W, 3)
        prompts = [pairs.caption(goal) for goal in goals]
        return bench.sora.inpaint_clips(frames, np.stack(regions), prompts, settings)

    def fresh(clips: list[Clip], goals: list[dict], regions: list[np.ndarray]) -> Frames:
        prompts = [pairs.caption(goal) for goal in goals]
        made = bench.sora(prompts, generator=settings.generator)
        given = np.stack([clip.frames for clip in clips])  # (B, T, H, W, 3)
        return np.where(np.stack(regions)[..., None], made, given)

    for source, way in (("sampled", make), ("baseline: a new clip in the hole", fresh)):
        frames = bench.in_batches(way, truth, wanted, masks)
        agreed = [
            pairs.agree(goal, pairs.describe(clip))
            for goal, clip in zip(wanted, frames, strict=True)
        ]
        about = {"mode": "inpaint", "world": "pairs", "source": source}
        for name in agreed[0]:
            yield about | {"measure": name} | share_of([one[name] for one in agreed])


def with_other_half(clip: Clip, number: int) -> tuple[dict[str, Any], np.ndarray]:
    """The truth of a clip of two objects with another first one, and the mask (T, H, W) of its
    half."""
    old, other = clip.truth["objects"]
    rng = np.random.default_rng(number)
    while True:  # rejection sampling
        new = shapes.draw_attributes(rng, "train", (old["motion"],))
        if new["color"] not in (old["color"], other["color"]) and new["shape"] != old["shape"]:
            break
    first = old | {"shape": new["shape"], "color": new["color"]}
    mask = np.zeros(clip.frames.shape[:3], dtype=bool)
    axis = pairs.axis_of(clip.truth["relation"])  # 0 for x
    side = mask.shape[2 - axis] // 2
    part = slice(side, None) if clip.truth["relation"] in pairs.SECOND_HALF else slice(side)
    mask[(..., part) if axis == 0 else (slice(None), part)] = True
    return clip.truth | {"objects": [first, other]}, mask


# A minute


def rolled_out(bench: Bench) -> Iterator[Row]:
    """Long clips: what is still right after so many seconds, beside true clips after the VAE."""
    frames = 1 + 8 * TIMES[-1]
    truth = bench.true_clips(frames=frames, count=64)
    settings = bench.settings()
    prompts = [clip.caption for clip in truth]
    parts = []
    for part in bench.sora.stream(prompts, frames, generator=settings.generator):
        parts.append(part)
        bench.bar.update(len(part) * part.shape[1] / frames)
    yield from survival("sampled", np.concatenate(parts, axis=1), truth)
    yield from survival("vae", rebuilt(bench.sora, truth), truth)


def rebuilt(sora: Sora, truth: list[Clip]) -> Frames:
    """True clips after the VAE alone: the best that a long clip can be."""
    clips = []
    for clip in truth:
        with torch.inference_mode():
            latents = sora.vae.encode(to_pixels(clip.frames[None]).to(sora.device))
            clips.append(to_frames(sora.vae.decode(latents))[0])
    return np.stack(clips)


def survival(source: str, frames: Frames, truth: list[Clip]) -> Iterator[Row]:
    """What is right in the last two seconds before each time: color, shape, one clean object in
    every frame, and the law of its motion."""
    for seconds in TIMES:
        part = frames[:, 8 * seconds - 16 : 8 * seconds + 1]  # (B, 17, H, W, 3)
        judged = [judge(made, clip) for made, clip in zip(part, truth, strict=True)]
        about = {"mode": "roll-out", "source": source, "second": seconds}
        for name in judged[0]:
            yield about | {"measure": name} | share_of([one[name] for one in judged])


def judge(part: np.ndarray, clip: Clip) -> dict[str, bool]:
    """What is right in a part (T, H, W, 3) of a clip, from anywhere."""
    difference, background, unit = oracle.subtract_background(part)
    fit = oracle.fit_object(difference, background, unit)
    return {
        "color": fit.color == clip.truth["color"],
        "shape": fit.shape == clip.truth["shape"],
        "one object": fit.is_clean,
        "law": keeps_law(str(clip.truth["motion"]), fit.position / unit, fit.radius / unit),
    }


def keeps_law(motion: str, position: np.ndarray, radius: np.ndarray) -> bool:
    """Whether a part of a clip, from anywhere, follows a kind of motion: no jump, no standstill. It
    may turn round at a border, so the direction is not asked for, and neither is the border.
    position (T, 2) and radius (T,) in units; false if a frame has no object."""
    if motion == "bouncing":
        return oracle.off_bounce(position) < oracle.MAX_JUMP
    changes = motion in shapes.FIRST_SIZE
    shift = np.ptp(radius) if not changes else np.ptp(position, axis=0).max() / 2
    steps = max(np.abs(np.diff(position, axis=0)).max(), np.abs(np.diff(radius)).max())
    moved = np.ptp(radius if changes else position, axis=0).max()
    # half of the least way that it goes in so many frames, there and back
    goes = motion == "standing still" or moved > len(radius) / 8
    return bool(shift < oracle.MAX_JUMP and steps < oracle.MAX_JUMP and goes)


MEASURES = (
    animate, extend_forward, backward, given_frames, joined, loops, edits, inpainted, rolled_out,
)  # fmt: skip


# What the measurements share


def hold(frames: Frames, length: int) -> Frames:
    """Clips (B, n, H, W, 3) with their last frame held until they have `length` frames."""
    return np.concatenate(
        [frames, frames[:, -1:].repeat(length - frames.shape[1], axis=1)], axis=1
    )


def share_of(right: list[bool]) -> dict[str, float]:
    return proportion(sum(right), len(right)) | {"cases": len(right)}


def right_rows(
    about: Row,
    frames: Frames,
    truth: list[Clip],
    world: World | None = None,
    new: slice | None = None,
) -> Iterator[Row]:
    """How often each attribute is right, "clean" and "all". With `new`, the frames that are not
    given, these have to follow the law of the motion: a clip that stands still is not right."""
    world = world or get("shapes")
    agreed = [
        world.agree(clip.truth, world.describe(made))
        for made, clip in zip(frames, truth, strict=True)
    ]
    if new is not None:
        for one, made, clip in zip(agreed, frames[:, new], truth, strict=True):
            one["law"] = keeps_law(str(clip.truth["motion"]), *path_of(made))
            one["all"] = one["all"] and one["law"]
    for name in agreed[0]:
        yield about | {"measure": name} | share_of([one[name] for one in agreed])


def path_of(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position (T, 2) and radius (T,) of the one object of a clip, in units."""
    difference, background, unit = oracle.subtract_background(frames)
    fit = oracle.fit_object(difference, background, unit)
    return fit.position / unit, fit.radius / unit


def near_row(frames: Frames, truth: list[Clip], number: int) -> Row:
    """How often the object of frame `number` is within 1.5 units of the true one."""
    unit = min(frames.shape[2:4]) / shapes.SIDE
    read = [get("shapes").describe(clip)["position"][number] for clip in frames]  # (2,) each
    off = [
        float(np.linalg.norm(position - clip.truth["position"][number])) / unit
        for position, clip in zip(read, truth, strict=True)
    ]
    return {"measure": "far end"} | share_of([far <= FAR for far in off])  # nan: no
