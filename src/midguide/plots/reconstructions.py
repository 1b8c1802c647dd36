"""What several samplers make of the same images: one sample, posterior mean and spread of each, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from midguide.plots.measurement import Picture
from midguide.plots.panel import pixels
from midguide.plots.text import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 128
_TILE, _HEAD, _GAP = 1.0, 0.32, 0.04  # inches
_ROWS = ("sample", "mean", "std")


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """One image and what was made of it.

    Args:
        truth: shape (C, H, W); None where it is unknown.
        measurement: None where it has no picture.
        draws: by sampler, shape (n, C, H, W); None where it failed or has not run.
    """

    truth: Tensor | None
    measurement: Picture | None
    draws: Mapping[str, Tensor | None]


def reconstructions(
    images: Sequence[Reconstructed], *, value_range: tuple[float, float] = (-1.0, 1.0), title: str = ""
) -> Figure:
    """Three rows for each image: truth, measurement and the scale; a sample, the mean and the spread of each sampler.

    A single draw has neither mean nor spread.

    All spreads of an image share their scale. White is the largest standard deviation of any pixel and sampler, or half
    of the value range where one is larger.

    Args:
        images: of one size, with the same samplers.
        value_range: values shown black and white.
        title: text above everything.
    """
    from midguide.plots.figure import Figure

    samplers = list(images[0].draws)
    columns, rows = 1 + len(samplers), len(_ROWS) * len(images)
    width, height = columns * (_TILE + _GAP), _HEAD * 2 + rows * (_TILE + _GAP)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(_GAP / width, 1 - 0.6 * _HEAD / height, literal(title), size=10, weight="bold")

    def tile(row: int, column: int) -> Axes:
        left, top = column * (_TILE + _GAP), 2 * _HEAD + row * (_TILE + _GAP)
        axes = figure.add_axes((left / width, 1 - (top + _TILE) / height, _TILE / width, _TILE / height))
        axes.set_axis_off()
        if row == 0:
            axes.set_title(literal(samplers[column - 1]) if column else "truth, y", size=7, pad=3)
        return axes

    for i, image in enumerate(images):
        scale = _scale(image, value_range)
        _first_column([tile(len(_ROWS) * i + k, 0) for k in range(len(_ROWS))], image, value_range, scale)
        for column, sampler in enumerate(samplers, start=1):
            draws = image.draws[sampler]
            places = [tile(len(_ROWS) * i + k, column) for k in range(len(_ROWS))]
            if draws is None:
                _say(places[0], "no draws")
                continue
            places[0].imshow(pixels(draws[0], value_range), cmap="gray", vmin=0.0, vmax=1.0)
            if len(draws) == 1:
                _say(places[1], "one draw:\nno mean, no std")
                continue
            places[1].imshow(pixels(draws.mean(0), value_range), cmap="gray", vmin=0.0, vmax=1.0)
            places[2].imshow(_spread(draws).numpy(), cmap="magma", vmin=0.0, vmax=scale)
    return figure


def _first_column(places: Sequence[Axes], image: Reconstructed, value_range: tuple[float, float], scale: float) -> None:
    if image.truth is not None:
        places[0].imshow(pixels(image.truth, value_range), cmap="gray", vmin=0.0, vmax=1.0)
    if image.measurement is not None:
        shown = pixels(image.measurement.image, value_range, image.measurement.measured)
        places[1].imshow(shown, cmap="gray", vmin=0.0, vmax=1.0)
        places[1].set_title(image.measurement.caption, size=6, y=0.0, color="white")
    _say(places[2], f"rows: sample,\nposterior mean,\nstd (0 to {scale:.2g})")


def _say(axes: Axes, words: str) -> None:
    """Words in the middle of an empty tile."""
    axes.text(0.5, 0.5, words, ha="center", va="center", size=6, transform=axes.transAxes)


def _spread(draws: Tensor) -> Tensor:
    """Standard deviation of each pixel, root mean square over the channels, shape (H, W)."""
    return draws.std(0).square().mean(0).sqrt().cpu()


def _scale(image: Reconstructed, value_range: tuple[float, float]) -> float:
    spreads = [float(_spread(draws).max()) for draws in image.draws.values() if draws is not None and len(draws) > 1]
    return min(max(spreads, default=1.0), (value_range[1] - value_range[0]) / 2) or 1.0
