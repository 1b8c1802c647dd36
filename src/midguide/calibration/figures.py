"""Figures of a calibration: rank histograms, differences of distribution functions with bands, coverage curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from midguide.calibration.coverage import Covered
from midguide.calibration.uniform import Array, Band, band, points_for, share_below
from midguide.plots.text import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
BINS = 16
"""At most, of a histogram."""


def rank_figure(ranks: Mapping[str, Array], draws: int, level: float = 0.05) -> Figure:
    """Two panels for each test quantity: a histogram of ranks, and their distribution function minus a uniform one.

    Gray are what exact draws give: each bin on its own with probability 1 - level, and the whole curve likewise.

    Args:
        ranks: of the truth, in [0, 1], shape (N,), by quantity.
        draws: of each problem.
        level: of the bands.
    """
    from matplotlib.figure import Figure

    columns = _columns(len(ranks))
    rows = 2 * math.ceil(len(ranks) / columns)
    made = Figure(figsize=(0.3 + 3 * columns, 1.9 * rows), dpi=90, layout="constrained")
    grid = made.add_gridspec(rows, columns)
    bands = {n: band(n, points_for(draws), 1 - level) for n in {len(u) for u in ranks.values()}}
    for i, (name, u) in enumerate(ranks.items()):
        row, column = 2 * (i // columns), i % columns
        above, below = made.add_subplot(grid[row, column]), made.add_subplot(grid[row + 1, column])
        _histogram(above, name, u, draws, level)
        _difference(below, u, bands[len(u)])
        below.set_xlabel("rank of the truth", fontsize=8)
        if column == 0:
            above.set_ylabel("problems", fontsize=8)
            below.set_ylabel("share below - uniform", fontsize=8)
    return made


def _columns(count: int) -> int:
    """Panels side by side, so that as few places as can be stay empty."""
    return min(range(min(COLUMNS, count), max(min(count, COLUMNS - 2), 1) - 1, -1), key=lambda k: -count % k)


def coverage_figure(curves: Mapping[str, Sequence[Covered]]) -> Figure:
    """How often regions hold the truth, over how often those of exact draws do, one line for each kind of region."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(5, 4.2), dpi=100, layout="constrained")
    axes = made.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", lw=1, label="exact draws")
    for name, curve in curves.items():
        if curve:
            level, share, half = np.array([tuple(c) for c in curve]).T
            axes.errorbar(level, share, yerr=half, fmt="o-", ms=3, lw=1, capsize=2, label=literal(name))
    axes.set(xlabel="level", ylabel="truths held (mean, 95 % over problems)", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8)
    return made


def _histogram(axes: Axes, name: str, u: Array, draws: int, level: float) -> None:
    bins = points_for(draws, BINS - 1) + 1
    low, high = stats.binom.ppf([level / 2, 1 - level / 2], len(u), 1 / bins)
    axes.axhspan(low, high, color="0.9")
    axes.hist(u, bins=list(np.linspace(0, 1, bins + 1)), color="C0")
    axes.axhline(len(u) / bins, color="0.5", lw=0.8)
    axes.set_title(literal(name), fontsize=9)
    axes.tick_params(labelsize=7)


def _difference(axes: Axes, u: Array, found: Band) -> None:
    axes.fill_between(found.points, found.low - found.points, found.high - found.points, color="0.9")
    axes.plot(found.points, share_below(u, len(found.points)) - found.points, color="C0", lw=1)
    axes.axhline(0, color="0.5", lw=0.8)
    axes.tick_params(labelsize=7)
