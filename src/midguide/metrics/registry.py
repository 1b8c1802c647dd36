"""Metrics by name. A name holds the protocol, so that equal names are comparable numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from midguide.denoisers.base import Denoiser
from midguide.denoisers.gaussian import Gaussian
from midguide.denoisers.gmm import GaussianMixture
from midguide.errors import UnsupportedProblem
from midguide.linalg import gaussian_w2
from midguide.metrics import distribution
from midguide.metrics.c2st import c2st
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
    """

    compute: Callable[[Answer, Target], float]
    exact: bool = True
    truth: bool = False
    prior: type[Denoiser] = Denoiser

    def check(self, problem: Problem) -> None:
        """Refuse a problem that lacks what the metric needs.

        Raises:
            UnsupportedProblem: says what is missing.
        """
        if self.truth and problem.truth is None:
            raise UnsupportedProblem("it needs the truth, which is unknown here")
        if self.exact and not isinstance(problem.denoiser, Gaussian | GaussianMixture):
            raise UnsupportedProblem(f"it needs an exact posterior, {type(problem.denoiser).__name__} has none")
        if not isinstance(problem.denoiser, self.prior):
            raise UnsupportedProblem(f"it needs a {self.prior.__name__}, this is a {type(problem.denoiser).__name__}")


def known(value: T | None, what: str) -> T:
    """`value`, which must not be None."""
    if value is None:
        raise UnsupportedProblem(f"the metric needs {what}")
    return value


def _sliced(order: int, answer: Answer, target: Target) -> float:
    exact = known(target.draws, "exact draws").to(answer.draws.device)
    return distribution.sliced_wasserstein(answer.draws, exact, order=order, slices=100)


def _gaussian_w2(answer: Answer, target: Target) -> float:
    return gaussian_w2(*answer.moments, *target.moments)


def _mean_error(answer: Answer, target: Target) -> float:
    return distribution.mean_error(answer.moments[0], *target.moments)


def _covariance_error(answer: Answer, target: Target) -> float:
    return distribution.covariance_error(answer.moments[1], target.moments[1])


def _variance_ratio(answer: Answer, target: Target) -> float:
    return float(answer.moments[1].trace() / target.moments[1].trace())


def _coverage(level: float, answer: Answer, target: Target) -> float:
    return distribution.coverage(answer.draws, known(target.draws, "exact draws"), level)


def _mode_weight_tv(answer: Answer, target: Target) -> float:
    if not isinstance(target.posterior, GaussianMixture):
        raise UnsupportedProblem("mode weights are those of a mixture")
    return distribution.mode_weight_tv(answer.draws, target.posterior)


def _c2st(answer: Answer, target: Target) -> float:
    return c2st(answer.draws, known(target.draws, "exact draws"))


def _chi_square(answer: Answer, target: Target) -> float:
    return float(target.problem.expand(len(answer.draws)).likelihood.chi_square(answer.draws).mean())


def _truth_rmse(answer: Answer, target: Target) -> float:
    truth = known(target.problem.truth, "the truth")
    return float((answer.moments[0] - truth.double().flatten()).square().mean().sqrt())


METRICS: dict[str, Metric] = {
    "c2st[mlp=64,folds=4]": Metric(compute=_c2st),
    "chi_square": Metric(compute=_chi_square, exact=False),
    "covariance_error": Metric(compute=_covariance_error),
    "coverage[level=0.5]": Metric(compute=partial(_coverage, 0.5)),
    "coverage[level=0.9]": Metric(compute=partial(_coverage, 0.9)),
    "gaussian_w2": Metric(compute=_gaussian_w2),
    "mean_error": Metric(compute=_mean_error),
    "mode_weight_tv": Metric(compute=_mode_weight_tv, prior=GaussianMixture),
    "sliced_wasserstein_1[slices=100]": Metric(compute=partial(_sliced, 1)),
    "sliced_wasserstein_2[slices=100]": Metric(compute=partial(_sliced, 2)),
    "truth_rmse": Metric(compute=_truth_rmse, exact=False, truth=True),
    "variance_ratio": Metric(compute=_variance_ratio),
}
"""`name` or `name[protocol]` -> metric. All need one observation."""

SET_METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {}
"""`name[protocol]` -> a number about many draws together, of (draws, truths), shapes (n, *event) and (m, *event)."""
