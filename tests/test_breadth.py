"""Scores of sizes, lengths and modes: every part is measured, and true clips score in full."""

import numpy as np
import pytest

from minisora import breadth
from minisora.breadth import Part, parts_of, score_breadth, score_part
from minisora.canvas import MODES
from minisora.report import breadth_tables
from minisora.sora import Sora

GENERALIST = {
    "worlds": ["events", "pairs", "shapes"],
    "sizes": [[32, 32], [24, 40]],
    "durations": [1, 17, 33],
    "modes": list(MODES),
    "fps": 8,
}


@pytest.fixture
def sora(tiny_sora: Sora) -> Sora:
    tiny_sora.trained_on = GENERALIST
    tiny_sora.defaults = tiny_sora.defaults | {"num_frames": 17}
    return tiny_sora


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are the true clips."""
    monkeypatch.setattr(
        breadth, "sample_part", lambda sora, part, truth, *_: np.stack([c.frames for c in truth])
    )


def measured(rows: list[dict], measure: str) -> float:
    (right,) = (row["right"] for row in rows if row["measure"] == measure)
    return right


def test_every_trained_size_is_measured_in_every_world(sora: Sora) -> None:
    parts = {(p.world, p.height, p.width) for p in parts_of(sora) if p.mode == "text"}
    sizes, worlds = [(32, 32), (24, 40)], ["shapes", "pairs", "events"]
    assert {(world, *size) for world in worlds for size in sizes} <= parts


def test_sizes_and_lengths_between_the_trained_ones_are_measured(sora: Sora) -> None:
    parts = {(p.frames, p.height, p.width) for p in parts_of(sora)}
    assert {(17, 40, 40), (25, 32, 32)} <= parts


def test_images_are_measured_at_every_size(sora: Sora) -> None:
    sizes = {(p.height, p.width) for p in parts_of(sora) if p.frames == 1}
    assert {(32, 32), (24, 40)} <= sizes


def test_every_mode_with_given_frames_is_measured(sora: Sora) -> None:
    modes = {p.mode for p in parts_of(sora)}
    assert modes == {"text", *(name for name, mode in MODES.items() if mode.given)}


def test_a_mode_that_was_not_trained_is_not_measured(sora: Sora) -> None:
    sora.trained_on = sora.trained_on | {"modes": ["text"]}
    assert {p.mode for p in parts_of(sora)} == {"text"}


@pytest.mark.parametrize("mode", ["text", "extend", "extend backward", "connect"])
def test_true_clips_are_all_right(sora: Sora, perfect: None, mode: str) -> None:
    rows = score_part(sora, Part("shapes", 17, 24, 40, mode), clips=4, seed=0)
    assert measured(rows, "all") == 1


@pytest.mark.parametrize("mode", ["extend", "extend backward", "connect"])
def test_true_clips_end_where_they_should(sora: Sora, perfect: None, mode: str) -> None:
    rows = score_part(sora, Part("shapes", 17, 24, 40, mode), clips=4, seed=0)
    assert measured(rows, "far end") == 1


def test_a_clip_that_stays_behind_does_not(sora: Sora, monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(sora: Sora, part: Part, truth: list, *_: object) -> np.ndarray:
        return np.stack([clip.frames[[0] * len(clip.frames)] for clip in truth])

    monkeypatch.setattr(breadth, "sample_part", frozen)
    rows = score_part(sora, Part("shapes", 17, 32, 32, "extend"), clips=20, seed=0)
    assert measured(rows, "far end") < 0.6


def test_the_order_of_events_is_told(sora: Sora, perfect: None) -> None:
    rows = score_part(sora, Part("events", 17, 32, 32), clips=6, seed=0)
    orders = {row["measure"]: row["right"] for row in rows if row["measure"].startswith("order")}
    assert sum(orders.values()) == pytest.approx(1)


def test_rows_say_what_was_trained_on(sora: Sora, perfect: None) -> None:
    row = score_part(sora, Part("shapes", 25, 24, 40), clips=1, seed=0)[0]
    assert (row["trained_size"], row["trained_length"]) == (True, False)


def test_an_untrained_model_is_sampled_in_every_mode(sora: Sora) -> None:
    for mode in {p.mode for p in parts_of(sora)}:
        rows = score_part(sora, Part("shapes", 17, 24, 40, mode), clips=1, seed=0)
        assert 0 <= measured(rows, "all") <= 1, mode


def test_the_tables_mark_what_was_not_trained_on(sora: Sora, perfect: None) -> None:
    tables = breadth_tables(score_breadth(sora, clips=1))
    assert "| 40 x 40 * |" in tables
    assert "| 25 frames * |" in tables
    assert "| 24 x 40 |" in tables
