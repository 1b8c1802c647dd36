"""Plots of vectors: every marginal with every pair of entries, or intervals where there are many entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from midguide.inference.samples import Samples
from midguide.plots.base import PLOTS
from midguide.signals.base import Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = 5
"""Vectors of more entries are drawn as intervals."""
INK, TRUTH, FILL = "#0f766e", "#c2410c", "#99c9c4"


@PLOTS.register("vector")
def vector(samples: Samples, observation: int, signal: Signal) -> Figure:
    """Marginals and pairs of a vector's entries, with the truth; intervals of each entry where there are many."""
    draws = samples.draws[observation].detach().cpu().double().flatten(1)
    truth = samples.tensors.get("truth")
    known = None if truth is None else truth[observation].detach().cpu().double().flatten()
    weights = samples.weights()
    w = None if weights is None else weights[observation].cpu().numpy()
    names = _names(signal, draws.shape[1])
    if draws.shape[1] > PAIRS:
        return _intervals(samples, observation, known, names)
    return _corner(draws, known, w, names)


def _names(signal: Signal, count: int) -> list[str]:
    labels = signal.axes[0].labels if signal.axes else ()
    return list(labels) if len(labels) == count else [str(i) for i in range(count)]


def _corner(draws: Tensor, truth: Tensor | None, weights: np.ndarray | None, names: list[str]) -> Figure:
    """Histograms on the diagonal, pairs below it."""
    from midguide.plots.figure import Figure

    count = draws.shape[1]
    made = Figure(figsize=(1 + 2.0 * count, 0.6 + 2.0 * count), dpi=100, layout="constrained")
    grid = made.subplots(count, count, squeeze=False)
    values = draws.numpy()
    for row in range(count):
        for column in range(count):
            axes = grid[row][column]
            if column > row:
                axes.set_visible(False)
                continue
            _cell(axes, values, weights, truth, (row, column))
            if row == count - 1:
                axes.set_xlabel(f"entry {names[column]}")
            if column == 0 and row:
                axes.set_ylabel(f"entry {names[row]}")
    title = f"{len(draws)} draws" + ("" if truth is None else "; the truth in red")
    made.suptitle(title, fontsize=10)
    return made


def _cell(
    axes: Axes, values: np.ndarray, weights: np.ndarray | None, truth: Tensor | None, place: tuple[int, int]
) -> None:
    row, column = place
    axes.tick_params(labelsize=7)
    if row == column:
        bins = int(np.clip(np.sqrt(len(values)), 8, 60))
        axes.hist(values[:, column], bins=bins, weights=weights, density=True, color=FILL, edgecolor=INK, lw=0.3)
        axes.set_yticks([])
    else:
        sizes = 8.0 if weights is None else 8.0 * weights / max(weights.max(), 1e-300)
        axes.scatter(
            values[:, column], values[:, row], s=sizes, color=INK, alpha=min(1.0, 30 / len(values) ** 0.6), lw=0
        )
    if truth is not None:
        axes.axvline(float(truth[column]), color=TRUTH, lw=1)
        if row != column:
            axes.axhline(float(truth[row]), color=TRUTH, lw=1)


def _intervals(samples: Samples, observation: int, truth: Tensor | None, names: list[str]) -> Figure:
    """Median, 50 % and 90 % intervals of each entry."""
    from midguide.plots.figure import Figure

    levels = samples.quantiles((0.05, 0.25, 0.5, 0.75, 0.95))[:, observation].flatten(1).cpu().double()
    low, below, median, above, high = levels.numpy()
    made = Figure(figsize=(max(5.0, 1.5 + 0.22 * len(median)), 3.2), dpi=100, layout="constrained")
    axes, x = made.subplots(), np.arange(len(median))
    axes.vlines(x, low, high, color=FILL, lw=2, label="90 %")
    axes.vlines(x, below, above, color=INK, lw=4, label="50 %")
    axes.plot(x, median, "_", color="white", ms=6, label="median", markeredgecolor="black")
    if truth is not None:
        axes.plot(x, truth.numpy(), "o", color=TRUTH, ms=3, label="truth")
    step = max(1, len(x) // 16)
    axes.set_xticks(x[::step], names[::step], fontsize=7)
    axes.set(xlabel="entry", ylabel="value")
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    return made


@PLOTS.register("signal")
def signal_rows(samples: Samples, observation: int, signal: Signal) -> Figure:
    """One row for each channel: median, 90 % band, some draws, and the truth."""
    from midguide.plots.figure import Figure

    levels = _rows(samples.quantiles((0.05, 0.5, 0.95))[:, observation], signal)
    draws = _rows(samples.draws[observation, samples.picks(min(3, samples.draws.shape[1]))[observation]], signal)
    truth = samples.tensors.get("truth")
    known = None if truth is None else _rows(truth[observation][None], signal)[0]
    shown = min(levels.shape[1], MOST_CHANNELS)
    made = Figure(figsize=(8, 0.8 + 1.1 * shown), dpi=100, layout="constrained")
    time = signal.axes[-1] if signal.axes else None
    x = np.arange(levels.shape[-1]) / (time.rate if time is not None and time.rate else 1.0)
    labels = signal.axes[0].labels if len(signal.shape) > 1 and signal.axes else ()
    grid = made.subplots(shown, 1, squeeze=False, sharex=True)[:, 0]
    for i, axes in enumerate(grid):
        axes.fill_between(x, levels[0, i], levels[2, i], color=FILL, alpha=0.6, lw=0, label="90 % band")
        for number, draw in enumerate(draws[:, i]):
            axes.plot(x, draw, color="0.55", lw=0.5, label="draws" if number == 0 else None)
        axes.plot(x, levels[1, i], color=INK, lw=1, label="median")
        if known is not None:
            axes.plot(x, known[i], color=TRUTH, lw=0.8, label="truth")
        axes.set_ylabel(labels[i] if i < len(labels) else f"{i}" if shown > 1 else "value", fontsize=8)
        axes.tick_params(labelsize=7)
    grid[-1].set_xlabel("place" if time is None or not time.rate else f"{time.name} ({time.unit})")
    made.legend(*grid[0].get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside upper center", frameon=False)
    return made


MOST_CHANNELS = 12


def _rows(values: Tensor, signal: Signal) -> np.ndarray:
    """Signals (n, *signal) in their unit, as channels: (n, channel, time)."""
    flat = values.detach().cpu().double() * signal.unit_size
    flat = flat.reshape(len(flat), -1, signal.shape[-1]) if len(signal.shape) > 1 else flat.reshape(len(flat), 1, -1)
    return torch.nan_to_num(flat).numpy()
