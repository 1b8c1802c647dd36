"""Network bodies and autoencoders that a prior's file can name: one line each. Training recipes name bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from midguide.errors import ShapeError
from midguide.nn.adm_unet import ADMConfig, ADMUNet
from midguide.nn.autoencoder import AutoencoderConfig, AutoencoderNetwork
from midguide.nn.ldm_autoencoder import LDMAutoencoder, LDMAutoencoderConfig
from midguide.nn.s4d import DYNAMICS
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.nn.unet import UNet, UNetConfig

BodyConfig = UNetConfig | ADMConfig | SashimiConfig
"""The configuration of any body; its type says which."""
AutoencoderBodyConfig = AutoencoderConfig | LDMAutoencoderConfig
"""The configuration of any autoencoder, likewise."""


@dataclass(frozen=True)
class Body:
    """What is known of a network body.

    Args:
        config: its configuration, with `in_channels`, `out_channels` and `grid`; or `latent_shape`, of an autoencoder.
        build: the network of a configuration.
        dynamics: endings of the names of weights that set rates and frequencies. They do not survive rounding to
            bfloat16, nor should weight decay pull them to zero.
    """

    config: type[Any]
    build: Callable[[Any], nn.Module]
    dynamics: tuple[str, ...] = ()


BODIES: dict[str, Body] = {
    "adm": Body(ADMConfig, ADMUNet),
    "sashimi": Body(SashimiConfig, Sashimi, DYNAMICS),
    "unet": Body(UNetConfig, UNet),
}
DEFAULT = "unet"
"""The body of files and recipes that name none."""

AUTOENCODERS: dict[str, Body] = {
    "folding": Body(AutoencoderConfig, AutoencoderNetwork),
    "latent-diffusion": Body(LDMAutoencoderConfig, LDMAutoencoder),
}
DEFAULT_AUTOENCODER = "folding"
"""The autoencoder of files that name none."""


def body_name(config: BodyConfig | AutoencoderBodyConfig) -> str:
    """Under which name the body or autoencoder of a configuration is registered."""
    return next(name for name, body in (BODIES | AUTOENCODERS).items() if isinstance(config, body.config))


def is_dynamics(config: BodyConfig, name: str) -> bool:
    """Whether the weight `name` of a network sets a rate or a frequency: see `Body.dynamics`."""
    return name.rpartition(".")[2] in BODIES[body_name(config)].dynamics


class Takes(Protocol):
    """What a network takes."""

    @property
    def in_channels(self) -> int:
        """Channels of an event."""
        ...

    @property
    def grid(self) -> tuple[int, ...]:
        """Of what each axis behind the channels is a multiple."""
        ...


def check_fits(config: Takes, event_shape: tuple[int, ...], what: str = "data", *, hint: str | None = None) -> None:
    """Refuse events that a network cannot take.

    Args:
        config: what the network takes.
        event_shape: shape of one event.
        what: what the events are, for the message.
        hint: what to do about it; by default what to change in a recipe.

    Raises:
        ShapeError: says which shapes it takes.
    """
    channels, *sizes = event_shape
    if channels != config.in_channels:
        raise ShapeError(
            f"the {what} have {channels} channels, the network takes {config.in_channels}",
            hint=hint or "change the channels in [network]; a prior of latents needs --autoencoder",
        )
    grid = config.grid
    if len(sizes) != len(grid) or any(size % step for size, step in zip(sizes, grid, strict=True)):
        shape, multiples = "x".join(map(str, sizes)), "x".join(map(str, grid))
        raise ShapeError(
            f"the {what} are {shape}, the network takes multiples of {multiples}",
            hint=hint or "change the coarse levels in [network] (patch, multipliers, pools), or the size of the data",
        )
