"""Samplers at a budget: the settings of a method that come nearest to a number of network calls, from below.

The rule is the same for every method, so that methods can be compared at equal cost:

1. `steps` is the largest number whose cost stays within the budget; all other settings stay.
2. Where fewer than `FEW_STEPS` steps fit, the budget halves the counts inside a step that cost calls: gradient steps,
   inner iterations, moves, walks, time travel. It halves all of them together, rounded up, until so many fit or all are
   1.

What a sampler costs is its own `calls`, which is exact.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from midguide.diffusion.rules import StepRule
from midguide.diffusion.walks import Travel
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Sampler

FEW_STEPS = 16
"""Steps that are worth more than what happens inside them."""

FEWEST_STEPS = 2
"""One step would be the denoised noise."""

NEAR = 10
"""Numbers of steps around the one found that are tried, too: the cost need not grow with every step."""


class OverBudget(UnsupportedProblem):
    """A method costs more than a budget whatever its settings; the message says how much."""


def total_calls(sampler: Sampler, problem: Problem) -> int:
    """Network calls that one sample costs: forwards and vjps together."""
    return sum(sampler.calls(problem)) * problem.denoiser.evaluations


def within_budget(sampler: Sampler, problem: Problem, budget: int) -> Sampler:
    """The same method, with the steps and inner counts that come nearest to a budget from below.

    Args:
        sampler: any one with a setting `steps`; its other settings are kept, but for counts inside a step where the
            budget is small.
        problem: its prior says which steps there are, and what a call of its moments costs.
        budget: most network calls of one sample: forwards and vjps together.

    Raises:
        ConfigError: If the budget is not positive, or the sampler has no setting `steps`.
        OverBudget: If even the fewest steps cost more.

    Example:
        >>> import torch
        >>> from midguide import Problem, make_sampler
        >>> from midguide.priors import Gaussian
        >>> problem = Problem.unobserved(Gaussian(torch.zeros(4), 1.0))
        >>> within_budget(make_sampler("ddrm"), problem, 50).steps
        50
        >>> within_budget(make_sampler("dps"), problem, 50).calls(problem)
        Calls(forwards=25, vjps=24)
    """
    if budget < 1:
        raise ConfigError(f"budget must be at least 1, got {budget}", hint="network calls of one sample, such as 100")
    if "steps" not in _settings(sampler):
        raise ConfigError(
            f"`{SAMPLERS.name_of(sampler)}` has no setting `steps`, so that no budget fits it",
            hint="a sampler at a budget is a dataclass with a field `steps`",
        )
    wanted, tried = min(FEW_STEPS, sampler.steps), sampler
    found = _with_most_steps(tried, problem, budget)
    while found is None or found.steps < wanted:
        lighter = _halved(tried, problem)
        if lighter == tried:
            break
        tried = lighter
        found = _with_most_steps(tried, problem, budget) or found
    if found is None:
        least = min(_cost(tried, problem, steps) for steps in range(FEWEST_STEPS, FEW_STEPS))
        raise OverBudget(
            f"`{SAMPLERS.name_of(sampler)}` takes at least {least:,.0f} network calls, the budget is {budget:,}",
            hint="give it a larger budget, or take another sampler",
        )
    return found


def _with_most_steps(sampler: Sampler, problem: Problem, budget: int) -> Sampler | None:
    """The sampler with the number of steps whose cost is nearest to the budget from below; None if none is below."""
    costs: dict[int, float] = {}

    def fits(steps: int) -> bool:
        costs[steps] = _cost(sampler, problem, steps)
        return costs[steps] <= budget

    low = next((steps for steps in _doubling(FEWEST_STEPS, budget + 2) if fits(steps)), None)
    if low is None:
        return None
    high = next((steps for steps in _doubling(2 * low, 2 * budget + 2) if not fits(steps)), 2 * budget + 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    near = [steps for steps in range(max(low - NEAR, FEWEST_STEPS), low + NEAR + 1) if fits(steps)]
    return _with(sampler, steps=max(near, key=lambda steps: (costs[steps], steps)))


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to last."""
    return [first * 2**i for i in range(max(last // first, 1).bit_length())]


def _cost(sampler: Sampler, problem: Problem, steps: int) -> float:
    """Network calls with so many steps; infinite where the schedule or the sampler does not allow them."""
    try:
        made = _with(sampler, steps=steps)
        made.times(problem)
        return total_calls(made, problem)
    except ConfigError:
        return math.inf


def _halved(sampler: Sampler, problem: Problem) -> Sampler:
    """The sampler with half of each count inside a step that costs calls; an equal one where none is above 1."""
    cheaper, steps = {}, (FEW_STEPS, sampler.steps)
    costs = [_cost(sampler, problem, n) for n in steps]
    for name in _settings(sampler) - {"steps"}:
        half = _half(getattr(sampler, name))
        lighter = _with(sampler, **{name: half})
        if half == getattr(sampler, name) or lighter.needs != sampler.needs:
            continue
        if any(_cost(lighter, problem, n) < cost for n, cost in zip(steps, costs, strict=True)):
            cheaper[name] = half
    return _with(sampler, **cheaper)


def _half(value: Any) -> Any:
    """Half of a count, or of the counts of a rule, rounded up; anything else as it is."""
    match value:
        case int() if not isinstance(value, bool) and value > 1:
            return (value + 1) // 2
        case StepRule() | Travel():
            return value.halved()
    return value


def _settings(sampler: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(sampler) if field.init}


def _with(sampler: Any, **changes: Any) -> Any:
    return dataclasses.replace(sampler, **changes)
