"""Autoencoders and priors of their latents: trained, stored, loaded, used."""

import json
from dataclasses import replace

import pytest
import torch

from midguide.errors import CheckpointError, ConfigError
from midguide.inference.loop import sample
from midguide.nn.autoencoder import AutoencoderConfig, AutoencoderNetwork
from midguide.nn.unet import UNetConfig
from midguide.operators import BlockMean
from midguide.priors.autoencoders import load_autoencoder, read_autoencoder
from midguide.priors.latent import LatentPrior
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.dps import DPS
from midguide.testing import check_denoiser
from midguide.training.autoencoder import kl_to_standard_normal, train_autoencoder
from midguide.training.base import Run, load_recipe
from midguide.training.config import AutoencoderTrainingConfig, TrainingConfig
from midguide.training.denoiser import train
from midguide.training.report import Origin, export_autoencoder, export_prior, reconstruction
from midguide.training.sources import Images, Latents, scaled

SHAPE = AutoencoderConfig(latent_channels=2, widths=(16, 16), blocks=1, patch=1)
ORIGIN = Origin(command="none", log=[])


def recipe(**changes):
    settings = {"steps": 120, "batch": 16, "warmup": 5, "learning_rate": 3e-3, "checkpoint_every": 40}
    return AutoencoderTrainingConfig(network=SHAPE, name="coder", ema=0.9, bfloat16=False, **{**settings, **changes})


def ramps(count=64, seed=0):
    """Images that are linear in x, from dark to bright or back, with a random offset."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(-90, 90, 16) * torch.sign(torch.randn(count, 1, 1, 1, generator=generator))
    offset = 20 * torch.randn(count, 3, 1, 1, generator=generator)
    return Images((127 + slope + offset).clamp(0, 255).expand(count, 3, 16, 16).to(torch.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    network = train_autoencoder(recipe(), ramps(), Run(folder))
    return folder, *export_autoencoder(recipe(), network, ramps(), ramps(16, seed=1), folder, origin=ORIGIN)


def test_training_lowers_the_error_of_held_out_reconstructions_and_the_card_says_by_how_much(trained, tmp_path):
    """Ramps are two numbers each: 120 steps take the error from that of a gray image to some hundredths."""
    _, path, card = trained
    stored = json.loads(card.read_text())
    held_out = ramps(16, seed=1).events()
    assert stored["reconstruction"] == reconstruction(load_autoencoder(path), held_out)
    start = train_autoencoder(recipe(steps=1), ramps(), Run(tmp_path))
    first, _ = export_autoencoder(recipe(), start, ramps(), ramps(16, seed=1), tmp_path, origin=ORIGIN)
    before = reconstruction(load_autoencoder(first), held_out)
    assert stored["reconstruction"]["psnr"] > before["psnr"] + 10
    assert stored["parameters"] == sum(p.numel() for p in AutoencoderNetwork(SHAPE).parameters())
    assert (stored["event_shape"], stored["latent_shape"]) == ([3, 16, 16], [2, 8, 8])


def test_latents_of_what_it_was_trained_on_have_mean_zero_and_variance_one(trained):
    """Up to the rounding of the stored weights to bfloat16, 2^-8 per layer."""
    latents = Latents.encode(ramps(), load_autoencoder(trained[1])).events()
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.05
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.05


def test_a_smaller_decoder_std_keeps_more_of_the_image(tmp_path):
    """A decoder that may err by its whole range has no use for the latents."""
    errors = []
    for std in (0.03, 100.0):
        config = recipe(decoder_std=std, steps=80)
        network = train_autoencoder(config, ramps(), Run(tmp_path / str(std)))
        x = ramps(16, seed=1).events()
        with torch.no_grad():
            errors.append(float((network.decode(network.encode(x)) - x).square().mean()))
    assert errors[0] < 0.4 * errors[1]


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    config = recipe(steps=30, checkpoint_every=10)

    def stop(step, total, loss):
        if step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(config, ramps(), Run(tmp_path / "a", on_step=stop))
    resumed, straight = (train_autoencoder(config, ramps(), Run(tmp_path / name)) for name in "ab")
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_divergence_is_that_of_torch():
    mean, log_variance = torch.linspace(-2, 2, 12).reshape(2, 6), torch.linspace(-3, 1, 12).reshape(2, 6)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    want = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_to_standard_normal(mean, log_variance), want, rtol=1e-5)


def test_latents_are_drawn_from_images_and_from_mirror_images(trained):
    coder, images = load_autoencoder(trained[1]), ramps(4)
    source = Latents.encode(images, coder)
    drawn = source.draw(200, torch.Generator().manual_seed(0))
    x = scaled(images.pixels)
    known = torch.cat([coder.encode(x), coder.encode(x.flip(3))]).half().float()
    found = {int(torch.isclose(known, z, atol=1e-6).flatten(1).all(1).nonzero()[0]) for z in drawn}
    assert found == set(range(8))  # each is missed with probability (7/8)^200
    assert Latents.encode(replace(images, flip=False), coder).mirrored is None


@pytest.fixture(scope="module")
def prior(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    body = UNetConfig(in_channels=2, out_channels=2, channels=32, multipliers=(1,), blocks=1, attention=())
    config = TrainingConfig(name="latent", network=body, steps=20, batch=8, warmup=2, bfloat16=False)
    network = train(config, Latents.encode(ramps(), load_autoencoder(trained[1])), Run(folder))
    return export_prior(config, network, ramps(16, seed=1), folder, origin=ORIGIN, autoencoder=trained[1])


def test_the_file_of_a_latent_prior_holds_its_autoencoder(prior, trained):
    loaded, coder = load_prior(prior[0]), load_autoencoder(trained[1])
    assert isinstance(loaded, LatentPrior)
    check_denoiser(loaded)
    x = ramps(3).events()
    assert torch.equal(loaded.autoencoder.encode(x), coder.encode(x))
    assert loaded.record()["autoencoder"] == coder.record()
    card = json.loads(prior[1].read_text())
    assert (card["event_shape"], card["signal_shape"]) == ([2, 8, 8], [3, 16, 16])
    assert card["autoencoder"]["psnr"] == reconstruction(coder, ramps(16, seed=1).events())["psnr"]
    assert loaded.record()["sha256"] == card["sha256"]


def test_a_loaded_latent_prior_reconstructs_images(prior):
    loaded = load_prior(prior[0])
    problem = Problem.simulate(loaded, BlockMean(2), ramps(2).events(), sigma_y=0.05)
    assert sample(DPS(steps=4), problem, 2).draws.shape == (2, 2, 3, 16, 16)


def test_damaged_and_foreign_files_are_refused(trained, prior, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(trained[1].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="^autoencoder .* (cannot be read|does not exist)"):
        load_autoencoder(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="holds no autoencoder"):
        load_autoencoder(prior[0])
    with pytest.raises(CheckpointError, match="no midguide card"):
        load_prior(trained[1])
    with pytest.raises(CheckpointError, match="does not exist"):
        read_autoencoder(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "autoencoder"\nprediction = "v"', "prediction"),
        ('kind = "autoencoder"\ndecoder_std = 0', "decoder_std must be positive"),
        ('kind = "autoencoder"\n[network]\nwidths = [10]', "multiples of 16"),
        ('kind = "codebook"', "unknown kind of recipe `codebook`"),
    ],
)
def test_wrong_recipes_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "recipe.toml")


def test_the_recipes_of_the_latent_prior_fit_each_other_and_8_mib_each():
    coder, latent = load_recipe("faces-64-autoencoder"), load_recipe("faces-64-latent")
    assert isinstance(coder, AutoencoderTrainingConfig)
    assert isinstance(latent, TrainingConfig)
    assert coder.network.latent_shape((3, 64, 64)) == (latent.network.in_channels, 16, 16)
    network = AutoencoderNetwork(coder.network)
    assert 2 * sum(p.numel() for p in network.parameters()) < 8 * 2**20
    mean, log_variance = network.distribution(torch.zeros(1, 3, 64, 64))
    assert mean.shape == log_variance.shape == (1, 8, 16, 16)
    assert network.decode(mean).shape == (1, 3, 64, 64)
