"""Problems whose posterior is known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from midguide.diffusion.schedules import make_schedule
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.problem import Problem
from midguide.storage.record import describe_fields
from midguide.studies.kinds.base import KINDS


@KINDS.register("mixture")
@dataclass(frozen=True, kw_only=True)
class MixtureProblem:
    """One number, or several, are measured of a mixture of 25 Gaussians; see `mixture_problem`.

    Args:
        dimension: entries of one event.
        sigma_y: standard deviation of the noise.
        measurements: entries of y, at most `dimension`.
    """

    stacks: ClassVar[bool] = False
    simulated: ClassVar[bool] = False

    dimension: int
    sigma_y: float = 0.05
    measurements: int = 1

    def record(self) -> dict[str, Any]:
        """Type and fields; a single measured value is not mentioned, so that addresses of earlier results hold."""
        fields = describe_fields(self)
        return {key: value for key, value in fields.items() if (key, value) != ("measurements", 1)}

    @property
    def prior(self) -> str:
        return "mixture25"

    def prior_digest(self) -> str:
        """Empty: the prior follows from the settings and the seed."""
        return ""

    def data_digest(self, seed: int) -> str:
        """Empty: so do the data."""
        return ""

    def build(self, seed: int) -> Problem:
        return mixture_problem(self.dimension, seed, self.sigma_y, measurements=self.measurements)

    def probe(self, seed: int) -> Problem:
        return self.build(seed)


@KINDS.register("gaussian")
@dataclass(frozen=True, kw_only=True)
class GaussianProblem:
    """A random Gaussian seen through a random matrix, in float64; see `random_gaussian_problem`.

    Args:
        dimension: entries of one event.
        measurements: entries of y, at most `dimension`.
        sigma_y: standard deviation of the noise.
        schedule: the forward process by a name for `make_schedule`; that of priors in closed form by default.
    """

    stacks: ClassVar[bool] = False
    simulated: ClassVar[bool] = False

    dimension: int
    measurements: int
    sigma_y: float
    schedule: str = ""

    @property
    def prior(self) -> str:
        return "gaussian"

    def prior_digest(self) -> str:
        """Empty: the prior follows from the settings and the seed."""
        return ""

    def data_digest(self, seed: int) -> str:
        """Empty: so do the data."""
        return ""

    def build(self, seed: int) -> Problem:
        schedule = make_schedule(self.schedule) if self.schedule else None
        return random_gaussian_problem(
            self.dimension, self.measurements, seed, self.sigma_y, dtype=torch.float64, schedule=schedule
        )

    def probe(self, seed: int) -> Problem:
        return self.build(seed)
