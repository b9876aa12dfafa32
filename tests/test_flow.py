import pytest
import torch

from minisora.flow import (
    add_noise,
    draw_levels,
    flow_loss,
    ideal_velocity,
    shift_for,
    shift_levels,
    to_velocity,
    training_target,
)

TARGETS = ["v", "x", "eps"]


def test_the_path_starts_at_the_data_and_ends_at_the_noise() -> None:
    x_0, eps = torch.randn(2, 3, 5, 4)
    assert torch.equal(add_noise(x_0, eps, torch.zeros(3)), x_0)
    assert torch.equal(add_noise(x_0, eps, torch.ones(3)), eps)


def test_each_token_can_have_its_own_noise_level() -> None:
    x_0, eps = torch.randn(2, 3, 5, 4)
    x_t = add_noise(x_0, eps, torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.5]] * 3))
    assert torch.equal(x_t[:, 0], x_0[:, 0])
    assert torch.equal(x_t[:, 1], eps[:, 1])
    assert torch.allclose(x_t[:, 4], (x_0[:, 4] + eps[:, 4]) / 2)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_converts_to_the_same_velocity(target: str) -> None:
    x_0, eps = torch.randn(2, 16, 5, 4)
    t = torch.linspace(0.05, 0.95, 16)
    x_t, perfect = add_noise(x_0, eps, t), training_target(x_0, eps, target)
    assert torch.allclose(to_velocity(perfect, x_t, t, target), eps - x_0, atol=1e-4)


@pytest.mark.parametrize("target", ["x", "eps"])
def test_conversions_stay_finite_where_the_divisor_is_zero(target: str) -> None:
    x = torch.randn(2, 3, 4)
    assert to_velocity(x + 0.01, x, torch.tensor([0.0, 1.0]), target).abs().max() < 1


@pytest.fixture
def half_known() -> dict[str, torch.Tensor]:
    """Arguments of flow_loss for two clips of six tokens. The first four of clip 0 are known."""
    known = torch.zeros(2, 6, dtype=torch.bool)
    known[0, :4] = True
    prediction, x_0, eps = torch.randn(3, 2, 6, 4)
    return {"prediction": prediction, "x_0": x_0, "eps": eps, "known": known}


def test_known_tokens_do_not_count(half_known) -> None:
    before = flow_loss(**half_known, target="v")
    half_known["prediction"][0, :4] += 100
    assert torch.equal(flow_loss(**half_known, target="v"), before)


def test_the_loss_is_a_mean_over_the_unknown_tokens(half_known) -> None:
    error = half_known["prediction"] - (half_known["eps"] - half_known["x_0"])
    loss = flow_loss(**half_known, target="v")
    assert torch.isclose(loss[0], error[0, 4:].square().mean())
    assert torch.isclose(loss[1], error[1].square().mean())


@pytest.mark.parametrize("target", TARGETS)
def test_known_tokens_have_no_gradient(half_known, target: str) -> None:
    prediction = half_known["prediction"].requires_grad_()
    flow_loss(**half_known, target=target).sum().backward()
    is_zero = (prediction.grad == 0).all(-1)  # (2, 6)
    assert torch.equal(is_zero, half_known["known"])


def test_nothing_known_is_the_plain_loss(half_known) -> None:
    nothing = half_known | {"known": torch.zeros(2, 6, dtype=torch.bool)}
    plain = flow_loss(**half_known | {"known": None}, target="v")
    assert torch.allclose(flow_loss(**nothing, target="v"), plain)


def test_a_clip_that_is_known_as_a_whole_has_no_loss(half_known) -> None:
    half_known["known"][0] = True
    assert flow_loss(**half_known, target="v")[0] == 0


def test_noise_levels_are_logit_normal() -> None:
    t = draw_levels(4000, torch.Generator().manual_seed(0), mean=0.5)
    assert t.min() > 0
    assert t.max() < 1
    assert abs(t.median() - torch.tensor(0.5).sigmoid()) < 0.02


def test_a_shift_moves_noise_levels_towards_noise() -> None:
    levels = torch.linspace(0, 1, 11)
    assert torch.equal(shift_levels(levels, 1.0), levels)
    assert (shift_levels(levels, 3.0)[1:-1] > levels[1:-1]).all()


def test_a_shift_keeps_both_ends() -> None:
    assert shift_levels(torch.tensor([0.0, 1.0]), 3.0).tolist() == [0, 1]


def test_the_usual_number_of_tokens_is_not_shifted() -> None:
    assert shift_for(80, 80) == 1


def test_more_tokens_are_shifted_towards_noise() -> None:
    """By the square root of how many more they are."""
    assert shift_for(320, 80) == pytest.approx(2)


def test_fewer_tokens_are_shifted_towards_data() -> None:
    assert shift_for(20, 80) == pytest.approx(0.5)


def test_shifts_that_follow_each_other_multiply() -> None:
    levels = torch.linspace(0, 1, 11)
    twice = shift_levels(shift_levels(levels, 1.5), 2.0)
    assert torch.allclose(twice, shift_levels(levels, 3.0))


def test_a_shift_adds_its_logarithm_to_the_logits() -> None:
    """So training and sampling can be shifted alike: one by the mean of its draws."""
    levels = torch.linspace(0.1, 0.9, 9)
    logits = shift_levels(levels, 3.0).logit()
    assert torch.allclose(logits, levels.logit() + torch.tensor(3.0).log(), atol=1e-5)


def test_the_ideal_velocity_is_the_mean_over_training_pairs() -> None:
    """Of all pairs (x_0, eps) whose paths pass near one point, the mean velocity is the ideal."""
    data = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    x_0 = data[torch.randint(5, (400_000,), generator=torch.Generator().manual_seed(0))]
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((len(x_0),), 0.7)
    x_t = add_noise(x_0, eps, t)
    near = (x_t - x_t[0]).norm(dim=1) < 0.25
    assert near.sum() > 300
    mean = (eps - x_0)[near].mean(0)
    assert torch.allclose(ideal_velocity(x_t[:1], t[:1], data)[0], mean, atol=0.25)
