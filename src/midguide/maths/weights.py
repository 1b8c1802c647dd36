"""Weighted draws: effective sample size, resampling, and moments and quantiles under weights, in float64.

Weights come as logarithms along the last axis, or normalized to a sum of one. Where all weights are equal each formula
is the usual one for n draws: the mean, the unbiased variance, the interpolated quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from midguide.maths.rng import Rng


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Log of the mean weight over the last axis: for a filter the estimate of its evidence. `-inf` where all are."""
    return log_weight.double().logsumexp(-1) - math.log(log_weight.shape[-1])


def normalized(log_weight: Tensor) -> Tensor:
    """Weights that sum to one over the last axis; NaN where all are `-inf`."""
    return log_weight.double().softmax(-1)


def effective_size(weights: Tensor) -> Tensor:
    """`(sum w)^2 / sum w^2` over the last axis: n for equal weights, 1 where one draw has them all.

    References: Kish 1965, "Survey sampling".
    """
    return weights.sum(-1).square() / weights.square().sum(-1)


def systematic(weights: Tensor, uniform: Tensor, n: int | None = None) -> Tensor:
    """Indices of draws of equal weight: each draw comes `n w` times, rounded down or up.

    Where a group has no weight at all (zeros, or the NaN of `normalized`), its draws count alike.

    Args:
        weights: normalized, shape (groups, size).
        uniform: one random number in [0, 1) for each group, shape (groups,).
        n: draws wanted of each group; `size` by default.

    Returns:
        Ascending indices within the group, shape (groups, n).

    Example:
        >>> systematic(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([0.5]), 4)
        tensor([[0, 0, 2, 2]])

    References: Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space models".
    """
    count = weights.shape[-1] if n is None else n
    places = (torch.arange(count, device=weights.device) + uniform.double()[:, None]) / count
    reached = torch.where(weights.sum(-1, keepdim=True) > 0, weights.double(), 1.0).cumsum(-1)
    below_one = 1 - torch.finfo(torch.float64).eps
    return torch.searchsorted(reached / reached[:, -1:], places.clamp_max(below_one), right=True)


def equal_picks(log_weight: Tensor, rng: Rng, n: int | None = None) -> Tensor:
    """Indices of draws of equal weight in random order, so that each of them is a draw, too, shape (groups, n).

    Args:
        log_weight: shape (groups, size).
        rng: one row for each group.
        n: draws wanted of each group; `size` by default.
    """
    found = systematic(normalized(log_weight), rng.uniform(log_weight[:, 0].double()), n)
    return found.gather(1, rng.uniform(found.double()).argsort(1))


def resampled(log_weight: Tensor, rng: Rng, below: float) -> tuple[Tensor, Tensor]:
    """Log-weights and members of each group, after systematic resampling of the groups whose weights are too uneven.

    The mean weight of a group is its evidence so far, which resampling keeps.

    Args:
        log_weight: of each row, shape (rows,).
        rng: its layout says which rows form a group; each group has a stream of its own.
        below: resample where the effective sample size is below this share of the group.

    Returns:
        log_weight: shape (rows,).
        members: which rows of its group each row becomes, shape (groups, size).
    """
    layout, grouped = rng.layout, rng.layout.split(log_weight)
    weights = normalized(grouped)
    stay = torch.arange(layout.size, device=weights.device).expand_as(weights)
    if layout.size == 1:
        return log_weight, stay
    needed = (effective_size(weights) < below * layout.size)[:, None]
    picks = systematic(weights, rng.groups.uniform(weights.new_empty(layout.groups)))
    grouped = torch.where(needed, log_mean_exp(grouped)[:, None], grouped)
    return grouped.flatten(), torch.where(needed, picks, stay)


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """`sum_i w_i x_i` of draws (n, *event) with normalized weights (n,), shape (*event)."""
    return torch.tensordot(weights, x.double(), 1)


def weighted_variance(x: Tensor, weights: Tensor) -> Tensor:
    """`sum_i w_i (x_i - m)^2 / (1 - sum_i w_i^2)` entry by entry, shape (*event); zero where one draw has all weight.

    It is unbiased for draws of one law whose weights do not depend on them. So is `numpy.cov(..., aweights=w)`. For
    equal weights it is the usual estimate with `n - 1`.
    """
    share = pairs_share(weights)
    spread = weighted_mean((x.double() - weighted_mean(x, weights)).square(), weights)
    return spread / share if share > 0 else torch.zeros_like(spread)


def pairs_share(weights: Tensor) -> float:
    """`sum_{i != j} w_i w_j = 1 - sum_i w_i^2`: the weight of pairs of different draws; 0 if one has all weight."""
    share = float(1 - weights.square().sum())
    return share if share > len(weights) * torch.finfo(torch.float64).eps else 0.0


def weighted_quantile(x: Tensor, weights: Tensor, levels: Sequence[float]) -> Tensor:
    """Interpolated quantiles entry by entry of draws (n, *event) with normalized weights (n,), shape (level, *event).

    The k-th smallest draw holds the interval of its weight in [0, 1]. Let m be the effective sample size. The quantile
    at level p is the mean of the draws over the interval of length `1 / m` from `p (1 - 1 / m)` on. For equal weights
    it is `torch.quantile`.

    References: Akinshin 2023, "Weighted quantile estimators", Section 4 (type 7 of Hyndman and Fan).
    """
    values, order = x.double().sort(dim=0)
    reached = weights[order].cumsum(0)
    edges = torch.cat([torch.zeros_like(reached[:1]), reached / reached[-1:]])
    m = float(effective_size(weights))
    shares = [((edges - level * (1 - 1 / m)) * m).clamp(0, 1).diff(dim=0) for level in levels]
    return torch.stack([(share * values).sum(0) for share in shares])
