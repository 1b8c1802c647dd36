"""Plots of images, volumes and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from midguide.inference.samples import Samples
from midguide.plots.base import PLOTS, as_frames
from midguide.plots.measurement import picture_of_measurement
from midguide.plots.panel import panel, pixels
from midguide.signals.base import Signal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FRAMES = 6
RANGE = (-1.0, 1.0)


@PLOTS.register("image")
def image(samples: Samples, observation: int, signal: Signal) -> Figure:
    """Truth, measurement, mean, standard deviation and up to eight draws of an image."""
    shown = None if samples.problem is None else picture_of_measurement(samples.problem, observation)
    return panel(
        samples,
        observation=observation,
        measured=None if shown is None else shown.measured,
        measurement=None if shown is None else shown.image,
        value_range=limits(samples, signal),
    )


def limits(samples: Samples, signal: Signal) -> tuple[float, float]:
    """Values shown black and white: the range of signals, or that of the draws where it is unbounded."""
    low, high = signal.value_range or (float(samples.draws.min()), float(samples.draws.max()))
    return (low, high) if low < high else RANGE


@PLOTS.register("volume")
def volume(samples: Samples, observation: int, signal: Signal) -> Figure:
    """Slices of a volume side by side: truth, mean, standard deviation and two draws."""
    return _frames(samples, observation, signal, "slice")


@PLOTS.register("video")
def video(samples: Samples, observation: int, signal: Signal) -> Figure:
    """Frames of a video side by side: truth, mean, standard deviation and two draws."""
    return _frames(samples, observation, signal, "frame")


def _frames(samples: Samples, observation: int, signal: Signal, word: str) -> Figure:
    """A row for each of truth, mean, standard deviation and draws; a column for each of some frames."""
    from midguide.plots.figure import Figure

    truth, draws = samples.tensors.get("truth"), samples.draws[observation]
    rows = {} if truth is None else {"truth": truth[observation]}
    rows |= {"mean": samples.mean()[observation], "std": samples.std()[observation]}
    rows |= {f"draw {i + 1}": draws[i] for i in map(int, samples.picks(min(2, len(draws)))[observation])}
    frames = {name: as_frames(values, signal) for name, values in rows.items()}
    total = len(frames["mean"])
    places = torch.linspace(0, total - 1, min(MOST_FRAMES, total)).round().long().tolist()
    made = Figure(figsize=(0.9 + 1.5 * len(places), 0.4 + 1.5 * len(frames)), dpi=100, layout="constrained")
    grid, scale = made.subplots(len(frames), len(places), squeeze=False), limits(samples, signal)
    most = float(frames["std"].square().mean(1).sqrt().max()) or 1.0
    for row, (name, values) in zip(grid, frames.items(), strict=True):
        for axes, place in zip(row, places, strict=True):
            if name == "std":
                axes.imshow(values[place].square().mean(0).sqrt().cpu().numpy(), cmap="magma", vmin=0, vmax=most)
            else:
                axes.imshow(pixels(values[place], scale), cmap="gray", vmin=0.0, vmax=1.0)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{word} {place}" if values is next(iter(frames.values())) else "", fontsize=8)
        row[0].set_ylabel(name, fontsize=9)
    return made
