"""The curves of a training: loss over steps, and what the prior recovers at each noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from midguide.plots.text import literal
from midguide.storage.cards import Card


def training_curves(card: Card) -> Figure:
    """Two panels from the card of a prior: training loss, and held-out denoising error by noise-to-signal ratio."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    loss, held_out = figure.subplots(1, 2)
    steps, curve = card.facts["loss"], card.facts["denoising_curve"]
    loss.plot([row["step"] for row in steps], [row["loss"] for row in steps])
    loss.set(xlabel="step", ylabel="training loss", yscale="log", title=literal(card.name))
    held_out.plot([row["noise_to_signal"] for row in curve], [row["relative_error"] for row in curve], marker=".")
    title = f"{card.facts['held_out']} held-out examples"
    held_out.set(xlabel="noise / signal", ylabel="relative error of D", xscale="log", yscale="log", title=title)
    for axes in (loss, held_out):
        axes.grid(True, alpha=0.3)
    return figure


def training_progress(log: Sequence[Mapping[str, Any]], quality: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Up to three panels of a training that goes on: losses, held-out loss by noise level, distance of samples.

    Args:
        log: rows of `log.jsonl`.
        quality: rows of `quality.jsonl`.
    """
    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    losses, levels, distance = figure.subplots(1, 3)
    steps = [row["step"] for row in log]
    losses.plot(steps, [row["loss"] for row in log], label="training")
    judged = [row for row in log if "held_out" in row]
    for decay in judged[-1]["held_out"] if judged else ():
        known = [row for row in judged if decay in row["held_out"]]
        means = [row["held_out"][decay]["mean"] for row in known]
        losses.plot([row["step"] for row in known], means, label=f"held out, average {decay}")
    losses.set(xlabel="step", title="loss of v", yscale="log")
    losses.legend(fontsize=7)
    for row in {row["step"]: row for row in (*judged[:1], *judged[-1:])}.values():
        best = min(row["held_out"].values(), key=lambda found: found["mean"])
        points = [(float(key), value) for key, value in best.items() if key != "mean"]
        levels.plot(*zip(*points, strict=True), marker=".", label=f"step {row['step']}")
    levels.set(xlabel="noise / signal", title="held-out loss of v", xscale="log", yscale="log")
    if judged:
        levels.legend(fontsize=7)
    if quality:
        distance.plot([row["step"] for row in quality], [row["kid"] for row in quality], marker=".", label="samples")
        distance.axhline(abs(quality[-1]["kid_of_data"]), color="gray", linestyle=":", label="data")
        distance.legend(fontsize=7)
    distance.set(xlabel="step", title="kernel distance from data")
    for axes in (losses, levels, distance):
        axes.grid(True, alpha=0.3)
    return figure
