"""The study behind a calibration: many problems of one prior and operator, a few samplers, ranks as metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midguide.calibration.coverage import needed
from midguide.calibration.verdict import check_counts
from midguide.errors import ConfigError, about
from midguide.exact.posteriors import KnowsPosterior, unwrapped
from midguide.metrics.ranks import QUANTITIES, inapplicable, metric_name
from midguide.problem import Problem
from midguide.studies.kinds.base import KINDS, ProblemKind
from midguide.studies.kinds.drawn import DrawnProblem
from midguide.studies.sources.base import own_source

LABEL = "problem"
SCORES = (
    "crps[estimator=fair]",
    "energy_score[estimator=fair]",
    "energy_score_measured[estimator=fair]",
    "chi_square",
)
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of central intervals."""

APART = 100_000
"""Problems of different seeds of a calibration are this far apart."""

VALUES = 2**19
"""Values of all draws of one batch with a network; with a prior in closed form, eight times as many."""


def coverage_name(level: float) -> str:
    """The metric that is the share of values whose central interval holds the truth."""
    return f"truth_coverage[level={level},by=rank]"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to calibrate, and by what.

    Args:
        problem: a table of problems without its seeds: `kind`, by default `drawn`, and its settings.
        samplers: tables of samplers, as in a study's file: `spec`, and perhaps `settings`, `label` and `source`.
        n: problems.
        draws: of each.
        seed: of problems and draws.
        level: probability that the verdict on exact draws is a false alarm.
        quantities: further test quantities, `FILE.py:NAME`.
        workers: processes, among which problems are shared out.
        device: where networks compute.
        name: of the study.
        claims: whether verdicts are wanted, for which few problems or draws are refused; otherwise scores are.

    Raises:
        ConfigError: If there are too few problems or draws for a claim.
    """

    problem: Mapping[str, Any]
    samplers: Sequence[Mapping[str, Any]]
    n: int = 200
    draws: int = 31
    seed: int = 0
    level: float = 0.05
    quantities: tuple[str, ...] = ()
    workers: int = 1
    device: str = "cpu"
    name: str = "calibrate"
    claims: bool = True
    kind: ProblemKind = field(init=False)

    def __post_init__(self) -> None:
        if self.claims:
            check_counts(self.n, self.draws)
        if not 0 < self.level < 1:
            raise ConfigError(f"the level must be in (0, 1), got {self.level:g}", hint="0.05, say")
        settings = {key: value for key, value in self.problem.items() if key != "kind"}
        object.__setattr__(self, "kind", KINDS.make(self.problem.get("kind", "drawn"), settings))
        there = self.kind.count() if isinstance(self.kind, DrawnProblem) else None
        if there is not None and there < self.n:
            hint = f"--n {there} takes all of them" if there >= 20 else "take draws of the prior: leave --truths out"
            raise ConfigError(f"{self.n} problems need as many truths, there are {there}", hint=hint)

    def left_out(self) -> dict[str, str]:
        """The test quantities of this package that these problems do not have, and why.

        Raises:
            ConfigError: If one from outside cannot be computed.
        """
        probe = self.kind.probe(0)
        for spec in self.quantities:
            with about(f"test quantity {spec}"):
                if reason := inapplicable(spec, probe):
                    raise ConfigError(reason, hint="it is given problems as here, and signals of their prior")
        ours = {name: inapplicable(name, probe) for name, entry in QUANTITIES.items() if entry.origin == "midguide"}
        return {name: reason for name, reason in ours.items() if reason}

    def metrics(self) -> tuple[str, ...]:
        """The metrics of the study: ranks by test quantities, coverage, scores."""
        without = self.left_out()
        ours = [name for name, entry in QUANTITIES.items() if entry.origin == "midguide" and name not in without]
        ranks = [metric_name(spec) for spec in (*ours, *self.quantities)]
        levels = [coverage_name(level) for level in LEVELS if needed(level) <= self.draws]
        return (*ranks, *levels, *SCORES)

    def plain(self) -> dict[str, Any]:
        """The study as plain values, as of a TOML file."""
        first = 0 if self._held_out else self.seed * APART
        problem = {"kind": "drawn", **self.problem, "label": LABEL, "seeds": {"first": first, "count": self.n}}
        head = {
            "name": self.name,
            "samples": self.draws,
            "metrics": list(self.metrics()),
            "seeds": [self.seed],
            "batch": self.batch(self.kind.probe(first)),
        }
        samplers = [{"label": str(table["spec"]), **table} for table in self.samplers]
        return {"study": head, "problems": [problem], "samplers": samplers}

    def batch(self, probe: Problem) -> int:
        """How many problems are drawn together: all that a process has, as far as memory is not strained."""
        exact = isinstance(unwrapped(probe.denoiser), KnowsPosterior)
        most = (8 if exact else 1) * VALUES // (self.draws * math.prod(probe.event_shape))
        return max(1, min(math.ceil(self.n / self.workers), most))

    @property
    def _held_out(self) -> bool:
        return isinstance(self.kind, DrawnProblem) and self.kind.count() is not None


def sampler_tables(specs: Sequence[str], settings: Mapping[str, Any], source: str = "") -> list[dict[str, Any]]:
    """Tables of samplers by name; references, such as `exact`, take no settings."""
    made = []
    for spec in specs:
        own = own_source(spec) is not None
        further = {} if own or not source else {"source": source}
        made.append({"spec": spec, **({} if own or not settings else {"settings": dict(settings)}), **further})
    return made
