"""Do the draws differ as much as those of a posterior do, and no more?

In what is measured a posterior is no wider than the noise. Over the joint law of signal and data, two of its draws have
`E |A x_i - A x_j|^2 <= 2 m sigma^2`, since y itself is as near to the signal as that. For a Gaussian prior it holds for
every y, direction by direction: the standard deviation is at most `sigma / s_j`. For a prior in closed form the law of
the spread is that of draws of the exact posterior, in both directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.errors import MidguideError
from midguide.inference.verdict import causes
from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.maths.chances import Band, chi_square_band, sampled_spread_band
from midguide.priors.gaussian import Gaussian

LEAST = 4
"""Fewest draws of which a spread is judged."""
TOLERANCE = 0.1
"""What is wider than the bound by less is not named."""
EXACT = 0.05
"""The same beside a posterior that is known exactly."""
LARGEST = 1024
"""Values of the largest signal whose exact posterior is computed for a comparison."""
TRIALS = 1000


@CHECKS.register("spread")
def spread(evidence: Evidence, level: float) -> list[Judged]:
    """Standard deviation over draws of what is measured, in units of the noise's."""
    if evidence.distinct < LEAST:
        raise LeftOut(f"{evidence.n} draws count as {evidence.distinct:.1f}, fewer than {LEAST}")
    value = evidence.spread
    band = _known(evidence, level) or _bound(evidence, level)
    advice, rank = "", 5
    if not band.holds(value):
        advice, rank = causes.of_spread(evidence, value, band)
    low, high = band
    what = "standard deviation over draws of what is measured, in units of the noise's,"
    return [Judged(check="spread", what=what, value=value, low=low, high=high, advice=advice, rank=rank)]


def _bound(evidence: Evidence, level: float) -> Band:
    """No wider than the noise, up to what few values and few draws may show.

    The spread given y is at most the mean chi-square given y, which has the shortfall band of `misfit`.
    """
    if doubt := evidence.likelihood.doubt(evidence.mean.to(evidence.likelihood.y.device)):
        raise LeftOut(doubt)
    within = chi_square_band(evidence.values, level / 2).high or 1.0
    sampled = sampled_spread_band(_variances(evidence), evidence.distinct, level / 2).high or 1.0
    return Band(None, max(math.sqrt(within * sampled), 1 + TOLERANCE))


def _variances(evidence: Evidence) -> Tensor:
    """Variances along the principal axes of the draws: too few of them where draws are few, so that bands are wide."""
    scaled = evidence.centered * (evidence.weights[:, None] * evidence.n).sqrt()
    return torch.linalg.eigvalsh(scaled @ scaled.mT).clamp_min(0.0)


def _known(evidence: Evidence, level: float) -> Band | None:
    """The band of as many draws of the exact posterior; None where that is not known quickly."""
    prior = evidence.closed_form
    if prior is None:
        return None
    if prior.dimension > LARGEST:
        evidence.omitted["spread: beside the exact posterior"] = (
            f"signals of {prior.dimension} values are too large, at most {LARGEST}"
        )
        return None
    try:
        posterior = prior.posterior(evidence.likelihood)
    except MidguideError:
        return None
    rows, sigma = evidence.likelihood, float(evidence.likelihood.sigma_y)  # pyright: ignore[reportAttributeAccessIssue]
    operator = rows.operator

    def measured(x: Tensor) -> Tensor:
        many = operator.select(torch.zeros(len(x), dtype=torch.long))
        return many(x.to(rows.y)).cpu().double()[:, evidence.measured[0]] / sigma

    if isinstance(posterior, Gaussian):
        half = measured(posterior.covariance_matrix().reshape(-1, *prior.event_shape))
        total = torch.linalg.eigvalsh(measured(half.mT.reshape(-1, *prior.event_shape))).clamp_min(0.0)
        mean = float(total.sum()) / evidence.values
        band = sampled_spread_band(total, evidence.distinct, level)
        low, high = (math.sqrt(mean * limit) for limit in (band.low or 0.0, band.high or 0.0))
    else:
        low, high = _simulated(measured(posterior.sample(TRIALS)), evidence, level)
    if evidence.group > 1 or evidence.weighted:
        low = 0.0  # particles are related in a way that weights do not tell
    return Band(low * (1 - EXACT), high * (1 + EXACT))


def _simulated(pool: Tensor, evidence: Evidence, level: float) -> tuple[float, float]:
    """Least and largest spread among trials of as many draws of a pool."""
    n, trials = max(int(evidence.distinct), 2), max(TRIALS, int(2 / level))
    picks = torch.randint(len(pool), (trials, n), generator=torch.Generator().manual_seed(0))
    pool = pool - pool.mean(0)
    counts = pool.new_zeros(trials, len(pool)).scatter_add_(1, picks, pool.new_ones(picks.shape))
    squares = counts @ pool.square().sum(1) - (counts @ pool).square().sum(1) / n
    ordered = (squares / (n - 1) / pool.shape[1]).sort().values
    k = max(int(level / 2 * trials) - 1, 0)
    return math.sqrt(float(ordered[k])), math.sqrt(float(ordered[-1 - k]))
