"""What signals of a prior look like, in a few numbers: what a check of draws needs where the prior is a network.

They lie in the prior's card, computed once from its training signals or from its draws. A signal is known by its level,
contrast, darkest and brightest values, roughness and, for an image, its coarse layout. How unusual it is says one
number, the distance of these from their means under their covariance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from midguide.errors import DataError
from midguide.maths.chances import normal_limit, upper_limit

LEVELS = (0.1, 0.01, 0.001, 0.0001)
"""Shares of signals beyond the stored limits, as far as there are signals enough."""
COARSE = 8
"""Height and width of the layout of an image."""
FEWEST = 50
"""Signals from which statistics are taken."""
EXTREME = 0.001
"""Share of the values of a signal below `dark`, and above `bright`."""
DIGITS = 5
ROWS = 512
"""Signals that are measured at once."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Numbers of many signals: their means, their covariance, and how far signals are from the mean.

    Args:
        count: signals.
        source: what they were, in words.
        value_range: of the signals, or None.
        means: of the numbers, by name.
        factor: Cholesky factor of their covariance, its lower triangle row by row, as text.
        limits: by level, the shortfall of the distance: what a mean over dependent draws exceeds at most so often.
        layout: mean and Cholesky factor of coarse gray images, as text; empty for other signals.

    Example:
        >>> found = Statistics.of(torch.linspace(-1, 1, 100)[:, None, None, None] * torch.rand(100, 1, 4, 4))
        >>> list(found.means)
        ['level', 'contrast', 'dark', 'bright', 'roughness']
    """

    count: int
    source: str = ""
    value_range: tuple[float, float] | None = None
    means: Mapping[str, float] = field(default_factory=dict)
    factor: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    layout: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, signals: Tensor, *, source: str = "", value_range: tuple[float, float] | None = None) -> Self:
        """Those of signals, shape (n, *signal).

        Args:
            signals: in the value range of the prior.
            source: what they are, in words.
            value_range: of the prior.

        Raises:
            DataError: If there are fewer than 50, or they are not finite.
        """
        if len(signals) < FEWEST:
            raise DataError(f"statistics need at least {FEWEST} signals, got {len(signals)}", hint="give more")
        if not bool(signals.isfinite().all()):
            raise DataError("the signals hold NaN or infinity", hint="leave those signals out")
        known = {"count": len(signals), "source": source, "value_range": value_range}
        first = cls(**known, layout=_layout(signals))
        measured = first.measure(signals)
        values = torch.stack(list(measured.values()), 1)
        known |= {"means": {name: _short(float(v.mean())) for name, v in measured.items()}, "layout": first.layout}
        second = cls(**known, factor=_text(_lower(_factor(values))))
        distance = second.distances(values)
        limits = {f"{level:g}": upper_limit(distance, level, averaged=True) for level in LEVELS}
        limits = {level: _short(limit) for level, limit in limits.items() if math.isfinite(limit)}
        return cls(**known, factor=second.factor, limits=limits)

    def measure(self, signals: Tensor) -> dict[str, Tensor]:
        """The numbers of signals, shape (n, *signal): each float64, shape (n,).

        `level` and `contrast` are mean and standard deviation of values, `dark` and `bright` their 0.1 % and 99.9 %
        quantiles. `roughness` is the root mean square difference of neighbors. `layout` is the distance of the coarse
        image from the mean one, in standard deviations of each axis.
        """
        blocks = [self._measured(block.float().cpu()) for block in signals.split(ROWS)]
        return {name: torch.cat([block[name] for block in blocks]).double() for name in blocks[0]}

    def distances(self, values: Tensor) -> Tensor:
        """Root mean square of the standardized numbers, shape (n, numbers) -> (n,)."""
        return self.standardized(values).square().mean(1).sqrt()

    def standardized(self, values: Tensor) -> Tensor:
        """Numbers, shape (n, numbers), less their means and without their correlations, in standard deviations."""
        gap = values.double() - torch.tensor(list(self.means.values()), dtype=torch.float64)
        return torch.linalg.solve_triangular(_square(self.factor, len(self.means)), gap.mT, upper=False).mT

    def marginal(self, numbers: Tensor) -> Tensor:
        """Numbers less their means in their own standard deviations, shape (numbers,)."""
        std = _square(self.factor, len(self.means)).square().sum(1).sqrt()
        return (numbers.double() - torch.tensor(list(self.means.values()), dtype=torch.float64)) / std

    def limit(self, level: float) -> float:
        """What the mean distance of dependent draws exceeds in a share of at most `level`.

        It is the stored limit of the largest level that is not above; below them all it grows as a normal limit does.
        """
        known = {float(key): value for key, value in self.limits.items()}
        at = max((at for at in known if at <= level), default=min(known))
        return known[at] * max(normal_limit(level) / normal_limit(at), 1.0)

    def _measured(self, x: Tensor) -> dict[str, Tensor]:
        flat = x.flatten(1)
        k = 1 + int(EXTREME * (flat.shape[1] - 1))
        found = {"level": flat.mean(1), "contrast": flat.std(1, correction=0)}
        found |= {"dark": flat.topk(k, 1, largest=False).values[:, -1], "bright": flat.topk(k, 1).values[:, -1]}
        found["roughness"] = roughness(x)
        if self.layout[0]:
            mean = torch.tensor([float(v) for v in self.layout[0].split()], dtype=torch.float64)
            factor = _square(self.layout[1], len(mean))
            gap = torch.linalg.solve_triangular(factor, (coarse(x) - mean).mT, upper=False)
            found["layout"] = gap.square().mean(0).sqrt()
        return found


def roughness(signals: Tensor) -> Tensor:
    """Root mean square difference of neighbors along the last two axes of images, or the last of others, (n,)."""
    axes = range(2, signals.ndim) if signals.ndim == 4 else [signals.ndim - 1]
    squares = [signals.diff(dim=axis).square().flatten(1) for axis in axes if signals.shape[axis] > 1]
    return torch.cat(squares, 1).mean(1).sqrt() if squares else torch.zeros(len(signals))


def coarse(signals: Tensor) -> Tensor:
    """Gray images of 8x8 pixels, flat, float64, shape (n, 64)."""
    small = torch.nn.functional.adaptive_avg_pool2d(signals.float().cpu(), COARSE)
    return small.double().mean(1).flatten(1)


def _layout(signals: Tensor) -> tuple[str, str]:
    """Mean and Cholesky factor of the covariance of coarse images as text, where there are enough large images."""
    if signals.ndim != 4 or min(signals.shape[2:]) < 2 * COARSE or len(signals) < 10 * COARSE**2:
        return "", ""
    small = torch.cat([coarse(block) for block in signals.split(ROWS)])
    return _text(small.mean(0)), _text(_lower(_factor(small)))


def _factor(values: Tensor) -> Tensor:
    """Cholesky factor of the covariance of rows, in which nothing is exactly constant or dependent."""
    covariance = torch.cov(values.mT)
    floor = 1e-6 * covariance.diagonal() + 1e-12 * (1 + values.square().mean(0))
    return torch.linalg.cholesky(covariance + floor.diag())


def _lower(matrix: Tensor) -> Tensor:
    return matrix[tuple(torch.tril_indices(*matrix.shape))]


def _square(text: str, size: int) -> Tensor:
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[tuple(torch.tril_indices(size, size))] = torch.tensor([float(v) for v in text.split()], dtype=torch.float64)
    return matrix


def _text(values: Tensor) -> str:
    return " ".join(f"{v:.{DIGITS}g}" for v in values.tolist())


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
