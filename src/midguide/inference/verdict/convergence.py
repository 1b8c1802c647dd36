"""What the method itself tells of its convergence: its signs, and its weights. These are criteria, not tests."""

from __future__ import annotations

from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.samplers.base import Sign

FEWEST = 5.0
"""A smaller effective sample size says that means rest on a few draws."""


@CHECKS.register("convergence")
def convergence(evidence: Evidence, level: float) -> list[Judged]:
    """The sampler's signs of convergence, each the largest of all draws, below the values that it calls high."""
    told = evidence.record.get("signs", {})
    if not told or not evidence.signs:
        raise LeftOut("the sampler declares no sign of convergence")
    rows = []
    for name, meaning in told.items():
        sign, values = Sign(**meaning), evidence.signs[name]
        bad = int((~(values <= sign.high)).sum())
        advice = f"{sign.meaning} in {bad} of {len(values)} draws: {sign.advice}" if bad else ""
        what, value = f"largest `{name}`", float(values.max())
        rows.append(
            Judged(check="convergence", what=what, value=value, low=None, high=sign.high, advice=advice, rank=3)
        )
    return rows


@CHECKS.register("weights")
def weights(evidence: Evidence, level: float) -> list[Judged]:
    """The effective sample size of weighted draws, and how many of them differ."""
    if not evidence.weighted and evidence.group == 1:
        raise LeftOut("the draws have no weights")
    value, low = evidence.distinct, min(FEWEST, evidence.n / 2)
    advice = ""
    if value < low:
        advice = "the weights collapsed: take more particles (`particles`) or more draws (`n`), or a better proposal"
    what = "draws that count, of weighted ones,"
    return [Judged(check="weights", what=what, value=value, low=low, high=None, advice=advice, rank=3)]
