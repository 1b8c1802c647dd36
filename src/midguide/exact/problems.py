"""Problems whose posterior is known exactly: the Gaussians and the 25-component mixture of the MGPS paper.

Every random piece comes from its own stream of the seed, so that the same seed gives the same prior whatever is
measured of it.

References: Moufad et al. 2025 (MGPS), Example 3.2 and Appendix B.2; Section 4, Table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.diffusion.schedules import Schedule
from midguide.errors import ConfigError
from midguide.maths.rng import Rng, stream_seed
from midguide.operators.matrix import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem


def mixture25(dimension: int, seed: int, *, dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """25 Gaussians of unit covariance with means (8i, 8j, 8i, 8j, ...), i and j in -2..2; weights uniform, normalized.

    Args:
        dimension: entries of one event.
        seed: seed of the weights.
        dtype: type of the samples; nothing else depends on it.

    Example:
        >>> mixture25(20, seed=0).sample(3).shape
        torch.Size([3, 20])
    """
    _check_positive(dimension=dimension)
    grid = torch.arange(-2.0, 3.0, dtype=dtype)
    corners = 8 * torch.cartesian_prod(grid, grid)
    means = corners.repeat(1, (dimension + 1) // 2)[:, :dimension]
    weights = Rng([(seed, "weights")], size=25).uniform(torch.empty(25, dtype=torch.float64))
    return GaussianMixture(weights, means, 1.0)


def mixture_problem(
    dimension: int, seed: int, sigma_y: float = 0.05, *, measurements: int = 1, dtype: torch.dtype = torch.float32
) -> Problem:
    """One number measured of `mixture25`: `y = A x + sigma_y z`, A of shape (1, d) with standard normal entries.

    Args:
        dimension: entries d of one event.
        seed: seed of the prior, of A, of the truth (a draw from the prior) and of the noise.
        sigma_y: standard deviation of the noise.
        measurements: rows of A, and entries of y; one by default, at most d.
        dtype: type of the observation, hence of the samples that a sampler draws.

    Raises:
        ConfigError: If `measurements` is not in 1..d.

    Example:
        >>> problem = mixture_problem(20, seed=0)
        >>> problem.denoiser.posterior(problem.likelihood).sample(3).shape
        torch.Size([3, 20])
    """
    return _problem(mixture25(dimension, seed, dtype=dtype), dimension, measurements, seed, sigma_y, dtype)


def random_gaussian(
    dimension: int, seed: int, *, dtype: torch.dtype = torch.float32, schedule: Schedule | None = None
) -> Gaussian:
    """`N(m, Sigma)` with `m ~ N(0, I)` and `Sigma = L L^T / c`, L square and normal with its columns normalized.

    c is the mean of the squared singular values of the normalized L (which is 1, up to rounding).

    Args:
        dimension: entries of one event.
        seed: seed of the mean and of L.
        dtype: type of the mean and of the samples.
        schedule: the forward process; that of every prior in closed form by default.

    Example:
        >>> round(float(random_gaussian(100, seed=0).covariance_matrix().trace()), 6)
        100.0
    """
    _check_positive(dimension=dimension)
    mean = _normal(seed, "mean", 1, dimension)[0].to(dtype)
    factor = torch.nn.functional.normalize(_normal(seed, "factor", dimension, dimension), dim=0)
    scale = torch.linalg.svdvals(factor).square().mean()
    return Gaussian(mean, factor @ factor.mT / scale, schedule=schedule)


def random_gaussian_problem(
    dimension: int,
    measurements: int,
    seed: int,
    sigma_y: float,
    *,
    dtype: torch.dtype = torch.float32,
    schedule: Schedule | None = None,
) -> Problem:
    """`random_gaussian` seen through a matrix A of shape (measurements, d) with standard normal entries.

    Args:
        dimension: entries d of one event.
        measurements: rank of A, and entries of y; at most d.
        seed: seed of the prior, of A, of the truth (a draw from the prior) and of the noise.
        sigma_y: standard deviation of the noise.
        dtype: type of the observation, hence of the samples that a sampler draws.
        schedule: the forward process; that of every prior in closed form by default.

    Raises:
        ConfigError: If `measurements` is not in 1..d.

    Example:
        >>> random_gaussian_problem(10, 5, seed=0, sigma_y=0.1).likelihood.y.shape
        torch.Size([1, 5])
    """
    _check_positive(dimension=dimension)
    prior = random_gaussian(dimension, seed, dtype=dtype, schedule=schedule)
    return _problem(prior, dimension, measurements, seed, sigma_y, dtype)


def _problem(
    prior: Gaussian | GaussianMixture, dimension: int, measurements: int, seed: int, sigma_y: float, dtype: torch.dtype
) -> Problem:
    _check_positive(measurements=measurements)
    if measurements > dimension:
        raise ConfigError(f"measurements must be at most the dimension {dimension}, got {measurements}")
    # A is rounded to the type of the problem, so that the exact posterior in float64 is that of the very same A.
    operator = Matrix.create(_normal(seed, "operator", measurements, dimension).to(dtype), (dimension,)).to(dtype)
    # Not the seed itself: the truth would share its stream with the samples that users draw with the same seed.
    truth = prior.sample(1, seed=stream_seed(seed, "truth"))
    return Problem.simulate(prior, operator, truth, sigma_y=sigma_y, seed=seed)


def _normal(seed: int, name: str, rows: int, columns: int) -> Tensor:
    """Standard normal entries from the stream of this name, float64, shape (rows, columns)."""
    return Rng([(seed, name)], size=rows).normal(torch.empty(rows, columns, dtype=torch.float64))


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
