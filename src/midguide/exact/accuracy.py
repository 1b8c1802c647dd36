"""How far draws are from a posterior that is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.maths.linalg import gaussian_w2
from midguide.priors.gaussian import Gaussian


@dataclass(frozen=True, kw_only=True)
class GaussianAccuracy:
    """One row of an accuracy table.

    Args:
        relative_w2: W2 of the Gaussian with the draws' moments from the posterior, over that of the prior: 0 is
            exact, 1 as good as ignoring the observation.
        mean_error: distance of the means over the root of the posterior's total variance.
        covariance_ratio: total variance of the draws over the posterior's: below 1 is overconfident.
        coverage50: posterior probability of the draws' central 50 % intervals, averaged over coordinates.
        coverage90: the same for 90 %.
    """

    relative_w2: float
    mean_error: float
    covariance_ratio: float
    coverage50: float
    coverage90: float


def gaussian_accuracy(draws: Tensor, posterior: Gaussian, prior: Gaussian) -> GaussianAccuracy:
    """Compare draws, shape (n, *event), with the exact posterior of a linear-Gaussian problem."""
    x = draws.double().flatten(1)
    mean, covariance = x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])
    target_mean, target = posterior.mean.double().flatten(), posterior.covariance_matrix().double()
    from_prior = gaussian_w2(prior.mean.flatten(), prior.covariance_matrix(), target_mean, target)
    return GaussianAccuracy(
        relative_w2=gaussian_w2(mean, covariance, target_mean, target) / from_prior,
        mean_error=float((mean - target_mean).norm() / target.trace().sqrt()),
        covariance_ratio=float(covariance.trace() / target.trace()),
        coverage50=_coverage(x, target_mean, target.diagonal(), 0.5),
        coverage90=_coverage(x, target_mean, target.diagonal(), 0.9),
    )


def _coverage(x: Tensor, mean: Tensor, variance: Tensor, level: float) -> float:
    """Probability, under independent normals, of the central intervals of the columns of x; mean over columns."""
    tails = x.new_tensor([0.5 - level / 2, 0.5 + level / 2])
    bounds = (torch.quantile(x, tails, dim=0) - mean) / variance.sqrt()
    lower, upper = torch.special.ndtr(bounds)
    return float((upper - lower).mean())
