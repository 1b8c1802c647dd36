import math

import pytest
import torch

from midguide.diffusion import kernels
from midguide.diffusion.kernels import bridge, ddim, transition
from midguide.diffusion.schedules import CLEAN, EDM, DiscreteVP, Level, RectifiedFlow

SCHEDULES = [DiscreteVP.linear(), DiscreteVP.cosine(), EDM(), RectifiedFlow()]
LEVELS = [
    pytest.param(*(schedule.level(schedule.times(10)[i]) for i in (8, 5, 2)), id=type(schedule).__name__ + str(k))
    for k, schedule in enumerate(SCHEDULES)
]


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_transitions_compose(s, r, t):
    first, second, whole = transition(s, r), transition(r, t), transition(s, t)
    assert math.isclose(first.scale * second.scale, whole.scale, rel_tol=1e-12)
    assert math.isclose(second.scale**2 * first.variance + second.variance, whole.variance, rel_tol=1e-10)


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_bridge_is_the_conditional_of_the_joint_gaussian(s, r, t):
    # (x_r, x_t) given x_s, conditioned on x_t by the textbook formula.
    to_r, to_t, r_to_t = transition(s, r), transition(s, t), transition(r, t)
    covariance = r_to_t.scale * to_r.variance
    gain = covariance / to_t.variance
    got = bridge(s, r, t)
    assert math.isclose(got.weight_t, gain, rel_tol=1e-10)
    assert math.isclose(got.weight_s, to_r.scale - gain * to_t.scale, rel_tol=1e-8)
    assert math.isclose(got.std**2, to_r.variance - gain * covariance, rel_tol=1e-8)


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_bridge_reproduces_the_marginal(s, r, t):
    # Draw x_s and x_t | x_s given x_0 = 1: the mean and variance of x_r are those of q(x_r | x_0).
    got, step = bridge(s, r, t), transition(s, t)
    assert math.isclose(got.weight_s * s.alpha + got.weight_t * t.alpha, r.alpha, rel_tol=1e-10)
    of_x_s = got.weight_s + got.weight_t * step.scale
    variance = (of_x_s * s.sigma) ** 2 + got.weight_t**2 * step.variance + got.std**2
    assert math.isclose(variance, r.sigma**2, rel_tol=1e-10)


def test_bridge_from_clean_data_is_the_posterior_of_ddpm():
    # Ho et al. 2020, Eq. (6) and (7), for neighbors t - 1 and t.
    schedule, t = DiscreteVP.linear(), 400
    now, before = schedule.level(t), schedule.level(t - 1)
    beta = 1 - (now.alpha / before.alpha) ** 2
    got = bridge(CLEAN, before, now)
    assert math.isclose(got.weight_s, before.alpha * beta / now.sigma**2, rel_tol=1e-9)
    assert math.isclose(got.weight_t, math.sqrt(1 - beta) * before.sigma**2 / now.sigma**2, rel_tol=1e-9)
    assert math.isclose(got.std**2, beta * before.sigma**2 / now.sigma**2, rel_tol=1e-9)


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_bridge_at_its_ends_returns_the_ends(s, r, t):
    assert bridge(s, s, t) == (1.0, 0.0, 0.0)
    assert bridge(s, t, t) == pytest.approx((0.0, 1.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_ddim_with_eta_one_is_the_bridge(s, r, t):
    # Not an identity of the formulas: sqrt(sigma_r^2 - nu^2) must collapse to the bridge's weight.
    assert ddim(r, t, 1.0) == pytest.approx(bridge(CLEAN, r, t), rel=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_ddim_reproduces_the_marginal_for_every_eta(s, r, t, eta):
    got = ddim(r, t, eta)
    assert math.isclose(got.weight_s + got.weight_t * t.alpha, r.alpha, rel_tol=1e-12)
    assert math.isclose((got.weight_t * t.sigma) ** 2 + got.std**2, r.sigma**2, rel_tol=1e-12)
    assert math.isclose(got.std, eta * bridge(CLEAN, r, t).std, rel_tol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_renoising_keeps_the_rest_of_the_noise(s, r, t, share):
    generator = torch.Generator().manual_seed(0)
    x0, eps, z = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    fresh, kept = share * r.sigma, math.sqrt(1 - share**2) * r.sigma
    x_r = kernels.renoised(r, t, fresh).draw(x0, t.alpha * x0 + t.sigma * eps, z)
    torch.testing.assert_close(x_r, r.alpha * x0 + kept * eps + fresh * z)


@pytest.mark.parametrize("level", [Level(0.8, 0.6), Level(1.0, 5.0), Level(0.3, 0.7)])
def test_conversions_round_trip(level):
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    x_t = level.alpha * x0 + level.sigma * z
    torch.testing.assert_close(kernels.eps_from_x0(x_t, x0, level), z)
    torch.testing.assert_close(kernels.x0_from_eps(x_t, z, level), x0)
    torch.testing.assert_close(kernels.x0_from_v(x_t, level.alpha * z - level.sigma * x0, level), x0)
    torch.testing.assert_close(kernels.x0_from_flow(x_t, z - x0, level), x0)
    torch.testing.assert_close(kernels.score_from_x0(x_t, x0, level), -z / level.sigma)
    assert kernels.x0_from_x0(x_t, x0, level) is x0


def test_bridge_mean_is_its_weighted_sum():
    x_s, x_t = torch.ones(2, 3), torch.full((2, 3), 2.0)
    got = bridge(CLEAN, Level(0.9, 0.4), Level(0.5, 0.9))
    torch.testing.assert_close(got.mean(x_s, x_t), torch.full((2, 3), got.weight_s + 2 * got.weight_t))


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_an_observation_noised_downwards_is_the_bridge_from_the_level_of_its_noise(s, r, t):
    generator = torch.Generator().manual_seed(0)
    y, x_t, z = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    pin = torch.full_like(y, s.ratio**2)
    u_r, log_density = kernels.noised(y, pin, r, z, x_t / t.alpha, t)
    whole = bridge(s, r, t)
    torch.testing.assert_close(r.alpha * u_r, whole.draw(s.alpha * y, x_t, z), rtol=1e-7, atol=1e-7)
    law = torch.distributions.Normal(whole.mean(s.alpha * y, x_t), whole.std)
    torch.testing.assert_close(log_density, law.log_prob(r.alpha * u_r).sum(1), rtol=1e-6, atol=1e-6)
    above, nothing = kernels.noised(y, torch.full_like(y, t.ratio**2), r, z)
    assert torch.equal(above, y)
    assert torch.equal(nothing, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("s", "r", "t"), LEVELS)
def test_an_observation_pinned_between_two_levels_has_the_density_of_the_bridge_there(s, r, t):
    generator = torch.Generator().manual_seed(0)
    y, x_s, x_t = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    counts = torch.tensor([True, True, False, True, True])
    noise = torch.full((5,), r.ratio, dtype=torch.float64)
    here, factor, log_constant = kernels.pinned(y, noise, counts, s, x_t / t.alpha, t)
    assert torch.equal(here, counts)
    known = factor._replace(variance=torch.where(here, factor.variance, torch.inf))
    middle = bridge(s, Level(1.0, r.ratio), t)
    law = torch.distributions.Normal(middle.mean(x_s, x_t), middle.std)
    want = torch.where(counts, law.log_prob(y), 0.0).sum(1)
    torch.testing.assert_close(known.log_mass(x_s) + log_constant, want, rtol=1e-6, atol=1e-6)
