import torch

from minisora.flow import ideal_velocity
from minisora.sampling import euler, guided, heun, noise_levels


def last(steps):
    return list(steps)[-1]


def test_levels() -> None:
    levels = noise_levels(8, shift=3.0)
    assert levels[0] == 1 and levels[-1] == 0 and (levels.diff() < 0).all() and len(levels) == 9


def test_samplers_land_on_the_data() -> None:
    data = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    for sampler in (euler, heun):
        path = list(sampler(lambda x, t: ideal_velocity(x, t, data), noise, noise_levels(32)))
        assert len(path) == 32  # every step is yielded
        distance = torch.cdist(path[-1], data)
        assert distance.min(1).values.max() < 1e-3
        share = distance.argmin(1).bincount(minlength=3) / 256  # and each point gets its share
        assert (share - 1 / 3).abs().max() < 0.12


def test_heun_is_of_higher_order() -> None:
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)) * 0.3
    noise = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))

    def velocity(x, t):  # stops at t = 0.3, where the path is still smooth
        return ideal_velocity(x, t, data)

    exact = last(heun(velocity, noise, torch.linspace(1, 0.3, 400)))
    errors = [
        (last(s(velocity, noise, torch.linspace(1, 0.3, 9))) - exact).norm() for s in (euler, heun)
    ]
    assert errors[1] < errors[0] / 5


def test_a_straight_path_needs_one_step() -> None:
    point = torch.tensor([[1.0, -3.0]])
    noise = torch.randn(16, 2)
    made = last(euler(lambda x, t: ideal_velocity(x, t, point), noise, noise_levels(1)))
    assert torch.allclose(made, point.expand(16, 2), atol=1e-5)


def test_guidance_extrapolates_from_no_text() -> None:
    def velocity(x, t, text):
        return text.mean((1, 2))[:, None] * torch.ones_like(x)

    text, null = torch.full((3, 2, 2), 5.0), torch.full((3, 2, 2), 1.0)
    x, t = torch.zeros(3, 4), torch.ones(3)
    for scale, expected in ((0.0, 1.0), (1.0, 5.0), (2.5, 11.0)):
        assert torch.equal(guided(velocity, text, null, scale)(x, t), torch.full((3, 4), expected))


def test_guidance_ends_when_the_noise_is_low_enough() -> None:
    asked = []

    def velocity(x, t, text):
        asked.append(len(x))
        return text.mean((1, 2))[:, None] * torch.ones_like(x)

    text, null = torch.full((3, 2, 2), 5.0), torch.full((3, 2, 2), 1.0)
    for level, expected in ((0.51, 9.0), (0.5, 9.0), (0.49, 5.0)):
        made = guided(velocity, text, null, 2.0, until=0.5)(
            torch.zeros(3, 4), torch.full((3,), level)
        )
        assert torch.equal(made, torch.full((3, 4), expected))
    assert asked == [6, 6, 3]  # below, the velocity without text is not computed
