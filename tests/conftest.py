"""What tests of several parts share: the command line in this process, tiny untrained priors, studies of a second."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.catalogue.base import Catalogue
from midguide.cli import main
from midguide.domains.ecg.leads import EcgFormat
from midguide.maths.rng import global_seed
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.nn.unet import UNet, UNetConfig
from midguide.operators.base import Operator
from midguide.priors.formats.native import save_prior
from midguide.priors.settings import PriorSettings

SIZE = 16


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def assert_mistake(self, *words: str) -> None:
        """One line and one hint on stderr, nothing on stdout, exit code 2."""
        lines = [line for line in self.err.splitlines() if not line.startswith(("drawing ", "sampler: "))]
        assert self.code == 2
        assert self.out == ""
        assert [line.split(":")[0] for line in lines] == ["error", "hint"]
        for word in words:
            assert word in self.err


Cli = Callable[..., Result]
collect_ignore = ["fuzz"]


@pytest.fixture
def same_code(monkeypatch) -> None:
    """What a test replaces stands for an accident, and is not other code."""
    monkeypatch.setattr("midguide.storage.code.changes", lambda modules: {})


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path) -> Cli:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*argv: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Path:
    """A smooth picture of the size of the prior."""
    ramp = torch.linspace(0, 255, SIZE)
    pixels = torch.stack(
        [ramp.expand(SIZE, SIZE), ramp[:, None].expand(SIZE, SIZE), ramp.flip(0).expand(SIZE, SIZE)], -1
    )
    path = tmp_path_factory.mktemp("image") / "ramp.png"
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


@pytest.fixture
def reconstruct(cli, prior, image) -> Cli:
    """`midguide reconstruct` of the picture in few steps; further words are added."""

    def run(*argv: object, operator: str = "box-inpainting", picture: object = image) -> Result:
        words = ("--operator", operator, "--prior", prior, "--samples", 2, "--out", "out")
        steps = () if "--steps" in argv else ("--steps", 5)
        return cli("reconstruct", picture, *words, *steps, *argv)

    return run


TINY = """
[study]
name = "tiny"
samples = 16
metrics = ["sliced_wasserstein_1[slices=100]", "mode_weight_tv"]

[[problems]]
kind = "mixture"
label = "dx = 2"
dimension = 2
seeds = { first = 0, count = 2 }

[[samplers]]
spec = "exact"

[[samplers]]
spec = "ddrm:paper"
label = "DDRM"
settings = { steps = 5 }

[[samplers]]
spec = "dps"
label = "DPS"
settings = { steps = 5, guidance = 0.1 }
"""


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The file of a study of 6 units."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def write_prior(path: Path) -> Path:
    """A prior of 16x16 images that has learned nothing."""
    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    with global_seed(0):
        save_prior(path, UNet(config).state_dict(), PriorSettings(network=config, event_shape=(3, SIZE, SIZE)))
    return path


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> Path:
    """The file of a prior of 16x16 images that has learned nothing."""
    return write_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="session")
def ecg_prior(tmp_path_factory) -> Path:
    """The file of a prior of 2.56 s of electrocardiogram that has learned nothing."""
    config = SashimiConfig(channels=8, blocks=1, pools=(4,), states=8, features=8, embedding=16)
    path = tmp_path_factory.mktemp("prior") / "tiny-ecg.safetensors"
    with global_seed(0):
        weights = Sashimi(config).state_dict()
    save_prior(
        path,
        weights,
        PriorSettings(network=config, event_shape=(9, 256), value_range="unbounded", signal=EcgFormat().signal),
    )
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder of four pictures."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = torch.randint(0, 256, (4, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def faces(tmp_path, prior, photographs) -> Path:
    """The file of a study of 4 images, 3 problems and 2 samplers, one of which is left out of one problem."""
    path = tmp_path / "faces.toml"
    shared = f'kind = "images", seeds = [0, 1, 2, 3], prior = "{prior}", data = "{photographs}"'
    path.write_text(f"""
study.name = "faces"
study.samples = 2
study.batch = 3
study.keep_samples = true
study.metrics = ["chi_square", "truth_rmse"]

problems = [
    {{ label = "box", operator = "box-inpainting", {shared} }},
    {{ label = "x4", operator = "super-resolution:x4", {shared} }},
    {{ label = "phase", operator = "phase-retrieval", {shared} }},
]
samplers = [
    {{ label = "DPS", spec = "dps:linear", settings = {{ steps = 3 }} }},
    {{ label = "DDNM", spec = "ddnm", settings = {{ steps = 3 }}, problems = ["box", "x*"] }},
]
overrides = [{{ sampler = "DPS", problem = "x4", preset = "super-resolution", settings = {{ steps = 3 }} }}]
""")
    return path


Dense = Callable[[Operator, tuple[int, ...]], np.ndarray]


@pytest.fixture
def dense() -> Dense:
    """`dense(operator, event_shape)`: the matrix whose columns are the images of the basis vectors, shape (m, d)."""

    def build(operator: Operator, event_shape: tuple[int, ...]) -> np.ndarray:
        basis = torch.eye(math.prod(event_shape), dtype=torch.float64)
        return operator(basis.unflatten(1, event_shape)).flatten(1).numpy().T

    return build


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def enter(monkeypatch) -> Callable[[Catalogue[Any], str, Any], None]:
    """Registers a thing for one test, also in the place of another."""

    def enter(catalogue: Catalogue[Any], name: str, thing: Any) -> None:
        len(catalogue)  # loads it
        monkeypatch.setitem(catalogue._entries, name, catalogue._entry(name, thing))

    return enter
