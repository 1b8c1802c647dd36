"""What a study found: rows over problems with intervals, costs, failures and the expected numbers beside them.

A row's mean and interval are over problems (the seeds of one problem are averaged first); the interval is Student's.
`n` counts the problems with a value, `failures` the units without one: neither is ever dropped.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from midguide.catalogue.base import short
from midguide.errors import ConfigError, DataError
from midguide.studies.engine.store import SCHEMA, Store
from midguide.studies.report.expected import Expected
from midguide.studies.report.sets import measure_sets
from midguide.studies.sources.base import is_reference
from midguide.studies.spec.study import LeftOut, Study

# Every aggregate is ordered: sums in another order differ in the last digit, and equal results must give equal reports.
_PER_PROBLEM = """
CREATE TEMP TABLE per_problem AS
SELECT min(c.place) AS place, c.problem, c.prior, c.sampler, c.preset, r.metric, c.problem_seed,
       avg(r.value ORDER BY c.place) AS value, count(*) FILTER (r.value IS NULL) AS failures,
       avg(r.network_forwards ORDER BY c.place) AS forwards, avg(r.network_vjps ORDER BY c.place) AS vjps,
       avg(r.seconds ORDER BY c.place) AS seconds, avg(r.effective_sample_size ORDER BY c.place) AS effective
FROM results r JOIN cells c USING (address)
GROUP BY ALL
"""
_ROWS = """
SELECT min(place), problem, any_value(prior), sampler, any_value(preset), metric,
       avg(value ORDER BY place), stddev_samp(value ORDER BY place), count(value), sum(failures)::BIGINT,
       avg(forwards ORDER BY place), avg(vjps ORDER BY place), avg(seconds ORDER BY place),
       avg(effective ORDER BY place), quantile_cont(value, [0.25, 0.5, 0.75])
FROM per_problem GROUP BY problem, sampler, metric ORDER BY min(place)
"""
_PAIRS = """
SELECT min(b.place), b.problem, b.sampler, b.metric,
       avg(b.value - a.value ORDER BY b.place), stddev_samp(b.value - a.value ORDER BY b.place), count(*)
FROM per_problem b JOIN per_problem a USING (problem, metric, problem_seed)
WHERE a.sampler = ? AND b.sampler <> a.sampler AND a.value IS NOT NULL AND b.value IS NOT NULL
GROUP BY b.problem, b.sampler, b.metric ORDER BY min(b.place)
"""
_SINGLES = (
    "SELECT problem, metric, sampler, problem_seed, value FROM per_problem WHERE value IS NOT NULL ORDER BY place"
)

_VERDICTS = """
SELECT DISTINCT c.place, c.problem, c.sampler, r.verdict FROM results r JOIN cells c USING (address)
WHERE r.verdict IS NOT NULL ORDER BY c.place
"""


@dataclass(frozen=True)
class Row:
    """One line of the report; None where a number is not known. Network calls are per sample, seconds per unit.

    The effective sample size is that of a unit's draws; None where draws have no weights. Quartiles are over problems.
    """

    problem: str
    prior: str
    sampler: str
    preset: str | None
    metric: str
    mean: float | None
    ci95: float | None
    n: int
    failures: int
    network_forwards: float | None
    network_vjps: float | None
    seconds: float | None
    expected: float | None
    effective_sample_size: float | None
    quartile1: float | None = None
    median: float | None = None
    quartile3: float | None = None


KEYS = tuple(field.name for field in fields(Row))


class Difference(NamedTuple):
    """The mean over problems of (sampler - baseline), with its interval; None for a single problem."""

    problem: str
    sampler: str
    metric: str
    mean: float
    ci95: float | None
    n: int


class Place(NamedTuple):
    """Where a row of a sweep stands in a figure: on the curve of this name, at a value of the first swept setting."""

    curve: str
    setting: str
    value: float


class Minimizers(NamedTuple):
    """For how many problems a curve is least at each value of its setting, the values in ascending order."""

    problem: str
    metric: str
    curve: str
    setting: str
    counts: dict[float, int]


class Verdicts(NamedTuple):
    """Of how many units of a cell the checks found something, and what most often."""

    problem: str
    sampler: str
    judged: int
    found: int
    most: str


@dataclass(frozen=True)
class Report:
    """A study's results as far as they are there.

    Args:
        title: the study's title, or its name.
        rows: one per problem, sampler and metric, in the order of the study's file.
        baseline: the sampler that the others are compared with.
        differences: of the others from it, paired by problem.
        expected: the numbers of others for this experiment.
        swept: by sampler, the settings that the study varies, with their values.
        minimizers: of the curves that they make, where the study asks for them.
        missing: units that are not there yet.
        left_out: cells that the study's file leaves out.
        notes: what could not be computed.
        old: how many results other code made, in words; empty where none.
        verdicts: one per problem and sampler, where there are any.
    """

    title: str
    rows: list[Row]
    baseline: str
    differences: list[Difference]
    expected: list[Expected]
    swept: dict[str, dict[str, float]]
    minimizers: list[Minimizers]
    missing: int
    left_out: list[LeftOut]
    notes: list[str]
    old: str = ""
    verdicts: Sequence[Verdicts] = ()

    @property
    def problems(self) -> list[str]:
        """The problems' labels in their order."""
        return list(dict.fromkeys(row.problem for row in self.rows))

    @property
    def samplers(self) -> list[str]:
        """The samplers' labels in their order."""
        return list(dict.fromkeys(row.sampler for row in self.rows))

    @property
    def sources(self) -> list[str]:
        """Where the numbers come from that stand beside ours."""
        known = {(row.problem, row.sampler, row.metric) for row in self.rows}
        return sorted({e.source for e in self.expected if (e.problem, e.sampler, e.metric) in known})

    @property
    def metrics(self) -> list[str]:
        """The metrics' names in their order."""
        return list(dict.fromkeys(row.metric for row in self.rows))

    def place(self, sampler: str) -> Place | None:
        """Where the rows of a sampler stand; None where nothing of it is swept."""
        return _place(sampler, self.swept[sampler])

    def cell(self, problem: str, metric: str) -> list[Row]:
        """The rows of one problem and metric: one per sampler."""
        return [row for row in self.rows if (row.problem, row.metric) == (problem, metric)]


def make_report(study: Study, store: Store, baseline: str | None = None) -> Report:
    """Aggregate what is stored of a study.

    Args:
        study: its cells.
        store: their results.
        baseline: the label of the sampler that the others are compared with; the first that samples by default.

    Raises:
        ConfigError: If no sampler has the label `baseline`.
        DataError: If nothing is there yet.
    """
    baseline = _baseline(study, baseline)
    progress = store.progress(study.units)
    stored = progress.stored
    if not stored:
        raise DataError(f"{store.folder} has no results yet", hint="run the study first")
    known = {(e.problem, e.sampler, e.metric): e for e in store.expected}
    with duckdb.connect() as database:
        database.register("cells", _cells(study, {unit.address for unit in stored}))
        database.register("results", ds.dataset([str(store.path(unit)) for unit in stored], schema=SCHEMA))
        database.execute(_PER_PROBLEM)
        found = [_row(values, known) for values in database.execute(_ROWS).fetchall()]
        pairs = [_difference(values) for values in database.execute(_PAIRS, [baseline]).fetchall()]
        singles = database.execute(_SINGLES).fetchall() if study.head.minimizers else []
        verdicts = _verdicts(database.execute(_VERDICTS).fetchall())
    swept = {unit.sampler_label: dict(unit.swept) for unit in study.units}
    sets, notes = measure_sets(study, store)
    first = {(row.problem, row.sampler): row for row in reversed(found)}
    for one in sets:
        expected = known.get((one.problem, one.sampler, one.metric))
        value = None if expected is None else expected.value
        like = first[one.problem, one.sampler]  # which has the costs
        own = {"metric": one.metric, "mean": one.value, "n": one.images, "expected": value}
        found.append(replace(like, ci95=None, quartile1=None, median=None, quartile3=None, **own))
    order = {short(name): i for i, name in enumerate((*study.metrics, *study.head.set_metrics))}
    return Report(
        title=(study.head.title or study.head.name) + (" (SIMULATED)" if study.simulated else ""),
        rows=sorted(found, key=lambda row: order[row.metric]),
        baseline=baseline,
        differences=sorted(pairs, key=lambda pair: order[pair.metric]),
        expected=list(store.expected),
        swept=swept,
        minimizers=sorted(_minimizers(singles, swept), key=lambda found: order[found.metric]),
        missing=len(progress.missing) + len(progress.damaged),
        left_out=list(study.left_out),
        notes=notes,
        old=progress.about_old(),
        verdicts=verdicts,
    )


def interval(deviation: float | None, n: int) -> float | None:
    """Half the width of the 95 % interval of a mean of n values with this standard deviation; None below two."""
    return None if deviation is None or n < 2 else student(n - 1) * deviation / math.sqrt(n)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: exact to 3 digits for 1 and 2, by Cornish-Fisher to 0.4 % above.

    References: Abramowitz and Stegun 1964, 26.7.5.
    """
    if freedom <= 2:
        return (12.706, 4.303)[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def as_dicts(report: Report) -> list[dict[str, Any]]:
    """The rows as JSON objects with the keys of `Row`."""
    return [vars(row) for row in report.rows]


def as_csv(report: Report) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in as_dicts(report))
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value in CSV; a spreadsheet would run a text that begins like a formula, which an apostrophe prevents."""
    if not isinstance(value, str):
        return value
    shown = "".join(c if c.isprintable() else " " for c in value)
    return f"'{shown}" if shown.lstrip().startswith(("=", "+", "-", "@")) else shown


def _baseline(study: Study, wanted: str | None) -> str:
    labels = list(dict.fromkeys(unit.sampler_label for unit in study.units))
    if wanted is None:
        return next((unit.sampler_label for unit in study.units if not is_reference(unit.spec)), labels[0])
    if wanted not in labels:
        known = ", ".join(map(repr, labels))
        raise ConfigError(f"no sampler of this study is labeled {wanted!r}", hint=f"labels are: {known}")
    return wanted


def _cells(study: Study, addresses: set[str]) -> pa.Table:
    """Names of the stored cells, one line per unit; units of equal address have a line each."""
    lines = []
    for place, unit in enumerate(study.units):
        if unit.address in addresses:
            line = {"address": unit.address, "problem": unit.problem_label, "prior": Path(unit.problem.prior).stem}
            line |= {"sampler": unit.sampler_label, "preset": unit.preset, "problem_seed": unit.problem_seed}
            lines.append({**line, "place": place})
    schema = {name: pa.string() for name in ("address", "problem", "prior", "sampler", "preset")}
    return pa.Table.from_pylist(lines, schema=pa.schema(schema | {"problem_seed": pa.int64(), "place": pa.int64()}))


def _place(sampler: str, swept: dict[str, float]) -> Place | None:
    if not swept:
        return None
    setting, value = next(iter(swept.items()))
    return Place(sampler.replace(f", {setting} {value:g}", "", 1), setting, value)


def _minimizers(singles: Iterable[Sequence[Any]], swept: dict[str, dict[str, float]]) -> list[Minimizers]:
    """The minimizers of every curve, from problem, metric, sampler, seed and value of single problems."""
    curves: dict[tuple[str, str, str, str], dict[int, dict[float, float]]] = {}
    for problem, metric, sampler, seed, value in singles:
        if place := _place(sampler, swept[sampler]):
            curve = curves.setdefault((problem, metric, place.curve, place.setting), {})
            curve.setdefault(seed, {})[place.value] = value
    found = []
    for key, by_problem in curves.items():
        best = Counter(min(values, key=values.__getitem__) for values in by_problem.values())
        every = sorted({setting for values in by_problem.values() for setting in values})
        found.append(Minimizers(*key, {setting: best[setting] for setting in every}))
    return found


def _verdicts(units: Iterable[Sequence[Any]]) -> list[Verdicts]:
    """The verdicts of cells, from place, problem, sampler and verdict of units."""
    cells: dict[tuple[str, str], list[str]] = {}
    for _, problem, sampler, verdict in units:
        cells.setdefault((problem, sampler), []).append(verdict)
    made = []
    for cell, verdicts in cells.items():
        found = Counter(verdict for verdict in verdicts if verdict)
        made.append(Verdicts(*cell, len(verdicts), found.total(), max(found, key=found.__getitem__, default="")))
    return made


def _row(values: Sequence[Any], known: dict[tuple[str, str, str], Any]) -> Row:
    _, problem, prior, sampler, preset, metric, mean, deviation, n, failures, *costs, effective, quartiles = values
    forwards, vjps, seconds = costs
    low, middle, high = quartiles or (None, None, None)
    expected = known.get((problem, sampler, metric))
    return Row(
        problem=problem,
        prior=prior,
        sampler=sampler,
        preset=preset,
        metric=metric,
        mean=mean,
        ci95=interval(deviation, n),
        n=n,
        failures=failures,
        network_forwards=forwards,
        network_vjps=vjps,
        seconds=seconds,
        expected=None if expected is None else expected.value,
        effective_sample_size=effective,
        quartile1=low,
        median=middle,
        quartile3=high,
    )


def _difference(values: Sequence[Any]) -> Difference:
    _, problem, sampler, metric, mean, deviation, n = values
    return Difference(problem, sampler, metric, mean, interval(deviation, n), n)
