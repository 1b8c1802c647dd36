"""Laws of the increments of a Levy process: symmetric, as scale mixtures of normals, maybe with an atom at zero.

Every law has a density away from the atom, and is a mixture `u | v ~ N(0, v)` whose variances v are known given u. That
is what a Gibbs sampler needs.

References: Andrews and Mallows 1974, scale mixtures. For the four laws and their Gibbs samplers: Bohra, Pham, Dong,
Unser 2022, "Bayesian inversion for nonlinear imaging models using deep generative priors"; Bohra, Pla, Giovannelli,
Unser 2023, "A statistical framework to investigate the optimality of signal-reconstruction methods".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.maths.rng import Rng


class Increments(Protocol):
    """The law of one increment."""

    @property
    def std(self) -> float:
        """Standard deviation."""
        ...

    @property
    def atom(self) -> float:
        """Probability of exactly zero."""
        ...

    def log_density(self, u: Tensor) -> Tensor:
        """Log density of what is not the atom, given that it is not the atom, shape of u."""
        ...

    def prior_variances(self, like: Tensor, rng: Rng) -> Tensor:
        """Draws of the variance v, shape of `like`."""
        ...

    def variances(self, u: Tensor, rng: Rng) -> Tensor:
        """Draws of the variance v given increments u that are not the atom, shape of u."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gauss:
    """Normal increments: Brownian motion.

    Args:
        std: standard deviation.
    """

    std: float = 0.25
    atom = 0.0

    def log_density(self, u: Tensor) -> Tensor:
        return -0.5 * (u / self.std).square() - math.log(self.std * math.sqrt(2 * math.pi))

    def prior_variances(self, like: Tensor, rng: Rng) -> Tensor:
        return torch.full_like(like, self.std**2)

    def variances(self, u: Tensor, rng: Rng) -> Tensor:
        return torch.full_like(u, self.std**2)


@dataclass(frozen=True, kw_only=True)
class Laplace:
    """Laplace increments, with the density `exp(-|u| / b) / (2 b)`, `b = std / sqrt(2)`.

    Args:
        std: standard deviation.
    """

    std: float = 0.25
    atom = 0.0

    def log_density(self, u: Tensor) -> Tensor:
        return _log_laplace(u, self.std / math.sqrt(2))

    def prior_variances(self, like: Tensor, rng: Rng) -> Tensor:
        return -(self.std**2) * torch.log1p(-rng.uniform(like))

    def variances(self, u: Tensor, rng: Rng) -> Tensor:
        return _laplace_variances(u, self.std / math.sqrt(2), rng)


@dataclass(frozen=True, kw_only=True)
class StudentT:
    """Student's t with heavy tails.

    Args:
        std: standard deviation.
        freedom: degrees of freedom, an integer above 2.
    """

    std: float = 0.25
    freedom: int = 3
    atom = 0.0

    def __post_init__(self) -> None:
        if self.freedom < 3:
            raise ConfigError(f"freedom must be at least 3, got {self.freedom}", hint="below, there is no variance")

    @property
    def _scale(self) -> float:
        return self.std * math.sqrt((self.freedom - 2) / self.freedom)

    def log_density(self, u: Tensor) -> Tensor:
        n = self.freedom
        constant = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - 0.5 * math.log(n * math.pi) - math.log(self._scale)
        return constant - (n + 1) / 2 * torch.log1p((u / self._scale).square() / n)

    def prior_variances(self, like: Tensor, rng: Rng) -> Tensor:
        return self.freedom * self._scale**2 / _chi_square(like, self.freedom, rng)

    def variances(self, u: Tensor, rng: Rng) -> Tensor:
        return (self.freedom * self._scale**2 + u.square()) / _chi_square(u, self.freedom + 1, rng)


@dataclass(frozen=True, kw_only=True)
class BernoulliLaplace:
    """Zero, or with probability `share` a Laplace jump: signals that are constant piece by piece.

    Args:
        std: standard deviation of an increment, zeros included.
        share: probability of a jump.
    """

    std: float = 0.25
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"share must be between 0 and 1, got {self.share}", hint="for example 0.2")

    @property
    def atom(self) -> float:
        return 1 - self.share

    @property
    def _b(self) -> float:
        return self.std / math.sqrt(2 * self.share)

    def log_density(self, u: Tensor) -> Tensor:
        return _log_laplace(u, self._b)

    def prior_variances(self, like: Tensor, rng: Rng) -> Tensor:
        return -2 * self._b**2 * torch.log1p(-rng.uniform(like))

    def variances(self, u: Tensor, rng: Rng) -> Tensor:
        return _laplace_variances(u, self._b, rng)


def draw(law: Increments, like: Tensor, rng: Rng) -> Tensor:
    """Independent increments of the shape of `like`."""
    u = law.prior_variances(like, rng).sqrt() * rng.normal(like)
    return torch.where(rng.uniform(like) < law.atom, 0.0, u) if law.atom else u


def _log_laplace(u: Tensor, b: float) -> Tensor:
    return -u.abs() / b - math.log(2 * b)


def _laplace_variances(u: Tensor, b: float, rng: Rng) -> Tensor:
    """`1 / v` is inverse Gaussian with mean `1 / (b |u|)` and shape `1 / b^2`.

    The draw is that of Michael, Schucany and Haas 1976, written for v so that nothing overflows at u = 0.
    """
    mean, shape = 1 / (b * u.abs().clamp_min(1e-12 * b)), 1 / b**2
    half = mean * rng.normal(u).square() / (2 * shape)
    # the smaller root of the quadratic is mean / (1 + half + sqrt(half^2 + 2 half)): no difference is taken
    ratio = 1 / (1 + half + (half.square() + 2 * half).sqrt())
    smaller = rng.uniform(u) <= 1 / (1 + ratio)
    return 1 / (mean * torch.where(smaller, ratio, 1 / ratio))


def _chi_square(like: Tensor, freedom: int, rng: Rng) -> Tensor:
    return torch.stack([rng.normal(like).square() for _ in range(freedom)]).sum(0)
