"""A kind of problems: a day of levels, read every few hours."""

from dataclasses import dataclass
from typing import ClassVar

from midguide.likelihoods import observe
from midguide.operators.factory import make_operator
from midguide.problem import Problem
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import prior_of
from tides.levels import level


@KINDS.register("tides")
@dataclass(frozen=True, kw_only=True)
class TideProblem:
    """Levels of one day.

    Args:
        every: hours between two readings.
        prior: what `load_prior` takes.
        sigma_m: standard deviation of a reading, in meters.
    """

    stacks: ClassVar[bool] = True
    simulated: ClassVar[bool] = True

    every: int = 3
    prior: str = "tide-24"
    sigma_m: float = 0.05

    def prior_digest(self) -> str:
        """SHA-256 of the prior's file."""
        return prior_of(self.prior).provenance["sha256"]

    def data_digest(self, seed: int) -> str:
        """Empty: the data follow from the seed."""
        return ""

    def build(self, seed: int) -> Problem:
        """The problem of one day."""
        prior = prior_of(self.prior)
        truth = level(seed, prior.event_shape[-1])
        gauge = make_operator("tide-gauge", prior.event_shape, every=self.every)
        return Problem(prior, observe(gauge, truth, self.sigma_m / prior.signal.unit_size, seed=seed), truth)

    def probe(self, seed: int) -> Problem:
        """The same."""
        return self.build(seed)
