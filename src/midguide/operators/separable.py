"""Separable operators `Y = A_y X A_x^T`, whose singular value decomposition consists of two small ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.operators.base import SVDOperator
from midguide.operators.matrix import Matrix


@dataclass(frozen=True, eq=False)
class Separable(SVDOperator):
    """`Y = A_y X A_x^T` for each channel.

    The decomposition is the Kronecker product of those of A_y and A_x: each singular value is a product.

    Args:
        vertical: A_y, acting on columns, shape (h, H).
        horizontal: A_x, acting on rows, shape (w, W).

    Raises:
        ShapeError: If the image is not (..., H, W).

    Example:
        >>> half = Matrix.create(torch.tensor([[0.5, 0.5]]), (2,))
        >>> Separable(half, half)(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]))
        tensor([[[[4.]]]])
    """

    vertical: Matrix
    horizontal: Matrix

    def __call__(self, x: Tensor) -> Tensor:
        return _both(x, self.vertical.matrix, self.horizontal.matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        return _both(y, self.vertical.matrix.mT, self.horizontal.matrix.mT)

    def singular_values(self, x: Tensor) -> Tensor:
        values = torch.outer(self.vertical.values, self.horizontal.values).to(x)
        return values.expand(x.shape[1:]).flatten()

    def vt(self, x: Tensor) -> Tensor:
        return _both(x, self.vertical.right, self.horizontal.right).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        x = coefficients.unflatten(1, like.shape[1:])
        return _both(x, self.vertical.right.mT, self.horizontal.right.mT)

    def ut(self, y: Tensor) -> Tensor:
        return _both(y, self.vertical.left.mT, self.horizontal.left.mT).flatten(1)


def _both(x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """`vertical X horizontal^T` for each channel of each row."""
    size = (vertical.shape[1], horizontal.shape[1])
    if x.ndim < 3 or tuple(x.shape[-2:]) != size:
        raise ShapeError(f"expected images of {size[0]}x{size[1]}, got events of shape {tuple(x.shape[1:])}")
    return vertical.to(x) @ x @ horizontal.to(x).mT
