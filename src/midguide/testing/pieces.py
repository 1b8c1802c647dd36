"""The contracts of a piece by its name, also of one in a stranger's file: what it is, what holds, what it lacks."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from midguide.catalogue import plugins
from midguide.catalogue.base import NO_CHANGES, Catalogue, Entry
from midguide.catalogue.directory import catalogues
from midguide.errors import ConfigError, MidguideError, UnsupportedProblem, suggestion
from midguide.exact.posteriors import posterior_of
from midguide.exact.problems import random_gaussian
from midguide.metrics.base import Answer, Metric, Target
from midguide.operators.base import KINDS, kind, operator_class
from midguide.operators.mask import random_mask
from midguide.operators.matrix import Matrix
from midguide.operators.super_resolution import BlockMean
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.problem import Problem
from midguide.samplers.base import AUTO, Sampler, check_needs
from midguide.storage.record import describe
from midguide.studies.kinds.base import ProblemKind
from midguide.testing.contract import ContractError, require
from midguide.testing.identity import changed_settings, check_identity
from midguide.testing.operators import check_operator
from midguide.testing.samplers import check_sampler
from midguide.testing.schedules import check_schedule

SHAPES = ((3, 16, 16), (1, 64, 64), (2, 32), (24,))
"""Signals that an operator is tried on: color and gray images, a signal of two channels, a vector."""

DRAWS = 200
"""Draws that a metric is given."""

STEPS = 12
"""Steps of a sampler that has this setting: contracts hold for any number."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the contracts say of a piece.

    Args:
        kind: what it is: `sampler`, `operator`, ...
        name: its name or place.
        summary: the first line of its docstring.
        settings: its settings with their defaults, as plain values; None where there is none.
        held: what was checked and holds, one line each.
        refused: what it cannot be tried on, and why.
        broken: the first fact of each trial that does not hold.
    """

    kind: str
    name: str
    summary: str
    settings: Mapping[str, Any]
    held: tuple[str, ...]
    refused: tuple[str, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One trial of a piece: the problem to try it on, and the contract to run."""

    on: str
    run: Callable[[], str]


def check_piece(place: str, *, kind: str = "", settings: Mapping[str, object] = NO_CHANGES) -> Report:
    """Find out what a piece is, and run the contracts of its kind.

    Args:
        place: a registered name, or `FILE.py:NAME`.
        kind: what it is meant to be; by default the first kind that accepts it.
        settings: plain values in place of its defaults.

    Returns:
        What it is, what holds, and what does not. Contracts of random functions have fixed seeds.

    Raises:
        ConfigError: If it is of no kind; says for each what it lacks.
        CheckpointError: If its file fails.

    Example:
        >>> check_piece("edm", kind="schedule").broken
        ()
    """
    kinds = {entries.kind: entries for entries in catalogues().values()}
    found, entry = _find(place, kind, kinds)
    held, refused, broken = list[str](), list[str](), list[str]()
    trials = TRIALS.get(found, _no_trials)(entry, settings)
    for trial in trials:
        try:
            held.append(f"{trial.on}: {trial.run()}")
        except UnsupportedProblem as error:
            refused.append(f"{trial.on}: {error.message}")
        except (ContractError, MidguideError) as error:
            broken.append(f"{trial.on}: {str(error).splitlines()[0]}")
        except Exception as error:  # whatever a stranger's code raises
            broken.append(f"{trial.on}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    if not held and not broken:
        broken.append("it refuses every problem that it was tried on")
    defaults = dict.fromkeys(entry.required()) | entry.defaults()
    return Report(
        kind=found,
        name=entry.name,
        summary=entry.summary,
        settings=defaults,
        held=tuple(held),
        refused=tuple(refused),
        broken=tuple(broken),
    )


def _find(place: str, kind: str, kinds: Mapping[str, Catalogue[Any]]) -> tuple[str, Entry[Any]]:
    """The kind and the entry of a piece."""
    if kind:
        if kind not in kinds:
            raise ConfigError(f"unknown kind `{kind}`", hint=suggestion(kind, kinds))
        return kind, kinds[kind][place]
    if plugins.PLACE.match(place):
        return _of_a_file(place, kinds)
    found = [name for name, entries in kinds.items() if place in entries]
    if place == AUTO:
        raise ConfigError(
            "`auto` is a rule and no sampler", hint="check one that it chooses: `midguide list auto` has them"
        )
    if not found:
        raise ConfigError(f"nothing is called `{place}`", hint="a name of midguide list, or FILE.py:NAME")
    return found[0], kinds[found[0]][place]


def _of_a_file(place: str, kinds: Mapping[str, Catalogue[Any]]) -> tuple[str, Entry[Any]]:
    """The first kind that accepts the object of a file; those that accept anything are not asked."""
    reasons = {}
    for name, entries in kinds.items():
        if not entries.selective:
            continue
        try:
            return name, entries[place]
        except ConfigError as error:
            reasons[name] = error.message.rpartition(": ")[2]
    said = "; ".join(f"no {name}: {reason}" for name, reason in reasons.items())
    raise ConfigError(
        f"`{place}` is of no kind that midguide knows ({said})", hint="--kind says what it is meant to be"
    )


def _no_trials(entry: Entry[Any], settings: Mapping[str, object]) -> Iterator[Trial]:
    yield Trial("its catalogue", lambda: "has every part that it needs")


def _sampler_trials(entry: Entry[Any], settings: Mapping[str, object]) -> Iterator[Trial]:
    few = {"steps": STEPS} if "steps" in entry.defaults() else {}
    sampler: Sampler = entry.make({**few, **settings})
    changes = changed_settings(entry, entry.make, {**few, **settings})

    def run(problem: Problem) -> str:
        check_needs(sampler, problem)
        check_sampler(sampler, problem)
        check_identity(lambda: entry.make({**few, **settings}), changes)
        return (
            "finite, deterministic, the same for any batch, resumes to the bit, calls as announced, known by its record"
        )

    for on, make in PROBLEMS.items():
        yield Trial(on, lambda make=make: run(make()))


def _operator_trials(entry: Entry[Any], settings: Mapping[str, object]) -> Iterator[Trial]:
    def run(shape: tuple[int, ...]) -> str:
        try:
            operator = entry.make(settings, shape, seed=0)
            operator(torch.zeros(operator.observations or 1, *shape))
        except MidguideError as error:
            raise UnsupportedProblem(error.message) from error
        check_operator(operator, shape)
        check_identity(lambda: entry.make(settings, shape, seed=0))
        return CONTRACT_OF[kind(type(operator))]

    if isinstance(entry.thing, type) and not dataclasses.is_dataclass(operator_class(entry)):
        raise ConfigError(f"`{entry.name}` is not a dataclass", hint="operators are frozen dataclasses, with eq=False")
    for shape in SHAPES:
        yield Trial(f"signals of shape {shape}", lambda shape=shape: run(shape))


def _schedule_trials(entry: Entry[Any], settings: Mapping[str, object]) -> Iterator[Trial]:
    def run() -> str:
        check_schedule(entry.make(settings))
        check_identity(lambda: entry.make(settings), changed_settings(entry, entry.make, settings))
        return "signal-to-noise ratio monotone, times round-trip, the bridge reproduces the marginals"

    yield Trial("its own times", run)


def _metric_trials(entry: Entry[Metric], settings: Mapping[str, object]) -> Iterator[Trial]:
    metric = entry.make(settings)

    def run(problem: Problem) -> str:
        problem = problem.select(torch.tensor([0]))
        posterior = posterior_of(problem)
        metric.check(problem, DRAWS)
        draws = posterior.sample(DRAWS, seed=1)
        kept, target = draws.clone(), Target(problem, posterior, posterior.sample(DRAWS, seed=2))
        value = metric.compute(Answer(draws), target)
        require(math.isfinite(value), metric, f"gives {value} for draws of the posterior")
        require(torch.equal(draws, kept), metric, "changes the draws")
        require(metric.compute(Answer(draws), target) == value, metric, "gives another number for the same draws")
        return f"finite ({value:.4g} for the posterior itself), deterministic, leaves the draws alone"

    for on in ("vectors", "images"):
        yield Trial(on, lambda on=on: run(PROBLEMS[on]()))


def _kind_trials(entry: Entry[ProblemKind], settings: Mapping[str, object]) -> Iterator[Trial]:
    made = entry.make(settings)

    def run() -> str:
        first, again, other = made.build(0), made.build(0), made.build(1)
        y = first.likelihood.y
        require(first.observations == 1, made, f"has {first.observations} observations for one seed, not one")
        require(torch.equal(again.likelihood.y, y), made, "is another problem when it is built again")
        require(not torch.equal(other.likelihood.y, y), made, "is the same problem for every seed")
        require(made.probe(0).likelihood.y.shape == y.shape, made, "probes a problem of another shape")
        json.dumps(describe(made))
        require(pickle.loads(pickle.dumps(made)) == made, made, "does not survive the way to another process")
        return "one observation a seed, the same when built again, another for another seed, goes to other processes"

    yield Trial("seeds 0 and 1", run)


def _known_trials(entry: Entry[Problem], settings: Mapping[str, object]) -> Iterator[Trial]:
    def run() -> str:
        first, again, other = (entry.make(settings, seed) for seed in (0, 0, 1))
        y, piece = first.likelihood.y, entry.thing
        require(first.observations == 1, piece, f"has {first.observations} observations for one seed, not one")
        require(torch.equal(again.likelihood.y, y), piece, "is another problem when it is built again")
        require(not torch.equal(other.likelihood.y, y), piece, "is the same problem for every seed")
        posterior = posterior_of(first)
        draws, (mean, covariance) = posterior.sample(DRAWS, seed=1), posterior.mean_and_covariance()
        require(bool(draws.isfinite().all()), piece, "has draws that are not finite")
        require(torch.equal(posterior.sample(DRAWS, seed=1), draws), piece, "has other draws for the same seed")
        gap = (draws.double().mean(0) - mean).flatten() / covariance.diagonal().sqrt()
        away = (
            float(gap.square().mean().sqrt()) * DRAWS**0.5
        )  # about 1; 5 for one entry is one false alarm in a million
        require(away < 5, piece, f"states a mean that is {away:.1f} standard errors from that of its draws")
        return "one observation a seed, the same when built again; its draws have the mean that it states"

    yield Trial("seeds 0 and 1", run)


def vectors() -> Problem:
    """A Gaussian of six entries, three of which are measured in combinations; two observations."""
    prior = random_gaussian(6, 0)
    operator = Matrix.create(torch.linspace(-1, 1, 18).reshape(3, 6), (6,))
    return Problem.simulate(prior, operator, prior.sample(2), sigma_y=0.1)


def images() -> Problem:
    """Small images, measured as means of blocks; two observations."""
    prior = Gaussian(torch.zeros(3, 8, 8), 0.25)
    return Problem.simulate(prior, BlockMean(2), prior.sample(2), sigma_y=0.05)


def masked_images() -> Problem:
    """One mask per observation, as many hidden entries in each."""
    prior = Gaussian(torch.zeros(1, 6, 6), 0.25)
    masked = random_mask((1, 6, 6), 0.5, seed=0, count=2)
    return Problem.simulate(prior, masked, prior.sample(2), sigma_y=0.05)


def latents() -> Problem:
    """Images of latents through a decoder that is not linear."""
    shuffle, unshuffle = torch.nn.PixelShuffle(2), torch.nn.PixelUnshuffle(2)
    coder = NetworkAutoencoder(
        lambda x: unshuffle(x)[:, ::2], lambda z: shuffle((z / 2).sin().repeat_interleave(2, 1)), (1, 8, 8), (2, 4, 4)
    )
    codes = Gaussian(torch.zeros(2, 4, 4), 1.0)
    truth = coder.decode(codes.sample(2))
    return Problem.simulate(LatentPrior(codes, coder), BlockMean(2), truth, sigma_y=0.05)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "vectors": vectors,
    "images": images,
    "one mask per observation": masked_images,
    "latents": latents,
}
"""Small problems with two observations and priors in closed form, by what they are."""

TRIALS: dict[str, Callable[[Entry[Any], Mapping[str, object]], Iterator[Trial]]] = {
    "sampler": _sampler_trials,
    "operator": _operator_trials,
    "schedule": _schedule_trials,
    "metric": _metric_trials,
    "kind of problems": _kind_trials,
    "known posterior": _known_trials,
}
"""How a piece of each kind is tried; pieces of other kinds are accepted by their catalogue, and no more is known."""

CONTRACT_OF = dict(
    zip(
        KINDS.values(),
        (
            "linear, adjoint, Moore-Penrose, proximal step, SVD, rows independent",
            "linear, adjoint, Moore-Penrose, proximal step, rows independent",
            "h(h^+(h(x))) = h(x), rows independent",
            "finite, rows independent, hidden entries zero",
        ),
        strict=True,
    )
)
"""What `check_operator` checks, by what an operator is."""
