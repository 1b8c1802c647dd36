"""Weighted statistics are those of repeated draws, of brute force, and of numpy; equal weights give the usual ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midguide.maths.rng import Rng
from midguide.maths.weights import (
    effective_size,
    equal_picks,
    log_mean_exp,
    normalized,
    pairs_share,
    systematic,
    weighted_mean,
    weighted_quantile,
    weighted_variance,
)

LEVELS = [0.0, 0.05, 0.31, 0.5, 0.9, 1.0]


def draws(n: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 2, 3)))


def weights(n: int = 9, seed: int = 1) -> torch.Tensor:
    w = torch.from_numpy(np.random.default_rng(seed).exponential(size=n))
    return w / w.sum()


def test_equal_weights_give_the_usual_mean_variance_and_quantiles():
    x, w = draws(), torch.full((9,), 1 / 9).double()
    assert torch.allclose(weighted_mean(x, w), x.mean(0))
    assert torch.allclose(weighted_variance(x, w), x.var(0))
    assert torch.allclose(weighted_quantile(x, w, LEVELS), torch.quantile(x, x.new_tensor(LEVELS), dim=0))
    assert float(effective_size(w)) == pytest.approx(9)


def test_weighted_mean_and_variance_are_numpys():
    x, w = draws(), weights()
    assert np.allclose(weighted_mean(x, w), np.average(x, axis=0, weights=w))
    covariance = np.cov(x.flatten(1).numpy().T, aweights=w.numpy())
    assert np.allclose(weighted_variance(x, w).flatten(), np.diag(covariance))


def test_weighted_variance_is_the_mean_half_squared_distance_of_two_different_draws():
    x, w = draws(5), weights(5)
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    total = sum(w[i] * w[j] * (x[i] - x[j]).square() / 2 for i, j in pairs)
    share = sum(w[i] * w[j] for i, j in pairs)
    assert torch.allclose(weighted_variance(x, w), total / share)
    assert pairs_share(w) == pytest.approx(float(share))


def test_a_single_draw_with_all_weight_has_no_spread():
    w = torch.tensor([0.0, 1.0, 0.0]).double()
    assert weighted_variance(draws(3), w).abs().max() == 0
    assert torch.equal(weighted_quantile(draws(3), w, [0.1, 0.9]), draws(3)[1].expand(2, 2, 3))
    assert pairs_share(normalized(torch.tensor([0.0, 60.0]))) == 0


def test_weighted_quantile_is_the_mean_of_the_step_function_over_an_interval():
    """By brute force on a grid of 2e5 cells of [0, 1]: the quantile function's mean over the documented interval."""
    x, w = draws(6)[:, 0, 0], weights(6)
    order = x.argsort()
    grid = (torch.arange(200_000).double() + 0.5) / 200_000
    reached = w[order].cumsum(0)
    step = x[order][torch.searchsorted(reached, grid).clamp_max(5)]
    m = float(effective_size(w))
    for level in (0.0, 0.2, 0.5, 0.77, 1.0):
        start = level * (1 - 1 / m)
        inside = step[(grid >= start) & (grid < start + 1 / m)]
        got = weighted_quantile(x[:, None], w, [level])[0, 0]
        assert float(got) == pytest.approx(float(inside.mean()), abs=2e-4)  # cells at both ends: 2 * 6 * range / 2e5


def test_draws_without_weight_do_not_matter():
    x, w = draws(), weights()
    more = torch.cat([x, 100 + draws(4)])
    padded = torch.cat([w, torch.zeros(4).double()])
    for statistic in (weighted_mean, weighted_variance, lambda x, w: weighted_quantile(x, w, LEVELS)):
        assert torch.allclose(statistic(more, padded), statistic(x, w))


def test_the_weighted_quantile_of_many_draws_is_numpys():
    """Both estimate the same quantile; the interval is 1/m wide, a cell of the step function 1/n."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=20_000), rng.exponential(size=20_000)
    got = weighted_quantile(torch.from_numpy(x), torch.from_numpy(w / w.sum()), [0.05, 0.5, 0.9])
    want = np.quantile(x, [0.05, 0.5, 0.9], weights=w, method="inverted_cdf")
    assert np.allclose(got, want, atol=2e-3)


def test_log_mean_exp_and_normalized_bear_any_constant_and_minus_infinity():
    log_weight = torch.tensor([[1000.0, 1000.0 + math.log(3), -math.inf, -math.inf]], dtype=torch.float64)
    assert log_mean_exp(log_weight).tolist() == pytest.approx([1000.0])
    assert normalized(log_weight)[0].tolist() == pytest.approx([0.25, 0.75, 0.0, 0.0])
    assert log_mean_exp(torch.full((1, 2), -math.inf)).tolist() == [-math.inf]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True), st.integers(1, 30))
def test_systematic_resampling_takes_each_draw_its_share_rounded_down_or_up(shares, uniform, n):
    if sum(shares) < 1e-6:
        return
    w = torch.tensor(shares).double() / sum(shares)
    counts = torch.bincount(systematic(w[None], torch.tensor([uniform]).double(), n)[0], minlength=len(w))
    assert counts.sum() == n
    assert ((counts - n * w).abs() < 1 + 1e-9).all()
    assert (counts[w == 0] == 0).all()


def test_a_group_without_weight_keeps_its_draws():
    weights = torch.stack([normalized(torch.full((3,), -math.inf)), torch.zeros(3).double(), torch.tensor([0, 0, 1.0])])
    picks = systematic(weights, torch.full((3,), 0.7))
    assert picks.tolist() == [[0, 1, 2], [0, 1, 2], [2, 2, 2]]


def test_each_draw_of_equal_picks_has_the_law_of_the_weights():
    """4,000 first picks of three draws: shares within five standard errors, sqrt(0.25 / 4000) = 0.008 at most."""
    w = torch.tensor([0.2, 0.5, 0.3])
    log_weight = w.log().expand(4000, 3)
    picks = equal_picks(log_weight, Rng([(0, i) for i in range(4000)]))
    for column in picks.T:
        assert torch.allclose(torch.bincount(column, minlength=3) / 4000, w, atol=0.04)
