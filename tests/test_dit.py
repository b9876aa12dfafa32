import pytest
import torch
from conftest import shake

from minisora.attention import rotary_turns
from minisora.dit import SIZES, DiT
from minisora.patches import positions

GRID = (2, 2, 3)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 12, 16, generator=generator)
    return (
        x,
        torch.tensor([0.2, 0.5, 0.9]),
        torch.randn(3, 5, 24, generator=generator),
        positions(GRID),
    )


@pytest.fixture
def dit() -> DiT:
    torch.manual_seed(0)
    return DiT("tiny", channels=4, patch=(1, 2, 2), text_width=24)


def test_untrained_the_whole_model_predicts_zero_and_its_blocks_are_the_identity(
    dit: DiT, inputs
) -> None:
    assert torch.equal(dit(*inputs), torch.zeros(3, 12, 16))
    _, t, text, place = inputs
    condition, level = dit.condition(t, text)
    hidden = torch.randn(3, 12, dit.width)
    for block in dit.blocks:
        assert torch.equal(
            block(hidden, condition, level, rotary_turns(place, dit.frequencies), text), hidden
        )


def test_a_level_per_token_equals_a_level_per_clip(dit: DiT, inputs) -> None:
    x, t, text, place = inputs
    shake(dit)
    assert torch.allclose(
        dit(x, t[:, None].expand(3, 12), text, place), dit(x, t, text, place), atol=1e-5
    )


def test_each_token_is_told_its_own_level(dit: DiT, inputs) -> None:
    x, t, text, place = inputs
    shake(dit)
    levels = t[:, None].repeat(1, 12)
    levels[:, :6] = 0
    condition, index = dit.condition(levels, text)
    assert len(condition) == 6  # computed once for each distinct level of each clip
    alone, _ = dit.condition(torch.zeros(3), text)
    assert torch.allclose(condition[index[:, 0]], alone, atol=1e-6)
    assert not torch.allclose(dit(x, levels, text, place), dit(x, t, text, place), atol=1e-3)


def test_order_of_tokens_is_nothing_but_their_positions(dit: DiT, inputs) -> None:
    x, t, text, place = inputs
    shake(dit)
    order = torch.randperm(12)
    assert torch.allclose(
        dit(x[:, order], t, text, place[order]), dit(x, t, text, place)[:, order], atol=1e-4
    )
    assert not torch.allclose(dit(x, t, text, place + 1), dit(x, t, text, place), atol=1e-3)


def test_clips_do_not_see_each_other(dit: DiT, inputs) -> None:
    x, t, text, place = inputs
    shake(dit)
    whole = dit(x, t, text, place)
    for i in range(3):
        assert torch.allclose(
            dit(x[i : i + 1], t[i : i + 1], text[i : i + 1], place), whole[i : i + 1], atol=1e-4
        )


def test_text_and_time_matter(dit: DiT, inputs) -> None:
    x, t, text, place = inputs
    shake(dit)
    out = dit(x, t, text, place)
    assert not torch.allclose(dit(x, t, text + 0.5, place), out, atol=1e-3)
    assert not torch.allclose(dit(x, t + 0.05, text, place), out, atol=1e-3)


@pytest.mark.parametrize("target", ["v", "x", "eps"])
def test_velocity_of_every_target(target, inputs) -> None:
    dit = shake(DiT("tiny", channels=4, patch=(1, 2, 2), text_width=24, target=target))
    x, t, _, _ = inputs
    level, said = t[:, None, None], dit(*inputs)
    expected = {"v": said, "x": (x - said) / level, "eps": (said - x) / (1 - level)}[target]
    assert torch.allclose(dit.velocity(*inputs), expected, atol=1e-4)


def test_every_parameter_learns(inputs) -> None:
    dit = shake(DiT("tiny", channels=4, patch=(1, 2, 2), text_width=24))
    dit(*inputs).square().sum().backward()
    assert [name for name, p in dit.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_named_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        millions = {name: sum(p.numel() for p in DiT(name).parameters()) / 1e6 for name in SIZES}
    assert 2.5 < millions["laptop"] < 3.5 and millions["tiny"] < 0.3
    assert 650 < millions["XL"] < 750  # DiT-XL has 675 M
