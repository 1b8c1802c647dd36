"""What a metric is given, an answer and what it is compared with, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from midguide.errors import UnsupportedProblem
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem

T = TypeVar("T")

Moments = tuple[Tensor, Tensor]
"""Mean over the flattened event, shape (d,), and covariance, shape (d, d), in float64."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a sampler gave for one observation.

    Args:
        draws: shape (n, *event).
        law: the exact moments of the draws where they are known; otherwise they are estimated.
    """

    draws: Tensor
    law: Moments | None = None

    @cached_property
    def moments(self) -> Moments:
        """Those of the law where it is known, else of the draws."""
        if self.law is not None:
            return self.law
        x = self.draws.double().flatten(1)
        return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


@dataclass(frozen=True, eq=False)
class Target:
    """What an answer is compared with.

    Args:
        problem: one observation; its truth where known.
        posterior: the exact posterior where known.
        draws: of the exact posterior, shape (n, *event).
    """

    problem: Problem
    posterior: Gaussian | GaussianMixture | None = None
    draws: Tensor | None = None

    @cached_property
    def moments(self) -> Moments:
        """Of the exact posterior."""
        if isinstance(self.posterior, GaussianMixture):
            mean, covariance = self.posterior.mean_and_covariance()
            return mean.flatten(), covariance
        posterior = known(self.posterior, "an exact posterior")
        return posterior.mean.double().flatten(), posterior.covariance_matrix().double()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about an answer.

    Args:
        compute: the number.
        exact: whether it needs the exact posterior.
        truth: whether it needs the true signal.
        prior: the class of prior that it is made for.
        image: the least height and width of the images that it needs; 0 where events may be anything.
        channels: of these images, None for any.
        draws: the least number of draws; two where it needs the exact posterior.
        files: reads the weights that it needs and gives the SHA-256 of each file; None where it needs none.
    """

    compute: Callable[[Answer, Target], float]
    exact: bool = True
    truth: bool = False
    prior: type[Denoiser] = Denoiser
    image: int = 0
    channels: int | None = None
    draws: int = 1
    files: Callable[[], dict[str, str]] | None = None

    def check(self, problem: Problem, n: int | None = None) -> None:
        """Refuse a problem that lacks what the metric needs.

        Args:
            problem: what is to be answered.
            n: draws of an answer, None where that is not known yet.

        Raises:
            UnsupportedProblem: says what is missing.
        """
        least = max(self.draws, 2 if self.exact else 1)
        if n is not None and n < least:
            raise UnsupportedProblem(f"it needs at least {least} draws, there are {n}", hint="raise samples")
        if self.image:
            self._check_image(problem)
        if self.truth and problem.truth is None:
            raise UnsupportedProblem("it needs the truth, which is unknown here")
        if self.exact and not isinstance(problem.denoiser, Gaussian | GaussianMixture):
            raise UnsupportedProblem(f"it needs an exact posterior, {type(problem.denoiser).__name__} has none")
        if not isinstance(problem.denoiser, self.prior):
            raise UnsupportedProblem(f"it needs a {self.prior.__name__}, this is a {type(problem.denoiser).__name__}")

    def ready(self) -> None:
        """Refuse to start without the files that the metric needs.

        Raises:
            CheckpointError: one is missing, damaged or another than its name says.
        """
        self.record()

    def record(self) -> dict[str, Any]:
        """What the number depends on besides the name and the draws, as JSON: the SHA-256 of each file of weights."""
        return {"weights": self.files()} if self.files else {}

    def _check_image(self, problem: Problem) -> None:
        shape, denoiser = problem.signal_shape, problem.denoiser
        if len(shape) != 3 or min(shape[1:]) < self.image or self.channels not in (None, shape[0]):
            channels = "" if self.channels is None else f" with {self.channels} channels"
            raise UnsupportedProblem(
                f"it needs images of at least {self.image}x{self.image}{channels}, events are {tuple(shape)}"
            )
        if denoiser.signal_range is None:
            raise UnsupportedProblem(f"it needs the value range of the images, {type(denoiser).__name__} has none")


def known(value: T | None, what: str) -> T:
    """`value`, which must not be None."""
    if value is None:
        raise UnsupportedProblem(f"the metric needs {what}")
    return value
