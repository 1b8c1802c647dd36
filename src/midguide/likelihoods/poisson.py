"""Photon counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.likelihoods.base import LIKELIHOODS, Likelihood, check_value_range, differentiated
from midguide.maths.rng import Rng
from midguide.operators.base import Operator


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
        check_rate(self.rate)
        super().__post_init__()
        if bool((self.y < 0).any()):
            raise ShapeError("Poisson counts cannot be negative", hint="give counts, not pixel values in [-1, 1]")

    def check_range(self, signal_range: tuple[float, float] | None) -> None:
        super().check_range(signal_range)
        check_value_range("the Poisson likelihood", self.value_range, signal_range, f"value_range={signal_range}")

    def intensity(self, x: Tensor) -> Tensor:
        """`lambda`, the expected counts, zero where nothing is measured; shape of y."""
        low, high = self.value_range
        expected = (self.rate * (self.operator(x) - low) / (high - low)).clamp_min(self.floor)
        return torch.where(self.operator.measured(self.y), expected, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        expected = self.intensity(x)
        return (torch.special.xlogy(self.y, expected) - expected).flatten(1).sum(1)

    def log_constant(self) -> Tensor:
        """`-log y!`, summed."""
        return -torch.lgamma(self.y.double() + 1).flatten(1).sum(1)

    def score(self, x: Tensor) -> Tensor:
        return differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        expected = self.intensity(x)
        return (self.y - expected) / expected.clamp_min(self.floor).sqrt()

    def doubt(self, x: Tensor) -> str:
        low = self._expected(x) < 1.0
        if not bool(low.any()):
            return ""
        return f"{float(low.double().mean()):.0%} of the expected counts are below 1, where residuals are not normal"

    def kurtosis(self, x: Tensor) -> float:
        return float(self._expected(x).reciprocal().mean())

    def simulated(self, x: Tensor, rng: Rng) -> Tensor:
        return rng.poisson(self.intensity(x))

    def _expected(self, x: Tensor) -> Tensor:
        """The expected counts of the measured values, flat."""
        expected = self.intensity(x)
        return expected[self.operator.measured(expected).expand(expected.shape)]

    def difference(self, x: Tensor) -> Tensor:
        """`(y - lambda) / sqrt(2 y)`: the Gaussian surrogate of DPS (Chung et al. 2023, Eq. 20)."""
        return (self.y - self.intensity(x)) / (2 * self.y).clamp_min(1.0).sqrt()


def check_rate(rate: float) -> None:
    """Refuse an expected count that is not positive."""
    if not 0.0 < rate < float("inf"):
        raise ConfigError(f"rate must be positive, got {rate:g}", hint="the expected count at the largest value")


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


@LIKELIHOODS.register("poisson")
@dataclass(frozen=True, kw_only=True)
class PoissonNoise:
    """Photon counts, the brighter the more.

    Args:
        rate: expected counts at the largest value.
    """

    likelihood: ClassVar[type[Likelihood]] = PoissonLikelihood
    in_range: ClassVar[bool] = False

    rate: float

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def given(self, operator: Operator, y: Tensor, value_range: tuple[float, float]) -> PoissonLikelihood:
        return PoissonLikelihood(operator, y, self.rate, value_range=value_range)

    def observe(
        self, operator: Operator, x: Tensor, value_range: tuple[float, float], *, seed: int
    ) -> PoissonLikelihood:
        return observe_counts(operator, x, self.rate, seed=seed, value_range=value_range)
