"""Kinds of problems that a study can name. A new kind is a frozen dataclass of its settings and one line in `KINDS`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from midguide.diffusion.schedules import make_schedule
from midguide.domains.ecg import problems as ecg
from midguide.domains.ecg.problems import EcgProblem
from midguide.errors import UnsupportedProblem
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.studies.kinds import images
from midguide.studies.kinds.images import ImageProblem


class ProblemKind(Protocol):
    """The settings of a family of problems of one observation each, addressed by a seed."""

    stacks: ClassVar[bool]
    """Whether the problems of all seeds share prior, operator and noise model, and can be sampled as one."""

    @property
    def prior(self) -> str:
        """The prior as tables name it."""
        ...

    def prior_digest(self) -> str:
        """What identifies the prior besides settings, seed and package version: the SHA-256 of a network's file."""
        ...

    def data_digest(self, seed: int) -> str:
        """What identifies the data of this seed likewise; empty where they follow from the rest."""
        ...

    def build(self, seed: int) -> Problem:
        """The problem of this seed, with one observation."""
        ...

    def probe(self, seed: int) -> Problem:
        """A problem with the prior, operator and noise model of `build`, whose values do not matter: for checks."""
        ...


@dataclass(frozen=True, kw_only=True)
class MixtureProblem:
    """`mixture_problem`: one number measured of 25 Gaussians.

    Args:
        dimension: entries of one event.
        sigma_y: standard deviation of the noise.
    """

    stacks: ClassVar[bool] = False

    dimension: int
    sigma_y: float = 0.05

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
        return mixture_problem(self.dimension, seed, self.sigma_y)

    def probe(self, seed: int) -> Problem:
        return self.build(seed)


@dataclass(frozen=True, kw_only=True)
class GaussianProblem:
    """`random_gaussian_problem`, in float64: a matrix of standard normal entries applied to a random Gaussian.

    Args:
        dimension: entries of one event.
        measurements: entries of y, at most `dimension`.
        sigma_y: standard deviation of the noise.
        schedule: the forward process by a name for `make_schedule`; that of priors in closed form by default.
    """

    stacks: ClassVar[bool] = False

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


KINDS: dict[str, type[ProblemKind]] = {
    "ecg": EcgProblem,
    "gaussian": GaussianProblem,
    "images": ImageProblem,
    "mixture": MixtureProblem,
}
BUILT_IN = {*images.BUILT_IN, *ecg.BUILT_IN}
"""Data of images and of electrocardiograms that are no paths."""


def exact_prior(problem: Problem) -> Gaussian | GaussianMixture:
    """The prior of a problem whose posterior is known exactly.

    Raises:
        UnsupportedProblem: it is a network.
    """
    prior = problem.denoiser
    if not isinstance(prior, Gaussian | GaussianMixture):
        raise UnsupportedProblem(f"{type(prior).__name__} has no exact posterior")
    return prior
