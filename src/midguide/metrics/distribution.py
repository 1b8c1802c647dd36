"""Distances between two clouds of samples, and of a cloud from a mixture or from given moments."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.exact.posteriors import known_prior
from midguide.maths.linalg import gaussian_w2
from midguide.maths.rng import Rng, stream_seed
from midguide.maths.weights import weighted_quantile
from midguide.metrics.base import Answer, Metric, Target, enter_metric, known, metric
from midguide.priors.mixture import GaussianMixture


def sliced_wasserstein(
    a: Tensor, b: Tensor, *, order: int = 1, slices: int = 100, seed: int = 0, weights: Tensor | None = None
) -> float:
    """Sliced Wasserstein distance of two clouds of equally many samples, the first of which may have weights.

    `SW_p = (mean over directions u of W_p(u^T a, u^T b)^p)^(1/p)`, with directions uniform on the sphere; in one
    dimension W_p pairs the sorted values; with weights, the quantile functions.

    Args:
        a: first cloud, shape (n, *event).
        b: second cloud, shape (n, *event).
        order: p, 1 or 2.
        slices: number of directions.
        seed: of the directions.
        weights: of the first cloud, which sum to one, shape (n,); None for equal ones.

    Raises:
        ShapeError: If the clouds differ in shape.
        ConfigError: If the order is another.

    References: Bonneel et al. 2015.
    """
    if a.shape != b.shape:
        raise ShapeError(f"the clouds have shapes {tuple(a.shape)} and {tuple(b.shape)}", hint="take as many of each")
    if order not in (1, 2):
        raise ConfigError(f"order must be 1 or 2, got {order}")
    a, b = a.double().flatten(1), b.double().flatten(1)
    directions = Rng([(seed, "slices")], size=slices).normal(a.new_empty(slices, a.shape[1]))
    directions = (directions / directions.norm(dim=1, keepdim=True)).T
    if weights is not None:
        powers = _weighted_wasserstein(a @ directions, weights.double(), b @ directions, order)
        return float(powers.mean() ** (1 / order))
    gaps = ((a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values).abs()
    return float(gaps.pow(order).mean() ** (1 / order))


def _weighted_wasserstein(a: Tensor, weights: Tensor, b: Tensor, order: int) -> Tensor:
    """`W_p^p` column by column of values a (n, k) with weights (n,) and values b (m, k), shape (k,)."""
    (a, by_a), b = a.sort(dim=0), b.sort(dim=0).values
    ends_a = weights[by_a].cumsum(0)
    ends_b = torch.arange(1, len(b) + 1, dtype=a.dtype, device=a.device)[:, None].expand_as(b) / len(b)
    ends = torch.cat([ends_a, ends_b]).sort(dim=0).values
    widths = ends.diff(dim=0, prepend=torch.zeros_like(ends[:1]))

    def quantiles(values: Tensor, reached: Tensor) -> Tensor:
        """The quantile function between one end and the next, where it is constant."""
        places = torch.searchsorted(reached.T.contiguous(), ends.T.contiguous()).clamp_max(len(values) - 1)
        return values.gather(0, places.T)

    return (widths * (quantiles(a, ends_a) - quantiles(b, ends_b)).abs().pow(order)).sum(0)


def mode_weight_tv(draws: Tensor, mixture: GaussianMixture, weights: Tensor | None = None) -> float:
    """Total variation between the shares of draws in each mode and the weights of a mixture, in [0, 1].

    Each draw counts for its most probable component: `1/2 sum_k |share_k - weight_k|`. Components that overlap
    exchange draws, so that the exact mixture itself does not score zero: compare with the row of exact draws.

    Args:
        draws: shape (n, *event).
        mixture: the mixture that the draws should have.
        weights: of the draws, which sum to one, shape (n,); None for equal ones.
    """
    modes = mixture.most_probable(draws)
    shares = torch.bincount(modes, weights, minlength=mixture.components).double()
    shares = shares / len(draws) if weights is None else shares
    return float(0.5 * (shares.cpu() - mixture.weights).abs().sum())


def coverage(draws: Tensor, reference: Tensor, level: float, weights: Tensor | None = None) -> float:
    """Share of a reference cloud inside the central interval of the draws, entry by entry, averaged; `level` is right.

    Args:
        draws: shape (n, *event).
        reference: draws of the exact posterior, shape (m, *event).
        level: probability of the interval, in (0, 1).
        weights: of the draws, which sum to one, shape (n,); None for equal ones.
    """
    x, exact = draws.double().flatten(1), reference.double().flatten(1)
    levels = [0.5 - level / 2, 0.5 + level / 2]
    ends = torch.quantile(x, x.new_tensor(levels), dim=0) if weights is None else weighted_quantile(x, weights, levels)
    lower, upper = ends
    return float(((exact >= lower) & (exact <= upper)).double().mean())


def mean_error(mean: Tensor, target_mean: Tensor, target_covariance: Tensor) -> float:
    """Distance of two means, shape (d,), over the root of the target's total variance."""
    return float((mean - target_mean).norm() / target_covariance.trace().sqrt())


def covariance_error(covariance: Tensor, target_covariance: Tensor) -> float:
    """Frobenius distance of two covariances, shape (d, d), over the norm of the target's."""
    return float((covariance - target_covariance).norm() / target_covariance.norm())


def energy_distance(a: Tensor, b: Tensor, weights: Tensor | None = None) -> float:
    """Energy distance of two clouds, `2 E|A - B| - E|A - A'| - E|B - B'|`, zero where they are the same.

    Distances are Euclidean, over the whole signal. Clouds of exact draws are not at zero: compare with their row.

    Args:
        a: shape (n, *event).
        b: shape (m, *event).
        weights: of the first cloud, which sum to one, shape (n,); None for equal ones.

    References: Szekely and Rizzo 2013.
    """
    a, b = a.double().flatten(1), b.double().flatten(1)
    w = a.new_full((len(a),), 1 / len(a)) if weights is None else weights.to(a)
    between = 2 * (w @ torch.cdist(a, b).mean(1))
    return float(between - w @ torch.cdist(a, a) @ w - torch.cdist(b, b).mean())


def posterior_error(draws: Tensor, exact: Tensor, prior: Tensor, weights: Tensor | None = None) -> float:
    """How far draws are from the posterior on a scale from 0, as exact draws, to 1, as draws of the prior.

    `sqrt(max(0, (e(draws) - floor) / (e(prior) - floor)))`, where e is the energy distance from exact draws, and
    `floor = E|X - X'| (1 / n + 1 / m)` what n exact draws have on average. The root makes it grow as distances do.

    Args:
        draws: shape (n, *event).
        exact: draws of the posterior, shape (m, *event).
        prior: draws of the prior, as many as there are of the posterior, shape (m, *event).
        weights: of the draws, which sum to one, shape (n,); None for equal ones.
    """
    cloud, n, m = exact.double().flatten(1), len(draws), len(exact)
    spread = float(torch.cdist(cloud, cloud).sum() / (m * (m - 1)))
    away = energy_distance(draws, exact, weights) - spread * (1 / n + 1 / m)
    scale = energy_distance(prior, exact) - spread * (2 / m)
    if scale <= 0:
        raise NumericalError("draws of the prior are not distinguishable from those of the posterior")
    return math.sqrt(max(0.0, away / scale))


def mmse_gap(mean: Tensor, target_mean: Tensor, target_covariance: Tensor) -> float:
    """How much the mean squared error of an estimate exceeds the least possible one, in dB.

    `10 log10(1 + |estimate - m|^2 / tr(C))`, with mean m and covariance C of the posterior: the expected squared error
    of an estimate is `tr(C) + |estimate - m|^2`, whatever the truth was. The mean of n exact draws has
    `10 log10(1 + 1 / n)`.

    Args:
        mean: the estimate, shape (d,).
        target_mean: m, shape (d,).
        target_covariance: C, shape (d, d).
    """
    return 10 * math.log10(1 + float((mean - target_mean).square().sum() / target_covariance.trace()))


@metric("energy_distance")
def _energy_distance(answer: Answer, target: Target) -> float:
    """Energy distance of draws from exact draws, over the whole signal."""
    exact = known(target.draws, "exact draws").to(answer.draws.device)
    return energy_distance(answer.draws, exact, answer.weights)


@metric("posterior_error[by=energy]")
def _posterior_error(answer: Answer, target: Target) -> float:
    """Distance from the posterior: 0 is as near as exact draws, 1 as far as draws of the prior."""
    exact = known(target.draws, "exact draws")
    prior = known_prior(target.problem).sample(len(exact), seed=stream_seed("prior", len(exact)))
    return posterior_error(answer.draws.cpu(), exact, prior, answer.weights)


@metric("mmse_gap[unit=dB]")
def _mmse_gap(answer: Answer, target: Target) -> float:
    """Expected squared error of the mean of the draws above the least possible one, in dB."""
    return mmse_gap(answer.moments[0], *target.moments)


@metric("gaussian_w2")
def _gaussian_w2(answer: Answer, target: Target) -> float:
    """2-Wasserstein distance of the Gaussians with the moments of draws and exact posterior."""
    return gaussian_w2(*answer.moments, *target.moments)


@metric("mean_error")
def _mean_error(answer: Answer, target: Target) -> float:
    """Distance of the means of draws and exact posterior, over the root of its total variance."""
    return mean_error(answer.moments[0], *target.moments)


@metric("covariance_error")
def _covariance_error(answer: Answer, target: Target) -> float:
    """Frobenius distance of the covariances of draws and exact posterior, relative to the latter."""
    return covariance_error(answer.moments[1], target.moments[1])


@metric("variance_ratio")
def _variance_ratio(answer: Answer, target: Target) -> float:
    """Total variance of the draws over that of the exact posterior."""
    return float(answer.moments[1].trace() / target.moments[1].trace())


@metric("mode_weight_tv", prior=GaussianMixture)
def _mode_weight_tv(answer: Answer, target: Target) -> float:
    """Total variation between the shares of draws in each mode and the exact weights."""
    if not isinstance(target.posterior, GaussianMixture):
        raise UnsupportedProblem("mode weights are those of a mixture")
    return mode_weight_tv(answer.draws, target.posterior, answer.weights)


def _sliced(order: int, answer: Answer, target: Target) -> float:
    """Sliced Wasserstein distance of draws from exact draws."""
    exact = known(target.draws, "exact draws").to(answer.draws.device)
    return sliced_wasserstein(answer.draws, exact, order=order, slices=100, weights=answer.weights)


def _coverage(level: float, answer: Answer, target: Target) -> float:
    """Share of exact draws inside the central interval of the draws."""
    return coverage(answer.draws, known(target.draws, "exact draws"), level, answer.weights)


for _order in (1, 2):
    enter_metric(f"sliced_wasserstein_{_order}[slices=100]", Metric(compute=partial(_sliced, _order)))
for _level in (0.5, 0.9):
    enter_metric(f"coverage[level={_level}]", Metric(compute=partial(_coverage, _level)))
