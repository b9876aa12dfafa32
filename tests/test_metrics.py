import numpy as np
import pytest
import torch

from minisora.metrics import (
    frechet_distance,
    markdown,
    oracle_scores,
    percent,
    pivot,
    proportion,
    psnr,
    ssim,
    wilson,
)
from minisora.world import clip, get


def test_psnr_of_an_error_of_a_tenth_of_the_range() -> None:
    a = torch.zeros(2, 3, 1, 8, 8)
    assert psnr(a, a + 0.2) == pytest.approx(20)


def test_psnr_clips_what_is_out_of_range() -> None:
    a = torch.zeros(2, 3, 1, 8, 8)
    assert psnr(a + 5, a + 1) > 90


@pytest.fixture
def gaussians() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of N(0, 1) and N(3, 4) in 2 dimensions."""
    return torch.randn(20_000, 2), 3 + 2 * torch.randn(20_000, 2)


def test_frechet_distance_of_gaussians(gaussians) -> None:
    """It is 2 * 3^2 + 2 * (1 - 2)^2."""
    assert frechet_distance(*gaussians) == pytest.approx(20, rel=0.02)


def test_frechet_distance_is_symmetric(gaussians) -> None:
    a, b = gaussians
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_of_a_set_from_itself_is_zero(gaussians) -> None:
    a, _ = gaussians
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_one_clip_is_unknown(gaussians) -> None:
    a, b = gaussians
    assert np.isnan(frechet_distance(a[:1], b))  # one clip has no spread


def test_wilson_interval_is_the_textbooks() -> None:
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_wilson_interval_stays_between_0_and_1() -> None:
    assert wilson(0, 50)[0] == 0
    assert wilson(50, 50)[1] == 1


def test_truth_scores_one() -> None:
    clips = [clip(3, i) for i in range(40)]
    scores = oracle_scores(np.stack([c.frames for c in clips]), [c.truth for c in clips])
    assert all(score["right"] == 1 for score in scores.values())


def test_chance_is_far_below() -> None:
    clips = [clip(3, i) for i in range(40)]
    scores = oracle_scores(np.stack([c.frames for c in clips]), [c.truth for c in clips])
    assert scores["all"]["chance"] < 0.1
    assert 0.05 < scores["shape"]["chance"] < 0.45


@pytest.mark.parametrize("name", ["shapes", "pairs"])
def test_the_scores_are_those_of_the_world(name: str) -> None:
    world = get(name)
    clips = [world.clip(3, i, 5, 32, 32, "train") for i in range(4)]
    frames, truths = np.stack([c.frames for c in clips]), [c.truth for c in clips]
    assert set(oracle_scores(frames, truths, world)) == set(world.scores)


# Tables


def test_a_proportion_is_shown_in_percent_with_its_interval() -> None:
    assert percent(proportion(8, 10)) == "80.0 (49.0-94.3)"


def test_a_missing_value_is_an_empty_cell() -> None:
    table = markdown([{"a": 1, "b": 2}, {"b": 3}], {"a": "A", "b": "B"})
    assert table == "| A | B |\n|---|---|\n| 1 | 2 |\n|  | 3 |"


def test_a_pivot_keeps_the_order_of_lines_and_columns() -> None:
    cells = [("second", "z", "1"), ("first", "a", "2"), ("second", "a", "3")]
    expected = "| what | z | a |\n|---|---|---|\n| second | 1 | 3 |\n| first |  | 2 |"
    assert pivot(cells, "what") == expected


def test_ssim_of_equal_clips_is_one() -> None:
    clip = torch.rand(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(clip, clip) == pytest.approx(1, abs=1e-6)


def test_ssim_falls_with_noise() -> None:
    noise = torch.randn(2, 1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0))
    clip = noise[0] / 4
    little, much = (ssim(clip + share * noise[1], clip) for share in (0.05, 0.2))
    assert 1 > little > much > 0


def test_ssim_is_the_same_under_autocast() -> None:
    dark = torch.full((1, 3, 5, 16, 24), -0.98)
    noisy = dark + 0.01 * torch.randn(dark.shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(noisy, dark)
    assert inside == ssim(noisy, dark)
