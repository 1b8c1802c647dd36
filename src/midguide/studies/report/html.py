"""A report as one HTML file with its figure inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING

from midguide.plots.study import Level, Mark, Point, Quartiles, bars, curves, histograms
from midguide.studies.report.layout import notes, tables
from midguide.studies.report.rows import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_PICTURES: Mapping[str, Figure] = MappingProxyType({})
HEAD = '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
SCROLLS = "@media(max-width:76em){table{display:block;overflow-x:auto}}"
"""On a narrow page a wide table scrolls by itself."""
STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:76em;padding:0 1em;overflow-x:auto}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}" + SCROLLS
)


MOST_PANELS = 8
"""Of a figure; a study of more metrics and problems has its tables and its pictures only."""


def as_html(report: Report, pictures: Mapping[str, Figure] = NO_PICTURES) -> str:
    """The report as one file that needs no other, with figures by their headings at its end."""
    title = escape(report.title)
    parts = [f"{HEAD}<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"]
    if report.missing:
        parts.append(f"<p><b>Not complete: {report.missing} units are missing.</b></p>")
    if (overview := figure(report)) is not None:
        parts.append(inline(overview))
    for heading, header, cells in tables(report):
        lines = [line("th", header), *(line("td", row) for row in cells)]
        parts.append(f"<h2>{escape(heading)}</h2><table>{''.join(lines)}</table>")
    parts += [f"<p>{escape(text)}</p>" for text in notes(report)]
    for heading, made in pictures.items():
        parts += [f"<h2>{escape(heading)}</h2>", inline(made)]
    return "\n".join(parts) + "\n"


def figure(report: Report) -> Figure | None:
    """One panel per metric and problem: curves where the study varies a setting, else one mark per sampler.

    Samplers that vary different settings have a panel for each. Where the study asks for minimizers, every panel of
    curves has one beside it. None where that would be more than `MOST_PANELS`.
    """
    from matplotlib.figure import Figure

    grid = _panels(report)
    rows, columns = len(grid), max(map(len, grid))
    if rows * columns > MOST_PANELS:
        return None
    height = 3.6 if any(report.swept.values()) else 1.2 + 0.28 * len(report.swept)
    made = Figure(figsize=(max(6.0, 5.5 * columns), height * rows), dpi=120, layout="constrained")
    for axes, panels in zip(made.subplots(rows, columns, squeeze=False), grid, strict=True):
        for place, draw in enumerate(panels):
            draw(axes[place])
        for unused in axes[len(panels) :]:
            unused.set_visible(False)
    return made


def _panels(report: Report) -> list[list[Callable[[Axes], object]]]:
    """What to draw, row by row: a row per metric, or one per metric and problem where these have several panels."""
    rows = [[_cell(report, problem, metric) for problem in report.problems] for metric in report.metrics]
    if any(len(cell) > 1 for row in rows for cell in row):
        return [cell for row in rows for cell in row]
    return [[panel for cell in row for panel in cell] for row in rows]


def _cell(report: Report, problem: str, metric: str) -> list[Callable[[Axes], object]]:
    """The panels of one problem and metric."""
    title = f"{metric}, {problem}"
    known = [(r, r.mean, report.place(r.sampler)) for r in report.cell(problem, metric) if r.mean is not None]
    settings = dict.fromkeys(place.setting for _, _, place in known if place)
    if not settings:
        marks = [Mark(row.sampler, mean, row.ci95, row.expected, _quartiles(row)) for row, mean, _ in known]
        return [partial(bars, marks=marks, title=title)]
    levels = [Level(row.sampler, mean) for row, mean, place in known if place is None]
    panels: list[Callable[[Axes], object]] = []
    for setting in settings:
        points = [
            Point(place.curve, place.value, mean, row.ci95, _quartiles(row))
            for row, mean, place in known
            if place and place.setting == setting
        ]
        panels.append(partial(curves, points=points, title=title, xlabel=setting, levels=levels))
        least = {m.curve: m.counts for m in report.minimizers if m[:2] == (problem, metric) and m.setting == setting}
        if least:
            panels.append(partial(histograms, counts=least, title=f"where it is least, {problem}", xlabel=setting))
    return panels


def _quartiles(row: Row) -> Quartiles | None:
    if row.quartile1 is None or row.median is None or row.quartile3 is None:
        return None
    return Quartiles(row.quartile1, row.median, row.quartile3)


def inline(made: Figure) -> str:
    """A figure as an image inside a page."""
    image = io.BytesIO()
    made.savefig(image, format="png")
    return f'<img alt="figure" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


def line(tag: str, cells: Sequence[str]) -> str:
    """A line of a table, escaped."""
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
