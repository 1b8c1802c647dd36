"""Posteriors of few entries by quadrature: midpoint rule on cells that are refined where there is mass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from midguide.errors import NumericalError
from midguide.maths.rng import Rng
from midguide.problem import Problem

FIRST = 24
"""Cells along each axis before any is refined."""
REFINEMENTS = 5
"""How often cells are halved along every axis."""
MASS = 1e-8
"""Cells whose share of the mass is smaller wherever one looks in them are not refined; they stay as they are."""
MOST_CELLS = 2_000_000
"""Cells at which refinement ends."""
WIDE = 3.0
"""Standard deviations of the prior's draws that the first cells reach beyond the draws."""


@runtime_checkable
class WithDensity(Protocol):
    """A prior with a normalized log density, and with independent draws."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of each row, shape (B, *event) -> (B,)."""
        ...

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Independent draws, shape (n, *event)."""
        ...


@dataclass(frozen=True, eq=False)
class Cells:
    """A density that is constant on cells.

    Args:
        centers: of the cells, float64, shape (n, d).
        widths: of each cell, the same along every axis of a box, shape (n, d).
        mass: share of each cell, float64, shape (n,).
        event_shape: shape of one event, with d entries.
        dtype: of draws.
        error: how far the last refinement moved the mean, relative to the standard deviation.
    """

    centers: Tensor
    widths: Tensor
    mass: Tensor
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    error: float

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event): a cell by its mass, then a place in it."""
        rng = Rng([(seed, "quadrature")], size=n)
        edges = self.mass.cumsum(0)
        chosen = torch.searchsorted(edges, rng.uniform(torch.empty(n, dtype=torch.float64)) * edges[-1])
        chosen = chosen.clamp_max(len(edges) - 1)
        places = rng.uniform(torch.empty(n, self.centers.shape[1], dtype=torch.float64)) - 0.5
        return (self.centers[chosen] + self.widths[chosen] * places).reshape(n, *self.event_shape).to(self.dtype)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event; float64."""
        mean, covariance = self._moments
        return mean.reshape(self.event_shape), covariance

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        mean = self.mass @ self.centers
        spread = self.centers - mean
        inside = (self.mass @ self.widths.square()) / 12
        return mean, (self.mass[:, None] * spread).mT @ spread + inside.diag()


class Quadrature:
    """The posterior of a problem of few entries, found when it is first used.

    Args:
        prior: with a density.
        problem: one observation.
    """

    def __init__(self, prior: WithDensity, problem: Problem) -> None:
        self._prior, self._problem = prior, problem

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event)."""
        return self.cells.sample(n, seed=seed)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event; float64."""
        return self.cells.mean_and_covariance()

    @property
    def error(self) -> float:
        """How far the last refinement moved the mean, relative to the standard deviation."""
        return self.cells.error

    @cached_property
    def cells(self) -> Cells:
        """The density as it was found."""
        return _refined(self._prior, self._problem)


def quadrature(prior: WithDensity, problem: Problem) -> Quadrature:
    """The posterior of a problem of few entries, for a prior with a density and any likelihood.

    Example:
        >>> from midguide.exact.problems import random_gaussian_problem
        >>> problem = random_gaussian_problem(2, 1, seed=0, sigma_y=0.3)
        >>> exact = problem.denoiser.posterior(problem.likelihood).mean
        >>> bool(torch.allclose(quadrature(problem.denoiser, problem).mean_and_covariance()[0], exact, atol=1e-3))
        True
    """
    return Quadrature(prior, problem)


class _Layer(NamedTuple):
    """Cells of one width.

    Args:
        centers: shape (n, d).
        width: of all of them, shape (d,).
        log_mass: prior times likelihood times volume, at the center, shape (n,).
        best: what it may be somewhere in the cell, shape (n,).
    """

    centers: Tensor
    width: Tensor
    log_mass: Tensor
    best: Tensor

    def chosen(self, rows: Tensor) -> _Layer:
        """Some of the cells."""
        return _Layer(self.centers[rows], self.width, self.log_mass[rows], self.best[rows])


def _refined(prior: WithDensity, problem: Problem) -> Cells:
    draws = prior.sample(2000, seed=0).double().flatten(1)
    d, reach = draws.shape[1], WIDE * draws.std(0)
    low, high = draws.amin(0) - reach, draws.amax(0) + reach
    width = (high - low) / FIRST
    axes = [low[i] + width[i] * (torch.arange(FIRST, dtype=torch.float64) + 0.5) for i in range(d)]
    layer = _layer(prior, problem, torch.cartesian_prod(*axes).reshape(-1, d), width)
    kept: list[_Layer] = []  # what is not refined further
    found = [_cells([layer], problem)]
    halves = torch.cartesian_prod(*[torch.tensor([-0.25, 0.25], dtype=torch.float64)] * d).reshape(-1, d)
    for _ in range(REFINEMENTS):
        total = torch.cat([part.log_mass for part in (*kept, layer)]).logsumexp(0)
        fine = layer.best - total > math.log(MASS)
        if int(fine.sum()) * 2**d > MOST_CELLS:
            break
        kept.append(layer.chosen(~fine))
        centers = (layer.centers[fine][:, None] + halves * layer.width).reshape(-1, d)
        layer = _layer(prior, problem, centers, layer.width / 2)
        made = _cells([*kept, layer], problem)
        moved = (made._moments[0] - found[-1]._moments[0]).norm() / made._moments[1].trace().sqrt()
        found.append(replace(made, error=float(moved)))
    return found[-1]


def _cells(layers: Sequence[_Layer], problem: Problem) -> Cells:
    centers = torch.cat([layer.centers for layer in layers])
    widths = torch.cat([layer.width.expand_as(layer.centers) for layer in layers])
    mass = torch.softmax(torch.cat([layer.log_mass for layer in layers]), 0)
    if not bool(mass.isfinite().all()):
        raise NumericalError("the posterior has no mass on the cells of the quadrature")
    seen = mass > 0
    return Cells(centers[seen], widths[seen], mass[seen], problem.event_shape, problem.likelihood.y.dtype, math.inf)


def _layer(prior: WithDensity, problem: Problem, centers: Tensor, width: Tensor) -> _Layer:
    """The cells around these centers.

    The residual r of the likelihood may be smaller inside a cell than at its center. It is smaller by at most about the
    sum of its changes along the axes. So a narrow likelihood that passes between centers is not lost.
    """
    likelihood, masses, best = problem.likelihood.to(centers), [], []
    for block in centers.split(2**16):
        x = block.reshape(len(block), *problem.event_shape)
        rows = likelihood.select(torch.zeros(len(block), dtype=torch.long))
        residual = rows.residual(x).flatten(1)
        change = torch.zeros_like(residual[:, 0])
        for step in (width / 2).diag():
            moved = (block + step).reshape(len(block), *problem.event_shape)
            change += (rows.residual(moved).flatten(1) - residual).norm(dim=1)
        size = residual.norm(dim=1)
        slack = 0.5 * (size.square() - (size - change).clamp_min(0).square())
        masses.append(prior.log_prob(x) + rows.log_prob(x) + width.log().sum())
        best.append(masses[-1] + slack)
    return _Layer(centers, width, torch.cat(masses), torch.cat(best))
