"""Metrics of weighted draws: brute force, repeated draws, scipy, scoringrules and POT; equal weights change nothing."""

import numpy as np
import ot
import pytest
import scoringrules
import torch
from scipy import stats

from midguide.errors import ShapeError
from midguide.exact.problems import mixture_problem, random_gaussian
from midguide.metrics.base import METRICS, Answer, Target
from midguide.metrics.distribution import coverage, mode_weight_tv, sliced_wasserstein
from midguide.metrics.scores import crps, energy_score, truth_coverage
from midguide.operators import Matrix
from midguide.problem import Problem


def cloud(n: int, seed: int = 0, d: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def random_weights(n: int, seed: int = 1) -> torch.Tensor:
    w = torch.from_numpy(np.random.default_rng(seed).exponential(size=n))
    return w / w.sum()


TRUTH = torch.tensor([0.3, -1.0, 2.0]).double()
EQUAL = torch.full((8,), 1 / 8).double()


def test_equal_weights_give_the_scores_without_weights():
    x = cloud(8)
    assert torch.allclose(crps(x, TRUTH, EQUAL), crps(x, TRUTH))
    assert energy_score(x, TRUTH, EQUAL) == pytest.approx(energy_score(x, TRUTH))
    for level in (0.3, 0.5, 0.9):
        assert torch.allclose(truth_coverage(x, TRUTH, level, EQUAL), truth_coverage(x, TRUTH, level))
        assert coverage(x, cloud(50, 2), level, EQUAL) == coverage(x, cloud(50, 2), level)
    for order in (1, 2):
        want = sliced_wasserstein(x, cloud(8, 5), order=order)
        assert sliced_wasserstein(x, cloud(8, 5), order=order, weights=EQUAL) == pytest.approx(want)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_weighted_crps_and_energy_score_are_fair_by_brute_force(n):
    x, w = cloud(n), random_weights(n)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    share = 2 * float(sum(w[i] * w[j] for i, j in pairs))
    entrywise = sum(w[i] * w[j] * (x[i] - x[j]).abs() for i, j in pairs)
    assert torch.allclose(crps(x, TRUTH, w), w @ (x - TRUTH).abs() - entrywise / share)
    norms = sum(w[i] * w[j] * (x[i] - x[j]).norm() for i, j in pairs)
    want = w @ (x - TRUTH).norm(dim=1) - norms / share
    assert energy_score(x, TRUTH, w) == pytest.approx(float(want))


def test_without_the_fair_correction_weighted_crps_is_that_of_scoringrules():
    """The energy form of the weighted empirical law: the fair spread times the weight of different pairs."""
    x, w = cloud(9), random_weights(9)
    misfit = w @ (x - TRUTH).abs()
    spread = (misfit - crps(x, TRUTH, w)) * float(1 - w.square().sum())
    want = scoringrules.crps_ensemble(TRUTH.numpy(), x.numpy().T, ens_w=np.tile(w.numpy(), (3, 1)), estimator="nrg")
    assert np.allclose(misfit - spread, want)


def test_integer_weights_are_repeated_draws():
    counts = torch.tensor([1, 3, 2, 0, 2])
    x, w = cloud(5), counts.double() / 8
    repeated = x.repeat_interleave(counts, 0)
    other = cloud(8, 4)
    for order in (1, 2):
        want = sliced_wasserstein(repeated, other, order=order)
        padded = torch.cat([x, cloud(3, 9)]), torch.cat([w, torch.zeros(3).double()])
        assert sliced_wasserstein(padded[0], other, order=order, weights=padded[1]) == pytest.approx(want)
    mixture = mixture_problem(4, 0).denoiser
    modes = mixture.sample(5, seed=1)
    assert mode_weight_tv(modes, mixture, w) == pytest.approx(
        mode_weight_tv(modes.repeat_interleave(counts, 0), mixture)
    )


def test_weighted_wasserstein_in_one_dimension_is_scipys_and_pots():
    a, b, w = cloud(40, 0, 1), 0.5 + cloud(40, 1, 1), random_weights(40)
    first = stats.wasserstein_distance(a[:, 0], b[:, 0], u_weights=w)
    assert sliced_wasserstein(a, b, weights=w) == pytest.approx(first)
    for order in (1, 2):
        power = ot.wasserstein_1d(a[:, 0].numpy(), b[:, 0].numpy(), w.numpy(), p=order)
        got = sliced_wasserstein(a, b, order=order, weights=w)
        assert got == pytest.approx(float(power) ** (1 / order))


def test_scores_of_one_draw_with_all_weight_are_refused():
    w = torch.tensor([1.0, 0.0, 0.0])
    with pytest.raises(ShapeError, match="one draw has all the weight"):
        crps(cloud(3), TRUTH, w)
    with pytest.raises(ShapeError, match="3 draws need as many weights"):
        energy_score(cloud(3), TRUTH, torch.ones(2))


def test_weighted_coverage_of_the_truth_is_nominal_for_importance_weights():
    """Truths from N(0, 1), draws from N(0, 1.5^2) weighted back: 90 % within five standard errors of 4,000 trials."""
    generator = np.random.default_rng(8)
    held = []
    for _ in range(4000):
        x = torch.from_numpy(generator.normal(scale=1.5, size=(60, 1)))
        w = torch.from_numpy(stats.norm.pdf(x.numpy()) / stats.norm.pdf(x.numpy(), scale=1.5))[:, 0]
        held.append(float(truth_coverage(x, torch.from_numpy(generator.normal(size=1)), 0.9, w)))
    # 0.9 +- 5 sqrt(0.09 / 4000) = 0.024; the weights add no more than 0.005 of bias at an effective size of about 45
    assert abs(np.mean(held) - 0.9) < 0.029


@pytest.fixture(scope="module")
def target() -> Target:
    prior = random_gaussian(3, 0, dtype=torch.float64)
    problem = Problem.simulate(prior, Matrix.create(torch.ones(1, 3).double(), (3,)), prior.sample(1), sigma_y=0.3)
    posterior = prior.posterior(problem.likelihood)
    return Target(problem, posterior, posterior.sample(4000, seed=1))


OTHER_TESTS = ("ecg", "mode", "truth_coverage", "rank[")  # one truth is held or not: nothing to compare
VECTOR_METRICS = [name for name in METRICS if METRICS.make(name).image == 0 and not name.startswith(OTHER_TESTS)]


@pytest.mark.parametrize("name", VECTOR_METRICS)
def test_prior_draws_weighted_by_the_likelihood_are_measured_as_exact_draws(name, target):
    """Importance sampling: without the weights each metric is far off, with them it agrees with exact draws."""
    prior = target.problem.denoiser
    draws = prior.sample(4000, seed=2)
    log_weight = target.problem.expand(4000).likelihood.log_prob(draws)
    compute = METRICS.make(name).compute
    exact = compute(Answer(target.posterior.sample(4000, seed=3)), target)
    weighted = compute(Answer(draws, None, log_weight), target)
    plain = compute(Answer(draws), target)
    assert abs(weighted - exact) < 0.35 * abs(plain - exact)


def test_metrics_of_an_answer_use_its_weights_for_the_mean_and_resample_for_the_best_of_four():
    prior = random_gaussian(2, 0)
    answer = Answer(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), None, torch.tensor([0.0, -200.0, -200.0, 0.0]))
    assert float(answer.average(answer.draws)) == pytest.approx(2.5)
    assert float(answer.moments[0]) == pytest.approx(2.5)
    assert set(answer.equal.draws.flatten().tolist()) == {1.0, 4.0}
    assert answer.equal.equal is answer.equal
    assert answer.equal.log_weight is None
    assert Answer(prior.sample(3)).equal.draws.shape == (3, 2)


def test_one_draw_that_has_all_weight_has_a_mean_and_no_spread():
    answer = Answer(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), log_weight=torch.tensor([0.0, -2000.0]).double())
    mean, covariance = answer.moments
    assert mean.tolist() == [1.0, 2.0]
    assert covariance.tolist() == [[0.0, 0.0], [0.0, 0.0]]
