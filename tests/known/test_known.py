"""What every known posterior owes: one observation, a seed that decides, draws with the stated moments."""

import json

import pytest
import torch

from midguide.catalogue.directory import catalogue
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.exact.posteriors import Opaque, error_of, known_prior, posterior_of
from midguide.known.base import KNOWN
from midguide.maths.rng import Rng
from midguide.metrics.base import METRICS
from midguide.priors.gaussian import Gaussian
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem
from midguide.studies.kinds.base import KINDS
from midguide.testing.pieces import check_piece

SMALL = {"glyphs-blocks": {"count": 60}, "glyphs-pixels": {"count": 60}, "patches-blocks": {"count": 60}}
SMALL |= {name: {"length": 8} for name in ("levy-jumps", "levy-laplace", "levy-student")}
READY = sorted(name for name, entry in KNOWN.items() if not entry.required())


@pytest.mark.parametrize("name", READY)
def test_a_seed_decides_the_problem_and_its_posterior(name):
    first, again, other = (KNOWN.make(name, SMALL.get(name, {}), seed) for seed in (0, 0, 1))
    assert first.observations == 1
    assert torch.equal(first.likelihood.y, again.likelihood.y)
    assert not torch.equal(first.likelihood.y, other.likelihood.y)
    assert first.truth is not None


@pytest.mark.parametrize("name", READY)
def test_draws_have_the_moments_that_the_posterior_states(name):
    """1,000 draws: the mean is off by 0.032 deviations an entry, in the root mean square over entries below 0.06."""
    problem = KNOWN.make(name, SMALL.get(name, {}), 1)
    posterior = posterior_of(problem)
    mean, covariance = posterior.mean_and_covariance()
    draws = posterior.sample(1000, seed=3).double().flatten(1)
    gap = (draws.mean(0) - mean.double().flatten()) / covariance.diagonal().sqrt()
    assert float(gap.square().mean().sqrt()) < 0.1
    assert float(draws.var(0).sum() / covariance.trace()) == pytest.approx(1, abs=0.15)
    assert error_of(posterior) < 0.03
    assert torch.equal(posterior.sample(5, seed=3), posterior.sample(5, seed=3))


def test_the_learned_denoiser_of_walks_is_near_the_exact_one_and_knows_the_same_posterior():
    exact, learned = (KNOWN.make("levy-laplace", {"denoiser": denoiser}, 0) for denoiser in ("exact", "learned"))
    x = exact.denoiser.sample(200, seed=9)
    for ratio in (0.2, 1.0, 5.0):
        t = exact.schedule.time_at(ratio)
        level = exact.schedule.level(t)
        x_t = level.alpha * x + level.sigma * Rng([(0, "noise")], size=200).normal(x)
        other = learned.denoiser.on(exact.schedule)
        gap = (other(x_t, t) - exact.denoiser(x_t, t)).square().mean().sqrt()
        spread = (x - exact.denoiser(x_t, t)).square().mean().sqrt()
        assert gap < 0.25 * spread  # 6 % of the least error
    assert torch.equal(posterior_of(exact).sample(2, seed=1), posterior_of(learned).sample(2, seed=1))


def test_walks_without_a_network_and_of_other_lengths_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="no network is shipped for `gauss`"):
        KNOWN.make("levy", {"law": "gauss", "measured": "all", "denoiser": "learned"}, 0)
    with pytest.raises(ShapeError, match="walks of 16 entries, these have 8"):
        KNOWN.make("levy-laplace", {"length": 8, "denoiser": "learned"}, 0)


@pytest.mark.parametrize("name", READY)
def test_truths_are_where_the_posterior_is(name):
    """Ranks of two entries of three truths among 200 draws: all six below 3 % or above 97 % has odds of 5e-8."""
    ranks = []
    for seed in range(3):
        problem = KNOWN.make(name, SMALL.get(name, {}), seed)
        draws = posterior_of(problem).sample(200, seed=1).flatten(1).double()
        truth = problem.truth.flatten().double()
        ranks += [float((draws[:, i] < truth[i]).double().mean()) for i in (0, -1)]
    assert any(0.03 < rank < 0.97 for rank in ranks)


def test_opaque_priors_answer_as_they_did_and_show_no_moments():
    prior = KNOWN.make("mixture-25", {}, 0).denoiser
    hidden = Opaque(prior)
    x = torch.ones(2, 20)
    assert torch.equal(hidden(x, 500), prior(x, 500))
    assert prior.exact_moments
    assert not hidden.exact_moments
    assert hidden.record() != prior.record()


def test_a_prior_that_cannot_be_sampled_is_refused():
    hidden = Wrapped(Gaussian(torch.zeros(3), 1.0))
    with pytest.raises(UnsupportedProblem, match="Wrapped has no exact posterior"):
        known_prior(Problem.unobserved(hidden))
    with pytest.raises(UnsupportedProblem, match="it needs an exact posterior: Wrapped has no exact posterior"):
        METRICS.make("energy_distance").check(Problem.unobserved(hidden))


def test_an_unknown_name_is_one_line_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown known posterior `glyphs-block`\nhint: did you mean `glyphs-blocks`"):
        KINDS.make("known", {"problem": "glyphs-block"})
    with pytest.raises(ConfigError, match="gaussian has no setting `sigma`"):
        KINDS.make("known", {"problem": "gaussian", "settings": {"sigma": 1}}).build(0)


def test_an_own_problem_registers_as_any_other(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from midguide.exact.problems import random_gaussian_problem\n"
        "from midguide.problem import Problem\n"
        "def mine(seed: int, *, dimension: int = 4) -> Problem:\n"
        '    "My problem."\n'
        "    return random_gaussian_problem(dimension, 2, seed, 0.3)\n"
        "def wrong(seed: int) -> int:\n    return 3\n"
    )
    made = KINDS.make("known", {"problem": f"{file}:mine", "settings": {"dimension": 3}})
    assert made.build(1).event_shape == (3,)
    with pytest.raises(ConfigError, match="it makes no problem"):
        KNOWN.make(f"{file}:wrong", {}, 0)
    report = check_piece(f"{file}:mine")
    assert report.kind == "known posterior"
    assert report.broken == ()


def test_check_names_a_problem_that_no_seed_changes_and_a_posterior_that_is_not_known(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n"
        "from midguide.exact.problems import random_gaussian_problem\n"
        "from midguide.likelihoods import observe\n"
        "from midguide.operators.matrix import Identity\n"
        "from midguide.priors.wrapped import Wrapped\n"
        "from midguide.problem import Problem\n"
        "def stuck(seed: int) -> Problem:\n"
        "    return random_gaussian_problem(4, 2, 0, 0.3)\n"
        "def hidden(seed: int) -> Problem:\n"
        "    prior = random_gaussian_problem(4, 2, seed, 0.3).denoiser\n"
        "    return Problem(Wrapped(prior), observe(Identity(), prior.sample(1), 0.3, seed=seed))\n"
    )
    assert "is the same problem for every seed" in check_piece(f"{file}:stuck").broken[0]
    assert "Wrapped has no exact posterior" in check_piece(f"{file}:hidden").refused[0]


def test_lists_say_of_each_what_it_is():
    listed = {row["name"]: row for row in catalogue("known").listed()}
    json.dumps(listed)
    assert listed["glyphs-blocks"]["family"] == "images"
    assert listed["finite-sample"]["required"] == ["data", "operator"]
