"""Studies that take a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from midguide.domains.ecg.leads import EcgFormat
from midguide.maths.rng import global_seed
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.nn.unet import UNet, UNetConfig
from midguide.priors.formats.native import PriorSpec, save_prior

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


SIZE = 16


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> Path:
    """The file of a prior of 16x16 images that has learned nothing."""
    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    with global_seed(0):
        save_prior(path, UNet(config).state_dict(), PriorSpec(network=config, event_shape=(3, SIZE, SIZE)))
    return path


@pytest.fixture(scope="session")
def ecg_prior(tmp_path_factory) -> Path:
    """The file of a prior of 2.56 s of electrocardiogram that has learned nothing."""
    config = SashimiConfig(channels=8, blocks=1, pools=(4,), states=8, features=8, embedding=16)
    path = tmp_path_factory.mktemp("prior") / "tiny-ecg.safetensors"
    with global_seed(0):
        weights = Sashimi(config).state_dict()
    save_prior(path, weights, PriorSpec(network=config, event_shape=(9, 256), value_range=None, ecg=EcgFormat()))
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
