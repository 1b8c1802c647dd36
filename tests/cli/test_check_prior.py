"""`midguide check-prior` and the priors that the commands take."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from midguide.cli import output
from midguide.cli.commands.check_prior import photographs
from midguide.diffusion.schedules import DiscreteVP
from midguide.nn.adm_unet import ADMConfig, ADMUNet
from midguide.nn.unet import UNet, UNetConfig
from midguide.priors import loading
from midguide.priors.formats.native import save_prior
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import PriorSettings


def test_a_prior_that_has_learned_nothing_is_found_out(cli, prior):
    """Its last layer is zero, and so is its prediction."""
    result = cli("check-prior", prior, "--json")
    assert result.code == 1
    assert [finding["kind"] for finding in result.json["findings"]] == ["untrained"]
    assert result.json["images"] == 4
    errors = [row["error"] for row in result.json["levels"]]
    assert len(errors) == 9
    assert all(math.isfinite(error) for error in errors)


def test_the_table_and_the_mistake_are_printed_apart(cli, prior, image):
    result = cli("check-prior", prior, image, "--prediction", "x0", "--schedule", "vp-cosine")
    assert result.code == 1
    assert result.out.splitlines()[0].split("   ")[0] == "noise / spread"
    assert len(result.out.splitlines()) == 10
    assert "likely mistake: " in result.err


def test_both_sets_of_weights_of_a_file_are_compared(cli, monkeypatch):
    """The average remembers the photographs only dimly, the last weights exactly."""
    seen = photographs((3, 16, 16), (-1.0, 1.0))

    def load(name, *, averaged=None, **settings):
        share = 1.0 if averaged is False else 0.9
        prior = NetworkDenoiser(lambda x, t: share * seen, DiscreteVP.linear(), "x0", (3, 16, 16))
        prior.provenance = {"weights": "last" if averaged is False else "averaged"}
        return prior

    monkeypatch.setattr(loading, "load_prior", load)
    result = cli("check-prior", "training.ckpt", "--json")
    assert result.code == 1
    assert [finding["kind"] for finding in result.json["findings"]] == ["weights"]
    assert "last weights in the file, not the average (EMA)" in result.json["findings"][0]["message"]


def test_a_prior_of_no_photographs_is_measured_on_its_own_draws(cli, tmp_path):
    config = UNetConfig(in_channels=5, out_channels=5, channels=32, multipliers=(1,), blocks=1, attention=())
    with torch.random.fork_rng():
        weights = UNet(config).state_dict()
    save_prior(tmp_path / "five.safetensors", weights, PriorSettings(network=config, event_shape=(5, 8, 8)))
    result = cli("check-prior", "five.safetensors", "--json")
    assert result.code == 1
    assert [finding["kind"] for finding in result.json["findings"]] == ["untrained"]
    assert result.json["draws"] == 8
    assert "order of channels" in result.json["not_told"]
    assert "images" not in result.json
    Image.new("RGB", (8, 8)).save(tmp_path / "rgb.png")
    cli("check-prior", "five.safetensors", "rgb.png").assert_mistake("1 or 3 channels", "(5, 8, 8)", "in Python")


OWN = """
import torch
from midguide import load_prior
from midguide.priors import Gaussian

exact = Gaussian(torch.zeros(64), torch.linspace(0.01, 1.0, 64).double().diag())

def prior():
    network = lambda x, index: exact(x.double(), int(index[0]) + 1).to(x)
    return load_prior(network, prediction="x0", schedule="vp-linear", event_shape=(64,))
"""


def test_a_mistake_with_a_prior_of_one_dimension_is_named_from_its_draws(cli, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    right = cli("check-prior", "own.py:prior")
    assert right.code == 0
    assert "measured on 8 draws of the prior itself, which cannot tell: " in right.err
    assert len(right.out.splitlines()) == 10
    wrong = cli("check-prior", "own.py:prior", "--prediction", "v", "--draws", 6)
    assert wrong.code == 1
    assert "likely mistake: errors fit an x0-prediction, not v" in wrong.err
    assert "measured on 6 draws" in wrong.err


NEAR = """
import torch
from midguide import load_prior
from midguide.priors import Gaussian
from midguide.diffusion.schedules import make_schedule

place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
schedule = make_schedule("{schedule}")
exact = Gaussian(torch.zeros(1, 8, 8), 0.3 * (-torch.cdist(place, place) / 8).exp(), schedule=schedule)

def prior():
    def eps(x, index):
        level = schedule.level(int(index[0]) + 1)
        return (x - level.alpha * exact(x.double(), int(index[0]) + 1).to(x)) / level.sigma
    return load_prior(eps, prediction="eps", schedule=schedule, event_shape=(1, 8, 8))
"""


@pytest.mark.parametrize(("last", "near"), [(0.0119, True), (0.1, False)])
def test_the_next_best_reading_is_said_to_be_worse_only_where_it_is(cli, tmp_path, last, near):
    """The schedule of latent diffusion, 0.00085 to 0.012, is among the readings that are tried."""
    (tmp_path / "own.py").write_text(NEAR.format(schedule=f"vp-scaled-linear:0.00085,{last}"))
    result = cli("check-prior", "own.py:prior")
    assert result.code == 0
    assert ("another schedule fits about as well" in result.err) is near
    assert ("the declared conventions fit best; the next, another" in result.err) is not near


def test_draws_are_taken_in_place_of_photographs_on_request(cli, prior, image):
    assert cli("check-prior", prior, "--draws", 3, "--json").json["draws"] == 3
    cli("check-prior", prior, image, "--draws", 3).assert_mistake("images and --draws were given")
    cli("check-prior", prior, "--draws", 1).assert_mistake("at least 2 draws are needed, got 1")


@pytest.mark.parametrize("option", ["--prediction", "--schedule"])
def test_unknown_conventions_are_one_line(cli, prior, option):
    cli("check-prior", prior, option, "noise").assert_mistake("noise")


def test_photographs_have_the_shape_and_range_asked_for():
    pictures = photographs((1, 8, 12), (0.0, 1.0))
    assert pictures.shape == (4, 1, 8, 12)
    assert 0.0 <= float(pictures.min()) < 0.3 < 0.7 < float(pictures.max()) <= 1.0


def test_a_prior_is_called_by_its_name_or_its_file():
    assert [
        output.prior_label(name) for name in ("faces-64", "a/b.safetensors", "x/ffhq_10m.pt", "google/ddpm", "d/e/")
    ] == [
        "faces-64",
        "b",
        "ffhq_10m",
        "ddpm",
        "e",
    ]


def test_public_priors_are_listed_with_their_home(cli):
    homes = {row["name"]: row["home"] for row in cli("list", "priors", "--json").json}
    assert homes["faces-64"] == "shipped"
    assert homes["imagenet-256"] == "https://github.com/openai/guided-diffusion"


def test_an_adm_prior_reconstructs_from_the_command_line(reconstruct, tmp_path):
    config = ADMConfig(channels=32, multipliers=(1, 1), attention=(), head_channels=32)
    with torch.random.fork_rng():
        network = ADMUNet(config)
    spec = PriorSettings(network=config, event_shape=(3, 16, 16), prediction="eps")
    save_prior(tmp_path / "adm.safetensors", network.state_dict(), spec)
    assert reconstruct("--prior", "adm.safetensors").code == 0


def test_image_of_another_size_than_the_prior_says_both(cli, prior, tmp_path):
    Image.new("RGB", (23, 17)).save(tmp_path / "odd.png")
    cli("reconstruct", "odd.png", "--operator", "box-inpainting", "--prior", prior).assert_mistake("23x17", "16x16")


def test_no_connection_is_one_line_and_leaves_the_cache_empty(cli, monkeypatch, tmp_path):
    from dataclasses import replace

    from midguide.storage import hub

    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    card = replace(hub.CARDS["ffhq-256"], source="http://127.0.0.1:9/ffhq_10m.pt")
    monkeypatch.setitem(hub.CARDS, "ffhq-256", card)
    cli("sample", "--prior", "ffhq-256").assert_mistake("cannot be downloaded")
    assert list((tmp_path / "cache").iterdir()) == []
