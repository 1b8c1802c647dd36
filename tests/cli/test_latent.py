"""From images to reconstructions through latents, on the command line: autoencoder, prior, samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from midguide.inference.samples import Samples

LOOP = "steps = 2\nbatch = 2\ncheckpoint_every = 1\nbfloat16 = false\n"
CODER = 'kind = "autoencoder"\nname = "coder"\n' + LOOP + "[network]\nlatent_channels = 2\nwidths = [16]\nblocks = 1\n"
BODY = "channels = 32\nmultipliers = [1]\nblocks = 1\nattention = []\n"
PRIOR = 'name = "latent"\n' + LOOP + "[network]\nin_channels = 2\nout_channels = 2\n" + BODY
FILE = "coder/coder.safetensors"


@pytest.fixture
def recipes(tmp_path, image):
    (tmp_path / "images").mkdir()
    with Image.open(image) as picture:
        for i in range(4):
            picture.rotate(90 * i).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "coder.toml").write_text(CODER)
    (tmp_path / "prior.toml").write_text(PRIOR)


def test_an_autoencoder_a_prior_of_its_latents_and_what_they_reconstruct(cli, recipes, image):
    coder = cli("train", "coder.toml", "--data", "images", "--out", "coder")
    assert coder.code == 0
    assert [Path(line).name for line in coder.out.split()] == ["coder.safetensors", "coder.json", "coder.png"]
    assert set(json.loads(Path("coder/coder.json").read_text())["reconstruction"]) == {"psnr", "ssim"}

    prior = cli("train", "prior.toml", "--data", "images", "--autoencoder", FILE, "--out", "prior")
    assert prior.code == 0
    assert len(prior.out.split()) == 4
    card = json.loads(Path("prior/latent.json").read_text())
    assert card["command"] == "midguide train prior.toml --data images --autoencoder coder.safetensors"
    assert (card["event_shape"], card["signal_shape"]) == ([2, 8, 8], [3, 16, 16])

    words = ("--prior", "prior/latent.safetensors", "--operator", "super-resolution", "--samples", 2)
    for sampler, spec in (("mgps", "mgps:ffhq-latent"), ("psld", "psld:super-resolution"), ("resample", "resample")):
        done = cli("reconstruct", image, *words, "--sampler", spec, "--steps", 6, "--out", sampler, "--json")
        assert done.code == 0, done.err
        samples = Samples.load(sampler)
        assert samples.draws.shape == (1, 2, 3, 16, 16)
        assert samples.tensors["latents"].shape == (1, 2, 2, 8, 8)
        assert done.json["psnr_mean"] is not None
        assert bool(torch.isfinite(samples.draws).all())
    assert cli("sample", "--prior", "prior/latent.safetensors", "--n", 2, "--steps", 2).code == 0


def test_what_does_not_fit_an_autoencoder_is_refused(cli, recipes, prior):
    cli("train", "prior.toml", "--data", "images").assert_mistake("3 channels", "--autoencoder")
    cli("train", "prior.toml", "--data", "images", "--autoencoder", prior).assert_mistake("holds no autoencoder")
    cli("train", "coder.toml", "--data", "images", "--autoencoder", prior).assert_mistake("recipe of a prior")


def test_a_sampler_of_latents_needs_a_prior_of_latents(reconstruct):
    reconstruct("--sampler", "psld").assert_mistake("prior of latents")
