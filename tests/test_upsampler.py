import itertools

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.data import PromptData
from minisora.upsampler import Upsampler, drawn_prompt, keeps
from minisora.world import WORDS, clip, pairs, shapes


@pytest.fixture
def upsampler() -> Upsampler:
    torch.manual_seed(0)
    return shake(Upsampler(sorted(WORDS), width=32, depth=1))


def test_what_users_type_is_kept_by_the_caption_it_came_from() -> None:
    drawn = [drawn_prompt(0, i, two=0.4) for i in range(400)]
    assert all(keeps(short, rich) for short, rich in drawn)
    shorter = np.mean([len(short.split()) < len(rich.split()) for short, rich in drawn])
    assert shorter > 0.95
    others = [keeps(a[0], b[1]) for a, b in itertools.pairwise(drawn)]
    assert np.mean(others) < 0.15


def test_what_is_kept() -> None:
    rich = "a small red circle moving up and left on a black background"
    diagonal = "moving up and left", "moving left and up"
    for short in ("red circle", "circle, red", *diagonal, "small", "", rich):
        assert keeps(short, rich)
    for short in ("blue circle", "red square", "moving up", "large", "red circle on navy"):
        assert not keeps(short, rich)
    assert not keeps("red circle blue square", rich) and not keeps(
        "red circle on navy, pink", rich
    )
    assert not keeps("red circle", "a small red circle on a black background")  # no motion
    typed = "A small red circle moving up on a black background."
    assert keeps(typed, typed)
    assert not keeps("red circle", "a red circle moving up on a black background")  # no size
    assert keeps("large star growing", "a red star growing on a black background")
    for short in ("circle moving up and left, growing", "small circle, large"):  # one of each kind
        assert not keeps(short, rich)
    two = "a red circle moving left above a blue star standing still on a navy background"
    for short in (
        "red circle above blue star",
        "circle and star",
        "a circle above a star on navy",
    ):
        assert keeps(short, two)
    for short in ("red circle", "blue star above red circle", "red circle below blue star"):
        assert not keeps(short, two)


def test_rich_captions_stay_as_they_are(upsampler: Upsampler) -> None:
    captions = [clip(0, i).caption for i in range(4)] + [
        pairs.clip(0, i, 2).caption for i in range(4)
    ]
    assert upsampler(captions) == captions


def test_the_loss_is_of_the_words_that_are_drawn(upsampler: Upsampler) -> None:
    """The loss of a batch is the mean surprise of its words, each asked for after those before."""
    short, rich = ["red circle"], ["a small red circle growing on a black background"]
    read, ids = upsampler.encoder(short), upsampler.encoder.tokenize(rich)[0].tolist()
    words = [1, *[i for i in ids if i]]
    surprise = []
    for place, word in enumerate([*words[1:], 0]):
        logits = upsampler.say(torch.tensor([words[: place + 1]]), read)[0, -1]
        surprise.append(-logits.log_softmax(-1)[word])
    assert torch.allclose(upsampler.loss(short, rich), torch.stack(surprise).mean(), atol=1e-5)


def test_draws_are_repeated_by_their_seed(upsampler: Upsampler) -> None:
    a, b, c = (upsampler.draw(["red"] * 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert a == b and a != c


def test_nothing_is_returned_that_does_not_keep_the_prompt(upsampler: Upsampler) -> None:
    """An untrained one draws nonsense, and says so rather than return it."""
    with pytest.raises(InputError, match="no caption of this world says all of 'red circle'"):
        upsampler(["red circle"], torch.Generator().manual_seed(0))


def test_the_shipped_one_keeps_all_of_prompts_in_forms_it_never_saw() -> None:
    upsampler = Upsampler.from_pretrained()
    (batch,) = PromptData(seed=11, validation_prompts=200).val_dataloader()
    prompts, draws = batch["short"], torch.Generator().manual_seed(0)
    first = [
        keeps(p, rich) for p, rich in zip(prompts, upsampler.draw(prompts, draws), strict=True)
    ]
    assert np.mean(first) > 0.95
    assert all(keeps(p, rich) for p, rich in zip(prompts, upsampler(prompts, draws), strict=True))


def test_the_shipped_one_draws_what_is_left_open_and_warns_of_words_it_skips() -> None:
    upsampler, draws = Upsampler.from_pretrained(), torch.Generator().manual_seed(0)
    captions = upsampler(["red circle"] * 100, draws)
    said = [shapes.parse(caption) for caption in captions]
    for name, most in (("motion", 12), ("background", 4), ("size", 3)):
        assert len({one[name] for one in said}) >= 0.75 * most, name
    with pytest.warns(UserWarning, match="reads them as blanks: bright") as caught:
        (caption,) = upsampler("bright red circle", draws)
    assert keeps("red circle", caption) and caught[0].filename == __file__
    with pytest.warns(UserWarning), pytest.raises(InputError, match="two objects with above"):
        upsampler(["red circle over blue square"], draws)  # it cannot keep both


def test_parse_reads_every_caption() -> None:
    for index in range(200):
        true = clip(3, index, split="all")
        said = shapes.parse(true.caption)
        assert said == {name: true.truth[name] for name in said}
        short = shapes.parse(true.short_caption)
        assert all(word in (None, true.truth[name]) for name, word in short.items())
