"""Priors of larger signals from tiles: where tiling is exact, and what it loses where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from midguide import Problem, make_operator, make_sampler, sample
from midguide.diffusion import kernels
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.priors.base import Denoiser
from midguide.priors.field import GaussianField, matern_spectrum
from midguide.priors.gaussian import Gaussian
from midguide.priors.tiles import tiled
from midguide.samplers.budget import within_budget
from midguide.testing import check_denoiser

SIZES = [(20, 24), (8, 8), (9, 8), (15, 31)]


def white(*shape: int) -> Gaussian:
    return Gaussian(torch.full(shape, 0.3), 0.5)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("overlap", [0, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_independent_pixels_are_the_larger_prior(size: tuple[int, int], overlap: int) -> None:
    large, exact = tiled(white(3, 8, 8), size, overlap), white(3, *size)
    x = noise(2, 3, *size)
    assert torch.allclose(large(x, 300), exact(x, 300), atol=1e-12)


def test_a_tiled_prior_keeps_the_contract_of_a_denoiser() -> None:
    check_denoiser(tiled(white(2, 4, 4), (6, 7), 1))


def test_one_tile_is_the_prior_itself() -> None:
    prior = Gaussian(torch.zeros(1, 4, 4), torch.eye(16) + 0.5)
    x = noise(2, 1, 4, 4)
    assert torch.allclose(tiled(prior, 4)(x, 300), prior(x, 300), atol=1e-12)


def test_a_volume_is_denoised_slice_by_slice() -> None:
    prior = Gaussian(torch.zeros(2, 4, 4), torch.eye(32) + 0.5)
    volume = noise(3, 2, 5, 6, 7)
    by_slices = torch.stack([tiled(prior, (6, 7))(volume[:, :, k], 300) for k in range(5)], 2)
    assert torch.allclose(tiled(prior, (5, 6, 7))(volume, 300), by_slices, atol=1e-12)


def test_a_recording_is_tiled_along_its_time() -> None:
    assert tiled(white(9, 16), 50).event_shape == (9, 50)
    assert tiled(white(16), (50,)).event_shape == (50,)
    x = noise(2, 50)
    assert torch.allclose(tiled(white(16), 50)(x, 300), white(50)(x, 300), atol=1e-12)


def test_the_derivative_of_a_tiled_prior_is_its_own() -> None:
    prior = tiled(Gaussian(torch.zeros(1, 3, 3), torch.eye(9) + 0.5), (4, 5), 1)
    assert torch.autograd.gradcheck(lambda x: prior(x, 300), noise(2, 1, 4, 5).requires_grad_(True))


def test_draws_with_tiles_do_not_depend_on_the_chunk() -> None:
    prior = tiled(white(1, 4, 4), (6, 7))
    operator = make_operator("random-inpainting", prior.event_shape)
    problem = Problem.simulate(prior, operator, torch.zeros(1, 1, 6, 7), sigma_y=0.1)
    sampler = make_sampler("mmps", {"steps": 4})
    whole, parts = (sample(sampler, problem, 3, chunk=chunk, progress=False).draws for chunk in (3, 2))
    assert torch.allclose(whole, parts, atol=1e-5)


def law(prior: Denoiser, steps: int = 60) -> Tensor:
    """The covariance of deterministic draws of a prior whose denoiser is linear, exactly: (d, d)."""
    times = prior.schedule.times(steps)
    x = torch.eye(math.prod(prior.event_shape), dtype=torch.float64).reshape(-1, *prior.event_shape)
    x = x * prior.schedule.level(times[0]).sigma
    for t, s in zip(times[:-1], times[1:], strict=True):
        bridge = kernels.ddim(prior.schedule.level(s), prior.schedule.level(t), 0.0)
        x = bridge.mean(prior(x, t), x)
    x = prior(x, times[-1]).flatten(1)
    return x.mT @ x


def correlation(covariance: Tensor, lag: int) -> float:
    return float(covariance.diagonal(lag).mean() / covariance.diagonal().mean())


def of_tiles(field: GaussianField, tile: int) -> Gaussian:
    """The exact prior of a part of a field."""
    return Gaussian(torch.zeros(1, tile, dtype=torch.float64), field.dense().covariance_matrix()[:tile, :tile])


def test_costs_and_budgets_count_every_tile() -> None:
    problem = Problem.unobserved(tiled(Gaussian(torch.zeros(1, 4, 4), 1.0), (4, 10), overlap=1))
    drawn = sample(make_sampler("ddrm", {"steps": 5}), problem, 2)
    assert drawn.cost.network_forwards == 5 * 3
    assert within_budget(make_sampler("ddrm"), problem, 60).steps == 20


def test_tiles_keep_the_correlation_of_near_pixels_and_lose_that_beyond_a_tile() -> None:
    spectrum = matern_spectrum((256,), std=1.0, length=64.0, smoothness=0.5)
    field = GaussianField(torch.zeros(1, 256, dtype=torch.float64), spectrum)
    exact, tiles = law(field), law(tiled(of_tiles(field, 64), 256, 32))
    for lag in (1, 4):
        assert correlation(tiles, lag) == pytest.approx(correlation(exact, lag), abs=0.02)
    assert correlation(exact, 96) > 0.25
    assert abs(correlation(tiles, 96)) < 0.05


def test_what_is_no_tiling_is_refused() -> None:
    prior = white(3, 8, 8)
    with pytest.raises(ShapeError, match="not larger than tiles"):
        tiled(prior, (7, 9))
    with pytest.raises(ShapeError, match="not larger than tiles"):
        tiled(prior, (9,))
    with pytest.raises(ConfigError, match="overlap 8"):
        tiled(prior, 16, 8)
    with pytest.raises(ShapeError, match="slices have channels"):
        tiled(white(8), (2, 16))

    class Latent(Gaussian):
        autoencoder = object()  # pyright: ignore[reportAssignmentType]

    with pytest.raises(UnsupportedProblem, match="latents"):
        tiled(Latent(torch.zeros(3, 8, 8), 1.0), 16)
