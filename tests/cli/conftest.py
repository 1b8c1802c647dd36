"""The command line in this process, with a tiny untrained prior of 16x16 images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from midguide.cli import main
from midguide.nn.unet import UNet, UNetConfig
from midguide.priors.formats.native import PriorSpec, save_prior

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
        lines = [line for line in self.err.splitlines() if not line.startswith("drawing ")]
        assert self.code == 2
        assert self.out == ""
        assert [line.split(":")[0] for line in lines] == ["error", "hint"]
        for word in words:
            assert word in self.err


Cli = Callable[..., Result]


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
def prior(tmp_path_factory) -> Path:
    """The file of a prior that has learned nothing."""
    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        save_prior(path, UNet(config).state_dict(), PriorSpec(network=config, event_shape=(3, SIZE, SIZE)))
    return path


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
