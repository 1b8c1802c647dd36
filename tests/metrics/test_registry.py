"""Every registered metric on exact draws and on wrong ones, and against oracles."""

from dataclasses import replace

import numpy as np
import ot
import pytest
import scipy.linalg
import torch
from scipy import stats

from midguide.errors import UnsupportedProblem
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.metrics.base import METRICS, Answer, Target
from midguide.metrics.distribution import covariance_error, coverage, mean_error, mode_weight_tv
from midguide.priors.mixture import GaussianMixture

# What exact draws score, with room for about 5 standard deviations at 2,000 draws; "wrong" draws are off by more.
EXACT = {
    "c2st[mlp=64,folds=4]": (0.46, 0.54),
    "chi_square": (0.8, 1.2),
    "covariance_error": (0.0, 0.1),
    "coverage[level=0.5]": (0.46, 0.54),
    "coverage[level=0.9]": (0.87, 0.93),
    "energy_distance": (0.0, 0.015),
    "gaussian_w2": (0.0, 0.2),
    "mean_error": (0.0, 0.08),
    "mmse_gap[unit=dB]": (0.0, 0.03),
    "posterior_error[by=energy]": (0.0, 0.15),
    "sliced_wasserstein_1[slices=100]": (0.0, 0.15),
    "sliced_wasserstein_2[slices=100]": (0.0, 0.15),
    "variance_ratio": (0.9, 1.1),
}


@pytest.fixture(scope="module")
def gaussian():
    problem = random_gaussian_problem(4, 2, 0, 0.3, dtype=torch.float64)
    posterior = problem.denoiser.posterior(problem.likelihood)
    return Target(problem, posterior, posterior.sample(2000, seed=1))


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_draws_are_near_the_ideal_and_wrong_ones_are_not(gaussian, name):
    low, high = EXACT[name]
    right = METRICS.make(name).compute(Answer(gaussian.posterior.sample(2000, seed=2)), gaussian)
    wrong = METRICS.make(name).compute(Answer(2 * gaussian.posterior.sample(2000, seed=2) + 2), gaussian)
    assert low <= right <= high
    assert not low <= wrong <= high


def test_every_metric_is_tested():
    of_the_truth = {name for name in METRICS if name.startswith(("truth_", "crps", "energy_score"))}  # test_scores.py
    of_images = {name for name in METRICS if name.startswith(("psnr", "ssim", "lpips"))}  # test_pictures.py
    ranks = {name for name in METRICS if name.startswith("rank[")}  # test_ranks.py
    of_domains = {name for name, entry in METRICS.items() if ".domains." in type(entry.thing).__module__}
    assert set(METRICS) == {*EXACT, "mode_weight_tv", *of_the_truth, *of_images, *ranks, *of_domains}


def test_scores_of_exact_draws_are_better_on_average_than_those_of_wrong_ones():
    """Truths from the prior: the posterior has the least CRPS and energy score, and covers as it should.

    200 problems in 4 dimensions: coverage has a standard deviation below 0.02, five of them are 0.1 (a false alarm in
    a million, for another seed).
    """
    found = {"exact": [], "wide": [], "shifted": []}
    names = ["crps[estimator=fair]", "energy_score[estimator=fair]", "truth_coverage[level=0.9,by=rank]"]
    for seed in range(200):
        problem = random_gaussian_problem(4, 2, seed, 0.3, dtype=torch.float64)
        posterior = problem.denoiser.posterior(problem.likelihood)
        draws = posterior.sample(20, seed=seed)
        wide = posterior.mean + 3 * (draws - posterior.mean)
        for kind, values in (("exact", draws), ("wide", wide), ("shifted", draws + 1.0)):
            METRICS.make(names[0]).check(problem, 20)
            found[kind].append([METRICS.make(name).compute(Answer(values), Target(problem)) for name in names])
    exact, wide, shifted = (torch.tensor(found[kind]).mean(0) for kind in ("exact", "wide", "shifted"))
    assert bool((exact[:2] < wide[:2]).all())
    assert bool((exact[:2] < shifted[:2]).all())
    assert float(exact[2]) == pytest.approx(0.9, abs=0.1)
    assert float(wide[2]) > 0.97


def test_known_moments_are_used_instead_of_those_of_the_draws(gaussian):
    answer = Answer(torch.zeros(2, 4, dtype=torch.float64), gaussian.moments)
    assert METRICS.make("gaussian_w2").compute(answer, gaussian) == pytest.approx(0.0, abs=1e-6)


def test_gaussian_w2_is_that_of_pot(gaussian):
    draws = gaussian.posterior.sample(500, seed=3) * 1.5
    (mean, covariance), cloud = gaussian.moments, draws.numpy()
    want = ot.gaussian.bures_wasserstein_distance(cloud.mean(0), mean.numpy(), np.cov(cloud.T), covariance.numpy())
    assert METRICS.make("gaussian_w2").compute(Answer(draws), gaussian) == pytest.approx(float(want), rel=1e-6)


def mixture():
    return GaussianMixture(torch.tensor([0.7, 0.2, 0.1]), torch.tensor([[-20.0, 0], [20.0, 0], [0, 40.0]]), 1.0)


def test_mode_weight_tv_is_that_of_the_shares():
    """Modes 20 standard deviations apart: 5, 3 and 2 of ten draws against 0.7, 0.2, 0.1 differ by 0.2."""
    draws = torch.tensor([[-20.0, 0.5]] * 5 + [[21.0, 0]] * 3 + [[0, 39.0]] * 2)
    assert mode_weight_tv(draws, mixture()) == pytest.approx(0.2, abs=1e-6)


def test_mode_weight_tv_of_exact_draws_falls_with_their_number():
    """E|share - w| is below sqrt(w (1 - w) / n): at n = 20,000 the sum is below 0.005; of one mode only it is 0.3."""
    assert mode_weight_tv(mixture().sample(20000), mixture()) < 0.01
    assert mode_weight_tv(torch.tensor([[-20.0, 0.0]]).expand(50, 2), mixture()) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("covariances", [1.0, torch.tensor([1.0, 4.0, 9.0]), torch.tensor([[1.0, 2], [3, 1], [1, 1]])])
def test_most_probable_component_has_the_largest_weighted_density(covariances):
    means, weights = torch.tensor([[-2.0, 0], [2.0, 0], [0, 3.0]]), torch.tensor([0.7, 0.2, 0.1])
    whole = GaussianMixture(weights, means, covariances)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 2))) * 4
    per_component = []
    for k in range(3):
        own = covariances if isinstance(covariances, float) else covariances[k : k + 1]
        part = GaussianMixture(torch.ones(1), means[k : k + 1], own)
        per_component.append(part.log_prob(x) + weights[k].double().log())
    assert torch.equal(whole.most_probable(x), torch.stack(per_component).argmax(0))


def overlapping():
    """A mixture of three full covariances whose components overlap, and 300 draws of something near it."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(3, 4, 4))
    covariances = factors @ factors.transpose(0, 2, 1) + np.eye(4)
    means, weights = 2 * rng.normal(size=(3, 4)), np.array([0.5, 0.3, 0.2])
    prior = GaussianMixture(*map(torch.from_numpy, (weights, means, covariances)))
    return prior, (weights, means, covariances), 3 * rng.normal(size=(300, 4))


def test_mode_weight_tv_is_the_transport_of_shares_by_scipy_and_pot():
    """Total variation: what moving the shares to the weights costs where each move costs 1. Densities by scipy."""
    mixture, (weights, means, covariances), draws = overlapping()
    logits = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(draws)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    shares = np.bincount(np.argmax(logits, axis=0), minlength=3) / len(draws)
    want = ot.emd2(shares, weights, 1.0 - np.eye(3))
    assert want > 0.05
    assert mode_weight_tv(torch.from_numpy(draws), mixture) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_is_that_of_scipys_quantiles(gaussian, level):
    """Of the many definitions of an empirical quantile, the one of torch: alphap = betap = 1."""
    draws = 0.8 * gaussian.posterior.sample(501, seed=4)
    lower, upper = stats.mstats.mquantiles(draws.numpy(), [0.5 - level / 2, 0.5 + level / 2], 1, 1, axis=0)
    inside = [
        np.mean((column >= a) & (column <= b))
        for column, a, b in zip(gaussian.draws.numpy().T, lower, upper, strict=True)
    ]
    got = METRICS.make(f"coverage[level={level}]").compute(Answer(draws), gaussian)
    assert 0.1 < got < level
    assert got == pytest.approx(np.mean(inside), abs=1e-12)


def test_errors_of_moments_are_those_of_numpy_and_scipy(gaussian):
    draws = 1.3 * gaussian.posterior.sample(400, seed=5) + 0.1
    (mean, covariance), cloud = (moment.numpy() for moment in gaussian.moments), draws.numpy()
    found = np.cov(cloud.T)
    away = scipy.linalg.norm(cloud.mean(0) - mean) / np.sqrt(np.trace(covariance))
    wrong = scipy.linalg.norm(found - covariance, "fro") / scipy.linalg.norm(covariance, "fro")
    ratio = np.trace(found) / np.trace(covariance)
    wanted = {"mean_error": away, "covariance_error": wrong, "variance_ratio": ratio}
    for name, want in wanted.items():
        assert METRICS.make(name).compute(Answer(draws), gaussian) == pytest.approx(want, rel=1e-9)


def test_coverage_counts_the_reference_inside_the_interval():
    draws, reference = torch.linspace(-1, 1, 1001)[:, None], torch.linspace(-2, 2, 1001)[:, None]
    assert coverage(draws, reference, 0.9) == pytest.approx(0.45, abs=0.002)


def test_errors_of_moments_are_relative():
    eye = torch.eye(4, dtype=torch.float64)
    assert mean_error(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), eye) == 1.0
    assert covariance_error(3 * eye, eye) == 2.0


def test_truth_is_measured_where_it_is_known():
    problem = mixture_problem(2, 0)
    assert problem.truth is not None
    answer = Answer(problem.truth.expand(5, 2) + 1.0)
    assert METRICS.make("truth_rmse").compute(answer, Target(problem)) == pytest.approx(1.0, rel=1e-5)


def test_problems_that_lack_what_a_metric_needs_are_refused(gaussian):
    with pytest.raises(UnsupportedProblem, match="truth"):
        METRICS.make("truth_rmse").check(replace(gaussian.problem, truth=None))
    with pytest.raises(UnsupportedProblem, match="GaussianMixture"):
        METRICS.make("mode_weight_tv").check(gaussian.problem)
