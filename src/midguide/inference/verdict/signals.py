"""Do the draws look like signals of the prior? Over all data, those of right posteriors are draws of it."""

from __future__ import annotations

from midguide.inference.verdict import causes, looks
from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence


@CHECKS.register("signals")
def signals(evidence: Evidence, level: float) -> list[Judged]:
    """How far level, contrast, extremes, roughness and layout of the draws are from those of signals of the prior."""
    known = looks.statistics(evidence)
    value, high = looks.distance(evidence, evidence.draws), known.limit(level)
    advice, rank = "", 4
    if not value <= high:
        advice, rank = causes.of_looks(evidence)
    what = "distance of the draws from signals of the prior, in standard deviations,"
    return [Judged(check="signals", what=what, value=value, low=None, high=high, advice=advice, rank=rank)]
