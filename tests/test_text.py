from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shake

from minisora import InputError, Sora
from minisora.dit import DiT
from minisora.dit_training import DiTTraining
from minisora.text import (
    END_ID,
    START_ID,
    PretrainedEncoder,
    TextEncoder,
    decode_words,
    next_word_loss,
    warn_of_unknown,
    word_tokenizer,
    write_words,
)
from minisora.world import WORDS, clip

# Our own encoder


@pytest.fixture
def text() -> TextEncoder:
    torch.manual_seed(0)
    return shake(TextEncoder(sorted(WORDS), width=32, depth=2))


def test_knows_every_word_of_the_world(text: TextEncoder) -> None:
    captions = [clip(0, index, 2, 8, 8, split="all").caption for index in range(200)]
    assert [text.unknown(caption) for caption in captions] == [[]] * 200


def test_case_and_punctuation_do_not_matter(text: TextEncoder) -> None:
    a, b = text.tokenize(["a small red circle moving left", "A small, RED circle  moving left!"])
    assert torch.equal(a, b)


def test_unknown_words_are_listed_as_typed(text: TextEncoder) -> None:
    assert text.unknown("a tiny red circle Zooming left") == ["tiny", "Zooming"]


def test_unknown_words_read_as_padding(text: TextEncoder) -> None:
    """Training never sees the token of unknown words, so its embedding must not be used."""
    before = text(["a crimson star"])
    with torch.no_grad():
        text.embedding.weight[1] += 10
    assert torch.equal(text(["a crimson star"]), before)
    assert not torch.allclose(text(["a red star"]), before)


@pytest.mark.parametrize(
    ("prompt", "expected"), [("crimson", True), ("...!", False), (" ", False)]
)
def test_punctuation_is_no_word(text: TextEncoder, prompt: str, expected: bool) -> None:
    assert text.has_words(prompt) is expected


def test_the_order_of_words_matters(text: TextEncoder) -> None:
    a, b = text(["red circle left", "left circle red"])
    assert not torch.allclose(a.mean(0), b.mean(0), atol=1e-3)


def test_a_prompt_can_be_too_long(text: TextEncoder) -> None:
    with pytest.raises(InputError, match="has 17 words, the model reads at most 16"):
        text(["red " * 17, "red"])


# Warnings of unknown words


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        (["a sqare"], "'sqare' (nearest known: square)"),
        (["a crimson star"], "'crimson'"),
        (["a sqare, crimson"], "'sqare' (nearest known: square), 'crimson'"),
        (["SQARE"], "'SQARE' (nearest known: square)"),
        (["crimson", "crimson star"], "'crimson'"),
    ],
    ids=["misspelled", "far from all", "both", "capitals", "twice"],
)
def test_unknown_words_are_named_with_the_nearest_known(
    text: TextEncoder, prompts: list[str], named: str
) -> None:
    with pytest.warns(UserWarning) as caught:
        warn_of_unknown(text, prompts)
    assert str(caught[0].message) == f"the model does not know {named}; it reads them as blanks"
    assert caught[0].filename == __file__


def test_known_words_are_no_reason_to_warn(text: TextEncoder, recwarn) -> None:
    warn_of_unknown(text, ["a red circle", ""])
    assert len(recwarn) == 0


# Writing word by word


def script(*rows: list[int], vocabulary: int = 8):
    """Logits that favor, as word k of text i, rows[i][k]. Counts its calls."""

    def next_logits(ids: torch.Tensor) -> torch.Tensor:
        next_logits.calls += 1
        logits = torch.zeros(len(rows), vocabulary)
        for i, row in enumerate(rows):
            logits[i, row[ids.shape[1] - 1]] = 50.0
        return logits

    next_logits.calls = 0
    return next_logits


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["likeliest", "drawn"])
def test_a_text_that_has_ended_stays_ended(temperature: float) -> None:
    ids = write_words(script([END_ID, 5, 5, 5], [5, 6, END_ID, 7]), 2, 4, temperature)
    assert ids.tolist() == [[START_ID, END_ID, END_ID, END_ID], [START_ID, 5, 6, END_ID]]


def test_writing_ends_when_every_text_has_ended() -> None:
    next_logits = script([END_ID, 5, 5, 5], [5, 6, END_ID, 7])
    write_words(next_logits, 2, length=4)
    assert next_logits.calls == 3


def test_a_text_has_at_most_length_words() -> None:
    assert write_words(script([5, 6, 7, 5, 6]), 1, length=3).tolist() == [[START_ID, 5, 6, 7]]


def test_no_text_needs_no_word() -> None:
    assert write_words(script(), 0, length=3).shape == (0, 1)


def test_words_are_drawn_with_their_chances() -> None:
    chances = torch.tensor([0.1, 0.0, 0.2, 0.7])
    generator = torch.Generator().manual_seed(0)
    ids = write_words(lambda ids: chances.log().expand(4000, 4), 4000, 1, generator=generator)
    share = ids[:, 1].bincount(minlength=4) / 4000
    assert torch.allclose(share, chances, atol=0.03)


def test_a_low_temperature_takes_the_likeliest_word() -> None:
    logits = torch.randn(50, 9)
    cold = write_words(lambda ids: logits, 50, 1, 1e-4, torch.Generator().manual_seed(0))
    assert torch.equal(cold, write_words(lambda ids: logits, 50, 1, temperature=0))


def test_decoding_leaves_out_start_and_end() -> None:
    ids = torch.tensor([[START_ID, 3, 2, END_ID], [START_ID, END_ID, END_ID, END_ID]])
    assert decode_words(word_tokenizer(["red", "star"]), ids) == ["star red", ""]


# The loss of words


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and ids of a text of two words (5 and 6) in a row for four."""
    ids = torch.tensor([[START_ID, 5, 6, END_ID, END_ID]])
    return torch.randn(1, 4, 8), ids


def test_the_loss_counts_the_words_and_the_first_end(scored) -> None:
    logits, ids = scored
    surprise = -logits[0].log_softmax(-1)[[0, 1, 2], [5, 6, END_ID]]
    assert torch.isclose(next_word_loss(logits, ids), surprise.mean())


def test_unscored_words_do_not_count(scored) -> None:
    logits, ids = scored
    surprise = -logits[0].log_softmax(-1)[[1, 2], [6, END_ID]]
    unscored = torch.arange(8) == 5
    assert torch.isclose(next_word_loss(logits, ids, unscored), surprise.mean())


# Frozen encoders


@pytest.fixture
def pretrained(tiny_t5: str) -> PretrainedEncoder:
    torch.manual_seed(0)
    return PretrainedEncoder(tiny_t5, width=16)


def test_the_frozen_encoder_is_not_saved(pretrained: PretrainedEncoder) -> None:
    layers = {name.split(".")[0] for name in pretrained.state_dict()}
    assert layers == {"embed", "blocks", "norm"}


def test_the_frozen_encoder_is_not_trained(pretrained: PretrainedEncoder) -> None:
    assert {p.requires_grad for p in pretrained.frozen[0].parameters()} == {False}


def test_frozen_states_are_zero_at_padding(pretrained: PretrainedEncoder) -> None:
    states = pretrained.encode_frozen(["a red circle", "a blue star moving left"])
    assert states.shape == (2, 24, 32)
    assert (states[0, 3:] == 0).all()
    assert (states[1, 4] != 0).any()


def test_frozen_states_do_not_depend_on_the_batch(pretrained, tiny_t5: str) -> None:
    together = pretrained.encode_frozen(["a red circle", "a blue star moving left"])
    alone = PretrainedEncoder(tiny_t5).encode_frozen(["a red circle"])
    assert torch.equal(alone[0], together[0])


def test_frozen_states_are_cached(pretrained: PretrainedEncoder) -> None:
    before = pretrained.encode_frozen(["a red circle", ""])
    pretrained.frozen = []  # from here on there is no encoder
    assert torch.equal(pretrained.encode_frozen(["", "a red circle"]), before.flip(0))


def test_a_pretrained_encoder_has_the_width_of_the_dit(pretrained: PretrainedEncoder) -> None:
    assert pretrained(["a red circle"]).shape == (1, 24, 16)


@pytest.fixture
def sora(pretrained: PretrainedEncoder, tiny_sora: Sora) -> Sora:
    """A model with a frozen text encoder."""
    dit = shake(DiT("tiny", channels=4, patch=(1, 1, 1), text_width=16))
    text = shake(pretrained)
    return Sora(tiny_sora.vae, text, dit, tiny_sora.trained_on, tiny_sora.defaults)


def sample(sora: Sora, prompt: str) -> np.ndarray:
    return sora(prompt, generator=torch.Generator().manual_seed(0)).astype(int)


def test_a_frozen_encoder_conditions_the_dit(sora: Sora, in_float32) -> None:
    assert (sample(sora, "a red circle") != sample(sora, "a blue star")).any()


def test_a_model_with_a_frozen_encoder_is_loaded_again(sora, tmp_path, in_float32) -> None:
    sora.save(tmp_path)
    again = Sora.from_pretrained(tmp_path, "cpu")
    assert isinstance(again.text, PretrainedEncoder)
    difference = abs(sample(sora, "a red circle") - sample(again, "a red circle"))
    assert difference.max() <= 8  # weights are stored in bfloat16


# Training that starts from a model with another encoder


def training(text: torch.nn.Module, start: Path | None = None, seed: int = 1) -> DiTTraining:
    torch.manual_seed(seed)
    dit = DiT("tiny", channels=4, patch=(1, 1, 1), text_width=16)
    return DiTTraining(text, dit, start=str(start) if start else None)


def own_encoder() -> TextEncoder:
    return TextEncoder(sorted(WORDS), width=16)


@pytest.fixture
def saved(sora: Sora, tiny_sora: Sora, tmp_path: Path) -> dict[str, Path]:
    """Bundles of a model with our own text encoder and of one with a frozen one."""
    own = training(own_encoder())
    Sora(tiny_sora.vae, own.text, shake(own.dit), sora.trained_on, sora.defaults).save(
        tmp_path / "own"
    )
    sora.save(tmp_path / "frozen")
    return {"own": tmp_path / "own", "frozen": tmp_path / "frozen"}


@pytest.mark.parametrize("start", ["own", "frozen"])
def test_the_dit_keeps_its_weights_with_another_encoder(saved, tiny_t5: str, start: str) -> None:
    model = training(PretrainedEncoder(tiny_t5, width=16), saved[start])
    expected = Sora.from_pretrained(saved[start], "cpu").dit
    assert torch.equal(model.dit.head.weight, expected.head.weight)


def test_the_layers_on_the_same_frozen_encoder_are_kept(saved, sora, tiny_t5: str) -> None:
    model = training(PretrainedEncoder(tiny_t5, width=16), saved["frozen"])
    assert torch.allclose(model.text.embed.weight, sora.text.embed.weight, atol=1e-2)


def test_our_own_encoder_cannot_replace_a_frozen_one(saved) -> None:
    with pytest.raises(InputError, match=r"set model\.text to PretrainedEncoder"):
        training(own_encoder(), saved["frozen"])


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text encoder in"):
        PretrainedEncoder(str(tmp_path))


def test_a_prompt_can_have_too_many_tokens(pretrained: PretrainedEncoder) -> None:
    with pytest.raises(InputError, match="has 30 tokens, the model reads at most 24"):
        pretrained(["red " * 30, "a red circle"])
