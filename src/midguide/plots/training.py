"""The curves of a training: loss over steps, and what the prior recovers at each noise level."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from midguide.storage.cards import Card


def training_curves(card: Card) -> Figure:
    """Two panels from the card of a prior: training loss, and held-out denoising error by noise-to-signal ratio."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    loss, held_out = figure.subplots(1, 2)
    steps, curve = card.facts["loss"], card.facts["denoising_curve"]
    loss.plot([row["step"] for row in steps], [row["loss"] for row in steps])
    loss.set(xlabel="step", ylabel="training loss", yscale="log", title=card.name)
    held_out.plot([row["noise_to_signal"] for row in curve], [row["relative_error"] for row in curve], marker=".")
    title = f"{card.facts['held_out']} held-out examples"
    held_out.set(xlabel="noise / signal", ylabel="relative error of D", xscale="log", yscale="log", title=title)
    for axes in (loss, held_out):
        axes.grid(True, alpha=0.3)
    return figure
