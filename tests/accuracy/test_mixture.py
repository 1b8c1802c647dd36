"""MGPS on the 25-component mixture of the paper's Table 1 (dx = 20, dy = 1)."""

import numpy as np

from midguide.diffusion.rules import StepRule
from midguide.exact.problems import mixture_problem
from midguide.inference.loop import sample
from midguide.maths.optim import Adam
from midguide.metrics.distribution import sliced_wasserstein
from midguide.samplers.mgps import MGPS

# Sliced Wasserstein (order 1, 100 slices, 2,000 samples) of the authors' implementation: mean and half-width of the
# 95 % interval over 25 problems; and of two draws of the exact posterior.
REFERENCE = 1.81, 0.60
FLOOR = 0.16, 0.04

MIXTURE = MGPS(
    steps=300,
    midpoint=0.75,
    warm_start=None,
    gradient_steps=StepRule(default=2, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20)),
    optimizer=Adam(rate=0.1),
)


def interval(values):
    return np.mean(values), 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))


def compatible(values, reference):
    mean, half = interval(values)
    return abs(mean - reference[0]) < np.hypot(half, reference[1])


def test_mixture_error_is_that_of_the_authors_implementation():
    errors, floors = [], []
    for seed in range(20):
        problem = mixture_problem(20, seed)
        posterior = problem.denoiser.posterior(problem.likelihood)
        exact = posterior.sample(2000, seed=1)
        draws = sample(MIXTURE, problem, 2000, stream_size=2000).draws[0]
        errors.append(sliced_wasserstein(draws, exact))
        floors.append(sliced_wasserstein(posterior.sample(2000, seed=2), exact))
    assert compatible(floors, FLOOR)
    assert compatible(errors, REFERENCE)
