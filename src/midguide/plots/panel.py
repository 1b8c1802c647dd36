"""One picture that tells a reconstruction: truth, measurement, posterior mean, uncertainty, samples.

Figures come without pyplot: they open no window, and touch no global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.inference.samples import Samples
from midguide.plots.text import literal

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from midguide.inference.stored import StoredSamples

DPI = 192
_COLUMNS, _MOST_SAMPLES = 4, 8
_TILE, _GAP, _MARGIN, _HEAD, _FOOT, _BAR = 2.0, 0.14, 0.18, 0.4, 0.4, 0.55  # inches
_INK, _SOFT = "#1d1f24", "#6b7079"
HIDDEN = 0.9
"""Shade of what was not measured."""


def panel(
    samples: Samples | StoredSamples,
    *,
    observation: int = 0,
    measured: Tensor | None = None,
    measurement: Tensor | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    captions: Mapping[str, str] | None = None,
    sample_captions: Sequence[str] = (),
    footer: str = "",
) -> Figure:
    """Truth (where known), measurement, posterior mean, standard-deviation map, and up to eight samples.

    Images with one channel are gray, with three color; any other number shows as the mean over channels. Of samples
    with weights the panel draws those to show by weight, with seed 0. So one of large weight may stand there more than
    once, under its number. The caption of the standard deviation has the effective sample size (ESS).

    Args:
        samples: the result of `sample`, in memory or on disk, of images: events of shape (C, H, W).
        observation: which observation.
        measured: which entries of the observation were measured, broadcastable to it; the others are drawn light gray.
        measurement: what to show as the measurement, shape (C, H, W); by default the observation, if it is an image.
        value_range: values shown black and white.
        captions: small text beside the titles of the `truth`, the `measurement`, the `mean` and the `std`.
        sample_captions: small text beside the title of each sample, by its number.
        footer: small text below everything.

    Returns:
        A figure, `panel(...).savefig(path)`; its axes are in reading order, and the last is the color bar.

    Raises:
        ShapeError: If the samples are not images.

    Example:
        >>> from midguide import Problem, make_operator, make_sampler, sample
        >>> from midguide.priors import Gaussian
        >>> prior = Gaussian(torch.zeros(1, 4, 4), 1.0)
        >>> problem = Problem.simulate(prior, make_operator("half-mask", (1, 4, 4)), prior.sample(1), sigma_y=0.1)
        >>> len(panel(sample(make_sampler("ddrm", {"steps": 3}), problem, n=2)).axes)
        7
    """
    _, n, *shape = samples.draws.shape
    if len(shape) != 3:
        raise ShapeError(f"a panel shows images (C, H, W), the samples have shape {tuple(shape)}")
    captions = captions or {}
    height, width = shape[-2:]
    y, truth, shown = samples.tensors.get("y"), samples.tensors.get("truth"), min(n, _MOST_SAMPLES)
    seen = y[observation] if y is not None and y.ndim == 4 else None
    seen = measurement if measurement is not None else seen
    columns = max(min(shown, _COLUMNS), 2 + (truth is not None) + (seen is not None))
    canvas = _Canvas(1 + math.ceil(shown / columns), columns, height / width)

    def show(column: int, title: str, key: str, image: Tensor, mask: Tensor | None = None) -> Axes:
        axes = canvas.tile(0, column, title, captions.get(key, ""))
        axes.imshow(pixels(image, value_range, mask), cmap="gray", vmin=0.0, vmax=1.0)
        return axes

    column = 0
    if truth is not None:
        show(column, "truth", "truth", truth[observation])
        column += 1
    if seen is not None:
        mask = None if measured is None else measured.expand(seen.shape)
        show(column, "measurement", "measurement", seen, mask)
        column += 1
    show(column, "posterior mean", "mean", samples.mean()[observation])
    effective = None if samples.log_weight is None else float(samples.effective_sample_size()[observation])
    caption = captions.get("std", "") if effective is None else f"ESS {effective:.1f}"
    caption = "one sample" if n == 1 else caption
    axes = canvas.tile(0, column + 1, "standard deviation", caption)
    std = samples.std()[observation].square().mean(0).sqrt().cpu().numpy()
    for place, i in enumerate(map(int, samples.picks(shown)[observation])):
        caption = sample_captions[i] if i < len(sample_captions) else ""
        below = canvas.tile(1 + place // columns, place % columns, f"sample {i + 1}", caption)
        below.imshow(pixels(samples.draws[observation, i], value_range), cmap="gray", vmin=0.0, vmax=1.0)
    canvas.color_bar(axes, axes.imshow(std, cmap="magma", vmin=0.0, vmax=float(std.max()) or 1.0))
    canvas.footer(footer)
    return canvas.figure


class _Canvas:
    """A figure whose tiles stand at fixed places, in inches, so that images of any shape line up."""

    def __init__(self, rows: int, columns: int, aspect: float) -> None:
        from midguide.plots.figure import Figure

        self.tile_height = _TILE * min(max(aspect, 0.3), 3.0)
        self.width = 2 * _MARGIN + columns * _TILE + (columns - 1) * _GAP + _BAR
        self.height = rows * (_HEAD + self.tile_height) + _FOOT
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")

    def tile(self, row: int, column: int, title: str, caption: str) -> Axes:
        """Axes without ticks, the title above in bold on the left, the caption on the right."""
        left = _MARGIN + column * (_TILE + _GAP)
        bottom = self.height - (row + 1) * (_HEAD + self.tile_height)
        axes = self._axes(left, bottom, _TILE, self.tile_height)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_anchor("S")
        for spine in axes.spines.values():
            spine.set_visible(False)
        height = bottom + self.tile_height + 0.07
        self._text(left, height, literal(title), size=10, weight="bold", color=_INK)
        self._text(left + _TILE, height, caption, size=8.5, color=_SOFT, ha="right")
        return axes

    def color_bar(self, axes: Axes, image: ScalarMappable) -> None:
        """A color bar to the right of a tile, exactly as high."""
        box = axes.get_position()
        bar = self._axes(box.x1 * self.width + 0.09, box.y0 * self.height, 0.1, self.tile_height)
        color_bar = self.figure.colorbar(image, cax=bar)
        color_bar.outline.set_visible(False)
        bar.tick_params(labelsize=8, length=2.5, width=0.6, color=_SOFT, labelcolor=_SOFT, pad=2)
        bar.locator_params(axis="y", nbins=5)

    def footer(self, text: str) -> None:
        """Small text at the lower left."""
        self._text(_MARGIN, 0.15, literal(text), size=8.5, color=_SOFT)

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.width, y / self.height, text, va="baseline", **style)


def pixels(image: Tensor, value_range: tuple[float, float], measured: Tensor | None = None) -> np.ndarray:
    """An image (C, H, W) as matplotlib wants it, in [0, 1]: (H, W) or (H, W, 3); what was not measured light gray."""
    low, high = value_range
    values = ((image.detach().float().cpu() - low) / (high - low)).clamp(0.0, 1.0)
    if measured is not None:
        values = torch.where(measured.cpu(), values, HIDDEN)
    return (values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)).numpy()
