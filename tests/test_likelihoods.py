"""Likelihoods: values, batches, hidden entries, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from midguide import Problem, make_sampler, sample
from midguide.errors import ConfigError, ShapeError
from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood, observe, observe_counts
from midguide.maths import autodiff
from midguide.operators import Fourier, Identity, Mask, Matrix, Operator, half_mask, random_mask
from midguide.priors import Gaussian


def test_gaussian_log_prob_is_that_of_independent_normals_up_to_a_constant():
    y, x = torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.tensor([[0.1, 0.4]], dtype=torch.float64)
    likelihood = GaussianLikelihood(Identity(), y, 0.5)
    constant = 2 * math.log(0.5 * math.sqrt(2 * math.pi))
    want = stats.norm.logpdf(y.numpy(), x.numpy(), 0.5).sum()
    assert float(likelihood.log_prob(x)) - constant == pytest.approx(want)
    assert float(likelihood.log_density(x)) == pytest.approx(want)


def test_poisson_log_prob_is_that_of_counts_up_to_a_constant():
    y, x = torch.tensor([[3.0, 0.0, 7.0]], dtype=torch.float64), torch.tensor([[0.1, -1.0, 0.8]], dtype=torch.float64)
    likelihood = PoissonLikelihood(Identity(), y, rate=10.0)
    rates = (10 * (x + 1) / 2).clamp_min(1e-3)
    full = stats.poisson.logpmf(y.numpy(), rates.numpy()).sum()
    want = full + sum(math.lgamma(k + 1) for k in (3, 0, 7))
    assert float(likelihood.log_prob(x)) == pytest.approx(want)
    assert float(likelihood.log_density(x)) == pytest.approx(full)


def test_values_are_per_row_and_rows_may_repeat():
    y = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    likelihood = GaussianLikelihood(Identity(), y, 1.0).select(torch.tensor([1, 1, 0]))
    assert torch.equal(likelihood.log_prob(torch.zeros(3, 2)), torch.tensor([-6.5, -6.5, -0.5]))


def test_hidden_entries_do_not_count_whatever_stands_in_them():
    mask = half_mask(4, 4)
    y = torch.full((1, 1, 4, 4), 0.5)
    y[..., 2:] = math.nan
    for likelihood in (GaussianLikelihood(mask, y, 0.1), PoissonLikelihood(mask, y, rate=2.0)):
        assert int(likelihood.measured_values()[0]) == 8
        assert bool(torch.isfinite(likelihood.log_prob(torch.zeros(1, 1, 4, 4))).all())
        cut = replace(likelihood, operator=Identity(), y=likelihood.y[..., :2])
        seen = likelihood.log_density(torch.zeros(1, 1, 4, 4)), cut.log_density(torch.zeros(1, 1, 4, 2))
        assert torch.allclose(*seen)
        far = torch.zeros(1, 1, 4, 4)
        far[..., 2:] = 100.0
        assert torch.equal(likelihood.chi_square(far), likelihood.chi_square(torch.zeros(1, 1, 4, 4)))


def test_noise_of_an_observation_does_not_depend_on_the_others():
    x = torch.zeros(3, 4)
    assert torch.equal(observe(Identity(), x, 0.1).y[1:2], observe(Identity(), x, 0.1).select(torch.tensor([1])).y)
    assert not torch.equal(observe(Identity(), x, 0.1).y, observe(Identity(), x, 0.1, seed=1).y)


def test_a_mask_for_each_observation_needs_as_many_observations():
    masks = random_mask((4, 4), 0.5, seed=0, count=2)
    with pytest.raises(ShapeError, match="2 observations of its own, y has 3"):
        GaussianLikelihood(masks, torch.zeros(3, 1, 4, 4), 0.1)
    assert isinstance(masks, Mask)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, 1e300, 1e-30])
def test_sigma_is_positive_and_float32_can_hold_its_precision(sigma):
    wanted = "from 1e-18 to 1e18" if 0 < sigma < math.inf else "positive"
    with pytest.raises(ConfigError, match=f"sigma_y must be {wanted}, got"):
        GaussianLikelihood(Identity(), torch.zeros(1, 2), sigma)


def test_impossible_observations_are_refused():
    with pytest.raises(ShapeError, match="NaN"):
        GaussianLikelihood(Identity(), torch.tensor([[math.nan]]), 1.0)
    with pytest.raises(ShapeError, match="negative"):
        PoissonLikelihood(Identity(), torch.tensor([[-1.0]]), rate=1.0)
    with pytest.raises(ConfigError, match="rate"):
        PoissonLikelihood(Identity(), torch.tensor([[1.0]]), rate=0.0)


def test_dps_surrogate_of_poisson_noise_is_weighted_by_the_counts():
    likelihood = PoissonLikelihood(Matrix.create(torch.eye(2), (2,)), torch.tensor([[8.0, 2.0]]), rate=4.0)
    x = torch.tensor([[1.0, 0.0]])
    assert torch.allclose(likelihood.difference(x), torch.tensor([[(8 - 4) / 4.0, 0.0]]))


class Squares(Operator):
    """`y = x^2`, nonlinear."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()


HIDDEN = Mask(torch.tensor([True, False, True, True]))


@pytest.mark.parametrize("operator", [Matrix.create(torch.rand(3, 4) / 4, (4,)), HIDDEN, Squares()])
def test_the_score_is_the_gradient_of_the_log_likelihood(operator):
    x = torch.rand(5, 4, dtype=torch.float64)
    y = torch.rand_like(operator(x))
    for likelihood in (GaussianLikelihood(operator, y, 0.3), PoissonLikelihood(operator, y, rate=7.0)):
        _, want, _ = autodiff.value_and_grad(lambda u, p=likelihood: (p.log_prob(u), u), x)
        torch.testing.assert_close(likelihood.score(x), want)


def test_complex_observations_are_pairs_and_have_a_real_chi_square():
    """The noise level is that of the real and of the imaginary part."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 16, generator=generator) < 0.5
    operator, x = Fourier(mask, complex_signal=True), torch.randn(1, 2, 16, 16, generator=generator)
    clean = torch.view_as_complex(operator(x))
    noise = torch.complex(*(0.1 * torch.randn(2, 1, 16, 16, generator=generator)).unbind())
    likelihood = GaussianLikelihood(operator, clean + noise, 0.1)
    assert likelihood.y.shape == (1, 16, 16, 2)
    # chi-square of twice the measured frequencies, over their number: five standard deviations
    n = 2 * int(mask.sum())
    assert int(likelihood.measured_values()) == n
    assert abs(float(likelihood.chi_square(x)) - 1) < 5 * (2 / n) ** 0.5


def test_observations_may_be_arrays_and_counts_integers():
    array = np.arange(6.0).reshape(2, 3)
    assert torch.equal(GaussianLikelihood(Identity(), array, 1.0).y, torch.from_numpy(array))  # pyright: ignore
    counts = PoissonLikelihood(Identity(), torch.arange(6).reshape(2, 3), rate=3.0)
    assert counts.y.dtype == torch.float32


@pytest.mark.parametrize("y", ["image.png", None, [[1.0], [1.0, 2.0]], 3.0])
def test_what_is_no_observation_is_refused(y):
    with pytest.raises(ShapeError, match="observations"):
        GaussianLikelihood(Identity(), y, 1.0)


@pytest.mark.parametrize("sigma", [None, "0.1", True, torch.ones(2)])
def test_a_noise_level_that_is_no_number_is_refused(sigma):
    with pytest.raises(ConfigError, match="sigma_y must be a number"):
        GaussianLikelihood(Identity(), torch.zeros(1, 2), sigma)


def test_background_and_gain_of_a_camera_are_those_of_its_counts():
    x = torch.rand(2, 5, dtype=torch.float64) * 2 - 1
    counts = torch.tensor([[3.0, 0.0, 7.0, 2.0, 1.0]] * 2, dtype=torch.float64)
    likelihood = PoissonLikelihood(Identity(), 2.5 * counts, 6.0, background=1.5, gain=2.5)
    want = stats.poisson.logpmf(counts.numpy(), (3 * (x + 1) + 1.5).numpy()).sum(1)
    np.testing.assert_allclose(likelihood.log_density(x).numpy(), want, rtol=1e-10)


@pytest.mark.parametrize(("intensity", "read_noise", "most"), [(2.0, 2.0, 0.05), (10.0, 2.0, 0.02), (50.0, 5.0, 0.01)])
def test_read_noise_is_close_to_the_exact_sum_over_counts(intensity, read_noise, most):
    """Total variation between posteriors of the intensity under a flat prior, averaged over what may be measured."""
    grid = np.linspace(1e-3, 4 * intensity + 20, 800)
    counts = np.arange(600)
    y = np.random.default_rng(0).poisson(intensity, 40) + read_noise * np.random.default_rng(1).normal(size=40)
    exact = np.exp(-0.5 * ((y[:, None] - counts) / read_noise) ** 2) @ stats.poisson.pmf(counts[:, None], grid)
    rows = torch.from_numpy(np.tile(grid, (1, 1)).T)  # the intensity itself is the signal
    every = []
    for value, one in zip(y, exact, strict=True):
        likelihood = PoissonLikelihood(
            Identity(), torch.full((800, 1), value), 1.0, 0.0, (0.0, 1.0), read_noise=read_noise
        )
        ours = likelihood.log_prob(rows).exp().numpy()
        every.append(0.5 * np.abs(ours / ours.sum() - one / one.sum()).sum())
    assert np.mean(every) < most


def test_counts_of_a_camera_have_its_mean_and_variance():
    x = torch.zeros(1, 20000)
    likelihood = observe_counts(Identity(), x, 8.0, background=3.0, gain=2.0, read_noise=1.5)
    # 4 + 3 counts, variance 7 + 2.25: five standard deviations of means over 20,000
    assert abs(float(likelihood.y.mean()) / 2 - 7) < 5 * (9.25 / 20000) ** 0.5
    assert abs(float(likelihood.chi_square(x)) - 1) < 5 * (2.2 / 20000) ** 0.5
    assert bool((likelihood.y < 0).any())


@pytest.mark.parametrize("settings", [{"background": -1.0}, {"gain": 0.0}, {"read_noise": -0.1}, {"gain": math.inf}])
def test_impossible_cameras_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PoissonLikelihood(Identity(), torch.zeros(1, 2), 3.0, **settings)


def test_true_signals_may_be_arrays_and_whole_numbers():
    prior = Gaussian(torch.zeros(2), 1.0)
    for truth in (np.ones((1, 2)), torch.ones(1, 2, dtype=torch.uint8)):
        assert Problem.simulate(prior, Identity(), truth, sigma_y=0.1).likelihood.y.is_floating_point()
    for nothing in (None, "image.png", 3.0):
        with pytest.raises(ShapeError, match="true signals"):
            Problem.simulate(prior, Identity(), nothing, sigma_y=0.1)


def test_what_is_no_sampler_or_problem_is_named():
    prior = Gaussian(torch.zeros(2), 1.0)
    with pytest.raises(ConfigError, match="a str is not a sampler"):
        sample("dps", Problem.unobserved(prior))
    with pytest.raises(ConfigError, match="a NoneType is not a problem"):
        sample(make_sampler("dps"), None)
