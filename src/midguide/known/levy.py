"""Signals of Levy processes: random walks whose increments are Laplace, Student's t, or mostly zero.

The prior's denoiser is exact (messages on a lattice), and a Gibbs sampler that checks itself draws the posterior. So
what a sampler gets wrong is its own error, not that of a network. With `denoiser="learned"` a trained network takes the
place of the exact denoiser. The posterior stays that of the process, so the difference is what the network costs.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.exact.gibbs import GibbsPosterior
from midguide.exact.increments import BernoulliLaplace, Gauss, Increments, Laplace, StudentT
from midguide.exact.levy import LevyProcess
from midguide.known.base import KNOWN, simulated
from midguide.likelihoods.base import Likelihood
from midguide.maths.rng import Rng, stream_seed
from midguide.operators.base import Operator
from midguide.operators.mask import Mask
from midguide.operators.matrix import Identity, Matrix
from midguide.priors.base import Denoiser
from midguide.priors.loading import load_prior
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem

LAWS: dict[str, Increments] = {
    "gauss": Gauss(),
    "laplace": Laplace(),
    "student-t": StudentT(),
    "bernoulli-laplace": BernoulliLaplace(),
}
"""Increments by name; all have the standard deviation 0.25."""

LEARNED = {"laplace": "levy-laplace-16"}
"""Shipped networks that were trained on walks, by the law of their increments."""
Denoises = Literal["exact", "learned"]


class LearnedWalk(Wrapped):
    """A network that was trained on the walks of a process, which knows the process and its posterior.

    Args:
        inner: the network as a prior.
        process: the process.

    Example:
        >>> LearnedWalk(load_prior("levy-laplace-16"), LevyProcess(Laplace(), 16)).event_shape
        (16,)
    """

    def __init__(self, inner: Denoiser, process: LevyProcess) -> None:
        super().__init__(inner)
        self.process = process

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """`n` independent draws of the process, shape (n, length)."""
        return self.process.sample(n, seed=seed)

    def posterior(self, likelihood: Likelihood) -> GibbsPosterior:
        """That of the process: see `LevyProcess.posterior`."""
        return self.process.posterior(likelihood)


@KNOWN.register("levy", family="Levy process")
def levy(
    seed: int,
    *,
    law: Literal["gauss", "laplace", "student-t", "bernoulli-laplace"],
    measured: Literal["all", "blurred", "some", "fourier"],
    length: int = 64,
    sigma_y: float = 0.2,
    denoiser: Denoises = "exact",
) -> Problem:
    """A random walk, seen as a whole, blurred, at every fourth place, or by some Fourier coefficients.

    Args:
        seed: of the truth, of the noise, and of which coefficients are measured.
        law: of the increments.
        measured: `all` is denoising; `blurred` a Gaussian kernel of deviation 2; `some` every fourth entry; `fourier`
            the lowest frequencies and random others, a third of all.
        length: entries of the signal.
        sigma_y: standard deviation of the noise.
        denoiser: `exact`, or `learned`: a network of walks of 16 entries, shipped for Laplace increments.
    """
    process = LevyProcess(LAWS[law], length)
    prior = process if denoiser == "exact" else _learned(law, process)
    return simulated(prior, _instrument(measured, length, seed), "gaussian", seed, sigma_y=sigma_y)


@KNOWN.register("levy-laplace", family="Levy process", seeds=2, title="Laplace walk, 16 entries, blurred")
def levy_laplace(seed: int, *, length: int = 16, sigma_y: float = 0.2, denoiser: Denoises = "exact") -> Problem:
    """A random walk with Laplace increments, blurred."""
    return levy(seed, denoiser=denoiser, law="laplace", measured="blurred", length=length, sigma_y=sigma_y)


@KNOWN.register("levy-student", family="Levy process", seeds=2, title="Student's t walk, 16 entries, every fourth")
def levy_student(seed: int, *, length: int = 16, sigma_y: float = 0.2) -> Problem:
    """A random walk with increments of Student's t, heavy-tailed, seen at every fourth place."""
    return levy(seed, law="student-t", measured="some", length=length, sigma_y=sigma_y)


@KNOWN.register("levy-jumps", family="Levy process", seeds=2, title="piecewise constant, 16 entries, Fourier")
def levy_jumps(seed: int, *, length: int = 16, sigma_y: float = 0.2) -> Problem:
    """A piecewise constant signal, with some Fourier coefficients measured."""
    return levy(seed, law="bernoulli-laplace", measured="fourier", length=length, sigma_y=sigma_y)


@KNOWN.register(
    "levy-learned", family="Levy process", seeds=2, title="Laplace walk, 16 entries, blurred; learned denoiser"
)
def levy_learned(seed: int, *, sigma_y: float = 0.2) -> Problem:
    """The problems of `levy-laplace`, for samplers that see a trained network in place of the exact denoiser."""
    return levy_laplace(seed, sigma_y=sigma_y, denoiser="learned")


def _learned(law: str, process: LevyProcess) -> LearnedWalk:
    if law not in LEARNED:
        raise ConfigError(f"no network is shipped for `{law}` walks", hint=f"there is one for {', '.join(LEARNED)}")
    network = load_prior(LEARNED[law])
    if network.event_shape != process.event_shape:
        raise ShapeError(f"the network takes walks of {network.event_shape[0]} entries, these have {process.length}")
    return LearnedWalk(network, process)


def _instrument(measured: str, length: int, seed: int) -> Operator:
    places = torch.arange(length, dtype=torch.float64)
    if measured == "all":
        return Identity()
    if measured == "some":
        return Mask(torch.arange(length) % 4 == 3)
    if measured == "blurred":
        kernel = torch.exp(-0.5 * ((places[:, None] - places) / 2).square())
        return Matrix.create(kernel / kernel.sum(1, keepdim=True), (length,)).to(torch.float32)
    return Matrix.orthonormal(_frequencies(length, seed), (length,)).to(torch.float32)


def _frequencies(length: int, seed: int) -> Tensor:
    """Rows of the real Fourier basis: the constant, two lowest pairs, and random others, a third of all."""
    places = torch.arange(length, dtype=torch.float64)
    pairs = max(3, length // 6)
    order = Rng([(stream_seed(seed, "frequencies"), i) for i in range(length // 2 - 3)])
    others = order.uniform(torch.empty(length // 2 - 3)).argsort()[: pairs - 2] + 3
    chosen = torch.cat([torch.tensor([1, 2]), others.sort().values]).double()
    angles = 2 * math.pi / length * chosen[:, None] * places
    return torch.cat([torch.ones(1, length, dtype=torch.float64), angles.cos(), angles.sin()])
