"""The world of events: its clips, its captions, and its oracle."""

from collections.abc import Callable

import numpy as np
import pytest

from minisora import InputError, world
from minisora.world import HELD_OUT, HELD_OUT_MOTIONS, Clip, events, language, shapes
from minisora.world.events import EVENTS, agree, clip, describe, order, parse

SIZES = [
    (17, 32, 32),
    (17, 24, 40),
    (17, 56, 32),
    (17, 48, 48),
    (17, 24, 24),
    (33, 32, 32),
    (65, 24, 24),
]
NOTHING = {"second_motion": None, "second_shape": None, "second_color": None}
TRUTH = {
    "event": "then",
    "shape": "circle",
    "color": "red",
    "size": "small",
    "background": "black",
    "motion": "moving right",
    **NOTHING,
}
THEN = TRUTH | {"second_motion": "moving up"}
TURNING = TRUTH | {"event": "turning into", "second_shape": "square", "second_color": "blue"}


def clips(event: str | None = None, count: int = 40, frames: int = 17) -> list[Clip]:
    drawn = (clip(8, index, frames, split="all") for index in range(count))
    return [each for each in drawn if event in (None, each.truth["event"])]


def all_right(true: Clip, frames: np.ndarray) -> bool:
    return agree(true.truth, describe(frames))["all"]


# The oracle


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_oracle_reads_every_part_and_the_position(size: tuple[int, int, int]) -> None:
    for index in range(30):
        true = clip(5, index, *size, split="all")
        read = describe(true.frames)
        assert agree(true.truth, read)["all"], (index, true.caption, read)
        assert np.abs(read["position"] - true.truth["position"]).max() < 0.3  # pixels


def test_the_oracle_reads_through_noise() -> None:
    rng = np.random.default_rng(0)
    for true in clips():
        noise = 255 * 0.02 * rng.standard_normal(true.frames.shape)
        frames = np.clip(np.round(true.frames + noise), 0, 255).astype(np.uint8)
        assert all_right(true, frames), true.caption


def painted(true: Clip, path: np.ndarray | None = None, **changes: str | None) -> np.ndarray:
    path = true.truth["position"] if path is None else path
    return events.render(true.truth | changes, path, 32, 32)


def blended(true: Clip, share: np.ndarray) -> np.ndarray:
    """The old object turning into the new one with other shares (17,) of the new picture."""
    old = painted(true, event=None, second_shape=None).astype(float)
    one = {"shape": true.truth["second_shape"], "color": true.truth["second_color"]}
    new = painted(true, second_shape=None, **one).astype(float)
    return np.round(old + share[:, None, None, None] * (new - old)).astype(np.uint8)


FRAME = np.arange(17)
CUTS = (5, 8, 11)


@pytest.mark.parametrize(
    "share",
    [
        *(pytest.param(1.0 * (at <= FRAME), id=f"a cut at frame {at}") for at in CUTS),
        pytest.param(np.clip(FRAME / 8, 0, 1), id="too early"),
        pytest.param(np.clip((FRAME - 8) / 8, 0, 1), id="too late"),
        pytest.param(np.clip((FRAME - 6) / 4, 0, 1), id="too fast"),
        pytest.param(0.5 * (FRAME > 4) + 0.5 * (FRAME > 11), id="a jump to one half"),
    ],
)
def test_a_blend_that_is_not_the_lawful_one_is_not_clean(share: np.ndarray) -> None:
    for true in clips("turning into"):
        assert not describe(blended(true, share))["clean"], true.caption


def test_the_lawful_blend_is_clean() -> None:
    for true in clips("turning into"):
        assert all_right(true, blended(true, np.clip((FRAME - 4) / 8, 0, 1)))


def frozen_second_half(true: Clip) -> np.ndarray:
    return np.concatenate([true.frames[:9], np.repeat(true.frames[8:9], 8, 0)])


def cut_to_another_clip(true: Clip) -> np.ndarray:
    return np.concatenate([true.frames[:8], clip(9, 0).frames[8:]])


def jump_sideways(true: Clip) -> np.ndarray:
    path = true.truth["position"].copy()
    path[9:] += 3 * np.sign(16 - path[9])
    return painted(true, path)


def object_lost_at_frame_4(true: Clip) -> np.ndarray:
    frames = true.frames.copy()
    frames[4] = frames[0, 0, 0]
    return frames


def something_else_in_the_corner(true: Clip) -> np.ndarray:
    frames = true.frames.copy()
    x, y = (0 if center > 16 else 27 for center in true.truth["position"][8])
    frames[6:11, y : y + 5, x : x + 5] = 0 if true.truth["background"] == "gray" else 128
    return frames


def empty(true: Clip) -> np.ndarray:
    return np.full_like(true.frames, true.frames[0, 0, 0])


@pytest.mark.parametrize(
    "damage",
    [
        frozen_second_half,
        cut_to_another_clip,
        jump_sideways,
        object_lost_at_frame_4,
        something_else_in_the_corner,
        empty,
    ],
)
def test_the_oracle_rejects(damage: Callable) -> None:
    # an object that stops and one that is frozen look the same
    moving = [each for each in clips() if each.truth["second_motion"] != "standing still"]
    wrong = [each.caption for each in moving if all_right(each, damage(each))]
    assert len(wrong) <= 1, wrong  # a blend of opposite colors can hide a jump


def test_an_object_that_turns_may_not_change_its_motion() -> None:
    for true in clips("turning into"):
        path = true.truth["position"].copy()
        path[9:] = path[8]
        moves = true.truth["motion"] != "standing still"
        assert describe(painted(true, path))["clean"] != moves


def test_a_different_second_color_is_wrong() -> None:
    for true in clips("turning into"):
        used = (true.truth["color"], true.truth["second_color"])
        color = next(name for name in shapes.COLORS if name not in used)
        right = agree(true.truth, describe(painted(true, second_color=color)))
        assert right["shape"] and right["motion"] and right["event"] and right["clean"]
        assert not right["color"] and not right["all"]


def test_a_clip_of_one_object_has_no_event() -> None:
    for index in range(30):
        true = shapes.clip(3, index)
        if true.truth["motion"] in events.MOTIONS:
            read = describe(true.frames)
            assert read["event"] is None
            assert {name: read[name] for name in NOTHING} == NOTHING
            assert read["clean"]
            assert events.caption(read) == true.caption


# The order of what happens


def swapped(true: Clip) -> np.ndarray:
    """The clip with the two halves of its caption exchanged."""
    changes = {}
    for name in events.CHANGES[true.truth["event"]]:
        changes |= {name: true.truth[f"second_{name}"], f"second_{name}": true.truth[name]}
    steps = np.diff(true.truth["position"], axis=0)  # (16, 2)
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(np.roll(steps, 8, 0), 0)])  # (17, 2)
    path = path - (path.max(0) + path.min(0)) / 2 + 16
    return painted(true, path, **changes)


def test_the_order_of_a_true_clip_is_right() -> None:
    assert all(order(true.truth, describe(true.frames)) == "right" for true in clips())


def test_a_clip_in_the_wrong_order_is_clean_and_swapped() -> None:
    for true in clips():
        read = describe(swapped(true))
        right = agree(true.truth, read)
        assert right["event"] and right["clean"]
        assert not right["all"]
        assert order(true.truth, read) == "swapped"


@pytest.mark.parametrize(
    ("truth", "changes", "expected"),
    [
        (THEN, {}, "right"),
        (THEN, {"color": "blue"}, "right"),  # the order of motions alone
        (THEN, {"motion": "moving up", "second_motion": "moving right"}, "swapped"),
        (THEN, {"event": None, "second_motion": None}, "only one"),
        (THEN, {"motion": "moving left"}, "only one"),
        (THEN, {"motion": "moving left", "second_motion": "moving down"}, "neither"),
        (THEN, TURNING, "only one"),
        (TURNING, {"shape": "square", "color": "blue"} | NOTHING | {"event": None}, "only one"),
        (TURNING, {"second_color": "green"}, "only one"),
        (TURNING, {"color": "blue", "second_color": "red"}, "neither"),  # the shapes stayed
    ],
)
def test_orders(truth: dict, changes: dict, expected: str) -> None:
    assert order(truth, truth | changes) == expected


# Clips


def test_half_of_the_clips_have_each_event() -> None:
    drawn = [clip(0, index, 17, 8, 8).truth["event"] for index in range(400)]
    assert set(drawn) == set(EVENTS)
    assert abs(drawn.count("then") - 200) < 30  # three standard errors


def test_what_happens_differs_from_what_was() -> None:
    for true in clips(count=300):
        truth = true.truth
        for name in ("motion", "shape", "color"):
            changes = name in events.CHANGES[truth["event"]]
            assert (truth[f"second_{name}"] not in (None, truth[name])) == changes
            assert changes or truth[f"second_{name}"] is None


def long_truths() -> list[dict]:
    return [each.truth for each in clips(count=200, frames=65)]


def test_steps_follow_the_motion_that_is_named() -> None:
    for truth in long_truths():
        steps = np.diff(truth["position"], axis=0)[:16]
        for half, motion in (
            (steps[:8], truth["motion"]),
            (steps[8:], truth["second_motion"] or truth["motion"]),
        ):
            assert np.allclose(half, half[0])
            assert tuple(np.sign(np.round(half[0], 9))) == shapes.DIRECTIONS.get(motion, (0, 0))
            assert motion == "standing still" or 0.6 <= np.abs(half[0]).max() <= 0.8


def test_long_clips_stay_inside_the_picture() -> None:
    for truth in long_truths():
        reach = shapes.REACH * shapes.SIZES[truth["size"]]
        assert truth["position"].min() >= reach - 1e-9
        assert truth["position"].max() <= 32 - reach + 1e-9


def test_after_its_reversal_an_object_moves_along_the_axis_of_its_second_motion() -> None:
    for truth in long_truths():
        late = np.abs(np.diff(truth["position"], axis=0)[16:]).max(0) > 1e-9  # along x, along y
        motion = truth["second_motion"] or truth["motion"]
        assert tuple(late) == tuple(step != 0 for step in shapes.DIRECTIONS.get(motion, (0, 0)))


def test_a_blend_is_linear_from_frame_4_to_frame_12() -> None:
    still = next(c for c in clips("turning into") if c.truth["motion"] == "standing still")
    frames = still.frames.astype(float)
    assert np.array_equal(frames[0], frames[4])
    assert np.array_equal(frames[12], frames[16])
    assert np.allclose(np.diff(frames[4:13], axis=0), (frames[12] - frames[4]) / 8, atol=1)


def test_clips_are_a_function_of_seed_and_index() -> None:
    assert np.array_equal(clip(1, 2).frames, clip(1, 2).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(1, 3).frames)


def test_the_first_frames_of_a_longer_clip_are_the_shorter_clip() -> None:
    for index in range(20):
        long = clip(1, index, 65).frames
        for frames in (17, 33):
            assert np.array_equal(long[:frames], clip(1, index, frames).frames)


# Clips that are too short for their event


@pytest.mark.parametrize("frames", [1, 2, 5, 13, 16])
def test_a_clip_that_is_too_short_is_one_of_shapes(frames: int) -> None:
    one = world.get("shapes")
    for index in range(40):
        true = clip(4, index, frames)
        assert true.world == "shapes"
        assert one.agree(true.truth, one.describe(true.frames))["all"]
        assert set(true.truth) == set(one.describe(true.frames))
        assert one.caption(true.truth) == true.caption
        assert parse(true.caption) is None


def test_it_shows_the_first_object_with_its_first_motion() -> None:
    for index in range(40):
        short, whole = clip(4, index, 16).truth, clip(4, index).truth
        assert all(short[name] == whole[name] for name in world.ATTRIBUTES)


def test_it_has_the_frames_before_the_event() -> None:
    for index in range(40):
        short, whole = clip(4, index, 16), clip(4, index)
        shared = 9 if whole.truth["event"] == "then" else 5
        assert np.array_equal(short.frames[:shared], whole.frames[:shared])


# Splits


@pytest.mark.parametrize(
    ("split", "color", "motion"),
    [("train", False, False), ("held_out", True, False), ("held_out_motion", False, True)],
)
def test_only_the_first_object_is_held_out(split: str, color: bool, motion: bool) -> None:
    for index in range(200):
        truth = clip(0, index, 17, 8, 8, split).truth
        assert ((truth["shape"], truth["color"]) in HELD_OUT) == color
        assert ((truth["shape"], truth["motion"]) in HELD_OUT_MOTIONS) == motion
        shape = truth["second_shape"] or truth["shape"]
        assert (truth["second_shape"], truth["second_color"]) not in HELD_OUT
        assert (shape, truth["second_motion"]) not in HELD_OUT_MOTIONS
        assert not truth["second_shape"] or (shape, truth["motion"]) not in HELD_OUT_MOTIONS


def test_the_split_all_has_held_out_changes() -> None:
    truths = [clip(0, index, 17, 8, 8, "all").truth for index in range(400)]
    assert any((t["second_shape"], t["second_color"]) in HELD_OUT for t in truths)
    assert any((t["shape"], t["second_motion"]) in HELD_OUT_MOTIONS for t in truths)


# Captions


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (THEN, "a small red circle moving right, then moving up on a black background"),
        (
            TURNING,
            "a small red circle moving right, turning into a blue square on a black background",
        ),
        (
            TURNING | {"motion": "standing still"},
            "a small red circle standing still, turning into a blue square on a black background",
        ),
    ],
    ids=["then", "turning into", "standing still"],
)
def test_a_caption_names_both_sides_of_the_event(truth: dict, expected: str) -> None:
    assert events.caption(truth) == expected
    assert parse(expected) == truth


def test_a_caption_has_at_most_16_words() -> None:
    for true in clips(count=300):
        assert len(language.plain(true.caption).split()) <= 16


def test_parse_reads_only_what_a_short_caption_names() -> None:
    for true in clips(count=300):
        named = parse(true.short_caption)
        assert all(word in (None, true.truth[name]) for name, word in named.items())
        assert named["event"] == true.truth["event"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red circle, right then up", {"color": "red", "second_motion": "moving up"}),
        ("circle and then up", {"shape": "circle", "second_motion": "moving up"}),
        ("up then left", {"motion": "moving up", "second_motion": "moving left"}),
        ("circle then up on black", {"background": "black", "second_motion": "moving up"}),
        ("moving up, then left: a red star", {"color": "red", "shape": "star"}),
        ("circle turning into square", {"shape": "circle", "second_shape": "square"}),
        ("circle, then turning into square", {"event": "turning into", "second_shape": "square"}),
        ("red turning into blue, moving up", {"second_color": "blue", "motion": "moving up"}),
        ("star up and left, then down", {"second_motion": "moving down"}),
    ],
)
def test_parse_reads_what_people_type(text: str, expected: dict) -> None:
    named = parse(text)
    assert {name: named[name] for name in expected} == expected


@pytest.mark.parametrize(
    "text",
    ["", "a red circle moving left", "then", "turning into", "then on pink", "a circle turning"],
)
def test_parse_is_none_for_a_text_without_an_event(text: str) -> None:
    assert parse(text) is None


# Bad input


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(InputError, match="the splits are"):
        clip(0, 0, split="test")


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="must be uint8"):
        describe(np.zeros((17, 32, 32, 3)))
