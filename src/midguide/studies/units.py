"""One cell of a study: what to draw, what to measure, and the address that all of it hashes to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from midguide import __version__
from midguide.errors import CheckpointError, MidguideError, NumericalError
from midguide.metrics.registry import METRICS, Answer, Target
from midguide.record import describe, fingerprint
from midguide.rng import stream_seed
from midguide.samples import Samples
from midguide.studies.problems import ProblemKind, exact_prior
from midguide.studies.sources import Source, law_of

FAILURES = (MidguideError, ArithmeticError, MemoryError, RuntimeError)  # torch's own errors are RuntimeErrors


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A cell: one problem, one source of draws, one seed. Labels are names for tables and not part of the address.

    Args:
        problem_label: the problem as tables name it.
        problem: its kind and settings.
        problem_seed: which problem of the kind.
        sampler_label: the source as tables name it.
        spec: the sampler or preset as the study's file names it.
        source: where the draws come from, with all settings resolved.
        swept: the settings that the study varies in this cell, with their values.
        seed: seed of the draws.
        n: draws.
        metrics: names of the metrics, each with its protocol.
    """

    problem_label: str
    problem: ProblemKind
    problem_seed: int
    sampler_label: str
    spec: str
    source: Source
    swept: tuple[tuple[str, float], ...] = ()
    seed: int
    n: int
    metrics: tuple[str, ...]

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """Everything that the draws depend on, as JSON."""
        return {
            "midguide": __version__,
            "problem": describe(self.problem),
            "problem_seed": self.problem_seed,
            "prior_sha256": self.problem.prior_digest(),
            "source": describe(self.source),
            "seed": self.seed,
            "n": self.n,
        }

    @cached_property
    def draws_address(self) -> str:
        """SHA-256 of `configuration`: units that differ in metrics only share their draws."""
        return fingerprint(self.configuration)

    @cached_property
    def address(self) -> str:
        """SHA-256 of `configuration` and the metrics."""
        return fingerprint({**self.configuration, "metrics": sorted(self.metrics)})

    @property
    def preset(self) -> str | None:
        """The name of the sampler's preset, or None."""
        return self.spec.partition(":")[2] or None


def run_unit(unit: Unit, kept: Path | None = None) -> list[dict[str, Any]]:
    """Draw and measure; one row per metric. A failure is a row, too, with its reason and no value.

    Args:
        unit: the cell.
        kept: folder of stored draws. Draws that are there are measured again without sampling; others are added.

    Returns:
        Rows with the columns of `store.SCHEMA`.
    """
    base = {"address": unit.address, "configuration": unit.configuration, **dict.fromkeys(COST)}
    try:
        problem = unit.problem.build(unit.problem_seed)
        samples = _drawn(unit, problem, kept)
        answer, target = Answer(samples.draws[0], law_of(samples)), _target(unit, problem)
    except FAILURES as error:
        return [{**base, "metric": name, "value": None, "failure": _reason(error)} for name in unit.metrics]
    costs = asdict(samples.cost)
    base |= {name: costs[name] for name in COST}
    return [{**base, **_recorded(unit, name), **_measured(name, answer, target)} for name in unit.metrics]


COST = ("network_forwards", "network_vjps", "seconds", "peak_memory_mib")


def _drawn(unit: Unit, problem: Any, kept: Path | None) -> Samples:
    place = None if kept is None else kept / unit.draws_address
    if place is not None and place.exists():
        try:
            return Samples.load(place)
        except CheckpointError:
            pass  # a damaged file is replaced
    samples = unit.source.draw(problem, unit.n, stream_seed(unit.seed, unit.problem_seed))
    if place is not None:
        samples.save(place)
    return samples


def _target(unit: Unit, problem: Any) -> Target:
    if not any(METRICS[name].exact for name in unit.metrics):
        return Target(problem)
    posterior = exact_prior(problem).posterior(problem.likelihood)
    return Target(problem, posterior, posterior.sample(unit.n, seed=stream_seed(unit.problem_seed, "reference")))


def _recorded(unit: Unit, name: str) -> dict[str, Any]:
    """The name of a metric, and what its number depends on, weights included."""
    return {"metric": name, "configuration": unit.configuration | METRICS[name].record()}


def _measured(name: str, answer: Answer, target: Target) -> dict[str, Any]:
    try:
        value = METRICS[name].compute(answer, target)
        if not math.isfinite(value):
            raise NumericalError(f"{name} is {value}")
    except FAILURES as error:
        return {"value": None, "failure": _reason(error)}
    return {"value": value, "failure": None}


def _reason(error: BaseException) -> str:
    text = error.message if isinstance(error, MidguideError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
