"""Do two halves of the draws agree? Independent draws do; groups of particles, or the states of a chain, may not."""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.maths.chances import student_limit

UNITS = 8
"""Fewest independent parts of which halves are compared."""


@CHECKS.register("repeat")
def repeat(evidence: Evidence, level: float) -> list[Judged]:
    """The difference of two halves of the draws over its standard error, of the mean signal and of the residuals."""
    units = evidence.n // evidence.group
    if evidence.weighted and evidence.group == 1:
        raise LeftOut("weighted draws have no halves of equal weight")
    if units < UNITS:
        what = "draws" if evidence.group == 1 else f"groups of {evidence.group} draws"
        raise LeftOut(f"there are {units} {what} to split, fewer than {UNITS}")
    numbers = {"level": evidence.draws.flatten(1).double().mean(1).cpu()}
    if evidence.problem is not None and bool(evidence.measured.any()):
        numbers["chi-square"] = evidence.chi_square
    limit = student_limit(units - 2, level / len(numbers))
    rows = []
    for name, values in numbers.items():
        value = _student(_of_groups(values, evidence))
        advice = ""
        if not value <= limit:
            advice = "the halves disagree: draw more, in more groups, or let the chain run longer (`steps`)"
        what = f"difference of the {name} between halves, in standard errors,"
        rows.append(Judged(check="repeat", what=what, value=value, low=None, high=limit, advice=advice, rank=4))
    return rows


def _of_groups(values: Tensor, evidence: Evidence) -> Tensor:
    """The weighted mean of each group."""
    weights = evidence.weights.reshape(-1, evidence.group)
    return (weights * values.reshape(-1, evidence.group)).sum(1) / weights.sum(1).clamp_min(1e-300)


def _student(values: Tensor) -> float:
    """Student's statistic of the first half against the second, with a common variance; its size."""
    first, second = values.tensor_split(2)
    freedom = len(values) - 2
    square = ((first - first.mean()).square().sum() + (second - second.mean()).square().sum()) / freedom
    error = (square * (1 / len(first) + 1 / len(second))).sqrt()
    gap = (first.mean() - second.mean()).abs()
    return float(torch.where(error > 1e-12 * values.abs().amax(), gap / error, 0.0))
