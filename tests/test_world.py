"""The world of one object: its clips, its captions, and the oracle that reads the pixels back."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from minisora import InputError
from minisora.world import (
    HELD_OUT,
    HELD_OUT_MOTIONS,
    agree,
    caption,
    clip,
    describe,
    parse,
    shapes,
)

SIZES = [
    (17, 32, 32),
    (1, 32, 32),
    (5, 32, 32),
    (33, 32, 32),
    (17, 64, 64),
    (17, 24, 24),
    (17, 32, 56),
    (17, 40, 24),
]
TRUTH = {
    "shape": "circle",
    "color": "red",
    "motion": "moving left",
    "size": "small",
    "background": "black",
}


def with_noise(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = 255 * 0.02 * rng.standard_normal(frames.shape)
    return np.clip(np.round(frames + noise), 0, 255).astype(np.uint8)


def with_blur(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    padded = np.pad(frames.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.round(np.mean(shifts, axis=0)).astype(np.uint8)


# The oracle


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_oracle_reads_every_attribute_and_the_position(size: tuple[int, int, int]) -> None:
    for index in range(100):
        true = clip(5, index, *size, split="all")
        read = describe(true.frames)
        assert agree(true.truth, read)["all"], (index, true.caption, read)
        assert np.abs(read["position"] - true.truth["position"]).max() < 0.3  # pixels


@pytest.mark.parametrize("frames", [1, 17])
@pytest.mark.parametrize("damage", [with_noise, with_blur])
def test_the_oracle_reads_through(damage: Callable, frames: int) -> None:
    rng = np.random.default_rng(0)
    clips = [clip(6, index, frames, split="all") for index in range(200)]
    right = sum(agree(c.truth, describe(damage(c.frames, rng)))["all"] for c in clips)
    assert right >= 190


@pytest.mark.parametrize(("start", "length"), [(0, 9), (4, 5), (8, 9), (3, 14)])
def test_the_oracle_reads_a_part_of_a_clip(start: int, length: int) -> None:
    for index in range(100):
        true = clip(7, index, 17, split="all")
        read = describe(true.frames[start : start + length])
        assert agree(true.truth, read)["all"], (index, true.caption, read)


def cut_to_another_clip(frames: np.ndarray, index: int) -> np.ndarray:
    return np.concatenate([frames[:8], clip(8, index + 1000).frames[8:]])


def pure_noise(frames: np.ndarray, index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, frames.shape, np.uint8)


def no_object(frames: np.ndarray, index: int) -> np.ndarray:
    return np.full_like(frames, frames[0, 0, 0])


def object_lost_in_one_frame(frames: np.ndarray, index: int) -> np.ndarray:
    frames = frames.copy()
    frames[9] = frames[0, 0, 0]
    return frames


def every_other_column_gone(frames: np.ndarray, index: int) -> np.ndarray:
    frames = frames.copy()
    frames[:, :, ::2] = frames[0, 0, 0]
    return frames


@pytest.mark.parametrize(
    "damage",
    [
        cut_to_another_clip,
        pure_noise,
        no_object,
        object_lost_in_one_frame,
        every_other_column_gone,
    ],
)
def test_the_oracle_rejects(damage: Callable) -> None:
    rejected = [not describe(damage(clip(8, index).frames, index))["clean"] for index in range(60)]
    assert sum(rejected) >= 57


def test_the_oracle_rejects_shuffled_frames_of_every_moving_object() -> None:
    clean = []
    for index in range(60):
        frames = clip(8, index).frames
        order = np.random.default_rng(index).permutation(17)
        if "moving" in caption(describe(frames)):
            clean.append(describe(frames[order])["clean"])
    assert len(clean) > 20
    assert not any(clean)


def test_an_empty_image_is_not_clean_and_has_no_motion() -> None:
    read = describe(np.zeros((1, 32, 32, 3), np.uint8))
    assert not read["clean"]
    assert read["motion"] is None


# Clips


def test_clips_are_a_function_of_seed_and_index() -> None:
    assert np.array_equal(clip(1, 2).frames, clip(1, 2).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(1, 3).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(2, 2).frames)


def test_the_first_frames_of_a_longer_clip_are_the_shorter_clip() -> None:
    assert np.array_equal(clip(1, 2, 40).frames[:17], clip(1, 2, 17).frames)


def long_clips() -> list[tuple[np.ndarray, str]]:
    """Position (60, 2) and motion of 300 clips."""
    truths = [clip(9, index, 60, split="all").truth for index in range(300)]
    return [(truth["position"], truth["motion"]) for truth in truths]


def test_long_clips_stay_inside_the_picture() -> None:
    for path, _ in long_clips():
        assert path.min() > 4
        assert path.max() < 28


def test_objects_move_along_the_axes_that_their_motion_names() -> None:
    for path, motion in long_clips():
        moves = np.abs(np.diff(path, axis=0)[:16]).max(0) > 1e-9  # along x, along y
        words = set(motion.split())
        assert moves[0] == bool(words & {"left", "right"})
        assert moves[1] == bool(words & {"up", "down", "bouncing"})


def test_moving_objects_keep_their_speed_in_the_first_17_frames() -> None:
    for path, motion in long_clips():
        if motion.startswith("moving"):
            speed = np.diff(path, axis=0)[:16]
            speed = speed[:, np.abs(speed).max(0) > 1e-9]  # along the axes it moves along
            assert np.allclose(speed, speed[0])
            assert (np.abs(speed) >= 0.6).all() and (np.abs(speed) <= 0.8).all()


def test_bouncing_objects_rise_by_11_units_and_return_after_8_frames() -> None:
    for path, motion in long_clips():
        if motion == "bouncing":
            assert np.isclose(path[0, 1] - path[:, 1].min(), 11)
            assert np.isclose(path[0, 1], path[8, 1])


# Splits


def truths(split: str, count: int) -> list[dict]:
    return [clip(0, index, 2, 8, 8, split).truth for index in range(count)]


def color_pairs(truths: list[dict]) -> set[tuple[str, str]]:
    return {(truth["shape"], truth["color"]) for truth in truths}


def motion_pairs(truths: list[dict]) -> set[tuple[str, str]]:
    return {(truth["shape"], truth["motion"]) for truth in truths}


def test_eight_colors_and_six_motions_of_shapes_are_held_out() -> None:
    assert len(HELD_OUT) == 8
    assert len(HELD_OUT_MOTIONS) == 6


def test_training_has_every_pair_that_is_not_held_out() -> None:
    seen = truths("train", 1500)
    every_pair = {(shape, color) for shape in shapes.SHAPES for color in shapes.COLORS}
    assert color_pairs(seen) == every_pair - HELD_OUT
    assert not motion_pairs(seen) & HELD_OUT_MOTIONS


def test_every_word_is_common_in_training() -> None:
    words = Counter(word for truth in truths("train", 1500) for word in caption(truth).split())
    assert set(words) == shapes.WORDS
    assert min(words.values()) > 60, words.most_common()[-5:]


def test_held_out_splits_have_only_held_out_pairs() -> None:
    assert color_pairs(truths("held_out", 50)) <= HELD_OUT
    assert motion_pairs(truths("held_out_motion", 50)) <= HELD_OUT_MOTIONS


def test_the_split_all_has_every_motion() -> None:
    assert {truth["motion"] for truth in truths("all", 200)} == set(shapes.MOTIONS)


# Captions


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, "a small red circle moving left on a black background", id="clip"),
        pytest.param({"motion": None}, "a small red circle on a black background", id="image"),
        pytest.param(
            {"motion": "growing", "size": None},
            "a red circle growing on a black background",
            id="growing",
        ),
    ],
)
def test_a_caption_names_what_the_clip_shows(changes: dict, expected: str) -> None:
    assert caption(TRUTH | changes) == expected


def test_short_captions_are_lossy() -> None:
    short = {shapes.short_caption(TRUTH, np.random.default_rng(i)) for i in range(50)}
    assert "red circle" in short
    assert all("circle" in text for text in short)
    assert all(len(text.split()) < 7 for text in short)


def test_parse_reads_every_caption() -> None:
    for index in range(200):
        true = clip(3, index, split="all")
        named = parse(true.caption)
        assert named == {name: true.truth[name] for name in named}


def test_parse_reads_only_what_a_short_caption_names() -> None:
    for index in range(200):
        true = clip(3, index, split="all")
        named = parse(true.short_caption)
        assert all(word in (None, true.truth[name]) for name, word in named.items())


def test_parse_ignores_the_order_of_words() -> None:
    assert parse("Star moving left and up, yellow!") == {
        "shape": "star",
        "color": "yellow",
        "motion": "moving up and left",
        "size": None,
        "background": None,
    }


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "no split 'test': the splits are train"),
        ({"num_frames": 0}, "at least 1 frame"),
        ({"height": 7}, "of 8 x 8 pixels, got 17 of 7 x 32"),
    ],
    ids=["split", "no frames", "too small"],
)
def test_impossible_clips_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip(0, 0, **arguments)


def test_negative_seeds_and_indices_are_refused() -> None:
    with pytest.raises(InputError, match="0 or more, got -1 and 2"):
        clip(-1, 2)


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="no shape 'cube': the shapes are circle"):
        shapes.coverage("cube", np.zeros(1), np.zeros(1), np.ones(1))


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match=r"uint8 \(T, H, W, 3\), got float64"):
        describe(np.zeros((17, 32, 32, 3)))
