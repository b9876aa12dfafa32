import json

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.text import END_ID, START_ID
from minisora.upsampler import Upsampler
from minisora.world import WORDS, clip, pairs, shapes
from minisora.world.language import keeps, validation_prompt


@pytest.fixture
def upsampler() -> Upsampler:
    torch.manual_seed(0)
    return shake(Upsampler(sorted(WORDS), width=32, depth=1))


def test_rich_captions_stay_as_they_are(upsampler: Upsampler) -> None:
    captions = [clip(0, i).caption for i in range(4)]
    captions += [pairs.clip(0, i, 2).caption for i in range(4)]
    assert upsampler(captions) == captions


def test_the_loss_is_the_mean_surprise_of_the_words(upsampler: Upsampler) -> None:
    """Each word is predicted from those before it, as it is when a caption is drawn."""
    short, rich = ["red circle"], ["a small red circle growing on a black background"]
    prompts, ids = upsampler.encoder(short), upsampler.encoder.tokenize(rich)[0].tolist()
    words = [START_ID, *[i for i in ids if i != END_ID]]
    surprise = []
    for i, word in enumerate([*words[1:], END_ID]):
        logits = upsampler.next_word_logits(torch.tensor([words[: i + 1]]), prompts)[0, -1]
        surprise.append(-logits.log_softmax(-1)[word])
    assert torch.allclose(upsampler.loss(short, rich), torch.stack(surprise).mean(), atol=1e-5)


def test_a_caption_of_full_length_has_an_end_in_the_loss(upsampler: Upsampler) -> None:
    assert upsampler.loss(["red"], ["red " * 16]).isfinite()


def test_draws_are_repeated_by_their_seed(upsampler: Upsampler) -> None:
    a, b, c = (upsampler.draw(["red"] * 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a == b
    assert a != c


def test_captions_that_do_not_keep_the_prompt_are_not_returned(upsampler: Upsampler) -> None:
    """An untrained upsampler draws nonsense, and raises an error rather than return it."""
    with pytest.raises(InputError, match="no caption of this world says all of 'red circle'"):
        upsampler(["red circle"], torch.Generator().manual_seed(0))


def test_the_config_builds_the_upsampler_again(upsampler: Upsampler) -> None:
    again = Upsampler(**json.loads(json.dumps(upsampler.config)))
    again.load_state_dict(upsampler.state_dict())
    assert again.config == upsampler.config


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
    with pytest.warns(UserWarning, match=r"'bright' \(nearest known: right\); it") as caught:
        (caption,) = shipped("bright red circle", draws)
    assert caught[0].filename == __file__
    assert keeps("red circle", caption)


def test_a_prompt_that_no_caption_can_keep(shipped: Upsampler, draws) -> None:
    """The relation is unknown, and without it no caption has two objects."""
    with pytest.warns(UserWarning), pytest.raises(InputError, match="two objects with above"):
        shipped(["red circle over blue square"], draws)
