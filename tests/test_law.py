"""The laws of motion: true clips keep theirs from anywhere, and every way to break one is seen."""

import numpy as np
import pytest

from minisora import world
from minisora.world import law, oracle, shapes

LONG = [world.clip(0, i, 241, split="all") for i in range(40)]
TIME = np.arange(17.0)
STEADY = np.full(17, shapes.SIZES["small"])  # a radius that does not change


def off_law(clip: world.Clip, frames: slice) -> float:
    difference, background, unit = oracle.subtract_background(clip.frames[frames])
    read = oracle.fit_object(difference, background, unit)
    motion, size = str(clip.truth["motion"]), clip.truth["size"]
    return law.off_law(motion, size, (32, 32), read.position / unit, read.radius / unit)


def off_right(x: np.ndarray, y: np.ndarray | float = 16.0) -> float:
    """How far a small object, at x (T,) and y, is from moving right."""
    position = np.stack([x, np.broadcast_to(y, x.shape)], axis=1)
    return law.off_law("moving right", "small", (32, 32), position, STEADY)


@pytest.mark.parametrize("start", [0, 30, 111, 224])
def test_true_motions_are_near_their_law_from_anywhere(start: int) -> None:
    for clip in LONG:
        assert off_law(clip, slice(start, start + 17)) < 0.3, clip.caption


def test_two_turns_are_lawful() -> None:
    for clip in LONG:
        assert off_law(clip, slice(0, 81)) < 0.5, clip.caption


def test_turning_at_the_border_is_lawful() -> None:
    assert off_right(shapes.reflect(20 + 0.7 * TIME, *law.room("small", 32))) < 0.1


def test_turning_in_mid_air_is_not() -> None:
    assert off_right(16 - 0.7 * np.abs(TIME - 8)) > oracle.MAX_JUMP


def test_a_stop_of_five_frames_is_not_lawful() -> None:
    moving = np.cumsum([0, *[0.7] * 6, *[0] * 5, *[0.7] * 5])
    assert off_right(10 + moving) > oracle.MAX_JUMP


def test_a_jump_is_not_lawful() -> None:
    assert off_right(8 + 0.7 * TIME + 4 * (TIME > 8)) > oracle.MAX_JUMP


def test_drift_across_the_way_is_not_lawful() -> None:
    assert off_right(8 + 0.7 * TIME, 10 + 0.2 * TIME) > oracle.MAX_JUMP


@pytest.mark.parametrize("speed", [0.3, 1.1])
def test_other_speeds_are_not_lawful(speed: float) -> None:
    assert off_right(7 + speed * TIME) > oracle.MAX_JUMP


@pytest.mark.parametrize("motion", ["moving left", "growing", "shrinking", "bouncing"])
def test_what_stands_still_breaks_the_law_of_what_moves(motion: str) -> None:
    position, radius = np.full((17, 2), 16.0), np.full(17, 7.0)
    assert law.off_law(motion, "small", (32, 32), position, radius) > oracle.MAX_JUMP


def test_what_drifts_does_not_stand_still() -> None:
    position = 8 + 0.2 * TIME[:, None].repeat(2, axis=1)
    assert law.off_law("standing still", "small", (32, 32), position, STEADY) > oracle.MAX_JUMP


def test_growth_that_stops_is_not_lawful() -> None:
    radius = np.minimum(4 + shapes.GROWTH * TIME, 6)
    assert law.off_law("growing", None, (32, 32), np.full((17, 2), 16.0), radius) > oracle.MAX_JUMP


def test_a_frame_without_an_object_is_not_lawful() -> None:
    position = np.full((17, 2), 16.0)
    position[3] = np.nan
    assert law.off_law("standing still", "small", (32, 32), position, STEADY) == float("inf")


def test_a_speed_is_read_between_two_turns() -> None:
    path = shapes.reflect(20 + 0.7 * np.arange(40.0), 6, 26)
    assert law.speed_of(path) == pytest.approx(0.7, abs=0.01)
