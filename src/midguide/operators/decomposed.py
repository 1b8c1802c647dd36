"""Any linear operator on small images with the singular value decomposition of its matrix, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.operators.base import OPERATORS, LinearOperator, SVDOperator, image_size
from midguide.operators.blur import motion_blur

LARGEST = 64 * 64
"""Pixels of the largest image: two square matrices of that size take 400 MB in two precisions, and half a minute."""


class Decomposition:
    """U, s and V^T with `A = U diag(s) V^T`, computed in float64 when they are first asked for, and kept.

    Shapes (n, n), (n,) and (n, n), or with a leading axis of observations; s decreases.
    """

    def __init__(self, compute: Callable[[], tuple[Tensor, ...]], observations: int | None = None) -> None:
        self._compute, self.observations = compute, observations
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    @cached_property
    def _exact(self) -> tuple[Tensor, ...]:
        return self._compute()

    def at(self, x: Tensor) -> tuple[Tensor, ...]:
        """The three on the device and in the dtype of x: converting them takes longer than using them."""
        key = x.dtype, x.device
        if key not in self._moved:
            self._moved[key] = tuple(part.to(x) for part in self._exact)
        return self._moved[key]

    def select(self, rows: Tensor) -> Decomposition:
        """Those of the observations `rows`; itself where one serves all."""
        if self.observations is None:
            return self
        return Decomposition(lambda: tuple(part[rows] for part in self._exact), len(rows))

    def stack(self, others: Sequence[Decomposition], counts: Sequence[int]) -> Decomposition:
        """Those of the observations of this one and of others, which serve `counts` of them."""

        def compute() -> tuple[Tensor, ...]:
            exact = [each._repeated(count) for each, count in zip([self, *others], counts, strict=True)]
            return tuple(torch.cat(parts) for parts in zip(*exact, strict=True))

        return Decomposition(compute, sum(counts))

    def _repeated(self, count: int) -> tuple[Tensor, ...]:
        """The three with a leading axis of observations."""
        if self.observations is not None:
            return self._exact
        return tuple(part[None].expand(count, *part.shape) for part in self._exact)


@dataclass(frozen=True, eq=False)
class Decomposed(SVDOperator):
    """A linear operator that treats all channels alike, decomposed as `A = U diag(s) V^T` of n x n for n pixels.

    It measures with the operator itself, and uses the matrices for singular vectors only. Build it with
    `Decomposed.create`. Coefficients are those of the channels, one channel after the other.

    Args:
        operator: maps (B, ..., H, W) to the same shape, each of the leading axes on its own.
        decomposition: of its matrix; not part of what describes it.

    Example:
        >>> from midguide.operators.blur import ReflectBlur
        >>> blur = Decomposed.create(ReflectBlur(torch.tensor([[0.1, 0.8, 0.1]])), (2, 4))
        >>> x = torch.eye(4)[None, :2]
        >>> torch.allclose(blur.pinv(blur(x)), x, atol=1e-4)
        True
    """

    operator: LinearOperator
    decomposition: Decomposition = field(repr=False)
    per_observation_fields: ClassVar[tuple[str, ...]] = ("operator", "decomposition")

    @classmethod
    def create(cls, operator: LinearOperator, size: tuple[int, int]) -> Self:
        """The operator with its decomposition, computed at the first use.

        Args:
            operator: what to decompose.
            size: height and width of the images.

        Raises:
            ShapeError: If the images have more pixels than `LARGEST`, or are not mapped to images of their size.
        """
        if size[0] * size[1] > LARGEST:
            raise ShapeError(
                f"a decomposition in memory is for images of up to {LARGEST:,} pixels, got {size[0]}x{size[1]}",
                hint="without one, samplers that need no decomposition take the operator, by conjugate gradients: "
                "motion-blur instead of motion-blur-decomposed",
            )
        double = operator.to(torch.float64)
        made = double(torch.zeros(operator.observations or 1, 1, *size, dtype=torch.float64)).shape[2:]
        if tuple(made) != size:
            raise ShapeError(f"the operator makes {tuple(made)} of an image of {size[0]}x{size[1]}")
        return cls(operator, Decomposition(lambda: _decompose(double, size), operator.observations))

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y)

    def singular_values(self, x: Tensor) -> Tensor:
        _, values, _ = self.decomposition.at(x)
        channels = x[0].numel() // values.shape[-1]
        return values.repeat(*[1] * (values.ndim - 1), channels)

    def vt(self, x: Tensor) -> Tensor:
        return _channels(x, self.decomposition.at(x)[2].mT).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return _channels(coefficients.unflatten(1, like.shape[1:]), self.decomposition.at(coefficients)[2])

    def ut(self, y: Tensor) -> Tensor:
        coefficients = _channels(y, self.decomposition.at(y)[0]).flatten(1)
        return torch.where(self.singular_values(y) > 0, coefficients, 0.0)


@OPERATORS.register(
    "motion-blur-decomposed",
    summary="the same, decomposed",
    needs="an image not smaller than the kernel, of up to 4,096 pixels",
)
def motion_blur_decomposed(
    event_shape: tuple[int, ...], *, seed: int = 0, size: float = 61.0, intensity: float = 0.5, count: int | None = None
) -> Decomposed:
    """`motion-blur` with the same kernels, and a decomposition for the samplers and steps that need one."""
    blur = motion_blur(event_shape, seed=seed, size=size, intensity=intensity, count=count)
    return Decomposed.create(blur, image_size(event_shape))


def _channels(x: Tensor, matrix: Tensor) -> Tensor:
    """`x M` for each channel of each row as a row vector, in the shape of x."""
    rows = x.reshape(len(x), -1, matrix.shape[-2])
    # one matrix for all rows meets them in one product, so that it is read once
    product = rows.flatten(0, 1) @ matrix if matrix.ndim == 2 else rows @ matrix
    return product.reshape(x.shape)


def _decompose(operator: LinearOperator, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """U, s and V^T of the matrix of an operator in float64, on one channel; zero where s is zero up to rounding."""
    pixels = size[0] * size[1]
    basis = torch.eye(pixels, dtype=torch.float64).reshape(1, pixels, *size)  # its channels are the unit images
    rows = torch.arange(operator.observations or 1)  # an operator per observation takes one row for each
    matrix = torch.cat([operator.select(row[None])(basis) for row in rows]).flatten(2).mT
    left, values, right = torch.linalg.svd(matrix if operator.observations else matrix[0])
    rounding = values.amax(-1, keepdim=True) * torch.finfo(values.dtype).eps * pixels
    return left, torch.where(values > rounding, values, 0.0), right
