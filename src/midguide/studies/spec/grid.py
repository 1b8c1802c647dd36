"""The rows of a study's file together: distinguishable labels, and patterns that match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from midguide.catalogue.base import short
from midguide.catalogue.settings import build
from midguide.errors import ConfigError, suggestion
from midguide.studies.spec.plain import table_of, tables_of
from midguide.studies.spec.tables import (
    Head,
    Override,
    ProblemRow,
    SamplerRow,
    parse_override_table,
    parse_problem,
    parse_samplers,
)

TABLES = ("study", "problems", "samplers", "overrides")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All tables of a study.

    Raises:
        ConfigError: If two rows or metrics have one label, or a pattern matches nothing.
    """

    head: Head
    problems: tuple[ProblemRow, ...]
    samplers: tuple[SamplerRow, ...]
    overrides: tuple[Override, ...]

    def __post_init__(self) -> None:
        _check_labels("[[problems]]", [row.label for row in self.problems])
        _check_labels("[[samplers]]", [row.label for row in self.samplers])
        metrics = {*self.head.metrics, *self.head.set_metrics, *(name for row in self.problems for name in row.metrics)}
        _check_labels("metrics", [short(name) for name in metrics])
        if self.head.minimizers and not any(row.swept for row in self.samplers):
            raise ConfigError(
                "[study]: minimizers are those of a sweep, and no sampler has one", hint="remove minimizers"
            )
        for sampler in self.samplers:
            self._check_patterns(sampler)
        for i, override in enumerate(self.overrides):
            self._check_override(override, i)

    def _check_patterns(self, sampler: SamplerRow) -> None:
        for pattern in sampler.table.problems:
            if not any(fnmatchcase(problem.label, pattern) for problem in self.problems):
                known = ", ".join(repr(problem.label) for problem in self.problems)
                raise ConfigError(
                    f"sampler {sampler.label!r}: {pattern!r} matches no problem", hint=f"labels are: {known}"
                )

    def _check_override(self, override: Override, index: int) -> None:
        cells = (
            (problem.label, sampler.label)
            for problem in self.problems
            for sampler in self.samplers
            if sampler.accepts(problem.label)
        )
        if not any(override.matches(*cell) for cell in cells):
            labels = f"problems {[p.label for p in self.problems]}, samplers {[s.label for s in self.samplers]}"
            raise ConfigError(f"[[overrides]] number {index + 1} matches no cell", hint=f"labels are: {labels}")


def parse_grid(plain: Mapping[str, Any]) -> Grid:
    """The tables of plain values, each checked on its own and then together."""
    for key in plain:
        if key not in TABLES:
            raise ConfigError(f"unknown table [{key}]", hint=suggestion(key, TABLES))
    head = build(Head, table_of(plain, "study"), "[study]")
    problems = [parse_problem(table, i) for i, table in enumerate(tables_of(plain, "problems"))]
    samplers = [
        row for i, table in enumerate(tables_of(plain, "samplers")) for row in parse_samplers(table, i, head.budgets)
    ]
    changes = tables_of(plain, "overrides") if "overrides" in plain else []
    overrides = [parse_override_table(table, i) for i, table in enumerate(changes)]
    return Grid(head=head, problems=tuple(problems), samplers=tuple(samplers), overrides=tuple(overrides))


def _check_labels(what: str, labels: list[str]) -> None:
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{what}: a label occurs twice in {sorted(labels)}", hint="give each its own label")
