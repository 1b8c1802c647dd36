"""A prior that a Python file of the user makes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from midguide.cli import main
from midguide.errors import CheckpointError, ConfigError, MidguideError
from midguide.inference.samples import Samples
from midguide.priors.loading import load_prior
from midguide.priors.network import NetworkDenoiser
from midguide.studies.spec.study import load_study

OWN = """
import torch
from sizes import SHAPE  # a neighbor of the file
from midguide import load_prior

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(GAIN))

    def forward(self, x, label):
        return self.gain * x

def prior():
    return load_prior(Net(), prediction="eps", schedule="vp-cosine", event_shape=SHAPE, value_range=(0.0, 1.0))

made = prior()

def latents():
    return load_prior("faces-64-latent")

def nothing():
    return torch.nn.Linear(1, 1)

def broken():
    return {}["weights"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("SHAPE = (1, 8, 12)\n")
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(OWN).replace("GAIN", "0.5"))
    return path


@pytest.mark.parametrize("name", ["prior", "made"])
def test_a_prior_of_a_python_file_is_the_one_that_it_makes(own: Path, name: str) -> None:
    prior = load_prior(f"{own}:{name}")
    network = torch.nn.Module()
    network.forward = lambda x, label: 0.5 * x  # pyright: ignore[reportAttributeAccessIssue]
    same = load_prior(network, prediction="eps", schedule="vp-cosine", event_shape=(1, 8, 12), value_range=(0.0, 1.0))
    x = torch.randn(3, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior(x, 400), same(x, 400))
    assert (prior.event_shape, prior.value_range) == (same.event_shape, same.value_range)
    assert prior.provenance["format"] == "python"


def test_its_digest_is_that_of_file_and_weights(own: Path) -> None:
    first = load_prior(f"{own}:prior").provenance["sha256"]
    assert load_prior(f"{own}:prior").provenance["sha256"] == first
    own.write_text(own.read_text().replace("tensor(0.5)", "tensor(0.25)"))
    second = load_prior(f"{own}:prior").provenance["sha256"]
    place = own.parent / "gain"
    own.write_text(own.read_text().replace("0.25", f"float(__import__('pathlib').Path({str(place)!r}).read_text())"))
    shas = set()
    for gain in ("0.1", "0.2"):
        place.write_text(gain)
        shas.add(load_prior(f"{own}:prior").provenance["sha256"])
    assert len({first, second, *shas}) == 4


def test_settings_of_the_caller_take_the_place_of_its_own(own: Path) -> None:
    changed = load_prior(f"{own}:prior", prediction="x0", dtype=torch.float64)
    x = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(changed(x, 10), 0.5 * x)


def test_how_a_file_runs_its_network_is_kept_where_the_caller_says_nothing(own: Path) -> None:
    own.write_text(own.read_text().replace("value_range=(0.0, 1.0))", "dtype=torch.float64, chunk=3)", 1))
    kept, changed = load_prior(f"{own}:prior"), load_prior(f"{own}:prior", dtype="bfloat16", chunk=2)
    assert isinstance(kept, NetworkDenoiser)
    assert isinstance(changed, NetworkDenoiser)
    assert (kept.dtype, kept.chunk) == (torch.float64, 3)
    assert (changed.dtype, changed.chunk) == (torch.bfloat16, 2)


def test_a_prior_of_latents_keeps_its_autoencoder(own: Path) -> None:
    assert load_prior(f"{own}:latents").signal_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("prior_", ConfigError, "has no `prior_`\nhint: did you mean `prior`\\?"),
        ("nothing", ConfigError, "own.py:nothing: a network does not say its prediction, schedule, event_shape"),
        ("broken", CheckpointError, "fails: KeyError: 'weights'"),
    ],
)
def test_what_is_no_prior_is_refused_in_one_line(own: Path, name: str, kind: type[MidguideError], said: str) -> None:
    with pytest.raises(kind, match=said):
        load_prior(f"{own}:{name}")
    with pytest.raises(ConfigError, match="there is no file"):
        load_prior(f"{own.parent / 'other.py'}:prior")


def test_the_command_line_takes_it(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    assert main(["sample", "--prior", f"{own}:prior", "--steps", "3", "--out", str(out)]) == 0
    assert Samples.load(out).draws.shape[2:] == (1, 8, 12)


def test_a_study_finds_it_from_any_folder(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    path = tmp_path / "study.toml"
    path.write_text(
        '[study]\nname = "own"\nsamples = 2\nmetrics = ["truth_rmse"]\n'
        '[[problems]]\nkind = "images"\noperator = "half-mask"\nprior = "own.py:prior"\nseeds = [0]\n'
        '[[samplers]]\nspec = "unconditional"\nsettings = { steps = 3 }\n'
    )
    assert load_study(path).plain["problems"][0]["prior"] == f"{own.resolve()}:prior"
