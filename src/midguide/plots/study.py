"""The figure of a study, by sampler, or over a setting that the study varies.

A panel shows means with their intervals; where a sampler diverges, or values span more than two decades, medians with
quartiles on a logarithmic axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from midguide.plots.text import literal


class Quartiles(NamedTuple):
    """Of the values of single problems."""

    low: float
    median: float
    high: float


class Mark(NamedTuple):
    """A mean with half of its interval (None: unknown), the expected value where there is one, and the quartiles."""

    label: str
    mean: float
    ci95: float | None
    expected: float | None = None
    quartiles: Quartiles | None = None


class Level(NamedTuple):
    """A mean that no setting varies: a horizontal line in a figure of curves."""

    label: str
    mean: float


class Point(NamedTuple):
    """A mean with half of its interval at a value of the varied setting, on the line of this name; the quartiles."""

    line: str
    x: float
    mean: float
    ci95: float | None
    quartiles: Quartiles | None = None


FAR = 30.0
"""Where a mean is so many times the median of all, one sampler would push all others into a corner."""

DECADES = 100.0
"""Where the largest mean is so many times the smallest, a linear axis shows the small ones as one."""

ROUNDING = 1e-3
"""Of the median of all means: what is smaller is a floor, which no axis needs to reach."""


class Axis(NamedTuple):
    """How a panel shows its values: means on a linear axis, or medians on a logarithmic one.

    Args:
        log: whether values diverge, or span more than two decades.
        least: where a logarithmic axis begins.
    """

    log: bool
    least: float

    @classmethod
    def of(cls, means: Sequence[float]) -> Axis:
        """The axis that these means need; one that reaches zero or below stays linear, but for rounding."""
        if not means or median(means) <= 0:
            return cls(False, 0.0)
        middle = median(means)
        shown = [mean for mean in means if mean > ROUNDING * middle]
        if min(means) < 0 or max(shown) < min(FAR * middle, DECADES * min(shown)):
            return cls(False, 0.0)
        return cls(True, min(shown) / 2)

    @property
    def label(self) -> str:
        return "median and quartiles of problems, log scale" if self.log else "mean over problems, 95 % interval"

    def value(self, mark: Mark | Point) -> float:
        """Where a mark stands."""
        return mark.quartiles.median if self.log and mark.quartiles else mark.mean

    def errors(self, marks: Sequence[Mark] | Sequence[Point]) -> list[list[float]]:
        """Lengths of the bars below and above each mark."""
        if not self.log:
            return [[mark.ci95 or 0.0 for mark in marks]] * 2
        known = [mark.quartiles or Quartiles(*[mark.mean] * 3) for mark in marks]
        return [[q.median - q.low for q in known], [q.high - q.median for q in known]]


def bars(axes: Axes, marks: Sequence[Mark], title: str) -> Axes:
    """One line per sampler from top to bottom; hollow diamonds are expected values."""
    places, axis = range(len(marks)), Axis.of([mark.mean for mark in marks])
    values, errors = [axis.value(mark) for mark in marks], axis.errors(marks)
    axes.errorbar(values, list(places), xerr=errors, fmt="o", color="C0", capsize=3)
    known = [(mark.expected, place) for mark, place in zip(marks, places, strict=True) if mark.expected is not None]
    if known:
        x, y = zip(*known, strict=True)
        axes.plot(x, y, "D", markerfacecolor="none", color="C1", label="expected")
        axes.legend(fontsize=8)
    axes.set_yticks(list(places), [literal(mark.label) for mark in marks], fontsize=8)
    axes.invert_yaxis()
    axes.set(xscale="log" if axis.log else "linear", xlabel=axis.label)
    axes.set_xlim(left=axis.least)
    axes.set_title(literal(title), fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    return axes


def curves(axes: Axes, points: Sequence[Point], title: str, xlabel: str, levels: Sequence[Level] = ()) -> Axes:
    """One curve per line over the varied setting; dashed lines are what does not vary."""
    axis = Axis.of([point.mean for point in points])
    for line in dict.fromkeys(point.line for point in points):
        own = sorted(point for point in points if point.line == line)
        axes.errorbar(
            [p.x for p in own],
            [axis.value(p) for p in own],
            yerr=axis.errors(own),
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
    axes.set(xlabel=literal(xlabel), ylabel=axis.label, yscale="log" if axis.log else "linear")
    axes.set_ylim(bottom=axis.least)
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
