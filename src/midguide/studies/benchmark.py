"""The benchmark: samplers on known posteriors at budgets of network calls, as a study, and its lines as CSV.

The protocol is fixed, so that any line can stand beside any other: `DRAWS` draws of each of `SEEDS` problems of each
kind, at `BUDGETS` of network calls. Groups of particles may ask for more draws, costly kinds for fewer problems.
Samplers see of a prior what a network shows: its denoiser and derivatives.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any

from midguide.catalogue import plugins
from midguide.errors import ConfigError, DataError, unknown
from midguide.known.base import KNOWN
from midguide.samplers.base import AUTO, SAMPLERS, make_sampler
from midguide.studies.report.rows import Report

DRAWS = 64
SEEDS = 3
BUDGETS = (25, 50, 100, 300)
ERROR, GAP, COVERAGE = "posterior_error", "mmse_gap", "coverage"
MEASURES = {
    ERROR: "posterior_error[by=energy]",
    "sliced_wasserstein": "sliced_wasserstein_2[slices=100]",
    GAP: "mmse_gap[unit=dB]",
    COVERAGE: "coverage[level=0.9]",
}
"""Short names of the metrics that every line has."""
REFERENCES = ("exact", "prior")
"""What samplers are held against: the floor, and what ignores the observation."""
PRESETS = (
    "matheron:islands",
    "tds:islands",
    "mcgdiff:islands",
    "fps:smc",
    "mgps:paper",
    "dps:annealed",
    "pgdm:score",
)
"""Presets that have a line of their own."""
FILE = "leaderboard.csv"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One sampler on one problem at one budget: means over the problem's seeds.

    Args:
        problem: name in `midguide list known`.
        sampler: as users write it.
        budget: network calls of a draw at most; 0 for what makes none.
        seeds: problems with a value.
        failures: problems without one.
        forwards: network forwards of a draw.
        vjps: vector-Jacobian products of a draw.
        error: `posterior_error`, 0 exact, 1 as the prior; `error_ci95` half of its 95 % interval over seeds.
        sliced_wasserstein: of order 2, in the unit of the signal.
        gap: squared error of the mean above the least possible one, dB.
        coverage: share of exact draws in the central 90 % intervals of the draws.
    """

    problem: str
    sampler: str
    budget: int
    seeds: int
    failures: int
    forwards: float
    vjps: float
    error: float
    error_ci95: float
    sliced_wasserstein: float
    gap: float
    gap_ci95: float
    coverage: float
    coverage_ci95: float

    @property
    def calls(self) -> float:
        """Forwards and vector-Jacobian products together."""
        return self.forwards + self.vjps


def every_problem() -> list[str]:
    """The known posteriors that need no settings, in the order of their families."""
    entries = {name: entry for name, entry in KNOWN.items() if not entry.required()}
    return sorted(entries, key=lambda name: (str(entries[name].facts.get("family")), name))


def every_sampler() -> list[str]:
    """The samplers of signals, the presets that have a line of their own, and the rule that chooses one."""
    names = [name for name in SAMPLERS if name != "unconditional" and not make_sampler(name, {}).needs.autoencoder]
    return [*names, *PRESETS, AUTO]


def plan(
    samplers: Sequence[str],
    problems: Sequence[str] = (),
    budgets: Sequence[int] = BUDGETS,
    settings: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The study of samplers on known posteriors, as the plain values of its file.

    Args:
        samplers: what to run, by names, presets or `FILE.py:NAME`.
        problems: names of known posteriors, with * and ?, or `FILE.py:NAME`; all by default.
        budgets: of network calls.
        settings: of the samplers.

    Raises:
        ConfigError: If a problem is unknown, or needs settings.
    """
    own = {"settings": dict(settings)} if settings else {}
    rows: list[dict[str, Any]] = [{"spec": spec, "where_possible": True, **own} for spec in samplers]
    groups = {spec: make_sampler(spec, settings or {}).needs.group for spec in samplers if spec != AUTO}
    overrides = [
        {"sampler": f"{spec}, budget *", "samples": math.ceil(DRAWS / group) * group}
        for spec, group in groups.items()
        if DRAWS % group
    ]
    head = {"name": "benchmark", "samples": DRAWS, "metrics": list(MEASURES.values()), "budgets": list(budgets)}
    return {
        "study": head,
        "problems": [_problem(name) for name in _chosen(problems)],
        "samplers": rows + [{"spec": spec} for spec in REFERENCES],
        **({"overrides": overrides} if overrides else {}),
    }


def _problem(name: str) -> dict[str, Any]:
    """The table of a problem."""
    seeds = int(KNOWN[name].facts.get("seeds", SEEDS))
    return {"kind": "known", "label": name, "problem": name, "seeds": list(range(seeds))}


def _chosen(wanted: Sequence[str]) -> list[str]:
    every, found = every_problem(), dict[str, None]()
    for pattern in wanted:
        matching = [name for name in every if fnmatchcase(name, pattern)]
        if not matching:
            entry = KNOWN[pattern] if plugins.PLACE.match(pattern) or pattern in KNOWN else None
            if entry is None:
                raise unknown("known posterior", pattern, every)
            if entry.required():
                needed = ", ".join(f"`{name}`" for name in entry.required())
                raise ConfigError(
                    f"`{pattern}` needs the settings {needed}", hint='write a study with kind = "known" and settings'
                )
            matching = [pattern]
        found |= dict.fromkeys(matching)
    return list(found) if wanted else every


def lines_of(report: Report) -> list[Line]:
    """The lines of a report of such a study, as far as they are there."""
    names = {name: short for short, name in MEASURES.items()}
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in report.rows:
        cells.setdefault((row.problem, row.sampler), {})[names[row.metric]] = row
    return [_line(report, problem, sampler, rows) for (problem, sampler), rows in cells.items()]


def _line(report: Report, problem: str, sampler: str, rows: Mapping[str, Any]) -> Line:
    budget = int(report.swept[sampler].get("budget", 0))
    error = rows[ERROR]

    def value(name: str, part: str = "mean") -> float:
        found = getattr(rows[name], part)
        return math.nan if found is None else round(found, 6)

    return Line(
        problem=problem,
        sampler=sampler.removesuffix(f", budget {budget:g}"),
        budget=budget,
        seeds=error.n,
        failures=error.failures,
        forwards=error.network_forwards or 0.0,
        vjps=error.network_vjps or 0.0,
        error=value(ERROR),
        error_ci95=value(ERROR, "ci95"),
        sliced_wasserstein=value("sliced_wasserstein"),
        gap=value(GAP),
        gap_ci95=value(GAP, "ci95"),
        coverage=value(COVERAGE),
        coverage_ci95=value(COVERAGE, "ci95"),
    )


def as_csv(lines: Iterable[Line]) -> str:
    """Lines as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return text.getvalue()


def from_csv(text: str) -> list[Line]:
    """The lines that `as_csv` wrote.

    Raises:
        DataError: If it is something else.
    """
    kinds = {"problem": str, "sampler": str, "budget": int, "seeds": int, "failures": int}
    try:
        return [
            Line(**{field.name: kinds.get(field.name, float)(row[field.name]) for field in fields(Line)})
            for row in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"these are not lines of the benchmark: {error}", hint="make them with --all") from error


def ours() -> list[Line]:
    """The lines that come with the package."""
    return from_csv(resources.files("midguide.known").joinpath(FILE).read_text("utf-8"))
