"""Posteriors that are known: in closed form, by quadrature, or by a Monte-Carlo chain that checks itself.

A posterior follows from a problem. A prior that knows it has a method `posterior(likelihood)`, as `Gaussian` and
`GaussianMixture` do. For any prior with a density, of at most `MOST_ENTRIES` entries, quadrature gives it, with any
instrument and any noise.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from midguide.errors import UnsupportedProblem
from midguide.exact.quadrature import WithDensity, quadrature
from midguide.likelihoods.base import Likelihood
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem

MOST_ENTRIES = 4
"""Entries of an event up to which quadrature is worth its cost."""


class Posterior(Protocol):
    """What is known of `p(x | y)` for one observation."""

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` draws, shape (n, *event); independent, or as good as that for a chain."""
        ...

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean, shape of one event, and covariance over the flattened event, shape (d, d), both float64."""
        ...


@runtime_checkable
class KnowsPosterior(Protocol):
    """A prior whose posterior is known for some likelihoods."""

    def posterior(self, likelihood: Likelihood) -> Posterior:
        """The posterior; raises `UnsupportedProblem` for a likelihood that it is not known for."""
        ...

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Independent draws of the prior, shape (n, *event)."""
        ...


class Opaque(Wrapped):
    """A prior of which samplers see what a network shows: its denoiser and derivatives, no moments in closed form.

    So each method costs the calls that it costs on a network.
    """

    exact_moments = False


def posterior_of(problem: Problem) -> Posterior:
    """The posterior of a problem of one observation; what takes long is done when it is first used.

    Raises:
        UnsupportedProblem: If it is not known.

    Example:
        >>> from midguide.exact.problems import mixture_problem
        >>> posterior_of(mixture_problem(4, seed=0)).sample(3).shape
        torch.Size([3, 4])
    """
    return _posterior_of(problem)


def error_of(posterior: Posterior) -> float:
    """The standard error of the posterior's stated mean, relative to its standard deviation; 0 in closed form."""
    return float(getattr(posterior, "error", 0.0))


def known_prior(problem: Problem) -> Any:
    """The prior of a problem that can be sampled exactly, without what wraps it.

    Raises:
        UnsupportedProblem: If it cannot, as a network.
    """
    prior = unwrapped(problem.denoiser)
    if not isinstance(prior, KnowsPosterior):
        raise UnsupportedProblem(f"{type(prior).__name__} has no exact posterior")
    return prior


@lru_cache(maxsize=8)  # by identity: a study asks again for each sampler and each metric
def _posterior_of(problem: Problem) -> Posterior:
    prior = known_prior(problem)
    try:
        return prior.posterior(problem.likelihood)
    except UnsupportedProblem:
        if isinstance(prior, WithDensity) and math.prod(problem.event_shape) <= MOST_ENTRIES:
            return quadrature(prior, problem)
        raise


def unwrapped(prior: Denoiser) -> Denoiser:
    """The prior itself, without what hides its closed forms from samplers."""
    while isinstance(prior, Opaque):
        prior = prior.inner
    return prior
