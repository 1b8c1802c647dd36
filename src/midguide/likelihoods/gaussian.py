"""Gaussian noise of one standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.likelihoods.base import LIKELIHOODS, Likelihood, as_numbers, as_rows, differentiated
from midguide.maths.autodiff import Derivative
from midguide.maths.covariance import Linear
from midguide.maths.environment import in_fixed_environment
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator
from midguide.operators.weighting import weighted


@dataclass(frozen=True, eq=False)
class GaussianLikelihood(Likelihood):
    """`y = A(x) + sigma_y z`, with `log p(y | x) = -||y - A(x)||^2 / (2 sigma_y^2)`.

    Args:
        operator: the instrument.
        y: observations, shape (N, *measurement).
        sigma_y: standard deviation of the noise in the value range of the prior; positive.

    Raises:
        ConfigError: If the noise level is not positive.

    Example:
        >>> from midguide.operators.matrix import Identity
        >>> likelihood = GaussianLikelihood(Identity(), torch.zeros(1, 2), 0.5)
        >>> likelihood.log_prob(torch.ones(1, 2))
        tensor([-4.])
    """

    sigma_y: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma_y)
        super().__post_init__()

    @staticmethod
    def of(operator: Operator, y: Tensor, sigma_y: float | Tensor) -> GaussianLikelihood:
        """The likelihood of observations whose values may have noise of different levels.

        It divides values by their own noise level and multiplies them by a common one. With the weights
        `w = common / sigma`, `w y = w A(x) + common z`: the same posterior, with noise of one level, which every
        sampler takes. The identity and masks keep their SVD.

        The common level is the geometric mean. It is 1 where observations have levels or masks of their own, so that
        no answer depends on the other observations. Methods whose steps have the unit of y (`dps`) then take other
        steps.

        Args:
            operator: the instrument.
            y: observations, shape (N, *measurement); complex values become pairs.
            sigma_y: standard deviation of the noise: one number, or an array that broadcasts to y, also with a level
                for each channel or observation. That of complex values is the one of the real and of the imaginary
                part; the array broadcasts to the pairs. Levels of entries that are not measured do not matter.

        Raises:
            ConfigError: If a level is not positive.
            ShapeError: If the levels do not fit y.

        Example:
            >>> from midguide.operators.matrix import Identity
            >>> likelihood = GaussianLikelihood.of(Identity(), torch.ones(1, 2), torch.tensor([0.5, 2.0]))
            >>> likelihood.chi_square(torch.zeros(1, 2))
            tensor([2.1250])
        """
        if not isinstance(sigma_y, Tensor | np.ndarray):
            return GaussianLikelihood(operator, y, sigma_y)
        y = as_rows(y, "observations")
        levels = noise_levels(sigma_y, y)
        wanted = operator.measured(y).expand(y.shape)
        every = levels.expand(y.shape)[wanted]
        for limit in every.aminmax() if every.numel() else ():
            check_sigma(float(limit))
        own = levels.ndim == y.ndim or operator.observations is not None
        common = 1.0 if own or not every.numel() else float(every.double().log().mean().exp())
        weight = common / torch.where(levels > 0.0, levels, 1.0)
        made = weighted(operator, weight, y)
        return GaussianLikelihood(made, torch.where(wanted, y, 0.0) * weight, common)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * self.residual(x).square().flatten(1).sum(1)

    def log_constant(self) -> Tensor:
        noise = -0.5 * math.log(2 * math.pi * self.sigma_y**2) * self.measured_values().double()
        return noise + self.operator.log_volume(self.y)

    def score(self, x: Tensor) -> Tensor:
        """`A^T (y - A x) / sigma_y^2` where A is linear."""
        if isinstance(self.operator, LinearOperator):
            return self.operator.adjoint(self.difference(x) / self.sigma_y**2)
        return differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        return self.difference(x) / self.sigma_y

    def difference(self, x: Tensor) -> Tensor:
        return self.y - self.operator(x)

    def linearized(self, x: Tensor) -> tuple[Tensor, Linear]:
        operator = self.operator
        if not isinstance(operator, LinearOperator):
            return Likelihood.linearized(self, x)
        return self.residual(x), Derivative(
            lambda d: operator(d) / self.sigma_y, lambda r: operator.adjoint(r / self.sigma_y)
        )

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
            hint="GaussianLikelihood.of(operator, y, sigma_y) takes an array of noise levels",
        )
    if not 1e-18 <= sigma_y <= 1e18:
        wanted = "from 1e-18 to 1e18" if 0.0 < sigma_y < float("inf") else "positive"
        raise ConfigError(
            f"sigma_y must be {wanted}, got {sigma_y}",
            hint="give the noise's standard deviation in the prior's value range; for nearly exact data take 1e-3",
        )


def noise_levels(sigma_y: Tensor | np.ndarray, y: Tensor) -> Tensor:
    """An array of noise levels like the measurements y, to which it broadcasts.

    Raises:
        ShapeError: If it does not, or holds no real numbers.
    """
    levels = as_numbers(sigma_y, "noise levels")
    if levels.is_complex() or levels.dtype is torch.bool:
        raise ShapeError(f"noise levels are real numbers, got {str(levels.dtype).removeprefix('torch.')}")
    try:
        fits = torch.broadcast_shapes(levels.shape, y.shape) == y.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"noise levels of shape {tuple(levels.shape)} do not fit measurements of shape {tuple(y.shape)}",
            hint="one number, or an array that broadcasts to y: (channels, 1, 1), the shape of y, (N, 1, 1, 1)",
        )
    return levels.to(y)


@in_fixed_environment
def observe(operator: Operator, x: Tensor, sigma_y: float | Tensor, *, seed: int = 0) -> GaussianLikelihood:
    """Simulate `y = A(x) + sigma_y z`, the noise of observation i from the stream (seed, "noise", i).

    Args:
        operator: the instrument.
        x: true signals, shape (N, *event).
        sigma_y: noise level in the value range of x; or an array of levels, see `GaussianLikelihood.of`.
        seed: seed of the noise.

    Returns:
        The likelihood of the simulated observations; its `y` has the shape (N, *measurement).

    Example:
        >>> from midguide.operators.matrix import Identity
        >>> observe(Identity(), torch.zeros(2, 3), 0.1).y.shape
        torch.Size([2, 3])
    """
    if not isinstance(sigma_y, Tensor | np.ndarray):
        check_sigma(sigma_y)
    x = as_rows(x, "true signals")
    clean = operator(x)
    noise = Rng([(seed, "noise", i) for i in range(len(x))]).normal(clean)
    if isinstance(sigma_y, Tensor | np.ndarray):
        noise = noise * noise_levels(sigma_y, clean)
        return GaussianLikelihood.of(operator, clean + torch.where(operator.measured(clean), noise, 0.0), sigma_y)
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
    """It adds nothing to the measurement, which the likelihood takes for Gaussian.

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
