"""A stationary Gaussian field on a torus, for images too large for a covariance matrix: everything is an FFT.

Its covariance `C = H diag(s) H` is diagonal in the Hartley basis (`maths.stationary`), so the denoiser of
`priors.gaussian` applies to coefficients. Draws of a posterior are made by perturbing and solving: for
`x' ~ N(m, C)` and `e ~ N(0, sigma_y^2 I)`

    x = x' + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A x' - e)

is a draw of `p(x | y)` (Journel and Huijbregts 1978; Papandreou and Yuille 2010), by conjugate gradients in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Schedule, Time
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.likelihoods.base import Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.covariance import Moments
from midguide.maths.linalg import conjugate_gradients
from midguide.maths.rng import Rng
from midguide.maths.stationary import Stationary, hartley
from midguide.operators.base import LinearOperator
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian, check_variances, exact_schedule, posterior_weights
from midguide.storage.record import describe

DENSE = 1024
"""Entries of the largest field whose posterior covariance is computed as a matrix."""
TOLERANCE = 1e-8
"""Relative residual at which a draw of the posterior is done."""
ITERATIONS = 5000
"""Most conjugate gradients for it."""


class GaussianField(Denoiser):
    """Channels that are independent stationary Gaussian fields, in any number of dimensions, periodic at the borders.

    A complex image is a field of two channels, its real and imaginary part.

    Args:
        mean: shape (channels, *space).
        spectrum: variance of each frequency in the order of `torch.fft.fftn`, orthonormal, even, not negative; shape
            (*space), or (channels, *space). The variance of a pixel is its average. `matern_spectrum` makes one.
        schedule: the forward process; linear betas over 1,000 steps by default.

    Raises:
        ShapeError: If the spectrum does not fit the mean.
        ConfigError: If the spectrum is not even, or has negative or infinite values.

    Example:
        >>> prior = GaussianField(torch.zeros(1, 8, 8), matern_spectrum((8, 8), std=0.5, length=2.0))
        >>> prior.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    exact_moments = True

    def __init__(self, mean: Tensor, spectrum: Tensor, *, schedule: Schedule | None = None) -> None:
        self.schedule = schedule or exact_schedule()
        self.event_shape = tuple(mean.shape)
        self._space = mean.ndim - 1
        given = torch.as_tensor(spectrum).detach().double().cpu()
        if mean.ndim < 2 or tuple(given.shape) not in (self.event_shape[1:], self.event_shape):
            raise ShapeError(
                f"a spectrum of shape {tuple(given.shape)} does not fit a mean of shape {self.event_shape}",
                hint="a mean of shape (channels, *space), a spectrum of shape (*space) or (channels, *space)",
            )
        check_variances(given)
        axes = tuple(range(-self._space, 0))
        opposite = given.flip(axes).roll([1] * self._space, axes)
        if bool((given - opposite).abs().amax() > 1e-6 * given.amax()):
            raise ConfigError("the spectrum is not even", hint="s(k) = s(-k), in the order of torch.fft.fftn")
        self._dtype = mean.dtype
        self._mean = mean.detach().double().cpu()
        self._given = {"mean": self._mean, "spectrum": given, "dtype": mean.dtype}
        self._spectrum = given.expand(self.event_shape).clone()

    @property
    def dimension(self) -> int:
        """How many entries an event has."""
        return math.prod(self.event_shape)

    @property
    def mean(self) -> Tensor:
        """The mean, shape of one event, float64."""
        return self._mean

    @property
    def covariance(self) -> Stationary:
        """The covariance of the field, in float64."""
        return Stationary(self._spectrum, self._space)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        level = self.schedule.level(t)
        gain, _ = posterior_weights(self._spectrum, level)
        mean = self._mean.to(x)
        return mean + hartley(gain.to(x) * hartley(x - level.alpha * mean, self._space), self._space)

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """The covariance is stationary too, with the spectrum `sigma^2 s / (alpha^2 s + sigma^2)`."""
        _, rest = posterior_weights(self._spectrum, self.schedule.level(t))
        return Moments(self(x, t), Stationary((rest * self._spectrum).to(x), self._space))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log N(x; mean, covariance)` in nats, computed in float64: (B, *event) -> (B,).

        Raises:
            NumericalError: If the covariance is singular, so that there is no density.
        """
        if not bool((self._spectrum > 0).all()):
            raise NumericalError("a field whose spectrum has zeros has no density")
        gap = hartley(x.double() - self._mean.to(x.device), self._space)
        spectrum = self._spectrum.to(x.device)
        return (-0.5 * (gap.square() / spectrum + (2 * math.pi * spectrum).log()).flatten(1).sum(1)).to(x.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), in the dtype of the mean; all from one stream."""
        noise = Rng([(seed, "prior")], size=n).normal(torch.empty(n, *self.event_shape, dtype=torch.float64))
        return (self._mean + self.covariance.root(noise).value).to(self._dtype)

    def posterior(self, likelihood: Likelihood) -> FieldPosterior:
        """The law of x given one linear observation with Gaussian noise.

        Raises:
            UnsupportedProblem: If the noise is not Gaussian or the operator not linear.
            ShapeError: If there is not exactly one observation.
        """
        if not isinstance(likelihood, GaussianLikelihood) or not isinstance(likelihood.operator, LinearOperator):
            raise UnsupportedProblem(
                f"no exact posterior for {type(likelihood).__name__} of {type(likelihood.operator).__name__}",
                hint="it is known for a GaussianLikelihood of a LinearOperator; use a sampler for others",
            )
        if likelihood.observations != 1:
            raise ShapeError(
                f"the exact posterior is that of one observation, got {likelihood.observations}",
                hint="pick observation i with likelihood.select(torch.tensor([i]))",
            )
        return FieldPosterior(self, likelihood.to(torch.empty((), dtype=torch.float64)))

    def dense(self) -> Gaussian:
        """The same law with its covariance as a matrix.

        Raises:
            UnsupportedProblem: If the field has more than 1,024 entries.
        """
        if self.dimension > DENSE:
            raise UnsupportedProblem(
                f"a matrix of {self.dimension:,} x {self.dimension:,} entries is too large",
                hint=f"fields of up to {DENSE:,} entries have one; draw from the posterior instead",
            )
        units = torch.eye(self.dimension, dtype=torch.float64).reshape(-1, *self.event_shape)
        matrix = self.covariance(units).flatten(1)
        mean = self._mean.to(self._dtype)
        return Gaussian(mean, (matrix + matrix.mT) / 2, schedule=self.schedule, event_shape=self.event_shape)

    def record(self) -> dict[str, Any]:
        """Schedule, digests of mean and spectrum as they were given, and the dtype of draws, as JSON."""
        told = {**self._given, "schedule": self.schedule, "signal": self.signal}
        return {"type": "GaussianField", **describe(told)}


@dataclass(frozen=True, eq=False)
class FieldPosterior:
    """The posterior of a field, Gaussian, by conjugate gradients to a relative residual of 1e-8.

    Args:
        prior: the field.
        likelihood: of one observation, linear, in float64.
    """

    prior: GaussianField
    likelihood: GaussianLikelihood

    @property
    def mean(self) -> Tensor:
        """Its mean, shape of one event, float64."""
        return self._moved(self.prior.mean[None], torch.zeros_like(self.likelihood.y))[0]

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), in the dtype of draws of the prior."""
        prior, y = self.prior, self.likelihood.y
        rng = Rng([(seed, "posterior")], size=n)
        start = prior.mean + prior.covariance.root(rng.normal(torch.empty(n, *prior.event_shape).double())).value
        noise = self.likelihood.sigma_y * rng.normal(y.expand(n, *y.shape[1:]))
        return self._moved(start, noise).to(prior._dtype)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event, shape (d, d), float64.

        Raises:
            UnsupportedProblem: If the field has more than 1,024 entries.
        """
        return self.prior.dense().posterior(self.likelihood).mean_and_covariance()

    def _moved(self, x: Tensor, noise: Tensor) -> Tensor:
        """Rows x of the prior, conditioned on y less these rows of noise."""
        covariance, variance = self.prior.covariance, self.likelihood.sigma_y**2
        operator = self.likelihood.operator.select(torch.zeros(len(x), dtype=torch.long))
        assert isinstance(operator, LinearOperator)
        error = self.likelihood.y - operator(x) - noise
        error = torch.where(operator.measured(error), error, 0.0)

        def apply(r: Tensor) -> Tensor:
            return operator(covariance(operator.adjoint(r))) + variance * r

        what = "a draw of the posterior of a field"
        solved = conjugate_gradients(apply, error, tolerance=TOLERANCE, max_iterations=ITERATIONS, what=what)
        return x + covariance(operator.adjoint(solved))


def matern_spectrum(space: tuple[int, ...], *, std: float, length: float, smoothness: float = 1.0) -> Tensor:
    """The spectrum of a Matern field: `s(k) ~ (1 + (2 pi length |k|)^2)^-(smoothness + d / 2)`, k in cycles a pixel.

    Neighbors are alike up to distances of about `length`. The larger the smoothness, the smoother the field: 1/2 is an
    exponential covariance.

    Args:
        space: shape of the space, d axes.
        std: standard deviation of a pixel; positive.
        length: in pixels; positive.
        smoothness: positive.

    Returns:
        Float64, shape `space`, in the order of `torch.fft.fftn`; its average is `std^2`.

    Raises:
        ConfigError: If a number is not positive.

    Example:
        >>> round(float(matern_spectrum((8, 8), std=0.5, length=2.0).mean()), 6)  # the variance of a pixel
        0.25

    References:
        Whittle 1954, "On stationary processes in the plane"; Rasmussen and Williams 2006, Eq. (4.15).
    """
    for name, value in {"std": std, "length": length, "smoothness": smoothness}.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(f"{name} must be positive, got {value:g}")
    axes = [torch.fft.fftfreq(size, dtype=torch.float64) for size in space]
    square = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    spectrum = (1 + (2 * math.pi * length) ** 2 * square) ** -(smoothness + len(space) / 2)
    return std**2 * spectrum / spectrum.mean()
