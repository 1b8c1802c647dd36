"""Super-resolution: the instrument sees the means of blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths import linalg
from midguide.operators.base import OPERATORS, SVDOperator


@dataclass(frozen=True, eq=False)
class BlockMean(SVDOperator):
    """The mean of each block of p entries, for each channel: `A = (1/p) 1^T` on a block.

    Its singular values are `1/sqrt(p)` (1/4 for 4x4 blocks) and zero. The right singular vectors of a block are the
    columns of `linalg.reflect`, whose first column is constant.

    Args:
        factor: side of a square block; or its lengths along the last axes: (4, 2) for 4 rows and 2 columns, (4,) for
            signals.

    Raises:
        ConfigError: If a length is not a positive integer.
        ShapeError: If the lengths of x are not multiples of the block's.

    Example:
        >>> BlockMean(2)(torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]))
        tensor([[[4.]]])
    """

    factor: int | tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.block or any(not isinstance(side, int) or side < 1 for side in self.block):
            raise ConfigError(
                f"factor must be a positive integer or a tuple of them, got {self.factor!r}",
                hint="factor=4 takes the mean of blocks of 4x4 pixels",
            )

    @property
    def block(self) -> tuple[int, ...]:
        """Lengths of a block along the last axes."""
        return self.factor if isinstance(self.factor, tuple) else (self.factor, self.factor)

    def __call__(self, x: Tensor) -> Tensor:
        return self._split(x).mean(-1)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / math.prod(self.block)

    def pinv(self, y: Tensor) -> Tensor:
        """Replication: each value fills its block."""
        return self._join(y[..., None].expand(*y.shape, math.prod(self.block)))

    def singular_values(self, x: Tensor) -> Tensor:
        values = torch.zeros_like(self._split(x[:1]))
        values[..., 0] = 1 / math.sqrt(math.prod(self.block))
        return values.flatten()

    def vt(self, x: Tensor) -> Tensor:
        return self._reflect(self._split(x)).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return self._join(self._reflect(coefficients.unflatten(1, self._split(like).shape[1:])))

    def _reflect(self, blocks: Tensor) -> Tensor:
        """`V b` for each block, shape (..., p); V is symmetric and its own inverse."""
        p = blocks.shape[-1]
        return linalg.reflect(blocks, blocks.new_full((p,), 1 / math.sqrt(p)))

    def _split(self, x: Tensor) -> Tensor:
        """Blocks of x, shape (B, ..., H, W) -> (B, ..., H/f, W/g, p)."""
        axes = len(self.block)
        sizes = x.shape[-axes:]
        if x.ndim <= axes or any(size % side for size, side in zip(sizes, self.block, strict=True)):
            raise ShapeError(
                f"blocks of {'x'.join(map(str, self.block))} do not tile events of shape {tuple(x.shape[1:])}",
                hint="take a factor that divides both sides, or crop or resize; for signals, factor is a tuple of one",
            )
        first = x.ndim - axes
        for i, side in enumerate(self.block):  # H -> (H/f, f), then f to the end
            x = x.unflatten(first + i, (-1, side)).movedim(first + i + 1, -1)
        return x.flatten(-axes)

    def _join(self, blocks: Tensor) -> Tensor:
        """The inverse of `_split`."""
        axes = len(self.block)
        x = blocks.unflatten(-1, self.block)
        first = blocks.ndim - 1 - axes
        for i in reversed(range(axes)):
            x = x.movedim(-1, first + i + 1).flatten(first + i, first + i + 1)
        return x


@OPERATORS.register(
    "super-resolution", summary="means of square blocks", needs="an image, its sides multiples of factor"
)
def super_resolution(event_shape: tuple[int, ...], *, seed: int = 0, factor: int = 4) -> BlockMean:
    """The mean of each `factor` x `factor` block; the factor is a ratio and does not scale with the image."""
    return BlockMean(factor)
