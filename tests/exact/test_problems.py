import math

import pytest
import torch

from midguide.errors import ConfigError
from midguide.exact.problems import mixture25, mixture_problem, random_gaussian, random_gaussian_problem
from midguide.operators.matrix import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture


def _parts(problem):
    """Prior, truth and operator of a problem, with their types."""
    assert isinstance(problem.denoiser, Gaussian | GaussianMixture)
    assert isinstance(problem.likelihood.operator, Matrix)
    assert problem.truth is not None
    return problem.denoiser, problem.truth, problem.likelihood.operator


def test_mixture_has_the_means_of_the_paper():
    prior = mixture25(5, seed=0, dtype=torch.float64)
    expected = {(8.0 * i, 8.0 * j, 8.0 * i, 8.0 * j, 8.0 * i) for i in range(-2, 3) for j in range(-2, 3)}
    assert {tuple(row) for row in prior._means.tolist()} == expected
    assert len(prior.weights) == 25
    assert float(prior.weights.sum()) == pytest.approx(1.0)
    assert prior.kind == "shared isotropic"


def test_mixture_covariance_is_that_of_its_law():
    # E[(8i)^2] and unit noise, for equal weights 128 + 1; here for the weights drawn.
    prior = mixture25(4, seed=3)
    mean, covariance = prior.mean_and_covariance()
    points, w = prior._means, prior.weights
    torch.testing.assert_close(mean, w @ points)
    torch.testing.assert_close(
        covariance, (points.mT * w) @ points - mean[:, None] * mean + torch.eye(4, dtype=torch.float64)
    )


@pytest.mark.parametrize("make", [lambda s: mixture_problem(20, s), lambda s: random_gaussian_problem(20, 5, s, 0.1)])
def test_problems_depend_on_the_seed_and_on_nothing_else(make):
    before = torch.get_rng_state()
    one, again, other = make(0), make(0), make(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.likelihood.y, again.likelihood.y)
    assert torch.equal(_parts(one)[1], _parts(again)[1])
    assert not torch.equal(_parts(one)[1], _parts(other)[1])
    assert not torch.equal(_parts(one)[2].matrix, _parts(other)[2].matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_problems_have_the_shapes_and_types_asked_for(dtype):
    problem = mixture_problem(20, 0, dtype=dtype)
    prior, truth, operator = _parts(problem)
    assert truth.shape == (1, 20)
    assert problem.likelihood.y.shape == (1, 1)
    assert operator.matrix.shape == (1, 20)
    assert problem.zeros().dtype == truth.dtype == prior.sample(3).dtype == dtype
    problem = random_gaussian_problem(10, 4, 0, 0.1, dtype=dtype)
    assert torch.linalg.matrix_rank(_parts(problem)[2].matrix) == 4
    assert problem.zeros().dtype == dtype


def test_truth_is_not_the_first_sample_of_the_same_seed():
    prior, truth, _ = _parts(mixture_problem(20, 0))
    assert not torch.allclose(truth, prior.sample(1, seed=0))


def test_observation_explains_the_truth():
    # Over 200 problems, sum of z^2 is chi-square with 200 degrees: mean 200, deviation 20; 5 deviations either side.
    problems = [mixture_problem(4, seed) for seed in range(200)]
    total = sum(float(problem.likelihood.chi_square(_parts(problem)[1])) for problem in problems)
    assert abs(total - 200) < 5 * math.sqrt(400)


def test_gaussian_covariance_has_mean_variance_one_and_full_rank():
    covariance = random_gaussian(50, seed=0).covariance_matrix()
    assert float(covariance.trace()) == pytest.approx(50, rel=1e-12)
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0


def test_posterior_is_calibrated_for_the_simulated_truth():
    # The truth, whitened by the exact posterior of its own problem, is standard normal: over 100 problems of dimension
    # 8 the sum of squares is chi-square with 800 degrees, deviation 40. 5 deviations: false alarms below 1e-6.
    total = 0.0
    for seed in range(100):
        problem = random_gaussian_problem(8, 4, seed, 0.1, dtype=torch.float64)
        prior, truth, _ = _parts(problem)
        posterior = prior.posterior(problem.likelihood)
        assert isinstance(posterior, Gaussian)
        gap = truth[0] - posterior.mean
        total += float(gap @ torch.linalg.solve(posterior.covariance_matrix(), gap))
    assert abs(total - 800) < 5 * 40


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="measurements"):
        random_gaussian_problem(4, 5, 0, 0.1)
    with pytest.raises(ConfigError, match="dimension"):
        mixture25(0, 0)
