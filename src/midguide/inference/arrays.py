"""Samples as arrays with named axes, as xarray, ArviZ and files of them know them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from midguide.errors import ConfigError
from midguide.signals.base import Signal

if TYPE_CHECKING:
    from xarray import Dataset

    from midguide.inference.samples import Samples


def libraries(*, netcdf: bool = False) -> None:
    """Refuse to go on without the libraries of the extra `arrays`.

    Raises:
        ConfigError: If one is missing.
    """
    try:
        import xarray  # noqa: F401
        import zarr  # noqa: F401

        if netcdf:
            import h5netcdf  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"draws on disk need a library that is not installed: {error.name}", hint="pip install 'midguide[arrays]'"
        ) from error


def axes_of(signal: Signal) -> tuple[str, ...]:
    """The names of the axes of a signal: its own where it has some; channel, height and width of an image."""
    if len(signal.axes) == len(signal.shape):
        return tuple(axis.name for axis in signal.axes)
    usual = {0: (), 1: ("value",), 2: ("channel", "time"), 3: ("channel", "height", "width")}
    return usual.get(len(signal.shape), tuple(f"axis_{i}" for i in range(len(signal.shape))))


def labels_of(signal: Signal) -> dict[str, list[str]]:
    """The names of the places along axes that have some, by axis."""
    named = len(signal.axes) == len(signal.shape)
    return {axis.name: list(axis.labels) for axis in signal.axes if named and axis.labels}


def dataset(samples: Samples) -> Dataset:
    """The data set that `Samples.to_xarray` gives."""
    libraries()
    import xarray

    signal = Signal() if samples.problem is None else samples.problem.denoiser.signal
    shape = tuple(samples.draws.shape[2:])
    axes = axes_of(signal if signal.shape == shape else Signal(shape=shape))
    found: dict[str, Any] = {"draws": (("observation", "draw", *axes), samples.draws)}
    if samples.log_weight is not None:
        found["log_weight"] = ("observation", "draw"), samples.log_weight
    if samples.log_evidence is not None:
        one_each = samples.log_evidence.shape == samples.draws.shape[:2]
        found["log_evidence"] = ("observation", "draw" if one_each else "group"), samples.log_evidence
    for name, value in samples.signs.items():
        found[f"sign.{name}"] = ("observation", "draw"), value
    for name, value in samples.tensors.items():
        if name == "truth":
            dims = ("observation", *axes)
        elif name == "latents":
            dims = ("observation", "draw", *(f"latent_{i}" for i in range(value.ndim - 2)))
        else:
            dims = ("observation", *(f"{name}_{i}" for i in range(value.ndim - 1)))
        found[name] = dims, value
    said = {"record": samples.record, "cost": asdict(samples.cost), "group": samples.group}
    data = xarray.Dataset({name: (dims, value.detach().cpu().numpy()) for name, (dims, value) in found.items()})
    places = {axis.name: [i / axis.rate for i in range(data.sizes[axis.name])] for axis in signal.axes if axis.rate}
    return data.assign_coords(labels_of(signal) | places).assign_attrs(midguide=json.dumps(said))
