"""Ranks of the truth among draws, by test quantities: uniform where the draws are those of the posterior.

Truth and draws of the exact posterior are exchangeable given y, so that the rank of the truth by any quantity f(x, y)
is uniform. Quantities differ in what they see: values of single coordinates hardly notice a wrong spread that the
log-likelihood sees at once. Ranks here are in [0, 1]: see `uniform_rank`.

References: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration"; Modrák et
al. 2023, "Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
sensitivity"; Lemos et al. 2023, "Sampling-based accuracy testing of posterior estimators" (the quantity `distance`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.exact.posteriors import KnowsPosterior, unwrapped
from midguide.exact.quadrature import WithDensity
from midguide.inference.loop import sample
from midguide.maths.rng import Rng, stream_seed
from midguide.maths.weights import effective_size
from midguide.metrics.base import METRICS, Answer, Metric, Target, known
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.record import digest

Function = Callable[[Problem, Tensor], Tensor]
"""A test quantity: a problem of as many rows, and signals, shape (B, *signal), to one number for each, shape (B,)."""

REFERENCE_STEPS = 25
"""Steps of a draw of the prior that serves as a reference: any law of references is valid, and this one is cheap."""

SINGLES = 4
"""How many projections and how many single values have a quantity of their own."""

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, without their integer part, are spread evenly in [0, 1)."""


def uniform_rank(truth: Tensor, draws: Tensor, jitter: Tensor | float, weights: Tensor | None = None) -> Tensor:
    """The rank of a truth among draws, in [0, 1], uniform where all of them are exchangeable.

    It is `(b + u (e + 1)) / (L + 1)` with b of L draws below the truth, e equal to it, and u the jitter. So the truth
    has the place of one more draw, anywhere in it. With weights, L is their effective size m, and b and e are m times
    the weight below and equal. For equal weights this is the same; for right weights it is nearly uniform.

    Args:
        truth: values of the quantity, shape (...).
        draws: of each, shape (..., L).
        jitter: uniform in [0, 1), shape (...).
        weights: of the draws, shape (..., L), sums of one; None for equal ones.

    Returns:
        Float64, shape (...).

    Example:
        >>> uniform_rank(torch.tensor(0.5), torch.tensor([0.0, 1.0, 2.0]), 0.5)
        tensor(0.3750, dtype=torch.float64)
    """
    if truth.shape != draws.shape[:-1] or draws.shape[-1] < 1:
        raise ShapeError(
            f"truths of shape {tuple(truth.shape)} have no rank among draws of shape {tuple(draws.shape)}",
            hint="draws have one axis more, the last",
        )
    w = torch.full(draws.shape, 1 / draws.shape[-1], dtype=torch.float64) if weights is None else weights.double()
    size = float(draws.shape[-1]) if weights is None else effective_size(w)
    below = size * (w * (draws < truth[..., None])).sum(-1)
    equal = size * (w * (draws == truth[..., None])).sum(-1)
    return (below + jitter * (equal + 1)) / (size + 1)


def quantity(function: Function, *, pooled: bool = False) -> Metric:
    """Decorator: the metric that is the rank of the truth by a test quantity; `FILE.py:NAME` where studies name it.

    Args:
        function: `(problem, x)` to one number for each row: x has shape (B, *signal), the problem as many rows.
        pooled: it compares all rows with each other, so that draws must count alike.

    Example:
        >>> @quantity
        ... def brightness(problem, x):
        ...     return x.flatten(1).mean(1)
        >>> brightness.truth
        True
    """

    @wraps(function)
    def rank(answer: Answer, target: Target) -> float:
        if pooled and answer.weights is not None:
            raise UnsupportedProblem("the test quantity takes draws that count alike, these have weights")
        return _rank(function, answer, target)

    return Metric(compute=rank, exact=False, truth=True)


def _rank(function: Function, answer: Answer, target: Target) -> float:
    truth = known(target.problem.truth, "the truth")
    values = _values(function, target.problem, torch.cat([truth.to(answer.draws), answer.draws]))
    jitter = stream_seed("rank", digest(target.problem.likelihood.y)) / 2**63
    return float(uniform_rank(values[0], values[1:], jitter, answer.weights))


def _values(function: Function, problem: Problem, x: Tensor) -> Tensor:
    """The quantity of each row, float64, shape (B,); neither NaN nor the same for all."""
    values = _one_each(function(problem.expand(len(x)), x), x)
    if bool(values.isnan().any()):
        raise NumericalError("the test quantity is NaN, which has no rank")
    if bool((values == values[0]).all()):
        raise UnsupportedProblem("the test quantity is constant: all ranks are equal")
    return values.double().cpu()


def _one_each(values: object, x: Tensor) -> Tensor:
    """The values of a test quantity, which must be one for each row of x."""
    if isinstance(values, Tensor) and values.shape == x.shape[:1]:
        return values
    got = tuple(values.shape) if isinstance(values, Tensor) else values
    raise ShapeError(
        f"a test quantity is one number for each of {len(x)} rows, got {got}",
        hint="reduce with .flatten(1).mean(1), say",
    )


def _check_quantity(thing: object) -> None:
    """Refuse what is not a test quantity."""
    if not (isinstance(thing, Metric) and thing.truth and hasattr(thing.compute, "__wrapped__")):
        hint = "@quantity above a function (problem, x) that returns one number for each row"
        raise ConfigError("it is not a test quantity", hint=hint)


QUANTITIES: Catalogue[Metric] = Catalogue(
    "test quantity", "midguide.metrics", group="midguide.quantities", check=_check_quantity
)
"""Test quantities by name, as the metrics that are the ranks of the truth by them.

Facts: what a truth that is too often `low` or `high` among the draws says of these.
"""


def metric_name(spec: str) -> str:
    """The name of the metric that is the rank by a test quantity: that of a file is its own.

    Raises:
        ConfigError: If there is no such quantity.
    """
    QUANTITIES.find(spec)
    return f"rank[of={spec}]" if spec in QUANTITIES else spec


def _enter(name: str, summary: str, low: str, high: str, *, pooled: bool = False) -> Callable[[Function], Function]:
    """Decorator: register a test quantity, and its rank as a metric."""

    def enter(function: Function) -> Function:
        made = quantity(function, pooled=pooled)
        QUANTITIES.register(name, summary=summary, low=low, high=high)(made)
        METRICS.register(f"rank[of={name}]", summary=f"rank of the truth among draws by {summary}")(made)
        return function

    return enter


def inapplicable(spec: str, problem: Problem) -> str:
    """What keeps a problem from having a test quantity, in words; empty if nothing does.

    Raises:
        ConfigError: If there is no such quantity.
        ShapeError: If it does not give one number for each row.
    """
    function = vars(QUANTITIES.make(spec).compute)["__wrapped__"]
    x = Rng([("probe",)], size=3).normal(torch.zeros(3, *problem.signal_shape))
    try:
        _one_each(function(problem.select(torch.zeros(3, dtype=torch.long)), x), x)
    except (UnsupportedProblem, NumericalError) as error:
        return error.message
    return ""


@_enter("log-likelihood", "log p(y | x)", "draws fit y better than the truth does", "draws fit y worse than the truth")
def log_likelihood(problem: Problem, x: Tensor) -> Tensor:
    return problem.signal_likelihood.log_prob(x)


@_enter(
    "misfit", "distance between y and A(x)", "draws fit y worse than the truth", "draws fit y better than the truth"
)
def misfit(problem: Problem, x: Tensor) -> Tensor:
    return problem.signal_likelihood.difference(x).double().flatten(1).norm(dim=1)


def _density(problem: Problem, x: Tensor) -> Tensor:
    prior = unwrapped(problem.denoiser)
    if not isinstance(prior, WithDensity):
        raise UnsupportedProblem("the density of the prior is not known")
    return prior.log_prob(x.double())


@_enter("log-prior", "log p(x)", "draws are too near the modes of the prior", "draws are too far from them")
def log_prior(problem: Problem, x: Tensor) -> Tensor:
    return _density(problem, x)


@_enter("log-posterior", "log p(x | y), by which regions of highest density are told", "too narrow", "too wide")
def log_posterior(problem: Problem, x: Tensor) -> Tensor:
    return _density(problem, x) + problem.signal_likelihood.log_prob(x)


@_enter("distance", "distance to a draw of the prior (TARP)", "draws are too far from it", "draws are too near it")
def distance(problem: Problem, x: Tensor) -> Tensor:
    seed = stream_seed("reference", digest(problem.likelihood.y[:1]))
    return (x.double() - _reference(problem, seed).to(x.device).double()).flatten(1).norm(dim=1)


def _reference(problem: Problem, seed: int) -> Tensor:
    """A draw of the prior that knows nothing of truth and draws, shape (1, *signal)."""
    prior = unwrapped(problem.denoiser)
    if isinstance(prior, KnowsPosterior):
        return prior.sample(1, seed=seed)
    return sample(
        Unconditional(steps=REFERENCE_STEPS), Problem.unobserved(problem.denoiser), seed=seed, progress=False
    ).draws[0]


@_enter("depth", "how central values are, averaged over all of them", "too narrow", "too wide", pooled=True)
def depth(problem: Problem, x: Tensor) -> Tensor:
    """Minus the mean distance of ranks from the middle: a function of all rows, symmetric in them."""
    flat = x.flatten(1).mT.contiguous()
    ordered = flat.sort(1).values
    places = torch.searchsorted(ordered, flat) + torch.searchsorted(ordered, flat, right=True)
    return -(places - len(x)).abs().double().mean(0)


@_enter("norm", "root mean square of all values", "draws have too much energy", "draws have too little energy")
def norm(problem: Problem, x: Tensor) -> Tensor:
    return x.double().flatten(1).square().mean(1).sqrt()


@_enter("roughness", "root mean square of differences along the last axis", "draws too rough", "draws too smooth")
def roughness(problem: Problem, x: Tensor) -> Tensor:
    return (x.double().diff(dim=-1) if x.shape[-1] > 1 else x.double()).flatten(1).square().mean(1).sqrt()


def projection(which: int, problem: Problem, x: Tensor) -> Tensor:
    """The product with a fixed direction, normal in all its values."""
    direction = Rng([("projection", which)]).normal(torch.empty(1, *x.shape[1:], dtype=torch.float64))
    return x.double().flatten(1) @ direction.flatten().to(x.device)


def value(which: int, problem: Problem, x: Tensor) -> Tensor:
    """One value of the signal, at a place that depends on its size only; other places for other numbers."""
    flat = x.flatten(1)
    if which > flat.shape[1]:
        raise UnsupportedProblem(f"signals have {flat.shape[1]} values only")
    return flat[:, int(flat.shape[1] * (which * GOLDEN % 1))]


def _bound(function: Callable[..., Tensor], which: int) -> Any:
    bound = wraps(function)(partial(function, which))
    return bound


for _which in range(1, SINGLES + 1):
    _enter(f"projection-{_which}", f"projection on the fixed direction {_which}", "draws too high", "draws too low")(
        _bound(projection, _which)
    )
    _enter(f"value-{_which}", f"one value of the signal, place {_which}", "draws too high", "draws too low")(
        _bound(value, _which)
    )
