"""The figure of a study: means with intervals, by sampler, or over a setting that the study varies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from midguide.plots.text import literal


class Mark(NamedTuple):
    """A mean with half of its interval (None: unknown), and the expected value where there is one."""

    label: str
    mean: float
    ci95: float | None
    expected: float | None = None


class Level(NamedTuple):
    """A mean that no setting varies: a horizontal line in a figure of curves."""

    label: str
    mean: float


class Point(NamedTuple):
    """A mean with half of its interval at a value of the varied setting, on the line of this name."""

    line: str
    x: float
    mean: float
    ci95: float | None


FAR = 30.0
"""Where a mean is so many times the median of all, one sampler would push all others into a corner: a log scale."""


def _spread_out(set_scale: Callable[[str], object], means: Sequence[float]) -> bool:
    """Take a log scale where means are positive and one of them diverges."""
    if not means or min(means) <= 0 or max(means) < FAR * median(means):
        return False
    set_scale("log")
    return True


def bars(axes: Axes, marks: Sequence[Mark], title: str) -> Axes:
    """One line per sampler from top to bottom; hollow diamonds are expected values."""
    places = range(len(marks))
    errors = [mark.ci95 or 0.0 for mark in marks]
    axes.errorbar([mark.mean for mark in marks], list(places), xerr=errors, fmt="o", color="C0", capsize=3)
    known = [(mark.expected, place) for mark, place in zip(marks, places, strict=True) if mark.expected is not None]
    if known:
        x, y = zip(*known, strict=True)
        axes.plot(x, y, "D", markerfacecolor="none", color="C1", label="expected")
        axes.legend(fontsize=8)
    axes.set_yticks(list(places), [literal(mark.label) for mark in marks], fontsize=8)
    axes.invert_yaxis()
    if not _spread_out(axes.set_xscale, [mark.mean for mark in marks]):
        axes.set_xlim(left=0)
    axes.set_title(literal(title), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return axes


def curves(axes: Axes, points: Sequence[Point], title: str, xlabel: str, levels: Sequence[Level] = ()) -> Axes:
    """One curve per line over the varied setting; dashed lines are what does not vary."""
    for line in dict.fromkeys(point.line for point in points):
        own = sorted(point for point in points if point.line == line)
        errors = [point.ci95 or 0.0 for point in own]
        axes.errorbar(
            [p.x for p in own],
            [p.mean for p in own],
            yerr=errors,
            marker="o",
            markersize=3,
            capsize=2,
            label=literal(line),
        )
    for i, level in enumerate(levels):
        axes.axhline(
            level.mean,
            linestyle="--",
            linewidth=1,
            color=f"{0.3 + 0.4 * i / len(levels):.2f}",
            label=literal(level.label),
        )
    axes.set_xlabel(literal(xlabel))
    if not _spread_out(axes.set_yscale, [point.mean for point in points]):
        axes.set_ylim(bottom=0)
    axes.set_title(literal(title), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return axes


def histograms(axes: Axes, counts: Mapping[str, Mapping[float, int]], title: str, xlabel: str) -> Axes:
    """How many problems at each value of a setting, side by side for the curves of these names."""
    values = sorted({value for own in counts.values() for value in own})
    width = 0.8 / len(counts)
    for i, (name, own) in enumerate(counts.items()):
        left = [place - 0.4 + (i + 0.5) * width for place in range(len(values))]
        axes.bar(left, [own.get(value, 0) for value in values], width, label=literal(name))
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values], fontsize=8)
    axes.set_xlabel(literal(xlabel))
    axes.set_ylabel("problems")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(literal(title), fontsize=9)
    axes.legend(fontsize=7)
    return axes
