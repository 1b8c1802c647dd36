"""Proper scores of draws against the truth, and how often intervals of the draws hold it. They need no exact posterior.

Average over many problems whose truths come from the prior. Then the exact posterior has the least CRPS and the least
energy score of all samplers, whatever the number of draws. Single values say little.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths.weights import effective_size, pairs_share, weighted_mean
from midguide.metrics.base import Answer, Metric, Target, enter_metric, known, metric


def crps(draws: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Continuous ranked probability score entry by entry, by the fair estimator; smaller is better.

        mean_i |x_i - y| - sum_{i<j} |x_i - x_j| / (n (n - 1)),

    whose expectation is the score of the law of the draws for any n, in the units of the draws. Negative values occur
    where the draws spread widely around the truth by chance. With weights w that sum to one it is

        sum_i w_i |x_i - y| - sum_{i<j} w_i w_j |x_i - x_j| / (1 - sum_i w_i^2),

    fair for weights that do not depend on the draws.

    Args:
        draws: shape (n, *event), n at least 2.
        truth: shape (*event).
        weights: of the draws, shape (n,); None for equal ones.

    Returns:
        Float64, shape (*event).

    Raises:
        ShapeError: If there are fewer than two draws with weight, or shapes do not agree.

    Example:
        >>> crps(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))
        tensor([0.], dtype=torch.float64)

    References: Gneiting and Raftery 2007, Eq. (21); Ferro 2014, "Fair scores for ensemble forecasts".
    """
    x, y = _checked(draws, truth, least=2)
    if weights is not None:
        w, pairs = _pairs(weights, x)
        ordered, order = x.sort(dim=0)
        w_ordered = w[order]
        # twice the weight below minus all other weight, as the counts of pairs below
        signs = 2 * w_ordered.cumsum(0) - w_ordered - 1
        return weighted_mean((x - y).abs(), w) - (signs * w_ordered * ordered).sum(0) / pairs
    n = len(x)
    # In ascending order the i-th of n values (from 0) is the larger of i pairs and the smaller of n - 1 - i.
    signs = (2 * torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1)).reshape(-1, *[1] * y.ndim)
    spread = (signs * x.sort(dim=0).values).sum(0) / (n * (n - 1))
    return (x - y).abs().mean(0) - spread


def energy_score(draws: Tensor, truth: Tensor, weights: Tensor | None = None) -> float:
    """The CRPS of whole events, with Euclidean norms for absolute values; it sees dependence between entries.

        mean_i ||x_i - y|| - sum_{i<j} ||x_i - x_j|| / (n (n - 1)),

    and with weights as there.

    Args:
        draws: shape (n, *event), n at least 2.
        truth: shape (*event).
        weights: of the draws, shape (n,); None for equal ones.

    Raises:
        ShapeError: If there are fewer than two draws with weight, or shapes do not agree.

    References: Gneiting and Raftery 2007, Eq. (22); made fair as the CRPS.
    """
    x, y = _checked(draws, truth, least=2)
    x, y = x.flatten(1), y.flatten()
    if weights is not None:
        w, share = _pairs(weights, x)
        exact = "donot_use_mm_for_euclid_dist"
        rows = [torch.cdist(block, x, compute_mode=exact) @ w for block in x.split(512)]  # n^2 at once may not fit
        return float(weighted_mean((x - y).norm(dim=1), w) - 0.5 * (w @ torch.cat(rows)) / share)
    pairs = torch.pdist(x).sum() / (len(x) * (len(x) - 1))
    return float((x - y).norm(dim=1).mean() - pairs)


def truth_coverage(draws: Tensor, truth: Tensor, level: float, weights: Tensor | None = None) -> Tensor:
    """Whether the truth lies in the central interval of the draws, entry by entry; `level` on average is right.

    By ranks: among n + 1 exchangeable values the rank r of the truth is uniform on 0..n, so that `k <= r <= n - k` has
    the probability `1 - 2 k / (n + 1)`. Let `k + f = (1 - level) (n + 1) / 2` with k an integer and f below 1. The
    intervals of k and k + 1 have the weights 1 - f and f, which gives `level` exactly for any n. Empirical quantiles
    cover less: about 75 % instead of 90 % for 10 draws. Few draws say little. With fewer than `2 / (1 - level) - 1` of
    them, the wider of the two intervals is the whole line. Draws that equal the truth count as half below it.

    With weights, n is their effective size m and the truth takes the room of one more draw. With the weight r below it,
    that room is the interval from `m r / (m + 1)` to `(m r + 1) / (m + 1)`. The result is the share of it within the
    central `level`. For equal weights that is the same. It gives `level` exactly where weights do not depend on the
    draws and are zero or equal; otherwise nearly.

    Args:
        draws: shape (n, *event).
        truth: shape (*event).
        level: probability of the interval, in (0, 1).
        weights: of the draws, shape (n,); None for equal ones.

    Returns:
        Between 0 and 1, float64, shape (*event).

    Raises:
        ShapeError: If there are no draws, or shapes do not agree.
        ConfigError: If the level is not a probability.

    Example:
        >>> truth_coverage(torch.arange(19.0), torch.tensor(2.5), 0.9)
        tensor(1., dtype=torch.float64)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be in (0, 1), got {level}")
    x, y = _checked(draws, truth, least=1)
    if weights is not None:
        w = _normalized(weights, x)
        m = effective_size(w)
        below = m * weighted_mean((x < y).double() + 0.5 * (x == y).double(), w)
        cut = (1 - level) * (m + 1) / 2
        return ((below + 1).minimum(m + 1 - cut) - below.maximum(cut)).clamp(0, 1)
    n = len(x)
    rank = (x < y).double().sum(0) + 0.5 * (x == y).double().sum(0)
    cut = (1 - level) * (n + 1) / 2
    k = int(cut + 1e-9)  # 0.1 * 20 / 2 is 0.9999999999999998
    inside = [((rank >= j) & (rank <= n - j)).double() for j in (k, k + 1)]
    share = max(cut - k, 0.0)
    return (1 - share) * inside[0] + share * inside[1]


def _checked(draws: Tensor, truth: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    if draws.shape[1:] != truth.shape or draws.ndim == 0 or len(draws) < least:
        raise ShapeError(
            f"draws of shape {tuple(draws.shape)} cannot be scored against a truth of shape {tuple(truth.shape)}",
            hint=f"give at least {least} draws, shape (n, *event), and one truth, shape (*event)",
        )
    return draws.double(), truth.double().to(draws.device)


def _normalized(weights: Tensor, draws: Tensor) -> Tensor:
    """Weights of draws in float64 that sum to one."""
    if weights.shape != draws.shape[:1]:
        raise ShapeError(f"{len(draws)} draws need as many weights, got the shape {tuple(weights.shape)}")
    weights = weights.double().to(draws.device)
    return weights / weights.sum()


def _pairs(weights: Tensor, draws: Tensor) -> tuple[Tensor, float]:
    """Normalized weights, and the weight of pairs of different draws."""
    weights = _normalized(weights, draws)
    share = pairs_share(weights)
    if share == 0:
        raise ShapeError("one draw has all the weight: a fair score needs two", hint="take more particles")
    return weights, share


@metric("crps[estimator=fair]", exact=False, truth=True, draws=2)
def _crps(answer: Answer, target: Target) -> float:
    """Continuous ranked probability score of the truth, averaged over its entries."""
    return float(crps(answer.draws, known(target.problem.truth, "the truth")[0], answer.weights).mean())


@metric("energy_score[estimator=fair]", exact=False, truth=True, draws=2)
def _energy_score(answer: Answer, target: Target) -> float:
    """Energy score of the whole true signal."""
    return energy_score(answer.draws, known(target.problem.truth, "the truth")[0], answer.weights)


@metric("energy_score_measured[estimator=fair]", exact=False, truth=True, draws=2)
def _energy_score_measured(answer: Answer, target: Target) -> float:
    """Energy score of what would be measured of the true signal, in standard deviations of the noise."""
    problem, truth = target.problem, known(target.problem.truth, "the truth")
    residuals = problem.expand(1 + len(answer.draws)).signal_likelihood.residual(
        torch.cat([truth.to(answer.draws), answer.draws])
    )
    return energy_score(residuals[1:], residuals[0], answer.weights)


@metric("truth_rmse", exact=False, truth=True)
def _truth_rmse(answer: Answer, target: Target) -> float:
    """Root mean squared error of the mean of the draws."""
    truth = known(target.problem.truth, "the truth")
    return float((answer.moments[0] - truth.double().flatten()).square().mean().sqrt())


@metric("chi_square", exact=False)
def _chi_square(answer: Answer, target: Target) -> float:
    """Mean squared standardized residual per measured value; about 1 for exact draws."""
    return float(answer.average(target.problem.expand(len(answer.draws)).signal_likelihood.chi_square(answer.draws)))


def _coverage(level: float, answer: Answer, target: Target) -> float:
    """Share of entries whose truth lies in the central interval of the draws."""
    truth = known(target.problem.truth, "the truth")[0]
    return float(truth_coverage(answer.draws, truth, level, answer.weights).mean())


for _level in (0.1, 0.3, 0.5, 0.7, 0.9):
    _made = Metric(compute=partial(_coverage, _level), exact=False, truth=True)
    enter_metric(f"truth_coverage[level={_level},by=rank]", _made)
