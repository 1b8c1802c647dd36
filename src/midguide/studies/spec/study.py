"""A study from its TOML file: a grid of problems and samplers, with overrides, expanded to units.

    [study]
    name = "example"
    samples = 2000                                  # draws per cell
    metrics = ["sliced_wasserstein_1[slices=100]"]

    [[problems]]
    kind = "mixture"                                # a name in `problems.KINDS`; other keys are its settings
    label = "dx = 20"
    dimension = 20
    seeds = { first = 0, count = 10 }               # or a list
    metrics = ["mode_weight_tv"]                    # besides those of the study

    [[samplers]]
    spec = "mgps:mixture"                           # a sampler, a preset, or "exact", "exact-law", "prior"...
    settings = { steps = 100 }
    problems = ["dx*"]                              # labels of the problems that it runs on, all by default
    where_possible = true                           # leaves out what it cannot handle, which is refused by default
    sweep = { midpoint = [0.5, 1.0] }               # one sampler for each combination

    [[overrides]]                                   # for the cells that these labels name; "*" and "?" match any text
    problem = "dx = 20"
    sampler = "mgps*"
    preset = "ffhq"                                 # another preset of the sampler
    settings = { steps = 300 }

Every key must be known, every override must match a cell, and every sampler must handle its problems: otherwise the
study is refused before anything runs. The report names what is left out, and why. Paths (`data`, the `network` of a
sampler, a `prior` that is a file) are relative to the folder of the call, and stored as absolute ones.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from midguide.catalogue.settings import build
from midguide.errors import ConfigError, MidguideError, UnsupportedProblem, about, is_out_of_memory, suggestion
from midguide.inference.cost import check_memory
from midguide.metrics.base import METRICS
from midguide.problem import Problem
from midguide.studies.engine.units import Unit
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import forget_files
from midguide.studies.sources.base import own_source
from midguide.studies.spec.tables import (
    Head,
    Match,
    ProblemRow,
    SamplerRow,
    matches,
    parse_override_table,
    parse_problem,
    parse_samplers,
    table_of,
    tables_of,
)

TABLES = ("study", "problems", "samplers", "overrides")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that is complete and checked.

    Args:
        head: the table `[study]`.
        units: all cells, problem by problem and seed by seed, the samplers in the order of the file.
        plain: the file as plain values, with the changes of the command line.
        left_out: the cells that the file leaves out, in its order.
    """

    head: Head
    units: tuple[Unit, ...]
    plain: dict[str, Any]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether its data are SIMULATED."""
        return any(unit.problem.simulated for unit in self.units)

    @property
    def metrics(self) -> list[str]:
        """The metrics of all cells in their order, those of sets last."""
        single = (name for unit in self.units for name in unit.metrics)
        return list(dict.fromkeys((*self.head.metrics, *single, *self.head.set_metrics)))


class LeftOut(NamedTuple):
    """A cell that the study's file leaves out, by labels, and why the sampler could not handle it, if so."""

    problem: str
    sampler: str
    reason: str


def load_study(path: str | Path, changes: Sequence[tuple[str, object]] = ()) -> Study:
    """Read and check a study's file.

    Args:
        path: a TOML file.
        changes: keys and values that replace those of the file: a key of `[study]`, or `problems.KEY` or
            `samplers.KEY` for every row that has settings, or `problems[LABEL].KEY` for those of a label, with * and ?.

    Raises:
        ConfigError: the file is no study; names the file, the key and a hint.
        UnsupportedProblem: a sampler or a metric cannot handle one of the problems.
    """
    try:
        plain = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {path}: {reason}", hint="give the TOML file of a study") from error
    try:
        return parse_study(_with_absolute_paths(changed(plain, changes)))
    except MidguideError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint or "see the examples in experiments/") from error


def parse_study(plain: dict[str, Any]) -> Study:
    """The study that plain values describe; see `load_study`."""
    forget_files()
    for key in plain:
        if key not in TABLES:
            raise ConfigError(f"unknown table [{key}]", hint=suggestion(key, TABLES))
    head = build(Head, table_of(plain, "study"), "[study]")
    problems = [parse_problem(table, i) for i, table in enumerate(tables_of(plain, "problems"))]
    samplers = [row for i, table in enumerate(tables_of(plain, "samplers")) for row in parse_samplers(table, i)]
    changes = tables_of(plain, "overrides") if "overrides" in plain else []
    overrides = [parse_override_table(table, i) for i, table in enumerate(changes)]
    for what, rows in (("problems", problems), ("samplers", samplers)):
        labels = [row.label for row in rows]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"[[{what}]] has a label twice: {sorted(labels)}", hint="give each its own label")
    if head.minimizers and not any(row.swept for row in samplers):
        raise ConfigError("[study]: minimizers are those of a sweep, and no sampler has one", hint="remove minimizers")
    cells = [(problem, sampler) for problem in problems for sampler in samplers if sampler.accepts(problem.label)]
    for sampler in samplers:
        for pattern in sampler.table.problems:
            if not any(fnmatchcase(problem.label, pattern) for problem in problems):
                known = ", ".join(repr(problem.label) for problem in problems)
                raise ConfigError(
                    f"sampler {sampler.label!r}: {pattern!r} matches no problem", hint=f"labels are: {known}"
                )
    for i, (match, _) in enumerate(overrides):
        if not any(matches(match, problem.label, sampler.label) for problem, sampler in cells):
            known = f"problems {[p.label for p in problems]}, samplers {[s.label for s in samplers]}"
            raise ConfigError(f"[[overrides]] number {i + 1} matches no cell", hint=f"labels are: {known}")
    units: list[Unit] = []
    left_out: list[LeftOut] = []
    for i, problem in enumerate(problems):  # all samplers on one before the next, so that unfinished results compare
        with about(f"[[problems]] number {i + 1} ({problem.label})"):
            probe = _probe(problem)
        own: list[list[Unit]] = []
        for sampler in samplers:
            wanted = sampler.accepts(problem.label)
            refusal = "" if wanted and not sampler.table.where_possible else _refusal(problem, probe, sampler)
            if wanted and not refusal:
                own.append(_units(head, problem, probe, sampler, overrides))
            else:
                left_out.append(LeftOut(problem.label, sampler.label, refusal))
        units += [unit for row in zip(*own, strict=True) for unit in row]
    return Study(head=head, units=tuple(units), plain=plain, left_out=tuple(left_out))


def _probe(problem: ProblemRow) -> Problem:
    """A problem of the row to check samplers with, after a check that there are prior, operator and data of all."""
    try:
        probe = problem.kind.probe(problem.seeds[0])
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError("the problem does not fit into memory", hint="make it smaller") from error
    for seed in problem.seeds:
        problem.kind.data_digest(seed)
    return probe


def _units(
    head: Head,
    problem: ProblemRow,
    probe: Problem,
    sampler: SamplerRow,
    overrides: list[tuple[Match, dict[str, object]]],
) -> list[Unit]:
    """The units of one cell, after a check that sampler and metrics can handle the problem."""
    settings, n, preset = dict[str, object](), head.samples, ""
    metrics = tuple(dict.fromkeys((*head.metrics, *problem.metrics)))
    for match, changed in overrides:
        if matches(match, problem.label, sampler.label):
            settings |= changed
            n = n if match.samples is None else match.samples
            preset = match.preset or preset
    with about(f"sampler {sampler.label!r} on problem {problem.label!r}"):
        source = sampler.make(problem.kind, settings, preset)
        source.check(probe)
        check_memory(probe, n)
    for name in metrics:
        with about(f"metric {name!r} on problem {problem.label!r}"):
            METRICS.make(name).check(probe, n)
    return [
        Unit(
            problem_label=problem.label,
            problem=problem.kind,
            problem_seed=problem_seed,
            sampler_label=sampler.label,
            spec=sampler.spec(preset),
            source=source,
            swept=sampler.swept,
            seed=seed,
            n=n,
            metrics=metrics,
        )
        for problem_seed, seed in product(problem.seeds, head.seeds)
    ]


def _refusal(problem: ProblemRow, probe: Problem, sampler: SamplerRow) -> str:
    """Why a sampler cannot handle a problem; empty where it could."""
    try:
        sampler.make(problem.kind).check(probe)
    except UnsupportedProblem as error:
        return error.message
    return ""


_ROWS = re.compile(r"(problems|samplers)(?:\[(.+)\])?\.(.+)")
_PRIOR_FILE = re.compile(r"\.(safetensors|pt|pth|ckpt|bin)$|\.py:\w+$")


def _with_absolute_paths(plain: dict[str, Any]) -> dict[str, Any]:
    """The file's values, in place, with paths that still hold when the results are read from another folder."""
    for row in tables_of(plain, "problems"):
        kind = row.get("kind")
        paths = KINDS[kind].facts.get("paths", {}) if isinstance(kind, str) and kind in KINDS else {}
        for key, words in paths.items():
            if isinstance(row.get(key), str) and row[key] not in words:
                row[key] = _absolute(row[key])
        if isinstance(row.get("prior"), str) and _PRIOR_FILE.search(row["prior"]):
            row["prior"] = _absolute(row["prior"])
    for row in tables_of(plain, "samplers"):
        settings = row.get("settings")
        if isinstance(settings, dict) and isinstance(settings.get("network"), str):
            settings["network"] = _absolute(settings["network"])
    return plain


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _has_settings(spec: object) -> bool:
    """Whether a row of samplers has settings to change; a row of problems, which has no `spec`, has."""
    source = own_source(spec) if isinstance(spec, str) else None
    return source is None or bool(source.defaults() or source.required())


def changed(plain: dict[str, Any], changes: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """The file's values with those of the command line, in place."""
    for key, value in changes:
        found = _ROWS.fullmatch(key)
        if found is None:
            plain["study"] = {**table_of(plain, "study"), key: value}
            continue
        table, pattern, setting = found.groups(default="*")
        rows = {
            str(row.get("label") or row.get("kind") or row.get("spec")): row
            for row in tables_of(plain, table)
            if _has_settings(row.get("spec"))
        }
        chosen = [row for label, row in rows.items() if fnmatchcase(label, pattern)]
        if not chosen:
            hint = f"labels are: {', '.join(map(repr, rows))}" if rows else f"none of the {table} has settings"
            raise ConfigError(f"{key} matches no {table[:-1]}", hint=hint)
        for row in chosen:
            if table == "problems":
                row[setting] = value
            else:
                row["settings"] = {**table_of(row, "settings"), setting: value}
    return plain
