"""One cell of a study: what to draw, what to measure, and the address that all of it hashes to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from midguide.catalogue import plugins
from midguide.catalogue.base import short, split
from midguide.errors import CheckpointError, MidguideError, NumericalError
from midguide.exact.posteriors import posterior_of
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.inference.stored import StoredSamples
from midguide.maths.rng import stream_seed
from midguide.metrics.base import METRICS, Answer, Metric, Target
from midguide.problem import Problem
from midguide.storage.code import Code, code_of, modules_of
from midguide.storage.record import describe, fingerprint
from midguide.studies.engine.draws import Draws, drawn_by, keep_draws, load_draws, named, write_draws
from midguide.studies.kinds.base import ProblemKind, build_all
from midguide.studies.sources.base import Source, law_of
from midguide.studies.sources.sampled import Sampled

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
        """Everything that the draws depend on besides the code of this package, as JSON.

        A Python file is known by its content, not by its place.
        """
        configuration = {
            "problem": describe(self.problem),
            "problem_seed": self.problem_seed,
            "prior": self.problem.prior_digest(),
            **({"data_sha256": data} if (data := self.problem.data_digest(self.problem_seed)) else {}),
            "source": describe(self.source),
            "seed": self.seed,
            "n": self.n,
        }
        return plugins.with_places(configuration, lambda path, rest: plugins.module_of(path) + rest)

    @cached_property
    def draws_address(self) -> str:
        """SHA-256 of `configuration`: units that differ in metrics only share their draws."""
        return fingerprint(self.configuration)

    @cached_property
    def address(self) -> str:
        """SHA-256 of `configuration` and the metrics; those from outside the package by their source, too."""
        sources = {short(name): METRICS.make(name).source for name in self.metrics}
        foreign = {name: source for name, source in sources.items() if source}
        metrics = {"metrics": sorted(sources), **({"metric_sources": foreign} if foreign else {})}
        return fingerprint({**self.configuration, **metrics})

    @property
    def draws_code(self) -> Code:
        """The code that its draws are made by."""
        return _draws_code(self)

    @property
    def metrics_code(self) -> Code:
        """The code that its draws are measured by."""
        return _code(_behind_metrics(tuple(METRICS.make(name) for name in self.metrics)))

    @property
    def preset(self) -> str | None:
        """The name of the sampler's preset, or None."""
        return split(self.spec)[1] or None


_behind_draws: dict[str, frozenset[str]] = {}


def _draws_code(unit: Unit) -> Code:
    key = fingerprint([unit.configuration[part] for part in ("problem", "prior", "source")])
    if key not in _behind_draws:
        probe = unit.problem.probe(unit.problem_seed)
        _behind_draws[key] = modules_of(unit.problem, unit.source, probe, sample)
    return _code(_behind_draws[key])


@cache
def _behind_metrics(metrics: tuple[Metric, ...]) -> frozenset[str]:
    return modules_of(*metrics)


@cache
def _code(modules: frozenset[str]) -> Code:
    return code_of(*modules)


def forget_code() -> None:
    """Look again at what was replaced in memory: before a study is looked at, or run."""
    _code.cache_clear()


Rows = list[dict[str, Any]]
"""The rows of one unit, one per metric, with the columns of `store.SCHEMA`."""


def batches(units: Iterable[Unit], size: int) -> list[tuple[Unit, ...]]:
    """Units of one cell that may be drawn together, at most `size`, in the order of their first units."""
    made: list[list[Unit]] = []
    unfinished: dict[tuple[str, str, int], list[Unit]] = {}
    for unit in units:
        cell = (unit.problem_label, unit.sampler_label, unit.seed)
        if not unit.problem.stacks or len(unfinished.get(cell, [])) in (0, size):
            unfinished[cell] = []
            made.append(unfinished[cell])
        unfinished[cell].append(unit)
    return [tuple(batch) for batch in made]


def run_batch(
    units: Sequence[Unit],
    kept: Path | None = None,
    device: str = "cpu",
    *,
    old_code: bool = False,
    stream: bool = False,
) -> list[Rows]:
    """Draw and measure units of one cell. A failure is a row, too, with its reason and no value.

    Sample j of a unit does not depend on the other units, up to the rounding of the network's batched arithmetic.

    Args:
        units: one of `batches`.
        kept: folder of stored draws. Draws that are there are measured again without sampling; others are added.
        device: where the network computes.
        old_code: also take stored draws that other code made.
        stream: write draws of samplers to stores as they finish, so that memory holds a chunk of them, and those of one
            unit while they are measured.
    """
    try:
        problems = build_all(units[0].problem, [unit.problem_seed for unit in units])
        samples = _drawn(units, problems, kept, device, old_code, stream)
    except FAILURES as error:
        if len(units) > 1:  # the failure of one must not be that of the others
            each = [run_batch([unit], kept, device, old_code=old_code, stream=stream) for unit in units]
            return [rows for (rows,) in each]
        return [failed(units[0], error)]
    return [_measured_unit(*each) for each in zip(units, problems, samples, strict=True)]


def failed(unit: Unit, error: BaseException) -> Rows:
    """The rows of a unit that has no draws."""
    base = {"address": unit.address, "configuration": unit.configuration, **dict.fromkeys(COST)}
    base |= {"effective_sample_size": None, "code": made_by(unit), "verdict": None}
    return [{**base, "metric": short(name), "value": None, "failure": _reason(error)} for name in unit.metrics]


COST = ("network_forwards", "network_vjps", "seconds", "peak_memory_mib")


def made_by(unit: Unit, drawn: Code | None = None) -> dict[str, dict[str, str]]:
    """The code behind the rows of a unit, as JSON: that of its draws, and of its metrics."""
    return {"drawn": asdict(drawn or unit.draws_code), "measured": asdict(unit.metrics_code)}


def codes_of(made: dict[str, dict[str, str]]) -> list[str]:
    """The digests in what `made_by` gave."""
    return [made[part]["sha256"] for part in ("drawn", "measured")]


def _drawn(
    units: Sequence[Unit], problems: list[Problem], kept: Path | None, device: str, old_code: bool, stream: bool
) -> list[Draws]:
    """The draws of each unit: those that are stored, and the others drawn together."""
    found = {i: samples for i, unit in enumerate(units) if (samples := reusable(unit, kept, old_code)) is not None}
    missing = [i for i in range(len(units)) if i not in found]
    if missing:
        problem = Problem.stack([problems[i] for i in missing]).to(device)
        source, n = units[0].source, units[0].n
        seeds = [stream_seed(units[i].seed, units[i].problem_seed) for i in missing]
        names = [(units[i].draws_address, units[i].draws_code) for i in missing]
        if stream and kept is not None and isinstance(source, Sampled):
            drawn = write_draws(lambda path: source.write(problem, n, seeds, path), names, kept)
            return [found[i] if i in found else drawn[missing.index(i)] for i in range(len(units))]
        for i, name, samples in zip(missing, names, source.draw(problem, n, seeds).each(), strict=True):
            found[i] = made = named(samples, *name)
            if kept is not None:
                keep_draws(made, name[0], kept)
    return [found[i] for i in range(len(units))]


def stored(unit: Unit, kept: Path | None) -> Draws | None:
    """The draws of a unit in the folder of stored draws; None where they are absent, damaged or of something else."""
    try:
        return None if kept is None else load_draws(unit.draws_address, kept)
    except CheckpointError:
        return None


def reusable(unit: Unit, kept: Path | None, old_code: bool) -> Draws | None:
    """The stored draws of a unit, where this code made them, or any code with `old_code`."""
    samples = stored(unit, kept)
    return samples if samples is not None and (old_code or drawn_by(samples) == unit.draws_code) else None


def _measured_unit(unit: Unit, problem: Problem, samples: Draws) -> Rows:
    try:
        samples = samples.load() if isinstance(samples, StoredSamples) else samples
        log_weight = None if samples.log_weight is None else samples.log_weight[0]
        answer, target = Answer(samples.draws[0], law_of(samples), log_weight), _target(unit, problem)
    except FAILURES as error:
        return failed(unit, error)
    costs = asdict(samples.cost)
    effective = None if log_weight is None else float(samples.effective_sample_size()[0])
    base = {"address": unit.address, **{name: costs[name] for name in COST}, "effective_sample_size": effective}
    base |= {"code": made_by(unit, drawn_by(samples)), "verdict": _verdict(problem, samples)}
    return [{**base, **_recorded(unit, name), **_measured(name, answer, target)} for name in unit.metrics]


def _verdict(problem: Problem, samples: Samples) -> str | None:
    """The first finding and its likeliest cause; empty where nothing was found, None where nothing could be judged."""
    try:
        verdict = replace(samples, problem=problem).check()
    except FAILURES:
        return None
    first = next(iter(verdict.findings), None)
    return None if not verdict.judged else "" if first is None else f"{first.check}: {first.advice.split('; or ')[0]}"


def _target(unit: Unit, problem: Problem) -> Target:
    if not any(METRICS.make(name).exact for name in unit.metrics):
        return Target(problem)
    posterior = posterior_of(problem)
    return Target(problem, posterior, posterior.sample(unit.n, seed=stream_seed(unit.problem_seed, "reference")))


def _recorded(unit: Unit, name: str) -> dict[str, Any]:
    """The name of a metric, and what its number depends on, weights included."""
    return {"metric": short(name), "configuration": unit.configuration | METRICS.make(name).record()}


def _measured(name: str, answer: Answer, target: Target) -> dict[str, Any]:
    try:
        value = METRICS.make(name).compute(answer, target)
        if not math.isfinite(value):
            raise NumericalError(f"{name} is {value}")
    except FAILURES as error:
        return {"value": None, "failure": _reason(error)}
    return {"value": value, "failure": None}


def _reason(error: BaseException) -> str:
    text = error.message if isinstance(error, MidguideError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
