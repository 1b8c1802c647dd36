"""Likelihoods: an operator, an observation and a noise model. `log_prob` is per row, never reduced over the batch.

`y` holds one observation per row, shape (N, *measurement), in the value range of the prior. Only entries that the
operator measures count; whatever stands in the others is set to zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator
from midguide.storage.record import describe


@dataclass(frozen=True, eq=False)
class Likelihood(ABC):
    """`p(y | x)` for the observations `y`, shape (N, *measurement), through `operator`."""

    operator: Operator
    y: Tensor

    def __post_init__(self) -> None:
        owners = self.operator.observations
        if owners is not None and owners != len(self.y):
            raise ShapeError(
                f"the operator has {owners} observations of its own, y has {len(self.y)}",
                hint="one mask or kernel for each observation, or one that serves all",
            )
        mask = self.operator.measured(self.y)
        if not bool(torch.isfinite(torch.where(mask, self.y, 0.0)).all()):
            raise ShapeError("the observation holds NaN or infinity", hint="mask those entries out instead")
        object.__setattr__(self, "y", torch.where(mask, self.y, 0.0))

    @property
    def observations(self) -> int:
        """Number of observations N."""
        return len(self.y)

    def check_range(self, signal_range: tuple[float, float] | None) -> None:
        """Refuse signals of another range than the one that the operator is made for; None is not known.

        Raises:
            ConfigError: the ranges differ.
        """
        remedy = f"midguide.operators.rescaled(operator, {signal_range})"
        _check_range(type(self.operator).__name__, self.operator.value_range, signal_range, remedy)

    def select(self, rows: Tensor) -> Self:
        """The likelihood whose row b is observation `rows[b]`; rows may repeat."""
        return replace(self, operator=self.operator.select(rows), y=self.y[rows])

    def stack(self, others: Sequence[Likelihood]) -> Self:
        """The observations of this likelihood and of others of the same noise model, in this order.

        Raises:
            ShapeError: If the noise models differ, or operators that cannot be stacked.
        """
        every = [self, *others]
        settings = [{**vars(each), "type": type(each).__name__, "operator": None, "y": None} for each in every]
        if any(describe(each) != describe(settings[0]) for each in settings[1:]):
            raise ShapeError("likelihoods of different noise models cannot be stacked")
        operator = self.operator.stack([each.operator for each in others], [each.observations for each in every])
        return replace(self, operator=operator, y=torch.cat([each.y for each in every]))

    def to(self, like: Tensor | torch.device | str) -> Self:
        """The same likelihood on the device, and for a tensor in the dtype, of `like`."""
        return replace(self, operator=self.operator.to(like), y=self.y.to(like))

    def measured_values(self) -> Tensor:
        """How many values were measured for each observation, shape (N,)."""
        mask = self.operator.measured(self.y).expand(self.y.shape)
        return mask.flatten(1).sum(1)

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """`log p(y_b | x_b)` up to a constant, shape (N, *event) -> (N,)."""

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """`grad_x log p(y_b | x_b)`, shape of x."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """The standardised residual: standard normal per measured value if x is the truth, shape of y."""

    @abstractmethod
    def difference(self, x: Tensor) -> Tensor:
        """`y - A(x)`, shape of y, for methods that ask for its norm; see the subclasses for its weights."""

    def chi_square(self, x: Tensor) -> Tensor:
        """Mean squared standardised residual per measured value, shape (N,): about 1 where x explains y."""
        return self.residual(x).square().flatten(1).sum(1) / self.measured_values()


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

    def score(self, x: Tensor) -> Tensor:
        """`A^T (y - A x) / sigma_y^2` where A is linear."""
        if isinstance(self.operator, LinearOperator):
            return self.operator.adjoint(self.difference(x) / self.sigma_y**2)
        return _differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        return self.difference(x) / self.sigma_y

    def difference(self, x: Tensor) -> Tensor:
        return self.y - self.operator(x)


@dataclass(frozen=True, eq=False)
class PoissonLikelihood(Likelihood):
    """Photon counts `y ~ Poisson(lambda)`, `lambda = rate (A(x) - low) / (high - low)`, floored at `floor`.

    `log p(y | x) = sum y log(lambda) - lambda`, up to a constant. The residual is Pearson's: y - lambda over the root
    of lambda.

    Args:
        operator: the instrument.
        y: counts, shape (N, *measurement), not negative.
        rate: expected counts at the largest value; positive.
        floor: smallest intensity.
        value_range: low and high, of what the instrument measures and of signals.
    """

    rate: float
    floor: float = 1e-3
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.rate > 0.0:
            raise ConfigError(f"rate must be positive, got {self.rate}", hint="the expected count at the largest value")
        super().__post_init__()
        if bool((self.y < 0).any()):
            raise ShapeError("Poisson counts cannot be negative", hint="give counts, not pixel values in [-1, 1]")

    def check_range(self, signal_range: tuple[float, float] | None) -> None:
        super().check_range(signal_range)
        _check_range("the Poisson likelihood", self.value_range, signal_range, f"value_range={signal_range}")

    def intensity(self, x: Tensor) -> Tensor:
        """`lambda`, the expected counts, zero where nothing is measured; shape of y."""
        low, high = self.value_range
        expected = (self.rate * (self.operator(x) - low) / (high - low)).clamp_min(self.floor)
        return torch.where(self.operator.measured(self.y), expected, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        expected = self.intensity(x)
        return (torch.special.xlogy(self.y, expected) - expected).flatten(1).sum(1)

    def score(self, x: Tensor) -> Tensor:
        return _differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        expected = self.intensity(x)
        return (self.y - expected) / expected.clamp_min(self.floor).sqrt()

    def difference(self, x: Tensor) -> Tensor:
        """`(y - lambda) / sqrt(2 y)`: the Gaussian surrogate of DPS (Chung et al. 2023, Eq. 20)."""
        return (self.y - self.intensity(x)) / (2 * self.y).clamp_min(1.0).sqrt()


def _differentiated(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a log density by automatic differentiation, shape of x."""
    return autodiff.value_and_grad(lambda u: (log_prob(u), u), x)[1]


def _check_range(
    what: str, made_for: tuple[float, float] | None, known: tuple[float, float] | None, remedy: str
) -> None:
    if made_for is not None and known is not None and tuple(known) != made_for:
        raise ConfigError(
            f"{what} is made for values from {made_for[0]:g} to {made_for[1]:g}, the prior's go from {known[0]:g} to "
            f"{known[1]:g}",
            hint=f"take {remedy}",
        )


def check_sigma(sigma_y: float) -> None:
    """Refuse a noise level that is not positive, or whose inverse variance float32 cannot hold."""
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


def observe_counts(
    operator: Operator, x: Tensor, rate: float, *, seed: int = 0, value_range: tuple[float, float] = (-1.0, 1.0)
) -> PoissonLikelihood:
    """Simulate the counts of `PoissonLikelihood`, those of observation i from the stream (seed, "noise", i).

    Args:
        operator: the instrument; values below the range count as the floor of the likelihood.
        x: true signals, shape (N, *event).
        rate: expected counts at the largest value.
        seed: seed of the noise.
        value_range: smallest and largest value.
    """
    unknown = PoissonLikelihood(operator, torch.zeros_like(operator(x)), rate, value_range=value_range)
    counts = Rng([(seed, "noise", i) for i in range(len(x))]).poisson(unknown.intensity(x))
    return replace(unknown, y=counts)
