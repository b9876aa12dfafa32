import pytest
import torch

from minisora.flow import ideal_velocity
from minisora.sampling import SAMPLERS, euler, guided, held, heun, noise_levels


def last(steps):
    return list(steps)[-1]


def test_noise_levels_fall_from_one_to_zero() -> None:
    levels = noise_levels(8, shift=3.0)
    assert len(levels) == 9
    assert levels[0] == 1
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS.keys())
def path(request) -> list[torch.Tensor]:
    """The path of 256 points from noise to `DATA`, along the ideal velocity."""
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    steps = request.param(lambda x, t: ideal_velocity(x, t, DATA), noise, noise_levels(32))
    return list(steps)


DATA = torch.tensor([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])


def test_samplers_yield_every_step(path) -> None:
    assert len(path) == 32


def test_samplers_end_on_the_data(path) -> None:
    assert torch.cdist(path[-1], DATA).min(1).values.max() < 1e-3


def test_samplers_reach_all_data_equally_often(path) -> None:
    share = torch.cdist(path[-1], DATA).argmin(1).bincount(minlength=3) / 256
    assert (share - 1 / 3).abs().max() < 0.12


def test_heun_is_of_higher_order() -> None:
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)) * 0.3
    noise = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))

    def end(sampler, steps: int) -> torch.Tensor:
        levels = torch.linspace(1, 0.3, steps)  # down to 0.3, where the path is still smooth
        return last(sampler(lambda x, t: ideal_velocity(x, t, data), noise, levels))

    exact = end(heun, 400)
    assert (end(heun, 9) - exact).norm() < (end(euler, 9) - exact).norm() / 5


def test_a_straight_path_needs_one_step() -> None:
    point = torch.tensor([[1.0, -3.0]])
    noise = torch.randn(16, 2)
    sample = last(euler(lambda x, t: ideal_velocity(x, t, point), noise, noise_levels(1)))
    assert torch.allclose(sample, point.expand(16, 2), atol=1e-5)


class Recorded:
    """A velocity that is the mean of the text everywhere. `batches` are the sizes of its calls."""

    text, null = torch.full((3, 2, 2), 5.0), torch.full((3, 2, 2), 1.0)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return text.mean((1, 2)).view(-1, *[1] * (x.ndim - 1)) * torch.ones_like(x)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (1.0, 5.0), (2.5, 11.0)])
def test_guidance_extrapolates_from_no_text(scale: float, expected: float) -> None:
    velocity = guided(Recorded(), Recorded.text, Recorded.null, scale)
    v = velocity(torch.zeros(3, 4), torch.ones(3))
    assert torch.equal(v, torch.full((3, 4), expected))


# above and at `until` the batch holds both texts; below, the velocity without text is not computed
@pytest.mark.parametrize(
    ("level", "expected", "batch"), [(0.51, 9.0, 6), (0.5, 9.0, 6), (0.49, 5.0, 3)]
)
def test_guidance_ends_at_a_noise_level(level: float, expected: float, batch: int) -> None:
    recorded = Recorded()
    velocity = guided(recorded, Recorded.text, Recorded.null, 2.0, until=0.5)
    v = velocity(torch.zeros(3, 4), torch.full((3,), level))
    assert torch.equal(v, torch.full((3, 4), expected))
    assert recorded.batches == [batch]


@pytest.mark.parametrize(
    ("level", "expected", "batch"), [(0.51, 9.0, 6), (0.5, 9.0, 6), (0.49, 5.0, 3)]
)
def test_known_tokens_do_not_end_guidance(level: float, expected: float, batch: int) -> None:
    """With a noise level per token, the unknown tokens decide: known ones are always at 0."""
    recorded = Recorded()
    velocity = guided(recorded, Recorded.text, Recorded.null, 2.0, until=0.5)
    levels = torch.full((3, 7), level)
    levels[:, :4] = 0  # the first tokens are known, and so is all of one clip
    levels[1] = 0
    v = velocity(torch.zeros(3, 7, 4), levels)
    assert torch.equal(v, torch.full((3, 7, 4), expected))
    assert recorded.batches == [batch]


# Known tokens


def ones(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x)


def the_levels(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A velocity that is each token's noise level."""
    return t[..., None].expand_as(x)


@pytest.fixture
def known() -> torch.Tensor:
    """Of three clips of seven tokens: the first four of clip 0, all of clip 1."""
    known = torch.zeros(3, 7, dtype=torch.bool)
    known[0, :4] = known[1] = True
    return known


@pytest.fixture(params=SAMPLERS.values(), ids=SAMPLERS.keys())
def steps(request, known: torch.Tensor) -> list[torch.Tensor]:
    """The steps of tokens that start at 0 and have velocity 1 everywhere."""
    sampler = request.param(held(ones, known), torch.zeros(3, 7, 2), noise_levels(5))
    return list(sampler)


def test_known_tokens_never_move(steps, known) -> None:
    assert all((x[known] == 0).all() for x in steps)


def test_unknown_tokens_move_as_ever(steps, known) -> None:
    assert torch.allclose(steps[-1][~known], torch.tensor(-1.0))


def test_known_tokens_are_clean_for_the_network(known) -> None:
    seen = []
    velocity = held(lambda x, t: seen.append(t) or ones(x, t), known)
    velocity(torch.zeros(3, 7, 2), torch.tensor([0.5, 0.6, 0.7]))
    levels = torch.tensor([0.5, 0.6, 0.7])[:, None].expand(3, 7)
    assert torch.equal(seen[0], torch.where(known, 0.0, levels))


def test_one_row_of_known_tokens_serves_all_clips(known) -> None:
    v = held(ones, known[:1])(torch.zeros(3, 7, 2), torch.ones(3))
    assert torch.equal(v, (~known[:1])[..., None].expand(3, 7, 2).float())


def test_known_tokens_may_have_any_velocity(known) -> None:
    """Even none that is a number."""
    v = held(lambda x, t: x / 0, known)(torch.zeros(3, 7, 2), torch.ones(3))
    assert torch.equal(v[known], torch.zeros(11, 2))


def test_where_nothing_is_known_the_velocity_is_the_same_function() -> None:
    assert held(the_levels, torch.zeros(3, 7, dtype=torch.bool)) is the_levels
