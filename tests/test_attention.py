import pytest
import torch
import torch.nn.functional as F
from conftest import shake

from minisora import InputError
from minisora.attention import Attention, attend, rotary_frequencies, rotate, rotation_factors

AXES = {"t": [1.0, 0.0, 0.0], "h": [0.0, 1.0, 0.0], "w": [0.0, 0.0, 1.0]}


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str
)
def test_attend_is_softmax_attention(dtype: torch.dtype, error: float) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8).to(dtype)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert (attend(q, k, v).double() - exact).abs().max() < error


@pytest.fixture
def score():
    """The attention logit of a query at one position and a key at another, (t, h, w) each."""
    frequencies = rotary_frequencies(32)
    q, k = torch.randn(2, 1, 1, 1, 32)

    def score(here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        rotated_q = rotate(q, rotation_factors(here[None], frequencies))
        rotated_k = rotate(k, rotation_factors(there[None], frequencies))
        return (rotated_q * rotated_k).sum()

    return score


def test_rotary_scores_depend_on_the_distance_alone(score) -> None:
    here, there = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 5.0])
    offset = torch.tensor([4.0, 7.0, 1.0])
    assert torch.isclose(score(here, there), score(here + offset, there + offset), atol=1e-4)


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())
def test_rotary_scores_depend_on_the_distance_along_each_axis(score, axis) -> None:
    here = torch.tensor([1.0, 2.0, 3.0])
    assert not torch.isclose(score(here, here), score(here, here + torch.tensor(axis)), atol=1e-3)


@pytest.fixture
def attention() -> Attention:
    return shake(Attention(32, 4, context_width=16))


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    positions = torch.randint(0, 5, (12, 3)).float()
    return {
        "x": torch.randn(2, 12, 32),
        "factors": rotation_factors(positions, rotary_frequencies(8)),
        "context": torch.randn(2, 5, 16),
    }


def test_attention_follows_a_permutation_of_its_tokens(attention: Attention, inputs) -> None:
    order = torch.randperm(12)
    permuted = inputs | {"x": inputs["x"][:, order], "factors": inputs["factors"][order]}
    assert torch.allclose(attention(**permuted), attention(**inputs)[:, order], atol=1e-5)


def test_attention_sees_the_context(attention: Attention, inputs) -> None:
    other = inputs | {"context": inputs["context"] + 1}
    assert not torch.allclose(attention(**other), attention(**inputs), atol=1e-3)


# as many clips as heads: positions that met the axis of heads would go unnoticed
@pytest.mark.parametrize("clips", [3, 4])
def test_clips_may_differ_in_their_positions(attention: Attention, clips: int) -> None:
    x, context = torch.randn(clips, 12, 32), torch.randn(clips, 5, 16)
    factors = rotation_factors(5 * torch.rand(clips, 12, 3), rotary_frequencies(8))
    together = attention(x, factors, context)
    for i in range(clips):
        alone = attention(x[i : i + 1], factors[i], context[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


def test_causal_attention_sees_nothing_ahead(attention: Attention, inputs) -> None:
    before = attention(**inputs, causal=True)
    inputs["x"][:, 7:] += 1
    after = attention(**inputs, causal=True)
    assert torch.allclose(after[:, :7], before[:, :7], atol=1e-5)
    assert not torch.isclose(after[:, 7:], before[:, 7:], atol=1e-3).all(-1).any()


def test_causal_attention_sees_the_whole_context(attention: Attention, inputs) -> None:
    before = attention(**inputs, causal=True)
    inputs["context"][:, -1] += 1
    after = attention(**inputs, causal=True)
    assert not torch.isclose(after, before, atol=1e-3).all(-1).any()


def test_qk_norm_bounds_the_logits() -> None:
    """Queries and keys that are a thousand times longer change nothing."""
    attention = Attention(32, 4)
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        before = attention(x)
        attention.qkv.weight[:64] *= 1000
    assert torch.allclose(attention(x), before, atol=1e-4)


def test_rotations_are_exact() -> None:
    positions, frequencies = 40 * torch.rand(9, 3), rotary_frequencies(32)
    exact = torch.polar(torch.ones(9, 16), positions @ frequencies)
    assert torch.allclose(rotation_factors(positions, frequencies), exact, atol=1e-5)


def test_autocast_does_not_round_positions() -> None:
    positions, frequencies = 40 * torch.rand(9, 3), rotary_frequencies(32)
    before = rotation_factors(positions, frequencies)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotation_factors(positions, frequencies), before)


def test_heads_share_the_width() -> None:
    with pytest.raises(InputError, match="a width of 33 cannot be shared by 2 heads"):
        Attention(33, 2)


# A part of the tokens, with the keys and values of all


@pytest.mark.parametrize("own", [slice(0, 3), slice(3, 10), slice(4, 4)], ids=str)
def test_a_part_of_a_clip_comes_out_as_in_the_whole(own: slice) -> None:
    attention, x, context = (
        shake(Attention(64, 2, 16)),
        torch.randn(2, 10, 64),
        torch.randn(2, 5, 16),
    )
    kept = []
    attention.gather = lambda k, v, lengths: kept.append((k, v)) or (k, v, lengths)
    together = attention(x, context=context)
    attention.gather = lambda k, v, lengths: (*kept[0], lengths)
    part = attention(x[:, own], context=context)
    assert torch.allclose(part, together[:, own], atol=1e-5)


def test_parts_of_packed_clips_come_out_as_in_the_whole() -> None:
    """Half of the first clip, none of the second, all of the third."""
    attention, x, context = (
        shake(Attention(64, 2, 16)),
        torch.randn(1, 12, 64),
        torch.randn(3, 5, 16),
    )
    kept = []
    attention.gather = lambda *own: kept.append(own) or own
    together = attention(x, context=context, lengths=[6, 2, 4])
    attention.gather = lambda *_: kept[0]
    own = [3, 4, 5, 8, 9, 10, 11]
    part = attention(x[:, own], context=context, lengths=[3, 0, 4])
    assert torch.allclose(part, together[:, own], atol=1e-5)
