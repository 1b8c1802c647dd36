"""The classifier test against what the best classifier can reach."""

import numpy as np
import pytest
import torch
from scipy import stats

from midguide.errors import ShapeError
from midguide.metrics.c2st import c2st


def normal(n, d, seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.parametrize("d", [2, 20])
def test_clouds_of_one_law_cannot_be_told_apart(d):
    """4,000 coin flips have a standard deviation of 0.8 %: 4 of them, one false alarm in 16,000."""
    assert c2st(normal(2000, d, 0), normal(2000, d, 1)) == pytest.approx(0.5, abs=0.032)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_shifted_normals_are_told_apart_as_well_as_they_can_be(shift):
    """The best accuracy is Phi(shift / 2); 4 standard deviations of chance, and 1 % for a network that is not it."""
    best = stats.norm.cdf(shift / 2)
    other = normal(2000, 3, 1) + torch.tensor([shift, 0.0, 0.0])
    assert best - 0.042 < c2st(normal(2000, 3, 0), other) < best + 0.032


def test_same_moments_but_another_shape_are_told_apart():
    """Two points of +-1, blurred, against a normal of the same variance: linear and quadratic rules see nothing."""
    sign = torch.from_numpy(np.random.default_rng(2).choice([-1.0, 1.0], size=(2000, 1)))
    blurred = sign + 0.1 * normal(2000, 1, 3)
    assert c2st(blurred, (1.01**0.5) * normal(2000, 1, 4)) > 0.75


def test_clouds_far_apart_score_one():
    assert c2st(normal(100, 4, 0), normal(100, 4, 1) + 50) == 1.0


def test_is_the_same_each_time_and_depends_on_its_seed():
    a, b = normal(200, 2, 0), normal(200, 2, 1) + 0.3
    assert c2st(a, b) == c2st(a, b)
    assert c2st(a, b) != c2st(a, b, seed=1)


def test_unequal_or_tiny_clouds_are_refused():
    with pytest.raises(ShapeError, match="as many of each"):
        c2st(normal(20, 2, 0), normal(19, 2, 0))
    with pytest.raises(ShapeError, match="at least 8"):
        c2st(normal(4, 2, 0), normal(4, 2, 0))
