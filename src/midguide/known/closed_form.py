"""Known posteriors in closed form: a Gaussian, the mixture of the MGPS paper, a box."""

from __future__ import annotations

import torch

from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.known.base import KNOWN, simulated
from midguide.maths.rng import stream_seed
from midguide.operators.factory import make_operator
from midguide.priors.box import UniformBox
from midguide.problem import Problem


@KNOWN.register("gaussian", family="Gaussian", title="Gaussian, 8 entries, 4 measured")
def gaussian(seed: int, *, dimension: int = 8, measurements: int = 4, sigma_y: float = 0.3) -> Problem:
    """A random Gaussian seen through a random matrix."""
    return random_gaussian_problem(dimension, measurements, seed, sigma_y, dtype=torch.float32)


@KNOWN.register("mixture-25", family="mixture", title="25 Gaussians in 20 dimensions, one value")
def mixture(seed: int, *, dimension: int = 20, sigma_y: float = 0.05) -> Problem:
    """The mixture of the MGPS paper, with one measured number."""
    return mixture_problem(dimension, seed, sigma_y)


@KNOWN.register("box", family="bounded", title="uniform on a box, half of the entries")
def box(seed: int, *, side: int = 6, keep: float = 0.5, sigma_y: float = 0.3) -> Problem:
    """Independent values, uniform in [-1, 1], a random half of them measured."""
    prior = UniformBox((1, side, side))
    masked = make_operator("random-inpainting", prior.event_shape, seed=stream_seed(seed, "operator"), keep=keep)
    return simulated(prior, masked, "gaussian", seed, sigma_y=sigma_y)
