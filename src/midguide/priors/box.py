"""A prior that is a hard constraint: uniform on a box. Denoiser, moments and density in closed form.

At `x_t = alpha x_0 + sigma z` every entry of x_0 is a normal of mean `x_t / alpha` and deviation `sigma / alpha`,
truncated to the box. So the denoiser is its mean, and the covariance is diagonal. All computation is in float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from midguide.diffusion.schedules import Schedule, Time
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.likelihoods.base import Likelihood
from midguide.maths import autodiff
from midguide.maths.covariance import LowRank, Moments
from midguide.maths.rng import Rng
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import exact_schedule, linear_system
from midguide.storage.record import describe


class Truncated(NamedTuple):
    """Mean and variance of normals that are truncated to an interval, entry by entry."""

    mean: Tensor
    variance: Tensor


class UniformBox(Denoiser):
    """Independent entries, uniform between `low` and `high`.

    Args:
        event_shape: shape of one event.
        low: smallest value, a number, also of NumPy or torch.
        high: largest value.
        schedule: the forward process; linear betas over 1,000 steps by default.

    Raises:
        ConfigError: If `low` is not below `high`.

    Example:
        >>> prior = UniformBox((2,))
        >>> x = torch.tensor([[5.0, -5.0]])
        >>> [round(value, 2) for value in prior(x, 1)[0].tolist()]
        [1.0, -1.0]
    """

    exact_moments = True

    def __init__(
        self, event_shape: tuple[int, ...], low: float = -1.0, high: float = 1.0, *, schedule: Schedule | None = None
    ) -> None:
        try:
            if np.iscomplexobj(low) or np.iscomplexobj(high):  # of which NumPy drops a part
                raise TypeError
            self.low, self.high = float(low), float(high)
        except (TypeError, ValueError, RuntimeError) as error:  # complex, or several
            raise ConfigError(f"`low` and `high` must be real numbers, got {low} and {high}") from error
        if not -math.inf < self.low < self.high < math.inf:
            raise ConfigError(f"a box needs `low` below `high`, got {low} and {high}", hint="for example -1 and 1")
        self.event_shape = tuple(map(int, event_shape))
        self.value_range = (self.low, self.high)
        self.schedule = schedule or exact_schedule()

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        level = self.schedule.level(t)

        def with_pullback(u: Tensor) -> Any:
            found = self._at(u, t)
            slope = found.variance * (level.alpha / level.sigma**2)
            return found.mean.to(u), lambda vector: vector * slope.to(vector)

        return autodiff.with_pullback(with_pullback, x)

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """The covariance is diagonal, with the variances of truncated normals."""
        found = self._at(x, t)
        factors = x.new_zeros(len(x), 0, found.mean[0].numel())
        variances = found.variance.flatten(1)[:, None].to(x)
        return Moments(found.mean.to(x), LowRank(variances, None, factors, self.event_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, minus infinity outside the box: (B, *event) -> (B,)."""
        inside = ((x >= self.low) & (x <= self.high)).flatten(1).all(1)
        value = -math.prod(self.event_shape) * math.log(self.high - self.low)
        return torch.where(inside, value, -math.inf).to(x.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), float32."""
        draws = Rng([(seed, "prior")], size=n).uniform(torch.empty(n, *self.event_shape, dtype=torch.float64))
        return (self.low + (self.high - self.low) * draws).float()

    def posterior(self, likelihood: Likelihood) -> TruncatedNormals:
        """The posterior, where no value is measured together with another: `A^T A` is diagonal, as for masks.

        Raises:
            UnsupportedProblem: If values are measured together, the noise is not Gaussian, or the operator not linear.
        """
        system = linear_system(likelihood, self.event_shape)
        gram = system.matrix.mT @ system.matrix
        precision = gram.diagonal()
        if bool((gram - precision.diag()).abs().amax() > 1e-6 * precision.amax()):
            raise UnsupportedProblem(
                "the posterior of a box is known where no value is measured together with another",
                hint="take the operator `identity` or `random-inpainting`",
            )
        seen = precision > 0
        center = torch.where(seen, (system.matrix.mT @ system.y) / precision.clamp_min(1e-300), 0.0)
        deviation = torch.where(seen, system.sigma_y / precision.clamp_min(1e-300).sqrt(), math.inf)
        return TruncatedNormals(center, deviation, self.low, self.high, self.event_shape)

    def record(self) -> dict[str, Any]:
        """Shape, bounds and schedule, as JSON."""
        told = {"event_shape": self.event_shape, "low": self.low, "high": self.high}
        return {"type": "UniformBox", **describe({**told, "schedule": self.schedule, "signal": self.signal})}

    def _at(self, x: Tensor, t: Time) -> Truncated:
        level = self.schedule.level(t)
        deviation = torch.tensor(level.sigma / level.alpha, dtype=torch.float64, device=x.device)
        return truncated(x.double() / level.alpha, deviation, self.low, self.high)


class TruncatedNormals:
    """Independent normals, truncated to an interval; where the deviation is infinite they are uniform.

    Args:
        center: of the normals before they are truncated, float64, shape (d,).
        deviation: their standard deviations, float64, shape (d,).
        low: lower end.
        high: upper end.
        event_shape: shape of one event, with d entries.
    """

    def __init__(
        self, center: Tensor, deviation: Tensor, low: float, high: float, event_shape: tuple[int, ...]
    ) -> None:
        self.center, self.deviation, self.low, self.high = center, deviation, low, high
        self.event_shape = event_shape

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), float32, by inverting the distribution function."""
        u = Rng([(seed, "box")], size=n).uniform(torch.empty(n, len(self.center), dtype=torch.float64))
        scale = torch.where(self.deviation.isfinite(), self.deviation, 1.0)
        lower, upper, sign = _ends(self.center, scale, self.low, self.high)
        below, above = torch.special.ndtr(lower), torch.special.ndtr(upper)  # ends are in the left half: no 1 - small
        normal = self.center + sign * scale * torch.special.ndtri(below + u * (above - below))
        uniform = self.low + u * (self.high - self.low)
        draws = torch.where(self.deviation.isfinite(), normal, uniform).clamp(self.low, self.high)
        return draws.reshape(n, *self.event_shape).float()

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event; float64."""
        found = truncated(self.center, self.deviation.clamp_max(1e4 * (self.high - self.low)), self.low, self.high)
        return found.mean.reshape(self.event_shape), found.variance.diag()


def truncated(center: Tensor, deviation: Tensor, low: float, high: float) -> Truncated:
    """Mean and variance of `N(center, deviation^2)` truncated to [low, high], entry by entry, in float64.

    With `a < b` the ends in standard units, phi the density and Z the mass between them: the mean is
    `center + deviation (phi(a) - phi(b)) / Z`, the variance
    `deviation^2 (1 + (a phi(a) - b phi(b)) / Z - ((phi(a) - phi(b)) / Z)^2)`. Deviations much wider than the interval
    take the expansion around the uniform law, where these formulas are differences of large numbers.
    """
    lower, upper, sign = _ends(center, deviation, low, high)
    below, above = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
    log_mass = above + torch.log1p(-torch.exp((below - above).clamp_max(-1e-300)))
    first, second = (torch.exp(-0.5 * end.square() - 0.5 * math.log(2 * math.pi) - log_mass) for end in (lower, upper))
    mean = center + sign * deviation * (first - second)
    variance = deviation.square() * (1 + lower * first - upper * second - (first - second).square())
    half = (high - low) / 2
    # To first order in half / deviation: density proportional to 1 + slope u on [-half, half].
    slope = (center - (low + high) / 2) / deviation.square()
    wide = (half / deviation < 1e-3) & ((slope * half).abs() < 1e-3)
    mean = torch.where(wide, (low + high) / 2 + slope * half**2 / 3, mean)
    variance = torch.where(wide, torch.full_like(variance, half**2 / 3), variance)
    return Truncated(mean.clamp(low, high), variance.clamp(0.0, half**2))


def _ends(center: Tensor, deviation: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ends in standard units, mirrored where needed so that most of the interval is left of zero; the sign."""
    lower, upper = (low - center) / deviation, (high - center) / deviation
    mirrored = lower + upper > 0
    sign = torch.where(mirrored, -1.0, 1.0).to(lower)
    return torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper), sign
