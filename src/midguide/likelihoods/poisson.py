"""Photon counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.likelihoods.base import LIKELIHOODS, Likelihood, as_rows, check_value_range, differentiated
from midguide.maths import autodiff
from midguide.maths.autodiff import Derivative
from midguide.maths.covariance import Linear
from midguide.maths.rng import Rng
from midguide.operators.base import Operator


@dataclass(frozen=True, eq=False)
class PoissonLikelihood(Likelihood):
    """Photon counts `n ~ Poisson(lambda)`, `lambda = rate (A(x) - low) / (high - low) + background`, and y = gain n.

    The signal's part is at least `floor`. `log p(y | x) = sum n log(lambda) - lambda`, up to a constant. The residual
    is Pearson's: n - lambda over the root of lambda.

    A camera adds read noise of standard deviation r: `y = gain (n + r z)`. Then `n + r^2` counts as a Poisson count
    with the mean `lambda + r^2`. Mean and variance are right, and so is the limit of many counts. See Snyder et al.
    1993, "Image recovery from data acquired with a charge-coupled-device camera".

    Args:
        operator: the instrument.
        y: what was measured, shape (N, *measurement); not negative unless there is read noise.
        rate: expected counts at the largest value; positive.
        floor: smallest intensity of the signal.
        value_range: low and high, of what the instrument measures and of signals.
        background: expected counts besides those of the signal, such as dark current or sky; not negative.
        gain: units of y for one count; positive.
        read_noise: standard deviation of the camera's own noise, in counts; not negative.

    Raises:
        ConfigError: If a setting is impossible.
        ShapeError: If counts are negative.

    Example:
        >>> from midguide.operators.matrix import Identity
        >>> PoissonLikelihood(Identity(), torch.tensor([[12.0]]), 10.0, background=2.0).residual(torch.ones(1, 1))
        tensor([[0.]])
    """

    rate: float
    floor: float = 1e-3
    value_range: tuple[float, float] = (-1.0, 1.0)
    background: float = 0.0
    gain: float = 1.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        check_camera(self.rate, self.background, self.gain, self.read_noise)
        super().__post_init__()
        if self.read_noise == 0.0 and bool((self.y < 0).any()):
            raise ShapeError("Poisson counts cannot be negative", hint="give counts, not pixel values in [-1, 1]")

    def check_range(self, signal_range: tuple[float, float] | None) -> None:
        super().check_range(signal_range)
        check_value_range("the Poisson likelihood", self.value_range, signal_range, f"value_range={signal_range}")

    def intensity(self, x: Tensor) -> Tensor:
        """`lambda`, the expected counts, zero where nothing is measured; shape of y."""
        low, high = self.value_range
        expected = (self.rate * (self.operator(x) - low) / (high - low)).clamp_min(self.floor) + self.background
        return torch.where(self.operator.measured(self.y), expected, 0.0)

    @property
    def counts(self) -> Tensor:
        """What was measured, in counts; shape of y."""
        return self.y / self.gain

    def log_prob(self, x: Tensor) -> Tensor:
        counts, expected = self._shifted(self.intensity(x))
        return (torch.special.xlogy(counts, expected) - expected).flatten(1).sum(1)

    def log_constant(self) -> Tensor:
        """`-log n!`, summed."""
        counts, _ = self._shifted(self.y)
        return -torch.lgamma(counts.double() + 1).flatten(1).sum(1)

    def _shifted(self, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and their expectation, both with the variance of the read noise added, where something is measured."""
        if self.read_noise == 0.0:
            return self.counts, expected
        shift = torch.where(self.operator.measured(self.y), self.read_noise**2, 0.0)
        return (self.counts + shift).clamp_min(0.0), expected + shift

    def score(self, x: Tensor) -> Tensor:
        return differentiated(self.log_prob, x)

    def residual(self, x: Tensor) -> Tensor:
        expected = self.intensity(x)
        return (self.counts - expected) / (expected + self.read_noise**2).clamp_min(self.floor).sqrt()

    def linearized(self, x: Tensor) -> tuple[Tensor, Linear]:
        """With the noise of counts as bright as x is or as were counted, whichever is more: Fisher scoring."""
        expected, derivative = autodiff.linearize(self.intensity, x)
        noise = (torch.maximum(expected, self.counts) + self.read_noise**2).clamp_min(1.0).sqrt()
        return (self.counts - expected) / noise, Derivative(
            lambda d: derivative(d) / noise, lambda r: derivative.adjoint(r / noise)
        )

    def doubt(self, x: Tensor) -> str:
        low = self._expected(x) + self.read_noise**2 < 1.0
        if not bool(low.any()):
            return ""
        return f"{float(low.double().mean()):.0%} of the expected counts are below 1, where residuals are not normal"

    def kurtosis(self, x: Tensor) -> float:
        expected = self._expected(x)
        return float((expected / (expected + self.read_noise**2).square()).mean())

    def simulated(self, x: Tensor, rng: Rng) -> Tensor:
        counts = rng.poisson(self.intensity(x))
        if self.read_noise > 0.0:
            counts = counts + torch.where(self.operator.measured(counts), self.read_noise * rng.normal(counts), 0.0)
        return self.gain * counts

    def _expected(self, x: Tensor) -> Tensor:
        """The expected counts of the measured values, flat."""
        expected = self.intensity(x)
        return expected[self.operator.measured(expected).expand(expected.shape)]

    def difference(self, x: Tensor) -> Tensor:
        """`(n - lambda) / sqrt(2 n)`: the Gaussian surrogate of DPS (Chung et al. 2023, Eq. 20)."""
        return (self.counts - self.intensity(x)) / (2 * (self.counts + self.read_noise**2)).clamp_min(1.0).sqrt()


def check_camera(rate: float, background: float, gain: float, read_noise: float) -> None:
    """Refuse numbers that describe no camera."""
    if not 0.0 < rate < float("inf"):
        raise ConfigError(f"rate must be positive, got {rate:g}", hint="the expected count at the largest value")
    if not 0.0 < gain < float("inf"):
        raise ConfigError(f"gain must be positive, got {gain:g}", hint="units of the measurement for one count")
    for name, value in {"background": background, "read_noise": read_noise}.items():
        if not 0.0 <= value < float("inf"):
            raise ConfigError(f"{name} must not be negative, got {value:g}", hint="in counts")


def observe_counts(
    operator: Operator,
    x: Tensor,
    rate: float,
    *,
    seed: int = 0,
    value_range: tuple[float, float] = (-1.0, 1.0),
    background: float = 0.0,
    gain: float = 1.0,
    read_noise: float = 0.0,
) -> PoissonLikelihood:
    """Simulate what `PoissonLikelihood` describes, for observation i from the stream (seed, "noise", i).

    Args:
        operator: the instrument; values below the range count as the floor of the likelihood.
        x: true signals, shape (N, *event).
        rate: expected counts at the largest value.
        seed: seed of the noise.
        value_range: smallest and largest value.
        background: expected counts besides those of the signal.
        gain: units of y for one count.
        read_noise: standard deviation of the camera's own noise, in counts.

    Returns:
        The likelihood of the simulated counts. Its `y` has the shape (N, *measurement); one count is `gain` units.

    Example:
        >>> from midguide.operators.matrix import Identity
        >>> observe_counts(Identity(), torch.ones(1, 100), 50.0).y.mean().round(decimals=-1)
        tensor(50.)
    """
    x = as_rows(x, "true signals")
    unknown = PoissonLikelihood(
        operator,
        torch.zeros_like(operator(x)),
        rate,
        value_range=value_range,
        background=background,
        gain=gain,
        read_noise=read_noise,
    )
    return replace(unknown, y=unknown.simulated(x, Rng([(seed, "noise", i) for i in range(len(x))])))


@LIKELIHOODS.register("poisson")
@dataclass(frozen=True, kw_only=True)
class PoissonNoise:
    """Photon counts, the brighter the more; with a camera's background, gain and read noise.

    Args:
        rate: expected counts at the largest value.
        background: expected counts besides those of the signal.
        gain: units of the measurement for one count.
        read_noise: standard deviation of the camera's own noise, in counts.
    """

    likelihood: ClassVar[type[Likelihood]] = PoissonLikelihood
    in_range: ClassVar[bool] = False

    rate: float
    background: float = 0.0
    gain: float = 1.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        check_camera(self.rate, self.background, self.gain, self.read_noise)

    def given(self, operator: Operator, y: Tensor, value_range: tuple[float, float]) -> PoissonLikelihood:
        return PoissonLikelihood(operator, y, self.rate, value_range=value_range, **self._camera())

    def observe(
        self, operator: Operator, x: Tensor, value_range: tuple[float, float], *, seed: int
    ) -> PoissonLikelihood:
        return observe_counts(operator, x, self.rate, seed=seed, value_range=value_range, **self._camera())

    def _camera(self) -> dict[str, float]:
        return {"background": self.background, "gain": self.gain, "read_noise": self.read_noise}
