"""A verdict for each test quantity at a level for the whole family, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from midguide.calibration.uniform import Array, band, checked, holm, points_for, uniformity
from midguide.errors import ConfigError, DataError

LEAST_PROBLEMS, LEAST_DRAWS = 20, 7
"""Below these, ranks that pass say next to nothing."""

REJECTED, NOTHING_FOUND = "rejected", "nothing found"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What ranks by one test quantity say.

    Args:
        quantity: its name.
        n: ranks, one for each problem.
        p: of their uniformity.
        adjusted: the same, to be compared with the level of the whole family.
        verdict: `rejected` or `nothing found`.
        meaning: how the ranks deviate, in words; empty where nothing is found.
        mean: of the ranks, 0.5 where they are uniform.
        spread: their standard deviation over that of uniform ones: above 1 where the truth is too often extreme.
    """

    quantity: str
    n: int
    p: float
    adjusted: float
    verdict: str
    meaning: str
    mean: float
    spread: float


def check_counts(problems: int, draws: int) -> None:
    """Refuse so few problems or draws that ranks which pass would say nothing.

    Raises:
        ConfigError: If there are too few.

    Example:
        >>> check_counts(200, 31)
    """
    if problems < LEAST_PROBLEMS:
        raise ConfigError(
            f"{problems} problems are too few for a claim", hint=f"take at least {LEAST_PROBLEMS}, better 200"
        )
    if draws < LEAST_DRAWS:
        raise ConfigError(
            f"{draws} draws of each problem are too few for a claim: their spread is not seen",
            hint=f"take at least {LEAST_DRAWS}; 31 make the ranks fill 32 bins",
        )


def judge(
    ranks: Mapping[str, Sequence[float] | Array],
    draws: int,
    *,
    level: float = 0.05,
    meanings: Mapping[str, tuple[str, str]] | None = None,
) -> list[Judged]:
    """A verdict for each test quantity. Together they reject exact draws with probability `level` at most.

    Args:
        ranks: of the truth, in [0, 1], shape (N,), by quantity.
        draws: of each problem, among which the truth has its rank.
        level: probability of a false alarm in the whole family.
        meanings: of truths that are too low and too high among the draws, by quantity.

    Raises:
        ConfigError: If there are too few problems or draws for a claim, or no quantity.
        NumericalError: If ranks are NaN.
        DataError: If all ranks of a quantity are the same.

    Example:
        >>> exact = [(i + 0.5) / 32 for i in range(32)]
        >>> [j.verdict for j in judge({"values": exact, "narrow": [i % 2 for i in range(32)]}, 31)]
        ['nothing found', 'rejected']
    """
    if not 0 < level < 1:
        raise ConfigError(
            f"level must be in (0, 1), got {level:g}", hint="0.05 rejects right draws once in twenty runs"
        )
    if not ranks:
        raise ConfigError("there is no test quantity to judge by", hint="`midguide list quantities`")
    values = {name: _varied(name, u) for name, u in ranks.items()}
    for u in values.values():
        check_counts(len(u), draws)
    p_values = [uniformity(u, points_for(draws)) for u in values.values()]
    said = meanings or {}
    return [
        _judged(name, u, p, adjusted, level, said.get(name, ("draws too high", "draws too low")))
        for (name, u), p, adjusted in zip(values.items(), p_values, holm(p_values), strict=True)
    ]


def resolution(problems: int, draws: int, level: float = 0.05) -> float:
    """The half width of the band in the middle: smaller deviations of the distribution of ranks are not seen.

    Example:
        >>> 0.08 < resolution(200, 31) < 0.12
        True
    """
    found = band(problems, points_for(draws), 1 - level)
    return float((found.high - found.low).max() / 2)


def _varied(name: str, ranks: Sequence[float] | Array) -> Array:
    u = checked(ranks)
    if len(u) > 1 and (u == u[0]).all() and 0 < u[0] < 1:
        raise DataError(f"all ranks by `{name}` are {u[0]:g}: the test quantity is constant", hint="take another one")
    return u


def _judged(name: str, u: Array, p: float, adjusted: float, level: float, said: tuple[str, str]) -> Judged:
    rejected = adjusted <= level
    mean, spread = float(u.mean()), float(np.sqrt(np.square(u - 0.5).mean() * 12))
    return Judged(
        quantity=name,
        n=len(u),
        p=p,
        adjusted=adjusted,
        verdict=REJECTED if rejected else NOTHING_FOUND,
        meaning=_meaning(mean, spread, len(u), said) if rejected else "",
        mean=mean,
        spread=spread,
    )


def _meaning(mean: float, spread: float, n: int, said: tuple[str, str]) -> str:
    """The greater of two deviations: of the mean rank, and of the variance of ranks, both in standard errors."""
    shift = (mean - 0.5) * math.sqrt(12 * n)
    variance = spread**2 - 12 * (mean - 0.5) ** 2
    swell = (variance - 1) / math.sqrt(0.8 / n)  # 12 (u - 1/2)^2 has the variance 0.8 for uniform u
    if abs(shift) >= abs(swell):
        return said[0] if shift < 0 else said[1]
    return "draws vary too little" if swell > 0 else "draws vary too much"
