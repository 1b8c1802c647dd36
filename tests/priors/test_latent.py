"""Priors of latents, and problems over latents: shapes, memory, derivatives, refusals."""

import pytest
import torch
from torch import nn

from midguide.diffusion.schedules import EDM, DiscreteVP
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.likelihoods import PoissonLikelihood, observe
from midguide.operators import BlockMean, Compose, Matrix, random_mask
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import Decoded, LatentPrior, NetworkAutoencoder
from midguide.priors.network import NetworkDenoiser
from midguide.problem import LatentProblem, Problem
from midguide.samplers.ddrm import DDRM
from midguide.samplers.dps import DPS
from midguide.samplers.psld import PSLD
from midguide.samplers.resample import ReSample
from midguide.samplers.unconditional import Unconditional
from midguide.testing import check_denoiser, check_operator


def networks():
    """Strided convolutions with a fixed seed, 1x8x8 to 2x4x4 and back."""
    generator = torch.Generator().manual_seed(0)
    encoder = nn.Conv2d(1, 2, 2, stride=2)
    decoder = nn.Sequential(nn.ConvTranspose2d(2, 8, 2, stride=2), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1), nn.Tanh())
    for network in (encoder, decoder):
        for parameter in network.requires_grad_(False).parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return encoder, decoder


def autoencoder(**settings):
    return NetworkAutoencoder(*networks(), (1, 8, 8), (2, 4, 4), **{"scale": 1.5, "shift": 0.2, **settings})


def problem(operator=None, observations=2):
    coder = autoencoder()
    prior = LatentPrior(Gaussian(torch.zeros(2, 4, 4), 1.0), coder)
    truth = coder.decode(prior.denoiser.sample(observations))
    return Problem.simulate(prior, operator or BlockMean(2), truth, sigma_y=0.05)


def test_latent_priors_satisfy_the_contract_of_denoisers_on_their_own_and_on_other_schedules():
    prior = problem().denoiser
    assert (prior.event_shape, prior.signal_shape) == ((2, 4, 4), (1, 8, 8))
    assert (prior.value_range, prior.signal_range) == (None, (-1.0, 1.0))
    check_denoiser(prior)
    moved = prior.on(EDM())
    check_denoiser(moved)
    assert moved.signal_shape == (1, 8, 8)


def test_a_truth_of_another_size_than_the_prior_is_refused():
    prior = problem().denoiser
    for shape in [(1, 8, 16), prior.event_shape]:
        with pytest.raises(ShapeError, match=r"one of signals \(1, 8, 8\), the truth has signals") as caught:
            Problem.simulate(prior, BlockMean(2), torch.zeros(1, *shape), sigma_y=0.1)
        assert "resize" in str(caught.value.hint)


@pytest.mark.parametrize("inner", [BlockMean(2), random_mask((1, 8, 8), 0.5, seed=0, count=3)], ids=["one", "own"])
def test_operators_through_a_decoder_satisfy_the_contract_of_operators(inner):
    coder = NetworkAutoencoder(lambda x: x, lambda z: z.sin().repeat_interleave(2, 3), (1, 8, 8), (1, 8, 4))
    check_operator(Decoded(inner, coder), (1, 8, 4))


def test_problem_over_latents_measures_what_the_decoder_shows():
    latents = problem()
    z = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)
    decoded = latents.denoiser.autoencoder.decode(z)
    signals = observe(BlockMean(2), latents.truth, 0.05)
    assert torch.equal(latents.likelihood.log_prob(z), signals.log_prob(decoded))
    assert torch.equal(latents.signal_likelihood.log_prob(decoded), signals.log_prob(decoded))
    assert (latents.event_shape, latents.signal_shape) == ((2, 4, 4), (1, 8, 8))
    assert torch.equal(latents.signals(z), decoded)


def test_problems_of_signals_and_of_latents_are_two_types():
    latents, pixels = problem(), Problem.unobserved(Gaussian(torch.zeros(2), 1.0))
    assert type(latents) is type(latents.select(torch.tensor([1, 0]))) is type(latents.expand(2)) is LatentProblem
    assert type(Problem.stack([latents, latents])) is type(latents.to("cpu")) is LatentProblem
    assert type(pixels) is type(pixels.expand(2)) is Problem
    assert pixels.signal_likelihood is pixels.likelihood
    assert torch.equal(pixels.signals(torch.ones(1, 2)), torch.ones(1, 2))


def test_a_problem_of_the_wrong_type_is_refused_with_the_right_way():
    latents = problem()
    for wrong in (Problem, LatentProblem):
        with pytest.raises(ConfigError, match="latents") as caught:
            wrong(latents.denoiser, latents.signal_likelihood)
        assert "Problem.of(prior, likelihood)" in str(caught.value)


def test_problems_over_latents_stack_what_their_instruments_have_for_each_observation():
    latents = problem(random_mask((1, 8, 8), 0.5, seed=0, count=2))
    alone = [latents.select(torch.tensor([i])) for i in (1, 0)]
    z = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4)
    want = torch.cat([p.likelihood.log_prob(z[[i]]) for i, p in enumerate(alone)])
    assert torch.allclose(Problem.stack(alone).likelihood.log_prob(z), want)


def test_draws_are_decoded_and_their_latents_kept_whatever_the_chunk(tmp_path):
    p = problem()
    whole, chunked = (sample(DPS(steps=6), p, 3, chunk=chunk) for chunk in (None, 4))
    assert whole.draws.shape == (2, 3, 1, 8, 8)
    decoded = p.denoiser.autoencoder.decode(whole.tensors["latents"].flatten(0, 1))
    assert torch.allclose(decoded, whole.draws.flatten(0, 1), atol=1e-6)
    assert torch.allclose(chunked.draws, whole.draws, atol=1e-5)
    whole.save(tmp_path)
    assert torch.equal(Samples.load(tmp_path).tensors["latents"], whole.tensors["latents"])


def test_the_record_names_the_autoencoder_and_the_instrument():
    record = sample(Unconditional(steps=2), problem(), 1).record
    operator = record["likelihood"]["operator"]
    assert operator["operator"] == {"type": "BlockMean", "factor": 2}
    assert operator["autoencoder"]["scale"] == record["prior"]["autoencoder"]["scale"] == [1.5]


def test_unobserved_latents_are_drawn_and_shown_as_signals():
    prior = problem().denoiser
    assert sample(Unconditional(steps=5), Problem.unobserved(prior), 3).draws.shape == (1, 3, 1, 8, 8)


def test_counts_are_explained_by_latents_too():
    p = problem()
    counts = torch.full((2, 1, 4, 4), 3.0)
    counted = Problem.of(p.denoiser, PoissonLikelihood(BlockMean(2), counts, rate=5.0))
    assert bool(torch.isfinite(sample(DPS(steps=6), counted, 2).draws).all())


def saved_for_backward(rows, batch):
    """Bytes that the graph of one decoding keeps until its backward pass."""
    sizes = []
    z = torch.zeros(batch, 2, 4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
        autoencoder(rows=rows).decode(z)
    return sum(sizes)


def test_memory_of_a_decoding_under_differentiation_is_that_of_its_latents():
    """Without checkpoints the activations of the decoder, 8 x 8 x 8 numbers in each of two layers, would be kept."""
    latents = 32 * 2 * 4 * 4 * 4
    activations = 2 * 32 * 8 * 8 * 8 * 4
    assert saved_for_backward(4, 32) <= 3 * latents < activations / 8


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_pieces_change_neither_values_nor_derivatives(rows):
    z = torch.linspace(-2, 2, 7 * 32).reshape(7, 2, 4, 4)

    def value_and_derivative(coder, decode):
        leaf = z.clone().requires_grad_()
        out = decode((leaf / coder.scale + coder.shift).float()) if decode is coder.decoder else decode(leaf)
        return out, *torch.autograd.grad(out.square().sum(), leaf)

    coder = autoencoder(rows=rows)
    for got, want in zip(
        value_and_derivative(coder, coder.decode), value_and_derivative(coder, coder.decoder), strict=True
    ):
        assert torch.allclose(got, want, atol=1e-6)


def test_rows_are_computed_where_the_weights_are_and_come_back():
    """The meta device stands for an accelerator: what is there has a place and no values."""
    coder, seen = autoencoder(rows=2), []
    coder.network = nn.ModuleList(networks())
    x, z = torch.zeros(3, 1, 8, 8), torch.zeros(3, 2, 4, 4)

    def recorded(answer):
        return lambda rows: seen.append((rows.device.type, len(rows))) or torch.zeros(len(rows), *answer)

    assert coder.to("meta") is coder
    coder.encoder, coder.decoder = recorded((2, 4, 4)), recorded((1, 8, 8))
    assert coder.encode(x).device == coder.decode(z).device == x.device
    assert seen == 2 * [("meta", 2), ("meta", 1)]
    coder.decoder = coder.network[1]
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # the way back
        coder.decode(z)


def test_a_prior_of_latents_moves_both_its_networks():
    coder = autoencoder()
    coder.network = nn.ModuleList(networks())
    inner = NetworkDenoiser(nn.Conv2d(2, 2, 3), DiscreteVP.linear(), "eps", (2, 4, 4), device="cpu")
    LatentPrior(inner, coder).on(EDM()).to("meta")
    assert {p.device.type for part in (inner.network, coder.network) for p in part.parameters()} == {"meta"}


def test_a_moved_prior_of_latents_takes_and_gives_tensors_where_they_are():
    """Neither part was told a device at first; the meta device stands for a GPU."""
    seen = []

    class Recorded(nn.Conv2d):
        def forward(self, x, *label):
            seen.append((self.weight.device.type, x.device.type, *(part.device.type for part in label)))
            return torch.zeros(x.shape)

    body = Recorded(2, 2, 3)
    inner = NetworkDenoiser(Recorded(2, 2, 3), DiscreteVP.linear(), "eps", (2, 4, 4))
    prior = LatentPrior(inner, NetworkAutoencoder(body, body, (2, 4, 4), (2, 4, 4), network=body)).to("meta")
    z = torch.zeros(1, 2, 4, 4)
    assert prior(z, 10).device == prior.autoencoder.decode(z).device == z.device
    assert seen == [("meta", "meta", "meta"), ("meta", "meta")]


def test_an_autoencoder_of_unknown_weights_refuses_to_move_and_the_prior_stays_whole():
    inner = NetworkDenoiser(nn.Conv2d(2, 2, 3), DiscreteVP.linear(), "eps", (2, 4, 4))
    prior = LatentPrior(inner, autoencoder())
    with pytest.raises(UnsupportedProblem, match="custom cannot be moved to meta: .*\nhint: make it with network="):
        prior.to("meta")
    assert {p.device.type for p in inner.network.parameters()} == {"cpu"}
    for place in ("cpu", torch.device("cpu")):
        assert prior.to(place) is prior


def test_scaled_latents_are_what_encode_gives_and_decode_takes():
    plain, scaled = autoencoder(scale=1.0, shift=0.0), autoencoder(scale=4.0, shift=0.5)
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    z = plain.encode(x)
    assert torch.allclose(scaled.encode(x), 4 * (z - 0.5))
    assert torch.allclose(scaled.decode(4 * (z - 0.5)), plain.decode(z), atol=1e-6)
    by_channel = autoencoder(scale=(4.0, 1.0), shift=(0.5, 0.0))
    assert torch.equal(by_channel.encode(x)[:, :1], scaled.encode(x)[:, :1])
    assert torch.equal(by_channel.encode(x)[:, 1:], z[:, 1:])


def test_samplers_of_latents_refuse_priors_of_signals():
    prior = random_gaussian(4, 0)
    p = Problem.simulate(prior, Matrix.create(torch.eye(4)[:2], (4,)), prior.sample(1), sigma_y=0.1)
    for sampler in (PSLD(steps=4), ReSample(steps=4)):
        with pytest.raises(UnsupportedProblem, match="needs a prior of latents, Gaussian is not one") as caught:
            sample(sampler, p)
        assert "psld" not in caught.value.hint


def test_samplers_that_need_more_of_the_operator_say_so_on_latents():
    with pytest.raises(UnsupportedProblem, match="needs an operator with an SVD, Decoded is nonlinear") as caught:
        sample(DDRM(steps=4), problem())
    assert {"mgps", "psld", "resample"} <= set(caught.value.hint.replace(",", "").split())
    nonlinear = Compose(BlockMean(2), Decoded(BlockMean(1), NetworkAutoencoder(torch.sin, torch.sin, *2 * [(1, 8, 8)])))
    with pytest.raises(UnsupportedProblem, match="`psld` needs a linear operator, Compose is nonlinear"):
        sample(PSLD(steps=4), problem(nonlinear))
    assert bool(torch.isfinite(sample(ReSample(steps=4), problem(nonlinear)).draws).all())


def test_wrong_shapes_and_scales_are_refused():
    with pytest.raises(ShapeError, match="take the autoencoder that the prior was trained with"):
        LatentPrior(Gaussian(torch.zeros(3, 4, 4), 1.0), autoencoder())
    with pytest.raises(ConfigError, match="scale of latents must be positive"):
        autoencoder(scale=0.0)
    for wrong in (lambda: autoencoder(rows=0), lambda: autoencoder().changed(rows=0)):
        with pytest.raises(ConfigError, match="at least 1 row at once, got 0"):
            wrong()
    with pytest.raises(ShapeError, match="decoder of custom takes rows of shape"):
        autoencoder().decode(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ShapeError, match="encoder of custom gives rows of shape"):
        NetworkAutoencoder(*networks(), (1, 8, 8), (2, 8, 8)).encode(torch.zeros(1, 1, 8, 8))
    p = problem()
    with pytest.raises(ShapeError, match=r"the operator maps \(1, 8, 8\) to"):
        Problem.of(p.denoiser, type(p.likelihood)(BlockMean(4), p.likelihood.y, 0.05))
