"""Gaussian noise of one standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.likelihoods.base import LIKELIHOODS, Likelihood, differentiated
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator


@dataclass(frozen=True, eq=False)
class GaussianLikelihood(Likelihood):
    """`y = A(x) + sigma_y z`, with `log p(y | x) = -||y - A(x)||^2 / (2 sigma_y^2)`.

    Args:
        operator: the instrument.
        y: observations, shape (N, *measurement).
        sigma_y: standard deviation of the noise in the value range of the prior; positive.
    """

    sigma_y: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma_y)
        super().__post_init__()

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * self.residual(x).square().flatten(1).sum(1)

    def log_constant(self) -> Tensor:
        return -0.5 * math.log(2 * math.pi * self.sigma_y**2) * self.measured_values().double()

    def score(self, x: Tensor) -> Tensor:
        """`A^T (y - A x) / sigma_y^2` where A is linear."""
        if isinstance(self.operator, LinearOperator):
            return self.operator.adjoint(self.difference(x) / self.sigma_y**2)
        return differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        return self.difference(x) / self.sigma_y

    def difference(self, x: Tensor) -> Tensor:
        return self.y - self.operator(x)

    def doubt(self, x: Tensor) -> str:
        return ""

    def simulated(self, x: Tensor, rng: Rng) -> Tensor:
        clean = self.operator(x)
        return torch.where(self.operator.measured(clean), clean + self.sigma_y * rng.normal(clean), 0.0)


def check_sigma(sigma_y: float) -> None:
    """Refuse a noise level that is not a positive number, or whose inverse variance float32 cannot hold."""
    if isinstance(sigma_y, bool) or not isinstance(sigma_y, Real):
        raise ConfigError(
            f"sigma_y must be a number, got {type(sigma_y).__name__}",
            hint="the noise's standard deviation in the prior's value range, such as 0.05",
        )
    if not 1e-18 <= sigma_y <= 1e18:
        wanted = "from 1e-18 to 1e18" if 0.0 < sigma_y < float("inf") else "positive"
        raise ConfigError(
            f"sigma_y must be {wanted}, got {sigma_y}",
            hint="give the noise's standard deviation in the prior's value range; for nearly exact data take 1e-3",
        )


def observe(operator: Operator, x: Tensor, sigma_y: float, *, seed: int = 0) -> GaussianLikelihood:
    """Simulate `y = A(x) + sigma_y z`, the noise of observation i from the stream (seed, "noise", i).

    Args:
        operator: the instrument.
        x: true signals, shape (N, *event).
        sigma_y: noise level in the value range of x.
        seed: seed of the noise.
    """
    check_sigma(sigma_y)
    clean = operator(x)
    noise = Rng([(seed, "noise", i) for i in range(len(x))]).normal(clean)
    return GaussianLikelihood(operator, clean + sigma_y * noise, sigma_y)


@LIKELIHOODS.register("gaussian")
@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Gaussian noise of one standard deviation.

    Args:
        sigma_y: standard deviation in the value range of the prior.
    """

    likelihood: ClassVar[type[Likelihood]] = GaussianLikelihood
    in_range: ClassVar[bool] = True

    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        check_sigma(self.sigma_y)

    def given(self, operator: Operator, y: Tensor, value_range: tuple[float, float]) -> GaussianLikelihood:
        return GaussianLikelihood(operator, y, self.sigma_y)

    def observe(
        self, operator: Operator, x: Tensor, value_range: tuple[float, float], *, seed: int
    ) -> GaussianLikelihood:
        return observe(operator, x, self.sigma_y, seed=seed)


@LIKELIHOODS.register("none")
@dataclass(frozen=True, kw_only=True)
class NoNoise:
    """Nothing is added to what is measured, which the likelihood takes for Gaussian.

    Args:
        sigma_y: standard deviation that the likelihood has.
    """

    likelihood: ClassVar[type[Likelihood]] = GaussianLikelihood
    in_range: ClassVar[bool] = True

    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        check_sigma(self.sigma_y)

    def given(self, operator: Operator, y: Tensor, value_range: tuple[float, float]) -> GaussianLikelihood:
        return GaussianLikelihood(operator, y, self.sigma_y)

    def observe(
        self, operator: Operator, x: Tensor, value_range: tuple[float, float], *, seed: int
    ) -> GaussianLikelihood:
        return GaussianLikelihood(operator, operator(x), self.sigma_y)
