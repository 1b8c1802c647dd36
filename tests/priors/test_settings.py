"""One type describes a prior: settings of files, tables, command lines and Python are merged field by field."""

from __future__ import annotations

import json

import pytest
import torch

from midguide.diffusion.schedules import DiscreteVP
from midguide.domains.ecg.leads import EcgFormat
from midguide.errors import CheckpointError, ConfigError
from midguide.nn.adm_unet import ADMConfig
from midguide.nn.unet import UNetConfig
from midguide.priors.formats.native import DEFAULTS, from_metadata, save_prior, to_metadata
from midguide.priors.loading import load_prior
from midguide.priors.settings import UNBOUNDED, PriorSettings, prior_settings
from midguide.storage.cards import Card, read_card, write_card


def name_of(value):
    """What a table of settings sets, as the id of a test."""
    return "-".join(value) if isinstance(value, dict) else None


SMALL = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=())


def test_what_is_said_takes_the_place_of_what_is_stated_and_nothing_else_changes():
    stated = PriorSettings(prediction="v", schedule="edm", value_range=(0.0, 1.0), chunk=4)
    merged = stated.changed(PriorSettings(prediction="eps", name="mine"))
    assert merged == PriorSettings(name="mine", prediction="eps", schedule="edm", value_range=(0.0, 1.0), chunk=4)


@pytest.mark.parametrize(
    ("plain", "objects"),
    [
        ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}),
        ({"device": "cpu"}, {"device": torch.device("cpu")}),
        ({"value_range": [0, 1]}, {"value_range": (0.0, 1.0)}),
        ({"event_shape": [3, 8, 8]}, {"event_shape": (3, 8, 8)}),
        ({"network": {"body": "adm", "channels": 32, "multipliers": [1], "attention": [], "head_channels": 32}},
         {"network": ADMConfig(channels=32, multipliers=(1,), attention=(), head_channels=32)}),
        ({"latent_scale": [1.0, 2.0]}, {"latent_scale": (1.0, 2.0)}),
        ({"signal": {"kind": "ecg", "settings": {"rate_hz": 50.0}}}, {"signal": EcgFormat(rate_hz=50.0).signal}),
    ],
    ids=name_of,
)  # fmt: skip
def test_a_table_says_what_objects_say(plain, objects):
    assert prior_settings(plain) == prior_settings(**plain) == prior_settings(**objects)
    hash(prior_settings(plain))  # studies keep priors by their settings


def test_later_settings_count_more():
    said = prior_settings({"prediction": "v", "schedule": "edm"}, prediction="eps", chunk=None)
    assert said.stated() == {"prediction": "eps", "schedule": "edm"}
    schedule = DiscreteVP.cosine()
    assert prior_settings(said, schedule=schedule).process is schedule


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"predicton": "v"}, r"prior has no setting `predicton`\nhint: did you mean `prediction`?"),
        ({"prediction": "noise"}, "unknown prediction `noise`"),
        ({"schedule": "linear"}, "unknown schedule `linear`"),
        ({"schedule": 3}, "prior.schedule must be text"),
        ({"value_range": (1, -1)}, r"value_range \[1.0, -1.0\] is not a range"),
        ({"value_range": "all"}, "prior.value_range must be"),
        ({"dtype": torch.int8}, "dtype must be one of float32"),
        ({"dtype": "int8"}, "prior.dtype must be one of `float32`"),
        ({"label": "index"}, "prior.label must be given from Python"),
        ({"chunk": 1.5}, "prior.chunk must be an integer"),
        ({"network": {"body": "transformer"}}, "unknown body `transformer`"),
        ({"network": {"channels": "many"}}, "network: unet.channels must be an integer"),
        ({"device": "nowhere"}, "the device nowhere"),
    ],
    ids=name_of,
)
def test_impossible_settings_are_one_line(changes, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load_prior("faces-64", **changes)
    assert "\n" not in caught.value.message


def test_unbounded_data_are_said_and_stored_so(tmp_path):
    network = lambda x, label: 0 * x  # noqa: E731
    said = {"prediction": "eps", "schedule": "edm", "event_shape": (4,)}
    assert load_prior(network, said).value_range == (-1.0, 1.0)
    assert load_prior(network, said, value_range=UNBOUNDED).value_range is None
    settings = PriorSettings(network=SMALL, event_shape=(3, 8, 8), value_range=UNBOUNDED)
    save_prior(tmp_path / "own.safetensors", SMALL.build().state_dict(), settings)
    assert load_prior(tmp_path / "own.safetensors").value_range is None
    assert load_prior(tmp_path / "own.safetensors", value_range=(0, 1)).value_range == (0.0, 1.0)


def test_scale_and_shift_of_latents_are_said_in_place_of_those_of_the_file():
    prior = load_prior("faces-64-latent", latent_scale=0.5, latent_shift=[float(i) for i in range(8)])
    assert float(prior.autoencoder.scale) == 0.5
    assert prior.autoencoder.shift.flatten().tolist() == list(range(8))


def test_a_file_states_what_it_was_written_with():
    settings = PriorSettings(network=SMALL, event_shape=(3, 8, 8), schedule="vp-cosine", value_range=(0.0, 255.0))
    assert from_metadata(to_metadata(settings)) == DEFAULTS.changed(settings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": None}, "states its network and event_shape"),
        ({"schedule": DiscreteVP((0.5, 0.2))}, "cannot state a schedule that has no name"),
        ({"label": lambda t: t}, "cannot state label"),
        ({"chunk": 3}, "cannot state chunk"),
    ],
    ids=name_of,
)
def test_what_a_file_cannot_state_is_refused_when_it_is_written(tmp_path, change, says):
    settings = PriorSettings(**{"network": SMALL, "event_shape": (3, 8, 8), **change})
    with pytest.raises(ConfigError, match=says):
        save_prior(tmp_path / "own.safetensors", {}, settings)
    assert list(tmp_path.iterdir()) == []


def test_a_card_comes_back_as_it_was_written_with_its_facts_beside_the_rest(tmp_path):
    card = Card(name="own", sha256="0" * 64, event_shape=(3, 8, 8), facts={"held_out": 3, "loss": [{"step": 1}]})
    write_card(tmp_path / "own.json", card)
    assert read_card(tmp_path / "own.json") == card
    assert json.loads((tmp_path / "own.json").read_text())["held_out"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "lacks the setting `name`"),
        ('{"name": "own", "parameters": "many"}', "card.parameters must be an integer"),
        ('{"name": "own", "sha256": "12"}', "sha256 must be 64 digits"),
    ],
)
def test_a_damaged_card_is_one_line(tmp_path, text, says):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_card(tmp_path / "own.json")
    assert "\n" not in caught.value.message
