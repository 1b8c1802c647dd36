"""The DDPM U-Net of the DDIM port, weight by weight against that of diffusers, and the lists it comes in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from midguide.errors import CheckpointError, ConfigError
from midguide.nn.ddpm_unet import DDPMConfig, DDPMUNet
from midguide.priors.loading import load_prior

CONFIG = DDPMConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,))
X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = DDPMUNet(CONFIG).state_dict()
    return {name: torch.randn(value.shape, generator=generator) * 0.1 for name, value in state.items()}


def in_diffusers(name: str) -> str:
    """The name of the same weight in the library."""
    pairs = [
        (r"temb\.dense\.0", "time_embedding.linear_1"),
        (r"temb\.dense\.1", "time_embedding.linear_2"),
        (r"mid\.block_1", "mid_block.resnets.0"),
        (r"mid\.block_2", "mid_block.resnets.1"),
        (r"mid\.attn_1", "mid_block.attentions.0"),
        (r"(down|up)\.(\d)\.block", r"\1_blocks.\2.resnets"),
        (r"(down|up)\.(\d)\.attn", r"\1_blocks.\2.attentions"),
        (r"(down|up)\.(\d)\.(down|up)sample", r"\1_blocks.\2.\3samplers.0"),
        (r"nin_shortcut", "conv_shortcut"),
        (r"temb_proj", "time_emb_proj"),
        (r"norm_out", "conv_norm_out"),
    ]
    for pattern, other in pairs:
        name = re.sub(pattern, other, name)
    if "attentions" in name:
        for own, other in (
            ("norm", "group_norm"),
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("proj_out", "to_out.0"),
        ):
            name = re.sub(rf"\.{own}\.(weight|bias)$", rf".{other}.\1", name)
    return re.sub(r"up_blocks\.(\d)", lambda match: f"up_blocks.{1 - int(match[1])}", name)


def test_the_network_is_that_of_diffusers_weight_by_weight(weights: dict[str, Tensor], tmp_path: Path) -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).eval()
    state = {}
    for name, value in weights.items():
        other = in_diffusers(name)
        state[other] = value[..., 0, 0] if "attentions" in other and value.ndim == 4 else value
    theirs.load_state_dict(state)
    torch.save(weights, tmp_path / "own.ckpt")
    prior: Any = load_prior(tmp_path / "own.ckpt", event_shape=(3, 8, 8))
    assert (prior.prediction, prior.value_range, prior.provenance["format"]) == ("eps", (-1.0, 1.0), "ddpm")
    times = torch.tensor([0, 700])
    with torch.no_grad():
        assert torch.allclose(prior.network(X, times.float()), theirs(X, times).sample, atol=1e-4)


def test_the_lists_of_the_port_hold_the_average_at_their_end(weights: dict[str, Tensor], tmp_path: Path) -> None:
    last = {f"module.{name}": value for name, value in weights.items()}
    average, optimizer = {name: value * 0.9 for name, value in weights.items()}, {"state": {}, "param_groups": []}
    torch.save([last, optimizer, 3, 1000, average], tmp_path / "list.pth")
    torch.save([last, optimizer, 3, 1000], tmp_path / "no-average.pth")
    for name, averaged, wanted in (
        ("list.pth", None, average),
        ("list.pth", False, weights),
        ("no-average.pth", None, weights),
    ):
        prior: Any = load_prior(tmp_path / name, event_shape=(3, 8, 8), averaged=averaged)
        assert torch.equal(prior.network.state_dict()["conv_in.weight"], wanted["conv_in.weight"])
        assert prior.record().get("weights") == {"list.pth": "last" if averaged is False else "averaged"}.get(name)


@pytest.mark.parametrize(
    ("multipliers", "attention", "size", "parameters"),
    [((1, 1, 2, 2, 4, 4), (4,), 256, 113_673_219), ((1, 2, 2, 2), (1,), 32, 35_746_307)],
    ids=["celebahq, bedroom, church", "cifar"],
)
def test_public_models_are_known_by_their_shapes(
    multipliers: tuple[int, ...], attention: tuple[int, ...], size: int, parameters: int, tmp_path: Path
) -> None:
    """The counts are those of `google/ddpm-celebahq-256` and of Ho et al. 2020, Section 4 (35.7 million)."""
    with torch.device("meta"):
        network = DDPMUNet(DDPMConfig(multipliers=multipliers, attention=attention))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / "own.ckpt")
    assert load_prior(tmp_path / "own.ckpt").event_shape == (3, size, size)


def test_other_shapes_ask_for_the_size_and_what_is_incomplete_is_one_line(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "own.pt")
    with pytest.raises(ConfigError, match="does not say the size of its images\nhint: pass event_shape"):
        load_prior(tmp_path / "own.pt")
    torch.save({name: value for name, value in weights.items() if "mid." not in name}, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="missing: mid.block_1") as caught:
        load_prior(tmp_path / "own.pt", event_shape=(3, 8, 8))
    assert "\n" not in caught.value.message
    torch.save({"temb.dense.0.weight": torch.zeros(4, 4)}, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="not those of a DDPM U-Net"):
        load_prior(tmp_path / "own.pt")
