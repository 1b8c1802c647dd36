"""The exact law of a sampler's output on linear-Gaussian problems, where every step is an affine map plus noise.

With a Gaussian prior the denoiser is affine, `D(x, t) = J_t x + b_t`, so moments pass through the very recursion that a
sampler simulates. The distance of this law from the posterior is the method's own error. The distance of a sampler's
draws from this law is Monte-Carlo error, and for MGPS the error of its fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from midguide.catalogue.base import Catalogue
from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time
from midguide.errors import UnsupportedProblem
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.linalg import gaussian_w2
from midguide.operators.base import LinearOperator
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional


@dataclass(frozen=True)
class Law:
    """A Gaussian over the flattened event: mean, shape (d,), and covariance, shape (d, d), in float64."""

    mean: Tensor
    covariance: Tensor

    def w2(self, other: Law) -> float:
        """2-Wasserstein distance to another Gaussian."""
        return gaussian_w2(self.mean, self.covariance, other.mean, other.covariance)

    def pushed(self, matrix: Tensor, offset: Tensor, noise: Tensor) -> Law:
        """The law of `matrix x + offset + e`, with e of covariance `noise`."""
        covariance = matrix @ self.covariance @ matrix.T + noise
        return Law(matrix @ self.mean + offset, 0.5 * (covariance + covariance.T))

    @classmethod
    def of(cls, gaussian: Gaussian) -> Law:
        """The law that a Gaussian prior or posterior has."""
        return cls(gaussian.mean.double().flatten(), gaussian.covariance_matrix().double())


def posterior_law(problem: Problem) -> Law:
    """The law of the posterior itself, for a Gaussian prior: the reference for the laws of samplers.

    Raises:
        UnsupportedProblem: If the prior is not Gaussian.
    """
    if not isinstance(problem.denoiser, Gaussian):
        raise UnsupportedProblem("laws in closed form are those of Gaussian problems")
    return Law.of(problem.denoiser.posterior(problem.likelihood))


LAWS: Catalogue[Law] = Catalogue("law", "midguide.exact")
"""Laws `(sampler, problem, *, ...)` of samplers' draws by the name of the sampler."""


@LAWS.register("unconditional")
def unconditional_law(sampler: Unconditional, problem: Problem) -> Law:
    """The law of `Unconditional` samples for a Gaussian prior; it tends to the prior as steps grow."""
    affine = _Affine(problem)
    times = sampler.times(problem)
    law = affine.initial(times[0])
    for t, s in pairwise(times):
        move = kernels.ddim(problem.schedule.level(s), problem.schedule.level(t), sampler.eta)
        jacobian, offset = affine.denoiser(t)
        matrix = move.weight_s * jacobian + move.weight_t * affine.eye
        law = law.pushed(matrix, move.weight_s * offset, move.std**2 * affine.eye)
    return law.pushed(*affine.denoiser(times[-1]), 0 * affine.eye)


@LAWS.register("mgps")
def mgps_law(sampler: MGPS, problem: Problem, *, mean_field: bool = True) -> Law:
    """The law of MGPS samples by converged gradient steps (Algorithm 1), for a Gaussian prior and one observation.

    The midpoint's target `pi(x_l | x_t)` is Gaussian with precision `P = I/v + J_l^T A^T A J_l / sigma_y^2`. The best
    Gaussian with independent coordinates has its mean and the variances `1 / P_ii`.

    Args:
        sampler: its steps and midpoint are used; its warm start and its gradient steps are not.
        problem: Gaussian prior, linear operator, Gaussian noise, one observation.
        mean_field: carry the best Gaussian with independent coordinates (what MGPS fits), or the exact target (the
            surrogate of Example 3.2).

    Raises:
        UnsupportedProblem: If the sampler has the fit in closed form, whose law this is not.

    References: Moufad et al. 2025, Eq. (3.5) to (3.7) and Appendix B.
    """
    if sampler.gradient_steps is None:
        raise UnsupportedProblem("the law of `mgps` is known for fits by gradient steps", hint="take `mgps:paper`")
    affine = _Affine(problem)
    schedule, times = problem.schedule, sampler.times(problem)
    law = affine.initial(times[0])
    for t, s in pairwise(times):
        l = sampler.midpoint_time(problem, s)
        matrix, offset, noise = affine.midpoint(t, l, mean_field)
        move = kernels.bridge(schedule.level(l), schedule.level(s), schedule.level(t))
        law = law.pushed(
            move.weight_s * matrix + move.weight_t * affine.eye,
            move.weight_s * offset,
            move.weight_s**2 * noise + move.std**2 * affine.eye,
        )
    return law.pushed(*affine.denoiser(times[-1]), 0 * affine.eye)


class _Affine:
    """The pieces of a linear-Gaussian problem as matrices over the flattened event, in float64."""

    def __init__(self, problem: Problem) -> None:
        prior, likelihood = problem.denoiser, problem.likelihood
        linear = isinstance(likelihood.operator, LinearOperator) and problem.observations == 1
        if not (isinstance(prior, Gaussian) and isinstance(likelihood, GaussianLikelihood) and linear):
            raise UnsupportedProblem(
                "the exact law is known for a Gaussian prior, a linear operator, Gaussian noise and one observation",
                hint="use problem.select(torch.tensor([i])) for observation i",
            )
        self.schedule = prior.schedule
        self.prior = Law.of(prior)
        dimension = len(self.prior.mean)
        self.eye = torch.eye(dimension, dtype=torch.float64)
        basis = self.eye.reshape(dimension, *problem.event_shape)
        operator = likelihood.operator.select(torch.zeros(dimension, dtype=torch.long)).to(torch.float64)
        self.forward = operator(basis).flatten(1).T / likelihood.sigma_y
        self.y = likelihood.y.double().flatten() / likelihood.sigma_y

    def initial(self, t: Time) -> Law:
        """`x_T ~ N(0, sigma_T^2 I)`."""
        return Law(0 * self.prior.mean, self.schedule.level(t).sigma ** 2 * self.eye)

    def denoiser(self, t: Time) -> tuple[Tensor, Tensor]:
        """`J_t` and `b_t`."""
        level = self.schedule.level(t)
        marginal = level.alpha**2 * self.prior.covariance + level.sigma**2 * self.eye
        jacobian = level.alpha * torch.linalg.solve(marginal, self.prior.covariance)
        return jacobian, self.prior.mean - level.alpha * jacobian @ self.prior.mean

    def midpoint(self, t: Time, l: Time, mean_field: bool) -> tuple[Tensor, Tensor, Tensor]:
        """`x_l = matrix x_t + offset + e` under the target at the midpoint, and the covariance of e."""
        move = kernels.bridge(CLEAN, self.schedule.level(l), self.schedule.level(t))
        jacobian_t, offset_t = self.denoiser(t)
        at_cleanest = l == self.schedule.cleanest
        jacobian_l, offset_l = (self.eye, torch.zeros_like(offset_t)) if at_cleanest else self.denoiser(l)
        potential = self.forward @ jacobian_l
        precision = self.eye / move.std**2 + potential.T @ potential
        covariance = torch.linalg.inv(precision)
        matrix = move.weight_s * jacobian_t + move.weight_t * self.eye
        residual = self.y - self.forward @ offset_l
        mean_offset = move.weight_s * offset_t / move.std**2 + potential.T @ residual
        noise = torch.diag(1 / precision.diagonal()) if mean_field else covariance
        return covariance @ matrix / move.std**2, covariance @ mean_offset, noise
