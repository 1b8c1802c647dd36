"""`sample`, `list`, `train`, `demo` and the program's own options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from midguide import __version__
from midguide.catalogue.directory import places
from midguide.cli import letters, main, output
from midguide.cli.commands import demo
from midguide.cli.commands.list import OTHERS
from midguide.data.examples import portrait
from midguide.inference.samples import Samples
from midguide.operators.base import OPERATORS
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.auto import RULE
from midguide.samplers.base import SAMPLERS


def test_version_is_printed_on_stdout(cli):
    assert cli("--version").out.strip() == __version__


def test_no_command_prints_the_help(cli):
    result = cli()
    assert result.code == 0
    assert "reconstruct" in result.out


def test_sample_writes_a_grid_and_the_samples(cli, prior):
    result = cli("sample", "--prior", prior, "--n", 5, "--steps", 4, "--out", "prior", "--json")
    assert result.code == 0
    assert sorted(path.name for path in Path("prior").iterdir()) == ["grid.png", "samples.json", "samples.safetensors"]
    assert Samples.load("prior").draws.shape == (1, 5, 3, 16, 16)
    assert result.json["network_forwards"] == 4


def test_unobserved_problem_has_the_same_likelihood_everywhere(prior):
    problem = Problem.unobserved(load_prior(prior))
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(problem.likelihood.log_prob(x)) == float(problem.likelihood.log_prob(5 * x)) == 0.0


def test_lists_hold_the_registries(cli):
    assert [row["name"] for row in cli("list", "samplers", "--json").json] == sorted(SAMPLERS)
    assert [row["name"] for row in cli("list", "operators", "--json").json] == sorted(OPERATORS)
    assert all(":" in row["name"] for row in cli("list", "presets", "--json").json)
    assert isinstance(cli("list", "priors", "--json").json, list)


@pytest.mark.parametrize("what", [*places(), *OTHERS])
def test_every_list_has_all_names_and_fits_in_80_columns(cli, what):
    result = cli("list", what)
    assert (result.code, result.err) == (0, "")
    rows = cli("list", what, "--json").json
    assert rows
    assert all(row["summary"] for row in rows)
    lines = result.out.splitlines()
    for row in rows:
        assert any(line == row["name"] or line.startswith(f"{row['name']} ") for line in lines)
    assert all(len(line) <= 80 or line in {row["name"] for row in rows} for line in lines)  # names stay whole


def test_train_writes_a_prior_that_sample_takes_and_goes_on_where_it_stopped(cli, tmp_path, image):
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.png").write_bytes(image.read_bytes())
    network = "[network]\nchannels = 32\nmultipliers = [1]\nblocks = 1\nattention = []\npatch = 4\n"
    recipe = 'name = "ramps"\nsteps = {}\nbatch = 2\ncheckpoint_every = 1\nbfloat16 = false\n' + network
    (tmp_path / "recipe.toml").write_text(recipe.format(2))
    result = cli("train", "recipe.toml", "--data", "images", "--out", "trained")
    assert result.code == 0
    assert [Path(line).name for line in result.out.split()] == [
        "ramps.safetensors",
        "ramps.json",
        "ramps.png",
        "ramps-curves.png",
    ]

    (tmp_path / "recipe.toml").write_text(recipe.format(3))
    assert cli("train", "recipe.toml", "--data", "images", "--out", "trained").code == 0
    steps = [json.loads(line)["step"] for line in Path("trained/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert cli("sample", "--prior", "trained/ramps.safetensors", "--n", 1, "--steps", 2).code == 0


def test_train_refuses_images_that_the_network_cannot_take(cli, tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (18, 18), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "recipe.toml").write_text("[network]\npatch = 4\n")
    cli("train", "recipe.toml", "--data", "images").assert_mistake("18x18", "multiples of 8")
    cli("train", "recipe.toml", "--data", "images", "--device", "abacus").assert_mistake("abacus")


def test_demo_runs_and_says_what_to_look_at(cli, prior, monkeypatch):
    monkeypatch.setattr(demo, "PRIOR", str(prior))
    result = cli("demo", "--samples", 2, "--json")
    assert result.code == 0
    assert result.json["std_inside"] > 0
    assert Path(result.json["files"]["panel"]).is_file()
    assert "chi-square" in result.err


def test_the_quick_demo_puts_known_probabilities_beside_what_draws_are_read_as(cli, monkeypatch):
    monkeypatch.setattr(letters, "SETTINGS", {"steps": 2})
    result = cli("demo", "--quick", "--samples", 2, "--json")
    assert result.code == 0
    readings = result.json["readings"]
    assert {row["reading"] for row in readings} >= {"5", "S"}  # which half a letter leaves open
    assert sum(row["known"] for row in readings) > 0.5
    assert Path(result.json["files"]["panel"]).is_file()
    assert "brute force" in result.err


def test_portrait_is_an_image_in_the_range_of_the_prior():
    face = portrait(64)
    assert face.shape == (1, 3, 64, 64)
    assert -1 <= float(face.min()) < float(face.max()) <= 1


def test_physical_cores_are_at_least_one_and_at_most_the_processors():
    assert 1 <= output.physical_cores() <= 4096


def test_threads_option_sets_the_threads_of_torch(cli, prior):
    before = torch.get_num_threads()
    try:
        assert cli("--threads", 2, "sample", "--prior", prior, "--n", 1, "--steps", 1).code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_numbers_that_json_does_not_have_become_null():
    assert json.loads(output.dump_json({"a": float("inf"), "b": [float("nan"), 1.0]})) == {"a": None, "b": [None, 1.0]}


FIVE_CHANNELS = """
from midguide import load_prior

def prior():
    return load_prior(lambda x, label: 0 * x, prediction="eps", schedule="vp-linear", event_shape=(5, 8, 8))
"""


def test_samples_that_are_no_images_are_written_without_a_picture(tmp_path):
    (tmp_path / "own.py").write_text(FIVE_CHANNELS)
    for prior in ("ecg-256", f"{tmp_path / 'own.py'}:prior"):
        out = tmp_path / prior.rpartition("/")[2].replace(":", "-")
        assert main(["--threads", "1", "sample", "--prior", prior, "--steps", "2", "--out", str(out)]) == 0
        assert sorted(path.name for path in out.iterdir()) == ["samples.json", "samples.safetensors"]
    assert not list(tmp_path.glob("*.progress"))


def test_the_rule_of_auto_is_listed_in_its_order(cli):
    rows = cli("list", "auto", "--json").json
    assert [row["name"] for row in rows] == [line.spec for line in RULE]
    assert all(row["summary"].startswith("For ") for row in rows)
