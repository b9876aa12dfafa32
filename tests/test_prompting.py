"""The scores of prompts with images and videos: true clips score in full, broken ones do not."""

import numpy as np
import pytest
from tqdm import tqdm

from minisora import prompting, world
from minisora.prompting import Bench, is_loop, keeps_law, score_prompting, with_other_half
from minisora.report import prompting_tables
from minisora.sora import Sora
from minisora.world import oracle, pairs, shapes


@pytest.fixture
def bench(tiny_sora: Sora) -> Bench:
    tiny_sora.defaults = tiny_sora.defaults | {"num_frames": 17}
    return Bench(tiny_sora, clips=3, seed=0, bar=tqdm(disable=True))


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are the true clips."""
    monkeypatch.setattr(
        Bench, "sample", lambda self, plan, truth, given: np.stack([c.frames for c in truth])
    )


def of(rows: list, **wanted: object) -> list[float]:
    return [r["right"] for r in rows if all(r.get(k) == v for k, v in wanted.items())]


CONTINUATIONS = [
    prompting.animate, prompting.extend_forward, prompting.backward, prompting.given_frames,
    prompting.joined,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:not trained on")
@pytest.mark.parametrize("measure", CONTINUATIONS)
def test_true_clips_are_all_right(bench: Bench, perfect: None, measure) -> None:
    assert set(of([*measure(bench)], source="sampled", measure="all")) == {1.0}


@pytest.mark.filterwarnings("ignore:not trained on")
@pytest.mark.parametrize("measure", CONTINUATIONS[1:4])
def test_true_clips_end_where_they_should(bench: Bench, perfect: None, measure) -> None:
    assert set(of([*measure(bench)], source="sampled", measure="far end")) == {1.0}


def test_every_mode_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompting, "TIMES", (2, 3))
    monkeypatch.setattr(prompting, "STRENGTHS", (0.9,))
    with pytest.warns(UserWarning):  # the tiny model was trained on short clips
        rows = score_prompting(bench.sora, clips=2)["rows"]
    modes = {
        "animate", "extend", "extend backward", "given frames", "connect", "loop", "edit",
        "inpaint", "roll-out",
    }  # fmt: skip
    assert {row["mode"] for row in rows} == modes


@pytest.mark.filterwarnings("ignore:not trained on")
def test_the_tables_show_every_mode(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompting, "TIMES", (2, 3))
    monkeypatch.setattr(prompting, "STRENGTHS", (0.9,))
    tables = prompting_tables(score_prompting(bench.sora, clips=2))
    for line in (
        "animate, 17 frames: sampled",
        "loop: cross-fade",
        "5 of 17",
        "flow, strength 0.9",
        "3 s",
    ):
        assert f"| {line} |" in tables, line


# Loops


def standing() -> world.Clip:
    return next(
        clip for clip in (world.clip(0, i) for i in range(999))
        if clip.truth["motion"] == "moving right"
    )  # fmt: skip


def there_and_back(clip: world.Clip) -> np.ndarray:
    return np.concatenate([clip.frames, clip.frames[-2:0:-1]])


def test_there_and_back_is_a_loop() -> None:
    assert is_loop(there_and_back(standing()), standing())


def test_a_clip_that_jumps_back_is_no_loop() -> None:
    assert not is_loop(standing().frames, standing())


def test_a_loop_that_loses_its_object_is_none() -> None:
    frames = there_and_back(standing())
    frames[20] = frames[20, 0, 0]  # the background alone
    assert not is_loop(frames, standing())


# The law of a motion

LONG = [world.clip(0, i, 241, split="all") for i in range(40)]


def fit(clip: world.Clip, frames: slice) -> tuple[np.ndarray, np.ndarray]:
    """Position and radius in units, as the oracle reads them."""
    difference, background, unit = oracle.subtract_background(clip.frames[frames])
    read = oracle.fit_object(difference, background, unit)
    return read.position / unit, read.radius / unit


@pytest.mark.parametrize("start", [0, 30, 111, 224])
def test_true_motions_keep_their_law_anywhere(start: int) -> None:
    for clip in LONG:
        assert keeps_law(clip.truth["motion"], *fit(clip, slice(start, start + 17))), clip.caption


@pytest.mark.parametrize("motion", ["moving left", "growing", "bouncing"])
def test_what_stands_still_breaks_its_law(motion: str) -> None:
    assert not keeps_law(motion, np.full((17, 2), 16.0), np.full(17, 7.0))


def test_what_jumps_breaks_its_law() -> None:
    position = np.arange(17.0)[:, None].repeat(2, axis=1) * 0.7
    position[9:] += 2
    assert not keeps_law("moving right", position, np.full(17, 4.8))


# Regions


def test_the_other_object_is_outside_the_mask() -> None:
    for i in range(20):
        clip = world.get("pairs").clip(0, i, 17, 32, 32, "train")
        wanted, mask = with_other_half(clip, i)
        hidden = np.where(mask[..., None], clip.frames[:1, :1, :1], clip.frames)
        read = world.describe(hidden)
        assert read["color"] == wanted["objects"][1]["color"]


def test_only_shape_and_color_of_the_first_object_change() -> None:
    for i in range(20):
        clip = world.get("pairs").clip(0, i, 17, 32, 32, "train")
        wanted, _ = with_other_half(clip, i)
        right = pairs.agree(wanted, clip.truth | {"clean": True})
        assert not right["all"]
        assert wanted["objects"][0]["motion"] == clip.truth["objects"][0]["motion"]


@pytest.mark.parametrize("attribute", ["color", "shape", "background", "motion"])
def test_an_edit_asks_for_one_other_value(attribute: str) -> None:
    clip = standing()
    wanted = prompting.with_other(clip, attribute, 1)
    assert {name for name in shapes.VALUES if wanted[name] != clip.truth[name]} == {attribute}
