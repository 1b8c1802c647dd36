"""Sliced Wasserstein against closed forms and against POT."""

import numpy as np
import ot
import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.maths.rng import Rng
from midguide.metrics.distribution import energy_distance, mmse_gap, sliced_wasserstein


def clouds(n=200, d=5):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return a, 1.5 * torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.3


@pytest.mark.parametrize("order", [1, 2])
def test_equals_the_value_of_pot_on_the_same_slices(order):
    a, b = clouds()
    directions = Rng([(3, "slices")], size=50).normal(torch.empty(50, 5, dtype=torch.float64))
    directions = (directions / directions.norm(dim=1, keepdim=True)).T.numpy()
    want = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=directions, p=order)
    assert sliced_wasserstein(a, b, order=order, slices=50, seed=3) == pytest.approx(float(want), rel=1e-10)


def test_shifted_cloud_is_away_by_the_mean_length_of_the_projected_shift():
    """E|u_1| on the sphere in 5 dimensions is Gamma(5/2) / (sqrt(pi) Gamma(3)) = 0.375; 4,000 slices: 1 %."""
    a, _ = clouds()
    shifted = a + torch.tensor([2.0, 0, 0, 0, 0])
    assert sliced_wasserstein(a, shifted, slices=4000) == pytest.approx(2 * 0.375, rel=0.05)


def test_is_zero_for_one_cloud_in_any_order():
    a, _ = clouds()
    assert sliced_wasserstein(a, a[torch.from_numpy(np.random.default_rng(0).permutation(len(a)))]) < 1e-12


def test_unequal_clouds_and_orders_are_refused():
    a, b = clouds()
    with pytest.raises(ShapeError, match="as many of each"):
        sliced_wasserstein(a, b[:10])
    with pytest.raises(ConfigError, match="order"):
        sliced_wasserstein(a, b, order=3)


def test_energy_distance_is_that_of_numpy_and_zero_for_one_cloud():
    a, b = clouds()
    x, y = a.numpy(), b.numpy()
    far = [np.linalg.norm(u[:, None] - v, axis=2).mean() for u, v in ((x, y), (x, x), (y, y))]
    assert energy_distance(a, b) == pytest.approx(2 * far[0] - far[1] - far[2], rel=1e-9)
    assert abs(energy_distance(a, a)) < 1e-12


def test_energy_distance_of_weighted_draws_is_that_of_repeated_ones():
    a, b = clouds(6)
    repeated = a[torch.tensor([0, 0, 0, 1, 2, 2])]
    weights = torch.tensor([3.0, 1, 2], dtype=torch.float64) / 6
    assert energy_distance(a[:3], b, weights) == pytest.approx(energy_distance(repeated, b), rel=1e-9)


def test_mmse_gap_is_the_excess_of_the_expected_squared_error():
    """Truths from N(m, C), 200,000 of them: the ratio of squared errors is known to about 0.3 %, 0.015 dB."""
    generator = torch.Generator().manual_seed(1)
    factor = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    mean, estimate = torch.tensor([1.0, 0, -1], dtype=torch.float64), torch.tensor([1.5, 1, -1], dtype=torch.float64)
    truths = mean + torch.randn(200_000, 3, generator=generator, dtype=torch.float64) @ factor.mT
    errors = [(truths - guess).square().sum(1).mean() for guess in (estimate, mean)]
    want = 10 * float((errors[0] / errors[1]).log10())
    assert mmse_gap(estimate, mean, factor @ factor.mT) == pytest.approx(want, abs=0.05)
