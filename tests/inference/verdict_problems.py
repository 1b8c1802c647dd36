"""Smooth signals seen through a blur, Gaussian and mixed, and right draws of them: for the tests of the verdict."""

from __future__ import annotations

import torch
from torch import Tensor

from midguide import Problem
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.likelihoods import GaussianLikelihood
from midguide.maths.rng import stream_seed
from midguide.operators.base import Operator
from midguide.operators.blur import ReflectBlur
from midguide.priors import Gaussian, GaussianMixture

SIDE, SIGMA = 8, 0.05
SHAPE = (1, SIDE, SIDE)


def smooth(length: float, std: float = 0.4) -> Tensor:
    """A squared exponential covariance of images, shape (d, d)."""
    axis = torch.arange(SIDE, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return std**2 * torch.exp(-0.5 * (torch.cdist(places, places) / length) ** 2) + 1e-6 * torch.eye(SIDE**2)


def blur(width: float) -> ReflectBlur:
    weights = torch.exp(-0.5 * (torch.arange(-3, 4) / width) ** 2)
    return ReflectBlur(weights[:, None] * weights / weights.sum() ** 2)


GAUSSIAN = Gaussian(torch.zeros(SHAPE), smooth(2.0))
MIXTURE = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2]),
    torch.stack([torch.zeros(SHAPE), torch.linspace(-0.8, 0.8, SIDE).expand(SHAPE), torch.full(SHAPE, 0.5)]),
    smooth(2.0, 0.2),
)


def right(
    y: Tensor, operator: Operator, *, sigma: float = SIGMA, prior: Gaussian | GaussianMixture = GAUSSIAN, n: int = 20,
    seed: int = 0,
) -> Samples:  # fmt: skip
    """Draws of the exact posterior under these assumptions."""
    problem = Problem.of(prior, GaussianLikelihood(operator, y, sigma))
    draws = prior.posterior(problem.likelihood).sample(n, seed=stream_seed(seed, "right"))
    return Samples(draws[None], Cost(0, 0, 0, 0), {}, problem=problem)
