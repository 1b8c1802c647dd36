"""Posteriors of few entries by quadrature: midpoint rule on cells that are refined where there is mass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

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
"""Cells with a smaller share of the mass are not refined; they stay as they are."""
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


def _refined(prior: WithDensity, problem: Problem) -> Cells:
    event_shape = problem.event_shape
    d, draws = math.prod(event_shape), prior.sample(2000, seed=0).double().flatten(1)
    reach = WIDE * draws.std(0)
    low, high = draws.amin(0) - reach, draws.amax(0) + reach
    width = (high - low) / FIRST
    axes = [low[i] + width[i] * (torch.arange(FIRST, dtype=torch.float64) + 0.5) for i in range(d)]
    centers = torch.cartesian_prod(*axes).reshape(-1, d)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []  # centers, widths, log masses of cells that are not refined further
    log_mass = _log_mass(prior, problem, centers, width)
    found = [_cells([(centers, width.expand_as(centers), log_mass)], problem, math.inf)]
    for _ in range(REFINEMENTS):
        known = torch.cat([*(part[2] for part in kept), log_mass])
        fine = log_mass - known.logsumexp(0) > math.log(MASS)
        if int(fine.sum()) * 2**d > MOST_CELLS:
            break
        kept.append((centers[~fine], width.expand_as(centers[~fine]), log_mass[~fine]))
        halves = torch.cartesian_prod(*[torch.tensor([-0.25, 0.25], dtype=torch.float64)] * d).reshape(-1, d)
        centers = (centers[fine][:, None] + halves * width).reshape(-1, d)
        width = width / 2
        log_mass = _log_mass(prior, problem, centers, width)
        made = _cells([*kept, (centers, width.expand_as(centers), log_mass)], problem, math.inf)
        moved = (made._moments[0] - found[-1]._moments[0]).norm() / made._moments[1].trace().sqrt()
        found.append(replace(made, error=float(moved)))
    return found[-1]


def _cells(parts: list[tuple[Tensor, Tensor, Tensor]], problem: Problem, error: float) -> Cells:
    centers, widths, log_mass = (torch.cat(columns) for columns in zip(*parts, strict=True))
    mass = torch.softmax(log_mass, 0)
    if not bool(mass.isfinite().all()):
        raise NumericalError("the posterior has no mass on the cells of the quadrature")
    seen = mass > 0
    shape, dtype = problem.event_shape, problem.likelihood.y.dtype
    return Cells(centers[seen], widths[seen], mass[seen], shape, dtype, error)


def _log_mass(prior: WithDensity, problem: Problem, centers: Tensor, width: Tensor) -> Tensor:
    """Log of prior times likelihood times volume, shape (n,)."""
    likelihood, found = problem.likelihood.to(centers), []
    for block in centers.split(2**17):
        x = block.reshape(len(block), *problem.event_shape)
        rows = likelihood.select(torch.zeros(len(block), dtype=torch.long))
        found.append(prior.log_prob(x) + rows.log_prob(x))
    return torch.cat(found) + width.log().sum()
