"""Where the draws of a study's cell come from: a sampler, the exact posterior, the prior, or a sampler's exact law."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from midguide.domains.ecg.guesses import RepeatedBeats, ZeroFill, ridge
from midguide.domains.ecg.trained import TrainedDiff
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.exact.laws import Law, mgps_law, posterior_law, unconditional_law
from midguide.inference.cost import Cost
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.maths.rng import stream_seed
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import Sampler, check_needs
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional
from midguide.studies.kinds.registry import ProblemKind, exact_prior

LAW = ("law_mean", "law_covariance")
"""Names of the tensors that hold the moments of a known law in `Samples.tensors`."""

STREAM_VALUES = 2**17
"""Values of a state that one random stream serves: half a megabyte in float32."""


class Source(Protocol):
    """Gives draws for a problem; a frozen dataclass, since its fields are part of a unit's address."""

    def check(self, problem: Problem) -> None:
        """Refuse a problem that the source cannot handle, before anything is drawn."""
        ...

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        """`n` draws of each observation of a problem, from random streams of `seeds`, one each, and their cost."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Draws of a sampler.

    With a network each draw has its random stream, and all are drawn at once. With a prior in closed form, where draws
    are tiny and come in thousands, groups of them have one stream each, and as many are drawn at once as a processor's
    cache can hold.
    """

    sampler: Sampler

    def check(self, problem: Problem) -> None:
        check_needs(self.sampler, problem)
        self.sampler.times(problem)  # which refuses more steps than the schedule has levels

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        if not isinstance(problem.denoiser, Gaussian | GaussianMixture):
            return sample(self.sampler, problem, n, seed=seeds)
        rows = self.stream(problem, n)
        return sample(self.sampler, problem, n, seed=seeds, stream_size=rows, chunk=2 * rows)

    def stream(self, problem: Problem, n: int) -> int:
        """How many of `n` samples share a stream: the greatest divisor of n with at most `STREAM_VALUES` values.

        Two such groups are drawn together: fewer make too many calls, more leave the cache.
        """
        most = max(STREAM_VALUES // math.prod(problem.event_shape), 1)
        return max(divisor for divisor in range(1, min(n, most) + 1) if n % divisor == 0)


@dataclass(frozen=True)
class ExactPosterior:
    """Draws of the posterior itself: the floor of every metric."""

    def check(self, problem: Problem) -> None:
        exact_prior(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        posterior = exact_prior(problem).posterior(problem.likelihood)
        return _without_network(lambda: posterior.sample(n, seed=stream_seed(seed, "exact")))


@dataclass(frozen=True)
class PriorDraws:
    """Draws of the prior, which ignore the observation."""

    def check(self, problem: Problem) -> None:
        exact_prior(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        prior = exact_prior(problem)
        return _without_network(lambda: prior.sample(n, seed=stream_seed(seed, "from the prior")))


LAWS: dict[tuple[type, bool], Callable[..., Law]] = {
    (MGPS, False): partial(mgps_law, mean_field=False),
    (MGPS, True): partial(mgps_law, mean_field=True),
    (Unconditional, False): unconditional_law,
}


@dataclass(frozen=True)
class ClosedForm:
    """The law that a sampler's draws have on a Gaussian problem, in closed form, and draws of it.

    Args:
        sampler: MGPS or the unconditional sampler.
        mean_field: for MGPS: the fits have independent coordinates, as in the sampler, or are exact.
    """

    sampler: Sampler
    mean_field: bool

    def check(self, problem: Problem) -> None:
        if (type(self.sampler), self.mean_field) not in LAWS:
            raise UnsupportedProblem(f"no such law is known for {type(self.sampler).__name__}")
        if not isinstance(problem.denoiser, Gaussian):
            raise UnsupportedProblem("laws in closed form are those of Gaussian problems")
        self.sampler.times(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        return _of_law(lambda: LAWS[type(self.sampler), self.mean_field](self.sampler, problem), problem, n, seed)


@dataclass(frozen=True)
class PosteriorLaw:
    """The law of the posterior of a Gaussian problem, and draws of it: the floor of laws in closed form."""

    def check(self, problem: Problem) -> None:
        posterior_law(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        return _of_law(lambda: posterior_law(problem), problem, n, seed)


FIXED: dict[str, Callable[[ProblemKind], Source]] = {
    "exact": lambda kind: ExactPosterior(),
    "exact-law": lambda kind: PosteriorLaw(),
    "prior": lambda kind: PriorDraws(),
    "repeated-beats": lambda kind: RepeatedBeats(),
    "ridge": ridge,
    "zero": lambda kind: ZeroFill(),
}
"""Specs that name no sampler and have no settings, and their sources for the problems of a kind."""

OWN: dict[str, type[Source]] = {"trained-diff": TrainedDiff}
"""Specs of sources that are no samplers and have settings, those of the dataclass."""

OF_A_SAMPLER: dict[str, Callable[[Sampler], Source]] = {
    "samples": Sampled,
    "law": partial(ClosedForm, mean_field=False),
    "law-mean-field": partial(ClosedForm, mean_field=True),
}
"""What to take of a sampler: its samples, or its law with exact or with independent fits."""


def law_of(samples: Samples) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance that draws are known to have, if they are."""
    if not set(LAW) <= set(samples.tensors):
        return None
    return samples.tensors[LAW[0]], samples.tensors[LAW[1]]


def fixed(spec: str, settings: dict[str, object], kind: ProblemKind) -> Source:
    """The source of a spec in `FIXED`, which has no settings, for the problems of a kind."""
    if settings:
        raise ConfigError(f"{spec!r} has no settings, got {', '.join(settings)}", hint="remove them")
    return FIXED[spec](kind)


def _of_law(find: Callable[[], Law], problem: Problem, n: int, seed: int) -> Samples:
    """`n` draws of a Gaussian law, with its moments."""
    started = time.monotonic()
    law = find()
    cost = Cost(0.0, 0.0, time.monotonic() - started, 0.0)
    draws = Gaussian(law.mean.reshape(problem.event_shape), law.covariance).sample(n, seed=stream_seed(seed, "law"))
    return Samples(draws[None], cost, {}, dict(zip(LAW, (law.mean, law.covariance), strict=True)))


def _without_network(draw: Callable[[], Tensor]) -> Samples:
    started = time.monotonic()
    with torch.no_grad():
        draws = draw()
    return Samples(draws[None], Cost(0.0, 0.0, time.monotonic() - started, 0.0), {})
