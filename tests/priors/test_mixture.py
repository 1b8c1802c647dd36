import json
import math

import pytest
import torch

from midguide.diffusion.schedules import EDM, RectifiedFlow
from midguide.errors import ConfigError, NumericalError, ShapeError
from midguide.exact.problems import mixture25
from midguide.likelihoods import GaussianLikelihood
from midguide.maths.autodiff import value_and_grad
from midguide.operators.mask import Mask
from midguide.operators.matrix import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.testing import check_denoiser

TIMES = (1, 100, 500, 1000)
K, D = 3, 4
KINDS = ("shared isotropic", "isotropic", "diagonal", "shared full", "full")


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariances(kind):
    factors = _normal(K, D, D, seed=7) / math.sqrt(D)
    full = factors @ factors.mT + 0.05 * torch.eye(D, dtype=torch.float64)
    return {
        "shared isotropic": 0.7,
        "isotropic": torch.tensor([0.2, 1.0, 3.0]),
        "diagonal": _normal(K, D, seed=8).square() + 0.05,
        "shared full": full[0],
        "full": full,
    }[kind]


def _matrices(kind):
    """The same covariances, each as a matrix, shape (K, D, D)."""
    given = torch.as_tensor(_covariances(kind), dtype=torch.float64)
    if kind in ("shared full", "full"):
        return given.expand(K, D, D).clone()
    return torch.diag_embed((given if kind == "diagonal" else given.reshape(-1, 1)).expand(K, D))


def _weights():
    return torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def _prior(kind, **options):
    return GaussianMixture(_weights(), 2 * _normal(K, D), _covariances(kind), **options)


def _law(kind, alpha=1.0, sigma=0.0):
    """The marginal at a noise level, by torch."""
    matrices = alpha**2 * _matrices(kind) + sigma**2 * torch.eye(D, dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(alpha * 2 * _normal(K, D), matrices)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(_weights()), parts)


@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_keeps_its_contract(kind):
    assert _prior(kind).kind == kind
    check_denoiser(_prior(kind))
    check_denoiser(_prior(kind, schedule=EDM()))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_is_tweedies_formula_on_the_marginal(kind, t):
    prior = _prior(kind)
    alpha, sigma = prior.schedule.level(t)
    x = 2 * _normal(20, D, seed=1)
    _, score, _ = value_and_grad(lambda u: (_law(kind, alpha, sigma).log_prob(u), u), x)
    torch.testing.assert_close(prior(x, t), (x + sigma**2 * score) / alpha, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_is_the_mean_of_the_posterior_by_integration(t):
    prior = GaussianMixture(_weights(), torch.tensor([[-2.0], [0.5], [3.0]]), torch.tensor([0.2, 1.0, 0.5])[:, None])
    alpha, sigma = prior.schedule.level(t)
    x = torch.tensor([[-1.0], [0.2], [2.0]], dtype=torch.float64)
    x0 = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    log_joint = prior.log_prob(x0[:, None]) - 0.5 * (x - alpha * x0) ** 2 / sigma**2
    expected = (torch.softmax(log_joint, 1) * x0).sum(1, keepdim=True)
    torch.testing.assert_close(prior(x, t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", KINDS[:4])
def test_fast_paths_equal_the_full_path(kind, t):
    fast, full = _prior(kind), GaussianMixture(_weights(), 2 * _normal(K, D), _matrices(kind))
    x = _normal(20, D, seed=1)
    assert full.kind == "full"
    torch.testing.assert_close(fast(x, t), full(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fast.log_prob(x), full.log_prob(x), rtol=1e-10, atol=1e-10)
    for got, want in zip(fast.mean_and_covariance(), full.mean_and_covariance(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance", [0.6, _covariances("diagonal")[:1], _covariances("shared full")])
def test_one_component_is_a_gaussian(covariance):
    mean, x = _normal(D), _normal(5, D, seed=1)
    mixture = GaussianMixture(torch.ones(1), mean[None], covariance)
    gaussian = Gaussian(mean, covariance if isinstance(covariance, float) else covariance.squeeze(0))
    for t in TIMES:
        torch.testing.assert_close(mixture(x, t), gaussian(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture.log_prob(x), gaussian.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.mean_and_covariance()[1], gaussian.covariance_matrix())


@pytest.mark.parametrize("dimension", [20, 200])
def test_float32_agrees_with_float64_also_between_components(dimension):
    # Points of the marginal, and points half-way between two means at distances up to 450, where a float32 evaluation
    # of the responsibilities errs by 1e-3.
    prior = mixture25(dimension, seed=0)
    between = (prior._means[2] + prior._means[18]).float() / 2
    for t in prior.schedule.times(10) + [2, 1]:
        alpha, sigma = prior.schedule.level(t)
        noise = _normal(200, dimension, seed=2).float()
        for x in (alpha * prior.sample(200) + sigma * noise, alpha * between + 0.1 * sigma * noise):
            exact = prior(x.double(), t)
            error = (prior(x, t).double() - exact).norm(dim=1)
            assert bool((error <= 1e-4 * exact.norm(dim=1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_derivative_is_the_posterior_covariance(kind):
    # d D / d x = (alpha / sigma^2) Cov[x_0 | x_t], symmetric and positive; checked against finite differences.
    prior, x = _prior(kind), _normal(1, D, seed=1)
    jacobian = torch.autograd.functional.jacobian(lambda u: prior(u[None], 300)[0], x[0])
    steps = 1e-5 * torch.eye(D, dtype=torch.float64)
    differences = torch.stack([(prior(x + h, 300) - prior(x - h, 300))[0] / 2e-5 for h in steps], 1)
    torch.testing.assert_close(jacobian, differences, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=1e-9, atol=1e-9)
    assert float(torch.linalg.eigvalsh(jacobian).min()) > 0


@pytest.mark.parametrize("other", [EDM(), RectifiedFlow()])
def test_prior_on_another_schedule_is_the_same_prior(other):
    moved, native = _prior("full").on(other), _prior("full", schedule=other)
    for t in moved.schedule.times(6):
        alpha, sigma = moved.schedule.level(t)
        x = alpha * _normal(3, D, seed=1) + sigma * _normal(3, D, seed=2)
        torch.testing.assert_close(moved(x, t), native(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_the_density(kind):
    x = 2 * _normal(20, D, seed=1)
    torch.testing.assert_close(_prior(kind).log_prob(x), _law(kind).log_prob(x), rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one():
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None]
    prior = GaussianMixture(_weights(), torch.tensor([[-2.0], [0.5], [3.0]]), torch.tensor([0.2, 1.0, 0.5]))
    assert float(torch.trapezoid(prior.log_prob(x).exp(), x[:, 0])) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mean_and_covariance(kind):
    n, prior = 40_000, _prior(kind)
    x, (mean, covariance) = prior.sample(n, seed=0), prior.mean_and_covariance()
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).mT, upper=False).mT
    # D means and D^2 second moments. The kurtosis of these mixtures is below 4 in every direction of space, hence the
    # deviation of a second moment below sqrt(3 / n): 5 deviations on 20 numbers, false alarms below 2e-5.
    assert float(white.mean(0).abs().max()) < 5 / math.sqrt(n)
    assert float((white.mT @ white / n - torch.eye(D, dtype=torch.float64)).abs().max()) < 5 * math.sqrt(3 / n)
    assert torch.equal(x, prior.sample(n, seed=0))


def test_components_are_drawn_with_their_weights():
    n, far = 40_000, torch.tensor([[-100.0], [0.0], [100.0]])
    x = GaussianMixture(_weights(), far, 1.0).sample(n, seed=1)
    counts = torch.bincount((x[:, 0] / 100).round().long() + 1, minlength=3) / n
    # 5 binomial deviations on 3 frequencies: false alarms below 2e-6 (for another seed).
    assert bool(((counts - _weights()).abs() < 5 * (_weights() * (1 - _weights()) / n).sqrt()).all())


def test_component_of_weight_zero_does_not_exist():
    means = torch.tensor([[0.0], [50.0]])
    prior = GaussianMixture(torch.tensor([0.0, 2.0]), means, 1.0)
    x = prior.sample(1000)
    assert float(x.min()) > 40
    assert bool(torch.isfinite(prior(torch.zeros(1, 1), 1)).all())
    torch.testing.assert_close(prior.log_prob(x), Gaussian(means[1], 1.0).log_prob(x))


# --- posterior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_bayes_rule_for_every_component(kind):
    a, y, sigma_y = _normal(2, D, seed=3), _normal(1, 2, seed=4), 0.5
    posterior = _prior(kind).posterior(GaussianLikelihood(Matrix.create(a, (D,)), y, sigma_y))
    x = _normal(20, D, seed=5)
    # log p(x | y) - log p(x) - log p(y | x) is the same for every x.
    log_likelihood = -0.5 * ((y - x @ a.mT) / sigma_y).square().sum(1)
    constant = posterior.log_prob(x) - _prior(kind).log_prob(x) - log_likelihood
    torch.testing.assert_close(constant, constant[0].expand(20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance", [0.3, torch.tensor([[[1.0, 0.6], [0.6, 0.8]]])])
def test_posterior_equals_bayes_rule_on_a_grid(covariance):
    prior = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), covariance)
    a, y = _normal(1, 2, seed=3), _normal(1, 1, seed=4)
    axis = torch.linspace(-7, 7, 901, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = prior.log_prob(grid) - 0.5 * ((y - grid @ a.mT) / 0.5).square()[:, 0]
    weights = torch.softmax(log_joint, 0)
    posterior = prior.posterior(GaussianLikelihood(Matrix.create(a, (2,)), y, 0.5))
    mean, covariance = posterior.mean_and_covariance()
    torch.testing.assert_close(mean, weights @ grid, rtol=1e-7, atol=1e-7)
    expected = (weights[:, None] * (grid - mean)).mT @ (grid - mean)
    torch.testing.assert_close(covariance, expected, rtol=1e-7, atol=1e-7)
    density = posterior.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(density, weights, rtol=1e-6, atol=1e-12)


def test_posterior_agrees_with_importance_sampling():
    prior = _prior("full")
    likelihood = GaussianLikelihood(Matrix.create(_normal(2, D, seed=3), (D,)), _normal(1, 2, seed=4), 1.0)
    x = prior.sample(200_000, seed=5)
    weights = torch.softmax(likelihood.select(torch.zeros(len(x), dtype=torch.long)).log_prob(x), 0)
    effective = 1 / float(weights.square().sum())
    assert effective > 1000
    mean, covariance = prior.posterior(likelihood).mean_and_covariance()
    deviations = covariance.diagonal().sqrt()
    # 4 means, each within 5 Monte-Carlo deviations: false alarms below 1e-5 (for another seed); the variances within
    # 5 sqrt(3 / n_eff) of their value (kurtosis below 4).
    assert bool(((weights @ x - mean).abs() < 5 * deviations / math.sqrt(effective)).all())
    variances = weights @ (x - mean).square()
    assert bool(((variances / deviations**2 - 1).abs() < 5 * math.sqrt(3 / effective)).all())


@pytest.mark.parametrize("kind", ["shared isotropic", "full"])
def test_hidden_entries_carry_no_information(kind):
    mask, y = torch.tensor([True, False, True, False]), _normal(1, D, seed=4)
    masked = _prior(kind).posterior(GaussianLikelihood(Mask(mask), y, 0.2))
    rows = Matrix.create(torch.eye(D, dtype=torch.float64)[mask], (D,))
    expected = _prior(kind).posterior(GaussianLikelihood(rows, y[:, mask], 0.2))
    torch.testing.assert_close(masked.weights, expected.weights)
    x = _normal(5, D, seed=1)
    torch.testing.assert_close(masked.log_prob(x), expected.log_prob(x))


def test_posterior_keeps_a_shared_covariance_shared():
    likelihood = GaussianLikelihood(Matrix.create(_normal(1, D), (D,)), _normal(1, 1), 0.1)
    assert _prior("shared isotropic").posterior(likelihood).kind == "shared full"
    assert _prior("shared full").posterior(likelihood).kind == "shared full"
    assert _prior("isotropic").posterior(likelihood).kind == "full"


def test_events_may_have_any_shape():
    means, x = _normal(K, 2, 2), _normal(5, 2, 2, seed=1)
    prior, flat = GaussianMixture(_weights(), means, 1.0), GaussianMixture(_weights(), means.reshape(K, 4), 1.0)
    torch.testing.assert_close(prior(x, 300), flat(x.reshape(5, 4), 300).reshape(5, 2, 2))
    assert prior.sample(6).shape == (6, 2, 2)
    assert prior.mean_and_covariance()[0].shape == (2, 2)


def test_singular_mixture_denoises_but_has_no_density():
    prior = GaussianMixture(_weights(), _normal(K, D), 0.0)
    check_denoiser(prior)
    with pytest.raises(NumericalError, match="no density"):
        prior.log_prob(_normal(1, D))


@pytest.mark.parametrize(
    ("weights", "covariances", "error"),
    [
        (torch.ones(2), 1.0, ShapeError),
        (torch.tensor([1.0, -1.0, 1.0]), 1.0, ConfigError),
        (torch.zeros(3), 1.0, ConfigError),
        (torch.ones(3), torch.ones(2, 4), ShapeError),
        (torch.ones(3), -1.0, ConfigError),
        (torch.ones(3), torch.ones(D, D).triu(), ConfigError),
    ],
)
def test_impossible_mixtures_are_refused(weights, covariances, error):
    with pytest.raises(error):
        GaussianMixture(weights, _normal(K, D), covariances)


def test_ambiguous_covariances_are_refused():
    # Two components in two dimensions: (2, 2) could be two diagonals or one matrix.
    with pytest.raises(ShapeError, match=r"may be[\s\S]*\(1, 2, 2\)"):
        GaussianMixture(torch.ones(2), _normal(2, 2), torch.eye(2))
    assert GaussianMixture(torch.ones(2), _normal(2, 2), torch.eye(2)[None]).kind == "shared full"


def test_the_record_holds_schedule_and_digests_and_is_small():
    record = mixture25(200, seed=0).record()
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {"type", "weights", "means", "covariances", "dtype", "schedule", "signal"}
    assert record["means"]["shape"] == [25, 200]
    assert len(json.dumps(record)) < 1000
