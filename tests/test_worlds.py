"""The protocol that every world follows, the registry, and mixtures of worlds."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minisora import InputError, world
from minisora.world import WORLDS, Clip, Mixture, World, language, pairs, shapes

SIZES = {"clip": (17, 32, 32), "image": (1, 32, 32), "wide": (5, 24, 40)}
PARTS = [
    pytest.param(one, split, id=f"{name}-{split}")
    for name, one in WORLDS.items()
    for split in one.splits
]
EVERY_WORLD = pytest.mark.parametrize("one", WORLDS.values(), ids=WORLDS)


def clips(one: World, split: str, size: tuple[int, int, int] = (17, 16, 16)) -> list[Clip]:
    """Clips of 17 frames, if nothing else is said: in a shorter one nothing may happen."""
    return [one.clip(2, index, *size, split) for index in range(50)]


# Every world


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("one", "split"), PARTS)
def test_the_oracle_agrees_with_the_truth(one: World, split: str, size: tuple) -> None:
    for clip in clips(one, split, size):
        read = one.describe(clip.frames)
        assert one.agree(clip.truth, read)["all"], (clip.caption, read)


@pytest.mark.parametrize(("one", "split"), PARTS)
def test_a_caption_is_parsed_to_the_truth(one: World, split: str) -> None:
    for clip in clips(one, split):
        named = one.parse(clip.caption)
        assert named == {name: clip.truth[name] for name in named}


@pytest.mark.parametrize(("one", "split"), PARTS)
def test_the_caption_is_a_function_of_the_truth(one: World, split: str) -> None:
    for clip in clips(one, split):
        assert one.caption(clip.truth) == clip.caption


@pytest.mark.parametrize(("one", "split"), PARTS)
def test_the_words_cover_the_captions(one: World, split: str) -> None:
    for clip in clips(one, split):
        words = language.plain(f"{clip.caption} {clip.short_caption}").split()
        assert set(words) <= one.words


@pytest.mark.parametrize(("one", "split"), PARTS)
def test_clips_have_the_size_and_the_keys_that_are_promised(one: World, split: str) -> None:
    for clip in clips(one, split, (17, 24, 40)):
        assert clip.frames.shape == (17, 24, 40, 3)
        assert clip.frames.dtype == np.uint8
        assert set(clip.truth) == set(one.describe(clip.frames))
        assert clip.world == one.name


@EVERY_WORLD
def test_the_scores_are_the_keys_of_agree(one: World) -> None:
    clip = one.clip(0, 0, 5, 32, 32, "train")
    right = one.agree(clip.truth, one.describe(clip.frames))
    assert set(one.scores) == set(right)
    assert one.scores[-1] == "all"


@EVERY_WORLD
def test_every_world_has_a_training_split(one: World) -> None:
    assert one.splits[0] == "train"


@EVERY_WORLD
def test_splits_share_no_caption(one: World) -> None:
    captions = [{clip.caption for clip in clips(one, split)} for split in one.splits]
    assert sum(map(len, captions)) == len(set().union(*captions))


@EVERY_WORLD
def test_a_caption_belongs_to_its_own_world(one: World) -> None:
    for split in one.splits:
        assert all(world.world_of_prompt(clip.caption) is one for clip in clips(one, split))


# Names


def test_the_worlds_are_registered() -> None:
    assert list(WORLDS) == ["shapes", "pairs", "events"]
    assert all(world.get(name).name == name for name in WORLDS)


def test_an_unknown_world_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no world 'room': the worlds are shapes, pairs, events"):
        world.get("room")


def test_a_new_world_needs_one_line(monkeypatch) -> None:
    monkeypatch.setattr("minisora.world.protocol.WORLDS", {})
    new = replace(WORLDS["pairs"], name="new")
    assert world.register(new) is new
    assert world.get("new") is new
    assert Mixture({"new": 1}).clip(0, 0).world == "pairs"  # the clip function is that of pairs


def test_the_public_functions_are_those_of_one_object() -> None:
    assert (world.clip, world.describe, world.agree) == (
        WORLDS["shapes"].clip,
        WORLDS["shapes"].describe,
        WORLDS["shapes"].agree,
    )


def test_the_words_are_those_of_all_worlds() -> None:
    words = set().union(*(one.words for one in WORLDS.values()))
    assert words == world.WORDS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("red circle", "shapes"),
        ("", "shapes"),
        ("star moving left and up", "shapes"),
        ("red circle above blue star", "pairs"),
        ("a circle and a star", "pairs"),
        ("red circle then up", "events"),
        ("a circle turning into a star", "events"),
        ("a circle moving up and then moving left", "events"),
        ("then on pink", "shapes"),
    ],
)
def test_the_world_of_a_prompt(text: str, name: str) -> None:
    assert world.world_of_prompt(text).name == name


def test_the_worlds_load_without_torch() -> None:
    code = "import sys, minisora.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Mixtures


@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 1.0])
def test_a_mixture_draws_each_world_in_its_share(share: float) -> None:
    mixture = Mixture({"pairs": share, "shapes": 1 - share})
    drawn = [mixture.world_of(0, index).name for index in range(2000)]
    assert abs(drawn.count("pairs") / 2000 - share) < 0.035  # three standard errors


def test_shares_are_relative_to_their_sum() -> None:
    assert Mixture({"pairs": 9, "shapes": 11}).shares == {"pairs": 0.45, "shapes": 0.55}


def test_a_mixed_clip_is_the_clip_of_its_world() -> None:
    mixture = Mixture({"pairs": 0.5, "shapes": 0.5})
    for index in range(20):
        clip = mixture.clip(4, index, 5, 24, 40, "held_out")
        expected = mixture.world_of(4, index).clip(4, index, 5, 24, 40, "held_out")
        assert clip.world == mixture.world_of(4, index).name
        assert np.array_equal(clip.frames, expected.frames)
        assert clip.caption == expected.caption


def test_a_larger_share_of_pairs_only_replaces_clips_of_one_object() -> None:
    few, many = Mixture({"pairs": 0.2, "shapes": 0.8}), Mixture({"pairs": 0.6, "shapes": 0.4})
    pairs_of_few = {i for i in range(200) if few.world_of(0, i).name == "pairs"}
    pairs_of_many = {i for i in range(200) if many.world_of(0, i).name == "pairs"}
    assert pairs_of_few < pairs_of_many


def test_the_names_are_those_of_worlds_with_a_share() -> None:
    assert Mixture({"shapes": 1, "pairs": 1}).names == ["pairs", "shapes"]
    assert Mixture({"shapes": 1, "pairs": 0}).names == ["shapes"]


def test_the_words_of_a_mixture_are_those_of_its_worlds() -> None:
    assert Mixture({"shapes": 1}).words == sorted(shapes.WORDS)
    assert Mixture({"shapes": 1, "pairs": 1}).words == sorted(shapes.WORDS | pairs.WORDS)
    assert Mixture({"events": 1}).words == sorted(shapes.WORDS | {"then", "turning", "into"})


@pytest.mark.parametrize(
    "shares",
    [
        pytest.param({}, id="none"),
        pytest.param({"shapes": 0}, id="zero"),
        pytest.param({"shapes": 2, "pairs": -1}, id="negative"),
        pytest.param({"shapes": float("inf")}, id="infinite"),
        pytest.param({"shapes": float("nan")}, id="not a number"),
    ],
)
def test_impossible_shares_are_refused(shares: dict) -> None:
    with pytest.raises(InputError, match="shares of 0 or more"):
        Mixture(shares)


def test_a_mixture_with_an_unknown_world_is_refused() -> None:
    with pytest.raises(InputError, match="no world 'room'"):
        Mixture({"room": 1})
