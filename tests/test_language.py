"""What people type, the mistakes they make, and what a caption keeps of a prompt."""

import itertools

import numpy as np
import pytest

from minisora import InputError, world
from minisora.world import Mixture, events, language, lexicon, pairs, shapes
from minisora.world.language import (
    draw_prompt,
    human_caption,
    image_caption,
    in_order,
    is_complete,
    keeps,
    named_right,
    validation_prompt,
)

ONE = "a small red circle moving up and left on a black background"
IMAGE = "a small red circle on a black background"
GROWING = "a red star growing on a black background"
TWO = "a red circle moving left above a blue star standing still on a navy background"
TURNED = "a blue star standing still below a red circle moving left on a navy background"
THEN = "a small red circle moving right, then moving up on a black background"
TURNING = "a small red circle moving right, turning into a blue square on a black background"
TWO_IMAGE = "a red circle above a blue star on a navy background"

MIXTURE = Mixture({"events": 0.3, "pairs": 0.3, "shapes": 0.4})
WORLDS = [
    pytest.param(world.clip, id="one object"),
    pytest.param(pairs.clip, id="two objects"),
    pytest.param(events.clip, id="events"),
]


# What a prompt keeps


@pytest.mark.parametrize(
    ("short", "rich"),
    [
        ("red circle", ONE),
        ("circle, red", ONE),
        ("moving up and left", ONE),
        ("moving left and up", ONE),
        ("small", ONE),
        ("", ONE),
        (ONE, ONE),
        ("A small red circle, moving up and left on a black background.", ONE),
        ("large star growing", GROWING),  # growing clips have no size to keep
        ("red circle above blue star", TWO),
        ("circle and star", TWO),
        ("a circle above a star on navy", TWO),
        ("small red circle above blue star", TWO),  # nor have two objects
        ("red circle then up", THEN),
        ("right then up", THEN),
        ("a circle moving right and then moving up", THEN),
        ("on black: red circle, moving right, then up", THEN),
        ("circle turning into square", TURNING),
        ("red circle, then turning into a blue square on black", TURNING),
        ("circle moving right and turning into a square", TURNING),
        ("a small circle turning into blue square moving right", TURNING),
        (THEN, THEN),
        (TURNING, TURNING),
    ],
)
def test_a_rich_caption_keeps(short: str, rich: str) -> None:
    assert keeps(short, rich)


@pytest.mark.parametrize(
    ("short", "rich"),
    [
        ("blue circle", ONE),
        ("red square", ONE),
        ("moving up", ONE),
        ("large", ONE),
        ("red circle on navy", ONE),
        ("red circle blue square", ONE),
        ("red circle on navy, pink", ONE),
        ("circle moving up and left, growing", ONE),  # two motions
        ("small circle, large", ONE),  # two sizes
        ("red circle", TWO),
        ("blue star above red circle", TWO),
        ("red circle below blue star", TWO),
        ("red circle and blue star", ONE),
        ("a circle, then moving up", "a small red circle moving up on a black background"),
        ("circle turning into square", ONE),
        ("circle turning red", ONE),
        ("red circle", THEN),
        ("red circle", TURNING),
        ("red circle then left", THEN),
        ("red circle up then right", THEN),
        ("circle right then up then left", THEN),
        ("circle turning into square", THEN),
        ("circle then up", TURNING),
        ("blue square turning into red circle", TURNING),
        ("red circle turning into blue square on pink", TURNING),
        ("circle moving right then up, turning into square", TURNING),
        ("circle moving right turning into square moving left", TURNING),
        ("circle above square, then up", THEN),
        ("red circle and blue square, then up", THEN),
    ],
)
def test_a_rich_caption_contradicts(short: str, rich: str) -> None:
    assert not keeps(short, rich)


@pytest.mark.parametrize(
    "incomplete",
    [
        pytest.param(IMAGE, id="no motion"),
        pytest.param("a red circle moving up on a black background", id="no size"),
        pytest.param("a small circle moving up on a black background", id="no color"),
        pytest.param("small red circle moving up on a black background", id="no article"),
        pytest.param(THEN.replace("moving right", ""), id="no first motion"),
        pytest.param(THEN.replace("moving up", ""), id="no second motion"),
        pytest.param(TURNING.replace("blue ", ""), id="no second color"),
        pytest.param(THEN.replace("moving right", "moving up"), id="no change of motion"),
        pytest.param(THEN.replace("moving right", "growing"), id="another world's motion"),
        pytest.param(TURNING.replace("blue", "red"), id="no change of color"),
    ],
)
def test_an_incomplete_caption_keeps_nothing(incomplete: str) -> None:
    assert not keeps("red circle", incomplete)
    assert not is_complete(incomplete)


@pytest.mark.parametrize("clip", WORLDS)
def test_every_rich_caption_is_complete(clip) -> None:
    assert all(is_complete(clip(0, i, 17, 8, 8).caption) for i in range(100))


@pytest.mark.parametrize("clip", WORLDS)
def test_every_image_caption_is_complete_for_an_image_only(clip) -> None:
    captions = [clip(0, i, 1, 8, 8).caption for i in range(100)]
    assert all(is_complete(caption, image=True) for caption in captions)
    assert not any(is_complete(caption) for caption in captions)


@pytest.mark.parametrize(
    "prompt",
    [
        ONE,
        TWO,
        THEN,
        TURNING,
        "red circle",
        "",
        "a red circle on a black background",
        "a circle above a blue star on a navy background",
        "a red circle above a blue star",
    ],
)
def test_these_are_no_full_captions_of_images(prompt: str) -> None:
    assert not is_complete(prompt, image=True)


def test_case_and_punctuation_do_not_matter() -> None:
    assert is_complete("A small red circle moving up on a black background.")
    assert is_complete("A small red circle on a black background.", image=True)
    assert is_complete(language.plain(THEN))
    assert keeps(THEN, language.plain(THEN))


# What people type


def test_a_drawn_prompt_is_kept_by_its_own_caption() -> None:
    assert all(keeps(*draw_prompt(0, i, MIXTURE)) for i in range(400))


def test_a_drawn_prompt_is_shorter_than_its_caption() -> None:
    drawn = [draw_prompt(0, i, MIXTURE) for i in range(400)]
    assert np.mean([len(short.split()) < len(rich.split()) for short, rich in drawn]) > 0.95


def test_a_drawn_prompt_is_seldom_kept_by_another_caption() -> None:
    drawn = [draw_prompt(0, i, MIXTURE) for i in range(400)]
    kept = [keeps(short, rich) for (short, _), (_, rich) in itertools.pairwise(drawn)]
    assert np.mean(kept) < 0.15


def test_drawn_prompts_are_a_function_of_seed_and_index() -> None:
    assert draw_prompt(1, 2, MIXTURE) == draw_prompt(1, 2, MIXTURE)
    assert draw_prompt(1, 2, MIXTURE) != draw_prompt(1, 3, MIXTURE)
    assert draw_prompt(1, 2, MIXTURE) != draw_prompt(2, 2, MIXTURE)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_prompts_is_about_two_objects(share: float) -> None:
    mixture = Mixture({"pairs": share, "shapes": 1 - share})
    two = [pairs.parse(draw_prompt(0, i, mixture)[1]) is not None for i in range(400)]
    assert abs(np.mean(two) - share) < 0.08


def test_a_world_without_a_share_changes_no_prompt() -> None:
    shares = {"pairs": 0.4, "shapes": 0.6}
    with_events = Mixture({"events": 0, **shares})
    for i in range(100):
        assert draw_prompt(0, i, Mixture(shares)) == draw_prompt(0, i, with_events)


def test_a_drawn_prompt_of_an_event_names_the_event() -> None:
    drawn = [draw_prompt(0, i, Mixture({"events": 1})) for i in range(200)]
    for short, rich in drawn:
        assert events.parse(short)["event"] == events.parse(rich)["event"]
    assert any("moving" not in short for short, rich in drawn if "then moving" in rich)


def test_captions_of_drawn_prompts_are_from_the_training_split() -> None:
    mixture = Mixture({"shapes": 1})
    for i in range(200):
        named = shapes.parse(draw_prompt(0, i, mixture)[1])
        assert shapes.in_split(named["shape"], named["color"], named["motion"], "train")


@pytest.mark.parametrize("name", ["shapes", "events"])
def test_validation_prompts_name_what_a_clip_shows(name: str) -> None:
    for i in range(99):
        true = world.get(name).clip(3, i, 17, 8, 8, "all")
        assert keeps(validation_prompt(3, i, name), true.caption)


@pytest.mark.parametrize("name", ["shapes", "events"])
def test_validation_prompts_have_forms_that_are_not_trained_on(name: str) -> None:
    """Their background is not at the end; a drawn prompt names it last."""
    prompts = [validation_prompt(3, i, name) for i in range(99)]
    assert not any(prompt.endswith((*shapes.BACKGROUNDS, "background")) for prompt in prompts)


# What people write about clips


def is_false(caption: str, truth: dict) -> bool:
    named = shapes.parse(caption)
    return any(word not in (None, truth[name]) for name, word in named.items())


def has_unknown_word(caption: str) -> bool:
    return any(word not in world.WORDS for word in caption.split())


def small_clips(clip=world.clip) -> list[world.Clip]:
    return [clip(0, i, 2, 8, 8) for i in range(400)]


def test_a_human_caption_without_mistakes_is_the_short_caption() -> None:
    rng = np.random.default_rng(0)
    assert all(human_caption(clip, rng, 0, 0) == clip.short_caption for clip in small_clips())


@pytest.mark.parametrize(("rate", "least", "most"), [(0.2, 51, 109), (1.0, 400, 400)])
def test_a_share_of_human_captions_is_false(rate: float, least: int, most: int) -> None:
    rng = np.random.default_rng(0)
    false = [is_false(human_caption(clip, rng, rate, 0), clip.truth) for clip in small_clips()]
    assert least <= sum(false) <= most


@pytest.mark.parametrize(("rate", "least", "most"), [(0.2, 51, 109), (1.0, 376, 400)])
def test_a_share_of_human_captions_has_a_typo(rate: float, least: int, most: int) -> None:
    rng = np.random.default_rng(0)
    typos = [has_unknown_word(human_caption(clip, rng, 0, rate)) for clip in small_clips()]
    assert least <= sum(typos) <= most


def test_a_false_caption_of_an_event_is_another_caption() -> None:
    rng = np.random.default_rng(0)
    for i in range(100):
        clip = events.clip(0, i, 17, 8, 8)
        assert events.parse(human_caption(clip, rng, 1, 0)) != events.parse(clip.short_caption)


def test_a_false_caption_of_two_objects_has_one_false_word() -> None:
    rng = np.random.default_rng(0)
    for clip in small_clips(pairs.clip):
        true, false = clip.short_caption.split(), human_caption(clip, rng, 1, 0).split()
        if len(true) == len(false):  # "up" may have become "up and left"
            assert sum(a != b for a, b in zip(true, false, strict=True)) == 1


# The same scene in other words


@pytest.mark.parametrize("text", [TWO, TURNED], ids=["in order", "turned"])
def test_a_scene_starts_with_the_upper_object(text: str) -> None:
    assert in_order(text) == TWO


@pytest.mark.parametrize("text", [ONE, IMAGE, "blue star below red circle", "", "a star right of"])
def test_any_other_text_stays_in_its_order(text: str) -> None:
    assert in_order(text) == text


@pytest.mark.parametrize("text", [THEN, TURNING])
def test_an_event_is_written_without_its_comma(text: str) -> None:
    assert in_order(text) == text.replace(",", "")
    assert in_order(in_order(text)) == in_order(text)


def test_a_scene_starts_with_the_upper_or_the_left_object() -> None:
    for i in range(100):
        text = in_order(pairs.clip(0, i, 2).caption)
        assert pairs.parse(text)["relation"] in ("above", "left of")
        assert in_order(text) == text


@pytest.mark.parametrize("clip", WORLDS)
def test_the_image_caption_is_the_caption_of_the_first_frame(clip) -> None:
    for i in range(200):
        assert image_caption(clip(0, i, 17, 8, 8).caption) == clip(0, i, 1, 8, 8).caption


@pytest.mark.parametrize(
    ("rich", "expected"),
    [
        pytest.param(ONE, IMAGE, id="one object"),
        pytest.param(TWO, TWO_IMAGE, id="two objects"),
        pytest.param(GROWING, "a small red star on a black background", id="growing"),
        pytest.param(
            GROWING.replace("growing", "shrinking"),
            "a large red star on a black background",
            id="shrinking",
        ),
        pytest.param(THEN, IMAGE, id="then"),
        pytest.param(TURNING, IMAGE, id="turning into"),
        pytest.param(IMAGE, IMAGE, id="an image already"),
        pytest.param("my cat, jumping", "my cat, jumping", id="another text"),
    ],
)
def test_image_captions(rich: str, expected: str) -> None:
    assert image_caption(rich) == expected


# What a clip keeps

READ = {name: world.parse(ONE)[name] for name in world.ATTRIBUTES} | {"clean": True}


@pytest.mark.parametrize("prompt", ["red circle", "circle", "red circle moving up and left", ONE])
def test_a_clip_shows_all_that_the_prompt_names(prompt: str) -> None:
    assert named_right(prompt, READ)


@pytest.mark.parametrize("prompt", ["blue circle", "red circle moving up", "large circle"])
def test_a_clip_shows_something_else(prompt: str) -> None:
    assert not named_right(prompt, READ)


@pytest.mark.parametrize(
    ("prompt", "right"),
    [("circle then up", True), ("red circle", True), ("then left", False), (TURNING, False)],
)
def test_a_clip_shows_the_event_that_the_prompt_names(prompt: str, right: bool) -> None:
    assert named_right(prompt, events.parse(THEN) | {"clean": True}) == right


def test_a_clip_of_one_object_shows_no_event() -> None:
    assert not named_right("red circle then up", READ)


def test_a_clip_that_is_not_clean_shows_nothing() -> None:
    assert not named_right("red circle", READ | {"clean": False})


# Words


def test_color_words_are_those_of_objects_and_backgrounds() -> None:
    assert set(language.COLOR_WORDS) == {*shapes.COLORS, *shapes.BACKGROUNDS}
    assert set(language.OBJECT_COLORS) == set(shapes.COLORS)


def test_all_of_them_are_words_of_captions() -> None:
    assert {*language.COLOR_WORDS, *language.SHAPE_WORDS, *language.MOTION_WORDS} <= world.WORDS
    assert set(language.EVENT_WORDS) <= world.WORDS


# Captions of changed and joined clips

RED = "a small red circle moving right on a black background"


@pytest.mark.parametrize(
    ("request_", "caption"),
    [
        ("make it blue", "a small blue circle moving right on a black background"),
        ("a square", "a small red square moving right on a black background"),
        ("moving left", "a small red circle moving left on a black background"),
        ("growing", "a red circle growing on a black background"),
        ("large, on pink", "a large red circle moving right on a pink background"),
        (
            "then moving up",
            "a small red circle moving right, then moving up on a black background",
        ),
        (
            "turning into a blue star",
            "a small red circle moving right, turning into a blue star on a black background",
        ),
    ],
)
def test_a_request_changes_what_it_names(request_: str, caption: str) -> None:
    assert language.altered(RED, request_) == caption


def test_a_full_caption_replaces_everything() -> None:
    other = "a large white star standing still on a navy background"
    assert language.altered(RED, other) == other


def test_what_stops_growing_gets_a_size() -> None:
    growing = "a red circle growing on a black background"
    assert language.altered(growing, "moving left") == RED.replace("right", "left")


@pytest.mark.parametrize("text", ["sing a song", "make it nicer"])
def test_a_request_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names nothing that can change"):
        language.altered(RED, text)


def test_a_request_has_to_say_which_of_two_objects_it_means() -> None:
    with pytest.raises(InputError, match="which of two objects"):
        language.altered(TWO, "make it blue")


def test_clips_of_one_object_are_joined_under_its_caption() -> None:
    assert language.joined(RED, RED) == RED


def test_clips_of_two_objects_are_joined_by_turning_into() -> None:
    end = "a small blue star moving right on a black background"
    joined = "a small red circle moving right, turning into a blue star on a black background"
    assert language.joined(RED, end) == joined


def test_clips_of_two_motions_are_joined_by_then() -> None:
    end = RED.replace("right", "up")
    joined = "a small red circle moving right, then moving up on a black background"
    assert language.joined(RED, end) == joined


def test_what_no_caption_can_join_has_the_first_caption() -> None:
    bouncing = "a small blue circle bouncing on a black background"
    assert language.joined(bouncing, RED) == bouncing


@pytest.mark.parametrize(
    ("other", "small"),
    [
        (RED, True),
        (RED.replace("red", "blue"), True),
        (RED.replace("red", "blue").replace("black", "pink"), False),
        (RED.replace("right", "up and right"), False),
        (THEN, False),
    ],
    ids=["none", "color", "color and background", "motion", "event"],
)
def test_a_small_change_is_of_one_attribute_but_the_motion(other: str, small: bool) -> None:
    assert language.is_small_change(RED, other) == small


def test_a_new_event_replaces_the_old_one() -> None:
    said = language.altered(THEN, "turning into a blue square")
    assert said == TURNING


def test_an_event_that_cannot_happen_is_refused() -> None:
    with pytest.raises(InputError, match="no caption says 'turning into a red star'"):
        language.altered(RED, "turning into a red star")


@pytest.mark.parametrize("second", [TWO, THEN])
def test_clips_of_other_worlds_are_joined_under_the_first_caption(second: str) -> None:
    assert language.joined(RED, second) == RED


@pytest.mark.parametrize(
    ("typed", "caption"),
    [
        ("make it move left", "a small red circle moving left on a black background"),
        ("let it drift up", "a small red circle moving up on a black background"),
        ("grow", "a red circle growing on a black background"),
        ("stop", "a small red circle standing still on a black background"),
        ("make it bigger", "a large red circle moving right on a black background"),
        ("it should bounce", "a small red circle bouncing on a black background"),
    ],
)
def test_requests_may_be_commands(typed: str, caption: str) -> None:
    assert language.altered(RED, lexicon.in_our_words(language.asked(typed))) == caption


@pytest.mark.parametrize(
    ("typed", "caption"),
    [
        ("change red to green", "a small green circle moving right on a black background"),
        ("make the red circle a star", "a small red star moving right on a black background"),
        ("make the black background pink", "a small red circle moving right on a pink background"),
    ],
)
def test_a_request_may_name_what_is_there_now(typed: str, caption: str) -> None:
    assert language.altered(RED, typed) == caption


def test_the_caption_of_an_image_is_changed_without_a_motion() -> None:
    still = "a small red circle on a black background"
    assert language.altered(still, "make it blue") == still.replace("red", "blue")


def test_an_image_cannot_be_made_to_move() -> None:
    with pytest.raises(InputError, match="an image does not move"):
        language.altered("a small red circle on a black background", "moving left")


def test_a_pair_of_which_one_color_changes_is_a_small_change() -> None:
    color = next(word for word in ("red", "blue", "green") if word in TWO)
    other = next(word for word in ("cyan", "white", "purple") if word not in TWO)
    assert language.is_small_change(TWO, TWO.replace(color, other))
