"""Mixtures of three entries behind instruments that are not linear, their posteriors by quadrature.

The prior is a mixture of Gaussians in the range of images, -1 to 1. Three entries show what is hard here as well as a
thousand do. Two signals have one modulus, the noise of counts depends on the signal, and a detector clips values.
"""

from __future__ import annotations

import torch

from midguide.known.base import KNOWN, simulated
from midguide.maths.rng import Rng
from midguide.operators.factory import make_operator
from midguide.operators.phase_retrieval import PhaseRetrieval
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem

COMPONENTS = 6
WIDTH = 0.2
"""Standard deviation of a component, in each entry."""


@KNOWN.register("phase-retrieval", family="nonlinear", title="phase retrieval, 3 entries, two modes")
def phase_retrieval(seed: int, *, sigma_y: float = 0.05) -> Problem:
    """The modulus of the Fourier transform: a signal and its mirror image explain it equally well."""
    return simulated(_prior(seed), PhaseRetrieval((0, 1)), "gaussian", seed, sigma_y=sigma_y)


@KNOWN.register("photon-counts", family="nonlinear", title="photon counts, 3 entries")
def photon_counts(seed: int, *, rate: float = 10.0) -> Problem:
    """Poisson counts of each entry, ten at the brightest."""
    prior = _prior(seed)
    return simulated(prior, make_operator("identity", prior.event_shape), "poisson", seed, rate=rate)


@KNOWN.register("saturation", family="nonlinear", title="saturation, 3 entries")
def saturation(seed: int, *, scale: float = 3.0, sigma_y: float = 0.1) -> Problem:
    """A detector multiplies values and clips them to [-1, 1]."""
    prior = _prior(seed)
    clipped = make_operator("high-dynamic-range", prior.event_shape, scale=scale)
    return simulated(prior, clipped, "gaussian", seed, sigma_y=sigma_y)


def _prior(seed: int) -> GaussianMixture:
    """Components around places in [-0.8, 0.8]^3, their weights between 1 and 2 before they are normalized."""
    rng = Rng([(seed, "nonlinear prior")], size=COMPONENTS)
    places = 1.6 * rng.uniform(torch.empty(COMPONENTS, 1, 1, 3)) - 0.8
    return GaussianMixture(1 + rng.uniform(torch.empty(COMPONENTS)), places, WIDTH**2)
