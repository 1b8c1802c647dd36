"""A report as one HTML file with its figure inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING

from midguide.plots.study import Mark, Point, bars, curves
from midguide.studies.layout import notes, tables
from midguide.studies.report import Report, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_PICTURES: Mapping[str, Figure] = MappingProxyType({})
STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:76em;padding:0 1em;overflow-x:auto}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)


MOST_PANELS = 8
"""Of a figure; a study of more metrics and problems has its tables and its pictures only."""


def as_html(report: Report, pictures: Mapping[str, Figure] = NO_PICTURES) -> str:
    """The report as one file that needs no other, with figures by their headings at its end."""
    title = escape(report.title)
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"]
    if report.missing:
        parts.append(f"<p><b>Not complete: {report.missing} units are missing.</b></p>")
    if (overview := figure(report)) is not None:
        parts.append(_inline(overview))
    for heading, header, cells in tables(report):
        lines = [_line("th", header), *(_line("td", line) for line in cells)]
        parts.append(f"<h2>{escape(heading)}</h2><table>{''.join(lines)}</table>")
    parts += [f"<p>{escape(text)}</p>" for text in notes(report)]
    for heading, made in pictures.items():
        parts += [f"<h2>{escape(heading)}</h2>", _inline(made)]
    return "\n".join(parts) + "\n"


def figure(report: Report) -> Figure | None:
    """One panel per metric and problem: curves where the study varies a setting, else one mark per sampler.

    None where that would be more than `MOST_PANELS`.
    """
    from matplotlib.figure import Figure

    rows, columns = len(report.metrics), len(report.problems)
    if rows * columns > MOST_PANELS:
        return None
    height = 1.2 + 0.28 * len(report.swept) if not any(report.swept.values()) else 3.6
    made = Figure(figsize=(max(6.0, 5.5 * columns), height * rows), dpi=120, layout="constrained")
    grid = made.subplots(rows, columns, squeeze=False)
    for i, metric in enumerate(report.metrics):
        for j, problem in enumerate(report.problems):
            cell, title = report.cell(problem, metric), f"{metric}, {problem}"
            varied = [row for row in cell if report.swept[row.sampler]]
            if varied:
                name = next(iter(report.swept[varied[0].sampler]))
                curves(grid[i, j], [p for row in varied if (p := _point(row, report, name))], title, name)
            else:
                marks = [Mark(r.sampler, r.mean, r.ci95, r.expected) for r in cell if r.mean is not None]
                bars(grid[i, j], marks, title)
    return made


def _inline(made: Figure) -> str:
    image = io.BytesIO()
    made.savefig(image, format="png")
    return f'<img alt="figure" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


def _point(row: Row, report: Report, name: str) -> Point | None:
    """A row on the curve of its sampler without the setting `name`; None where it has no value."""
    swept = report.swept[row.sampler]
    if row.mean is None or name not in swept:
        return None
    line = row.sampler.replace(f", {name} {swept[name]:g}", "")
    return Point(line, swept[name], row.mean, row.ci95)


def _line(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
