"""Plots of draws by name: one for each kind of body (vector, signal, image, volume, video), and those of domains.

    @PLOTS.register("spectra", signals="spectrum")
    def spectra(samples: Samples, observation: int, signal: Signal) -> Figure: ...

`Samples.plot` takes the registered plot of the signals' own kind, or else that of their body.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, ShapeError
from midguide.inference.samples import Samples
from midguide.signals.base import Signal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Plot = Callable[[Samples, int, Signal], "Figure"]
"""The figure of one observation of draws."""

BODIES = ("vector", "signal", "image", "volume", "video")
LONG = 64
"""A longer vector is drawn as a signal."""
MOST_CHANNELS = 4
"""Of an image: a first axis that is longer counts slices."""
_TIME = ("time", "frame", "frames")


def _check_plot(thing: object) -> None:
    if not inspect.isfunction(thing) or list(inspect.signature(thing).parameters) != [
        "samples",
        "observation",
        "signal",
    ]:
        raise ConfigError("it is not a plot", hint="a function (samples, observation, signal) that returns a figure")


PLOTS: Catalogue[Plot] = Catalogue("plot", "midguide.plots", group="midguide.plots", check=_check_plot)
"""Plots of draws by name."""


@PLOTS.register("auto", summary="the one that suits what was drawn")
def auto(samples: Samples, observation: int, signal: Signal) -> Figure:
    """The registered plot of these signals, or the one of their body."""
    from midguide.inference.summary import check_observation

    check_observation(samples, observation)
    return plot_of(signal)(samples, observation, signal)


def plot_of(signal: Signal) -> Plot:
    """The plot that suits signals.

    Raises:
        ShapeError: If there is none.
    """
    own = [entry.thing for entry in PLOTS.values() if signal.kind and entry.facts.get("signals") == signal.kind]
    return own[0] if own else PLOTS[body_of(signal)].thing


def body_of(signal: Signal) -> str:
    """What signals are by shape and axes: one of `BODIES`.

    Raises:
        ShapeError: If they have no axis, or more than four.

    Example:
        >>> [body_of(Signal(shape=shape)) for shape in [(2,), (9, 256), (3, 64, 64), (16, 64, 64), (8, 3, 64, 64)]]
        ['vector', 'signal', 'image', 'volume', 'video']
    """
    shape, names = signal.shape, [axis.name for axis in signal.axes]
    match len(shape):
        case 1:
            return "signal" if shape[0] > LONG or (signal.axes and signal.axes[0].rate) else "vector"
        case 2:
            return "signal"
        case 3:
            return "image" if shape[0] <= MOST_CHANNELS else "video" if names[:1] and names[0] in _TIME else "volume"
        case 4:
            first = not names and shape[0] > MOST_CHANNELS and shape[1] <= MOST_CHANNELS
            return "video" if first or any(name in _TIME for name in names) else "volume"
    raise ShapeError(f"there is no plot of signals of shape {shape}", hint="plot parts of `samples.draws`")


def as_frames(values: Tensor, signal: Signal) -> Tensor:
    """Images, volumes and videos as pictures: (..., *signal) -> (..., frame, channel, H, W); an image is one frame."""
    lead = values.ndim - len(signal.shape)
    if len(signal.shape) == 3:
        return values.unsqueeze(lead if signal.shape[0] <= MOST_CHANNELS else lead + 1)
    return values if signal.shape[1] <= MOST_CHANNELS else values.transpose(lead, lead + 1)
