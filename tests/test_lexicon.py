import re
from pathlib import Path

import numpy as np
import pytest

from minisora import draws, weights
from minisora.experiments import runs, words
from minisora.upsampler import Upsampler
from minisora.world import WORDS, WORLDS, Mixture, events, language, lexicon, pairs, shapes
from minisora.world.lexicon import in_our_words, reword, unread

MIXTURE = Mixture({"events": 1, "pairs": 1, "shapes": 1})
WORDINGS = lexicon.lexicon()


def meaning(text: str):
    """What a text in captions' words names."""
    return events.parse(text) or pairs.parse(text) or shapes.parse(text)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Short prompts as training draws them, and rich captions."""
    drawn = [language.draw_prompt(7, i, MIXTURE) for i in range(250)]
    return [text for pair in drawn for text in pair]


def reworded(prompts: list[str], **options) -> list[str]:
    return [reword(text, draws.rng("test", 0, i), **options) for i, text in enumerate(prompts)]


# The lexicon


def test_every_wording_means_words_of_captions() -> None:
    meanings = {meant for kinds in WORDINGS.values() for meant in kinds.values()}
    assert {word for meant in meanings for word in meant.split()} <= WORDS


def test_every_kind_of_meaning_has_wordings() -> None:
    own = {(kind, word) for word, kinds in lexicon.own_words().items() for kind in kinds}
    said = {pair for kinds in WORDINGS.values() for pair in kinds.items()}
    assert own == said


def test_no_wording_has_two_kinds_in_one_context() -> None:
    """The kinds of a ground count in its phrase alone, all others elsewhere."""
    for wording, kinds in WORDINGS.items():
        assert len(set(kinds) & set(lexicon.GROUND_KINDS)) <= 1, wording
        assert len(set(kinds) & set(lexicon.OBJECT_KINDS)) <= 1, wording


def test_no_wording_is_a_word_of_captions() -> None:
    assert not set(WORDINGS) & set(lexicon.own_words())


def test_about_a_third_is_held_out() -> None:
    share = np.mean([lexicon.is_held_out(word) for word in WORDINGS])
    assert 0.3 < share < 0.37


def test_the_vocabulary_has_every_word_of_captions_and_wordings() -> None:
    texts = " ".join(WORDINGS)
    assert {*re.findall("[a-z]+", texts), *WORDS} <= set(lexicon.vocabulary())


# Colors


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("crimson", "red"), ("emerald", "green"), ("azure", "blue"), ("lemon", "yellow"),
        ("violet", "purple"), ("turquoise", "cyan"), ("tangerine", "orange"), ("ivory", "white"),
        ("light blue", "blue"), ("slate", "gray"), ("hot pink", "pink"), ("brown", "orange"),
    ],
)  # fmt: skip
def test_a_color_name_means_the_color_it_ends_with_or_the_nearest(name: str, color: str) -> None:
    assert lexicon.color_names()[name] == color


@pytest.mark.parametrize("name", ["blue green", "purple pink", "dark", "poo brown", "black"])
def test_names_that_are_left_out(name: str) -> None:
    """Those of two of our colors, parts of other names, crude ones, and our own words."""
    assert name not in lexicon.color_names()


def test_our_own_colors_are_nearest_to_themselves() -> None:
    own = {name: lexicon.nearest(np.array(rgb)) for name, rgb in shapes.COLORS.items()}
    assert own == {name: name for name in shapes.COLORS}


# Reading


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a crimson ball drifting leftwards", "a red circle moving left"),
        ("Azure Box, on Rose", "blue square, on pink"),
        ("dark blue ball", "blue circle"),
        ("ball on dark blue", "circle on navy"),
        ("ball over a dark blue box", "circle above a blue square"),
        ("on dark blue: red ball", "on navy: red circle"),
        ("dark blue screen, star", "navy background, star"),
        ("a ball over dark blue", "a circle on navy"),
        ("ball in front of the pale grey canvas", "circle on the gray background"),
        ("ball heading to the right, later rising", "circle moving right, then moving up"),
        ("a ball later", "a circle later"),
        ("ball before black", "circle on black"),
        ("a ball before a box", "a circle before a square"),
        ("ball becoming a teal star", "circle turning into a cyan star"),
        ("ball becoming bigger", "circle becoming bigger"),
        ("ball to the left of a box", "circle left of a square"),
        ("ball going to the left", "circle moving left"),
        ("lime-green cube", "green square"),
        ("scarlet red ball", "red circle"),
        ("leftwards and up", "moving up and left"),
        ("a ball jumps", "a circle bouncing"),
        ("red, green", "red, green"),
        ("", ""),
    ],
)
def test_wordings_are_read_in_their_context(typed: str, read: str) -> None:
    assert in_our_words(typed) == read


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_captions_stay_as_they_are(world) -> None:
    captions = [world.clip(3, i, 17, 8, 8).caption for i in range(60)]
    captions += [world.clip(3, i, 17, 8, 8).short_caption for i in range(60)]
    assert [in_our_words(caption) for caption in captions] == captions


def test_prompts_in_captions_words_stay_as_they_are(prompts: list[str]) -> None:
    assert [in_our_words(prompt) for prompt in prompts] == prompts


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("a crimson ball drifting leftwards", []),
        ("a shiny ball", ["shiny"]),
        ("the grey ball", ["grey"]),
        ("Two balls", ["Two", "balls"]),
        ("3 grüne red stars", ["3", "grüne", "stars"]),
    ],
)
def test_words_without_a_meaning_are_unread(typed: str, words: list[str]) -> None:
    """Also those that have one elsewhere: no object is gray."""
    assert unread(typed) == words


def test_captions_have_no_unread_words(prompts: list[str]) -> None:
    assert [word for prompt in prompts for word in unread(prompt)] == []


# Writing


@pytest.mark.parametrize("held_out", [False, True])
def test_a_reworded_prompt_means_the_same(prompts: list[str], held_out: bool) -> None:
    for prompt, said in zip(prompts, reworded(prompts, held_out=held_out, chance=1), strict=True):
        assert meaning(in_our_words(said)) == meaning(prompt), said


def test_reworded_prompts_have_other_words(prompts: list[str]) -> None:
    pairs = zip(prompts, reworded(prompts, chance=1), strict=True)
    assert np.mean([in_our_words(said) != said for _, said in pairs]) > 0.99


def wordings_in(texts: list[str]) -> set[str]:
    """The wordings of others that texts have."""
    readings = [lexicon.Reading(text) for text in texts]
    said = {each.said(part) for each in readings for part in each.parts}
    return said - set(lexicon.own_words())


@pytest.mark.parametrize("held_out", [False, True])
def test_training_never_draws_what_is_held_out(prompts: list[str], held_out: bool) -> None:
    said = wordings_in(reworded(prompts, held_out=held_out))
    assert {lexicon.is_held_out(word) for word in said} == {held_out}


def test_chosen_kinds_alone_are_reworded() -> None:
    said = reworded(["a small red circle moving up on a black background"] * 50, kinds=("color",))
    assert {re.sub("^the", "a", re.sub("^an ", "a ", s)).split()[1] for s in said} == {"small"}
    assert all("circle moving up on" in text for text in said)


def test_rewording_is_repeated_by_its_seed(prompts: list[str]) -> None:
    assert reworded(prompts[:20]) == reworded(prompts[:20])


def test_a_vowel_has_an_article_of_its_own() -> None:
    said = reworded(["a blue star"] * 200, kinds=("color",), chance=1)
    assert not [text for text in said if re.match("an? ", text) and text.startswith("an") != (
        text.split()[1][0] in "aeiou")]  # fmt: skip


def test_training_prompts_fit_the_encoder() -> None:
    """The longest: twice the words of a caption."""
    prompts = [language.draw_prompt(9, i, MIXTURE)[0] for i in range(500)]
    assert max(len(text.split()) for text in reworded(prompts, chance=1)) <= 32


# The experiment


@pytest.mark.parametrize("kind", words.WORDINGS)
def test_the_experiment_asks_in_such_words(kind: str) -> None:
    prompts = words.draw_prompts(kind, 20, 0)
    said = {wording for prompt in prompts for wording in wordings_in([prompt])}
    held_out = {lexicon.is_held_out(wording) for wording in said}
    kind = kind.removesuffix(words.NEW_FORMS)
    assert held_out == {"captions' words": set(), "trained wordings": {False}}.get(kind, {True})


def test_names_without_a_word_of_ours_are_asked_apart() -> None:
    prompts = words.draw_prompts("held-out color names without ours", 20, 0)
    assert not {word for prompt in prompts for word in prompt.split()} & set(shapes.COLORS)


def test_a_paraphrase_is_right_if_the_caption_says_all_of_its_meaning() -> None:
    caption = "a small red circle moving left on a black background"
    assert words.says("a red circle on a black background", caption)
    assert not words.says("a red circle moving right", caption)
    assert not words.says("a red circle", "")


def test_prompts_that_are_too_long_or_refused_have_no_caption(monkeypatch) -> None:
    upsampler = Upsampler(sorted(WORDS), width=16, depth=1)
    answers = {"red": "a", "red ball": None}
    monkeypatch.setattr(upsampler, "search", lambda prompts, _: [answers[p] for p in prompts])
    prompts = ["red " * 17, "red", "red ball"]
    assert words.captions(upsampler, prompts, 0, tries=True) == ["", "a", ""]


def test_the_stored_results_make_the_table() -> None:
    lines = words.table(runs.found(words.RESULTS)).splitlines()
    assert len(lines) == 2 + len(words.WORDINGS) + len(words.PARAPHRASES)
    assert not [line for line in lines if "|  |" in line]  # both upsamplers are there


def test_the_experiment_asks_an_upsampler_once(tmp_path: Path, monkeypatch) -> None:
    upsampler = Upsampler(sorted(WORDS), width=16, depth=1, prompt_words=lexicon.vocabulary())
    weights.save(tmp_path, {}, upsampler=upsampler)
    monkeypatch.setattr("minisora.upsampler.TRIES", 2)
    results = tmp_path / "results.jsonl"
    for _ in range(2):
        words.run([0], 0, 3, [], results, tmp_path)
    (row,) = runs.found(results)
    assert row["run"] == "lexicon"
    assert set(row["count"].values()) == {3, 44, 26}
