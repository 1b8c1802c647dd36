"""Settings of samplers for a prior and an operator, found on draws of the prior and confirmed on fresh ones.

Successive halving: many candidates answer few problems, the best third of them three times as many, and so on. Each
candidate costs the same: its steps follow from a budget of network calls for a draw. Candidates are the default
settings, the presets, and random points of the grid that the class of a sampler declares as `tunable`.

The criterion is the sum of two energy scores, each relative to the median candidate. One is of the signal, the other of
its measured part in units of the noise. Both are proper: the posterior has the least. They hardly see directions of
small variance, but ranks do. So among finalists that are equally good up to two standard errors the largest p-value
wins. The winner then answers fresh problems beside the default settings. Its verdict there is what the preset says of
itself.

References: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from midguide.calibration.uniform import Array
from midguide.calibration.verdict import LEAST_DRAWS, LEAST_PROBLEMS, check_counts
from midguide.catalogue.settings import as_plain
from midguide.errors import ConfigError, MidguideError
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Sampler, check_needs, make_sampler, tunable_of
from midguide.samplers.budget import total_calls, within_budget
from midguide.studies.calibrate.found import Calibrated, Found
from midguide.studies.calibrate.plan import Plan
from midguide.studies.sources.base import own_source

KEPT = 3
"""One in so many candidates goes on, to as many times the problems."""

CRITERION = ("energy_score", "energy_score_measured")

Answer = Callable[[Plan], Found]
"""Runs a plan, and judges it."""


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Args:
        name: of the sampler.
        label: where they come from.
        sampler: with its steps within the budget.
        calls: that one draw costs.
    """

    name: str
    label: str
    sampler: Sampler
    calls: int

    def table(self) -> dict[str, Any]:
        """The table of a study."""
        return {"spec": self.name, "label": self.label, "settings": settings_of(self.sampler)}


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One round of the search.

    Args:
        problems: that each candidate answered.
        criterion: of each candidate, the best first; infinite where it failed.
    """

    problems: int
    criterion: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found.

    Args:
        winner: the candidate.
        rungs: the rounds.
        confirmed: winner and default settings on fresh problems.
        spent: network calls of the whole search.
        candidates: all of them.
    """

    winner: Candidate
    rungs: tuple[Rung, ...]
    confirmed: Found
    spent: int
    candidates: tuple[Candidate, ...]

    @property
    def found(self) -> Calibrated:
        """What was found of the winner on fresh problems."""
        return next(each for each in self.confirmed.samplers if each.label == self.winner.label)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to tune, for which problems, within which budget.

    Args:
        problem: a table of problems, as for `Plan`.
        specs: samplers, each perhaps with a preset to start from; the first is the one to compare with.
        settings: that are kept as they are.
        calls: most network calls of a draw, forwards and vjps.
        budget: most network calls of the whole search.
        draws: of each problem.
        n: fresh problems of the confirmation.
        first: problems of the first round.
        seed: of problems, draws and candidates.
        workers: processes.
        device: where networks compute.

    Raises:
        ConfigError: If the sampler declares nothing to tune, or a budget is too small.
    """

    problem: Mapping[str, Any]
    specs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    calls: int
    budget: int
    draws: int = 15
    n: int = 100
    first: int = 8
    seed: int = 0
    workers: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_counts(self.n, self.draws)
        for spec in self.specs:
            if own_source(spec) is not None or not self.grid(spec):
                known = ", ".join(name for name, entry in SAMPLERS.items() if tunable_of(entry.thing))
                raise ConfigError(f"`{spec}` declares nothing to tune", hint=f"samplers that do: {known}")

    def grid(self, spec: str) -> dict[str, tuple[object, ...]]:
        """The settings of a sampler to search, without those that are kept."""
        entry, _ = SAMPLERS.find(spec)
        kept = {key.partition(".")[0] for key in self.settings}
        return {key: v for key, v in tunable_of(entry.thing).items() if key.partition(".")[0] not in kept}

    def plan(self, candidates: list[Candidate], n: int, *, confirm: bool = False) -> Plan:
        """The study in which candidates answer n problems: the first n of the search, or fresh ones."""
        return Plan(
            problem=self.problem,
            samplers=[candidate.table() for candidate in candidates],
            n=n,
            draws=self.draws,
            seed=self.seed + (1 if confirm else 0),
            workers=self.workers,
            device=self.device,
            name="tune",
            claims=n >= LEAST_PROBLEMS and self.draws >= LEAST_DRAWS,
        )

    def candidates(self) -> list[Candidate]:
        """As many as the budget allows, the default settings first, then presets, then points of the grid."""
        probe = self.plan([], self.n).kind.probe(0)
        found: list[Candidate] = []
        for spec, label, settings in self._tried(probe):
            made = self._candidate(spec, label, settings, probe)
            if made is not None and all(made.sampler != other.sampler for other in found):
                found.append(made)
        if not found:
            raise ConfigError(
                f"no settings of {', '.join(self.specs)} fit {self.calls} network calls", hint="raise --calls"
            )
        count = next((c for c in range(len(found), 1, -1) if self.cost(found[:c]) <= self.budget), 0)
        if not count:
            least = self.cost(found[:2])
            raise ConfigError(
                f"a budget of {self.budget:,} network calls is too small", hint=f"two candidates take {least:,}"
            )
        return found[:count]

    def cost(self, candidates: list[Candidate]) -> int:
        """The network calls of a search among candidates, at most."""
        most = self.draws * max(candidate.calls for candidate in candidates)
        before = np.array([0, *(n for _, n in self.rungs(len(candidates)))])
        rounds = sum(
            count * int(new) for (count, _), new in zip(self.rungs(len(candidates)), np.diff(before), strict=True)
        )
        return most * (rounds + 2 * self.n)

    def rungs(self, count: int) -> list[tuple[int, int]]:
        """Candidates and problems of each round; the last has at most `KEPT` of them, and enough problems for ranks."""
        made = [(count, self.first)]
        while made[-1][0] > KEPT:
            made.append((max(2, made[-1][0] // KEPT), made[-1][1] * KEPT))
        return [*made[:-1], (made[-1][0], max(made[-1][1], LEAST_PROBLEMS))]

    def _tried(self, probe: Problem) -> list[tuple[str, str, dict[str, Any]]]:
        """Samplers, labels and settings: the starts, presets, then all grids in one order of chance, without labels."""
        starts, named, points = [], [], []
        for spec in self.specs:
            check_needs(make_sampler(spec, self.settings), probe)
            entry, preset = SAMPLERS.find(spec)
            starts.append((spec, spec, dict[str, Any]()))
            presets = {} if preset else SAMPLERS.presets(entry.name)
            named += [(spec, f"{entry.name}:{name}", dict(found.settings)) for name, found in presets.items()]
            grid = self.grid(spec)
            points += [(spec, grid, point) for point in product(*grid.values())]
        chosen = [points[i] for i in np.random.default_rng(self.seed).permutation(len(points))]
        drawn = [(spec, "", dict(zip(grid, point, strict=True))) for spec, grid, point in chosen]
        return starts + named + drawn

    def _candidate(self, spec: str, label: str, changes: Mapping[str, Any], probe: Problem) -> Candidate | None:
        """The candidate, or None where its settings are impossible or cost too much."""
        try:
            sampler = within_budget(make_sampler(spec, {**changes, **self.settings}), probe, self.calls)
            label = label or _label(spec, sampler, list(self.grid(spec)))
            return Candidate(SAMPLERS.find(spec)[0].name, label, sampler, total_calls(sampler, probe))
        except MidguideError:
            return None


def tune(search: Search, answer: Answer, announce: Callable[[str], None] = lambda text: None) -> Tuned:
    """Search, and confirm the result.

    Args:
        search: what to tune.
        answer: runs a plan and judges it, see `run.run`; repeated after an interrupt it goes on.
        announce: is told what each round costs.
    """
    candidates = search.candidates()
    announce(f"{len(candidates)} candidates, at most {search.cost(candidates):,} network calls")
    left, rungs, spent, before = candidates, [], 0, 0
    for round_, (_, n) in enumerate(search.rungs(len(candidates))):
        announce(f"round {round_ + 1}: {len(left)} candidates on {n} problems")
        found = answer(search.plan(left, n))
        spent += sum(c.calls for c in left) * search.draws * (n - before)
        score = criterion(found)
        rungs.append(Rung(problems=n, criterion=dict(sorted(score.items(), key=lambda item: item[1]))))
        last = len(left) <= KEPT
        keep = [best_of(found)] if last else list(rungs[-1].criterion)[: max(2, len(left) // KEPT)]
        left, before = [c for c in left if c.label in keep], n
    fresh = list(dict.fromkeys([left[0], candidates[0]]))
    announce(f"confirmation: {len(fresh)} on {search.n} fresh problems")
    confirmed = answer(search.plan(fresh, search.n, confirm=True))
    spent += sum(c.calls for c in fresh) * search.draws * search.n
    return Tuned(winner=left[0], rungs=tuple(rungs), confirmed=confirmed, spent=spent, candidates=tuple(candidates))


def criterion(found: Found) -> dict[str, float]:
    """The criterion of each candidate: 2 for the median one, less is better, infinite where a problem failed."""
    return {label: float(values.mean()) if len(values) else math.inf for label, values in _relative(found).items()}


def best_of(found: Found) -> str:
    """The best candidate: of those within two standard errors of the least criterion, the best calibrated."""
    values, score = _relative(found), criterion(found)
    least = min(score, key=lambda label: score[label])
    if not len(values[least]):
        raise ConfigError("every candidate failed", hint="try the sampler on one problem to see why")
    p_values = {each.label: min((j.p for j in each.judged), default=0.0) for each in found.samplers}

    def ties(label: str) -> bool:
        if not len(values[label]):
            return False
        gap = values[label] - values[least]
        return bool(gap.mean() <= 2 * gap.std(ddof=1) / math.sqrt(len(gap))) if label != least else True

    return max((label for label in score if ties(label)), key=lambda label: (p_values[label], -score[label]))


def _relative(found: Found) -> dict[str, Array]:
    """For each problem the sum of two scores, each over the median candidate's mean; empty where a problem failed."""
    columns = {each.label: np.stack([each.values[name] for name in CRITERION]) for each in found.samplers}
    whole = {label: c for label, c in columns.items() if not np.isnan(c).any()}
    if not whole:
        return {label: np.zeros(0) for label in columns}
    scale = np.median([c.mean(1) for c in whole.values()], axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return {label: (whole[label] / scale[:, None]).sum(0) if label in whole else np.zeros(0) for label in columns}


def settings_of(sampler: Sampler) -> dict[str, Any]:
    """All settings of a sampler as plain values, `off` for none."""
    return _without_none(as_plain(sampler, deep=True))


def as_preset(sampler: Sampler, source: str) -> str:
    """A preset as the text of a TOML file, for `--sampler NAME:FILE.toml`.

    Example:
        >>> from midguide.samplers.dps import DPS
        >>> print(as_preset(DPS(steps=20), "an example"), end="")
        source = "an example"
        <BLANKLINE>
        [settings]
        steps = 20
        guidance = 0.1
        annealed = false
    """
    lines = [f"{key} = {_toml(value)}" for key, value in settings_of(sampler).items()]
    return "\n".join([f"source = {_toml(source)}", "", "[settings]", *lines]) + "\n"


def _toml(value: Any) -> str:
    match value:
        case Mapping():
            return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _without_none(value: Any) -> Any:
    match value:
        case None:
            return "off"
        case Mapping():
            return {key: _without_none(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_none(item) for item in value]
        case _:
            return value


def _label(spec: str, sampler: Sampler, keys: list[str]) -> str:
    """The sampler with the settings that were searched, as they are within the budget."""
    settings = settings_of(sampler)

    def words(key: str) -> object:
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        return value["default"] if isinstance(value, Mapping) and "default" in value else value

    return f"{spec}, " + ", ".join(f"{key} {words(key)}" for key in keys)
