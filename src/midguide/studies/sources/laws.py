"""Laws in closed form, of a sampler's draws and of the posterior, and draws of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from midguide.errors import UnsupportedProblem
from midguide.exact.laws import LAWS, Law, posterior_law
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.maths.rng import stream_seed
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Sampler
from midguide.studies.sources.base import LAW, SOURCES, Source


@dataclass(frozen=True)
class ClosedForm:
    """The law that a sampler's draws have on a Gaussian problem, in closed form, and draws of it.

    Args:
        sampler: one whose law is known.
        mean_field: its fits have independent coordinates, as in the sampler, or are exact.
    """

    sampler: Sampler
    mean_field: bool

    def check(self, problem: Problem) -> None:
        name = SAMPLERS.name_of(self.sampler)
        if name not in LAWS or (self.mean_field and not self._settings()):
            raise UnsupportedProblem(f"no such law is known for `{name}`")
        if not isinstance(problem.denoiser, Gaussian):
            raise UnsupportedProblem("laws in closed form are those of Gaussian problems")
        self.sampler.times(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        law = LAWS[SAMPLERS.name_of(self.sampler)]
        return _of_law(lambda: law.make(self._settings(), self.sampler, problem), problem, n, seed)

    def _settings(self) -> dict[str, object]:
        """The settings of the law, which is that of fits where it has the setting `mean_field`."""
        fits = "mean_field" in LAWS[SAMPLERS.name_of(self.sampler)].defaults()
        return {"mean_field": self.mean_field} if fits else {}


@SOURCES.register("exact-law", reference=True)
@dataclass(frozen=True)
class PosteriorLaw:
    """The law of the posterior of a Gaussian problem, and draws of it: the floor of laws in closed form."""

    def check(self, problem: Problem) -> None:
        posterior_law(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        (seed,) = seeds  # problems with an exact posterior come alone
        return _of_law(lambda: posterior_law(problem), problem, n, seed)


@SOURCES.register("law", of_sampler=True)
def law(sampler: Sampler) -> Source:
    """The exact law of a sampler's draws on a Gaussian problem; fits are exact, too."""
    return ClosedForm(sampler, mean_field=False)


@SOURCES.register("law-mean-field", of_sampler=True)
def law_mean_field(sampler: Sampler) -> Source:
    """The same with fits whose coordinates are independent, as those of the sampler."""
    return ClosedForm(sampler, mean_field=True)


def _of_law(find: Callable[[], Law], problem: Problem, n: int, seed: int) -> Samples:
    """`n` draws of a Gaussian law, with its moments."""
    started = time.monotonic()
    law = find()
    cost = Cost(0.0, 0.0, time.monotonic() - started, 0.0)
    draws = Gaussian(law.mean.reshape(problem.event_shape), law.covariance).sample(n, seed=stream_seed(seed, "law"))
    return Samples(draws[None], cost, {}, dict(zip(LAW, (law.mean, law.covariance), strict=True)))
