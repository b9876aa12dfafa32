import numpy as np
import pytest
import torch

from minisora.metrics import frechet_distance, oracle_scores, psnr, wilson
from minisora.world import clip


def test_psnr() -> None:
    a = torch.zeros(2, 3, 1, 8, 8)
    assert psnr(a, a + 0.2) == pytest.approx(20)  # a tenth of the range
    assert psnr(a + 5, a + 1) > 90  # what is out of range is clipped first


def test_frechet_distance_of_gaussians() -> None:
    """Of N(0, 1) and N(3, 4) in 2 dimensions it is 2 * 3^2 + 2 * (1 - 2)^2; a set from itself: 0."""
    a, b = torch.randn(20_000, 2), 3 + 2 * torch.randn(20_000, 2)
    assert frechet_distance(a, b) == pytest.approx(20, rel=0.02)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert np.isnan(frechet_distance(a[:1], b))  # one clip has no spread


def test_wilson_interval_is_the_textbooks() -> None:
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson(0, 50)[0] == 0 and wilson(50, 50)[1] == 1


def test_truth_scores_one_and_chance_is_far_below() -> None:
    clips = [clip(3, i) for i in range(40)]
    scores = oracle_scores(np.stack([c.frames for c in clips]), [c.truth for c in clips])
    assert all(score["right"] == 1 for score in scores.values())
    assert scores["all"]["chance"] < 0.1 and 0.05 < scores["shape"]["chance"] < 0.45
