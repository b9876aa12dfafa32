import pytest
import torch
from conftest import DEFAULTS, MAKES, shake

from minisora import InputError, Sora
from minisora.dit import DiT
from minisora.text import PretrainedEncoder, TextEncoder
from minisora.training import DiTTraining
from minisora.vae import VAE
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


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A T5 of the real kind, small and untrained."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("t5")
    words = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *sorted(WORDS)])}, "<unk>"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return str(folder)


def test_a_frozen_encoder_in_place_of_ours(tiny_t5: str, tmp_path, in_float32) -> None:
    """It conditions the transformer, only what stands on it is trained and saved, and a model with
    it is loaded again."""
    text = PretrainedEncoder(tiny_t5, width=16)
    assert not any(name.startswith("reader") for name in text.state_dict())
    assert {p.requires_grad for p in text.reader[0].parameters()} == {False}
    states = text.read(["a red circle", "a blue star moving left"])
    assert states.shape == (2, 24, 32) and (states[0, 3:] == 0).all() and (states[1, 4] != 0).any()
    alone = PretrainedEncoder(tiny_t5).read(["a red circle"])  # nothing is kept of the batch
    assert torch.equal(alone[0], states[0])
    assert text(["a red circle"]).shape == (1, 24, 16)
    vae = shake(VAE(channels=4, space=8, width=16, depth=1))
    dit = shake(DiT("tiny", channels=4, patch=(1, 1, 1), text_width=16))
    sora = Sora(vae, shake(text), dit, MAKES, DEFAULTS)
    sora.save(tmp_path)
    again = Sora.from_pretrained(tmp_path, "cpu")
    assert isinstance(again.text, PretrainedEncoder)
    made = [
        model("a red circle", generator=torch.Generator().manual_seed(0))
        for model in (sora, again)
    ]
    assert (abs(made[0].astype(int) - made[1]) <= 8).all()
    other = sora("a blue star", generator=torch.Generator().manual_seed(0))
    assert (other != made[0]).any()


def test_a_trained_transformer_gets_a_new_reader(tiny_t5: str, tmp_path) -> None:
    """Its own weights stay; what stands on an encoder it knows is taken over, on another is new."""
    form: dict = {"size": "tiny", "channels": 4, "patch": (1, 1, 1), "text_width": 16}
    vae = VAE(channels=4, space=8, width=16, depth=1)
    first = DiTTraining(**form, seed=1)
    Sora(vae, first.text, shake(first.dit), MAKES, DEFAULTS).save(tmp_path / "own")
    second = DiTTraining(**form, encoder=tiny_t5, start=str(tmp_path / "own"))
    assert torch.allclose(second.dit.head.weight, first.dit.head.weight, atol=1e-2)
    Sora(vae, shake(second.text), second.dit, MAKES, DEFAULTS).save(tmp_path / "t5")
    third = DiTTraining(**form, encoder=tiny_t5, start=str(tmp_path / "t5"))
    assert torch.allclose(third.text.embed.weight, second.text.embed.weight, atol=1e-2)
    with pytest.raises(InputError, match=r"set model\.encoder to it"):
        DiTTraining(**form, start=str(tmp_path / "t5"))


def test_states_are_kept(tiny_t5: str) -> None:
    text = PretrainedEncoder(tiny_t5)
    before = text.read(["a red circle", ""])
    text.reader = []  # from here on there is nothing to read with
    assert torch.equal(text.read(["", "a red circle"]), before.flip(0))


def test_frozen_encoders_say_what_is_wrong(tiny_t5: str, tmp_path) -> None:
    with pytest.raises(InputError, match="no text encoder in"):
        PretrainedEncoder(str(tmp_path))
    with pytest.raises(InputError, match="has 30 tokens, the model reads at most 24"):
        PretrainedEncoder(tiny_t5)(["red " * 30, "a red circle"])
