"""The tables of a study's TOML file, each checked on its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

from midguide.catalogue.base import Catalogue, split
from midguide.catalogue.settings import build
from midguide.errors import ConfigError, about, unknown
from midguide.metrics.base import METRICS, SET_METRICS
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.studies.kinds.base import KINDS, ProblemKind
from midguide.studies.sources.base import SOURCES, Source, own_source, taken_of_a_sampler
from midguide.studies.spec.plain import check_label, label_of

MOST_SEEDS = 10**6
NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


STREAM = "zarr"
"""The value of `keep_samples` for draws that are stored as they finish."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The table `[study]`.

    Args:
        name: what results belong to.
        samples: draws per cell.
        metrics: names of `midguide list metrics`.
        title: what the report is headed by.
        seeds: seeds of the draws; one unit each.
        keep_samples: store the draws, so that they can be measured again; with "zarr" those of samplers go to a Zarr
            store while they are drawn, so that memory does not hold all draws of a batch (extra `arrays`).
        batch: units of one cell that are drawn together, where their problems allow it: faster on images, and up to
            rounding the same draws. What an interrupt loses is at most the batch in progress.
        set_metrics: likewise, of all draws of a cell together; needs `keep_samples`.
        expected: the experiment in `expected/*.csv` whose numbers stand beside ours; `name` by default.
        minimizers: also report at which value of a swept setting each metric is least, problem by problem.
        budgets: network calls of a sample, forwards and vjps together: each sampler whose steps the file leaves open
            is one at each budget, with the settings of `within_budget`. One that cannot go that low is left out there.
    """

    name: str
    samples: int
    metrics: tuple[str, ...]
    title: str = ""
    seeds: tuple[int, ...] = (0,)
    keep_samples: bool | Literal["zarr"] = False
    batch: int = 1
    set_metrics: tuple[str, ...] = ()
    expected: str = ""
    minimizers: bool = False
    budgets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")
        if not self.metrics or not self.seeds:
            raise ConfigError("metrics and seeds must not be empty")
        _check_storable(self.seeds)
        for text in (self.name, self.title, self.expected):
            check_label(text)
        if not self.name.strip():
            raise ConfigError("the study has no name", hint='name = "my-study"')
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"a seed occurs twice in {list(self.seeds)}")
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1, got {self.batch}")
        if self.set_metrics and not self.keep_samples:
            raise ConfigError("set_metrics are computed from stored draws", hint="set keep_samples = true")
        check_metrics(self.metrics, METRICS)
        check_metrics(self.set_metrics, SET_METRICS)


@dataclass(frozen=True, kw_only=True)
class ProblemTable:
    """A table `[[problems]]` without the settings of its kind and without its seeds."""

    kind: str
    label: str = ""
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_metrics(self.metrics, METRICS)


@dataclass(frozen=True, kw_only=True)
class ProblemRow:
    """A kind of problems with settings, the seeds that make it several problems, and further metrics."""

    label: str
    kind: ProblemKind
    seeds: tuple[int, ...]
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SamplerTable:
    """A table `[[samplers]]`.

    Args:
        spec: the sampler or preset, or another source of draws.
        label: the spec by default.
        source: what to take of it.
        settings: in place of those of the preset.
        sweep: values of further settings; each combination is a sampler of its own.
        problems: patterns for the labels of the problems that it runs on; the report names the others as left out.
        where_possible: problems that it cannot handle are left out, too, instead of refused.
        budgets: its own, in place of those of the study; an empty list for its settings as they are.
    """

    spec: str
    label: str = ""
    source: str = "samples"
    settings: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, tuple[int | float, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ("*",)
    where_possible: bool = False
    budgets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_budgets(self.budgets or ())
        if self.budgets and own_source(self.spec):
            raise ConfigError(f"`{self.spec}` is not a sampler, so that it has no budgets", hint="remove budgets")
        if self.budgets and self.has_steps:
            raise ConfigError("budgets set the steps, which are set or swept, too", hint="it is one or the other")
        known = taken_of_a_sampler()
        if self.source not in known:
            raise unknown("source", self.source, known)
        if self.source != "samples" and own_source(self.spec):
            raise ConfigError(
                f"`{self.spec}` is not a sampler, so that it has no `{self.source}`", hint="remove source"
            )
        if not self.problems:
            raise ConfigError(f"`{self.spec}` would run on no problem", hint="leave problems out for all of them")
        for key, values in self.sweep.items():
            if not values:
                raise ConfigError(f"sweep.{key} is empty", hint="a list of numbers")
            if key in self.settings:
                raise ConfigError(f"`{key}` is set and swept", hint="it is one or the other")

    @property
    def has_steps(self) -> bool:
        """Whether the table says how many steps it takes; budgets of the study are not for it then."""
        return "steps" in {*self.settings, *self.sweep}


@dataclass(frozen=True, kw_only=True)
class SamplerRow:
    """One sampler of the grid: a table, with one combination of its sweep, at one of its budgets."""

    table: SamplerTable
    label: str
    settings: dict[str, object]
    swept: tuple[tuple[str, float], ...] = ()
    budget: int | None = None

    def spec(self, preset: str = "") -> str:
        """The sampler or preset, with another preset of the same sampler where one is given."""
        return f"{split(self.table.spec)[0]}:{preset}" if preset else self.table.spec

    def accepts(self, problem: str) -> bool:
        """Whether the file wants this sampler on the problem of this label."""
        return any(fnmatchcase(problem, pattern) for pattern in self.table.problems)

    def make(
        self, kind: ProblemKind, probe: Problem, settings: Mapping[str, object] = NO_SETTINGS, preset: str = ""
    ) -> Source:
        """The source for problems of a kind, of which `probe` is one, with another preset and further settings.

        Raises:
            UnsupportedProblem: If the sampler cannot handle the problem; `OverBudget` if not at this budget.
        """
        for key, _ in self.swept:
            if key in settings:
                raise ConfigError(f"the setting {key!r} is swept: it has a value of its own in each row")
        spec, merged = self.spec(preset), {**self.settings, **settings}
        if own_source(spec):
            return SOURCES.make(spec, merged, kind)
        return SOURCES[self.table.source].make({}, make_sampler(spec, merged, probe, budget=self.budget))


@dataclass(frozen=True, kw_only=True)
class Override:
    """A table `[[overrides]]`: patterns for labels, and the settings, draws or preset that differ there."""

    problem: str = "*"
    sampler: str = "*"
    samples: int | None = None
    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")
        if self.samples is None and not self.settings and not self.preset:
            raise ConfigError("it changes nothing", hint="give it settings, a preset or samples")

    def matches(self, problem: str, sampler: str) -> bool:
        """Whether it is for the cell of these labels."""
        return fnmatchcase(problem, self.problem) and fnmatchcase(sampler, self.sampler)


def parse_problem(table: Mapping[str, Any], index: int) -> ProblemRow:
    """The row of the table `[[problems]]` at this index."""
    where = f"[[problems]] number {index + 1}"
    own = {field.name for field in fields(ProblemTable)}
    parsed = build(ProblemTable, {key: value for key, value in table.items() if key in own}, where)
    settings = {key: value for key, value in table.items() if key not in own}
    with about(where):
        seeds = _seeds(settings.pop("seeds", None))
        made = KINDS.make(parsed.kind, settings)
    return ProblemRow(label=label_of(table), kind=made, seeds=seeds, metrics=parsed.metrics)


def check_metrics(names: Iterable[str], known: Catalogue[Any]) -> None:
    """Refuse a metric that is not registered."""
    for name in names:
        known.find(name)


def _seeds(given: Any) -> tuple[int, ...]:
    """Seeds as a list, or as `{ first = 0, count = 10 }`."""
    if isinstance(given, Mapping) and set(given) == {"first", "count"}:
        first, count = given["first"], given["count"]
        possible = type(first) is type(count) is int and 0 < count <= MOST_SEEDS
        given = list(range(first, first + count)) if possible else None
    if not isinstance(given, list) or not given or not all(type(seed) is int for seed in given):
        raise ConfigError(
            "seeds must be a list of integers", hint=f"or {{ first = 0, count = 10 }}, of at most {MOST_SEEDS:,}"
        )
    _check_storable(given)
    if len(set(given)) < len(given):
        raise ConfigError(f"a seed occurs twice in {given}")
    return tuple(given)


def _check_storable(seeds: Iterable[int]) -> None:
    """Refuse seeds that results could not be stored with."""
    for seed in seeds:
        if not -(2**63) <= seed < 2**63:
            raise ConfigError(f"the seed {str(seed)[:40]} has more than 64 bits", hint="take one below 2**63")


def parse_samplers(table: Mapping[str, Any], index: int, budgets: tuple[int, ...] = ()) -> list[SamplerRow]:
    """The rows of the table `[[samplers]]` at this index: one for each combination of its sweep and each budget.

    Args:
        table: as plain values.
        index: counts from 0.
        budgets: of samplers that have none of their own.
    """
    parsed = build(SamplerTable, table, f"[[samplers]] number {index + 1}")
    if parsed.budgets is not None or own_source(parsed.spec) or parsed.has_steps:
        budgets = parsed.budgets or ()
    rows = []
    for budget, values in product(budgets or (None,), product(*parsed.sweep.values())):
        settings = tuple(zip(parsed.sweep, values, strict=True))
        swept = settings if budget is None else (("budget", float(budget)), *settings)
        label = ", ".join([label_of(table), *(f"{key} {value:g}" for key, value in swept)])
        merged = {**parsed.settings, **dict(settings)}
        rows.append(SamplerRow(table=parsed, label=label, settings=merged, swept=swept, budget=budget))
    return rows


def check_budgets(budgets: tuple[int, ...]) -> None:
    """Refuse budgets that are not positive, or occur twice."""
    if any(budget < 1 for budget in budgets) or len(set(budgets)) < len(budgets):
        raise ConfigError(
            f"budgets must be positive and differ, got {list(budgets)}", hint="network calls, such as [10, 100, 1000]"
        )


def parse_override_table(table: Mapping[str, Any], index: int) -> Override:
    """The table `[[overrides]]` at this index."""
    return build(Override, table, f"[[overrides]] number {index + 1}")
