"""The identity, and any linear map given as a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import OPERATORS, SVDOperator, check_rows


@dataclass(frozen=True, eq=False)
class Identity(SVDOperator):
    """`y = x`, for any event shape: denoising.

    Example:
        >>> Identity()(torch.ones(1, 2))
        tensor([[1., 1.]])
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def singular_values(self, x: Tensor) -> Tensor:
        return x.new_ones(math.prod(x.shape[1:]))

    def vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return coefficients.unflatten(1, like.shape[1:])


@dataclass(frozen=True, eq=False)
class Matrix(SVDOperator):
    """`y = A x` for a matrix A acting on the flattened event; build it with `Matrix.create`.

    The decomposition `A = U diag(s) V^T` has d columns in U and d values in s; those past the rank are zero. V is the
    product `I - Y T Y^T` of r = min(m, d) Householder reflections. So V costs r d operations, not d^2 (Schreiber and
    Van Loan 1989).

    Args:
        matrix: A, shape (m, d), or (N, m, d) with a matrix for each observation.
        left: U, shape (m, d) or (N, m, d).
        values: s, shape (d,) or (N, d), decreasing.
        reflectors: Y, shape (d, r) or (N, d, r).
        factor: T, upper triangular, shape (r, r) or (N, r, r).
        event_shape: shape of one x, with d entries.

    Example:
        >>> average = Matrix.create(torch.full((1, 4), 0.25), (2, 2))
        >>> average(torch.ones(3, 2, 2)).shape
        torch.Size([3, 1])
    """

    matrix: Tensor
    # rounded as the number of threads has it: not part of what describes the operator
    left: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    reflectors: Tensor = field(repr=False)
    factor: Tensor = field(repr=False)
    event_shape: tuple[int, ...]
    per_observation_fields: ClassVar[tuple[str, ...]] = ("matrix", "left", "values", "reflectors", "factor")

    @classmethod
    def create(cls, matrix: Tensor, event_shape: tuple[int, ...], *, cut: float = 0.0) -> Self:
        """Decompose the matrix, in float64; results come in the dtype of the inputs of each call.

        Args:
            matrix: shape (m, d), or (N, m, d) with a matrix for each observation.
            event_shape: shape of one x, with d entries.
            cut: singular values below it are set to zero, also in the matrix; rounding errors always are.

        Raises:
            ShapeError: If the matrix does not fit the event, or is not finite.
            ConfigError: If `cut` is negative.
        """
        if matrix.ndim not in (2, 3) or matrix.shape[-1] != math.prod(event_shape):
            raise ShapeError(
                f"a matrix of shape {tuple(matrix.shape)} does not act on events of shape {event_shape}",
                hint=f"it needs {math.prod(event_shape)} columns: (m, d), or (N, m, d) for one per observation",
            )
        if matrix.numel() == 0 or matrix.is_complex():
            raise ShapeError(
                f"the matrix is {'complex' if matrix.is_complex() else 'empty'}, of shape {tuple(matrix.shape)}",
                hint="at least one row of real numbers; stack real and imaginary part of complex rows",
            )
        if not bool(torch.isfinite(matrix).all()):
            raise ShapeError("the matrix holds NaN or infinity", hint="check how it was made")
        if not cut >= 0.0:
            raise ConfigError(f"cut must not be negative, got {cut}", hint="0 keeps all singular values")
        matrix = matrix.double()
        m, d = matrix.shape[-2:]
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        rank = min(m, d)
        rounding = values.amax(-1, keepdim=True) * torch.finfo(matrix.dtype).eps * max(m, d)
        keep = (values > rounding) & (values >= cut)
        reflectors, factor, signs = _reflections(right.mT)
        left = left * (keep * signs)[..., None, :]
        values = torch.where(keep, values, 0.0)
        if cut > 0.0:
            matrix = (left * (values * signs)[..., None, :]) @ right
        left, values = (torch.nn.functional.pad(part, (0, d - rank)) for part in (left, values))
        return cls(matrix, left, values, reflectors, factor, tuple(event_shape))

    @classmethod
    def orthonormal(cls, rows: Tensor, event_shape: tuple[int, ...]) -> Self:
        """The matrix whose rows are these made orthonormal in their order (Gram and Schmidt), without an SVD.

        Its singular values are one. Of independent Gaussian numbers it is a uniformly random subspace.

        Args:
            rows: shape (m, d), m <= d, linearly independent.
            event_shape: shape of one x, with d entries.

        Raises:
            ShapeError: If the rows do not fit the event, or are linearly dependent.

        Example:
            >>> Matrix.orthonormal(torch.tensor([[3.0, 4.0]]), (2,)).matrix
            tensor([[0.6000, 0.8000]], dtype=torch.float64)
        """
        d = math.prod(event_shape)
        if rows.ndim != 2 or rows.shape[1] != d or len(rows) > d:
            raise ShapeError(
                f"rows of shape {tuple(rows.shape)} are not orthonormal for events of shape {event_shape}",
                hint=f"at most {d} rows of {d} entries",
            )
        m = len(rows)
        reflectors, factor, signs = _reflections(rows.double().mT)
        eye = torch.eye(m, d, dtype=torch.float64)
        left, values = eye * signs[:, None], eye.sum(0)
        matrix = signs[:, None] * (eye - reflectors[:m] @ factor.mT @ reflectors.mT)
        rest = (matrix * rows).sum(1)  # of each row, what those before it do not span
        if not bool((rest > 1e-12 * rows.double().norm(dim=1)).all()):
            raise ShapeError("the rows are linearly dependent", hint="leave out those that others span")
        return cls(matrix, left, values, reflectors, factor, event_shape)

    @property
    def per_observation(self) -> bool:
        return self.matrix.ndim == 3

    @cached_property
    def right(self) -> Tensor:
        """V^T as a matrix, shape (d, d) or (N, d, d)."""
        identity = torch.eye(self.reflectors.shape[-2]).to(self.reflectors)
        return identity - self.reflectors @ self.factor.mT @ self.reflectors.mT

    def __call__(self, x: Tensor) -> Tensor:
        self._check_event(x)
        return _multiply(self.matrix, x.flatten(1))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check_measurement(y)
        return _multiply(self.matrix.mT, y).unflatten(1, self.event_shape)

    def singular_values(self, x: Tensor) -> Tensor:
        return self.values.to(x)

    def vt(self, x: Tensor) -> Tensor:
        self._check_event(x)
        return self._reflect(x.flatten(1), self.factor.mT)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return self._reflect(coefficients, self.factor).unflatten(1, self.event_shape)

    def ut(self, y: Tensor) -> Tensor:
        self._check_measurement(y)
        return _multiply(self.left.mT, y)

    def pinv(self, y: Tensor) -> Tensor:
        return self._through_rows(self._inverse(self.singular_values(y)), y)

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        values = self.singular_values(x)
        return x + self._through_rows(values / (values**2 + weight), y - self(x))

    def _through_rows(self, weights: Tensor, y: Tensor) -> Tensor:
        """`V diag(weights) U^T y`, by the r directions in which values are not zero."""
        self._check_measurement(y)
        r = self.reflectors.shape[-1]
        coefficients = weights[..., :r] * _multiply(self.left[..., :r].mT, y)
        return _multiply(self._row_space, coefficients).unflatten(1, self.event_shape)

    @cached_property
    def _row_space(self) -> Tensor:
        """The first r columns of V, shape (d, r) or (N, d, r)."""
        d, r = self.reflectors.shape[-2:]
        return torch.eye(d, r).to(self.reflectors) - self.reflectors @ self.factor @ self.reflectors[..., :r, :].mT

    def _reflect(self, x: Tensor, factor: Tensor) -> Tensor:
        """`x - Y F Y^T x` for each row of x, shape (B, d)."""
        inner = _multiply(factor, _multiply(self.reflectors.mT, x))
        return x - _multiply(self.reflectors, inner)

    def _check_event(self, x: Tensor) -> None:
        check_rows(self, x)
        if tuple(x.shape[1:]) != self.event_shape:
            raise ShapeError(f"the matrix acts on events of shape {self.event_shape}, got {tuple(x.shape[1:])}")

    def _check_measurement(self, y: Tensor) -> None:
        check_rows(self, y)
        if tuple(y.shape[1:]) != self.matrix.shape[-2:-1]:
            raise ShapeError(f"measurements have shape ({self.matrix.shape[-2]},), got {tuple(y.shape[1:])}")


@OPERATORS.register("identity", summary="everything is measured: denoising", needs="nothing")
def identity(event_shape: tuple[int, ...], *, seed: int = 0) -> Identity:
    """The identity, from the registry's arguments."""
    return Identity()


def _reflections(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reflections whose product `I - Y T Y^T` begins with orthonormal columns, up to their signs.

    Args:
        columns: orthonormal, shape (..., d, r).

    Returns:
        Y, shape (..., d, r); T, upper triangular, shape (..., r, r); the signs, shape (..., r).
    """
    packed, tau = torch.geqrf(columns)
    signs = packed.diagonal(dim1=-2, dim2=-1).sign()
    reflectors = packed.tril(-1) + torch.eye(*packed.shape[-2:]).to(packed)
    # forward accumulation of T, column by column, is this triangular system (Puglisi 1992, whose 1 / tau may be 1 / 0)
    overlaps = (reflectors.mT @ reflectors).triu(1)
    system = torch.eye(tau.shape[-1]).to(tau) + tau[..., :, None] * overlaps
    factor = torch.linalg.solve_triangular(system, torch.diag_embed(tau), upper=True)
    return reflectors, factor, signs


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """`M x` for each row of x, with one matrix for all rows or one for each."""
    if matrix.ndim == 2:
        return x @ matrix.to(x).mT
    return torch.einsum("bij,bj->bi", matrix.to(x), x)
