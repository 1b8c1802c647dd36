"""The verdict names planted faults with the right cause first, and is silent about right results."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch

from midguide import Problem, make_sampler, sample
from midguide.errors import ConfigError
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.inference.verdict.base import CHECKS, Judged
from midguide.likelihoods import GaussianLikelihood, observe, observe_counts
from midguide.operators import Identity, Mask
from midguide.priors import Gaussian
from midguide.priors.statistics import Statistics
from midguide.priors.wrapped import Wrapped
from tests.inference.verdict_problems import GAUSSIAN, MIXTURE, SHAPE, SIGMA, blur, right, smooth

WIDE, NARROW = blur(1.5), blur(0.5)


@pytest.mark.parametrize("prior", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_a_hundred_right_results_raise_no_more_alarms_than_stated(prior):
    """Fifty with each prior: at a share of 1 % four or more alarms among them have a chance of 0.16 %."""
    truths = prior.sample(50, seed=7)
    alarms = []
    for seed, truth in enumerate(truths):
        n = (1, 4, 20, 50)[seed % 4]
        y = observe(WIDE, truth[None], SIGMA, seed=seed).y
        alarms += [seed] if right(y, WIDE, prior=prior, n=n, seed=seed).check().findings else []
    assert len(alarms) < 4, alarms


def test_right_weighted_results_raise_no_more_alarms_than_stated():
    """Draws of another Gaussian near the posterior, weighed; as above, for 30 results: three or more have 0.3 %."""
    operator, alarms = Mask(torch.arange(64).reshape(SHAPE) % 16 == 0), 0
    for seed in range(30):
        y = observe(operator, GAUSSIAN.sample(1, seed=seed), 0.3, seed=seed).y
        samples = right(y, operator, sigma=0.3, n=400, seed=seed)
        posterior = GAUSSIAN.posterior(GaussianLikelihood(operator, y, 0.3))
        proposal = Gaussian(posterior.mean.float(), posterior.covariance_matrix() * 1.05)
        draws = proposal.sample(400, seed=seed)
        weights = (posterior.log_prob(draws) - proposal.log_prob(draws)).double()
        verdict = replace(samples, draws=draws[None], log_weight=weights[None]).check()
        assert "weights" in {each.check for each in verdict.judged}
        alarms += bool(verdict.findings)
    assert alarms < 3


def planted(fault: str, seed: int) -> Samples:
    """A result that is right but for one fault."""
    truth = GAUSSIAN.sample(1, seed=seed)
    y = observe(WIDE, truth, SIGMA, seed=seed).y
    match fault:
        case "sigma small":
            return right(y, WIDE, sigma=SIGMA / 3, seed=seed)
        case "sigma large":
            return right(y, WIDE, sigma=SIGMA * 3, seed=seed)
        case "0..255":
            return right(127.5 * (y + 1), WIDE, seed=seed)
        case "0..1":
            return right((y + 1) / 2, WIDE, seed=seed)
        case "kernel":
            return right(observe(NARROW, truth, SIGMA, seed=seed).y, WIDE, seed=seed)
        case _:  # another prior: wide, and with a ramp
            ramp = torch.linspace(-1.5, 1.5, SHAPE[-1]).expand(SHAPE)
            other = Gaussian(ramp, smooth(2.0, 0.4)).sample(1, seed=seed)
            return right(observe(WIDE, other, SIGMA, seed=seed).y, WIDE, seed=seed)


CAUSES = {
    "sigma small": "sigma_y is too small",
    "sigma large": "sigma_y is too large",
    "0..255": "value range: y looks like signals of 0 to 255",
    "0..1": "value range: y looks like signals of 0 to 1",
    "kernel": "operator:",
    "another prior": "prior:",
}


@pytest.mark.parametrize("fault", CAUSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_fault_of_the_model_is_named_first(fault, seed):
    findings = planted(fault, seed).check().findings
    assert findings[0].advice.startswith(CAUSES[fault])


WHITE = Gaussian(torch.zeros(1, 8, 8), 1.0)


@pytest.mark.parametrize(
    ("spec", "changes", "cause"),
    [
        ("mgps:paper", {"steps": 20}, "the fits have not converged: take more steps"),
        ("dps", {"steps": 300, "guidance": 10.0}, "`guidance` is 10"),
        ("dps", {"steps": 300, "guidance": 0.1}, "lower `guidance` (0.1 now)"),
        ("dps", {"steps": 300, "guidance": 0.001}, "`guidance` is 0.001"),
        ("pgdm", {"steps": 300}, "overfitting"),
    ],
)
def test_a_planted_fault_of_the_sampler_is_named_first(spec, changes, cause):
    problem = Problem.simulate(WHITE, Identity(), WHITE.sample(1, seed=100), sigma_y=0.3)
    verdict = sample(make_sampler(spec, changes), problem, 20).check()
    assert {"misfit", "spread"} <= {each.check for each in verdict.findings}
    assert cause in verdict.findings[0].advice.split("; or ")[0]
    assert verdict.line().startswith(verdict.findings[0].check)


def test_a_y_that_is_usual_at_one_in_a_hundred_does_not_blame_the_prior_for_the_sampler():
    prior = Gaussian(torch.zeros(1, 32, 32), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1, seed=100), sigma_y=0.3)
    (misfit, *_) = sample(make_sampler("dps", {"steps": 300}), problem, 20).check().findings
    assert misfit.advice.startswith("`steps` is 300, its default 1000")


def test_posteriors_that_are_too_narrow_are_named_where_the_right_one_is_known():
    samples = right(observe(WIDE, GAUSSIAN.sample(1), SIGMA).y, WIDE)
    mean = samples.mean()[:, None]
    for factor, found in ((0.5, True), (1.0, False), (2.0, True)):
        verdict = replace(samples, draws=mean + factor * (samples.draws - mean)).check()
        assert ("spread" in {each.check for each in verdict.findings}) == found


def test_stored_draws_are_judged_with_their_problem_and_with_no_other(tmp_path):
    problem = Problem.simulate(WHITE, Identity(), WHITE.sample(1), sigma_y=0.3)
    samples = sample(make_sampler("matheron"), problem, 20)
    samples.save(tmp_path / "draws")
    loaded = Samples.load(tmp_path / "draws")
    assert loaded.check(problem) == samples.check()
    alone = loaded.check()
    assert {"misfit", "spread", "measurement"} <= set(alone.left_out)
    assert alone.left_out["misfit"] == "the problem is not at hand"
    for other in (Problem.simulate(WHITE, Identity(), WHITE.sample(1), sigma_y=0.2), problem.expand(2)):
        with pytest.raises(ConfigError, match="problem"):
            loaded.check(other)


def test_the_worst_observation_stands_for_all_and_is_named():
    truth = WHITE.sample(3)
    problem = Problem.simulate(WHITE, Identity(), truth, sigma_y=0.3)
    draws = torch.stack([WHITE.posterior(problem.likelihood.select(torch.tensor([i]))).sample(20) for i in range(3)])
    samples = Samples(draws, Cost(0, 0, 0, 0), {}, problem=problem)
    assert not samples.check().findings
    draws[1] += 2.0
    finding = next(each for each in samples.check().findings if each.check == "misfit")
    assert finding.what.endswith("of observation 1")
    assert bool(samples.each()[1].check().findings)
    assert not samples.each()[2].check().findings


def test_checks_are_left_out_where_their_assumptions_fail():
    bright, dark = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), -0.99)
    prior = Gaussian(torch.zeros(1, 4, 4), 0.01)
    for truth, counts in ((bright, False), (dark, True)):
        problem = Problem.of(prior, observe_counts(Identity(), truth, 50.0))
        draws = truth + 0.01 * torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1)
        verdict = Samples(draws[None], Cost(0, 0, 0, 0), {}, problem=problem).check()
        assert ("misfit" in verdict.left_out) == counts
        assert not counts or "counts are below 1" in verdict.left_out["misfit"]
    nothing = Problem.unobserved(prior)
    verdict = Samples(prior.sample(9)[None], Cost(0, 0, 0, 0), {}, problem=nothing).check()
    assert verdict.left_out["misfit"] == "nothing was measured"
    few = right(observe(WIDE, GAUSSIAN.sample(1), SIGMA).y, WIDE, n=2).check()
    assert "2 draws count as 2.0, fewer than 4" in few.left_out["spread"]
    assert "there are 2 draws to split" in few.left_out["repeat"]


def test_a_verdict_shows_itself_and_never_says_right():
    samples = right(observe(WIDE, GAUSSIAN.sample(1), SIGMA).y, WIDE)
    good, bad = samples.check(), replace(samples, draws=samples.draws + 0.3).check()
    assert good.line().startswith("nothing found by these checks: ")
    assert "not seen by any check" in str(good)
    for verdict in (good, bad):
        rows = json.loads(json.dumps(verdict.as_json()))
        assert all(list(row) == ["check", "value", "low", "high", "advice"] for row in rows)
        assert [row["advice"] is not None for row in rows] == [each.found for each in verdict.judged]
        text = str(verdict) + verdict._repr_html_()
        assert not any(word in text.lower() for word in ("correct", " right ", "valid"))
    assert bad.line().startswith(bad.findings[0].check)


def test_a_check_of_ones_own_is_one_function_with_a_name():
    name = "even"
    try:

        @CHECKS.register(name)
        def even(evidence, level):
            """Whether the number of draws is even."""
            return [
                Judged(check=name, what="draws modulo 2", value=evidence.n % 2, low=None, high=0, advice="draw one")
            ]

        odd = right(observe(WIDE, GAUSSIAN.sample(1), SIGMA).y, WIDE, n=5).check()
        assert [each.check for each in odd.findings] == [name]
    finally:
        CHECKS._entries.pop(name)


def test_one_measured_value_is_enough():
    operator = Mask(torch.arange(64).reshape(SHAPE) == 27)
    for value, found in ((0.3, False), (5.0, True)):
        y = torch.where(operator.mask, value, torch.zeros(SHAPE))[None]
        verdict = right(y, operator).check()
        assert {"misfit", "measurement", "spread"} <= {each.check for each in verdict.judged}
        assert bool(verdict.findings) == found


@pytest.fixture(scope="module")
def known():
    """A prior of which nothing but draws and statistics are known, in the range of -1 to 1."""
    prior = Wrapped(GAUSSIAN)
    prior.value_range = (-1.0, 1.0)
    prior.statistics = Statistics.of(GAUSSIAN.sample(3000, seed=5), source="its draws", value_range=(-1.0, 1.0))
    return prior


def as_network(samples: Samples, prior) -> Samples:
    """The same result under a prior that cannot be sampled."""
    assert samples.problem is not None
    return replace(samples, problem=Problem.of(prior, samples.problem.likelihood))


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("0..255", "value range: y looks like signals of 0 to 255"),
        ("sigma small", "sigma_y is too small"),
        ("sigma large", "sigma_y is too large"),
        ("another prior", "prior: the draws have more"),
    ],
)
def test_faults_are_named_where_only_statistics_of_signals_are_known(known, fault, cause):
    verdict = as_network(planted(fault, 1), known).check()
    assert "network calls" in verdict.left_out["measurement"]
    assert verdict.findings[0].advice.startswith(cause)


def test_residuals_are_told_in_the_unit_of_the_draws_and_in_parts_of_the_noise_level(known):
    samples = as_network(planted("sigma large", 1), known)
    (misfit, *_) = samples.check().findings
    ((level, ratio),) = re.findall(r"standard deviation ([\d.]+), ([\d.]+) times sigma_y", misfit.advice)
    assert float(level) == pytest.approx(3 * SIGMA * float(ratio), rel=0.1)
    assert float(ratio) == pytest.approx(misfit.value**0.5, rel=0.1)


def test_right_results_raise_no_more_alarms_than_stated_where_only_statistics_are_known(known):
    """Fifty at a share of 1 %: four or more have a chance of 0.16 %."""
    alarms = 0
    for seed, truth in enumerate(GAUSSIAN.sample(50, seed=11)):
        y = observe(WIDE, truth[None], SIGMA, seed=seed).y
        alarms += bool(as_network(right(y, WIDE, seed=seed), known).check().findings)
    assert alarms < 4


def test_a_y_beyond_what_the_operator_makes_is_named_whatever_the_draws_are(known):
    """As of a sampler whose draws stay in the range of the prior."""
    y = observe(WIDE, 127.5 * (GAUSSIAN.sample(1) + 1), SIGMA).y
    samples = replace(as_network(right(y, WIDE), known), draws=GAUSSIAN.sample(20)[None])
    assert samples.check().findings[0].advice.startswith("value range: y looks like signals of 0 to 255")


def test_impossible_shares_of_false_alarms_are_refused():
    samples = right(observe(WIDE, GAUSSIAN.sample(1), SIGMA).y, WIDE)
    for share in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            samples.check(false_alarms=share)


def test_sigma_is_not_blamed_where_y_is_plausible():
    """Draws that have not converged, of a y that the model makes."""
    problem = Problem.of(WHITE, GaussianLikelihood(Identity(), WHITE.sample(1), 0.3))
    samples = Samples(WHITE.sample(20, seed=3)[None], Cost(0, 0, 0, 0), {}, problem=problem)
    verdict = samples.check()
    assert verdict.findings
    assert not any("sigma_y" in each.advice for each in verdict.findings)
