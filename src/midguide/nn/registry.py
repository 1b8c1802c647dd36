"""Network bodies that a prior's file and a training recipe can name: one line per body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Discriminator, Tag
from torch import nn

from midguide.errors import ConfigError, ShapeError
from midguide.nn.s4d import DYNAMICS
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.nn.unet import UNet, UNetConfig


@dataclass(frozen=True)
class NetworkEntry:
    """What is known of a network body.

    Args:
        config: its configuration: `in_channels`, and `grid`, of what each axis behind the channels is a multiple.
        build: the body of a configuration.
        dynamics: endings of the names of weights that set rates and frequencies. They do not survive rounding to
            bfloat16, nor should weight decay pull them to zero.
    """

    config: type
    build: Callable[[Any], nn.Module]
    dynamics: tuple[str, ...] = ()


NETWORKS: dict[str, NetworkEntry] = {
    "sashimi": NetworkEntry(SashimiConfig, Sashimi, DYNAMICS),
    "unet": NetworkEntry(UNetConfig, UNet),
}


def _kind(config: Any) -> str:
    """Files and recipes older than the second body do not name theirs."""
    return config.get("kind", "unet") if isinstance(config, Mapping) else config.kind


NetworkConfig = Annotated[
    Annotated[UNetConfig, Tag("unet")] | Annotated[SashimiConfig, Tag("sashimi")], Discriminator(_kind)
]
"""The configuration of any body; `kind` says which."""


def network_config(stored: Mapping[str, Any]) -> UNetConfig | SashimiConfig:
    """A configuration from the JSON object that `dataclasses.asdict` gave.

    Raises:
        ConfigError: a body of that kind is unknown.
    """
    kind = _kind(stored)
    if kind not in NETWORKS:
        raise ConfigError(f"unknown network {kind!r}", hint=f"one of {', '.join(NETWORKS)}")
    return NETWORKS[kind].config(**stored)


def check_fits(config: UNetConfig | SashimiConfig, event_shape: tuple[int, ...]) -> None:
    """Refuse events that a network cannot take.

    Raises:
        ShapeError: says which shapes it takes.
    """
    channels, *sizes = event_shape
    if channels != config.in_channels:
        raise ShapeError(
            f"the data have {channels} channels, the network takes {config.in_channels}",
            hint="set in_channels and out_channels in [network]",
        )
    grid = config.grid
    if len(sizes) != len(grid) or any(size % step for size, step in zip(sizes, grid, strict=True)):
        shape, multiples = "x".join(map(str, sizes)), "x".join(map(str, grid))
        raise ShapeError(
            f"the data are {shape}, the network {config.kind} takes multiples of {multiples}",
            hint="change the coarse levels of [network] (patch, multipliers, pools), or the size of the data",
        )


def is_dynamics(config: UNetConfig | SashimiConfig, name: str) -> bool:
    """Whether the weight `name` of a network sets a rate or a frequency: see `NetworkEntry.dynamics`."""
    return name.rpartition(".")[2] in NETWORKS[config.kind].dynamics
