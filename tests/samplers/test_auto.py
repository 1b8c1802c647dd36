"""`auto`: the rule that chooses a sampler by the problem."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from midguide.errors import ConfigError
from midguide.inference.loop import sample
from midguide.likelihoods.gaussian import observe
from midguide.likelihoods.poisson import PoissonLikelihood
from midguide.operators.base import Operator
from midguide.operators.matrix import Identity
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.problem import Problem
from midguide.samplers.auto import FEW_MEASURED, RULE, choose, reason_of
from midguide.samplers.base import SAMPLERS, check_needs, make_sampler
from midguide.samplers.budget import total_calls


class LikeANetwork(Gaussian):
    """A prior whose moments cost vjps."""

    exact_moments = False


class Square(Operator):
    """`A(x) = x^2`."""

    def __call__(self, x):
        return x.square()


def observed(prior, operator=None) -> Problem:
    operator = operator or Identity()
    return Problem.of(prior, observe(operator, prior.sample(1), 0.1))


def latent() -> Problem:
    codec = NetworkAutoencoder(lambda x: x[:, :4], lambda z: torch.cat([z, -z], 1), (8,), (4,))
    prior = LatentPrior(Gaussian(torch.zeros(4), 1.0), codec)
    return Problem.of(prior, observe(Identity(), torch.zeros(1, 8), 0.1))


def counts() -> Problem:
    prior = LikeANetwork(torch.ones(4), 0.01)
    return Problem.of(prior, PoissonLikelihood(Identity(), torch.tensor([[3, 4, 5, 6]]).float(), rate=4.0))


PROBLEMS = {
    "a prior of latents": latent,
    "noise that is not Gaussian": counts,
    "a prior with moments in closed form, up to 64 measured values, linear": lambda: observed(
        Gaussian(torch.zeros(4), 1.0)
    ),
    "a prior with moments in closed form": lambda: observed(Gaussian(torch.zeros(FEW_MEASURED + 1), 1.0)),
    "a linear operator": lambda: observed(LikeANetwork(torch.zeros(4), 1.0)),
    "a nonlinear operator": lambda: observed(LikeANetwork(torch.zeros(4), 1.0), Square()),
}


@pytest.mark.parametrize("line", RULE, ids=[line.when for line in RULE])
def test_each_line_is_chosen_for_its_problems_and_makes_a_sampler_that_takes_them(line):
    problem = PROBLEMS[line.when]()
    assert choose(problem) is line
    sampler = make_sampler("auto", problem=problem)
    check_needs(sampler, problem)
    assert sampler == make_sampler(line.spec, line.settings, problem)
    assert 0 < total_calls(make_sampler("auto", {"budget": 30}, problem), problem) <= 30


def test_what_is_chosen_is_recorded_with_the_reason_and_the_record_makes_the_same_draws():
    problem = PROBLEMS["a linear operator"]()
    drawn = sample(make_sampler("auto", {"steps": 4}, problem), problem, 2, seed=3)
    assert drawn.record["sampler"]["name"] == "matheron"
    assert drawn.record["auto"] == choose(problem).reason
    again = sample(SAMPLERS.from_record(drawn.record["sampler"]), problem, 2, seed=3)
    assert torch.equal(again.draws, drawn.draws)
    assert "auto" not in again.record


def test_the_reason_goes_with_the_sampler_and_not_with_another_like_it():
    sampler = make_sampler("auto", problem=PROBLEMS["a linear operator"]())
    assert reason_of(pickle.loads(pickle.dumps(sampler))) == reason_of(sampler) != ""
    assert reason_of(replace(sampler, steps=3)) == ""
    assert reason_of(replace(sampler)) == ""
    assert sampler == replace(sampler)


def test_auto_without_a_problem_or_with_a_preset_is_refused():
    with pytest.raises(ConfigError, match="`auto` chooses by the problem, and none is given"):
        make_sampler("auto")
    with pytest.raises(ConfigError, match="`auto` has no presets, got `auto:x`"):
        make_sampler("auto:x", problem=latent())
    with pytest.raises(ConfigError, match="a budget is one for a problem"):
        make_sampler("ddrm", budget=10)
    with pytest.raises(ConfigError, match="a budget sets the steps"):
        make_sampler("ddrm", {"steps": 4}, latent(), budget=10)
