"""A Gaussian prior: its denoiser, its density and its posterior are known in closed form.

For `x_0 ~ N(m, C)` and `x_t = alpha x_0 + sigma z`

    E[x_0 | x_t = x] = m + alpha C (alpha^2 C + sigma^2 I)^{-1} (x - alpha m)

which in the eigenbasis `C = V diag(l) V^T` is entry by entry `g V^T x + h V^T m`, with `g = alpha l / s`,
`h = sigma^2 / s` and `s = alpha^2 l + sigma^2`. The two terms never cancel, and a singular C needs no special case.

References: Bishop 2006, Eq. (2.116); Moufad et al. 2025 (MGPS), Example 3.2 and Appendix B.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from midguide.diffusion.schedules import DiscreteVP, Level, Schedule, Time
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.likelihoods.base import Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.covariance import LowRank, Moments
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.priors.base import Denoiser
from midguide.storage.record import describe


class Gaussian(Denoiser):
    """The prior `N(mean, covariance)`.

    Parameters, and the coefficients of each noise level, are float64; they apply in the dtype of the input.

    Args:
        mean: the mean, shape of one event; draws have its dtype.
        covariance: a variance for all entries (a number), one for each (shape of one event), or the covariance matrix
            over the flattened event, shape (d, d); symmetric, positive semi-definite.
        schedule: the forward process; linear betas over 1,000 steps by default.
        event_shape: shape of one event, where it is not that of `mean`.

    Raises:
        ShapeError: If the shape of `covariance` fits none of the three forms, or the mean is not an array of numbers.
        ConfigError: If a value is complex, the mean is not finite, or `covariance` is not symmetric or has a negative
            eigenvalue.

    Example:
        >>> prior = Gaussian(torch.zeros(2), 1.0)
        >>> x, level = torch.ones(1, 2), prior.schedule.level(500)
        >>> bool(torch.allclose(prior(x, 500), level.alpha * x))  # alpha^2 + sigma^2 = 1
        True
    """

    exact_moments = True

    def __init__(
        self,
        mean: Tensor | np.ndarray,
        covariance: float | Tensor | np.ndarray,
        *,
        schedule: Schedule | None = None,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.schedule, mean = schedule or exact_schedule(), real_numbers(mean, "the mean")
        self.event_shape = tuple(mean.shape if event_shape is None else event_shape)
        self.dimension = math.prod(self.event_shape)
        if mean.numel() != self.dimension:
            raise ShapeError(f"the mean has shape {tuple(mean.shape)}, an event has shape {self.event_shape}")
        self._dtype = mean.dtype
        self._mean = mean.double().cpu().reshape(-1)
        self._vectors: Tensor | None = None
        given = real_numbers(covariance, "the covariance").double().cpu()
        if given.ndim == 0:
            self.kind, self._values = "isotropic", given.reshape(1)
        elif given.shape == self.event_shape:
            self.kind, self._values = "diagonal", given.reshape(-1)
        elif given.shape == (self.dimension, self.dimension):
            self.kind = "full"
            self._values, self._vectors = eigenbasis(given)
        else:
            raise ShapeError(
                f"a covariance of shape {tuple(given.shape)} does not fit events of shape {self.event_shape}",
                hint=f"pass a number, a tensor of shape {self.event_shape} or ({self.dimension}, {self.dimension})",
            )
        check_variances(self._values)
        # as given: an eigenbasis is rounded as the number of threads has it
        mean_of_event = self._mean.reshape(self.event_shape)
        self._given = {"mean": mean_of_event, "covariance": given, "dtype": mean.dtype}
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor | None]] = {}

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        gain, rest = posterior_weights(self._values, self.schedule.level(t))
        mean, vectors = self._like(x)
        flat = x.reshape(len(x), self.dimension)
        if vectors is None:
            return (flat * gain.to(x) + rest.to(x) * mean).reshape(x.shape)
        return ((flat @ vectors * gain.to(x) + rest.to(x) * mean) @ vectors.mT).reshape(x.shape)

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """The covariance has the eigenvalues `sigma^2 l / (alpha^2 l + sigma^2)`, whatever x is."""
        _, rest = posterior_weights(self._values, self.schedule.level(t))
        variances = (rest * self._values).expand(self.dimension).to(x)[None, None]
        factors = x.new_zeros(len(x), 0, self.dimension)
        return Moments(self(x, t), LowRank(variances, self._like(x)[1], factors, self.event_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log N(x; mean, covariance)` in nats, computed in float64: (B, *event) -> (B,).

        Raises:
            NumericalError: If the covariance is singular, so that there is no density.
        """
        if not bool((self._values > 0).all()):
            raise NumericalError("a Gaussian with a singular covariance has no density")
        gap = x.reshape(len(x), -1).double() - self._mean.to(x.device)
        gap = gap if self._vectors is None else gap @ self._vectors.to(x.device)
        values = self._values.expand(self.dimension).to(x.device)
        return (-0.5 * (gap.square() / values + (2 * math.pi * values).log()).sum(1)).to(x.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), in the dtype of the mean that was given; all from one stream."""
        noise = Rng([(seed, "prior")], size=n).normal(torch.empty(n, self.dimension, dtype=torch.float64))
        scaled = noise * self._values.sqrt()
        draws = self._mean + (scaled if self._vectors is None else scaled @ self._vectors.mT)
        return draws.reshape(n, *self.event_shape).to(self._dtype)

    @property
    def mean(self) -> Tensor:
        """The mean, shape of one event, float64."""
        return self._mean.reshape(self.event_shape)

    def covariance_matrix(self) -> Tensor:
        """The covariance over the flattened event, shape (d, d), float64."""
        factor = self._factor()
        return factor @ factor.mT

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event, shape (d, d); float64."""
        return self.mean, self.covariance_matrix()

    def posterior(self, likelihood: Likelihood) -> Gaussian:
        """The law of x given one linear observation with Gaussian noise: exact, in float64, on the same schedule.

        Raises:
            UnsupportedProblem: If the noise is not Gaussian or the operator not linear.
            ShapeError: If there is not exactly one observation.
        """
        system = linear_system(likelihood, self.event_shape)
        mean, covariance, _ = condition(self._mean[None], self._factor(), system)
        return Gaussian(mean[0], covariance, schedule=self.schedule, event_shape=self.event_shape)

    def record(self) -> dict[str, Any]:
        """Schedule, digests of mean and covariance as they were given, and the dtype of draws, as JSON."""
        told = {**self._given, "schedule": self.schedule, "signal": self.signal}
        return {"type": "Gaussian", **describe(told)}

    def _factor(self) -> Tensor:
        """`L` with `C = L L^T`, shape (d, d)."""
        return square_root(self._values, self._vectors, self.dimension)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean in the eigenbasis, and the eigenbasis, in the dtype and on the device of x."""
        key = (x.dtype, x.device)
        if key not in self._moved:
            if self._vectors is None:
                self._moved[key] = (self._mean.to(x), None)
            else:
                self._moved[key] = ((self._mean @ self._vectors).to(x), self._vectors.to(x))
        return self._moved[key]


class LinearSystem(NamedTuple):
    """One observation `y = A x + sigma_y z` over its measured values: matrix (m, d) and y (m,), in float64."""

    matrix: Tensor
    y: Tensor
    sigma_y: float


def real_numbers(values: Any, what: str) -> Tensor:
    """The parameters of a prior as a tensor, at no less than single precision.

    Args:
        values: a number, list, array of NumPy, or tensor.
        what: what they are, for the message.

    Raises:
        ShapeError: If they are not numbers.
        ConfigError: If they are complex, or not finite.
    """
    try:
        found = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{what} must be numbers, got {type(values).__name__}", hint="a tensor or an array") from error
    if found.is_complex():
        raise ConfigError(f"{what} must be real, got complex numbers", hint="take real and imaginary parts as entries")
    if not bool(found.isfinite().all()):
        raise ConfigError(f"{what} must be finite, got NaN or infinity")
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def exact_schedule() -> DiscreteVP:
    """The schedule of priors in closed form: linear betas, the signal never clipped."""
    return replace(DiscreteVP.linear(), floor=1e-10)


def eigenbasis(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (.., d) and eigenvectors (.., d, d) of symmetric matrices; eigenvalues below rounding become zero.

    Raises:
        ConfigError: If a matrix is not symmetric up to rounding (of float32, in which it may have been computed).
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).abs().amax()
    if bool((covariance - covariance.mT).abs().amax() > 1e-5 * scale):
        raise ConfigError("the covariance is not symmetric", hint="pass (C + C.mT) / 2")
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    noise = values.abs().amax(-1, keepdim=True) * 1e-6
    return torch.where((values < 0) & (values > -noise), 0.0, values), vectors


def check_variances(values: Tensor) -> None:
    """Refuse variances that are negative, infinite or NaN."""
    if not bool(((values >= 0) & values.isfinite()).all()):
        raise ConfigError(f"variances must be finite and not negative, got {float(values.min()):.3g} as the smallest")


def posterior_weights(variances: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Weights of x_t and of the prior's mean in `E[x_0 | x_t]`, for independent entries of these variances.

    `g = alpha l / (alpha^2 l + sigma^2)` and `h = sigma^2 / (alpha^2 l + sigma^2)`; no difference is taken.
    """
    total = level.alpha**2 * variances + level.sigma**2
    return level.alpha * variances / total, level.sigma**2 / total


def square_root(values: Tensor, vectors: Tensor | None, dimension: int) -> Tensor:
    """`L = V diag(l)^{1/2}`, so that `L L^T` is the covariance, shape (d, d)."""
    roots = values.sqrt().expand(dimension)
    return roots.diag() if vectors is None else vectors * roots


def linear_system(likelihood: Likelihood, event_shape: tuple[int, ...]) -> LinearSystem:
    """The dense matrix of a linear operator, applied to each basis vector in float64; hidden values are left out."""
    operator = likelihood.operator
    if not isinstance(likelihood, GaussianLikelihood) or not isinstance(operator, LinearOperator):
        raise UnsupportedProblem(
            f"no exact posterior for {type(likelihood).__name__} of {type(operator).__name__}",
            hint="it is known for a GaussianLikelihood of a LinearOperator; use a sampler for others",
        )
    if likelihood.observations != 1:
        raise ShapeError(
            f"the exact posterior is that of one observation, got {likelihood.observations}",
            hint="pick observation i with likelihood.select(torch.tensor([i]))",
        )
    y, dimension = likelihood.y, math.prod(event_shape)
    basis = torch.eye(dimension, dtype=torch.float64, device=y.device).reshape(dimension, *event_shape)
    columns = operator.to(torch.float64).select(torch.zeros(dimension, dtype=torch.long, device=y.device))(basis)
    seen = operator.measured(y).expand(y.shape).reshape(-1)
    matrix = columns.reshape(dimension, -1).mT[seen]
    return LinearSystem(matrix.cpu(), y.double().reshape(-1)[seen].cpu(), likelihood.sigma_y)


def condition(means: Tensor, factor: Tensor, system: LinearSystem) -> tuple[Tensor, Tensor, Tensor]:
    """Condition `N(m_k, L L^T)`, for several means that share L, on `y = A x + sigma_y z`.

    With the SVD `A L = U diag(b) W^T`, the gain `C A^T (A C A^T + sigma_y^2 I)^{-1}` becomes
    `L W diag(b / (b^2 + sigma_y^2)) U^T`. The covariance becomes `L W diag(sigma_y^2 / (b^2 + sigma_y^2)) W^T L^T`.
    That is a square, hence positive semi-definite, with no subtraction and no inverse of C.

    Args:
        means: prior means, shape (K, d).
        factor: L, shape (d, d).
        system: the observation.

    Returns:
        Posterior means (K, d), their common covariance (d, d), and `log N(y; A m_k, A C A^T + sigma_y^2 I)`, (K,).
    """
    variance = system.sigma_y**2
    left, stretch, right = torch.linalg.svd(system.matrix @ factor)
    rank = len(stretch)
    gap = (system.y - means @ system.matrix.mT) @ left
    axes = factor @ right.mT
    moved = means + (gap[:, :rank] * stretch / (stretch**2 + variance)) @ axes[:, :rank].mT
    shrink = torch.ones(len(right), dtype=torch.float64)
    shrink[:rank] = variance / (stretch**2 + variance)
    covariance = (axes * shrink) @ axes.mT
    spread = torch.full((len(system.y),), variance, dtype=torch.float64)
    spread[:rank] += stretch**2
    evidence = -0.5 * (gap.square() / spread + (2 * math.pi * spread).log()).sum(1)
    return moved, (covariance + covariance.mT) / 2, evidence
