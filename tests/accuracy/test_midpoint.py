"""The trade-off behind the midpoint (MGPS paper, Example 3.2 and Figure 2), from the closed-form law."""

import numpy as np
import torch

from midguide.diffusion.rules import StepRule
from midguide.exact.laws import Law, mgps_law
from midguide.exact.problems import random_gaussian_problem
from midguide.inference.loop import sample
from midguide.maths.optim import Adam
from midguide.samplers.mgps import MGPS

MIDPOINTS = (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
RULE = StepRule(default=2)


def test_error_over_the_midpoint_is_least_strictly_between_0_4_and_0_8():
    for seed in range(3):
        problem = random_gaussian_problem(100, 50, seed, 0.1, dtype=torch.float64)
        posterior = Law.of(problem.denoiser.posterior(problem.likelihood))
        laws = [
            mgps_law(MGPS(steps=300, midpoint=m, gradient_steps=RULE), problem, mean_field=False) for m in MIDPOINTS
        ]
        errors = [law.w2(posterior) for law in laws]
        assert 0.4 < MIDPOINTS[int(np.argmin(errors))] < 0.8
        assert min(errors) < 0.3 * errors[-1]  # nearly exact beside the DPS-like midpoint 1


def test_sampler_and_recursion_agree_along_the_midpoint():
    """d = 8, rank 4, 60 steps with 100 gradient steps each. Monte Carlo (n = 1000) moves the empirical Gaussian by
    about spread * sqrt(d / n) = 0.09 of the posterior's root total variance, Adam's fluctuation by as much again."""
    problem = random_gaussian_problem(8, 4, 0, 0.3, dtype=torch.float64)
    posterior = Law.of(problem.denoiser.posterior(problem.likelihood))
    spread = float(posterior.covariance.trace().sqrt())
    errors = {}
    for midpoint in (0.2, 0.5, 1.0):
        sampler = MGPS(
            steps=60,
            midpoint=midpoint,
            warm_start=None,
            gradient_steps=StepRule(default=100),
            optimizer=Adam(rate=0.02),
        )
        x = sample(sampler, problem, 1000, stream_size=1000).draws[0]
        empirical, law = Law(x.mean(0), torch.cov(x.T)), mgps_law(sampler, problem)
        assert empirical.w2(law) < 0.2 * spread
        errors[midpoint] = empirical.w2(posterior), law.w2(posterior)
    assert sorted(errors, key=lambda m: errors[m][0]) == sorted(errors, key=lambda m: errors[m][1])
