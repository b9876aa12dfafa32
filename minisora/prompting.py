"""Evaluation of prompts with images and videos: is what is made right, and does it fit what was
given?

Each mode is measured on clips of held-out pairs beside simple ways to do the same without a model
("baseline" in a row's source). Rows are like those of evaluate.py, with the mode, and for some of
them a setting: the strength of an edit, the number of given frames, the second of a long clip.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minisora.canvas import Plan, connect, extend, extend_backward, from_text
from minisora.canvas import animate as animate_plan
from minisora.evaluate import PROMPT_SEED
from minisora.metrics import Row, proportion
from minisora.pipeline import Settings
from minisora.sora import LARGE_STRENGTH, STRENGTH, Sora
from minisora.vae import to_frames, to_pixels
from minisora.world import Clip, get, law, oracle, pairs, shapes
from minisora.world.loops import LONGEST, closing

FAR = 1.5  # units; the shorter side of a picture has 32
KEPT = 2.0  # units: an edit keeps a path if it is so near, root mean square
SEAM = 1.5  # the step from a loop's end to its beginning, in median steps
STRENGTHS = (0.5, STRENGTH, 0.8, LARGE_STRENGTH, 1.0)
TIMES = (2, 8, 15, 30, 45, 60)  # seconds after which a long clip is read
LONG_CLIPS = 64
LAWFUL = "lawful"
TURNS, HALF = "turning into", "bouncing, 13 frames given"
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
        self,
        world: str = "shapes",
        frames: int = 17,
        split: str = "held_out",
        where: Callable[[Clip], bool] | None = None,
    ) -> list[Clip]:
        """The first clips that `where` accepts (default: all), as many as are measured."""
        size = (frames, *self.sora.default_shape[1:])
        drawn = (
            get(world).clip(PROMPT_SEED + self.seed, number, *size, split)
            for number in itertools.count()
        )
        return list(itertools.islice(filter(where or any_clip, drawn), self.clips))

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
    first, length = stacked(truth)[:, :1], 17
    fresh = bench.sample(from_text(length), truth, [])
    ways = {
        "sampled": bench.sample(animate_plan(length), truth, [first]),
        "baseline: the image, held": first.repeat(length, axis=1),
        "baseline: a new clip after it": np.concatenate([first, fresh[:, 1:]], axis=1),
    }
    yield from compared({"mode": "animate", "frames": length}, ways, truth)


def extend_forward(bench: Bench) -> Iterator[Row]:
    for given, length in ((9, 17), (17, 33)):
        truth = bench.true_clips(frames=length)
        part, fresh = stacked(truth)[:, :given], bench.sample(from_text(length), truth, [])
        ways = {
            "sampled": bench.sample(extend(given, length), truth, [part]),
            "baseline: the last frame, held": hold(part, length),
            "baseline: a new clip after it": np.concatenate([part, fresh[:, given:]], axis=1),
        }
        about = {"mode": "extend", "frames": length}
        yield from compared(about, ways, truth, lawful=True, far=length - 1)


def backward(bench: Bench) -> Iterator[Row]:
    for given, length in ((8, 17), (16, 33)):
        truth = bench.true_clips(frames=length)
        part, fresh = stacked(truth)[:, -given:], bench.sample(from_text(length), truth, [])
        ways = {
            "sampled": bench.sample(extend_backward(given, length), truth, [part]),
            "baseline: the first frame, held": hold(part[:, ::-1], length)[:, ::-1],
            "baseline: a new clip before it": np.concatenate([fresh[:, :-given], part], axis=1),
        }
        about = {"mode": "extend backward", "frames": length}
        yield from compared(about, ways, truth, lawful=True, far=0)


def given_frames(bench: Bench) -> Iterator[Row]:
    """How much more is right if more is given: `extend` from 1, 5, 9 and 13 of 17 frames."""
    truth = bench.true_clips()
    for given in (1, 5, 9, 13):
        frames = bench.sample(extend(given, 17), truth, [stacked(truth)[:, :given]])
        about = {"mode": "given frames", "frames": 17, "given": given}
        yield from compared(about, {"sampled": frames}, truth, lawful=True, far=16)


def connected(bench: Bench) -> Iterator[Row]:
    """Two parts of one clip, 8 frames apart: of one object, and of one that turns into another."""
    for world, first, length in (("shapes", 9, 25), ("events", 5, 17)):
        truth = bench.true_clips(
            world, length, where=lambda clip: clip.truth.get("event", TURNS) == TURNS
        )
        true, second = stacked(truth), length - first - 8
        before, after = true[:, :first], true[:, -second:]
        fade = cross_fade(before[:, -1:], after[:, :1], 8)
        fresh = bench.sample(from_text(length), truth, [])[:, first:-second]
        plan = connect(first, second, length)
        ways = {
            "sampled": bench.sample(plan, truth, [before, after]),
            "baseline: cross-fade": np.concatenate([before, fade, after], axis=1),
            "baseline: a new clip between": np.concatenate([before, fresh, after], axis=1),
        }
        about = {"mode": "connect", "world": world, "frames": length}
        yield from compared(about, ways, truth, lawful=True)


# Loops


def loops(bench: Bench) -> Iterator[Row]:
    """Clips of 17 frames that move, grow, shrink or bounce, if there is a length at which their own
    motion leads back. Two whole bounces are a loop already, so bounces are also closed from 13."""
    cases: dict[tuple[str, int, int], list[Clip]] = {}
    for clip in bench.true_clips(frames=LONGEST, where=can_close):
        for kind, count in given_of(clip).items():
            if found := closing(clip.frames[:count]):
                cases.setdefault((kind, *found), []).append(clip)
    read: dict[str, list[tuple[str, bool]]] = {}
    for (kind, given, length), truth in sorted(cases.items()):
        true = stacked(truth)
        part, new = true[:, :given], length - given
        back = part[:, -2:0:-1]  # given - 2 frames
        ways: dict[str, Frames] = {
            "sampled": bench.in_batches(partial(looped, bench, length), truth, part),
            "true clip": true[:, :length],
            "baseline: the clip alone": part,
            "baseline: there and back": np.concatenate([part, back], axis=1),
            "baseline: cross-fade": np.concatenate(
                [part, cross_fade(part[:, -1:], part[:, :1], new)], axis=1
            ),
        }
        for source, frames in ways.items():
            read.setdefault(source, []).extend(
                (kind, is_loop(made, clip)) for made, clip in zip(frames, truth, strict=True)
            )
    for source, results in read.items():
        about = {"mode": "loop", "source": source}
        whole = [right for case, right in results if case != HALF]
        yield about | {"measure": LAWFUL} | share_of(whole)
        for name in sorted({case for case, _ in results}):
            of_kind = [right for case, right in results if case == name]
            yield about | {"measure": f"{LAWFUL}: {name}"} | share_of(of_kind)


def looped(bench: Bench, length: int, clips: list[Clip], part: Frames) -> Frames:
    return bench.sora.loop_clips(part, length, [clip.caption for clip in clips], bench.settings())


def can_close(clip: Clip) -> bool:
    return clip.truth["motion"] != "standing still" and closing(clip.frames[:17]) is not None


def given_of(clip: Clip) -> dict[str, int]:
    """How many frames are given, by the kind of case."""
    kind = kind_of(clip)
    return {kind: 17} | ({HALF: 13} if kind == "bouncing" else {})


def is_loop(frames: np.ndarray, clip: Clip) -> bool:
    """Whether a clip (T, H, W, 3) is lawful when it is played twice: everything is as in the given
    one, one clean object in every frame, on one lawful path, and no step at the seam that stands
    out."""
    twice = np.concatenate([frames, frames])  # (2 T, H, W, 3)
    read = get("shapes").describe(twice)
    right = get("shapes").agree(clip.truth, read)["all"] and keeps_law(twice, clip)
    steps = np.linalg.norm(np.diff(read["position"], axis=0), axis=1)  # (2 T - 1,)
    unit = min(frames.shape[1:3]) / shapes.SIDE
    seam = steps[len(frames) - 1]
    # a bounce is quickest at its floor; what does not move has steps of nearly 0
    quickest = steps.max() if clip.truth["motion"] == "bouncing" else 0
    return bool(right and seam <= max(SEAM * np.median(steps), quickest, 0.5 * unit))


def kind_of(clip: Clip) -> str:
    motion = str(clip.truth["motion"])
    if motion in shapes.DIRECTIONS:
        return "moving"
    return "growing or shrinking" if motion in shapes.FIRST_SIZE else motion


# Edits


def edits(bench: Bench) -> Iterator[Row]:
    """One attribute of a true clip changes, all others and the path are to stay. All clips at the
    default strength, a third of them at others."""
    for attribute in ("color", "shape", "background", "motion"):
        where = is_moving if attribute == "motion" else any_clip
        truth = bench.true_clips(split="train", where=where)
        wanted = [with_other(clip, attribute, i) for i, clip in enumerate(truth)]
        usual = LARGE_STRENGTH if attribute == "motion" else STRENGTH
        for method in ("flow", "noise"):
            for strength in STRENGTHS:
                full = strength == usual and method == "flow"  # the default
                few = slice(None if full else max(1, bench.clips // 3))
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
        frames = stacked(clips)
        prompts, sources = map(shapes.caption, goals), (clip.caption for clip in clips)
        return bench.sora.edit_clips(frames, [*prompts], [*sources], strength, method, settings)

    return bench.in_batches(make, truth, wanted)


def any_clip(clip: Clip) -> bool:
    return True


def is_moving(clip: Clip) -> bool:
    return clip.truth["motion"] in shapes.DIRECTIONS


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
    """How often the attribute has changed, everything is as wanted, and the path is kept, which a
    change of the motion does not ask for."""
    world = get("shapes")
    read = [world.describe(clip) for clip in frames]
    agreed = [world.agree(goal, one) for goal, one in zip(wanted, read, strict=True)]
    yield about | {"measure": "changed"} | share_of([one[attribute] for one in agreed])
    yield about | {"measure": "all"} | share_of([one["all"] for one in agreed])
    if attribute == "motion":
        return
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
    """Half of the picture is made anew: where one of two objects is replaced by another, and where
    one object crosses the border of that half, so that what is made has to join what is there."""
    truth = bench.true_clips("pairs", split="train")
    yield from refilled(bench, "pairs", truth, [with_other_half(*c) for c in with_number(truth)])
    truth = bench.true_clips(where=crosses)
    yield from refilled(bench, "shapes", truth, [with_half(*c) for c in with_number(truth)])


def refilled(
    bench: Bench, world: str, truth: list[Clip], cases: list[tuple[dict, np.ndarray]]
) -> Iterator[Row]:
    """Regions of clips made anew: what each is to show then, and its mask (T, H, W)."""
    wanted, masks = [goal for goal, _ in cases], [mask for _, mask in cases]
    prompts, settings = [get(world).caption(goal) for goal in wanted], bench.settings()

    def make(clips: list[Clip], texts: list[str], regions: list[np.ndarray]) -> Frames:
        return bench.sora.inpaint_clips(stacked(clips), np.stack(regions), texts, settings)

    def fresh(clips: list[Clip], texts: list[str], regions: list[np.ndarray]) -> Frames:
        made = bench.sora(texts, generator=settings.generator)
        return np.where(np.stack(regions)[..., None], made, stacked(clips))

    ways = {
        "sampled": bench.in_batches(make, truth, prompts, masks),
        "baseline: a new clip in the hole": bench.in_batches(fresh, truth, prompts, masks),
    }
    goals = [replace(clip, truth=goal) for clip, goal in zip(truth, wanted, strict=True)]
    about = {"mode": "inpaint", "world": world}
    yield from compared(about, ways, goals, lawful=world == "shapes")


def crosses(clip: Clip) -> bool:
    """Whether the object is cut by the vertical line through the middle at some time."""
    off = np.abs(clip.truth["position"][:, 0] - clip.frames.shape[2] / 2)
    return bool(off.min() < shapes.SIZES["small"] / 2 * min(clip.frames.shape[1:3]) / shapes.SIDE)


def with_half(clip: Clip, number: int) -> tuple[dict[str, Any], np.ndarray]:
    """The truth of a clip, and the mask (T, H, W) of its left or right half."""
    mask = np.zeros(clip.frames.shape[:3], dtype=bool)
    middle = clip.frames.shape[2] // 2
    mask[..., slice(middle) if number % 2 else slice(middle, None)] = True
    return clip.truth, mask


def with_number(clips: list[Clip]) -> list[tuple[Clip, int]]:
    return [(clip, number) for number, clip in enumerate(clips)]


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
    truth = replace(bench, clips=LONG_CLIPS).true_clips(frames=frames)
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
    fit = oracle.fit_object(*oracle.subtract_background(part))
    return {
        "color": fit.color == clip.truth["color"],
        "shape": fit.shape == clip.truth["shape"],
        "one object": fit.is_clean,
        "law": keeps_law(part, clip),
    }


MEASURES = (
    animate, extend_forward, backward, given_frames, connected, loops, edits, inpainted,
    rolled_out,
)  # fmt: skip


# What the measurements share


def hold(frames: Frames, length: int) -> Frames:
    """Clips (B, n, H, W, 3) with their last frame held until they have `length` frames."""
    return np.concatenate(
        [frames, frames[:, -1:].repeat(length - frames.shape[1], axis=1)], axis=1
    )


def stacked(clips: list[Clip]) -> Frames:
    return np.stack([clip.frames for clip in clips])


def cross_fade(last: Frames, first: Frames, count: int) -> Frames:
    """`count` frames between two, (B, 1, H, W, 3) each, which blend one into the other."""
    share = np.linspace(0, 1, count + 2)[1:-1, None, None, None]  # (count, 1, 1, 1)
    return np.round((1 - share) * last + share * first).astype(np.uint8)


def share_of(right: list[bool]) -> dict[str, float]:
    return proportion(sum(right), len(right)) | {"cases": len(right)}


def compared(
    about: Row,
    ways: dict[str, Frames],
    truth: list[Clip],
    lawful: bool = False,
    far: int | None = None,
) -> Iterator[Row]:
    """How often each attribute is right, "clean" and "all", for each way to make the clips. If
    `lawful`, all frames, given and made, have to be on one path that the law of the motion allows.
    `far`: the number of the frame that is furthest from given ones."""
    world = get(truth[0].world)
    for source, frames in ways.items():
        agreed = [
            world.agree(clip.truth, world.describe(made))
            for made, clip in zip(frames, truth, strict=True)
        ]
        if lawful:
            for one, made, clip in zip(agreed, frames, truth, strict=True):
                one["law"] = keeps_law(made, clip)
                one["all"] = one["all"] and one["law"]
        head = about | {"source": source}
        for name in agreed[0]:
            yield head | {"measure": name} | share_of([one[name] for one in agreed])
        if far is not None:
            yield head | near_row(frames, truth, far)


def keeps_law(frames: np.ndarray, clip: Clip) -> bool:
    """Whether frames (T, H, W, 3), from anywhere in a clip of one object, follow the law of its
    motion: no jump, and everywhere near one path that the law allows, see `law.off_law`."""
    difference, background, unit = oracle.subtract_background(frames)
    if clip.world == "events":  # an object that turns into another moves on and keeps its size
        position = get("events").describe(frames)["position"] / unit  # (T, 2)
        radius = np.ones(len(position))
    else:
        fit = oracle.fit_object(difference, background, unit)
        position, radius = fit.position / unit, fit.radius / unit
    motion, size = str(clip.truth["motion"]), clip.truth["size"]
    extent = frames.shape[2] / unit, frames.shape[1] / unit
    steps = np.abs(np.diff(position, axis=0)).max()
    jumps = motion != "bouncing" and not steps < oracle.MAX_JUMP
    return not jumps and law.off_law(motion, size, extent, position, radius) < oracle.MAX_JUMP


def near_row(frames: Frames, truth: list[Clip], number: int) -> Row:
    """How often the object of frame `number` is within 1.5 units of the true one."""
    unit = min(frames.shape[2:4]) / shapes.SIDE
    read = [get("shapes").describe(clip)["position"][number] for clip in frames]  # (2,) each
    off = [
        float(np.linalg.norm(position - clip.truth["position"][number])) / unit
        for position, clip in zip(read, truth, strict=True)
    ]
    return {"measure": "far end"} | share_of([far <= FAR for far in off])  # nan: no
