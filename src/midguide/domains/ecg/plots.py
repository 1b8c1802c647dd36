"""Electrocardiograms on ECG paper, true to scale: 25 mm/s and 10 mm/mV, a fine grid of 1 mm and a coarse one of 5 mm.

Figures come without pyplot: they open no window, and touch no global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from midguide.domains.ecg.leads import MODELED, TWELVE
from midguide.errors import ShapeError, unknown
from midguide.plots.text import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MM_PER_SECOND, MM_PER_MV = 25.0, 10.0
LAYOUTS = ("3x4", "12x1")
COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
RHYTHM = "II"
"""The lead that runs along the bottom of a 3x4 page where the columns show a quarter of the time each."""
LONG_SECONDS = 10.0
"""From this duration on, the columns of a 3x4 page follow each other in time."""

_FINE, _COARSE, _INK, _TRUTH, _LINE, _BAND, _HIDDEN = (
    "#f7d9d6",
    "#eeb3ae",
    "#1d1f24",
    "#1d1f24",
    "#c2410c",
    "#0f766e",
    "#6b7079",
)
_PULSE, _MARGIN, _HEAD, _FOOT, _SPARE, _GAP = 10.0, 5.0, 12.0, 12.0, 3.0, 2.0  # mm
_LEAST, _SCALE, _KEY = 140.0, 40.0, 85.0  # width of a page, of its scale, of its legend
_POINT = 25.4 / 72  # mm


def ecg_paper(
    line: Tensor,
    *,
    rate_hz: float,
    layout: str = "3x4",
    band: tuple[Tensor, Tensor] | None = None,
    truth: Tensor | None = None,
    observed: Tensor | None = None,
    title: str = "",
    footer: str = "",
    label: str = "median",
) -> Figure:
    """Twelve leads on a page of the size that they have on paper.

    Args:
        line: what is drawn in red: one sample or the median, mV, shape (12, time), in the usual order.
        rate_hz: samples per second.
        layout: `3x4`, three rows of four columns (from 10 s on each column shows the next quarter, and lead II runs
            along the bottom); or `12x1`, one row for each lead.
        band: lower and upper end of an interval, drawn in green, each of the shape of `line`.
        truth: drawn in black below the line, shape of `line`.
        observed: true where a value was given; elsewhere the paper is gray. Shape of `line`.
        title: above the page.
        footer: below the page.
        label: what the red line is, for the legend of a page that shows more than it.

    Returns:
        A figure; saved with its own dpi it prints true to scale.

    Raises:
        ConfigError: If the layout is unknown.
        ShapeError: If the signals are not twelve leads of one length.

    Example:
        >>> import torch
        >>> ecg_paper(torch.zeros(12, 1000), rate_hz=100).get_size_inches().round(1).tolist()
        [11.0, 3.9]
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    for signal in (line, *(band or ()), truth, observed):
        if signal is not None and signal.shape != (len(TWELVE), line.shape[-1]):
            raise ShapeError(f"ECG paper shows twelve leads of one length, got {tuple(signal.shape)}")
    signals = {"line": line, "truth": truth, "observed": observed}
    signals |= {"low": None, "high": None} if band is None else {"low": band[0], "high": band[1]}
    known = {name: signal for name, signal in signals.items() if signal is not None}
    rows = _rows(layout, line.shape[1], rate_hz)
    return _page([[_cut(known, *cell) for cell in row] for row in rows], rate_hz, title, footer, label)


def ecg_strips(signals: Tensor, *, rate_hz: float, title: str = "", footer: str = "") -> Figure:
    """Several short recordings side by side, one column each, one row for each modeled lead.

    Args:
        signals: mV, shape (n, 9, time).
        rate_hz: samples per second.
        title: above the page.
        footer: below the page.
    """
    if signals.ndim != 3 or signals.shape[1] != len(MODELED):
        raise ShapeError(f"expected recordings of shape (n, {len(MODELED)}, time), got {tuple(signals.shape)}")
    rows = [[_Cell(lead, {"line": signal[i]}) for signal in signals] for i, lead in enumerate(MODELED)]
    return _page(rows, rate_hz, title, footer)


class _Cell:
    """One lead over some time: signals by what they are (line, low, high, truth, observed), each of shape (time,)."""

    def __init__(self, lead: str, signals: dict[str, Tensor]) -> None:
        self.lead = lead
        self.signals = {name: signal.detach().double().cpu().numpy() for name, signal in signals.items()}

    def reach(self) -> tuple[float, float]:
        """Smallest and largest value in mm; at least from -0.5 to 1 mV, so that the calibration pulse fits."""
        values = [signal[signal == signal] for name, signal in self.signals.items() if name != "observed"]
        low = min((float(part.min()) for part in values if len(part)), default=0.0)
        high = max((float(part.max()) for part in values if len(part)), default=0.0)
        return MM_PER_MV * min(low, -0.5), MM_PER_MV * max(high, 1.0)


def _rows(layout: str, count: int, rate_hz: float) -> list[list[tuple[str, int, int]]]:
    """Rows of (lead, first sample, end)."""
    if layout == "12x1":
        return [[(lead, 0, count)] for lead in TWELVE]
    if count / rate_hz < LONG_SECONDS:
        return [[(column[row], 0, count) for column in COLUMNS] for row in range(3)]
    cuts = [count * quarter // 4 for quarter in range(5)]
    rows = [[(column[row], cuts[i], cuts[i + 1]) for i, column in enumerate(COLUMNS)] for row in range(3)]
    return [*rows, [(RHYTHM, 0, count)]]


def _cut(signals: dict[str, Tensor], lead: str, first: int, end: int) -> _Cell:
    return _Cell(lead, {name: signal[TWELVE.index(lead), first:end] for name, signal in signals.items()})


def _page(rows: Sequence[Sequence[_Cell]], rate_hz: float, title: str, footer: str, label: str = "") -> Figure:
    """A sheet with the cells of each row side by side, in millimeters."""
    from midguide.plots.figure import Figure

    samples = max(sum(len(cell.signals["line"]) for cell in row) for row in rows)
    gaps = _GAP * max(len(row) for row in rows)
    reaches = [[cell.reach() for cell in row] for row in rows]
    below = [min(low for low, _ in row) for row in reaches]
    above = [max(high for _, high in row) for row in reaches]
    width = max(_LEAST, _ceil5(2 * _MARGIN + _PULSE + gaps + samples / rate_hz * MM_PER_SECOND))
    paper = _ceil5(sum(above) - sum(below) + _SPARE * (len(rows) + 1))
    title, head = _wrapped(title, 11, width - 2 * _MARGIN - _SCALE)
    footer, foot = _wrapped(footer, 8.5, width - 2 * _MARGIN - (_KEY if len(rows[0][0].signals) > 1 else 0.0))
    head, foot = _HEAD + head, _FOOT + foot
    height = paper + head + foot
    figure = Figure(figsize=(width / 25.4, height / 25.4), dpi=150, facecolor="white")
    axes = figure.add_axes((0, foot / height, 1, paper / height), xlim=(0, width), ylim=(0, paper))
    axes.axis("off")
    for step, color, thickness in ((1, _FINE, 0.3), (5, _COARSE, 0.6)):
        axes.vlines(range(0, int(width) + 1, step), 0, paper, colors=color, linewidths=thickness, zorder=0)
        axes.hlines(range(0, int(paper) + 1, step), 0, width, colors=color, linewidths=thickness, zorder=0)
    top = paper - _SPARE
    for row, low, high in zip(rows, below, above, strict=True):
        baseline, left = top - high, _MARGIN
        pulse = ((0, 2.5, 2.5, 7.5, 7.5, _PULSE), (0, 0, MM_PER_MV, MM_PER_MV, 0, 0))
        axes.plot([left + x for x in pulse[0]], [baseline + y for y in pulse[1]], color=_INK, lw=0.9)
        left += _PULSE
        for cell in row:
            _draw(axes, cell, left, baseline, (low, high), rate_hz)
            left += len(cell.signals["line"]) / rate_hz * MM_PER_SECOND + _GAP
        top = baseline + low - _SPARE
    figure.text(_MARGIN / width, 1 - 4 / height, literal(title), size=11, weight="bold", color=_INK, va="top")
    scale = f"{MM_PER_SECOND:g} mm/s   {MM_PER_MV:g} mm/mV"
    figure.text(1 - _MARGIN / width, 1 - 4 / height, scale, size=9, color=_INK, ha="right", va="top")
    figure.text(_MARGIN / width, (foot - 4) / height, literal(footer), size=8.5, color=_HIDDEN, va="top")
    _legend(figure, rows[0][0], foot / height, label)
    return figure


def _legend(figure: Figure, cell: _Cell, bottom: float, label: str) -> None:
    """What each line is, at the lower right, where there is more than one."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    known: list[Line2D | Patch] = []
    if "truth" in cell.signals:
        known.append(Line2D([], [], color=_TRUTH, lw=1.2, label="truth"))
    known.append(Line2D([], [], color=_LINE, lw=1.2, label=label))
    if "low" in cell.signals:
        known.append(Patch(color=_BAND, alpha=0.3, label="band of the draws"))
    if "observed" in cell.signals:
        known.append(Patch(color=_HIDDEN, alpha=0.2, label="hidden"))
    if len(known) > 1:
        box = (1.0, bottom)
        figure.legend(
            handles=known, loc="upper right", bbox_to_anchor=box, ncols=len(known), fontsize=8, frameon=False,
            borderaxespad=0.2, columnspacing=1.2, handlelength=1.6,
        )  # fmt: skip


def _wrapped(text: str, size: float, width: float) -> tuple[str, float]:
    """The text in lines of at most `width` mm, and the height of those after the first; letters of `size` points."""
    lines = textwrap.wrap(text, int(width / (0.7 * size * _POINT))) or [""]
    return "\n".join(lines), 1.2 * size * _POINT * (len(lines) - 1)


def _draw(axes: object, cell: _Cell, left: float, baseline: float, reach: tuple[float, float], rate_hz: float) -> None:
    """One lead, its first sample at `left`, its zero at `baseline`."""
    signals = cell.signals
    x = [left + i / rate_hz * MM_PER_SECOND for i in range(len(signals["line"]))]

    def y(name: str) -> object:
        return baseline + MM_PER_MV * signals[name]

    if "observed" in signals:
        low, high = baseline + reach[0], baseline + reach[1]
        hidden = signals["observed"] == 0
        axes.fill_between(x, low, high, where=hidden, color=_HIDDEN, alpha=0.12, lw=0, zorder=1)  # pyright: ignore
    if "low" in signals:
        axes.fill_between(x, y("low"), y("high"), color=_BAND, alpha=0.3, lw=0, zorder=2)  # pyright: ignore
    if "truth" in signals:
        axes.plot(x, y("truth"), color=_TRUTH, lw=0.8, zorder=3)  # pyright: ignore
    axes.plot(x, y("line"), color=_LINE if len(signals) > 1 else _INK, lw=0.8, zorder=4)  # pyright: ignore
    axes.text(left + 1, baseline + 5.5, cell.lead, size=8, weight="bold", color=_INK, zorder=5)  # pyright: ignore


def _ceil5(length: float) -> float:
    return 5.0 * math.ceil(length / 5.0 - 1e-9)
