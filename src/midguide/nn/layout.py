"""Where a network computes, and the memory layout that image networks are fastest in there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from midguide.errors import ConfigError, reason


def check_device(device: str | torch.device) -> None:
    """Refuse a device that torch does not have here.

    Raises:
        ConfigError: If there is no such device.

    Example:
        >>> check_device("cpu")
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by backend
        raise ConfigError(
            f"cannot compute on the device {device}: {reason(error).split('. ')[0]}",
            hint=f"available here: {', '.join(_devices())}",
        ) from error


def _devices() -> list[str]:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ["cpu", *(f"{found.type}:{i}" for i in range(torch.accelerator.device_count()) if found is not None)]


@contextmanager
def without_weights(most: int | None = None) -> Iterator[None]:
    """Networks that are built in the block draw and take no weights (they are on the device `meta`).

    Args:
        most: parameters of the file; damaged settings might ask for so many layers that building them would never end,
            so that twice as many are refused. A few that are lacking are named by who fills the network.

    Raises:
        ConfigError: If there are more.
    """
    count = 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if most is not None and count > 2 * most:
            raise ConfigError(f"its settings ask for more than twice the {most} weights that it holds")

    handle = register_module_parameter_registration_hook(registered)
    try:
        with torch.device("meta"):
            yield
    finally:
        handle.remove()


def image_layout(device: str | torch.device | None) -> torch.memory_format:
    """Channels last on a GPU, where convolutions want it; contiguous on a CPU.

    On a CPU torch's group norm takes about twenty times as long with channels last in bfloat16. That costs the whole
    network more than the convolutions gain: 8.0 against 6.0 ms a row of `faces-64-small`.
    """
    return torch.channels_last if torch.device(device or "cpu").type == "cuda" else torch.contiguous_format


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Bring the weights of a network into a layout."""
    network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]


def move(network: nn.Module, device: str | torch.device) -> None:
    """Move an image network to a device, into the layout that it is fastest in there.

    Raises:
        ConfigError: If there is no such device.
    """
    check_device(device)
    network.to(device)
    lay_out(network, image_layout(device))


def weight_of(network: nn.Module | None) -> torch.Tensor | None:
    """One of the weights of a network, which shows where and in what dtype it computes; None if it has none."""
    return None if network is None else next(network.parameters(), None)
