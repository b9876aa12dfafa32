"""The scores of prompts with images and videos: true clips score in full, broken ones do not."""

import numpy as np
import pytest
from tqdm import tqdm

from minisora import prompting, world
from minisora.prompting import Bench, is_loop, keeps_law, score_prompting, with_other_half
from minisora.report import prompting_tables
from minisora.sora import Sora
from minisora.world import pairs, shapes
from minisora.world.loops import closing


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
    prompting.connected,
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
    monkeypatch.setattr(prompting, "LONG_CLIPS", 2)
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


@pytest.mark.filterwarnings("ignore:not trained on")
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_one_clip_is_enough_to_measure(
    tiny_sora: Sora, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompting, "TIMES", (2,))
    monkeypatch.setattr(prompting, "STRENGTHS", (0.9,))
    monkeypatch.setattr(prompting, "LONG_CLIPS", 1)
    assert score_prompting(tiny_sora, clips=1, seed=seed)["rows"]


# Loops


def moving(frames: int = 17) -> world.Clip:
    return next(
        clip for clip in (world.clip(0, i, frames) for i in range(999))
        if clip.truth["motion"] == "moving right"
    )  # fmt: skip


def test_a_true_clip_of_a_whole_period_is_a_loop() -> None:
    clip = moving(80)
    _, length = closing(clip.frames[:16]) or (0, 0)
    assert is_loop(clip.frames[:length], clip)


def test_turning_back_in_mid_air_is_no_loop() -> None:
    clip = moving()
    back = np.concatenate([clip.frames, clip.frames[-2:0:-1]])
    assert not is_loop(back, clip)


def test_a_clip_that_jumps_back_is_no_loop() -> None:
    assert not is_loop(moving().frames, moving())


def test_a_loop_that_loses_its_object_is_none() -> None:
    clip = moving(80)
    _, length = closing(clip.frames[:16]) or (0, 0)
    frames = clip.frames[:length].copy()
    frames[20] = frames[20, 0, 0]  # the background alone
    assert not is_loop(frames, clip)


# The law of a motion


def test_true_clips_of_every_world_keep_their_law() -> None:
    for name, length in (("shapes", 33), ("events", 17)):
        clips = [world.get(name).clip(0, i, length, 32, 32, "train") for i in range(40)]
        for clip in clips:
            if clip.truth.get("event") != "then":  # its motion changes
                assert keeps_law(clip.frames, clip), clip.caption


def test_a_clip_that_stops_breaks_its_law() -> None:
    clip = moving()
    frames = clip.frames[[*range(6), *[6] * 6, *range(7, 12)]]
    assert not keeps_law(frames, clip)


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
    clip = moving()
    wanted = prompting.with_other(clip, attribute, 1)
    assert {name for name in shapes.VALUES if wanted[name] != clip.truth[name]} == {attribute}
