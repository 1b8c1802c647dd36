"""Samplers on latents of a linear autoencoder, where the problem over latents is again linear and Gaussian.

Its posterior is known exactly, and so are the draws that any sampler should give: those that it gives for the same
problem written without signals.
"""

import latent_reference
import numpy as np
import pytest
import reference
import torch
from moments import p_value_same_moments

from midguide.diffusion.rules import StepRule
from midguide.exact.accuracy import gaussian_accuracy
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.likelihoods import GaussianLikelihood
from midguide.maths.optim import Adam
from midguide.operators.matrix import Matrix
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.problem import Problem
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.psld import PSLD
from midguide.samplers.resample import ReSample, _descend
from midguide.samplers.unconditional import Unconditional

FALSE_ALARM = 1e-4
N = 4000
SIGMA = 0.3
FEW = StepRule(default=2, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20))
SCALE, SHIFT = 2.0, 0.5


class Toy:
    """A random linear autoencoder, prior and observation, for the package and as dense matrices."""

    def __init__(self, latent, seed=0):
        self.signal, self.latent = latent + 3, latent
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        decoder, offset = normal(self.signal, latent) / latent**0.5, normal(self.signal)
        encoder = torch.linalg.pinv(decoder) + 0.1 * normal(latent, self.signal)
        matrix = normal(latent // 2, self.signal) / self.signal**0.5
        self.prior = random_gaussian(latent, seed, dtype=torch.float64)
        autoencoder = NetworkAutoencoder(
            lambda x: (x - offset) @ encoder.T / SCALE + SHIFT,
            lambda z: (z - SHIFT) @ decoder.T * SCALE + offset,
            (self.signal,),
            (latent,),
            value_range=None,
            scale=SCALE,
            shift=SHIFT,
            rows=N,
        )
        truth = self.prior.sample(1) @ decoder.T + offset
        operator = Matrix.create(matrix, (self.signal,))
        self.problem = Problem.simulate(LatentPrior(self.prior, autoencoder), operator, truth, sigma_y=SIGMA)
        direct = GaussianLikelihood(
            Matrix.create(matrix @ decoder, (latent,)), self.problem.likelihood.y - offset @ matrix.T, SIGMA
        )
        self.direct = Problem(self.prior, direct)
        self.decoder, self.offset = decoder, offset
        arrays = (matrix, self.problem.likelihood.y[0], decoder, offset, encoder)
        A, y, W, b, E = (value.numpy() for value in arrays)
        mean, covariance = self.prior.mean.numpy(), self.prior.covariance_matrix().numpy()
        self.dense = latent_reference.LatentLinearGaussian(mean, covariance, A, y, SIGMA, W, b, E)


def latents(sampler, toy, n=N):
    return sample(sampler, toy.problem, n, stream_size=n).tensors["latents"][0]


def mgps(**changes):
    return MGPS(**{"steps": 50, "midpoint": 0.5, "gradient_steps": FEW, "optimizer": Adam(rate=0.1), **changes})


ANY_OPERATOR = {
    "mgps": mgps(warm_start=None),
    "mgps, warm start": mgps(warm_start=0.7),
    "dps": DPS(steps=60),
    "unconditional": Unconditional(steps=60),
}


@pytest.mark.parametrize("name", ANY_OPERATOR)
def test_sampling_through_a_linear_decoder_is_sampling_without_it(name):
    """The same random numbers, the same arithmetic up to its order: 1e-15 grows over some hundred steps."""
    toy, sampler = Toy(6), ANY_OPERATOR[name]
    through = sample(sampler, toy.problem, 20, seed=3)
    without = sample(sampler, toy.direct, 20, seed=3).draws
    assert torch.allclose(through.tensors["latents"], without, rtol=0, atol=1e-9)
    assert torch.allclose(through.draws, without @ toy.decoder.T + toy.offset, rtol=0, atol=1e-9)


FEW_ITERATIONS = dict(guidance=0.5, every=4, spread=40.0, iterations=30, signal_rate=0.05, latent_rate=0.05)
GUIDED = {"guidance": 300.0, "every": 60}

CASES = {
    "mgps": (
        mgps(warm_start=None),
        lambda p, rng: reference.mgps(p.in_latents(), 50, 0.5, lambda i: FEW.at(i, 50), 0.1, N, rng),
    ),
    "psld": (PSLD(steps=60), lambda p, rng: latent_reference.psld(p, 60, 0.1, 0.1, N, rng)),
    "psld, other weights": (
        PSLD(steps=60, guidance=0.03, gluing=0.3),
        lambda p, rng: latent_reference.psld(p, 60, 0.03, 0.3, N, rng),
    ),
    "resample": (
        ReSample(steps=60, **FEW_ITERATIONS),
        lambda p, rng: latent_reference.resample(p, 60, **FEW_ITERATIONS, n=N, rng=rng),
    ),
    "resample, much guidance": (
        ReSample(steps=60, **FEW_ITERATIONS | {"guidance": 300.0, "every": 60}),
        lambda p, rng: latent_reference.resample(
            p, 60, **FEW_ITERATIONS | {"guidance": 300.0, "every": 60}, n=N, rng=rng
        ),
    ),
    "resample, little spread": (
        ReSample(steps=60, **FEW_ITERATIONS | {"spread": 0.5}),
        lambda p, rng: latent_reference.resample(p, 60, **FEW_ITERATIONS | {"spread": 0.5}, n=N, rng=rng),
    ),
}


@pytest.mark.parametrize("latent", [2, 6])
@pytest.mark.parametrize("name", CASES)
def test_sampler_of_latents_has_the_law_of_its_pseudo_code(name, latent):
    """Means and covariances by the chi-square test, which fails for a right sampler at FALSE_ALARM."""
    toy = Toy(latent)
    sampler, simulate = CASES[name]
    theirs = simulate(toy.dense, np.random.default_rng(1))
    assert p_value_same_moments(latents(sampler, toy), theirs) > FALSE_ALARM


def test_resample_enforces_the_data_over_signals_in_the_middle_third_and_over_latents_in_the_cleanest():
    """Steps 50 and 60 of 60 are guided; 40, 30 and 20 encode what was found over signals; 10 is found over latents."""
    toy, encoded = Toy(4), []
    coder = toy.problem.denoiser.autoencoder
    encoder = coder.encoder
    coder.encoder = lambda x: encoded.append(len(x)) or encoder(x)
    sample(ReSample(steps=60, every=10, iterations=3), toy.problem, 2)
    assert encoded == [2, 2, 2]


def test_the_optimization_of_resample_is_adamw_with_the_defaults_of_torch():
    """On a misfit that cannot get as small as the noise, so that no row stops: y is in part out of reach."""
    matrix = torch.tensor([[1.0, 0.5], [1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
    y = torch.tensor([[3.0, -3.0, 1.0], [-2.0, 4.0, 0.0]], dtype=torch.float64)
    likelihood = GaussianLikelihood(Matrix.create(matrix, (2,)), y, 0.1)
    start = torch.tensor([[5.0, -4.0], [0.5, 2.0]], dtype=torch.float64)
    leaf = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (likelihood.residual(leaf).square().mean(1).sum()).backward()
        optimizer.step()
    got = _descend(likelihood, start, 0.1, 50)
    assert torch.allclose(got, leaf.detach(), rtol=0, atol=1e-10)


def test_mgps_is_near_the_posterior_of_latents_where_the_unconditional_row_is_not():
    """The bands of the same test without a decoder, in test_gaussian.py."""
    toy = Toy(4)
    posterior = toy.prior.posterior(toy.direct.likelihood)
    sampler = mgps(steps=100, midpoint=0.6, warm_start=None, gradient_steps=StepRule(default=20))
    row = gaussian_accuracy(latents(sampler, toy, 2000), posterior, toy.prior)
    nothing = gaussian_accuracy(latents(Unconditional(steps=100), toy), posterior, toy.prior)
    assert nothing.relative_w2 > 0.8
    assert row.relative_w2 < 0.25
    assert 0.6 < row.covariance_ratio < 1.4
    assert 0.35 < row.coverage50 < 0.65
    assert 0.75 < row.coverage90 < 0.97
