"""Sparse sampling: the instrument sees every few entries along the last axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import OPERATORS, SVDOperator


@dataclass(frozen=True, eq=False)
class Subsample(SVDOperator):
    """The first entry of each block, (B, ..., H, W) -> (B, ..., H/f, W/g); its singular values are zero and one.

    Args:
        factor: lengths of a block along the last axes: (4, 4) for images, (4,) for signals, (2, 4, 4) for volumes.

    Raises:
        ConfigError: If a length is not a positive integer.
        ShapeError: If the lengths of x are not multiples of the block's.

    Example:
        >>> Subsample((2,))(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        tensor([[1., 3.]])
    """

    factor: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.factor or any(not isinstance(side, int) or side < 1 for side in self.factor):
            raise ConfigError(
                f"factor must be a tuple of positive integers, got {self.factor!r}",
                hint="(4, 4) takes every fourth row and column",
            )

    def __call__(self, x: Tensor) -> Tensor:
        axes = len(self.factor)
        sizes = x.shape[-axes:]
        if x.ndim <= axes or any(size % side for size, side in zip(sizes, self.factor, strict=True)):
            raise ShapeError(
                f"blocks of {'x'.join(map(str, self.factor))} do not tile events of shape {tuple(x.shape[1:])}",
                hint="take a factor that divides all sides, or crop",
            )
        return x[..., *(slice(None, None, side) for side in self.factor)]

    def adjoint(self, y: Tensor) -> Tensor:
        axes = len(self.factor)
        sizes = [size * side for size, side in zip(y.shape[-axes:], self.factor, strict=True)]
        x = y.new_zeros(*y.shape[:-axes], *sizes)
        x[..., *(slice(None, None, side) for side in self.factor)] = y
        return x

    def singular_values(self, x: Tensor) -> Tensor:
        return self.adjoint(torch.ones_like(self(x[:1]))).flatten()

    def vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return coefficients.unflatten(1, like.shape[1:])


@OPERATORS.register(
    "subsample", summary="every few entries along the last axes", needs="sides that are multiples of factor"
)
def subsample(event_shape: tuple[int, ...], *, seed: int = 0, factor: int = 4, axes: int | None = None) -> Subsample:
    """Measure one entry in `factor` along the last `axes`; by default all axes but the first, that of the channels."""
    axes = max(1, len(event_shape) - 1) if axes is None else axes
    if not 1 <= axes <= len(event_shape):
        raise ConfigError(f"axes must be from 1 to {len(event_shape)}, got {axes}", hint="those of the signal")
    return Subsample((factor,) * axes)
