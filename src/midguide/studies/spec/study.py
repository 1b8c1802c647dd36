"""A study from its TOML file: a grid of problems and samplers, with overrides, expanded to units.

    [study]
    name = "example"
    samples = 2000                                  # draws per cell
    metrics = ["sliced_wasserstein_1[slices=100]"]

    [[problems]]
    kind = "mixture"                                # of `midguide list kinds`; other keys are its settings
    label = "dx = 20"
    dimension = 20
    seeds = { first = 0, count = 10 }               # or a list
    metrics = ["mode_weight_tv"]                    # besides those of the study

    [[samplers]]
    spec = "mgps:mixture"                           # a sampler, a preset, or "exact", "exact-law", "prior"...
    settings = { steps = 100 }
    problems = ["dx*"]                              # labels of the problems that it runs on, all by default
    where_possible = true                           # leaves out what it cannot handle, which is refused by default
    budgets = [10, 100]                             # one at each budget of network calls; in [study] for all
    sweep = { midpoint = [0.5, 1.0] }               # one sampler for each combination

    [[overrides]]                                   # for the cells that these labels name; "*" and "?" match any text
    problem = "dx = 20"
    sampler = "mgps*"
    preset = "ffhq"                                 # another preset of the sampler
    settings = { steps = 300 }

Samplers, operators, metrics, kinds of problems, priors and schedules may be those of a Python file, `FILE.py:NAME`; the
file is run. Every key must be known, every override must match a cell, and every sampler must handle its problems.
Otherwise there is an error before anything runs. The report names omissions, and why. Paths (of data, code and files of
weights) are relative to the folder of the call, and stored as absolute ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from midguide.catalogue import plugins
from midguide.catalogue.base import short
from midguide.catalogue.shown import Shown
from midguide.errors import ConfigError, MidguideError, UnsupportedProblem, about, is_out_of_memory
from midguide.inference.cost import check_memory
from midguide.metrics.base import METRICS
from midguide.problem import Problem
from midguide.samplers.budget import OverBudget
from midguide.studies.engine.units import Unit
from midguide.studies.kinds.files import forget_files
from midguide.studies.sources.sampled import Sampled
from midguide.studies.spec.grid import Grid, parse_grid
from midguide.studies.spec.plain import changed, code_of, located, read
from midguide.studies.spec.tables import Head, ProblemRow, SamplerRow


@dataclass(frozen=True, kw_only=True)
class Study(Shown):
    """A study that is complete and checked.

    Args:
        head: the table `[study]`.
        units: all cells, problem by problem and seed by seed, the samplers in the order of the file.
        plain: the file as plain values, with the changes of the command line.
        left_out: the cells that the file leaves out, in its order.
        code: the Python files that it runs, with the modules that they are imported as.
    """

    head: Head
    units: tuple[Unit, ...]
    plain: dict[str, Any]
    left_out: tuple[LeftOut, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> Mapping[str, Any]:
        """What it compares on what, and how much there is to do."""
        labels = {"problems": "problem_label", "samplers": "sampler_label"}
        known = {name: list(dict.fromkeys(getattr(unit, key) for unit in self.units)) for name, key in labels.items()}
        counts = {"units": len(self.units), "draws of each": self.head.samples, "left out": len(self.left_out)}
        return {"name": self.head.name, **known, "metrics": self.metrics, **counts}

    @property
    def simulated(self) -> bool:
        """Whether its data are SIMULATED."""
        return any(unit.problem.simulated for unit in self.units)

    @property
    def metrics(self) -> list[str]:
        """The metrics of all cells in their order, without those of sets."""
        return list(dict.fromkeys((*self.head.metrics, *(name for unit in self.units for name in unit.metrics))))


class LeftOut(NamedTuple):
    """A cell that the study's file leaves out, by labels, and why the sampler could not handle it, if so."""

    problem: str
    sampler: str
    reason: str


def load_study(
    path: str | Path,
    changes: Sequence[tuple[str, object]] = (),
    *,
    announce: Callable[[str], None] = lambda path: None,
) -> Study:
    """Read and check a study's file.

    Args:
        path: a TOML file.
        changes: keys and values that replace those of the file: a key of `[study]`, or `problems.KEY` or
            `samplers.KEY` for every row that has settings, or `problems[LABEL].KEY` for those of a label, with * and ?.
        announce: is told each Python file that the study names, before it is run.

    Raises:
        ConfigError: If the file is not a study; names the file, the key and a hint.
        UnsupportedProblem: If a sampler or a metric cannot handle one of the problems.
    """
    plain = read(path)
    try:
        return parse_study(changed(plain, changes), announce=announce)
    except MidguideError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint or "see the examples in experiments/") from error


def parse_study(plain: dict[str, Any], *, announce: Callable[[str], None] = lambda path: None) -> Study:
    """The study that plain values describe, with paths relative to this folder; see `load_study`."""
    forget_files()
    code = code_of(plain)
    for path in code:
        announce(path)
    grid = parse_grid(located(plain))
    units: list[Unit] = []
    left_out: list[LeftOut] = []
    for i, problem in enumerate(grid.problems):  # all samplers on one before the next: unfinished results compare
        with about(f"[[problems]] number {i + 1} ({problem.label})"):
            probe = _probe(problem)
        cells = [_cell(grid, problem, probe, sampler) for sampler in grid.samplers]
        left_out += [cell for cell in cells if isinstance(cell, LeftOut)]
        rows = zip(*(cell for cell in cells if not isinstance(cell, LeftOut)), strict=True)
        units += [unit for row in rows for unit in row]
    return Study(
        head=grid.head,
        units=tuple(units),
        plain=plain,
        left_out=tuple(left_out),
        code={path: plugins.module_of(path) for path in code},
    )


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


def _cell(grid: Grid, problem: ProblemRow, probe: Problem, sampler: SamplerRow) -> list[Unit] | LeftOut:
    """The units of one cell, after a check that sampler and metrics can handle the problem."""
    if not sampler.accepts(problem.label):
        return LeftOut(problem.label, sampler.label, _refusal(problem, probe, sampler))
    settings, n, preset = dict[str, object](), grid.head.samples, ""
    for override in grid.overrides:
        if override.matches(problem.label, sampler.label):
            settings |= override.settings
            n = n if override.samples is None else override.samples
            preset = override.preset or preset
    with about(f"sampler {sampler.label!r} on problem {problem.label!r}"):
        try:
            source = sampler.make(problem.kind, probe, settings, preset)
            source.check(probe)
        except UnsupportedProblem as error:
            if not (sampler.table.where_possible or isinstance(error, OverBudget)):
                raise
            return LeftOut(problem.label, sampler.label, error.message)
        if isinstance(source, Sampled):
            source.check_count(n)
        check_memory(probe, n)
    metrics = tuple(dict.fromkeys((*grid.head.metrics, *problem.metrics)))
    for name in metrics:
        with about(f"metric `{short(name)}` on problem {problem.label!r}"):
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
        for problem_seed, seed in product(problem.seeds, grid.head.seeds)
    ]


def _refusal(problem: ProblemRow, probe: Problem, sampler: SamplerRow) -> str:
    """Why a sampler cannot handle a problem; empty where it could."""
    try:
        sampler.make(problem.kind, probe).check(probe)
    except UnsupportedProblem as error:
        return error.message
    return ""
