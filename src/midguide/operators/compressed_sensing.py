"""Compressed sensing: fewer values are measured than there are pixels, each a random combination of all of them.

The same operator measures the channels of an image one by one. Rows are orthonormal: a measured value has the mean
square of a pixel, so that `sigma_y` means the same for all kinds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError, unknown
from midguide.maths.rng import Rng
from midguide.operators.base import OPERATORS, SVDOperator, image_size
from midguide.operators.matrix import Matrix

# Pixels of one channel. In float64, half of 64x64 takes 0.2 GB and ten seconds of a busy core; 128x128 would take 4 GB.
LARGEST_DENSE = 64 * 64


def walsh_hadamard(x: Tensor) -> Tensor:
    """`H x / sqrt(n)` along the last axis, with `H_2n = [[H_n, H_n], [H_n, -H_n]]`: symmetric and its own inverse.

    Args:
        x: shape (..., n), n a power of two.

    Raises:
        ShapeError: If n is not a power of two.

    Example:
        >>> walsh_hadamard(torch.tensor([1.0, 1.0, 1.0, -1.0]))
        tensor([ 1.,  1.,  1., -1.])

    References: Fino and Algazi 1976, "Unified matrix treatment of the fast Walsh-Hadamard transform".
    """
    n = x.shape[-1]
    _check_power_of_two(n)
    half = 1
    while half < n:
        upper, lower = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        x = torch.stack([upper + lower, upper - lower], -2).flatten(-3)
        half *= 2
    return x / math.sqrt(n)


def hartley(x: Tensor) -> Tensor:
    """`sum_j x_j cas(2 pi j k / n) / sqrt(n)` along the last axis, `cas = cos + sin`: symmetric and its own inverse.

    Args:
        x: shape (..., n), n any number.

    Example:
        >>> hartley(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])

    References: Bracewell 1983, "Discrete Hartley transform".
    """
    transform = torch.fft.fft(x, norm="ortho")
    return transform.real - transform.imag


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"hadamard": walsh_hadamard, "hartley": hartley}


@dataclass(frozen=True, eq=False)
class SubsampledTransform(SVDOperator):
    """`y = R H D x` for vectors, shape (B, n) -> (B, m): signs D, a transform H, and the rows R to keep.

    H is orthogonal and its own inverse. Rows are orthonormal: the singular values are one where a row is kept, else
    zero, and `V = D H`.

    Args:
        signs: the diagonal of D, +1 or -1, shape (n,).
        rows: which entries of the transform are measured: distinct indices, shape (m,).
        transform: `hartley`, for any n; or `hadamard`, for powers of two, whose entries all have the same size.

    Raises:
        ConfigError: If the transform is unknown.
        ShapeError: If n is not one that it takes, or x has another number of entries.

    Example:
        >>> rows = torch.tensor([0, 1])
        >>> SubsampledTransform(torch.ones(4), rows, "hadamard")(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        tensor([[ 5., -1.]])
    """

    signs: Tensor
    rows: Tensor
    transform: str = "hartley"

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise unknown("transform", self.transform, TRANSFORMS)
        if self.transform == "hadamard":
            _check_power_of_two(len(self.signs))

    def __call__(self, x: Tensor) -> Tensor:
        return self.vt(x)[:, self.rows]

    def adjoint(self, y: Tensor) -> Tensor:
        coefficients = self.ut(y)
        return self.v(coefficients, coefficients)

    def singular_values(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[0]).index_fill(0, self.rows, 1.0)

    def vt(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.signs.shape:
            raise ShapeError(f"expected vectors of {len(self.signs)} entries, got events of shape {tuple(x.shape[1:])}")
        return TRANSFORMS[self.transform](self.signs.to(x) * x)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return self.signs.to(like) * TRANSFORMS[self.transform](coefficients)

    def ut(self, y: Tensor) -> Tensor:
        if y.shape[1:] != self.rows.shape:
            raise ShapeError(f"measurements have shape ({len(self.rows)},), got {tuple(y.shape[1:])}")
        return y.new_zeros(len(y), len(self.signs)).index_copy(1, self.rows, y)


@dataclass(frozen=True, eq=False)
class CompressedSensing(SVDOperator):
    """The same operator for the pixels of each channel, shape (B, ..., H, W) -> (B, ..., m).

    Args:
        each: what acts on the pixels of one channel, shape (B, H W) -> (B, m); one for all observations.
        size: height and width of the images.

    Raises:
        ShapeError: If x is not an image of this size.

    Example:
        >>> sums = Matrix.create(torch.ones(1, 4), (4,))
        >>> CompressedSensing(sums, (2, 2))(torch.ones(1, 3, 2, 2)).shape
        torch.Size([1, 3, 1])
    """

    each: SVDOperator
    size: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        return self.each(self._vectors(x)).unflatten(0, x.shape[:-2])

    def adjoint(self, y: Tensor) -> Tensor:
        return self.each.adjoint(y.flatten(0, -2)).reshape(*y.shape[:-1], *self.size)

    def singular_values(self, x: Tensor) -> Tensor:
        vectors = self._vectors(x[:1])
        return self.each.singular_values(vectors).repeat(len(vectors))

    def vt(self, x: Tensor) -> Tensor:
        return self.each.vt(self._vectors(x)).reshape(len(x), -1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        vectors = self._vectors(like)
        return self.each.v(coefficients.reshape(vectors.shape), vectors).reshape(like.shape)

    def ut(self, y: Tensor) -> Tensor:
        return self.each.ut(y.flatten(0, -2)).reshape(len(y), -1)

    def _vectors(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or tuple(x.shape[-2:]) != self.size:
            raise ShapeError(
                f"expected images of {self.size[0]}x{self.size[1]}, got events of shape {tuple(x.shape[1:])}"
            )
        return x.reshape(-1, math.prod(self.size))


def gaussian_rows(n: int, count: int, seed: int) -> Matrix:
    """Independent rows of `N(0, I)` made orthonormal, shape (count, n): a uniformly random subspace.

    Raises:
        ShapeError: If n is larger than `LARGEST_DENSE`.
    """
    if n > LARGEST_DENSE:
        raise ShapeError(
            f"a dense matrix for {n:,} pixels would take {8e-9 * count * (3 * n + count):.1g} GB, at most "
            f"{LARGEST_DENSE:,} pixels are taken",
            hint="kind=hartley takes any size and stores no matrix",
        )
    draws = Rng([(seed, "gaussian rows")]).normal(torch.empty(1, count, n, dtype=torch.float64))
    return Matrix.orthonormal(draws[0], (n,))


def transform_rows(n: int, count: int, seed: int, transform: str) -> SubsampledTransform:
    """Random signs, and `count` rows of the transform drawn without replacement.

    Raises:
        ShapeError: If the transform does not take n entries.
    """
    address = f"{transform} signs", f"{transform} rows"
    draws = Rng([(seed, part) for part in address]).uniform(torch.empty(2, n, dtype=torch.float64))
    signs = torch.where(draws[0] < 0.5, -1.0, 1.0)
    return SubsampledTransform(signs, draws[1].argsort()[:count].sort().values, transform)


KINDS: dict[str, Callable[[int, int, int], SVDOperator]] = {
    "gaussian": gaussian_rows,
    **{name: partial(transform_rows, transform=name) for name in TRANSFORMS},
}


@OPERATORS.register(
    "compressed-sensing",
    summary="random combinations of the pixels",
    needs="an image; hadamard: a power of two of pixels; gaussian: up to 4,096",
)
def compressed_sensing(
    event_shape: tuple[int, ...], *, seed: int = 0, kind: str = "hartley", fraction: float = 0.5
) -> CompressedSensing:
    """Measure `round(fraction n)` random combinations of the n pixels of each channel, at least one.

    Args:
        event_shape: shape of one image, (..., H, W).
        seed: seed of the matrix.
        kind: `hartley`, random rows of a Hartley transform (a real Fourier transform) with random signs, for any size;
            `hadamard`, the same of a Hadamard transform, for powers of two; or `gaussian`, a dense matrix of
            orthonormalized Gaussian rows, for small images.
        fraction: measured values for each pixel, in (0, 1].

    Raises:
        ConfigError: If the kind is unknown, or the fraction out of range.
        ShapeError: If the size is not one that the kind takes.

    References: Candes and Tao 2006, "Near-optimal signal recovery from random projections"; Do, Gan, Nguyen, Tran 2012,
    "Fast and efficient compressive sensing using structurally random matrices".
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"fraction must be in (0, 1], got {fraction}", hint="it is measured values for each pixel")
    size = image_size(event_shape)
    n = math.prod(size)
    return CompressedSensing(KINDS[kind](n, max(1, round(fraction * n)), seed), size)


def _check_power_of_two(n: int) -> None:
    if n < 1 or n & (n - 1):
        raise ShapeError(
            f"a Hadamard transform takes a power of two of pixels, got {n}",
            hint="kind=hartley takes any number",
        )
