import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError, weights
from minisora.data import PromptData
from minisora.text import END_ID, START_ID
from minisora.upsampler import Upsampler
from minisora.world import WORDS, clip, lexicon, pairs, shapes
from minisora.world.language import keeps, validation_prompt

CAPTION = "a small red circle moving left on a black background"


def untrained(*prompt_words: str) -> Upsampler:
    torch.manual_seed(0)
    return shake(Upsampler(sorted(WORDS), width=32, depth=1, prompt_words=[*prompt_words]))


@pytest.fixture
def upsampler() -> Upsampler:
    """It reads captions' words alone, as those of earlier bundles do."""
    return untrained()


@pytest.fixture
def reader() -> Upsampler:
    """It reads the lexicon's words too."""
    return untrained(*lexicon.vocabulary())


@pytest.fixture
def asked(reader: Upsampler, monkeypatch) -> list[list[str]]:
    """What `reader` is asked, draw by draw. The first draw is wrong, the second right."""
    asked: list[list[str]] = []

    def draw(prompts: list[str], _: object) -> list[str]:
        asked.append(prompts)
        wrong = CAPTION.replace("circle", "star")
        return [CAPTION if len(asked) == 2 else wrong] * len(prompts)

    monkeypatch.setattr(reader, "draw", draw)
    return asked


def test_rich_captions_stay_as_they_are(upsampler: Upsampler) -> None:
    captions = [clip(0, i).caption for i in range(4)]
    captions += [pairs.clip(0, i, 2).caption for i in range(4)]
    assert upsampler(captions) == captions


def test_the_loss_is_the_mean_surprise_of_the_words(upsampler: Upsampler) -> None:
    """Each word is predicted from those before it, as it is when a caption is drawn."""
    short, rich = ["red circle"], ["a small red circle growing on a black background"]
    prompts, ids = upsampler.encoder(short), upsampler.tokenize(rich)[0].tolist()
    words = [START_ID, *[i for i in ids if i != END_ID]]
    surprise = []
    for i, word in enumerate([*words[1:], END_ID]):
        logits = upsampler.next_word_logits(torch.tensor([words[: i + 1]]), prompts)[0, -1]
        surprise.append(-logits.log_softmax(-1)[word])
    assert torch.allclose(upsampler.loss(short, rich), torch.stack(surprise).mean(), atol=1e-5)


def test_a_caption_of_full_length_has_an_end_in_the_loss(upsampler: Upsampler) -> None:
    assert upsampler.loss(["red"], ["red " * 16]).isfinite()


def test_a_caption_that_is_too_long_is_refused(upsampler: Upsampler) -> None:
    with pytest.raises(
        InputError, match="a caption has 17 words, the upsampler writes at most 16"
    ):
        upsampler.loss(["red"], ["red " * 17])


def test_draws_are_repeated_by_their_seed(upsampler: Upsampler) -> None:
    a, b, c = (upsampler.draw(["red"] * 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a == b
    assert a != c


def test_captions_that_do_not_keep_the_prompt_are_not_returned(upsampler: Upsampler) -> None:
    """An untrained upsampler draws nonsense, and raises an error rather than return it."""
    with pytest.raises(InputError, match="no caption of this world says all of 'red circle'"):
        upsampler(["red circle"], torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["upsampler", "reader"])
def test_the_config_builds_the_upsampler_again(name: str, request) -> None:
    one = request.getfixturevalue(name)
    again = Upsampler(**json.loads(json.dumps(one.config)))
    again.load_state_dict(one.state_dict())
    assert again.config == one.config


# Other people's words


def test_it_reads_the_lexicons_words(reader: Upsampler) -> None:
    states = reader.encoder(["red ball", "crimson ball", "scarlet ball"])
    assert not torch.allclose(states[0], states[1])
    assert not torch.allclose(states[1], states[2])


def test_it_writes_captions_words_only(reader: Upsampler) -> None:
    drawn = reader.draw(["crimson ball"] * 50, torch.Generator().manual_seed(0))
    assert {word for caption in drawn for word in caption.split()} <= WORDS


def test_a_prompt_may_be_longer_than_a_caption(reader: Upsampler) -> None:
    assert reader.encoder(["to the left of " * 8]).shape == (1, 32, 32)
    with pytest.raises(InputError, match="a prompt has 33 words, the model reads at most 32"):
        reader.draw(["red " * 33])


def test_a_prompt_is_first_read_as_typed_and_then_in_captions_words(
    reader: Upsampler, asked: list[list[str]]
) -> None:
    prompt = "a crimson ball drifting leftwards"
    assert reader(prompt) == [CAPTION]
    assert asked == [[prompt], ["a red circle moving left"]]


def test_a_caption_has_to_keep_what_the_prompt_means(
    reader: Upsampler, asked: list[list[str]]
) -> None:
    with pytest.raises(InputError, match="no caption of this world says all of 'azure ball'"):
        reader("azure ball")
    assert len(asked) == 50


def test_words_of_the_lexicon_are_no_cause_for_a_warning(
    reader: Upsampler, asked: list[list[str]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader("the crimson ball drifting leftwards")


@pytest.mark.parametrize(
    ("typed", "warning"),
    [
        ("crimsom ball", r"'crimsom' \(nearest known: crimson\)"),
        ("Scarlett ball", r"'Scarlett' \(nearest known: scarlet\)"),
        ("qqqq red ball", "'qqqq'; it reads"),
        ("grey ball", r"'grey' \(nearest known: gre"),  # a word where it has no meaning
    ],
)
def test_other_words_are_named_with_the_nearest_known(
    reader: Upsampler, asked: list[list[str]], typed: str, warning: str
) -> None:
    with pytest.warns(UserWarning, match=f"does not know {warning}"):
        assert reader(typed) == [CAPTION]


def test_an_upsampler_without_the_lexicon_reads_prompts_as_they_are(upsampler: Upsampler) -> None:
    assert upsampler.meaning("a crimson ball") == "a crimson ball"
    assert upsampler.unknown("a crimson circle") == ["crimson"]


def test_bundles_of_earlier_versions_load(upsampler: Upsampler, tmp_path: Path) -> None:
    """Their config has no words of prompts."""
    assert not {"prompt_words", "prompt_length"} & set(upsampler.config)
    weights.save(tmp_path, {}, upsampler=upsampler)
    loaded = Upsampler.from_pretrained(tmp_path)
    assert loaded.config == upsampler.config
    assert loaded.encoder(["red"]).shape == (1, 16, 32)


# What it is trained on


@pytest.fixture(scope="module")
def data() -> PromptData:
    return PromptData({"events": 0.3, "pairs": 0.3, "shapes": 0.4}, validation_prompts=64)


def test_half_of_the_training_prompts_are_reworded(data: PromptData) -> None:
    prompts = data.batch(0)["short"] + data.batch(1)["short"]
    reworded = [lexicon.in_our_words(prompt) != prompt for prompt in prompts]
    assert 0.35 < np.mean(reworded) < 0.55  # in some no part is


def test_reworded_prompts_keep_their_captions(data: PromptData) -> None:
    batch = data.batch(0)
    pairs = zip(map(lexicon.in_our_words, batch["short"]), batch["rich"], strict=True)
    assert all(keeps(short, rich) for short, rich in pairs)


def test_prompts_can_be_left_in_captions_words() -> None:
    prompts = PromptData(reworded=0.0).batch(0)["short"]
    assert [lexicon.in_our_words(prompt) for prompt in prompts] == prompts


def test_the_vocabulary_of_prompts_holds_that_of_captions(data: PromptData) -> None:
    assert {*data.words, *lexicon.vocabulary()} == set(data.prompt_words)


def test_validation_has_prompts_in_three_kinds_of_words(data: PromptData) -> None:
    kinds = {batch["words"]: batch["short"] for batch in data.val_dataloader()}
    assert list(kinds) == ["kept", "other_words", "held_out_words"]
    assert [lexicon.in_our_words(prompt) for prompt in kinds["kept"]] == kinds["kept"]
    for kind, held_out in (("other_words", False), ("held_out_words", True)):
        readings = [lexicon.Reading(prompt) for prompt in kinds[kind]]
        said = {each.said(part) for each in readings for part in each.parts}
        said -= set(lexicon.own_words())
        assert {lexicon.is_held_out(wording) for wording in said} == {held_out}


# The shipped weights


@pytest.fixture(scope="module")
def shipped() -> Upsampler:
    return Upsampler.from_pretrained()


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def new_prompts() -> list[str]:
    """Prompts in forms that were never trained on."""
    return [validation_prompt(1_000_014, i) for i in range(200)]


def test_the_first_draw_nearly_always_keeps_the_prompt(
    shipped: Upsampler, new_prompts, draws
) -> None:
    drawn = shipped.draw(new_prompts, draws)
    kept = [keeps(short, rich) for short, rich in zip(new_prompts, drawn, strict=True)]
    assert np.mean(kept) > 0.95


def test_returned_captions_keep_the_prompt(shipped: Upsampler, new_prompts, draws) -> None:
    captions = shipped(new_prompts, draws)
    assert all(keeps(short, rich) for short, rich in zip(new_prompts, captions, strict=True))


def test_what_the_prompt_leaves_open_is_drawn(shipped: Upsampler, draws) -> None:
    """At least three quarters of the possible words come up: of motions, backgrounds and sizes."""
    named = [shapes.parse(caption) for caption in shipped(["red circle"] * 100, draws)]
    for name, possible in (("motion", 12), ("background", 4), ("size", 3)):
        assert len({one[name] for one in named}) >= 0.75 * possible, name


def test_unknown_words_are_skipped_with_a_warning(shipped: Upsampler, draws) -> None:
    with pytest.warns(UserWarning, match=r"'briht' \(nearest known: b?right\); it") as caught:
        (caption,) = shipped("briht red circle", draws)
    assert caught[0].filename == __file__
    assert keeps("red circle", caption)


def test_a_prompt_that_no_caption_can_keep(shipped: Upsampler, draws) -> None:
    """The relation is unknown, and without it no caption has two objects."""
    with pytest.warns(UserWarning), pytest.raises(InputError, match="two objects with above"):
        shipped(["red circle near blue square"], draws)
