"""The curves of a training: loss over steps, and what the prior recovers at each noise level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def training_curves(card: Mapping[str, Any]) -> Figure:
    """Two panels from the card of a prior: training loss, and held-out denoising error by noise-to-signal ratio."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    loss, held_out = figure.subplots(1, 2)
    loss.plot([row["step"] for row in card["loss"]], [row["loss"] for row in card["loss"]])
    loss.set(xlabel="step", ylabel="training loss", yscale="log", title=card["name"])
    curve = card["denoising_curve"]
    held_out.plot([row["noise_to_signal"] for row in curve], [row["relative_error"] for row in curve], marker=".")
    title = f"{card['held_out']} held-out examples"
    held_out.set(xlabel="noise / signal", ylabel="relative error of D", xscale="log", yscale="log", title=title)
    for axes in (loss, held_out):
        axes.grid(True, alpha=0.3)
    return figure
