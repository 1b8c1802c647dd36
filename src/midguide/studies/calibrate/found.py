"""What a calibration found: a verdict for each test quantity, coverage, and scores, by sampler."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from midguide.calibration.coverage import Covered, attained, covered, highest_density, needed, tarp
from midguide.calibration.uniform import Array
from midguide.calibration.verdict import LEAST_PROBLEMS, REJECTED, Judged, judge, resolution
from midguide.catalogue.base import short
from midguide.errors import DataError
from midguide.metrics.ranks import QUANTITIES, metric_name
from midguide.studies.calibrate.plan import LEVELS, SCORES, Plan, coverage_name
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Rows, Unit
from midguide.studies.sources.base import is_reference
from midguide.studies.spec.study import Study

SHOWN = tuple(i / 20 for i in range(1, 20))
"""Levels of the curves of whole regions."""


class Mean(NamedTuple):
    """A mean over problems, with half of its 95 % interval."""

    mean: float
    ci95: float


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What was found of one sampler.

    Args:
        label: of the sampler.
        spec: as it was named.
        problems: how many were answered.
        failed: how many were not, by reason.
        judged: the verdict of each test quantity.
        left_out: test quantities that were not judged, and why.
        ranks: of the truth by each quantity.
        central: coverage of central intervals, pooled over values.
        highest: coverage of regions of highest density, where the density is known.
        tarp: coverage by random points.
        scores: of each proper score, and chi-square.
        values: the same for each problem, NaN where there is none.
        behind: how much worse each score is than that of the reference, paired by problem.
        cost: forwards and vjps of a draw, seconds of a problem.
    """

    label: str
    spec: str
    problems: int
    failed: Mapping[str, int]
    judged: tuple[Judged, ...]
    left_out: Mapping[str, str]
    ranks: Mapping[str, Array]
    central: tuple[Covered, ...]
    highest: tuple[Covered, ...]
    tarp: tuple[Covered, ...]
    scores: Mapping[str, Mean]
    values: Mapping[str, Array]
    behind: Mapping[str, Mean]
    cost: Mapping[str, float]

    @property
    def worst(self) -> Judged | None:
        """The quantity of the least p-value."""
        return min(self.judged, key=lambda j: j.p, default=None)

    @property
    def rejected(self) -> tuple[Judged, ...]:
        """The quantities that reject, the clearest first."""
        return tuple(sorted((j for j in self.judged if j.verdict == REJECTED), key=lambda j: j.p))

    def verdict(self) -> str:
        """In one line."""
        if not self.judged:
            return "not judged: " + next(iter([*self.failed, *self.left_out.values()]), "no problem was answered")
        failed = f"; {sum(self.failed.values())} problems failed and are not judged" if self.failed else ""
        if not self.rejected:
            return f"nothing found by {len(self.judged)} test quantities{failed}"
        first = self.rejected[0]
        more = f", and {len(self.rejected) - 1} more" if len(self.rejected) > 1 else ""
        return f"rejected by {first.quantity} ({first.meaning}; p {first.adjusted:.1g}){more}{failed}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a calibration found.

    Args:
        plan: what was asked.
        samplers: by sampler, in the order of the plan.
        reference: the label of the sampler that scores are compared with.
        left_out: test quantities that these problems do not have, and why.
        missing: units that have not run.
    """

    plan: Plan
    samplers: tuple[Calibrated, ...]
    reference: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0

    def notes(self) -> list[str]:
        """What the numbers cannot say, in sentences."""
        n, draws, level = self.plan.n, self.plan.draws, self.plan.level
        said = [
            f"Exact draws are rejected with probability {level:g} at most, by all quantities of a sampler together.",
            f"{n} problems show a distribution of ranks that is off by {resolution(n, draws, level):.2f} or more.",
            f"Of {draws} exact draws the central 90 % hold the truth with probability {attained(draws, 0.9):.3f}. "
            "Coverage here is by ranks, which attains its level.",
            "No test sees a wrong prior: truths are its own draws, or those that were given.",
        ]
        too_fine = [level for level in LEVELS if needed(level) > draws]
        said += [f"Coverage at {level:g} needs {needed(level)} draws and is left out." for level in too_fine]
        return said

    def as_dict(self, *, ranks: bool = False) -> dict[str, Any]:
        """Everything as plain values, on request with the ranks themselves."""
        return {
            "n": self.plan.n,
            "draws": self.plan.draws,
            "seed": self.plan.seed,
            "level": self.plan.level,
            "reference": self.reference,
            "left_out": dict(self.left_out),
            "missing": self.missing,
            "notes": self.notes(),
            "samplers": [_plain(found) | (_listed(found) if ranks else {}) for found in self.samplers],
        }


def find(plan: Plan, study: Study, store: Store) -> Found:
    """Judge what is stored of a study that a plan made.

    Raises:
        DataError: If nothing is stored, or every rank of a quantity is NaN.
    """
    units: dict[str, list[Unit]] = {}
    for unit in study.units:
        units.setdefault(unit.sampler_label, []).append(unit)
    rows = {label: [store.read(unit) for unit in cell] for label, cell in units.items()}
    missing = sum(found is None for cell in rows.values() for found in cell)
    tables = {label: [_by_metric(found or []) for found in cell] for label, cell in rows.items()}
    if not any(found for cell in rows.values() for found in cell):
        raise DataError(f"{store.folder} holds no results of this calibration", hint="run it first")
    reference = _reference(units, tables)
    made = [
        _calibrated(plan, units[label][0], table, tables[reference], [r for r in rows[label] if r])
        for label, table in tables.items()
    ]
    return Found(plan=plan, samplers=tuple(made), reference=reference, left_out=plan.left_out(), missing=missing)


Table = list[dict[str, tuple[float | None, str]]]
"""For each problem the value of each metric and the reason why there is none."""


def _by_metric(rows: Rows) -> dict[str, tuple[float | None, str]]:
    return {row["metric"]: (row["value"], row["failure"] or "") for row in rows}


def _column(table: Table, metric: str) -> Array:
    """The values of a metric for all problems, NaN where there is none."""
    values = [row.get(metric, (None, ""))[0] for row in table]
    return np.array([math.nan if value is None else value for value in values])


def _reference(units: Mapping[str, list[Unit]], tables: Mapping[str, Table]) -> str:
    """The exact posterior, or the sampler of the least energy score."""
    for label, cell in units.items():
        if cell[0].spec == "exact":
            return label
    methods = [label for label, cell in units.items() if not is_reference(cell[0].spec)] or list(units)

    def score(label: str) -> float:
        found = _column(tables[label], SCORES[1])
        return float(np.nanmean(found)) if not np.isnan(found).all() else math.inf

    return min(methods, key=score)


def _calibrated(plan: Plan, unit: Unit, table: Table, best: Table, rows: list[Rows]) -> Calibrated:
    ranks, left_out = _ranks(plan, unit, table)
    failed = Counter(_of_draws(row) for row in table if _of_draws(row))
    meanings = {name: (entry.facts["low"], entry.facts["high"]) for name, entry in QUANTITIES.items() if entry.facts}
    judged = judge(ranks, plan.draws, level=plan.level, meanings=meanings) if ranks and plan.claims else []
    return Calibrated(
        label=unit.sampler_label,
        spec=unit.spec,
        problems=len(table) - sum(failed.values()) - sum(not row for row in table),
        failed=failed,
        judged=tuple(judged),
        left_out=left_out,
        ranks=ranks,
        central=tuple(_central(table)),
        highest=tuple(highest_density(ranks["log-posterior"], SHOWN)) if "log-posterior" in ranks else (),
        tarp=tuple(tarp(ranks["distance"], SHOWN)) if "distance" in ranks else (),
        scores={short_score(name): mean for name in SCORES if (mean := _mean(_column(table, name)))},
        values={short_score(name): _column(table, name) for name in SCORES},
        behind={
            short_score(name): mean
            for name in SCORES[:3]
            if table is not best and (mean := _mean(_column(table, name) - _column(best, name)))
        },
        cost=_cost(rows),
    )


def short_score(name: str) -> str:
    """A score without its protocol."""
    return name.partition("[")[0]


def _ranks(plan: Plan, unit: Unit, table: Table) -> tuple[dict[str, Array], dict[str, str]]:
    """The ranks of each quantity that enough problems have, and why others are left out."""
    names = {short(metric_name(spec)): short(spec) for spec in (*QUANTITIES, *plan.quantities)}
    found: dict[str, Array] = {}
    left_out: dict[str, str] = {}
    for metric, name in names.items():
        if metric not in {short(m) for m in unit.metrics}:
            continue
        values = _column(table, metric)
        known = values[~np.isnan(values)]
        if len(known) >= LEAST_PROBLEMS:
            found[name] = known
        reasons = [row[metric][1] for row in table if metric in row and row[metric][1] and not _of_draws(row)]
        if reasons:
            left_out[name] = f"{len(reasons)} of {len(table)} problems: {Counter(reasons).most_common(1)[0][0]}"
            if any(reason.startswith("NumericalError") for reason in reasons):
                found.pop(name, None)  # ranks that are left after NaN are those of easier problems
    return found, left_out


def _of_draws(row: Mapping[str, tuple[float | None, str]]) -> str:
    """Why a problem has no draws; empty where it has."""
    reasons = {reason for _, reason in row.values()}
    return next(iter(reasons)) if len(reasons) == 1 else ""


def _central(table: Table) -> Iterable[Covered]:
    for level in LEVELS:
        values = _column(table, coverage_name(level))
        known = values[~np.isnan(values)]
        if len(known) > 1:
            yield covered(level, known)


def _mean(values: Array) -> Mean | None:
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Mean(float(known.mean()), half)


def _cost(rows: list[Rows]) -> dict[str, float]:
    """Network calls of a draw and seconds of a problem, mean over problems."""
    names = ("network_forwards", "network_vjps", "seconds")
    found = {name: [r[0][name] for r in rows if r[0][name] is not None] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _plain(found: Calibrated) -> dict[str, Any]:
    return {
        "label": found.label,
        "sampler": found.spec,
        "problems": found.problems,
        "failed": dict(found.failed),
        "verdict": found.verdict(),
        "rejected": bool(found.rejected) if found.judged else None,
        "quantities": [asdict(judged) for judged in found.judged],
        "left_out": dict(found.left_out),
        "coverage": [covered._asdict() for covered in found.central],
        "highest_density": [covered._asdict() for covered in found.highest],
        "tarp": [covered._asdict() for covered in found.tarp],
        "scores": {name: mean._asdict() for name, mean in found.scores.items()},
        "behind": {name: mean._asdict() for name, mean in found.behind.items()},
        "cost": dict(found.cost),
    }


def _listed(found: Calibrated) -> dict[str, Any]:
    return {"ranks": {name: [round(float(u), 4) for u in values] for name, values in found.ranks.items()}}
