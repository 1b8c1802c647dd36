"""A picture: draws over time, with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from midguide.studies.pictures.base import PICTURES, Case

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@PICTURES.register("tide-chart")
def tide_chart(label: str, cases: Sequence[Case]) -> dict[str, Figure]:
    """One chart for each day and sampler."""
    from matplotlib.figure import Figure

    signal, made = cases[0].probe.denoiser.signal, {}
    if signal.kind != "tide":
        return made
    for case in cases:
        for name, samples in case.samples.items():
            if samples is not None:
                made[f"{label}, {name}, day {case.seed}"] = figure = Figure()
                axes = figure.subplots()
                axes.plot(signal.unit_size * samples.draws[0, :, 0].T)
                axes.set(xlabel=signal.axes[1].unit, ylabel=signal.unit)
    return made
