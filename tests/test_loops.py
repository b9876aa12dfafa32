"""The lengths that are proposed for loops: a true clip is back at its beginning."""

import numpy as np
import pytest

from minisora.world import clip, get, shapes
from minisora.world.loops import LONGEST, NEAR, closing

CLIPS = [clip(3, i, 17, split="all") for i in range(60)]
CLOSINGS = [closing(each.frames) for each in CLIPS]


def cases(*motions: str) -> list[tuple[int, int, int]]:
    """(number of a clip, frames to keep, length as a loop) of clips with these motions."""
    return [
        (i, *found)
        for i, (each, found) in enumerate(zip(CLIPS, CLOSINGS, strict=True))
        if each.truth["motion"] in motions and found
    ]


@pytest.mark.parametrize("motion", shapes.DIRECTIONS)
def test_what_moves_is_back_at_its_beginning(motion: str) -> None:
    for i, _, length in cases(motion):
        path = clip(3, i, length + 1, split="all").truth["position"]
        assert np.abs(path[length] - path[0]).max() <= NEAR + 0.1, i


@pytest.mark.parametrize("motion", shapes.DIRECTIONS)
def test_what_moves_goes_on_as_it_began(motion: str) -> None:
    for i, _, length in cases(motion):
        path = clip(3, i, length + 9, split="all").truth["position"]
        assert np.abs(path[length:] - path[:9]).max() <= 2 * NEAR, i


def test_a_bounce_of_17_frames_needs_none_but_loses_one() -> None:
    assert {found[1:] for found in cases("bouncing")} == {(16, 16)}


def test_a_bounce_of_13_frames_needs_four() -> None:
    bouncing = next(each for each in CLIPS if each.truth["motion"] == "bouncing")
    assert closing(bouncing.frames[:13]) == (12, 16)


def test_what_grows_shrinks_again() -> None:
    lengths = {length for _, _, length in cases("growing", "shrinking")}
    assert lengths <= {31, 32, 33}


def test_what_stands_still_is_a_loop_already() -> None:
    assert {found[1:] for found in cases("standing still")} == {(17, 17)}


def test_frames_are_added_in_groups() -> None:
    assert all((found[1] - found[0]) % 4 == 0 for found in CLOSINGS if found)


def test_at_most_three_frames_give_way() -> None:
    assert all(14 <= found[0] <= 17 for found in CLOSINGS if found)


def test_no_length_is_too_long() -> None:
    assert max(found[1] for found in CLOSINGS if found) <= LONGEST


@pytest.mark.parametrize("motion", [m for m in shapes.DIRECTIONS if " and " not in m])
def test_straight_motions_have_a_length(motion: str) -> None:
    found = [c for each, c in zip(CLIPS, CLOSINGS, strict=True) if each.truth["motion"] == motion]
    assert found
    assert all(found)


def test_a_clip_without_an_object_has_none() -> None:
    assert closing(np.zeros((17, 32, 32, 3), dtype=np.uint8)) is None


@pytest.mark.parametrize("world", ["events", "pairs"])
def test_other_worlds_have_none(world: str) -> None:
    clips = [get(world).clip(0, i, 17, 32, 32, "train") for i in range(20)]
    for each in clips:
        if "white" not in each.caption:  # on pink a white object is easily overlooked
            assert closing(each.frames) is None, each.caption
