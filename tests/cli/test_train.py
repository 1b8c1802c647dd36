"""`midguide train`: recipes by name, data that are drawn, a start from a prior, a limit of time."""

import json
from pathlib import Path

import pytest
import torch

from midguide.data.images import save_png
from midguide.priors.loading import load_prior
from midguide.training.base import load_recipe

FILE = Path("second/tiny-adapted.safetensors")
SMALL = """
kind = "glyphs"
name = "tiny"
steps = 2
batch = 2
checkpoint_every = 1
more_emas = [0.5]
bfloat16 = false
[network]
in_channels = 1
out_channels = 1
channels = 32
multipliers = [1]
blocks = 1
attention = []
patch = 8
"""


def test_a_prior_of_glyphs_is_trained_without_data_and_its_log_holds_held_out_losses(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL)
    result = cli("train", "recipe.toml", "--out", "trained")
    assert result.code == 0, result.err
    assert "of None" not in result.err
    card = json.loads(Path("trained/tiny.json").read_text())
    assert card["command"] == "midguide train recipe.toml"
    assert card["event_shape"] == [1, 32, 32]
    assert set(card["loss"][-1]["held_out"]) == {"0.999", "0.5"}
    assert card["training"]["kind"] == "glyphs"
    assert cli("sample", "--prior", "trained/tiny.safetensors", "--n", 1, "--steps", 2).code == 0


@pytest.mark.parametrize("option", [("--data", "images"), ("--held-out", "images"), ("--strict",)])
def test_a_recipe_that_draws_its_data_takes_no_files(cli, option):
    cli("train", "glyphs-32", *option).assert_mistake("is not for this kind of recipe", "glyphs are drawn, not read")


def test_a_recipe_of_images_needs_data_and_may_be_named(cli):
    cli("train", "faces-64").assert_mistake("needs data", "--data PATH")
    cli("train", "face-64").assert_mistake("face-64 does not exist")


def test_a_folder_of_the_name_of_a_recipe_does_not_hide_it(cli, tmp_path):
    (tmp_path / "faces-64").mkdir()
    cli("train", "faces-64").assert_mistake("needs data")


def test_glyphs_that_the_network_cannot_take_are_refused(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL.replace("in_channels = 1\nout_channels = 1\n", ""))
    cli("train", "recipe.toml").assert_mistake("the glyphs have 1 channels, the network takes 3")


def test_the_network_of_glyphs_has_at_most_a_million_parameters():
    network = load_recipe("glyphs-32").network.build()
    assert sum(value.numel() for value in network.parameters()) <= 1_000_000


def test_a_prior_of_ones_own_is_adapted_by_its_card_and_starts_where_it_ended(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL)
    assert cli("train", "recipe.toml", "--out", "first").code == 0
    words = ("train", "--from", "first/tiny.safetensors", "--set", "steps=2", "--set", "learning_rate=1e-9")
    adapted = cli(*words, "--out", "second")
    assert adapted.code == 0, adapted.err
    assert "held-out loss before the first step: " in adapted.err
    before, after = (load_prior(path).network.state_dict() for path in (tmp_path / "first/tiny.safetensors", FILE))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=2**-7, atol=1e-6)
    card = json.loads((tmp_path / FILE).with_suffix(".json").read_text())
    assert card["training"]["steps"] == 2
    assert card["command"].startswith("midguide train --from tiny.safetensors")
    assert cli(*words, "--set", "seed=1", "--out", "second").code == 2


def test_a_deeper_network_starts_from_a_shallower_prior_as_it_is(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL)
    assert cli("train", "recipe.toml", "--out", "first").code == 0
    deeper = ("--set", "network.blocks=2", "--set", "steps=1", "--set", "learning_rate=1e-9")
    assert cli("train", "recipe.toml", "--from", "first/tiny.safetensors", *deeper, "--out", "second").code == 0
    first, second = (load_prior(tmp_path / folder / "tiny.safetensors") for folder in ("first", "second"))
    x = torch.randn(2, *first.event_shape)
    before, after = first(x, 400), second(x, 400)
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)


def test_a_prior_of_glyphs_is_adapted_to_images_which_become_gray(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL)
    assert cli("train", "recipe.toml", "--out", "first").code == 0
    (tmp_path / "images").mkdir()
    for number in range(3):
        save_png(tmp_path / f"images/{number}.png", torch.full((3, 32, 32), number - 1.0))
    words = ("--from", "first/tiny.safetensors", "--data", "images", "--set", "steps=1", "--set", "batch=2")
    assert cli("train", *words, "--out", "second").code == 0
    assert json.loads((tmp_path / FILE).with_suffix(".json").read_text())["event_shape"] == [1, 32, 32]


def test_a_training_of_minutes_ends_whatever_steps_its_recipe_has(cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(SMALL)
    result = cli("train", "recipe.toml", "--set", "steps=1000000", "--minutes", 0.01, "--out", "timed")
    assert result.code == 0, result.err
    card = json.loads(Path("timed/tiny.json").read_text())
    assert 1 <= card["loss"][-1]["step"] < 1000
    assert "--minutes 0.01" in card["command"]


def test_what_cannot_be_started_from_is_refused(cli):
    cli("train").assert_mistake("no recipe is given", "--from PRIOR")
    cli("train", "--from", "faces-46", "--data", "x").assert_mistake("faces-46")
    cli("train", "--from", "faces-64-latent", "--data", "x").assert_mistake("prior of latents")
    cli("train", "glyphs-32", "--from", "faces-64").assert_mistake("does not fit the network of the recipe")
    cli("train", "glyphs-32", "--minutes", 0).assert_mistake("minutes must be positive")
    cli("train", "glyphs-32", "--set", "stepz=3").assert_mistake("stepz")
