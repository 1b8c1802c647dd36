"""What a metric is given, an answer and what it is compared with, and what it says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.exact.posteriors import Posterior, posterior_of
from midguide.maths.rng import Rng
from midguide.maths.weights import equal_picks, normalized, pairs_share, weighted_mean
from midguide.priors.base import Denoiser
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
        log_weight: log of the weight of each draw, shape (n,), up to a constant; None where all count alike.
    """

    draws: Tensor
    law: Moments | None = None
    log_weight: Tensor | None = None

    @cached_property
    def weights(self) -> Tensor | None:
        """Weights that sum to one, float64, shape (n,); None where all draws count alike."""
        return None if self.log_weight is None else normalized(self.log_weight)

    @cached_property
    def moments(self) -> Moments:
        """Those of the law where it is known, else of the draws; the covariance is unbiased (`weighted_variance`)."""
        if self.law is not None:
            return self.law
        x = self.draws.double().flatten(1)
        if self.weights is not None and pairs_share(self.weights) == 0.0:  # of one draw
            return self.average(x), x.new_zeros(x.shape[1], x.shape[1])
        covariance = torch.cov(x.T, aweights=self.weights).reshape(x.shape[1], x.shape[1])
        return self.average(x), covariance

    def average(self, values: Tensor) -> Tensor:
        """The mean over draws, under their weights, of values of each, shape (n, ...)."""
        return values.mean(0) if self.weights is None else weighted_mean(values, self.weights)

    @cached_property
    def equal(self) -> Answer:
        """An answer of as many draws that count alike, for metrics that know no weights; resampled with seed 0."""
        if self.log_weight is None:
            return self
        picks = equal_picks(self.log_weight[None], Rng([(0, "equal draws")]))[0]
        return Answer(self.draws[picks], self.law)


@dataclass(frozen=True, eq=False)
class Target:
    """What to compare an answer with.

    Args:
        problem: one observation; its truth where known.
        posterior: the exact posterior where known.
        draws: of the exact posterior, shape (n, *event).
    """

    problem: Problem
    posterior: Posterior | None = None
    draws: Tensor | None = None

    @cached_property
    def moments(self) -> Moments:
        """Of the exact posterior."""
        mean, covariance = known(self.posterior, "an exact posterior").mean_and_covariance()
        return mean.double().flatten(), covariance.double()


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
            UnsupportedProblem: If something is missing; says what.
        """
        least = max(self.draws, 2 if self.exact else 1)
        if n is not None and n < least:
            raise UnsupportedProblem(f"it needs at least {least} draws, there are {n}", hint="raise samples")
        if self.image:
            self._check_image(problem)
        if self.truth and problem.truth is None:
            raise UnsupportedProblem("it needs the truth, which is unknown here")
        if self.exact:
            _check_posterior(problem)
        if not isinstance(problem.denoiser, self.prior):
            raise UnsupportedProblem(f"it needs a {self.prior.__name__}, this is a {type(problem.denoiser).__name__}")

    def ready(self) -> None:
        """Refuse to start without the files that the metric needs.

        Raises:
            CheckpointError: If one is missing, damaged or another than its name says.
        """
        self.record()

    def record(self) -> dict[str, Any]:
        """What the number depends on besides the name and the draws, as JSON.

        Returns:
            The SHA-256 of each file of weights, and of the source where it comes from outside the package.
        """
        weights = {"weights": self.files()} if self.files else {}
        return {**weights, **({"metric_source": self.source} if self.source else {})}

    @property
    def source(self) -> str:
        """SHA-256 of the source, where it comes from outside the package; else empty."""
        return plugins.source_digest(self.function)

    @property
    def function(self) -> Callable[..., float]:
        """The function that computes the number, without the arguments that are bound to it."""
        function = self.compute
        while isinstance(function, partial):
            function = function.func
        return function

    def _check_image(self, problem: Problem) -> None:
        shape, denoiser = problem.signal_shape, problem.denoiser
        if len(shape) != 3 or min(shape[1:]) < self.image or self.channels not in (None, shape[0]):
            channels = "" if self.channels is None else f" with {self.channels} channels"
            raise UnsupportedProblem(
                f"it needs images of at least {self.image}x{self.image}{channels}, events are {tuple(shape)}"
            )
        if denoiser.signal_range is None:
            raise UnsupportedProblem(f"it needs the value range of the images, {type(denoiser).__name__} has none")


def _check_posterior(problem: Problem) -> None:
    """Refuse a problem without a known posterior."""
    try:
        posterior_of(problem)
    except UnsupportedProblem as error:
        raise UnsupportedProblem(f"it needs an exact posterior: {error.message}", hint=error.hint) from error


class SetMetric(Protocol):
    """One number about many draws together."""

    def __call__(self, draws: Tensor, truths: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> float:
        """The number, of draws, shape (n, *event), and true signals, shape (m, *event)."""
        ...

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Refuse signals of another shape, and to start without the files that the metric needs.

        Raises:
            ShapeError: If the signals do not fit.
            CheckpointError: If a file is missing, damaged or another than its name says.
        """
        ...

    def record(self) -> dict[str, Any]:
        """What the number depends on besides the name and the signals, as JSON."""
        ...


def _check_metric(thing: object) -> None:
    """Refuse what is not a metric."""
    if not isinstance(thing, Metric):
        raise ConfigError("it is not a Metric", hint="NAME = Metric(compute=FUNCTION of an Answer and a Target, ...)")


def _check_set_metric(thing: object) -> None:
    """Refuse what lacks a part of a metric of sets."""
    lacking = [part for part in ("__call__", "check", "record") if not hasattr(thing, part)]
    if lacking or isinstance(thing, type):
        raise ConfigError(
            f"it lacks {', '.join(lacking)}" if lacking else "it is a class, not a metric",
            hint="an object that is called with draws and truths, and has check and record",
        )


METRICS: Catalogue[Metric] = Catalogue("metric", "midguide.metrics", check=_check_metric)
"""Metrics of one observation by name, which holds the protocol in brackets: equal names are comparable numbers."""

SET_METRICS: Catalogue[SetMetric] = Catalogue(
    "metric of sets", "midguide.metrics", group="midguide.set_metrics", check=_check_set_metric
)
"""Metrics of all draws of a cell together by name, with its protocol in brackets; the number of draws goes with it."""

Compute = TypeVar("Compute", bound=Callable[[Answer, Target], float])


def metric(name: str, **needs: Any) -> Callable[[Compute], Compute]:
    """Decorator: register the metric that a function `(answer, target) -> number` computes.

    Args:
        name: with the protocol in brackets.
        needs: the fields of `Metric`.

    Example:
        >>> metric("first_draw", exact=False)(lambda answer, target: float(answer.draws[0].mean()))  # doctest: +SKIP
    """

    def enter(compute: Compute) -> Compute:
        enter_metric(name, Metric(compute=compute, **needs))
        return compute

    return enter


def enter_metric(name: str, made: Metric, summary: str = "") -> None:
    """Register a metric, described by the first line of its function's docstring where there is no `summary`."""
    first = (inspect.getdoc(made.function) or "").partition("\n")[0].removesuffix(".")
    METRICS.register(name, summary=summary or first)(made)


def known(value: T | None, what: str) -> T:
    """`value`, which must not be None."""
    if value is None:
        raise UnsupportedProblem(f"the metric needs {what}")
    return value
