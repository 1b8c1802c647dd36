"""What a signal says of itself, and what the core does with it."""

import pytest
import torch

from midguide.errors import CheckpointError, ConfigError
from midguide.inference.loop import sample
from midguide.operators.matrix import Identity
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.problem import Problem
from midguide.samplers.dps import DPS
from midguide.signals.base import Axis, Signal, Space


def centered(x):
    return x - x.mean(-1, keepdim=True)


SPACE = Space("centered", centered)


def test_a_denoiser_says_its_shape_and_range_and_what_it_was_told():
    prior = Gaussian(torch.zeros(3), 1.0)
    assert prior.signal == Signal(shape=(3,))
    prior.signal = Signal(shape=(7,), unit="K", axes=(Axis(name="time", rate=2.0),))
    assert prior.signal == Signal(shape=(3,), unit="K", axes=(Axis(name="time", rate=2.0),))
    assert prior.on(prior.schedule).signal == prior.signal


def test_draws_lie_in_the_linear_space_of_the_signal():
    prior = Gaussian(torch.zeros(3), 1.0)
    problem = Problem.simulate(prior, Identity(), torch.tensor([[1.0, 2.0, -1.0]]), sigma_y=0.5)
    free = sample(DPS(steps=5), problem, 4).draws
    prior.signal = Signal(space=SPACE)
    assert torch.equal(sample(DPS(steps=5), problem, 4).draws, centered(free))


def test_a_signal_without_a_kind_is_read_back():
    signal = Signal(unit="K", unit_size=0.5, axes=(Axis(name="time", labels=("a", "b"), unit="s", rate=10.0),))
    assert Signal.from_record(signal.record()) == signal
    assert Signal().record() == {}


def test_a_space_that_no_kind_brings_cannot_be_read_back():
    with pytest.raises(CheckpointError, match="space `centered`"):
        Signal.from_record(Signal(space=SPACE).record())


def test_the_size_of_a_unit_is_positive():
    with pytest.raises(ConfigError, match="unit_size"):
        Signal(unit_size=0.0)


def test_decoded_draws_of_a_prior_of_latents_lie_in_the_space_of_its_signals():
    codec = NetworkAutoencoder(lambda x: x[:, :2], lambda z: torch.cat([z, z, z[:, :1]], 1) + 1, (5,), (2,))
    prior = LatentPrior(Gaussian(torch.zeros(2), 1.0), codec)
    prior.signal = Signal(space=SPACE)
    assert prior.signal.shape == (5,)
    problem = Problem.simulate(prior, Identity(), torch.zeros(1, 5), sigma_y=0.5)
    samples = sample(DPS(steps=4), problem, 3)
    latents = samples.tensors["latents"][0]
    assert torch.allclose(samples.draws[0], centered(codec.decode(latents)))
    assert float(latents.mean(-1).abs().max()) > 1e-3  # which are not touched
