"""Mean and covariance of `p(x_0 | x_t)`: in closed form, from products, by brute force, and through wrappers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import EDM
from midguide.inference.running import CountedDenoiser
from midguide.likelihoods import GaussianLikelihood
from midguide.maths.covariance import LowRank, Moments, Pullback
from midguide.maths.rng import Rng
from midguide.operators import Identity, Mask, Matrix
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.mixture import GaussianMixture
from midguide.priors.network import NetworkDenoiser
from midguide.testing import check_denoiser

ROWS = 4
Make = Callable[[str, int], Gaussian | GaussianMixture]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(*shape: int, seed: int = 0) -> Tensor:
    a = draw(*shape, seed=seed)
    return a @ a.mT / shape[-1] + 0.05 * torch.eye(shape[-1], dtype=torch.float64)


def gaussian(kind: str, d: int) -> Gaussian:
    covariance = {"isotropic": 1.7, "diagonal": draw(d, seed=1).abs() + 0.1, "full": spd(d, d, seed=1)}
    return Gaussian(draw(d), covariance[kind])


def mixture(kind: str, d: int, k: int = 4) -> GaussianMixture:
    covariance = {
        "shared isotropic": 0.4,
        "isotropic": draw(k, seed=1).abs() + 0.1,
        "diagonal": draw(k, d, seed=1).abs() + 0.1,
        "shared full": spd(1, d, d, seed=1),
        "full": spd(k, d, d, seed=1),
    }
    return GaussianMixture(torch.arange(1.0, k + 1), 2 * draw(k, d, seed=2), covariance[kind])


GAUSSIANS = ["isotropic", "diagonal", "full"]
MIXTURES = ["shared isotropic", "isotropic", "diagonal", "shared full", "full"]
PRIORS = [(gaussian, kind) for kind in GAUSSIANS] + [(mixture, kind) for kind in MIXTURES]


def matrices(moments: Moments, x: Tensor) -> Tensor:
    """The covariances as matrices, shape (B, d, d)."""
    d = x[0].numel()
    units = torch.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])
    return torch.stack([moments.covariance(unit.expand(x.shape)).flatten(1) for unit in units], 2)


@pytest.mark.parametrize(("make", "kind"), PRIORS)
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_closed_form_is_the_derivative_of_the_denoiser_and_root_and_solve_are_those_of_its_matrix(
    make: Make, kind: str, d: int
) -> None:
    prior = make(kind, d)
    x, t = 1.5 * draw(ROWS, d, seed=3), 400
    exact, level = prior.moments(x, t), prior.schedule.level(t)
    dense = matrices(exact, x)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda u: prior(u[None], t)[0], row) for row in x])
    assert torch.allclose(exact.mean, prior(x, t), atol=1e-12)
    assert torch.allclose(dense, level.sigma**2 / level.alpha * jacobian, atol=1e-10)
    noise = torch.eye(exact.covariance.root_shape[0], dtype=x.dtype)
    root = torch.stack([exact.covariance.root(z.expand(ROWS, -1)).value for z in noise], 2)
    assert torch.allclose(root @ root.mT, dense, atol=1e-12)
    assert torch.allclose(exact.covariance.diagonal(x), dense.diagonal(dim1=1, dim2=2), atol=1e-12)
    # the same from products alone
    products = Denoiser.moments(prior, x, t, directions=d)
    assert torch.allclose(matrices(products, x), dense, atol=1e-10)
    m = min(d, 2)
    operator, r = Matrix.create(draw(m, d, seed=4), (d,)), draw(ROWS, m, seed=5)
    a = operator.matrix
    want = torch.linalg.solve(a @ dense @ a.mT + 0.3 * torch.eye(m, dtype=x.dtype), r[..., None])[..., 0]
    for moments in (exact, products):
        found = moments.covariance.solve(operator, 0.3, r)
        assert torch.allclose(found.value, want, atol=1e-9)
        assert torch.allclose(found.gain, torch.einsum("bij,mj,bm->bi", dense, a, want), atol=1e-9)


@pytest.mark.parametrize(("make", "kind"), PRIORS)
@pytest.mark.parametrize("noise", [1e-6, 0.3, 1e6])
def test_what_noise_leaves_of_a_covariance_is_that_of_its_matrix(make: Make, kind: str, noise: float) -> None:
    """Also where noise is far above or below the covariance, in which differences would lose all digits."""
    d, t = 5, 400
    prior, x = make(kind, d), 1.5 * draw(ROWS, d, seed=3)
    exact, v = prior.moments(x, t).covariance, draw(ROWS, 2, d, seed=4)
    dense = matrices(prior.moments(x, t), x)
    want = torch.linalg.solve(dense + noise * torch.eye(d, dtype=x.dtype), dense @ v.mT).mT
    products = Denoiser.moments(prior, x, t, directions=d).covariance
    assert torch.allclose(exact.shrunk(v, noise), want, rtol=1e-8, atol=1e-10 * float(want.abs().max()))
    assert torch.allclose(products.shrunk(v, noise), want, rtol=1e-7, atol=1e-9 * float(want.abs().max()))


def test_a_solution_that_goes_far_off_is_shortened_to_what_leaves_least() -> None:
    """A rotation has little curvature along r, here 0.01: one product goes the inverse of it."""
    turn = torch.tensor([[0.01, 1.0], [-1.0, 0.01]], dtype=torch.float64)
    covariance, r = Pullback(lambda v: v @ turn, 1.0, (2,), directions=1), draw(ROWS, 2)
    found = covariance.solve(Identity(), 1e-3, r)
    left = r - (found.gain + 1e-3 * found.value)
    assert torch.allclose(found.residual, torch.full((ROWS,), 1 / 0.011).double(), rtol=1e-6)
    assert float((left.norm(dim=1) / r.norm(dim=1)).max()) <= 1.0


def test_few_products_condense_a_covariance_whose_spread_beyond_few_directions_is_even() -> None:
    """`c I` and rank 2, from three products: exact. From fewer it is a covariance, still."""
    d, means = 6, torch.zeros(3, 6, dtype=torch.float64)
    means[1, 0], means[2, 3] = 2.0, -1.5
    prior, x = GaussianMixture(torch.arange(1.0, 4), means, 0.4), draw(ROWS, d, seed=3)
    operator, like = Matrix.create(draw(1, d, seed=4), (d,)), torch.zeros(ROWS, 1, dtype=torch.float64)
    dense = matrices(prior.moments(x, 400), x)
    for directions in (1, 2, 8):
        covariance = Denoiser.moments(prior, x, 400, directions=directions).covariance
        condensed = covariance.condensed(operator, like, Rng([(0, 0)], size=ROWS))
        found = matrices(Moments(x, condensed), x)
        assert float(torch.linalg.eigvalsh(found).min()) > 0
        assert directions == 1 or torch.allclose(found, dense, atol=1e-10)


def test_a_network_has_a_condensed_covariance_without_negative_eigenvalues() -> None:
    """Its Jacobian is neither symmetric nor positive; a product for each measured value and each direction."""
    counted, x = CountedDenoiser(network()), draw(ROWS, 6, seed=3).float()
    covariance = counted.moments(x, 400, directions=3).covariance
    operator = Matrix.create(draw(2, 6, seed=4).float(), (6,))
    condensed = covariance.condensed(operator, torch.zeros(ROWS, 2), Rng([(0, 0)], size=ROWS))
    assert counted.vjps == 5 * ROWS
    found = matrices(Moments(x, condensed), x)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-5 * float(found.abs().max())


@pytest.mark.parametrize("kind", ["shared isotropic", "full"])
def test_more_measured_values_than_a_matrix_is_made_for_are_solved_as_well(kind: str) -> None:
    """Conjugate gradients stop at a residual of 100 times the rounding."""
    d = 80
    prior, x = mixture(kind, d), draw(ROWS, d, seed=3)
    moments, r = prior.moments(x, 400), draw(ROWS, d, seed=5)
    found = moments.covariance.solve(Identity(), 0.3, r)
    system = matrices(moments, x) + 0.3 * torch.eye(d, dtype=x.dtype)
    assert torch.allclose(found.value, torch.linalg.solve(system, r[..., None])[..., 0], atol=1e-11)
    assert float(found.residual.max()) < 1e-13


def test_moments_of_a_mixture_are_those_of_its_posterior() -> None:
    """`p(x_0 | x_t)` is the posterior of an identity measurement, which `posterior` computes otherwise."""
    prior, x, t = mixture("full", 3), draw(2, 3, seed=6), 500
    level = prior.schedule.level(t)
    exact = prior.moments(x, t)
    for row, (mean, matrix) in enumerate(zip(exact.mean, matrices(exact, x), strict=True)):
        seen = GaussianLikelihood(Identity(), x[[row]] / level.alpha, level.sigma / level.alpha)
        want_mean, want = prior.posterior(seen).mean_and_covariance()
        assert torch.allclose(mean, want_mean, atol=1e-9)
        assert torch.allclose(matrix, want, atol=1e-9)


def test_moments_in_one_dimension_are_those_of_quadrature() -> None:
    prior, t = mixture("isotropic", 1), 300
    level, grid = prior.schedule.level(t), torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    x = torch.linspace(-2, 2, ROWS, dtype=torch.float64)[:, None]
    log = prior.log_prob(grid) - 0.5 * ((x - level.alpha * grid.mT) / level.sigma) ** 2
    weights = torch.softmax(log, 1)
    mean = weights @ grid
    variance = (weights * (grid.mT - mean) ** 2).sum(1)
    exact = prior.moments(x, t)
    assert torch.allclose(exact.mean, mean, atol=1e-8)
    assert torch.allclose(exact.covariance.diagonal(x)[:, 0], variance, atol=1e-8)


def test_events_with_several_axes_and_masks_are_solved_as_their_vectors_are() -> None:
    shape = (2, 2, 3)
    flat = mixture("diagonal", 12)
    means, variances = 2 * draw(4, 12, seed=2), draw(4, 12, seed=1).abs() + 0.1
    shaped = GaussianMixture(flat.weights, means.reshape(4, *shape), variances.reshape(4, *shape))
    x = draw(ROWS, *shape, seed=3)
    seen = draw(12, seed=4) > 0
    r = torch.where(seen, draw(ROWS, 12, seed=5), 0.0)
    one = shaped.moments(x, 400).covariance.solve(Mask(seen.reshape(shape)), 0.1, r.reshape(x.shape))
    other = flat.moments(x.flatten(1), 400).covariance.solve(Mask(seen), 0.1, r)
    assert torch.allclose(one.value.flatten(1), other.value)
    assert not bool(one.value.flatten(1)[:, ~seen].any())
    assert torch.allclose(one.gain.flatten(1), other.gain)


@pytest.mark.parametrize(("make", "kind"), PRIORS)
def test_single_precision_is_close_at_every_level(make: Make, kind: str) -> None:
    prior = make(kind, 5)
    check_denoiser(prior)
    for t in prior.schedule.times(6):
        x = (
            prior.schedule.level(t).alpha * prior.sample(ROWS).float()
            + prior.schedule.level(t).sigma * draw(ROWS, 5).float()
        )
        single, double = (matrices(prior.moments(u, t), u) for u in (x, x.double()))
        assert torch.allclose(single.double(), double, rtol=1e-3, atol=1e-4 * float(double.abs().max()))


def network() -> NetworkDenoiser:
    body = nn.Sequential(nn.Linear(6, 24), nn.SiLU(), nn.Linear(24, 6))
    for parameter in body.requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
    return NetworkDenoiser(lambda x, t: body(x), gaussian("full", 6).schedule, "x0", (6,))


def test_the_products_of_a_network_are_its_vjps_and_the_stated_number_is_counted() -> None:
    counted, x = CountedDenoiser(network()), draw(ROWS, 6, seed=3).float()
    moments = counted.moments(x, 400, directions=4)
    assert isinstance(moments.covariance, Pullback)
    assert (counted.forwards, counted.vjps) == (ROWS, 0)
    moments.covariance(x)
    assert counted.vjps == ROWS
    moments.covariance.root(x)
    assert counted.vjps == (1 + 4) * ROWS
    for m, products in ((1, 1), (3, 3), (6, 4)):
        before = counted.vjps
        operator, r = Matrix.create(draw(m, 6), (6,)), draw(ROWS, m, seed=4).float()
        moments.covariance.solve(operator, 0.1, r)
        assert counted.vjps - before == products * ROWS == moments.covariance.products(r) * ROWS
    assert counted.forwards == ROWS


def test_moments_of_a_network_keep_their_row_whatever_its_batch() -> None:
    prior, x = network(), draw(ROWS, 6, seed=3).float()
    operator, r = Matrix.create(draw(4, 6), (6,)), draw(ROWS, 4, seed=4).float()
    whole = prior.moments(x, 400).covariance
    for i in range(ROWS):
        alone = prior.moments(x[[i]], 400).covariance
        assert torch.allclose(alone.root(x[[i]]).value, whole.root(x).value[[i]], atol=1e-4)
        assert torch.allclose(
            alone.solve(operator, 1.0, r[[i]]).gain, whole.solve(operator, 1.0, r).gain[[i]], atol=1e-4
        )


def test_wrappers_pass_on_a_closed_form_and_count_one_forward() -> None:
    prior = mixture("full", 3)
    coder = NetworkAutoencoder(lambda x: x, lambda z: z, (3,), (3,))
    moved = prior.on(EDM())
    counted = CountedDenoiser(LatentPrior(moved, coder))
    assert prior.exact_moments
    assert moved.exact_moments
    assert counted.exact_moments
    assert not network().on(EDM()).exact_moments
    t = moved.schedule.times(9)[4]
    level = moved.schedule.level(t)
    x = prior.sample(ROWS).double() + level.sigma * draw(ROWS, 3)
    exact = counted.moments(x, t)
    assert isinstance(exact.covariance, LowRank)
    assert (counted.forwards, counted.vjps) == (ROWS, 0)
    products = Denoiser.moments(moved, x, t, directions=3)
    assert torch.allclose(exact.mean, moved(x, t), atol=1e-10)
    assert torch.allclose(matrices(exact, x), matrices(products, x), atol=1e-9)


def test_a_network_on_another_schedule_has_the_same_covariance() -> None:
    prior = network()
    moved, t = prior.on(EDM()), 400
    there = moved.schedule.time_at(prior.schedule.level(t).ratio)
    x, scale = draw(ROWS, 6).float(), prior.schedule.level(t).alpha / moved.schedule.level(there).alpha
    here = matrices(prior.moments(x, t), x)
    assert torch.allclose(
        matrices(moved.moments(x / scale, there), x), here, rtol=1e-3, atol=1e-3 * float(here.abs().max())
    )
    assert math.isclose(scale, prior.schedule.level(t).alpha)
