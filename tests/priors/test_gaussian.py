import json
import math

import numpy as np
import pytest
import torch

from midguide.diffusion.schedules import EDM, RectifiedFlow
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.known.finite_sample import finite_sample_prior
from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood
from midguide.maths.autodiff import value_and_grad
from midguide.maths.linalg import gaussian_w2
from midguide.operators.base import Operator
from midguide.operators.mask import Mask
from midguide.operators.matrix import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.testing import check_denoiser

TIMES = (1, 100, 500, 1000)
D = 6


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariance(kind, d=D):
    factor = _normal(d, d, seed=7) / math.sqrt(d)
    return {
        "isotropic": 0.7,
        "diagonal": _normal(d, seed=8).square() + 0.05,
        "full": factor @ factor.mT + 0.05 * torch.eye(d, dtype=torch.float64),
    }[kind]


def _matrix(covariance, d=D):
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    if covariance.ndim == 2:
        return covariance
    return covariance.expand(d).diag()


KINDS = ("isotropic", "diagonal", "full")


@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_keeps_its_contract(kind):
    check_denoiser(Gaussian(_normal(D), _covariance(kind)))
    check_denoiser(Gaussian(_normal(D), _covariance(kind), schedule=RectifiedFlow()))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_is_tweedies_formula_on_the_marginal(kind, t):
    mean, matrix = _normal(D), _matrix(_covariance(kind))
    prior = Gaussian(mean, _covariance(kind))
    alpha, sigma = prior.schedule.level(t)
    marginal = torch.distributions.MultivariateNormal(
        alpha * mean, alpha**2 * matrix + sigma**2 * torch.eye(D, dtype=torch.float64)
    )
    x = 3 * _normal(5, D, seed=1)
    _, score, _ = value_and_grad(lambda u: (marginal.log_prob(u), u), x)
    # Relative 1e-9: the score of the cleanest level is multiplied by 1e4 and cancels against x.
    torch.testing.assert_close(prior.score(x, t), score, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prior(x, t), (x + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_is_the_mean_of_the_posterior_by_integration(t):
    prior = Gaussian(torch.tensor([1.5]), 0.3)
    alpha, sigma = prior.schedule.level(t)
    x = torch.tensor([[-1.0], [0.2], [2.0]], dtype=torch.float64)
    x0 = torch.linspace(-10, 13, 400_001, dtype=torch.float64)
    log_joint = -0.5 * (x0 - 1.5) ** 2 / 0.3 - 0.5 * (x - alpha * x0) ** 2 / sigma**2
    expected = (torch.softmax(log_joint, 1) * x0).sum(1, keepdim=True)
    torch.testing.assert_close(prior(x, t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_fast_paths_equal_the_full_path(kind, t):
    mean, x = _normal(D), _normal(4, D, seed=1)
    fast, full = Gaussian(mean, _covariance(kind)), Gaussian(mean, _matrix(_covariance(kind)))
    torch.testing.assert_close(fast(x, t), full(x, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast.log_prob(x), full.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fast.covariance_matrix(), full.covariance_matrix(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_float64(kind):
    prior = Gaussian(_normal(D), _covariance(kind))
    for t in TIMES:
        x = _normal(50, D, seed=1)
        error = (prior(x.float(), t).double() - prior(x.float().double(), t)).norm(dim=1)
        # A few hundred roundings of 6e-8 at most.
        assert bool((error <= 1e-5 * prior(x, t).norm(dim=1)).all())


@pytest.mark.parametrize("other", [EDM(), RectifiedFlow()])
def test_prior_on_another_schedule_is_the_same_prior(other):
    moved = Gaussian(_normal(D), _covariance("full")).on(other)
    native = Gaussian(_normal(D), _covariance("full"), schedule=other)
    for t in moved.schedule.times(6):
        alpha, sigma = moved.schedule.level(t)
        x = alpha * _normal(3, D, seed=1) + sigma * _normal(3, D, seed=2)
        torch.testing.assert_close(moved(x, t), native(x, t), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(moved.score(x, t), native.score(x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_the_density(kind):
    x = _normal(4, D, seed=1)
    expected = torch.distributions.MultivariateNormal(_normal(D), _matrix(_covariance(kind))).log_prob(x)
    torch.testing.assert_close(Gaussian(_normal(D), _covariance(kind)).log_prob(x), expected)


def test_density_integrates_to_one():
    x = torch.linspace(-15, 15, 20_001, dtype=torch.float64)[:, None]
    density = Gaussian(torch.tensor([1.0]), 2.0).log_prob(x).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mean_and_covariance(kind):
    n, prior = 40_000, Gaussian(_normal(D), _covariance(kind))
    x, matrix = prior.sample(n, seed=0), prior.covariance_matrix()
    # Whitened: D entries of the mean with deviation 1/sqrt(n), D^2 of the covariance with deviation at most
    # sqrt(2/n). 5 deviations on 42 numbers: false alarms below 1e-4 (for another seed).
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), (x - prior.mean).mT, upper=False).mT
    assert float(white.mean(0).abs().max()) < 5 / math.sqrt(n)
    assert float((white.mT @ white / n - torch.eye(D, dtype=torch.float64)).abs().max()) < 5 * math.sqrt(2 / n)
    assert torch.equal(x, prior.sample(n, seed=0))
    assert not torch.equal(x, prior.sample(n, seed=1))


def test_events_may_have_any_shape():
    prior = Gaussian(_normal(2, 3), _covariance("diagonal").reshape(2, 3))
    flat = Gaussian(_normal(2, 3).reshape(6), _covariance("diagonal"))
    x = _normal(4, 2, 3, seed=1)
    torch.testing.assert_close(prior(x, 300), flat(x.reshape(4, 6), 300).reshape(4, 2, 3))
    torch.testing.assert_close(prior.log_prob(x), flat.log_prob(x.reshape(4, 6)))
    assert prior.sample(5).shape == (5, 2, 3)
    assert prior.covariance_matrix().shape == (6, 6)


# --- posterior -------------------------------------------------------------------------------------------------------


def _likelihood(m=3, sigma_y=0.1, d=D, dtype=torch.float64):
    return GaussianLikelihood(
        Matrix.create(_normal(m, d, seed=3).to(dtype), (d,)), _normal(1, m, seed=4).to(dtype), sigma_y
    )


@pytest.mark.parametrize("m", [1, 3, D, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_the_information_form(kind, m):
    likelihood, matrix = _likelihood(m), _matrix(_covariance(kind))
    a, precision = _normal(m, D, seed=3), torch.linalg.inv(matrix)
    covariance = torch.linalg.inv(precision + a.mT @ a / 0.1**2)
    mean = covariance @ (precision @ _normal(D) + a.mT @ likelihood.y[0] / 0.1**2)
    posterior = Gaussian(_normal(D), _covariance(kind)).posterior(likelihood)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.covariance_matrix(), covariance, rtol=1e-9, atol=1e-9)


def test_posterior_equals_bayes_rule_on_a_grid():
    prior = Gaussian(torch.tensor([0.5, -0.5]), torch.tensor([[1.0, 0.6], [0.6, 0.8]]))
    likelihood = _likelihood(m=1, sigma_y=0.5, d=2)
    axis = torch.linspace(-6, 6, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    a = _normal(1, 2, seed=3)
    log_joint = prior.log_prob(grid) - 0.5 * ((likelihood.y - grid @ a.mT) / 0.5).square()[:, 0]
    weights = torch.softmax(log_joint, 0)
    posterior = prior.posterior(likelihood)
    mean = weights @ grid
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-7, atol=1e-7)
    covariance = (weights[:, None] * (grid - mean)).mT @ (grid - mean)
    torch.testing.assert_close(posterior.covariance_matrix(), covariance, rtol=1e-7, atol=1e-7)
    density = posterior.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(density, weights, rtol=1e-6, atol=1e-12)


def test_posterior_agrees_with_importance_sampling():
    prior, likelihood = Gaussian(_normal(D), _covariance("full")), _likelihood(m=2, sigma_y=1.0)
    x = prior.sample(200_000, seed=5)
    weights = torch.softmax(likelihood.select(torch.zeros(len(x), dtype=torch.long)).log_prob(x), 0)
    posterior, effective = prior.posterior(likelihood), 1 / float(weights.square().sum())
    assert effective > 1000
    deviations = posterior.covariance_matrix().diagonal().sqrt()
    # 6 means, each within 5 Monte-Carlo deviations: false alarms below 1e-5 (for another seed); the variances within
    # 5 sqrt(2 / n_eff) of their value. Weights are bounded by 1, so that both nearly follow a normal law.
    assert bool(((weights @ x - posterior.mean).abs() < 5 * deviations / math.sqrt(effective)).all())
    variances = weights @ (x - posterior.mean).square()
    assert bool(((variances / deviations**2 - 1).abs() < 5 * math.sqrt(2 / effective)).all())


def test_posterior_of_a_singular_prior_stays_in_its_support():
    factor = _normal(D, 2)
    prior = Gaussian(_normal(D), factor @ factor.mT)
    posterior = prior.posterior(_likelihood(m=1))
    outside = torch.eye(D, dtype=torch.float64) - factor @ torch.linalg.pinv(factor)
    assert float((outside @ posterior.covariance_matrix()).abs().max()) < 1e-12
    assert float((outside @ (posterior.mean - prior.mean)).abs().max()) < 1e-12
    with pytest.raises(NumericalError, match="no density"):
        prior.log_prob(_normal(1, D))
    check_denoiser(prior)


def test_hidden_entries_carry_no_information():
    mask, y = torch.tensor([True, False, True, True, False, True]), _normal(1, D, seed=4)
    prior = Gaussian(_normal(D), _covariance("full"))
    masked = prior.posterior(GaussianLikelihood(Mask(mask), y, 0.2))
    rows = Matrix.create(torch.eye(D, dtype=torch.float64)[mask], (D,))
    expected = prior.posterior(GaussianLikelihood(rows, y[:, mask], 0.2))
    torch.testing.assert_close(masked.mean, expected.mean)
    torch.testing.assert_close(masked.covariance_matrix(), expected.covariance_matrix())


def test_posterior_of_a_float32_problem_is_that_of_float64():
    # A and y rounded to float32 are exact in both; noise of 1e-3 makes the system stiff (condition about 1e7).
    prior, single = Gaussian(_normal(D).float(), 1.0), _likelihood(m=3, sigma_y=1e-3, dtype=torch.float32)
    double = GaussianLikelihood(single.operator.to(torch.float64), single.y.double(), 1e-3)
    one, two = prior.posterior(single), prior.posterior(double)
    assert gaussian_w2(one.mean, one.covariance_matrix(), two.mean, two.covariance_matrix()) < 1e-6
    a = _normal(3, D, seed=3).float().double()
    exact = torch.linalg.inv(torch.eye(D, dtype=torch.float64) + a.mT @ a / 1e-6)
    # Absolute, beside variances of 1: the inverse itself loses eight digits.
    torch.testing.assert_close(one.covariance_matrix(), exact, rtol=0, atol=1e-8)


def test_posterior_refuses_what_it_does_not_know():
    class Square(Operator):
        def __call__(self, x):
            return x**2

    prior, y = Gaussian(_normal(D), 1.0), _normal(2, D)
    with pytest.raises(UnsupportedProblem, match="Square"):
        prior.posterior(GaussianLikelihood(Square(), y[:1], 0.1))
    identity = Matrix.create(torch.eye(D, dtype=torch.float64), (D,))
    with pytest.raises(UnsupportedProblem, match="Poisson"):
        prior.posterior(PoissonLikelihood(identity, y[:1].abs(), 1.0))
    both = GaussianLikelihood(identity, y, 0.1)
    with pytest.raises(ShapeError, match=r"got 2[\s\S]*select"):
        prior.posterior(both)
    assert prior.posterior(both.select(torch.tensor([1]))).event_shape == (D,)


@pytest.mark.parametrize(
    ("covariance", "error"),
    [
        (torch.ones(5), ShapeError),
        (-1.0, ConfigError),
        (float("nan"), ConfigError),
        (-torch.eye(D, dtype=torch.float64), ConfigError),
        (torch.ones(D, D).triu(), ConfigError),
    ],
)
def test_impossible_covariances_are_refused(covariance, error):
    with pytest.raises(error):
        Gaussian(torch.zeros(D), covariance)


def test_the_record_holds_schedule_and_digests_and_is_small():
    record = Gaussian(_normal(2, 3), torch.eye(6)).record()
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {"type", "mean", "covariance", "dtype", "schedule", "signal"}
    assert record["mean"] | {"sha256": ""} == {"shape": [2, 3], "dtype": "float64", "sha256": ""}
    assert len(json.dumps(record)) < 1000


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16, bool])
def test_parameters_of_numpy_are_those_of_torch(dtype):
    values = np.array([1, 0, 1]).astype(dtype)
    prior = Gaussian(values[::-1], np.eye(3)[::-1, ::-1])
    want = Gaussian(torch.tensor([1.0, 0.0, 1.0], dtype=prior.sample(1).dtype), torch.eye(3))
    assert prior.sample(2).is_floating_point()
    assert torch.equal(prior.sample(2, seed=1), want.sample(2, seed=1))
    mixture = GaussianMixture(np.ones(2), np.zeros((2, 3)), 0.1)
    assert torch.equal(mixture.sample(2), GaussianMixture(torch.ones(2), torch.zeros(2, 3).double(), 0.1).sample(2))


@pytest.mark.parametrize("value", [1j, torch.zeros(2, dtype=torch.complex64), np.zeros(2, complex), [1, 2j]])
def test_complex_parameters_are_one_line(value):
    fine = torch.zeros(2)
    for make in (
        lambda: Gaussian(value, 1.0),
        lambda: Gaussian(fine, value),
        lambda: GaussianMixture(value, fine[:, None], 1.0),
        lambda: GaussianMixture(fine + 1, value, 1.0),
        lambda: GaussianMixture(fine + 1, fine[:, None], value),
        lambda: finite_sample_prior(value, 0.1),
    ):
        with pytest.raises(ConfigError, match="must be real, got complex numbers"):
            make()


@pytest.mark.parametrize("value", ["x", None, [None], object(), [[1.0], [1.0, 2.0]]])
def test_parameters_that_are_no_numbers_are_one_line(value):
    for make in (lambda: Gaussian(value, 1.0), lambda: Gaussian(torch.zeros(1), value)):
        with pytest.raises(ShapeError, match="must be numbers"):
            make()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_mean_that_is_not_finite_is_refused(bad):
    with pytest.raises(ConfigError, match="the mean must be finite"):
        Gaussian(torch.full((2,), bad), 1.0)
