"""Photon counts end to end: MGPS and DPS beside a posterior computed by quadrature, in one dimension.

Prior N(0, 0.3^2), counts of a pixel that has 20 photons where it is white: y in {3, 10, 16}, in the tails and in the
middle of what the prior expects. The posterior's standard deviation is about 0.215.
"""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from PIL import Image

from midguide.diffusion.rules import StepRule
from midguide.inference.loop import sample
from midguide.likelihoods import PoissonLikelihood, observe_counts
from midguide.maths.optim import Adam
from midguide.maths.rng import Rng
from midguide.operators import Identity
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import NoisyState
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS

COUNTS, RATE, VARIANCE, N = (3.0, 10.0, 16.0), 20.0, 0.09, 4000
GRID = np.linspace(-2, 2, 40_001)
PRIOR = Gaussian(torch.zeros(1, dtype=torch.float64), VARIANCE)
PROBLEM = Problem(PRIOR, PoissonLikelihood(Identity(), torch.tensor(COUNTS, dtype=torch.float64)[:, None], RATE))

# Each test has six bands, each exceeded with probability 1e-4 by normal draws: 4.0 standard errors of N draws and of
# the 40,000 (seed 7) that gave the known values.
SIGMAS = 4.0 * math.sqrt(1 / N + 1 / 40_000)


def draw(sampler):
    return sample(sampler, PROBLEM, N, stream_size=N).draws[..., 0].numpy()


def compared(x, y):
    """Error of the mean, ratio of standard deviations and W1, in units of the exact posterior's deviation."""
    intensity = np.maximum(RATE * (GRID + 1) / 2, 1e-3)
    log_density = -(GRID**2) / (2 * VARIANCE) + y * np.log(intensity) - intensity
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = weights @ GRID
    std = math.sqrt(weights @ (GRID - mean) ** 2)
    quantiles = np.interp((np.arange(len(x)) + 0.5) / len(x), np.cumsum(weights), GRID)
    return (x.mean() - mean) / std, x.std() / std, np.abs(np.sort(x) - quantiles).mean() / std


def check(draws, known):
    for x, y, (error, ratio) in zip(draws, COUNTS, known, strict=True):
        got_error, got_ratio, _ = compared(x, y)
        assert abs(got_error - error) < SIGMAS * ratio
        assert abs(got_ratio - ratio) < SIGMAS * ratio / math.sqrt(2)


def test_mgps_draws_nearly_from_the_posterior_of_counts():
    """Converged fits at midpoint 0.75. The means lie up to 0.16 deviations towards the prior's: the bias of a midpoint,
    0.2 for Gaussian noise of this size by the closed-form law of the same sampler. Without the counts the prior's draws
    would have W1 = 1.8, 0.3 and 1.3."""
    rule, adam = StepRule(default=10), Adam(rate=0.05)
    sampler = MGPS(steps=100, midpoint=0.75, warm_start=None, gradient_steps=rule, optimizer=adam)
    draws = draw(sampler)
    check(draws, [(0.157, 1.051), (-0.041, 1.004), (-0.130, 0.987)])
    assert all(compared(x, y)[2] < 0.157 + SIGMAS for x, y in zip(draws, COUNTS, strict=True))


def test_dps_falls_onto_the_brightness_of_the_counts_alone():
    """The known bias of DPS: its step has no relation to the noise. With guidance 0.02 it ends at 2 y / rate - 1, where
    the likelihood is largest, whatever the prior says, with less than half of the posterior's spread."""
    draws = draw(DPS(steps=200, guidance=0.02))
    for x, y in zip(draws, COUNTS, strict=True):
        assert abs(x.mean() - (2 * y / RATE - 1)) < 0.02
    check(draws, [(-1.461, 0.440), (-0.105, 0.254), (1.474, 0.334)])


def test_no_guidance_makes_dps_draw_from_the_posterior_of_counts():
    """Its bias for every step size: the prior's law at guidance 0, the brightness of the counts alone at 0.02, and in
    between no value that serves three counts: the worst of their W1 is 0.40 deviations at best (guidance 0.004), where
    MGPS has 0.16. Measured: 1.82, 0.82, 0.60, 0.40, 0.50, 1.42, 1.49; W1 of N draws has a standard error of 0.02."""
    guidances = (0.0, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02)
    draws = [draw(DPS(steps=200, guidance=guidance)) for guidance in guidances]
    worst = [max(compared(x, y)[2] for x, y in zip(own, COUNTS, strict=True)) for own in draws]
    assert 0.3 < min(worst) < 0.5
    assert np.argmin(worst) == 3
    # without guidance the draws are the prior's, whatever the count: 200 steps lose 6 % of its deviation of 0.3
    assert np.abs(draws[0].mean(1)).max() < SIGMAS * math.sqrt(VARIANCE)
    assert np.abs(draws[0].std(1) / math.sqrt(VARIANCE) - 0.94).max() < 0.03
    # the likelihood pulls towards its own maximum, the more the larger the guidance, and past the posterior's mean
    distance = [np.abs(own.mean(1) - (2 * np.array(COUNTS) / RATE - 1)) for own in draws]
    assert all((after <= before + 0.01).all() for before, after in zip(distance, distance[1:], strict=False))
    assert distance[-1].max() < 0.02


def test_dps_weights_the_residual_of_counts_by_their_gaussian_surrogate():
    """Chung et al. 2023, Eq. (20): the norm of (y - lambda) / sqrt(2 y), for one step from x_t = 0.3."""
    (t, s), y, guidance = (600, 500), COUNTS[0], 0.05
    one = PROBLEM.select(torch.tensor([0]))
    state = NoisyState(torch.full((1, 1), 0.3, dtype=torch.float64))
    step = DPS(steps=10, guidance=guidance).step(one, state, t, s, Rng([(0,)]))
    p = reference.LinearGaussian(np.zeros(1), np.full((1, 1), VARIANCE), None, None, None)
    x_t = np.array([0.3])
    x0, z = p.denoise(x_t, t), Rng([(0,)]).normal(torch.zeros(1, 1, dtype=torch.float64))[0].numpy()
    r = (y - RATE * (x0 + 1) / 2) / math.sqrt(2 * y)
    slope = -RATE / 2 / math.sqrt(2 * y) * p.jacobian(t)[0]
    mean, std = p.ddpm(x0, x_t, t, s)
    expected = mean + std * z - guidance * 2 * r * slope / np.abs(r)
    np.testing.assert_allclose(step.state.x_t[0].numpy(), expected, rtol=1e-10)


def test_simulated_counts_have_the_variance_of_photons():
    """Pearson's chi-square of the truth per value is 1 with variance (2 + 1 / lambda) / n; 5 standard errors, one
    failure in 1.7 million seeds. A Gaussian surrogate of the wrong scale, or a factor 2 in the rate, is far outside."""
    x = torch.zeros(1, 20_000, dtype=torch.float64)
    likelihood = observe_counts(Identity(), x, RATE, seed=1)
    assert torch.equal(likelihood.y, likelihood.y.round())
    assert abs(float(likelihood.chi_square(x)) - 1) < 5 * math.sqrt((2 + 1 / 10) / 20_000)
    assert abs(float(likelihood.y.mean()) - 10) < 5 * math.sqrt(10 / 20_000)


@pytest.mark.slow
def test_the_example_draws_its_picture(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "photon_counts.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--steps", "3", "--samples", "2", "--out", str(tmp_path / "a.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert "PSNR" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 500
