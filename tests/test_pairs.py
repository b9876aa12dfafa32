"""The world of two objects: its clips, its captions, and its oracle."""

from collections.abc import Callable

import numpy as np
import pytest

from minisora import InputError
from minisora.world import HELD_OUT, HELD_OUT_MOTIONS, pairs
from minisora.world.pairs import OPPOSITE, RELATIONS, axis_of, clip, describe

SIZES = [(17, 32, 32), (1, 32, 32), (5, 32, 48), (33, 32, 32), (17, 64, 64)]
TRUTH = {
    "objects": [
        {"color": "red", "shape": "circle", "motion": "moving up"},
        {"color": "blue", "shape": "star", "motion": "standing still"},
    ],
    "relation": "left of",
    "background": "navy",
}
CAPTION = "a red circle moving up left of a blue star standing still on a navy background"


# The oracle


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_oracle_reads_every_part(size: tuple[int, int, int]) -> None:
    for index in range(60):
        true = clip(5, index, *size, split="all")
        read = describe(true.frames)
        assert pairs.agree(true.truth, read)["all"], (index, true.caption, read)


def test_swapped_objects_have_the_right_layout_but_the_wrong_relation() -> None:
    for index in range(40):
        true = clip(6, index, 17)
        wanted = true.truth | {"objects": true.truth["objects"][::-1]}
        right = pairs.agree(wanted, describe(true.frames))
        assert right["layout"]
        assert not right["relation"]
        assert not right["color"]  # they differ in color
        assert not right["all"]


def test_the_opposite_relation_is_the_same_mistake_as_swapped_objects() -> None:
    for index in range(40):
        true = clip(6, index, 17)
        read = describe(true.frames)
        swapped = true.truth | {"objects": true.truth["objects"][::-1]}
        opposite = true.truth | {"relation": OPPOSITE[true.truth["relation"]]}
        assert pairs.agree(swapped, read) == pairs.agree(opposite, read)


def test_swapped_colors_leave_shapes_and_motions_right() -> None:
    for index in range(40):
        true = clip(6, index, 17)
        first, second = true.truth["objects"]
        swapped = [first | {"color": second["color"]}, second | {"color": first["color"]}]
        right = pairs.agree(true.truth | {"objects": swapped}, describe(true.frames))
        assert right["shape"] and right["motion"]
        assert not right["color"]
        assert not right["all"]


def cut_to_another_clip(frames: np.ndarray, index: int) -> np.ndarray:
    return np.concatenate([frames[:8], clip(8, index + 1000).frames[8:]])


def no_object(frames: np.ndarray, index: int) -> np.ndarray:
    return np.full_like(frames, frames[0, 0, 0])


def first_object_erased_at_its_start(frames: np.ndarray, index: int) -> np.ndarray:
    frames = frames.copy()
    x, y = clip(8, index).truth["position"][0, 0].astype(int)
    frames[:, max(0, y - 6) : y + 6, max(0, x - 6) : x + 6] = frames[0, 0, 0]
    return frames


@pytest.mark.parametrize(
    "damage", [cut_to_another_clip, no_object, first_object_erased_at_its_start]
)
def test_the_oracle_rejects(damage: Callable) -> None:
    rejected = [not describe(damage(clip(8, index).frames, index))["clean"] for index in range(30)]
    assert sum(rejected) >= 29


# Clips


def long_truths() -> list[dict]:
    return [clip(9, index, 60, split="all").truth for index in range(200)]


def test_the_relation_holds_in_every_frame() -> None:
    for truth in long_truths():
        first, second = truth["position"]
        sign = 1 if truth["relation"] in ("above", "left of") else -1
        gap = sign * (second - first)[:, axis_of(truth["relation"])]
        assert gap.min() > 2 * pairs.RADIUS  # they never touch


def test_the_objects_differ_in_color() -> None:
    for truth in long_truths():
        first, second = truth["objects"]
        assert first["color"] != second["color"]


def test_no_object_moves_across_the_border() -> None:
    for truth in long_truths():
        across = truth["position"][:, :, axis_of(truth["relation"])]  # (2, T)
        assert np.allclose(np.ptp(across, axis=1), 0)


def test_clips_are_a_function_of_seed_and_index() -> None:
    assert np.array_equal(clip(1, 2).frames, clip(1, 2).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(1, 3).frames)


def test_the_first_frames_of_a_longer_clip_are_the_shorter_clip() -> None:
    assert np.array_equal(clip(1, 2, 40).frames[:17], clip(1, 2, 17).frames)


def test_every_relation_is_drawn() -> None:
    assert {clip(0, i, 2).truth["relation"] for i in range(60)} == set(RELATIONS)


@pytest.mark.parametrize(
    ("split", "held_out"),
    [
        ("train", [(False, False), (False, False)]),
        ("held_out", [(True, False), (False, False)]),
        ("held_out_motion", [(False, True), (False, False)]),
    ],
    ids=["train", "held_out", "held_out_motion"],
)
def test_only_the_first_object_is_held_out(split: str, held_out: list) -> None:
    for index in range(200):
        objects = clip(0, index, 2, split=split).truth["objects"]
        color = [(one["shape"], one["color"]) in HELD_OUT for one in objects]
        motion = [(one["shape"], one["motion"]) in HELD_OUT_MOTIONS for one in objects]
        assert list(zip(color, motion, strict=True)) == held_out


# Captions


def test_a_caption_names_both_objects_their_relation_and_the_background() -> None:
    assert pairs.caption(TRUTH) == CAPTION
    assert pairs.parse(CAPTION) == TRUTH


def test_parse_reads_every_caption() -> None:
    for index in range(100):
        true = clip(3, index, split="all")
        named = pairs.parse(true.caption)
        assert named == {name: true.truth[name] for name in named}


@pytest.mark.parametrize(
    "text",
    [
        "a red circle moving left",
        "a red circle on the left of the picture",
        "star moving left and up, yellow",
        "",
    ],
)
def test_parse_is_none_for_a_text_about_one_object(text: str) -> None:
    assert pairs.parse(text) is None


# Bad input


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(InputError, match="the splits are"):
        clip(0, 0, split="test")


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="must be uint8"):
        describe(np.zeros((17, 32, 32, 3)))
