"""A mixture of Gaussians: denoiser, density and posterior in closed form.

At `x_t = alpha x_0 + sigma z` every component is again Gaussian, so that

    E[x_0 | x_t = x] = sum_k w_k(x) D_k(x),   w_k(x) ~ w_k N(x; alpha m_k, alpha^2 C_k + sigma^2 I)

with `D_k` the Gaussian denoiser of component k. Matrix products give the squared distances inside `w_k`. These are
differences of numbers of the size `||m||^2 / s`. For the mixture of the MGPS paper that is thousands, which float32
holds to 1e-3 only. So responsibilities are in float64, and everything else is in the dtype of the input.

References: Moufad et al. 2025 (MGPS), Section 4 and Table 1; Cardoso et al. 2024 for the mixture and its posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from midguide.diffusion.schedules import CLEAN, Level, Schedule, Time
from midguide.errors import ConfigError, NumericalError, ShapeError
from midguide.likelihoods.base import Likelihood
from midguide.maths import autodiff
from midguide.maths.covariance import LowRank, Moments
from midguide.maths.rng import Rng
from midguide.maths.spread import Spread
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import (
    check_variances,
    condition,
    eigenbasis,
    exact_schedule,
    linear_system,
    posterior_weights,
    real_numbers,
    square_root,
)
from midguide.storage.record import describe

LARGE = 2**16
"""Values of all means from which on no tensor of the size rows x means is made, as for mixtures of pictures."""


class _Parts(NamedTuple):
    """Means (K, d) in the eigenbasis, their squared norms and log weights (K,), and the eigenbasis.

    The eigenbasis: none, (d, d), or (K, d, d).
    """

    means: Tensor
    norms: Tensor
    log_weights: Tensor
    vectors: Tensor | None


class _Logits(NamedTuple):
    """Float64 coefficients of `log w_k + log N(x; alpha m_k, S_k)` as a polynomial in x in the eigenbasis.

    Where all components share a covariance, `-x^T S^{-1} x / 2` is common to them and left out: `curvature` is None.
    """

    constant: Tensor
    slope: Tensor
    curvature: Tensor | None

    def at(self, exact: Tensor) -> Tensor:
        """For float64 x in the eigenbasis, (B, d) or (B, K, d): shape (B, K)."""
        if exact.ndim == 3:
            return self.constant + torch.einsum("bkd,kd->bk", exact, self.slope) + self._quadratic(exact)
        linear = torch.addmm(self.constant, exact, self.slope.mT)
        return linear if self.curvature is None else linear + exact.square() @ self.curvature.mT

    def _quadratic(self, exact: Tensor) -> Tensor | float:
        return 0.0 if self.curvature is None else torch.einsum("bkd,kd->bk", exact.square(), self.curvature)


class _AtLevel(NamedTuple):
    """What the denoiser needs at one level, in the dtype of its input but for the logits.

    `D_k(x) = gain_k x + shift_k` in the eigenbasis.
    """

    logits: _Logits
    gain: Tensor
    shift: Tensor
    vectors: Tensor | None


class GaussianMixture(Denoiser):
    """The prior `sum_k weights_k N(means_k, C_k)`.

    Args:
        weights: shape (K,), not negative; normalized here.
        means: shape (K, *event).
        covariances: a variance common to all (a number), one per component (K,), diagonals (K, *event), one matrix for
            all, (d, d) or (1, d, d), or one each, (K, d, d), over the flattened event.
        schedule: the forward process; linear betas over 1,000 steps by default.

    Raises:
        ShapeError: If the shape of `covariances` fits no form, or two forms (K = d), or something is not a number.
        ConfigError: If weights are impossible, a value is complex, or a covariance is not symmetric or not positive
            semi-definite.

    Example:
        >>> prior = GaussianMixture(torch.ones(2), torch.tensor([[-5.0], [5.0]]), 1.0)
        >>> round(float(prior(torch.tensor([[4.9]]), 1)), 3)
        4.9
    """

    exact_moments = True

    def __init__(
        self,
        weights: Tensor | np.ndarray,
        means: Tensor | np.ndarray,
        covariances: float | Tensor | np.ndarray,
        *,
        schedule: Schedule | None = None,
    ) -> None:
        self.schedule, means = schedule or exact_schedule(), real_numbers(means, "the means")
        if means.ndim < 1:
            raise ShapeError("the means are a single number", hint="one row for each component")
        self.event_shape = tuple(means.shape[1:])
        self.components, self.dimension = len(means), math.prod(self.event_shape)
        self._dtype = means.dtype
        self._means = means.double().cpu().reshape(self.components, -1)
        self.weights = _normalized(weights, self.components)
        given = real_numbers(covariances, "the covariances").double().cpu()
        self.kind = _covariance_kind(given, self.components, self.event_shape)
        self._vectors: Tensor | None = None
        if self.kind in ("shared full", "full"):
            matrices = given.reshape(-1, self.dimension, self.dimension)
            self._values, vectors = eigenbasis(matrices)
            self._vectors = vectors[0] if self.kind == "shared full" else vectors
        else:
            self._values = given.reshape(1, 1) if self.kind == "shared isotropic" else given.reshape(len(given), -1)
        check_variances(self._values)
        # as given: eigenbases are rounded as the number of threads has it
        means_of_events = self._means.reshape(self.components, *self.event_shape)
        self._given = {"weights": self.weights, "means": means_of_events, "covariances": given, "dtype": means.dtype}
        self._moved: dict[tuple[torch.dtype, torch.device], _Parts] = {}
        self._levels: dict[tuple[Level, torch.dtype, torch.device], _AtLevel] = {}

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        level = self.schedule.level(t)
        if self.kind == "shared isotropic":
            return autodiff.with_pullback(lambda u: self._isotropic(u, level), x)
        flat, at = x.reshape(len(x), self.dimension), self._at(level, x.dtype, x.device)
        exact = self._rotate(flat.double())
        weights = _softmax(at.logits.at(exact).mT, x.dtype).mT
        flat = flat if at.vectors is None else exact.to(x.dtype)
        if flat.ndim == 3:
            parts = weights[..., None] * (at.gain * flat + at.shift)
            return torch.einsum("bkd,ked->be", parts, at.vectors).reshape(x.shape)
        gain = at.gain if len(at.gain) == 1 else weights @ at.gain
        x0 = torch.addmm(gain * flat, weights, at.shift)
        return (x0 if at.vectors is None else x0 @ at.vectors.mT).reshape(x.shape)

    def _isotropic(self, x: Tensor, level: Level) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The denoiser and its pullback where all components have the covariance `l I`.

        `D(x) = (alpha l x + sigma^2 sum_k w_k(x) m_k) / s`, with `s = alpha^2 l + sigma^2` and w the softmax of
        `log w_k + (alpha / s) (m_k^T x - alpha |m_k|^2 / 2)`. Components come first: the softmax is faster that way.
        """
        exact, means = (self._like(dtype, x.device) for dtype in (torch.float64, x.dtype))
        variance = float(self._values)
        total = level.alpha**2 * variance + level.sigma**2
        slope, gain, rest = level.alpha / total, level.alpha * variance / total, level.sigma**2 / total
        constant = exact.log_weights - 0.5 * level.alpha * slope * exact.norms
        flat = x.reshape(len(x), self.dimension)
        weights = _softmax(torch.addmm(constant[:, None], exact.means, flat.double().mT, alpha=slope), x.dtype)

        def pullback(vector: Tensor) -> Tensor:
            vector = vector.reshape(flat.shape)
            along = means.means @ vector.mT
            spread = weights * (along - (weights * along).sum(0))
            return torch.addmm(vector, spread.mT, means.means, beta=gain, alpha=slope * rest).reshape(x.shape)

        x0 = torch.addmm(flat, weights.mT, means.means, beta=gain, alpha=rest)
        return x0.reshape(x.shape), pullback

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """Components have the mean `D_k` and the covariance of `Gaussian.moments`; `w_k` are their responsibilities.

        `C = sum_k w_k C_k + sum_k w_k (D_k - D) (D_k - D)^T`: within components, and between them.
        """
        level = self.schedule.level(t)
        flat, at = x.reshape(len(x), self.dimension), self._at(level, x.dtype, x.device)
        exact = self._rotate(flat.double())
        weights = _softmax(at.logits.at(exact).mT, x.dtype).mT
        if self.kind == "shared isotropic" and self.components * self.dimension > LARGE:
            _, rest = posterior_weights(self._values[0], level)
            mean = torch.addmm(at.gain * flat, weights, at.shift)
            spread = Spread(float(rest * self._values), weights, at.shift, self.event_shape)
            return Moments(mean.reshape(x.shape), spread)
        rotated = exact.to(x.dtype) if exact.ndim == 3 else exact.to(x.dtype)[:, None]
        means = at.gain * rotated + at.shift
        if at.vectors is not None:
            means = means @ at.vectors.mT if at.vectors.ndim == 2 else torch.einsum("bke,kde->bkd", means, at.vectors)
        mean = torch.einsum("bk,bkd->bd", weights, means)
        _, rest = posterior_weights(self._values, level)
        within = (rest * self._values).expand(-1, self.dimension).to(x)[None]
        if len(self._values) > 1:
            within = weights[..., None] * within
            within = within.sum(1, keepdim=True) if at.vectors is None else within
        between = weights.sqrt()[..., None] * (means - mean[:, None])
        return Moments(mean.reshape(x.shape), LowRank(within, at.vectors, between, self.event_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, computed in float64: (B, *event) -> (B,).

        Raises:
            NumericalError: If a covariance is singular, so that there is no density.
        """
        if not bool((self._values > 0).all()):
            raise NumericalError("a mixture with a singular covariance has no density")
        exact = self._rotate(x.reshape(len(x), self.dimension).double())
        log_density = torch.logsumexp(self._logits(CLEAN, x.device).at(exact), 1)
        log_density = log_density - 0.5 * self.dimension * math.log(2 * math.pi)
        if len(self._values) == 1:  # the term that `_logits` leaves out
            log_density = log_density - 0.5 * (exact.square() / self._values.to(x.device)).sum(1)
        return log_density.to(x.dtype)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws, shape (n, *event), in the dtype of the means that were given; all from one stream."""
        rng = Rng([(seed, "prior")], size=n)
        edges = self.weights.cumsum(0)
        uniform = rng.uniform(torch.empty(n, dtype=torch.float64)) * edges[-1]
        chosen = torch.searchsorted(edges, uniform, right=True).clamp_max(self.components - 1)
        noise = rng.normal(torch.empty(n, self.dimension, dtype=torch.float64))
        draws = torch.empty_like(noise)
        for k in chosen.unique().tolist():
            rows = chosen == k
            draws[rows] = self._means[k] + self._correlated(noise[rows], k)
        return draws.reshape(n, *self.event_shape).to(self._dtype)

    def most_probable(self, x: Tensor) -> Tensor:
        """The component most probable to have drawn each row, (B, *event) -> (B,), integers below `components`.

        Raises:
            NumericalError: If a covariance is singular, so that components have no density.
        """
        if not bool((self._values > 0).all()):
            raise NumericalError("a mixture with a singular covariance has no density")
        exact = self._rotate(x.reshape(len(x), self.dimension).double())
        return self._logits(CLEAN, x.device).at(exact).argmax(1)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event, shape (d, d), of the mixture; float64."""
        mean = self.weights @ self._means
        spread = self._means - mean
        covariance = (self.weights[:, None] * spread).mT @ spread
        factors = self._factors(len(self._values))
        for weight, factor in zip(self.weights if len(factors) > 1 else [1.0], factors, strict=True):
            covariance = covariance + weight * factor @ factor.mT
        return mean.reshape(self.event_shape), covariance

    def posterior(self, likelihood: Likelihood) -> GaussianMixture:
        """The law of x given one linear observation with Gaussian noise: exact, in float64, on the same schedule.

        Component k keeps the weight `w_k N(y; A m_k, sigma_y^2 I + A C_k A^T)`, over the measured values, and the
        covariance `(C_k^{-1} + A^T A / sigma_y^2)^{-1}`.

        Raises:
            UnsupportedProblem: If the noise is not Gaussian or the operator not linear.
            ShapeError: If there is not exactly one observation.
        """
        system = linear_system(likelihood, self.event_shape)
        factors = self._factors(len(self._values))
        blocks = [self._means] if len(factors) == 1 else self._means[:, None]
        updates = [condition(block, factor, system) for block, factor in zip(blocks, factors, strict=True)]
        means, evidence = torch.cat([u[0] for u in updates]), torch.cat([u[2] for u in updates])
        return GaussianMixture(
            torch.softmax(self.weights.log() + evidence, 0),
            means.reshape(-1, *self.event_shape),
            torch.stack([u[1] for u in updates]),
            schedule=self.schedule,
        )

    def record(self) -> dict[str, Any]:
        """Schedule, digests of weights, means and covariances as they were given, and the dtype of draws, as JSON."""
        told = {**self._given, "schedule": self.schedule, "signal": self.signal}
        return {"type": "GaussianMixture", **describe(told)}

    def _at(self, level: Level, dtype: torch.dtype, device: torch.device) -> _AtLevel:
        """What the denoiser needs at this level; the last one is kept, since samplers come back to it."""
        key = level, dtype, device
        if key not in self._levels:
            parts = self._like(dtype, device)
            gain, rest = (weight.to(parts.means) for weight in posterior_weights(self._values, level))
            self._levels = {key: _AtLevel(self._logits(level, device), gain, rest * parts.means, parts.vectors)}
        return self._levels[key]

    def _logits(self, level: Level, device: torch.device) -> _Logits:
        """The logits at a level, where `S_k` has the eigenvalues `alpha^2 l_k + sigma^2`."""
        values, parts = self._values.to(device), self._like(torch.float64, device)
        total = level.alpha**2 * values + level.sigma**2
        slope = level.alpha * parts.means / total
        constant = parts.log_weights - 0.5 * total.log().expand(len(total), self.dimension).sum(1)
        constant = constant - 0.5 * level.alpha * (slope * parts.means).sum(1)
        return _Logits(constant, slope, None if len(total) == 1 else -0.5 / total.expand(-1, self.dimension))

    def _rotate(self, exact: Tensor) -> Tensor:
        """x in the eigenbasis of the covariances, float64, shape (B, d), or (B, K, d) where each has its own."""
        vectors = self._like(torch.float64, exact.device).vectors
        if vectors is None:
            return exact
        return exact @ vectors if vectors.ndim == 2 else torch.einsum("bd,kde->bke", exact, vectors)

    def _correlated(self, noise: Tensor, k: int) -> Tensor:
        """White noise, shape (n, d), with the covariance of component k."""
        roots = self._values[k if len(self._values) > 1 else 0].sqrt()
        if self._vectors is None:
            return noise * roots
        return noise @ ((self._vectors if self._vectors.ndim == 2 else self._vectors[k]) * roots).mT

    def _factors(self, count: int) -> list[Tensor]:
        """Square roots (d, d) of the covariances: `count` is 1 where all share one, else K."""
        vectors = self._vectors
        bases = [vectors] * count if vectors is None or vectors.ndim == 2 else list(vectors)
        values = self._values.expand(count, -1)
        return [square_root(v, basis, self.dimension) for v, basis in zip(values, bases, strict=True)]

    def _like(self, dtype: torch.dtype, device: torch.device) -> _Parts:
        """Means in the eigenbasis, and the eigenbasis, in this dtype and on this device."""
        if (dtype, device) not in self._moved:
            means, vectors = self._means, self._vectors
            if vectors is not None:
                means = means @ vectors if vectors.ndim == 2 else torch.einsum("kd,kde->ke", means, vectors)
                vectors = vectors.to(device, dtype)
            norms, log_weights = means.square().sum(-1).to(device, dtype), self.weights.log().to(device, dtype)
            self._moved[dtype, device] = _Parts(means.to(device, dtype), norms, log_weights, vectors)
        return self._moved[dtype, device]


def _softmax(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """The softmax over components of float64 logits, shape (K, B), in the dtype of everything else.

    Without the largest, float32 is enough, and its softmax several times as fast. Weights below e^-60 stay there: they
    change nothing, while denormal numbers in a product of weights and means would double its time.
    """
    gaps = logits - logits.detach().amax(0)
    return torch.softmax(gaps.to(dtype).clamp_min(-60.0), 0)


def _normalized(weights: Tensor | np.ndarray, components: int) -> Tensor:
    """The weights in float64 with sum 1."""
    values = real_numbers(weights, "the weights").double().cpu()
    if values.shape != (components,):
        raise ShapeError(f"there are {components} means, the weights have shape {tuple(values.shape)}")
    if not bool((values >= 0).all() and values.sum().isfinite() and values.sum() > 0):
        raise ConfigError("weights must be finite, not negative, and not all zero")
    return values / values.sum()


def _covariance_kind(given: Tensor, components: int, event_shape: tuple[int, ...]) -> str:
    """Which of the accepted forms a tensor of covariances has."""
    d, shape = math.prod(event_shape), tuple(given.shape)
    if shape == (components, *event_shape) == (d, d):
        raise ShapeError(
            f"covariances of shape {shape} may be diagonals or one shared matrix",
            hint=f"pass (1, {d}, {d}) for a shared matrix, torch.diag_embed(...) for diagonals",
        )
    forms = {
        (): "shared isotropic",
        (components,): "isotropic",
        (components, *event_shape): "diagonal",
        (d, d): "shared full",
        (1, d, d): "shared full",
        (components, d, d): "shared full" if components == 1 else "full",
    }
    if shape not in forms:
        raise ShapeError(
            f"covariances of shape {shape} do not fit {components} components of shape {event_shape}",
            hint=f"pass a number or a tensor of one of the shapes {sorted(map(str, forms))[1:]}",
        )
    return forms[shape]
