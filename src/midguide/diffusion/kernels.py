"""Gaussian kernels of the forward process, and the conversions between what networks predict.

Everything here is a function of noise levels (`alpha`, `sigma`), not of a schedule, with coefficients in float64.
For times `s < r < t` with levels of the same names (spec: transitions and bridge of Ho et al. 2020, Song et al. 2021):

    q(x_t | x_s)      = N(a x_s, v I)            a = alpha_t / alpha_s,  v = sigma_t^2 - a^2 sigma_s^2
    q(x_r | x_s, x_t) = N(gamma a_{r|s} x_s + (1 - gamma) x_t / a_{t|r}, v I)
                        gamma = v_{t|r} / v_{t|s},  v = v_{t|r} v_{r|s} / v_{t|s}
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion.schedules import CLEAN, Level
from midguide.maths.gaussians import Factor
from midguide.maths.linalg import weighted_sum


class Transition(NamedTuple):
    """`q(x_t | x_s) = N(scale x_s, std^2 I)`."""

    scale: float
    variance: float


class Bridge(NamedTuple):
    """`q(x_r | x_s, x_t) = N(weight_s x_s + weight_t x_t, std^2 I)`."""

    weight_s: float
    weight_t: float
    std: float

    def mean(self, x_s: Tensor, x_t: Tensor) -> Tensor:
        """Mean of the bridge, shape of `x_t`."""
        return weighted_sum((self.weight_s, x_s), (self.weight_t, x_t))

    def draw(self, x_s: Tensor, x_t: Tensor, z: Tensor) -> Tensor:
        """What the bridge draws where the standard normal draw is `z`, shape of `x_t`."""
        return weighted_sum((self.weight_s, x_s), (self.weight_t, x_t), (self.std, z))


def transition(s: Level, t: Level) -> Transition:
    """The forward kernel from level `s` to the noisier level `t`."""
    scale = t.alpha / s.alpha
    return Transition(scale, max(t.sigma**2 - (scale * s.sigma) ** 2, 0.0))


def bridge(s: Level, r: Level, t: Level) -> Bridge:
    """The forward process at level `r`, pinned at the cleaner `s` and the noisier `t`.

    With `s = CLEAN` and `x_s = D(x_t, t)` this is the DDPM approximation of the prior's backward transition.
    """
    if r == s:
        return Bridge(1.0, 0.0, 0.0)
    first, second, whole = transition(s, r), transition(r, t), transition(s, t)
    gamma = second.variance / whole.variance
    weight_t = second.scale * first.variance / whole.variance
    return Bridge(gamma * first.scale, weight_t, math.sqrt(gamma * first.variance))


def noised(
    y: Tensor, pin: Tensor, s: Level, z: Tensor, u_t: Tensor | None = None, t: Level | None = None
) -> tuple[Tensor, Tensor]:
    """`u = x / alpha` at level s, where it is y at the level whose `(sigma / alpha)^2` is `pin`: noise seen downwards.

    Args:
        y: any shape (..., n).
        pin: shape of y, float64; values that are not below the level s stay y.
        s: the level wanted.
        z: standard normal, shape of y.
        u_t: what it is at the noisier level t; by default nothing else is known.
        t: the level of u_t.

    Returns:
        u_s, shape of y, and the log density of `alpha_s u_s`, float64, shape (...): of the values above their pin.
    """
    above = s.ratio**2 - pin
    weight = torch.zeros_like(pin) if t is None else above / (t.ratio**2 - pin)
    free, variance = above > 0, above * (1 - weight)
    kept = 0.0 if u_t is None else weight * (u_t - y)
    u_s = torch.where(free, (y + kept + variance.clamp_min(0).sqrt() * z).to(y), y)
    terms = z.double().square() + (2 * math.pi * s.alpha**2 * variance).log()
    return u_s, -0.5 * torch.where(free, terms, 0.0).sum(-1)


def pinned(
    y: Tensor, noise: Tensor, counts: Tensor, s: Level, u_t: Tensor | None = None, t: Level | None = None
) -> tuple[Tensor, Factor, Tensor]:
    """What y says of x_s and x_t where its noise c lies between their levels: it counts as a state at that level.

    With `k = (c^2 - rho_s^2) / (rho_t^2 - rho_s^2)`, `rho = sigma / alpha` and `u = x / alpha`, the forward process has
    `y ~ N((1 - k) u_s + k u_t, (1 - k) (c^2 - rho_s^2))`.

    Args:
        y: measured values, shape (B, n).
        noise: c, broadcasts to y.
        counts: which of them count; their noise is below the level t.
        s: the level below.
        u_t: shape of y; by default there is no level above (`k = 0`).
        t: its level.

    Returns:
        which values have their noise there; the density of y as a factor of x_s; the log of what makes the factor that
        density, shape (B,) or ().
    """
    here = counts & (noise >= s.ratio)
    above = torch.where(here, noise.double().square() - s.ratio**2, 0.0)
    share = torch.zeros_like(above) if t is None else above / (t.ratio**2 - s.ratio**2)
    known = y if u_t is None else y - share * u_t
    factor = Factor((s.alpha * known / (1 - share)).to(y), s.alpha**2 * above / (1 - share))
    return here, factor, torch.where(here, math.log(s.alpha) - torch.log1p(-share), 0.0).sum(-1)


def ddim(r: Level, t: Level, eta: float) -> Bridge:
    """The DDIM kernel from `t` to `r` given `x_0`: `eta` = 1 is the DDPM bridge, 0 is deterministic.

    Mean `alpha_r x_0 + sqrt(sigma_r^2 - nu^2) (x_t - alpha_t x_0) / sigma_t`, std `nu = eta` times the bridge's
    (Song et al. 2021, Eq. 7 and 12).
    """
    return renoised(r, t, eta * bridge(CLEAN, r, t).std)


def renoised(r: Level, t: Level, std: float) -> Bridge:
    """From `t` to `r` given `x_0`, with fresh noise of `std`; the rest of the noise at `r` is that of `x_t`.

    `x_r = alpha_r x_0 + sqrt(sigma_r^2 - std^2) eps + std z`, with `eps = (x_t - alpha_t x_0) / sigma_t`.
    """
    weight_t = math.sqrt(max(r.sigma**2 - std**2, 0.0)) / t.sigma
    return Bridge(r.alpha - weight_t * t.alpha, weight_t, std)


def score_from_x0(x_t: Tensor, x0: Tensor, t: Level) -> Tensor:
    """Tweedie: `grad log p_t(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2`."""
    return (t.alpha * x0 - x_t) / t.sigma**2


def eps_from_x0(x_t: Tensor, x0: Tensor, t: Level) -> Tensor:
    """`eps = (x_t - alpha_t x_0) / sigma_t`."""
    return weighted_sum((1 / t.sigma, x_t), (-t.alpha / t.sigma, x0))


def x0_from_eps(x_t: Tensor, eps: Tensor, t: Level) -> Tensor:
    """`x_0 = (x_t - sigma_t eps) / alpha_t`."""
    return (x_t - t.sigma * eps) / t.alpha


def x0_from_v(x_t: Tensor, v: Tensor, t: Level) -> Tensor:
    """`x_0` from `v = alpha_t eps - sigma_t x_0`: `(alpha_t x_t - sigma_t v) / (alpha_t^2 + sigma_t^2)`."""
    return (t.alpha * x_t - t.sigma * v) / (t.alpha**2 + t.sigma**2)


def x0_from_flow(x_t: Tensor, velocity: Tensor, t: Level) -> Tensor:
    """`x_0` from the velocity `u = z - x_0`: `(x_t - sigma_t u) / (alpha_t + sigma_t)`."""
    return (x_t - t.sigma * velocity) / (t.alpha + t.sigma)


def x0_from_x0(x_t: Tensor, x0: Tensor, t: Level) -> Tensor:
    """The prediction of a network that predicts `x_0` itself."""
    return x0
