"""The tables of a study's TOML file: each checked on its own; `spec` puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from types import MappingProxyType
from typing import Any

from midguide.catalogue.base import Catalogue, split
from midguide.catalogue.settings import build
from midguide.errors import ConfigError, about, unknown
from midguide.metrics.base import METRICS, SET_METRICS
from midguide.samplers.base import make_sampler
from midguide.studies.kinds.base import KINDS, ProblemKind
from midguide.studies.sources.base import SOURCES, Source, own_source, taken_of_a_sampler

MOST_SEEDS = 10**6
NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Head:
    """The table `[study]`.

    Args:
        name: what results belong to.
        samples: draws per cell.
        metrics: names of `midguide list metrics`.
        title: what the report is headed by.
        seeds: seeds of the draws; one unit each.
        keep_samples: store the draws, so that they can be measured again.
        batch: units of one cell that are drawn together, where their problems allow it: faster on images, and up to
            rounding the same draws. What an interrupt loses is at most the batch in progress.
        set_metrics: likewise, of all draws of a cell together; needs `keep_samples`.
        expected: the experiment in `expected/*.csv` whose numbers stand beside ours; `name` by default.
        minimizers: also report at which value of a swept setting each metric is least, problem by problem.
    """

    name: str
    samples: int
    metrics: tuple[str, ...]
    title: str = ""
    seeds: tuple[int, ...] = (0,)
    keep_samples: bool = False
    batch: int = 1
    set_metrics: tuple[str, ...] = ()
    expected: str = ""
    minimizers: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")
        if not self.metrics or not self.seeds:
            raise ConfigError("metrics and seeds must not be empty")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"a seed occurs twice in {list(self.seeds)}")
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1, got {self.batch}")
        if self.set_metrics and not self.keep_samples:
            raise ConfigError("set_metrics are computed from stored draws", hint="set keep_samples = true")
        check_metrics(self.metrics, METRICS)
        check_metrics(self.set_metrics, SET_METRICS)


@dataclass(frozen=True, kw_only=True)
class ProblemRow:
    """A table `[[problems]]`: a kind with settings, the seeds that make it several problems, and further metrics."""

    label: str
    kind: ProblemKind
    seeds: tuple[int, ...]
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SamplerTable:
    """A table `[[samplers]]` without its settings.

    Args:
        spec: the sampler or preset.
        label: the spec by default.
        source: what to take of it.
        problems: patterns for the labels of the problems that it runs on; the report names the others as left out.
        where_possible: problems that it cannot handle are left out, too, instead of refused.
    """

    spec: str
    label: str = ""
    source: str = "samples"
    problems: tuple[str, ...] = ("*",)
    where_possible: bool = False

    def __post_init__(self) -> None:
        known = taken_of_a_sampler()
        if self.source not in known:
            raise unknown("source", self.source, known)
        if self.source != "samples" and own_source(self.spec):
            raise ConfigError(f"{self.spec!r} is no sampler, so that it has no {self.source!r}", hint="remove source")
        if not self.problems:
            raise ConfigError(f"{self.spec!r} would run on no problem", hint="leave problems out for all of them")


@dataclass(frozen=True, kw_only=True)
class SamplerRow:
    """One sampler of the grid: a table, with one combination of its sweep."""

    table: SamplerTable
    label: str
    settings: dict[str, object]
    swept: tuple[tuple[str, float], ...] = ()

    def spec(self, preset: str = "") -> str:
        """The sampler or preset, with another preset of the same sampler where one is given."""
        return f"{split(self.table.spec)[0]}:{preset}" if preset else self.table.spec

    def accepts(self, problem: str) -> bool:
        """Whether the file wants this sampler on the problem of this label."""
        return any(fnmatchcase(problem, pattern) for pattern in self.table.problems)

    def make(self, kind: ProblemKind, settings: Mapping[str, object] = NO_SETTINGS, preset: str = "") -> Source:
        """The source for problems of a kind, with another preset and with further settings on top."""
        for key, _ in self.swept:
            if key in settings:
                raise ConfigError(f"the setting {key!r} is swept: it has a value of its own in each row")
        spec, merged = self.spec(preset), {**self.settings, **settings}
        if own_source(spec):
            return SOURCES.make(spec, merged, kind)
        return SOURCES[self.table.source].make({}, make_sampler(spec, merged))


@dataclass(frozen=True, kw_only=True)
class Match:
    """A table `[[overrides]]` without its settings: patterns for labels, and the draws or the preset that differ."""

    problem: str = "*"
    sampler: str = "*"
    samples: int | None = None
    preset: str = ""

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")


def parse_problem(table: Mapping[str, Any], index: int) -> ProblemRow:
    """The row of the table `[[problems]]` at this index."""
    where = f"[[problems]] number {index + 1}"
    settings = dict(table)
    kind, label, seeds, metrics = (settings.pop(key, None) for key in ("kind", "label", "seeds", "metrics"))
    if label is not None and not isinstance(label, str):
        raise ConfigError(f"{where}: label must be text, got {label!r}")
    with about(where):
        made = KINDS.make(str(kind), settings)
    return ProblemRow(label=label or kind, kind=made, seeds=_seeds(seeds, where), metrics=_metrics(metrics, where))


def _metrics(given: Any, where: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ConfigError(f"{where}: metrics must be a list of names, got {given!r}")
    with about(where):
        check_metrics(given, METRICS)
    return tuple(given)


def check_metrics(names: Iterable[str], known: Catalogue[Any]) -> None:
    """Refuse a metric that is not registered."""
    for name in names:
        known.find(name)


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    if isinstance(given, Mapping) and set(given) == {"first", "count"}:
        first, count = given["first"], given["count"]
        possible = type(first) is type(count) is int and 0 < count <= MOST_SEEDS
        given = list(range(first, first + count)) if possible else None
    if not isinstance(given, list) or not given or not all(type(seed) is int for seed in given):
        raise ConfigError(
            f"{where}: seeds must be a list of integers",
            hint=f"or {{ first = 0, count = 10 }}, of at most {MOST_SEEDS:,}",
        )
    if len(set(given)) < len(given):
        raise ConfigError(f"{where}: a seed occurs twice in {given}")
    return tuple(given)


def parse_samplers(table: Mapping[str, Any], index: int) -> list[SamplerRow]:
    """The rows of the table `[[samplers]]` at this index: one for each combination of its sweep."""
    where = f"[[samplers]] number {index + 1}"
    head = {key: value for key, value in table.items() if key not in ("settings", "sweep")}
    parsed = build(SamplerTable, head, where)
    label, settings, sweep = parsed.label or parsed.spec, table_of(table, "settings"), table_of(table, "sweep")
    for key, values in sweep.items():
        numbers = isinstance(values, list) and values and all(type(value) in (int, float) for value in values)
        if not numbers:
            raise ConfigError(f"{where}: sweep.{key} must be a list of numbers, got {values!r}")
        if key in settings:
            raise ConfigError(f"{where}: {key!r} is set and swept", hint="it is one or the other")
    rows = []
    for values in product(*sweep.values()):
        swept = tuple(zip(sweep, values, strict=True))
        words = ", ".join(f"{key} {value:g}" for key, value in swept)
        name = f"{label}, {words}" if words else label
        rows.append(SamplerRow(table=parsed, label=name, settings={**settings, **dict(swept)}, swept=swept))
    return rows


def parse_override_table(table: Mapping[str, Any], index: int) -> tuple[Match, dict[str, object]]:
    """Which cells the table `[[overrides]]` at this index is for, and their settings."""
    where = f"[[overrides]] number {index + 1}"
    match = build(Match, {k: v for k, v in table.items() if k != "settings"}, where)
    settings = table_of(table, "settings")
    if match.samples is None and not settings and not match.preset:
        raise ConfigError(f"{where} changes nothing", hint="give it settings, a preset or samples")
    return match, settings


def matches(match: Match, problem: str, sampler: str) -> bool:
    """Whether an override is for the cell of these labels."""
    return fnmatchcase(problem, match.problem) and fnmatchcase(sampler, match.sampler)


def table_of(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the table at `key`, empty where there is none."""
    value = plain.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table, got {value!r}")
    return dict(value)


def tables_of(plain: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables of the list at `key`, of which there must be one."""
    value = plain.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise ConfigError(f"there is no [[{key}]]", hint=f"a study has at least one table [[{key}]]")
    return value
