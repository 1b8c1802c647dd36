"""Covariances as objects, one for each row of a batch: products, square roots and solves, without a matrix.

They are those of `p(x_0 | x_t)`. For priors in closed form the covariance is a `LowRank` one, with roots and solves in
closed form. For any other differentiable denoiser it is a `Pullback`, whose products are vector-Jacobian products (Meng
et al. 2021, Theorem 1).

Square roots and solves of a `Pullback` are those of a Krylov space (Lanczos 1950), with full re-orthogonalization. For
symmetric positive definite matrices the solve is that of conjugate gradients. Jacobians of trained networks are neither
symmetric nor positive. So this code makes the projection symmetric, and leaves out directions in which it is not
positive. The result says so.

References: Meng, Song, Li, Ermon 2021, "Estimating High Order Gradients of the Data Distribution by Denoising",
NeurIPS, https://arxiv.org/abs/2111.04726. Saad 2003, "Iterative Methods for Sparse Linear Systems", Sections 6.3-6.7.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from midguide.maths.linalg import conjugate_gradients, inner, per_row
from midguide.maths.rng import Rng

DENSE = 64
"""Most measured values whose covariance is formed as a matrix where products are cheap."""

FAR = 10.0
"""Residual, relative to the right-hand side, of a solution of few products that has gone far off."""

ITERATIONS = 200
"""Most conjugate gradients where there are more."""


class Linear(Protocol):
    """A linear map with its adjoint, row by row, such as a `LinearOperator`."""

    def __call__(self, x: Tensor, /) -> Tensor: ...

    def adjoint(self, y: Tensor, /) -> Tensor: ...


class Root(NamedTuple):
    """A square root applied to noise.

    Args:
        value: shape (B, *event); for white noise its covariance is C.
        change: how much the last direction changed it, relative to its norm, shape (B,); zero where it is exact.
        indefinite: whether negative eigenvalues were cut, shape (B,).
    """

    value: Tensor
    change: Tensor
    indefinite: Tensor


class Solution(NamedTuple):
    """The solution of `(A C A^T + noise) s = r`.

    Args:
        value: s, shape of r.
        gain: `C A^T s`, shape (B, *event): what r moves the mean by. It costs no further product.
        residual: what is left of r, relative to its norm, shape (B,). Few conjugate gradients on a matrix with a wide
            spectrum leave about as much as there was, and are right all the same where most of it lies. Above `FAR` the
            solution has been shortened to what leaves least; the residual is that before.
        indefinite: whether directions were left out, since C is negative along them, shape (B,).
    """

    value: Tensor
    gain: Tensor
    residual: Tensor
    indefinite: Tensor


class Across(NamedTuple):
    """What measurements share with x_0.

    Args:
        columns: `C A^T` by columns, shape (B, m, *event).
        within: `A C A^T`, its symmetric part, float64, shape (B, m, m).
    """

    columns: Tensor
    within: Tensor

    def solve(self, noise: float | Tensor, r: Tensor) -> Solution:
        """`Covariance.solve` without a further product; eigenvalues below zero count as zero."""
        variances = torch.as_tensor(noise).to(r).expand(r.shape).flatten(1).double()
        flat, floor = r.flatten(1).double(), variances.amin(1, keepdim=True)
        values, vectors = torch.linalg.eigh(self.within + torch.diag_embed(variances))
        rounding = 100 * torch.finfo(r.dtype).eps * values.abs().amax(1, keepdim=True)
        kept = torch.maximum(values, floor)
        value = torch.einsum("bik,bk,bjk,bj->bi", vectors, 1 / kept, vectors, flat)
        value = torch.where(self.within.any(2), value, flat / variances)  # what is hidden: free of rounding
        image = (self.within @ value[..., None])[..., 0] + variances * value
        gain = torch.einsum("bm,bme->be", value.to(r), self.columns.flatten(2))
        indefinite = (values < floor - rounding).any(1)
        gain = gain.reshape(self.columns[:, 0].shape)
        return Solution(value.to(r).reshape(r.shape), gain, _left(flat, image).to(r), indefinite)


class Moments(NamedTuple):
    """Mean, shape (B, *event), and covariance of `p(x_0 | x_t)` for each row."""

    mean: Tensor
    covariance: Covariance


@dataclass(frozen=True, eq=False)
class Covariance(ABC):
    """Covariance matrices C of B events, symmetric and positive semi-definite up to what a subclass says."""

    @abstractmethod
    def __call__(self, v: Tensor) -> Tensor:
        """`C v`, shape (B, *event) -> (B, *event)."""

    @property
    @abstractmethod
    def root_shape(self) -> tuple[int, ...]:
        """Shape of the noise of one row that `root` takes."""

    @abstractmethod
    def root(self, noise: Tensor) -> Root:
        """`L z` with `L L^T = C`, for noise z of shape (B, *root_shape); L need not be square."""

    @abstractmethod
    def condensed(self, operator: Linear, like: Tensor, rng: Rng) -> Covariance:
        """A covariance in closed form near C, most of all along what measurements shaped like `like` see."""

    def draw(self, rng: Rng, like: Tensor) -> Root:
        """A draw from `N(0, C)` for each row, in the dtype and on the device of `like`."""
        return self.root(rng.normal(like.new_empty(len(like), *self.root_shape)))

    @abstractmethod
    def solve(self, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
        """Solve `(A C A^T + noise) s = r` for each row.

        Args:
            operator: A, maps (B, *event) to the shape of r.
            noise: variances of the measurements, positive; a number, or a tensor that broadcasts to r.
            r: right-hand sides, shape (B, *measurement).
        """

    @abstractmethod
    def shrunk(self, v: Tensor, noise: float) -> Tensor:
        """`C (C + noise I)^-1 v`, with several vectors for each row, shape (B, k, *event) -> (B, k, *event)."""

    def across(self, operator: Linear, like: Tensor) -> Across:
        """What measurements shaped like `like`, (B, *measurement), share with x_0: a product for each value."""
        units = torch.eye(math.prod(like.shape[1:])).to(like).unflatten(1, like.shape[1:])
        columns = torch.stack([self(operator.adjoint(unit.expand_as(like))) for unit in units], 1)
        return Across(columns, measured(operator, columns))

    @abstractmethod
    def diagonal(self, like: Tensor) -> Tensor:
        """The variance of each entry, shape of `like`, (B, *event)."""

    def trace(self, like: Tensor) -> Tensor:
        """The sum of `diagonal`, shape (B,)."""
        return self.diagonal(like).flatten(1).sum(1)


def measured(operator: Linear, columns: Tensor) -> Tensor:
    """`A` of the m columns of `C A^T`: its symmetric part, float64, shape (B, m, *event) -> (B, m, m)."""
    rows = torch.stack([operator(column).flatten(1) for column in columns.unbind(1)], 2).double()
    return (rows + rows.mT) / 2


@dataclass(frozen=True, eq=False)
class Pullback(Covariance):
    """`C v = scale J^T v` with the pullback of a denoiser, J its Jacobian: `scale = sigma_t^2 / alpha_t`.

    In theory J is symmetric and C positive semi-definite. For a trained network the product is that of `J^T`, and
    roots and solves see the symmetric part of its projection on their Krylov space.

    Cost: one vjp of the network for each row of a product. A root costs exactly `directions`, and a solve with its gain
    `products(r)`, however soon they converge.

    Args:
        pullback: `v -> J^T v`, (B, *event) -> (B, *event); callable several times.
        scale: positive number.
        event_shape: shape of one event.
        directions: of the Krylov space.
    """

    pullback: Callable[[Tensor], Tensor]
    scale: float
    event_shape: tuple[int, ...]
    directions: int = 3

    def __call__(self, v: Tensor) -> Tensor:
        return self.scale * self.pullback(v)

    @property
    def root_shape(self) -> tuple[int, ...]:
        return self.event_shape

    def root(self, noise: Tensor) -> Root:
        """`C^(1/2) z`, from Lanczos on z; negative eigenvalues count as zero."""
        space = krylov(self, noise, self._directions)
        weights, indefinite = _applied(space, torch.sqrt)
        before, _ = _applied(space, torch.sqrt, drop=1)
        size = weights.norm(dim=1).clamp_min(torch.finfo(weights.dtype).tiny)
        change = ((weights - before).norm(dim=1) / size).to(noise.dtype)
        return Root(combined(weights, space.basis), change, indefinite)

    @property
    def _directions(self) -> int:
        """Of the Krylov space of C itself."""
        return min(self.directions, math.prod(self.event_shape))

    def products(self, r: Tensor) -> int:
        """How many products `solve` takes for right-hand sides shaped like r: no more than r has entries."""
        return min(self.directions, math.prod(r.shape[1:]))

    def solve(self, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
        """That of a Krylov space, in `products(r)` products."""
        moved: list[Tensor] = []

        def apply(q: Tensor) -> Tensor:
            moved.append(self(operator.adjoint(q)))
            return operator(moved[-1]) + noise * q

        space = krylov(apply, r, self.products(r))
        floor = torch.as_tensor(noise).to(r).expand(r.shape).flatten(1).amin(1)
        weights, indefinite = definite_solve(space, floor.double())
        image = combined(weights, space.images)
        left = _left(r, image)
        shorter = inner(r, image) / inner(image, image).clamp_min(torch.finfo(r.dtype).tiny)
        weights = weights * torch.where(left > FAR, shorter, 1.0)[:, None]
        return Solution(combined(weights, space.basis), combined(weights, moved), left, indefinite)

    def condensed(self, operator: Linear, like: Tensor, rng: Rng) -> LowRank:
        """`c I` and the factors of Nystrom from `A^T` and `directions` vectors of noise, a product for each.

        With Q an orthonormal basis of these vectors, `T = Q^T C Q` and c the least eigenvalue of T, it is
        `c I + R (T - c I)^+ R^T`, `R = C Q - c Q`. It is C itself where C is `c I` and a matrix of lower rank than T,
        and never has a negative eigenvalue.
        """
        units = torch.eye(math.prod(like.shape[1:])).to(like).unflatten(1, like.shape[1:])
        seen = [operator.adjoint(unit.expand_as(like)) for unit in units]
        probes = [rng.normal(seen[0]) for _ in range(self._directions)]
        vectors = torch.stack([v.flatten(1) for v in [*seen, *probes]], 2)[:, :, : math.prod(self.event_shape)]
        basis = torch.linalg.qr(vectors.double())[0].to(like)
        images = torch.stack([self(q.reshape(seen[0].shape)).flatten(1) for q in basis.unbind(2)], 2)
        projected = (basis.mT @ images).double()
        values, turn = torch.linalg.eigh((projected + projected.mT) / 2)
        least = values[:, :1].clamp_min(0)
        above = values - least
        real = above > 1e3 * torch.finfo(like.dtype).eps * values[:, -1:].abs()
        scale = torch.where(real, above, 1.0).rsqrt() * real
        factors = ((images - least[..., None].to(like) * basis).double() @ (turn * scale[:, None])).mT
        return LowRank(least[:, None].expand(-1, 1, basis.shape[1]).to(like), None, factors.to(like), self.event_shape)

    def shrunk(self, v: Tensor, noise: float) -> Tensor:
        """That of a Krylov space for each vector, in at most `directions` products; negative eigenvalues are zero."""
        spaces = [krylov(self, u, self._directions) for u in v.unbind(1)]
        return torch.stack([combined(_applied(x, lambda e: e / (e + noise))[0], x.basis) for x in spaces], 1)

    def diagonal(self, like: Tensor) -> Tensor:
        """The variance of each entry, from one product for each: for events of few entries."""
        units = torch.eye(math.prod(like.shape[1:])).to(like).unflatten(1, like.shape[1:])
        return torch.stack(
            [inner(unit * like.new_ones(like.shape), self(unit.expand_as(like))) for unit in units], 1
        ).reshape(like.shape)


@dataclass(frozen=True, eq=False)
class LowRank(Covariance):
    """`C = sum_k V_k diag(d_k) V_k^T + F^T F`: blocks that are diagonal in bases of their own, and factors.

    Args:
        variances: d_k, shape (B or 1, K, n), not negative.
        bases: V_k as matrices with eigenvectors in columns: None for the entries themselves, shape (n, n) where all
            share one, or (K, n, n).
        factors: F, shape (B, m, n).
        event_shape: shape of one event, with n entries.
    """

    variances: Tensor
    bases: Tensor | None
    factors: Tensor
    event_shape: tuple[int, ...]

    @property
    def root_shape(self) -> tuple[int, ...]:
        """One number for each entry of each block, and one for each factor."""
        return (self.variances.shape[1] * self.variances.shape[2] + self.factors.shape[1],)

    def __call__(self, v: Tensor) -> Tensor:
        flat = v.reshape(len(v), -1)
        along = torch.einsum("bmn,bn->bm", self.factors, flat)
        blocks = self._forward(self.variances * self._backward(flat))
        return (blocks + torch.einsum("bmn,bm->bn", self.factors, along)).reshape(v.shape)

    def root(self, noise: Tensor) -> Root:
        blocks = self.variances.shape[1:]
        first, second = noise.split([blocks.numel(), self.factors.shape[1]], 1)
        moved = self._forward(self.variances.sqrt() * first.reshape(len(noise), *blocks))
        value = moved + torch.einsum("bmn,bm->bn", self.factors, second)
        exact = noise.new_zeros(len(noise))
        return Root(value.reshape(len(noise), *self.event_shape), exact, exact.bool())

    def condensed(self, operator: Linear, like: Tensor, rng: Rng) -> LowRank:
        """Itself."""
        return self

    def solve(self, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
        """From the matrix of up to 64 measured values; else conjugate gradients until they converge."""
        if math.prod(r.shape[1:]) > DENSE:
            return iterated(self, operator, noise, r)
        return self.across(operator, r).solve(noise, r)

    def shrunk(self, v: Tensor, noise: float) -> Tensor:
        """`V s^{-1/2} (d + w E^T (I + E E^T)^-1 E) s^{-1/2} V^T v`, with `s = d + w` and `E = F V s^{-1/2}`.

        It is the identity of Woodbury (1950) in a form without differences. Blocks in bases of their own have none; the
        matrix is formed.
        """
        flat = v.flatten(2)
        if self.bases is not None and self.bases.ndim == 3:
            dense = self._matrix()
            shifted = dense + noise * torch.eye(dense.shape[-1]).to(dense)
            return torch.cholesky_solve(dense @ flat.mT, torch.linalg.cholesky(shifted)).mT.reshape(v.shape)
        d = self.variances.sum(1, keepdim=True)
        scale = (d + noise).rsqrt()
        factors, u = (scale * (x if self.bases is None else x @ self.bases) for x in (self.factors, flat))
        moved = d * u
        if factors.shape[1]:
            inside = (factors @ factors.mT).double()
            inside.diagonal(dim1=1, dim2=2).add_(1)
            along = torch.cholesky_solve((factors @ u.mT).double(), torch.linalg.cholesky(inside))
            moved = moved + noise * (along.to(u).mT @ factors)
        moved = scale * moved
        return (moved if self.bases is None else moved @ self.bases.mT).reshape(v.shape)

    def diagonal(self, like: Tensor) -> Tensor:
        d = self.variances
        if self.bases is not None:
            form = "bke,ie->bi" if self.bases.ndim == 2 else "bke,kie->bi"
            spread = torch.einsum(form, d, self.bases.square())
        else:
            spread = d.sum(1)
        return (spread + self.factors.square().sum(1)).expand(len(like), -1).reshape(like.shape)

    def _matrix(self) -> Tensor:
        """C, shape (B, n, n)."""
        assert self.bases is not None
        pairs = zip(self.variances.unbind(1), self.bases, strict=True)
        return sum(((d[:, None] * basis) @ basis.mT for d, basis in pairs), self.factors.mT @ self.factors)

    def _backward(self, flat: Tensor) -> Tensor:
        """`V_k^T v` for each block, shape (B, K or 1, n)."""
        if self.bases is None:
            return flat[:, None]
        return (flat @ self.bases)[:, None] if self.bases.ndim == 2 else torch.einsum("bd,kde->bke", flat, self.bases)

    def _forward(self, coefficients: Tensor) -> Tensor:
        """`sum_k V_k c_k`, shape (B, n)."""
        if self.bases is not None and self.bases.ndim == 3:
            return torch.einsum("bke,kde->bd", coefficients, self.bases)
        total = coefficients.sum(1)
        return total if self.bases is None else total @ self.bases.mT


def iterated(covariance: Covariance, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
    """`Covariance.solve` by conjugate gradients, to the rounding of r; for products that are cheap."""

    def apply(q: Tensor) -> Tensor:
        return operator(covariance(operator.adjoint(q))) + noise * q

    tolerance = 100 * torch.finfo(r.dtype).eps
    value = conjugate_gradients(apply, r, tolerance=tolerance, max_iterations=ITERATIONS, what=None)
    gain = covariance(operator.adjoint(value))
    left = _left(r, operator(gain) + noise * value)
    return Solution(value, gain, left, torch.zeros_like(left, dtype=torch.bool))


def _left(r: Tensor, image: Tensor) -> Tensor:
    """What is left of r, relative to its norm, shape (B,)."""
    size = r.flatten(1).norm(dim=1).clamp_min(torch.finfo(r.dtype).tiny)
    return (r - image).flatten(1).norm(dim=1).to(r.dtype) / size


class Krylov(NamedTuple):
    """An orthonormal basis of `span(b, M b, M^2 b, ...)` for each row.

    Args:
        basis: its vectors q_i, shape of b each; zero where the space has ended.
        images: `M q_i`.
        projected: the symmetric part of `Q^T M Q`, float64, shape (B, k, k).
        size: norm of b, shape (B,).
    """

    basis: list[Tensor]
    images: list[Tensor]
    projected: Tensor
    size: Tensor


def krylov(apply: Callable[[Tensor], Tensor], b: Tensor, directions: int) -> Krylov:
    """Lanczos with full re-orthogonalization, exactly `directions` products; a row never depends on the others.

    Args:
        apply: `x -> M x`, row by row.
        b: where it starts, shape (B, ...).
        directions: products, at least 1.
    """
    size = b.flatten(1).norm(dim=1)
    basis, images = [b / per_row(size.clamp_min(torch.finfo(b.dtype).tiny), b)], []
    rounding = 10 * torch.finfo(b.dtype).eps
    while True:
        images.append(apply(basis[-1]))
        if len(images) == directions:
            break
        rest, before = images[-1], images[-1].flatten(1).norm(dim=1)
        for _ in range(2):  # twice is enough (Kahan and Parlett)
            for q in basis:
                rest = rest - per_row(inner(q, rest), rest) * q
        after = rest.flatten(1).norm(dim=1)
        goes_on = after > rounding * before
        length = torch.where(goes_on, after, torch.inf)  # a space that has ended goes on with zeros
        basis.append(rest / per_row(length, rest))
    flat_q, flat_i = (torch.stack([v.flatten(1) for v in vectors], 1) for vectors in (basis, images))
    projected = (flat_q @ flat_i.mT).double()
    return Krylov(basis, images, (projected + projected.mT) / 2, size)


def combined(weights: Tensor, vectors: list[Tensor]) -> Tensor:
    """`sum_i w_i v_i` for weights (B, k) and k tensors of shape (B, ...)."""
    return torch.stack([per_row(w.to(v), v) * v for w, v in zip(weights.unbind(1), vectors, strict=True)]).sum(0)


def definite_solve(space: Krylov, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, k) of `M^-1 b` in the basis, for M at least `floor`, shape (B,); which rows have less curvature.

    Directions of less curvature are left out: there C is not positive, and a step would go far and the wrong way.
    Directions that rounding does not tell from zero are left out, too.
    """
    exists = torch.stack([q.flatten(1).any(1) for q in space.basis], 1)
    scale = space.projected.diagonal(dim1=1, dim2=2).abs().amax(1)
    values, vectors = torch.linalg.eigh(space.projected + torch.diag_embed(~exists * (scale + floor + 1)[:, None]))
    rounding = 100 * torch.finfo(space.size.dtype).eps * torch.maximum(scale, floor)
    least = (floor - rounding)[:, None]
    kept = values > torch.maximum(least, rounding[:, None])
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    weights = torch.einsum("bik,bk,bk->bi", vectors, inverse, vectors[:, 0]) * space.size.double()[:, None]
    return weights, (values < least).any(1)


def _applied(space: Krylov, function: Callable[[Tensor], Tensor], drop: int = 0) -> tuple[Tensor, Tensor]:
    """Weights (B, k) of `f(M) b` in the basis, without its last `drop` vectors; which rows had eigenvalues cut.

    Negative eigenvalues count as zero.
    """
    k = space.projected.shape[-1] - drop
    weights = torch.zeros_like(space.projected[:, :, 0])
    if k == 0:
        return weights, torch.zeros_like(space.size, dtype=torch.bool)
    values, vectors = torch.linalg.eigh(space.projected[:, :k, :k])
    found = function(values.clamp_min(0))
    weights[:, :k] = torch.einsum("bik,bk,bk->bi", vectors, found, vectors[:, 0]) * space.size.double()[:, None]
    rounding = 100 * torch.finfo(space.size.dtype).eps * values.abs().amax(1)
    return weights, values[:, 0] < -rounding
