"""`FILE.py:NAME` may be any prior: a network, a Gaussian, a mixture, a denoiser of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from midguide.cli import main
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.inference.samples import Samples
from midguide.priors.gaussian import Gaussian
from midguide.priors.loading import load_prior
from midguide.priors.mixture import GaussianMixture
from midguide.studies.spec.study import load_study

OWN = """
import torch
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.diffusion.schedules import DiscreteVP

print("this file talks")

gaussian = Gaussian(torch.zeros(1, 8, 8), 0.25)

def mixture(count=2):
    print("and so does its function")
    means = torch.linspace(-2, 2, count * 64).reshape(count, 1, 8, 8)
    return GaussianMixture(torch.full((count,), 1 / count), means, torch.full((count,), 0.1))

class Zero(Denoiser):
    schedule = DiscreteVP.linear()
    event_shape = (1, 8, 8)
    def __call__(self, x, t):
        return 0 * x
    def record(self):
        return {"type": "Zero"}

zero = Zero

def network(x, label):
    return 0 * x

class Net(torch.nn.Module):
    def forward(self, x, label):
        return 0 * x

module = Net()
number = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_exact_priors_are_those_that_the_file_makes(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(load_prior(f"{own}:gaussian"), Gaussian)
    assert isinstance(load_prior(f"{own}:mixture"), GaussianMixture)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "this file talks" in captured.err
    assert "and so does its function" in captured.err


def test_a_prior_of_a_file_has_a_digest_that_changes_with_the_file(own: Path) -> None:
    first = load_prior(f"{own}:gaussian").provenance
    assert first["format"] == "python"
    assert load_prior(f"{own}:gaussian").provenance == first
    own.write_text(OWN.replace("0.25", "0.5"))
    assert load_prior(f"{own}:gaussian").provenance["sha256"] != first["sha256"]


def test_the_format_of_a_python_file_may_be_said(own: Path) -> None:
    assert isinstance(load_prior(f"{own}:gaussian", format="python"), Gaussian)


def test_a_setting_that_an_object_does_not_use_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="the setting `class_index` does not apply to `custom`") as caught:
        load_prior(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU()), class_index=3)
    assert "\n" not in caught.value.message


def test_each_load_is_a_prior_of_its_own(own: Path) -> None:
    assert load_prior(f"{own}:gaussian") is not load_prior(f"{own}:gaussian")


@pytest.mark.parametrize("name", ["network", "module"])
def test_a_network_of_a_file_is_a_prior_once_its_conventions_are_said(own: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"own.py:{name}: a network does not say its prediction, schedule"):
        load_prior(f"{own}:{name}")
    prior = load_prior(f"{own}:{name}", {"prediction": "x0", "schedule": "edm"}, event_shape=(1, 8, 8))
    assert torch.equal(prior(torch.ones(1, 1, 8, 8), 1.0), torch.zeros(1, 1, 8, 8))


def test_a_network_of_a_file_is_sampled_from_on_the_command_line(own: Path, tmp_path: Path) -> None:
    words = ["sample", "--prior", f"{own}:module", "--prediction", "x0", "--schedule", "edm"]
    words += ["--prior-set", "event_shape=[1, 8, 8]", "--steps", "3", "--n", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0


def test_what_is_no_prior_is_said_with_its_type(own: Path) -> None:
    with pytest.raises(ConfigError, match="own.py:number is of type int, which is not a prior"):
        load_prior(f"{own}:number")


@pytest.mark.parametrize("setting", [{"prediction": "eps"}, {"chunk": 3}, {"dtype": "bfloat16"}], ids=str)
def test_settings_of_networks_are_refused_for_exact_priors(own: Path, setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` belongs to a network, which .*own.py:gaussian"):
        load_prior(f"{own}:gaussian", setting)


def test_an_exact_prior_on_a_device_that_it_does_not_know_is_refused(own: Path) -> None:
    assert load_prior(f"{own}:gaussian", device="cpu").event_shape == (1, 8, 8)
    with pytest.raises(UnsupportedProblem, match="CPU only"):
        load_prior(f"{own}:gaussian", device="meta")


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_commands_take_exact_priors(own: Path, tmp_path: Path, name: str) -> None:
    Image.new("L", (8, 8), 100).save(tmp_path / "gray.png")
    prior = ["--prior", f"{own}:{name}", "--steps", "5"]
    assert main(["sample", *prior, "--n", "2", "--out", str(tmp_path / "drawn")]) == 0
    assert Samples.load(tmp_path / "drawn").draws.shape == (1, 2, 1, 8, 8)
    image = str(tmp_path / "gray.png")
    words = ["reconstruct", image, "--operator", "super-resolution", "--operator-set", "factor=2", "--samples", "2"]
    assert main([*words, *prior, "--out", str(tmp_path / "found")]) == 0
    assert Samples.load(tmp_path / "found").draws.shape == (1, 2, 1, 8, 8)


def test_check_prior_says_that_an_exact_prior_has_nothing_to_check(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-prior", f"{own}:gaussian"]) == 2
    said = capsys.readouterr().err.splitlines()[-2:]
    assert said[0].startswith("error: nothing to check: the prior is a Gaussian")


def test_studies_take_exact_priors(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    study = tmp_path / "study.toml"
    study.write_text(
        '[study]\nname = "own"\nsamples = 2\nmetrics = ["truth_rmse"]\n'
        '[[problems]]\nkind = "images"\noperator = "identity"\nprior = "own.py:gaussian"\nseeds = [0]\n'
        '[[samplers]]\nspec = "unconditional"\nsettings = { steps = 3 }\n'
    )
    (unit,) = load_study(study).units
    assert isinstance(unit.problem.build(0).denoiser, Gaussian)
    assert len(unit.problem.prior_digest()) == 64
