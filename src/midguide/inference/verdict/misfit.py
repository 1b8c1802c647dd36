"""Do the draws explain the data, no worse and no better than the noise has it?

Let x be a draw of the prior and y its measurement. A draw of the exact posterior given y has with y the joint law that
x has. So its standardized residual is that of a truth: m independent standard normal values. Their mean square is a
chi-square over m, and neighboring ones are uncorrelated. The mean over several draws lies between the shortfalls of
these laws (`maths.chances`).
"""

from __future__ import annotations

import math

from midguide.inference.verdict import causes
from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.maths.chances import chi_square_band, normal_limit

TOLERANCE = 0.1
"""A mean square that differs from 1 by less is not named: no prior is the law of its data that exactly."""
RELATED = 0.1
"""The same for the correlation of neighboring residuals."""
PAIRS = 50
"""Fewest neighbors of which a correlation is judged."""


@CHECKS.register("misfit")
def misfit(evidence: Evidence, level: float) -> list[Judged]:
    """Chi-square per measured value over draws, in a two-sided band."""
    m = evidence.values
    if doubt := evidence.likelihood.doubt(evidence.mean.to(evidence.likelihood.y.device)):
        raise LeftOut(doubt)
    value = evidence.average(evidence.chi_square)
    freedom = m / (1 + evidence.likelihood.kurtosis(evidence.mean.to(evidence.likelihood.y.device)) / 2)
    band = chi_square_band(max(freedom, 1.0), level, averaged=evidence.n > 1).widened(TOLERANCE)
    advice, rank = "", 5
    if not band.holds(value):
        advice, rank = causes.of_misfit(evidence, value, band)
    low, high = band
    what = "chi-square per measured value over draws"
    return [Judged(check="misfit", what=what, value=value, low=low, high=high, advice=advice, rank=rank)]


@CHECKS.register("structure")
def structure(evidence: Evidence, level: float) -> list[Judged]:
    """Correlation of the residuals of neighboring values: noise has none."""
    if doubt := evidence.likelihood.doubt(evidence.mean.to(evidence.likelihood.y.device)):
        raise LeftOut(doubt)
    if evidence.average(evidence.chi_square) < 0.5:
        raise LeftOut("the residuals are too small to be noise")
    value, pairs = evidence.correlation
    if pairs < PAIRS:
        raise LeftOut(f"there are {pairs} pairs of neighboring values, fewer than {PAIRS}")
    # a sum of products has heavier tails than a normal variable: the second term of a chi-square's
    z = normal_limit(level, averaged=evidence.n > 1)
    high = max(RELATED, (z + z * z / math.sqrt(pairs)) / math.sqrt(pairs))
    advice, rank = "", 6
    if not abs(value) <= high:
        advice, rank = causes.of_structure(evidence, value)
    what = "correlation of neighboring residuals"
    return [Judged(check="structure", what=what, value=value, low=-high, high=high, advice=advice, rank=rank)]
