"""The lengths that are proposed for loops: a true clip is back at its beginning."""

import numpy as np
import pytest

from minisora.world import clip, shapes
from minisora.world.loops import LONGEST, STRETCH, closing, closing_length

CLIPS = [clip(3, i, 17, split="all") for i in range(60)]
LENGTHS = [closing_length(each.frames) for each in CLIPS]


def cases(*motions: str) -> list[tuple[int, int]]:
    """(number of a clip, its length as a loop) of the clips with these motions that have one."""
    return [
        (i, length)
        for i, (each, length) in enumerate(zip(CLIPS, LENGTHS, strict=True))
        if each.truth["motion"] in motions and length
    ]


def test_a_true_clip_is_back_at_its_beginning() -> None:
    """But for a part of its speed, by which the way back may differ."""
    for i, length in cases("moving left", "moving right", "moving up", "moving down"):
        path = clip(3, i, length + 1, split="all").truth["position"]
        speed = np.abs(np.diff(path[:17], axis=0)).max()
        off = np.abs(path[length] - path[0]).max()
        assert off <= 1.1 * STRETCH * (length - 17) * speed, i


def test_17_frames_of_a_bounce_have_no_length() -> None:
    """A length is 17 and a multiple of 4, a bounce has 8 frames."""
    assert not cases("bouncing")


def test_what_grows_shrinks_again() -> None:
    assert {length for _, length in cases("growing", "shrinking")} <= {29, 33, 37}


def test_what_stands_still_is_back_at_once() -> None:
    assert {length for _, length in cases("standing still")} == {21}


def test_frames_are_added_in_groups() -> None:
    assert all((length - 17) % 4 == 0 for length in LENGTHS if length)


def test_no_length_is_too_long() -> None:
    assert max(length for length in LENGTHS if length) <= LONGEST


@pytest.mark.parametrize("motion", [m for m in shapes.DIRECTIONS if " and " not in m])
def test_straight_motions_have_a_length(motion: str) -> None:
    lengths = [
        length for each, length in zip(CLIPS, LENGTHS, strict=True)
        if each.truth["motion"] == motion
    ]  # fmt: skip
    assert lengths
    assert all(lengths)


def test_a_bounce_keeps_16_of_17_frames() -> None:
    bouncing = next(each for each in CLIPS if each.truth["motion"] == "bouncing")
    assert closing(bouncing.frames) == (16, 24)


def test_a_clip_keeps_all_frames_if_it_can() -> None:
    for each, length in zip(CLIPS, LENGTHS, strict=True):
        assert length is None or closing(each.frames) == (17, length)


def test_a_clip_without_an_object_has_none() -> None:
    assert closing_length(np.zeros((17, 32, 32, 3), dtype=np.uint8)) is None
