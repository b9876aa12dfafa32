from collections import Counter

import numpy as np
import pytest

from minisora import InputError
from minisora.world import HELD_OUT, HELD_OUT_MOTIONS, agree, caption, clip, describe
from minisora.world.shapes import COLORS, MOTIONS, SHAPES, WORDS, short_caption


def noisy(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(
        np.round(frames + 255 * 0.02 * rng.standard_normal(frames.shape)), 0, 255
    ).astype(np.uint8)


def blurred(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1:3]
    padded = np.pad(frames.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.round(np.mean(shifts, axis=0)).astype(np.uint8)


@pytest.mark.parametrize(
    "size",
    [
        (17, 32, 32),
        (1, 32, 32),
        (5, 32, 32),
        (33, 32, 32),
        (17, 64, 64),
        (17, 24, 24),
        (17, 32, 56),
        (17, 40, 24),
    ],
)
def test_oracle_reads_ground_truth(size: tuple[int, int, int]) -> None:
    for index in range(100):
        true = clip(5, index, *size, split="all")
        read = describe(true.frames)
        assert agree(true.truth, read)["all"], (index, true.caption, read)
        assert np.abs(read["position"] - true.truth["position"]).max() < 0.3


@pytest.mark.parametrize("frames", [1, 17])
def test_oracle_reads_through_noise_and_blur(frames: int) -> None:
    rng = np.random.default_rng(0)
    right = Counter()
    for index in range(200):
        true = clip(6, index, frames, split="all")
        right["noise"] += agree(true.truth, describe(noisy(true.frames, rng)))["all"]
        right["blur"] += agree(true.truth, describe(blurred(true.frames)))["all"]
    assert min(right.values()) >= 190, right


def test_oracle_reads_windows() -> None:
    for index in range(100):
        true = clip(7, index, 17, split="all")
        for start, length in ((0, 9), (4, 5), (8, 9), (3, 14)):
            read = describe(true.frames[start : start + length])
            assert agree(true.truth, read)["all"], (index, start, length, true.caption, read)


def test_oracle_rejects_what_is_not_one_clean_object() -> None:
    bad, moving, shuffled = Counter(), 0, 0
    for index in range(60):
        a, b = clip(8, index).frames, clip(8, index + 1000).frames
        bad["cut to another clip"] += not describe(np.concatenate([a[:8], b[8:]]))["clean"]
        bad["noise"] += not describe(
            np.random.default_rng(index).integers(0, 256, a.shape, np.uint8)
        )["clean"]
        bad["no object"] += not describe(np.full_like(a, a[0, 0, 0]))["clean"]
        lost = a.copy()
        lost[9] = a[0, 0, 0]
        bad["lost in one frame"] += not describe(lost)["clean"]
        half = a.copy()
        half[:, :, ::2] = a[0, 0, 0]
        bad["every other column gone"] += not describe(half)["clean"]
        order = np.random.default_rng(index).permutation(17)
        if "moving" in caption(describe(a)):
            moving += 1
            shuffled += not describe(a[order])["clean"]
    blank = describe(np.zeros((1, 32, 32, 3), np.uint8))
    assert not blank["clean"] and blank["motion"] is None  # of an image
    assert min(bad.values()) >= 57 and shuffled == moving > 20, (bad, shuffled, moving)


def test_clips_are_a_function_of_seed_and_index() -> None:
    assert np.array_equal(clip(1, 2).frames, clip(1, 2).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(1, 3).frames)
    assert not np.array_equal(clip(1, 2).frames, clip(2, 2).frames)
    assert np.array_equal(clip(1, 2, 40).frames[:17], clip(1, 2, 17).frames)


def test_laws_of_motion() -> None:
    for index in range(300):
        true = clip(9, index, 60, split="all")
        path, motion = true.truth["position"], true.truth["motion"]
        steps = np.diff(path, axis=0)
        assert path.min() > 4 and path.max() < 28  # long clips stay inside the picture
        moving = np.abs(steps[:16]).max(0) > 1e-9
        words = set(motion.split())
        assert moving[0] == bool(words & {"left", "right"}) and moving[1] == bool(
            words & {"up", "down", "bouncing"}
        )
        if motion.startswith("moving"):
            for axis in np.flatnonzero(moving):
                speed = steps[:16, axis]
                assert (
                    np.allclose(speed, speed[0]) and 0.6 <= abs(speed[0]) <= 0.8
                )  # no turn in the first 17 frames
        if motion == "bouncing":
            assert np.isclose(path[0, 1] - path[:, 1].min(), 11) and np.isclose(
                path[0, 1], path[8, 1]
            )


def test_splits_hold_out_combinations_but_no_word() -> None:
    assert len(HELD_OUT) == 8 and len(HELD_OUT_MOTIONS) == 6
    seen = [clip(0, i, 2, 8, 8).truth for i in range(1500)]
    assert not any(
        (s["shape"], s["color"]) in HELD_OUT or (s["shape"], s["motion"]) in HELD_OUT_MOTIONS
        for s in seen
    )
    words = Counter(word for s in seen for word in caption(s).split())
    assert set(words) == WORDS and min(words.values()) > 60, words.most_common()[-5:]
    pairs = {(s["shape"], s["color"]) for s in seen}
    assert pairs == {(s, c) for s in SHAPES for c in COLORS} - HELD_OUT
    for i in range(50):
        assert (t := clip(0, i, 2, 8, 8, "held_out").truth) and (
            t["shape"],
            t["color"],
        ) in HELD_OUT
        assert (t := clip(0, i, 2, 8, 8, "held_out_motion").truth) and (
            t["shape"],
            t["motion"],
        ) in HELD_OUT_MOTIONS
    assert {clip(0, i, 2, 8, 8, "all").truth["motion"] for i in range(200)} == set(MOTIONS)


def test_captions() -> None:
    truth = {
        "shape": "circle",
        "color": "red",
        "motion": "moving left",
        "size": "small",
        "background": "black",
    }
    assert caption(truth) == "a small red circle moving left on a black background"
    assert caption(truth | {"motion": None}) == "a small red circle on a black background"
    assert (
        caption(truth | {"motion": "growing", "size": None})
        == "a red circle growing on a black background"
    )
    short = {short_caption(truth, np.random.default_rng(i)) for i in range(50)}
    assert "red circle" in short and all("circle" in s and len(s.split()) < 7 for s in short)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no split 'test': the splits are train"):
        clip(0, 0, split="test")
    with pytest.raises(InputError, match="at least 1 frame"):
        clip(0, 0, num_frames=0)
    with pytest.raises(InputError, match=r"uint8 \(T, H, W, 3\), got float64"):
        describe(np.zeros((17, 32, 32, 3)))
