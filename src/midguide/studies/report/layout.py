"""A report as tables of text, and as Markdown.

A study of one or two problems has a table for each metric and problem, samplers from top to bottom. A study of more
has a table for each metric, problems from top to bottom and samplers from left to right, and one of costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from midguide.studies.report.rows import Report, Row


class Table(NamedTuple):
    """Heading, column names, and cells as text."""

    heading: str
    header: list[str]
    cells: list[list[str]]


HEADER = ["sampler", "mean ± 95 %", "expected", "n", "failures", "forwards", "vjps", "seconds"]
LEFT_OUT = "left out"
NOTE = (
    "Means are over problems, with the 95 % interval of Student's t; n problems have a value; failures are units "
    "without one. Network calls are per sample, seconds per unit."
)


def tables(report: Report) -> list[Table]:
    """Every table of the report."""
    if len(report.problems) > 2:
        made = [*(_grid(report, metric) for metric in report.metrics), _costs(report), *_expected(report)]
    else:
        made = [
            _with_sizes(Table(f"{metric}, {problem}", HEADER, [_line(row) for row in rows]), _sizes(rows))
            for metric in report.metrics
            for problem in report.problems
            if (rows := report.cell(problem, metric))
        ]
    if report.differences:
        header = ["problem", "sampler", "metric", "difference", "n"]
        cells = [[d.problem, d.sampler, d.metric, plus_minus(d.mean, d.ci95), str(d.n)] for d in report.differences]
        made.append(Table(f"Difference from {report.baseline}, paired by problem", header, cells))
    made += _minimizers(report)
    if report.verdicts:
        header = ["problem", "sampler", "judged", "found", "most often"]
        cells = [[v.problem, v.sampler, str(v.judged), str(v.found), v.most or "-"] for v in report.verdicts]
        made.append(Table("Verdicts: results in which checks found something", header, cells))
    if report.left_out:
        reasons = [[cell.problem, cell.sampler, cell.reason or "by the study's file"] for cell in report.left_out]
        made.append(Table("Left out", ["problem", "sampler", "why"], reasons))
    return made


def _sizes(rows: Iterable[Row]) -> list[float | None]:
    return [row.effective_sample_size for row in rows]


def _with_sizes(table: Table, sizes: Sequence[float | None]) -> Table:
    """The table with a column of effective sample sizes, one for each line, where any draws have weights."""
    if all(size is None for size in sizes):
        return table
    cells = [[*line, _number(size, ".1f")] for line, size in zip(table.cells, sizes, strict=True)]
    return Table(table.heading, [*table.header, "effective sample size"], cells)


def notes(report: Report) -> list[str]:
    """The sentences below the tables."""
    unsaid = {e.source for e in report.expected} & set(report.sources) if len(report.problems) <= 2 else set()
    old = [f"{report.old}."] if report.old else []
    return [
        NOTE,
        *old,
        *(f"Expected: {source}." for source in sorted(unsaid)),
        *(f"Failed: {n}." for n in report.notes),
    ]


def as_markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {_cell(report.title)}", ""]
    if report.missing:
        lines += [f"Not complete: {report.missing} units are missing.", ""]
    for heading, header, cells in tables(report):
        lines += [f"## {_cell(heading)}", ""]
        rows = [list(map(_cell, line)) for line in (header, *cells)]
        lines += ["| " + " | ".join(line) + " |" for line in (rows[0], ["---"] * len(header), *rows[1:])]
        lines.append("")
    for text in notes(report):
        lines += [_cell(text), ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    """A text in Markdown that begins no tag, link, formula, other column or other line."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    for sign, written in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("$", "\\$"), ("](", "]\\(")):
        shown = shown.replace(sign, written)
    return shown


def plus_minus(mean: float | None, ci95: float | None) -> str:
    """`1.23 ± 0.45`, to the same decimals."""
    if mean is None:
        return "-"
    return f"{mean:.3f}" if ci95 is None else f"{mean:.3f} ± {ci95:.3f}"


def _minimizers(report: Report) -> list[Table]:
    """For how many problems each metric is least at each value of a swept setting, one table per metric and setting."""
    made = []
    for metric, setting in dict.fromkeys((found.metric, found.setting) for found in report.minimizers):
        of_table = [found for found in report.minimizers if (found.metric, found.setting) == (metric, setting)]
        values = sorted({value for found in of_table for value in found.counts})
        cells = [[found.problem, found.curve, *(str(found.counts.get(v, "-")) for v in values)] for found in of_table]
        header = ["problem", "sampler", *(f"{value:g}" for value in values)]
        made.append(Table(f"Where {metric} is least: problems by {setting}", header, cells))
    return made


def _grid(report: Report, metric: str) -> Table:
    """One metric, problems by samplers; `n` is the number of problems with a value, or its range over the samplers."""
    cells = []
    for problem in report.problems:
        rows = {row.sampler: row for row in report.cell(problem, metric)}
        if rows:
            counts = sorted({row.n for row in rows.values()})
            n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            cells.append([problem, *(_entry(report, rows.get(s), problem, s) for s in report.samplers), n])
    return Table(metric, ["problem", *report.samplers, "n"], cells)


def _entry(report: Report, row: Row | None, problem: str, sampler: str) -> str:
    if row is None:
        return LEFT_OUT if any((c.problem, c.sampler) == (problem, sampler) for c in report.left_out) else "-"
    value = plus_minus(row.mean, row.ci95)
    return f"{value} ({row.failures} failed)" if row.failures else value


def _expected(report: Report) -> list[Table]:
    """The numbers of others, each metric and source in a table of its own, whose heading names both.

    They need not be of our protocol or prior: a number of equal protocol also stands in `Row.expected`.
    """
    made = []
    for metric, source in dict.fromkeys((e.metric, e.source) for e in report.expected):
        values = {(e.problem, e.sampler): e for e in report.expected if (e.metric, e.source) == (metric, source)}
        cells = [
            [p, *(plus_minus(e.value, e.ci95) if (e := values.get((p, s))) else "-" for s in report.samplers)]
            for p in report.problems
            if any((p, s) in values for s in report.samplers)
        ]
        if cells:
            made.append(Table(f"Not ours: {metric}. {source}", ["problem", *report.samplers], cells))
    return made


def _costs(report: Report) -> Table:
    """What a sampler costs, averaged over the problems."""
    cells, sizes = [], []
    for sampler in report.samplers:
        rows = {row.problem: row for row in report.rows if row.sampler == sampler}
        costs = [
            (row.network_forwards, row.network_vjps, row.seconds)
            for row in rows.values()
            if row.network_forwards is not None and row.network_vjps is not None and row.seconds is not None
        ]
        means = [
            f"{fmean(column):.{digits}f}" for column, digits in zip(zip(*costs, strict=True), (0, 0, 2), strict=True)
        ]
        cells.append([sampler, *(means or ["-"] * 3), str(len(rows))])
        known = [size for size in _sizes(rows.values()) if size is not None]
        sizes.append(fmean(known) if known else None)
    table = Table("Cost, mean over problems", ["sampler", "forwards", "vjps", "seconds", "problems"], cells)
    return _with_sizes(table, sizes)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _line(row: Row) -> list[str]:
    calls = [_number(row.network_forwards, ".0f"), _number(row.network_vjps, ".0f"), _number(row.seconds, ".2f")]
    expected = _number(row.expected, "g")
    return [row.sampler, plus_minus(row.mean, row.ci95), expected, str(row.n), str(row.failures), *calls]
