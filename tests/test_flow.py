import pytest
import torch

from minisora.flow import (
    draw_times,
    flow_loss,
    ideal_velocity,
    noised,
    shifted,
    target_of,
    to_velocity,
)


def test_ends_of_the_path() -> None:
    x_0, eps = torch.randn(2, 3, 5, 4)
    assert torch.equal(noised(x_0, eps, torch.zeros(3)), x_0)
    assert torch.equal(noised(x_0, eps, torch.ones(3)), eps)
    mixed = noised(x_0, eps, torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.5]] * 3))  # a level per token
    assert torch.equal(mixed[:, 0], x_0[:, 0]) and torch.equal(mixed[:, 1], eps[:, 1])


@pytest.mark.parametrize("target", ["v", "x", "eps"])
def test_every_target_says_the_same_velocity(target: str) -> None:
    x_0, eps = torch.randn(2, 16, 5, 4)
    t = torch.linspace(0.05, 0.95, 16)
    velocity = to_velocity(target_of(x_0, eps, target), noised(x_0, eps, t), t, target)
    assert torch.allclose(velocity, eps - x_0, atol=1e-4)


@pytest.mark.parametrize("target", ["x", "eps"])
def test_conversions_stay_finite_where_they_are_singular(target: str) -> None:
    x = torch.randn(2, 3, 4)
    assert to_velocity(x + 0.01, x, torch.tensor([0.0, 1.0]), target).abs().max() < 1


def test_known_tokens_do_not_count() -> None:
    prediction, x_0, eps = torch.randn(3, 2, 6, 4)
    t = torch.full((2, 6), 0.5)
    t[0, :4] = 0
    loss = flow_loss(prediction, x_0, eps, t, "v")
    prediction[0, :4] += 100
    assert torch.equal(flow_loss(prediction, x_0, eps, t, "v"), loss)
    alone = (
        (prediction[0, 4:] - (eps - x_0)[0, 4:]).square().mean()
    )  # a mean over the unknown tokens
    assert torch.isclose(loss[0], alone)


def test_times_are_logit_normal_and_shifted_towards_noise() -> None:
    t = draw_times(4000, torch.Generator().manual_seed(0), mean=0.5)
    assert t.min() > 0 and t.max() < 1 and abs(t.median() - torch.tensor(0.5).sigmoid()) < 0.02
    levels = torch.linspace(0, 1, 11)
    assert (
        torch.equal(shifted(levels, 1.0), levels)
        and (shifted(levels, 3.0)[1:-1] > levels[1:-1]).all()
    )
    assert shifted(levels, 3.0)[0] == 0 and shifted(levels, 3.0)[-1] == 1


def test_ideal_velocity_is_what_training_would_find() -> None:
    data = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    x_0 = data[torch.randint(5, (400_000,), generator=torch.Generator().manual_seed(0))]
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    t = torch.full((len(x_0),), 0.7)
    x_t = noised(x_0, eps, t)
    near = (x_t - x_t[0]).norm(dim=1) < 0.25  # all the training pairs that pass by one place
    mean = (eps - x_0)[near].mean(0)
    assert near.sum() > 300
    assert torch.allclose(ideal_velocity(x_t[:1], t[:1], data)[0], mean, atol=0.25)
