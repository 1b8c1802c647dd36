"""Linear algebra that several methods share: conjugate gradients row by row, reflections, distances of Gaussians."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from midguide.errors import ConvergenceWarning


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row, shape (B,)."""
    return (a * b).flatten(1).sum(1)


def weighted_sum(*terms: tuple[float, Tensor]) -> Tensor:
    """`sum_i w_i x_i` of pairs (w_i, x_i) of one shape, which goes once through memory for each."""
    (weight, first), *others = terms
    total = weight * first
    for weight, x in others:
        total.add_(x, alpha=weight)
    return total


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values of shape (B,) reshaped to broadcast over the rows of `like`, shape (B, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    what: str | None = "the solution",
) -> Tensor:
    """Solve `M x = b` for each row, with M symmetric positive semi-definite; rows stop on their own.

    A row stops once its residual is `tolerance` times its right-hand side. From then on it does not change, so the
    result of a row does not depend on its batch. Starting from zero, a singular but consistent system gives the
    solution of least norm.

    Args:
        apply: `x -> M x`, row by row.
        b: right-hand sides, shape (B, ...).
        start: first guess, zero by default.
        tolerance: relative residual at which a row stops.
        max_iterations: most steps of any row.
        what: is solved for, in words for the warning; None where the caller reports the residual.

    Warns:
        ConvergenceWarning: a row has not reached the tolerance after the last step.

    References: Hestenes and Stiefel 1952.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    residual = b.clone() if start is None else b - apply(x)
    direction, energy = residual.clone(), inner(residual, residual)
    target = tolerance**2 * inner(b, b)
    for _ in range(max_iterations):
        running = energy > target
        if not bool(running.any()):
            break
        image = apply(direction)
        curvature = inner(direction, image)
        running = running & (curvature > 0)
        length = torch.where(running, energy / torch.where(running, curvature, 1.0), 0.0)
        x = x + per_row(length, x) * direction
        residual = residual - per_row(length, x) * image
        fresh = torch.where(running, inner(residual, residual), energy)
        growth = torch.where(running, fresh / torch.where(running, energy, 1.0), 0.0)
        direction = torch.where(per_row(running, x), residual + per_row(growth, x) * direction, direction)
        energy = torch.where(running, fresh, torch.zeros_like(energy))
    if what is not None and bool((energy > target).any()):
        message = f"{what} is approximate: conjugate gradients have not converged in {max_iterations:,} steps"
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return x


def reflect(x: Tensor, unit: Tensor) -> Tensor:
    """`(w w^T / w_1 - I) x` with `w = e_1 + u`, along the last axis: symmetric, orthogonal, and u is its first column.

    Args:
        x: shape (..., n).
        unit: u, of norm one with `u_1 > -1`, shape (n,).

    References: Householder 1958.
    """
    w = unit.clone()
    w[0] += 1
    return (x @ w)[..., None] * (w / w[0]) - x


def symmetric_sqrt(matrix: Tensor) -> Tensor:
    """The positive semi-definite square root of a symmetric matrix (negative rounding errors are cut)."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def gaussian_w2(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """2-Wasserstein distance of two Gaussians, in float64.

    `W2^2 = ||m_a - m_b||^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})` (Dowson and Landau 1982).
    """
    mean_a, cov_a, mean_b, cov_b = (value.double() for value in (mean_a, cov_a, mean_b, cov_b))
    root = symmetric_sqrt(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return float(squared.clamp_min(0).sqrt())


def gaussian_kl(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """`KL(N(m_a, C_a) || N(m_b, C_b))` in nats, in float64; both covariances positive definite."""
    mean_a, cov_a, mean_b, cov_b = (value.double() for value in (mean_a, cov_a, mean_b, cov_b))
    factor_a, factor_b = torch.linalg.cholesky(cov_a), torch.linalg.cholesky(cov_b)
    whitened = torch.linalg.solve_triangular(factor_b, factor_a, upper=False)
    shift = torch.linalg.solve_triangular(factor_b, (mean_b - mean_a)[:, None], upper=False)
    log_det = 2 * (factor_b.diagonal().log().sum() - factor_a.diagonal().log().sum())
    return float(0.5 * (whitened.square().sum() + shift.square().sum() - len(mean_a) + log_det))


def largest_singular_value(
    apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100
) -> Tensor:
    """Largest singular value of a linear map by power iteration on `A^T A`, for each row of `start`, shape (B,)."""
    x = start
    for _ in range(iterations):
        x = x / per_row(inner(x, x).sqrt().clamp_min(torch.finfo(x.dtype).tiny), x)
        x = adjoint(apply(x))
    return inner(x, x).sqrt().sqrt()
