"""How often intervals and regions of draws hold the truth, beside what draws of the exact posterior attain.

Take L draws and a truth that is exchangeable with them. The interval from the k-th smallest to the k-th largest draw
holds the truth with probability `1 - 2 k / (L + 1)`. No interval between draws attains more than `(L - 1) / (L + 1)`.
Quantiles of the draws attain less than their name says: of 31 draws, the 0.90 interval attains 0.87 (`attained`).

References: Hermans et al. 2022, "A crisis in simulation-based inference? Beware, your posterior approximations can be
unfaithful" (expected coverage of regions of highest density).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from midguide.calibration.uniform import Array, checked
from midguide.errors import ConfigError, DataError


class Covered(NamedTuple):
    """How often regions of one level hold the truth.

    Args:
        level: what exact draws attain.
        share: what these draws attain, the mean over problems.
        ci95: half of its 95 % interval by Student's t over problems, which respects any dependence within a problem.
    """

    level: float
    share: float
    ci95: float


def needed(level: float) -> int:
    """The fewest draws whose extremes are as far apart as the central interval of a level: `2 / (1 - level) - 1`.

    Example:
        >>> needed(0.9), needed(0.5)
        (19, 3)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be in (0, 1), got {level:g}")
    return math.ceil(2 / (1 - level) - 1 - 1e-9)


def attained(draws: int, level: float) -> float:
    """How often the interval of the draws that are at least `level` central holds an exchangeable truth.

    It goes from the k-th smallest to the k-th largest of L draws, with `k = (1 - level) L / 2` rounded up. A user who
    cuts off the tails keeps these draws. Its coverage is `1 - 2 k / (L + 1)`, which is below the level.

    Example:
        >>> attained(31, 0.9), round(attained(999, 0.9), 4)
        (0.875, 0.9)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must be in (0, 1), got {level:g}")
    k = math.ceil((1 - level) * draws / 2 - 1e-9)
    return max(0.0, 1 - 2 * k / (draws + 1))


def covered(level: float, shares: Sequence[float] | Array) -> Covered:
    """The mean of one share for each problem: of its values whose truth is held, or 1 and 0 for a whole region.

    Raises:
        DataError: If there are fewer than two problems.
    """
    c = np.asarray(shares, dtype=np.float64)
    if len(c) < 2:
        raise DataError(f"coverage needs at least two problems, got {len(c)}", hint="raise --n")
    half = float(stats.t.ppf(0.975, len(c) - 1)) * float(c.std(ddof=1)) / math.sqrt(len(c))
    return Covered(level, float(c.mean()), half)


def highest_density(ranks: Sequence[float] | Array, levels: Sequence[float]) -> list[Covered]:
    """Coverage of regions of highest density, by ranks of the truth under the density (`log-posterior`).

    The region of a level holds the draws of greatest density. The truth is in it where its rank is at least one minus
    the level: exact draws attain every level.

    Example:
        >>> [round(c.share, 2) for c in highest_density([0.1, 0.3, 0.5, 0.7, 0.9], [0.4])]
        [0.4]
    """
    u = checked(ranks)
    return [covered(level, (u >= 1 - level).astype(np.float64)) for level in levels]


def tarp(ranks: Sequence[float] | Array, levels: Sequence[float]) -> list[Covered]:
    """Expected coverage by random points: ranks of the truth by the distance to a reference (`distance`).

    The region of a level is the ball around the reference that holds this share of the draws.

    References: Lemos et al. 2023, Algorithm 2.
    """
    u = checked(ranks)
    return [covered(level, (u <= level).astype(np.float64)) for level in levels]
