import pytest
import torch
from conftest import shake

from minisora import InputError
from minisora.text import TextEncoder
from minisora.world import WORDS, clip


@pytest.fixture
def text() -> TextEncoder:
    torch.manual_seed(0)
    return shake(TextEncoder(sorted(WORDS), width=32, depth=2))


def test_reads_every_caption_of_the_world(text: TextEncoder) -> None:
    for index in range(200):
        assert text.unknown(clip(0, index, 2, 8, 8, split="all").caption) == []


def test_case_and_punctuation_do_not_matter(text: TextEncoder) -> None:
    a, b = text.tokenize(["a small red circle moving left", "A small, RED circle  moving left!"])
    assert torch.equal(a, b)


def test_unknown_words_are_named(text: TextEncoder) -> None:
    assert text.unknown("a tiny red circle Zooming left") == ["tiny", "Zooming"]


def test_unknown_words_read_as_padding(text: TextEncoder) -> None:
    """Training never sees the token of unknown words, so it must not be let in."""
    before = text(["a crimson star"])
    with torch.no_grad():
        text.embedding.weight[1] += 10
    assert torch.equal(text(["a crimson star"]), before)
    assert not torch.allclose(text(["a red star"]), before)


def test_what_has_words(text: TextEncoder) -> None:
    assert text.has_words("crimson") and not text.has_words("...!") and not text.has_words(" ")


def test_order_matters(text: TextEncoder) -> None:
    a, b = text(["red circle left", "left circle red"])
    assert not torch.allclose(a.mean(0), b.mean(0), atol=1e-3)


def test_too_long(text: TextEncoder) -> None:
    with pytest.raises(InputError, match="has 17 words, the model reads at most 16"):
        text(["red " * 17, "red"])
