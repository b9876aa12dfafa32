from collections import Counter

import numpy as np
import pytest

from minisora import InputError, world
from minisora.world import HELD_OUT, HELD_OUT_MOTIONS, pairs
from minisora.world.pairs import OPPOSITE, RELATIONS, axis_of, clip, describe


@pytest.mark.parametrize(
    "size", [(17, 32, 32), (1, 32, 32), (5, 32, 48), (33, 32, 32), (17, 64, 64)]
)
def test_oracle_reads_ground_truth(size: tuple[int, int, int]) -> None:
    for index in range(60):
        true = clip(5, index, *size, split="all")
        read = describe(true.frames)
        assert pairs.agree(true.truth, read)["all"], (index, true.caption, read)


def test_oracle_tells_what_is_wrong() -> None:
    """A clip held against the truth of one in which the objects, or their colors, change places."""
    for index in range(40):
        true = clip(6, index, 17)
        first, second = true.truth["objects"]
        read = describe(true.frames)
        swapped = pairs.agree(true.truth | {"objects": [second, first]}, read)
        mirrored = pairs.agree(true.truth | {"relation": OPPOSITE[true.truth["relation"]]}, read)
        assert swapped == mirrored and swapped["layout"] and not swapped["relation"]
        assert not swapped["color"] and not swapped["all"]
        colors = [first | {"color": second["color"]}, second | {"color": first["color"]}]
        mixed = pairs.agree(true.truth | {"objects": colors}, read)
        assert not mixed["color"] and mixed["shape"] and mixed["motion"] and not mixed["all"]


def test_oracle_rejects_what_is_not_two_clean_objects() -> None:
    bad = Counter()
    for index in range(30):
        a, b = clip(8, index).frames, clip(8, index + 1000).frames
        bad["cut to another clip"] += not describe(np.concatenate([a[:8], b[8:]]))["clean"]
        bad["no object"] += not describe(np.full_like(a, a[0, 0, 0]))["clean"]
        gone = a.copy()
        x, y = clip(8, index).truth["position"][0, 0].astype(int)
        gone[:, max(0, y - 6) : y + 6, max(0, x - 6) : x + 6] = a[0, 0, 0]
        bad["one erased where it began"] += not describe(gone)["clean"]
    assert min(bad.values()) >= 29, bad


def test_the_relation_holds_in_every_frame() -> None:
    for index in range(200):
        true = clip(9, index, 60, split="all").truth
        first, second = true["position"]
        axis = axis_of(true["relation"])
        apart = (second - first)[:, axis] * (1 if true["relation"] in ("above", "left of") else -1)
        assert apart.min() > 2 * pairs.RADIUS
        assert true["objects"][0]["color"] != true["objects"][1]["color"]
        assert np.allclose(np.ptp(true["position"][:, :, axis], axis=1), 0)


def test_clips_are_a_function_of_seed_and_index() -> None:
    assert np.array_equal(clip(1, 2).frames, clip(1, 2).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(1, 3).frames)
    assert np.array_equal(clip(1, 2, 40).frames[:17], clip(1, 2, 17).frames)


def test_splits() -> None:
    assert {clip(0, i, 2).truth["relation"] for i in range(60)} == set(RELATIONS)
    for i in range(200):
        for split in ("train", "held_out", "held_out_motion"):
            held = [
                (
                    (one["shape"], one["color"]) in HELD_OUT,
                    (one["shape"], one["motion"]) in HELD_OUT_MOTIONS,
                )
                for one in clip(0, i, 2, split=split).truth["objects"]
            ]
            assert held == [(split == "held_out", split == "held_out_motion"), (False, False)]


def test_captions_are_read_back() -> None:
    truth = {
        "objects": [
            {"color": "red", "shape": "circle", "motion": "moving up"},
            {"color": "blue", "shape": "star", "motion": "standing still"},
        ],
        "relation": "left of",
        "background": "navy",
    }
    text = "a red circle moving up left of a blue star standing still on a navy background"
    assert pairs.caption(truth) == text
    assert pairs.parse(text) == truth
    for one in (
        "a red circle moving left",
        "a red circle on the left of the picture",
        "star moving left and up, yellow",
    ):
        assert pairs.parse(one) is None
    for index in range(100):
        true = clip(3, index, split="all")
        said = pairs.parse(true.caption)
        assert said == {name: true.truth[name] for name in said}


def test_bad_input() -> None:
    with pytest.raises(InputError, match="the splits are"):
        clip(0, 0, split="test")
    with pytest.raises(InputError, match="must be uint8"):
        describe(np.zeros((17, 32, 32, 3)))


def test_a_scene_is_told_from_the_upper_or_the_left_object() -> None:
    one = "a red circle moving left above a blue star standing still on a navy background"
    turned = "a blue star standing still below a red circle moving left on a navy background"
    assert pairs.in_order(turned) == pairs.in_order(one) == one
    for text in (world.clip(0, 1).caption, "blue star below red circle", "", "a star right of"):
        assert pairs.in_order(text) == text
