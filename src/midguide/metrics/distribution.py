"""Distances between two clouds of samples."""

from __future__ import annotations

from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.rng import Rng


def sliced_wasserstein(a: Tensor, b: Tensor, *, order: int = 1, slices: int = 100, seed: int = 0) -> float:
    """Sliced Wasserstein distance of two clouds of equally many samples.

    `SW_p = (mean over directions u of W_p(u^T a, u^T b)^p)^(1/p)`, with directions uniform on the sphere; in one
    dimension W_p pairs the sorted values.

    Args:
        a: first cloud, shape (n, *event).
        b: second cloud, shape (n, *event).
        order: p, 1 or 2.
        slices: number of directions.
        seed: of the directions.

    Raises:
        ShapeError: the clouds differ in shape.
        ConfigError: another order.

    References: Bonneel et al. 2015.
    """
    if a.shape != b.shape:
        raise ShapeError(f"the clouds have shapes {tuple(a.shape)} and {tuple(b.shape)}", hint="take as many of each")
    if order not in (1, 2):
        raise ConfigError(f"order must be 1 or 2, got {order}")
    a, b = a.double().flatten(1), b.double().flatten(1)
    directions = Rng([(seed, "slices")], size=slices).normal(a.new_empty(slices, a.shape[1]))
    directions = (directions / directions.norm(dim=1, keepdim=True)).T
    gaps = ((a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values).abs()
    return float(gaps.pow(order).mean() ** (1 / order))
