"""Networks that a prior's file or a recipe can name: bodies, and autoencoders.

Each entry is the configuration of a network: a frozen dataclass, which builds it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import nn

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, ShapeError


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


class Body(Takes, Protocol):
    """The configuration of a network that maps an event and one number for each to an event.

    Attributes:
        dynamics: endings of the names of weights that set rates and frequencies. They do not survive rounding to
            bfloat16, nor should weight decay pull them to zero.
    """

    dynamics: ClassVar[tuple[str, ...]]

    @property
    def out_channels(self) -> int:
        """Channels of what it returns."""
        ...

    def build(self) -> nn.Module:
        """A new network of this shape."""
        ...


class AutoencoderBody(Protocol):
    """The configuration of a network with `encode` and `decode`."""

    def latent_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the latent of an event."""
        ...

    def build(self) -> nn.Module:
        """A new network of this shape."""
        ...


def _check(*parts: str) -> Any:
    """What refuses a configuration that lacks one of the parts."""

    def check(thing: object) -> None:
        if lacking := [part for part in parts if not hasattr(thing, part)]:
            raise ConfigError(
                f"it lacks {', '.join(lacking)}", hint=f"a frozen dataclass of settings with {', '.join(parts)}"
            )

    return check


BODIES: Catalogue[Body] = Catalogue(
    "body",
    "midguide.nn",
    group="midguide.bodies",
    check=_check("in_channels", "out_channels", "grid", "dynamics", "build"),
)
"""Configurations of network bodies by name."""
DEFAULT = "unet"
"""The body of files and recipes that name none."""

AUTOENCODERS: Catalogue[AutoencoderBody] = Catalogue(
    "autoencoder", "midguide.nn", group="midguide.autoencoders", check=_check("latent_shape", "build")
)
"""Configurations of autoencoders by name."""
DEFAULT_AUTOENCODER = "folding"
"""The autoencoder of files that name none."""


def is_dynamics(body: Body, name: str) -> bool:
    """Whether the weight `name` of a network sets a rate or a frequency: see `Body.dynamics`."""
    return name.rpartition(".")[2] in body.dynamics


def check_fits(config: Takes, event_shape: tuple[int, ...], what: str = "data", *, hint: str | None = None) -> None:
    """Refuse events that a network cannot take.

    Args:
        config: what the network takes.
        event_shape: shape of one event.
        what: what the events are, for the message.
        hint: what to do about it; by default what to change in a recipe.

    Raises:
        ShapeError: If the network takes other shapes.
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
    if getattr(config, "needs_two_pixels", False) and tuple(sizes) == tuple(grid):  # few bodies do
        raise ShapeError(
            f"the {what} are {'x'.join(map(str, sizes))}, one pixel at the coarsest level of the network, where each "
            "channel is normalized alone: nothing is left of it",
            hint=hint or "take a smaller patch, or more channels in [network]",
        )
