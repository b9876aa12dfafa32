import pytest
import torch
import torch.nn.functional as F
from conftest import shake

from minisora import InputError
from minisora.attention import Attention, attend, rotary_frequencies, rotary_turns, rotate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_is_softmax_attention(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8).to(dtype)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert (attend(q, k, v).double() - exact).abs().max() < (
        1e-5 if dtype == torch.float32 else 0.05
    )


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    frequencies = rotary_frequencies(32)
    q, k = torch.randn(2, 1, 1, 1, 32)
    here, there = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 0.0, 5.0]])
    offset = torch.tensor([[4.0, 7.0, 1.0]])

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (
            rotate(q, rotary_turns(a, frequencies)) * rotate(k, rotary_turns(b, frequencies))
        ).sum()

    assert torch.isclose(score(here, there), score(here + offset, there + offset), atol=1e-4)
    for axis in torch.eye(3):  # and on each of the three axes
        assert not torch.isclose(score(here, here), score(here, here + axis), atol=1e-3)


def test_attention_follows_a_permutation_of_its_tokens() -> None:
    attention = shake(Attention(32, 4, context_width=16))
    x, places, context = (
        torch.randn(2, 12, 32),
        torch.randint(0, 5, (12, 3)).float(),
        torch.randn(2, 5, 16),
    )
    turns = rotary_turns(places, rotary_frequencies(8))
    order = torch.randperm(12)
    out = attention(x, turns, context)
    assert torch.allclose(attention(x[:, order], turns[order], context), out[:, order], atol=1e-5)
    assert not torch.allclose(
        attention(x, turns, context + 1), out, atol=1e-3
    )  # the context is looked at


def test_qk_norm_bounds_the_logits() -> None:
    attention = Attention(32, 4)
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        small = attention(x)
        attention.qkv.weight[:64] *= (
            1000  # queries and keys a thousand times as long change nothing
        )
    assert torch.allclose(attention(x), small, atol=1e-4)


def test_autocast_does_not_round_where_tokens_stand() -> None:
    places, frequencies = 40 * torch.rand(9, 3), rotary_frequencies(32)
    exact = rotary_turns(places, frequencies)
    assert torch.allclose(exact, torch.polar(torch.ones(9, 16), places @ frequencies), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotary_turns(places, frequencies), exact)


def test_heads_share_the_width() -> None:
    with pytest.raises(InputError, match="a width of 33 cannot be shared by 2 heads"):
        Attention(33, 2)
