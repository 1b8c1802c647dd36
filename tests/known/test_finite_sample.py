"""Real images as a prior: posterior and denoiser against brute force, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.data.glyphs import glyphs
from midguide.errors import ConfigError, DataError, ShapeError
from midguide.exact.posteriors import posterior_of
from midguide.known.base import KNOWN
from midguide.known.finite_sample import effective_components, finite_sample, finite_sample_prior, patches
from midguide.operators.factory import make_operator
from midguide.priors.mixture import LARGE

SMALL = {"count": 150}


def brute_force(prior, problem):
    """Weights and means of the posterior's components, from numpy and the density of each image's measurement."""
    operator, y, sigma = problem.likelihood.operator, problem.likelihood.y.double().numpy().ravel(), 0.3
    d, h = prior.dimension, 0.1
    columns = operator(torch.eye(d, dtype=torch.float64).reshape(d, *prior.event_shape)).reshape(d, -1).numpy()
    seen = np.abs(columns).sum(0) > 0
    matrix, y = columns[:, seen].T, y[seen]
    images = prior._means.numpy()
    noise = h**2 * matrix @ matrix.T + sigma**2 * np.eye(len(y))
    gaps = y - images @ matrix.T
    logits = -0.5 * (gaps * np.linalg.solve(noise, gaps.T).T).sum(1)
    weights = np.exp(logits - logits.max())
    means = images + h**2 * np.linalg.solve(noise, gaps.T).T @ matrix
    return weights / weights.sum(), means


@pytest.mark.parametrize("name", ["glyphs-blocks", "glyphs-pixels", "patches-blocks"])
def test_posterior_is_that_of_brute_force(name):
    problem = KNOWN.make(name, SMALL, 1)
    posterior = posterior_of(problem)
    weights, means = brute_force(problem.denoiser, problem)
    np.testing.assert_allclose(posterior.weights.numpy(), weights, atol=1e-6)
    np.testing.assert_allclose(posterior._means.numpy(), means, atol=1e-4)
    mean, covariance = posterior.mean_and_covariance()
    np.testing.assert_allclose(mean.numpy().ravel(), weights @ means, atol=1e-4)
    assert float(covariance.diagonal().min()) > 0


def test_denoiser_and_moments_are_those_of_brute_force():
    images = glyphs(torch.arange(80))
    prior = finite_sample_prior(images, 0.1)
    assert prior.components * prior.dimension > LARGE  # so that no tensor has the size rows x images x pixels
    level = prior.schedule.level(300)
    noise = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x = (level.alpha * images[:2] + level.sigma * noise).double()
    flat, means = x.flatten(1).numpy(), images.double().flatten(1).numpy()
    total = level.alpha**2 * 0.01 + level.sigma**2
    logits = -0.5 * ((flat[:, None] - level.alpha * means) ** 2).sum(2) / total
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    centers = means + level.alpha * 0.01 / total * (flat[:, None] - level.alpha * means)
    want = (weights[:, :, None] * centers).sum(1)
    np.testing.assert_allclose(prior(x, 300).flatten(1).numpy(), want, atol=1e-8)
    moments = prior.moments(x, 300)
    np.testing.assert_allclose(moments.mean.flatten(1).numpy(), want, atol=1e-8)
    spread = centers - want[:, None]
    v = noise.flip(0).double()
    along = (spread * v.flatten(1).numpy()[:, None]).sum(2)
    product = (weights * along)[:, :, None] * spread
    product = product.sum(1) + 0.01 * level.sigma**2 / total * v.flatten(1).numpy()
    np.testing.assert_allclose(moments.covariance(v).flatten(1).numpy(), product, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glyphs-blocks", "glyphs-pixels", "patches-blocks"])
def test_several_images_explain_what_is_measured(name):
    """The effective number of images: between 3 and 300 in the median of six problems."""
    found = [effective_components(posterior_of(KNOWN.make(name, {}, seed))) for seed in range(6)]
    assert 3 < float(np.median(found)) < 300


def test_draws_of_the_posterior_explain_the_measurement():
    """16 measured values, 2,000 draws: given y, chi-square per value is not 1, but near it; a wrong law is far off."""
    problem = KNOWN.make("glyphs-blocks", SMALL, 1)
    draws = posterior_of(problem).sample(2000, seed=1).float()
    assert 0.3 < float(problem.expand(2000).likelihood.chi_square(draws).mean()) < 3


def test_images_of_a_folder_are_a_prior(tmp_path):
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    problem = finite_sample(0, data=str(tmp_path), operator="half-mask")
    assert problem.denoiser.components == 12
    assert problem.event_shape == (1, 8, 8)
    assert posterior_of(problem).sample(3).shape == (3, 1, 8, 8)


def save(folder, sizes):
    for i, size in enumerate(sizes):
        Image.fromarray(np.full((size, size, 3), 10 * i, dtype=np.uint8)).save(folder / f"{i:02}.png")


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ([8, 8], ShapeError, "2 images make no prior, it takes at least 10"),
        ([8] * 10 + [9], DataError, "the images before it"),
        ([], DataError, "holds no images"),
    ],
)
def test_folders_that_are_no_prior_are_refused(tmp_path, sizes, error, words):
    save(tmp_path, sizes)
    with pytest.raises(error, match=words):
        finite_sample(0, data=str(tmp_path), operator="half-mask")


def test_impossible_settings_are_refused():
    with pytest.raises(DataError, match="there is no nowhere\nhint: data is `glyphs`"):
        finite_sample(0, data="nowhere", operator="half-mask")
    with pytest.raises(ConfigError, match="bandwidth must be positive"):
        finite_sample_prior(torch.zeros(20, 4), 0.0)
    with pytest.raises(ConfigError, match="NaN"):
        finite_sample_prior(torch.full((20, 4), torch.nan), 0.1)
    with pytest.raises(ConfigError, match="count must be at least 10"):
        finite_sample(0, data="glyphs", operator="half-mask", count=3)


def test_patches_depend_on_the_seed_alone_and_stay_in_range():
    few, many = patches(5, 16), patches(20, 16)
    assert torch.equal(few, many[:5])
    assert float(many.abs().max()) <= 1
    assert many.shape == (20, 1, 16, 16)
    assert not torch.equal(few, patches(5, 16, seed=1))


def test_operators_of_a_seed_are_those_of_no_other():
    one, two = (KNOWN.make("glyphs-pixels", SMALL, seed).likelihood.operator for seed in (0, 1))
    assert not torch.equal(one.mask, two.mask)
    assert make_operator("random-inpainting", (1, 32, 32), seed=0, keep=0.02) is not None


def test_white_of_image_files_is_said(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (12, 8, 8), dtype=np.uint16)
    pixels[:, 0, 0] = 4095
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    problem = finite_sample(0, data=str(tmp_path), operator="half-mask", white=4095, bandwidth=1e-3)
    distances = np.abs(problem.truth[0, 0].numpy() - (pixels / 2047.5 - 1)).max((1, 2))
    assert distances.min() < 1 / 255 + 6e-3  # rounded to bytes, and noise of six standard deviations
    with pytest.raises(ConfigError, match="white is given, but no images"):
        finite_sample(0, data="glyphs", operator="half-mask", white=4095)
