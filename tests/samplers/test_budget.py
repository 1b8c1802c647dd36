"""Samplers at a budget of network calls."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import DiscreteVP
from midguide.diffusion.walks import Travel
from midguide.errors import ConfigError
from midguide.operators.matrix import Identity
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, make_sampler
from midguide.samplers.budget import FEW_STEPS, FEWEST_STEPS, OverBudget, total_calls, within_budget

SPECS = [spec for name in SAMPLERS for spec in (name, *(f"{name}:{preset}" for preset in SAMPLERS.presets(name)))]
FROM_OUTSIDE = Path(__file__).parents[1] / "accuracy" / "particles.py"


class LikeANetwork(Gaussian):
    """A prior whose moments cost vjps."""

    exact_moments = False


def problem(dimension: int = 6) -> Problem:
    prior = LikeANetwork(torch.zeros(dimension), 1.0)
    return Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.1)


def cost(sampler, steps: int) -> float:
    try:
        made = dataclasses.replace(sampler, steps=steps)
        made.times(problem())
        return total_calls(made, problem())
    except ConfigError:
        return math.inf


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("budget", [20, 300])
def test_every_preset_uses_its_budget_or_says_what_it_takes(spec, budget):
    sampler = make_sampler(spec)
    least = min(cost(sampler, steps) for steps in range(FEWEST_STEPS, FEW_STEPS))
    if spec.startswith("matheron:") and budget < least:  # whose weights take vjps by measured values
        with pytest.raises(OverBudget, match=f"`matheron` takes at least [0-9]+ network calls, the budget is {budget}"):
            within_budget(sampler, problem(), budget)
    else:
        assert 0.6 * budget <= total_calls(within_budget(sampler, problem(), budget), problem()) <= budget


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_no_other_number_of_steps_comes_nearer_from_below(name):
    found = within_budget(make_sampler(name), problem(), 40)
    every = [cost(found, steps) for steps in range(FEWEST_STEPS, 60)]
    assert total_calls(found, problem()) == max(calls for calls in every if calls <= 40)


def test_what_happens_inside_a_step_stays_while_sixteen_steps_fit():
    mmps = make_sampler("mmps")
    assert within_budget(mmps, problem(), 100) == dataclasses.replace(mmps, steps=25)
    assert within_budget(mmps, problem(), 50) == dataclasses.replace(mmps, steps=16, iterations=2)
    assert within_budget(mmps, problem(), 10) == dataclasses.replace(mmps, steps=5, iterations=1)


def test_rules_and_time_travel_are_halved_too():
    rule = StepRule(default=3, cleanest=(20, 2), every=(10, 20))
    copaint = make_sampler("copaint", {"gradient_steps": 7, "travel": {"length": 5, "repeats": 6}})
    found = within_budget(copaint, problem(), 160)
    assert (found.gradient_steps, found.travel) == (2, Travel(length=5, repeats=2))
    assert rule.halved() == StepRule(default=2, cleanest=(20, 1), every=(10, 10))


def test_a_sampler_of_few_steps_keeps_its_inner_counts():
    few = make_sampler("mmps", {"steps": 8})
    assert within_budget(few, problem(), 40) == dataclasses.replace(few, steps=10)
    assert FEW_STEPS > 10


def test_settings_that_cost_no_calls_stay():
    daps = make_sampler("daps", {"iterations": 30})
    assert within_budget(daps, problem(), 20).iterations == 30


def test_groups_stay_together():
    islands = make_sampler("tds:islands")
    assert within_budget(islands, problem(), 20).needs == islands.needs


def test_a_sampler_from_a_file_has_budgets_too():
    found = within_budget(make_sampler(f"{FROM_OUTSIDE}:TwistedFilter"), problem(), 40)
    assert 30 <= total_calls(found, problem()) <= 40


def test_a_schedule_of_few_levels_bounds_the_steps():
    prior = Gaussian(torch.zeros(6), 1.0, schedule=DiscreteVP.linear(30))
    assert within_budget(make_sampler("ddrm"), Problem.unobserved(prior), 100).steps == 30


def test_impossible_budgets_are_refused():
    with pytest.raises(ConfigError, match="budget must be at least 1, got 0"):
        within_budget(make_sampler("ddrm"), problem(), 0)
    with pytest.raises(OverBudget, match="`ddrm` takes at least 2 network calls, the budget is 1"):
        within_budget(make_sampler("ddrm"), problem(), 1)
