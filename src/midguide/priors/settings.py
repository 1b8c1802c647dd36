"""What a prior is, and how it is run: one type from file to network.

A file states settings, its card may state some in their place, and a caller others in theirs. All are `PriorSettings`,
merged field by field, whether they come from Python, a TOML file, a command line, JSON, or the metadata of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Self, get_args

import torch

from midguide.catalogue.settings import Python, build
from midguide.diffusion.schedules import Schedule, Time, make_schedule
from midguide.errors import ConfigError, about, unknown
from midguide.nn.base import BODIES, DEFAULT, Body
from midguide.nn.layout import check_device
from midguide.priors.autoencoders import AutoencoderSpec
from midguide.priors.network import PREDICTIONS
from midguide.signals.base import SIGNALS, Signal
from midguide.storage.record import describe

MOST_ENTRIES = 2**32
"""Most entries of a signal: more are a damaged card, not an image."""

Dtype = Literal["float32", "bfloat16", "float16", "float64"]
"""What a network may compute in, by the names of torch."""
DTYPES = get_args(Dtype)

UNBOUNDED = "unbounded"
"""The value range of data without one."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the networks of a prior are run; it changes answers by rounding only. None: not said.

    Args:
        dtype: dtype that the network computes in, by default float32; states keep theirs.
        device: where the networks live; x is copied there and the answer back.
        channels_last: keep images and weights in that memory layout; by default where `device` is a GPU.
        compile: run the network through `torch.compile`.
        checkpointing: recompute the network's blocks for derivatives instead of keeping what they computed, and those
            of the autoencoder of latents, which without it is recomputed as a whole.
        chunk: most rows that the network is given at once.
        latent_chunk: most rows that the autoencoder of latents is given at once; by default 16, or fewer if those are
            more than 65,536 pixels.
        latent_dtype: dtype that the autoencoder of latents computes in; by default that of its weights, float32.
    """

    dtype: Dtype | Annotated[torch.dtype, Python] | None = None
    device: str | Annotated[torch.device, Python] | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    checkpointing: bool | None = None
    chunk: int | None = None
    latent_chunk: int | None = None
    latent_dtype: Dtype | Annotated[torch.dtype, Python] | None = None

    def __post_init__(self) -> None:
        for name in ("dtype", "latent_dtype"):
            if (given := getattr(self, name)) is not None:
                self._settle(name, _dtype_name(name, given))
        if self.device is not None:
            self._settle("device", str(self.device))
            check_device(str(self.device))  # before anything is downloaded

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype | None]:
        """What the network, and the autoencoder, compute in."""
        own, latent = str(self.dtype or "float32"), self.latent_dtype
        return getattr(torch, own), None if latent is None else getattr(torch, str(latent))

    def _settle(self, name: str, value: Any) -> None:
        """Replace what was given by its usual form; only while the object is made."""
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class PriorSettings(Execution):
    """What a prior is: what its network predicts, of what, and how it is run. None: not said.

    Args:
        name: what to call the prior in records.
        format: how to read the file, a name of `midguide list formats` or `FILE.py:NAME`; by default it is recognized.
        prediction: `eps`, `v`, `x0` or `flow`.
        schedule: the forward process it was trained on, by its name: `vp-linear`, `vp-cosine`, `vp-scaled-linear`,
            `edm`, `flow`, `vp-linear:0.0001,0.02`, ...; or a `Schedule`.
        event_shape: shape of one sample, channels first; of a latent, for a prior of latents.
        value_range: smallest and largest value of clean signals, also for a prior of latents; or `unbounded`.
        learned_variance: whether the output has twice the channels, the second half for a variance.
        label: time to network input where it is not the schedule's own; an `int` is told as an integer.
        signal: what is known of the signals besides shape and range.
        network: shape of the network; as a table, with `body`, a name of `nn.base.BODIES`.
        class_index: the class, where the network is conditioned on classes.
        averaged: false to take the last weights of a file that also has their average (EMA).
        quantize: false to decode latents as they are, where the autoencoder has a codebook.
        latent_scale: what latents are multiplied by: one number, or one for each channel.
        latent_shift: what is subtracted before, likewise.
        autoencoder: that of the latents; files state it.
        condition: for a network that is not a prior, what it was trained to draw the rest from; files state it.

    Raises:
        ConfigError: If a value is impossible.

    Example:
        >>> PriorSettings(prediction="v", value_range=(0.0, 1.0)).changed(PriorSettings(prediction="eps")).stated()
        {'prediction': 'eps', 'value_range': (0.0, 1.0)}
    """

    name: str | None = None
    format: str | None = None
    prediction: str | None = None
    schedule: str | Annotated[Schedule, Python] | None = None
    event_shape: tuple[int, ...] | None = None
    value_range: tuple[float, float] | Literal["unbounded"] | None = None
    learned_variance: bool | None = None
    label: Annotated[Callable[[Time], float], Python] | None = None
    signal: Annotated[Signal, Python] | Mapping[str, Any] | None = None
    network: Annotated[Body, Python] | Mapping[str, Any] | None = None
    class_index: int | None = None
    averaged: bool | None = None
    quantize: bool | None = None
    latent_scale: float | tuple[float, ...] | None = None
    latent_shift: float | tuple[float, ...] | None = None
    autoencoder: Annotated[AutoencoderSpec, Python] | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction is not None and self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        if isinstance(self.schedule, str):
            make_schedule(self.schedule)
        if isinstance(self.network, Mapping):
            self._settle("network", body_config(self.network))
        if isinstance(self.signal, Mapping):
            self._settle("signal", _signal(self.signal))
        if self.event_shape is not None and not (
            self.event_shape and min(self.event_shape) > 0 and math.prod(self.event_shape) <= MOST_ENTRIES
        ):
            raise ConfigError(f"event_shape {list(self.event_shape)} is not a shape", hint="for example [3, 64, 64]")
        if self.bounds is not None and not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise ConfigError(f"value_range {list(self.bounds)} is not a range", hint="for example [-1.0, 1.0]")

    @property
    def body(self) -> Body | None:
        """The shape of the network."""
        return None if isinstance(self.network, Mapping) else self.network

    @property
    def signals(self) -> Signal:
        """What is known of the signals; nothing where nothing is said."""
        return self.signal if isinstance(self.signal, Signal) else Signal()

    @property
    def process(self) -> Schedule | None:
        """The forward process."""
        return make_schedule(self.schedule) if isinstance(self.schedule, str) else self.schedule

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The value range as numbers; None where there is none, or none is said."""
        return None if isinstance(self.value_range, str) else self.value_range

    def complete(self) -> tuple[Schedule, str, tuple[int, ...]]:
        """Schedule, prediction and event shape, without which a network is not a prior.

        Raises:
            ConfigError: If one of them is not said.
        """
        if self.prediction is None or self.process is None or self.event_shape is None:
            needed = [name for name in ("prediction", "schedule", "event_shape") if getattr(self, name) is None]
            raise ConfigError(
                f"a network does not say its {', '.join(needed)}",
                hint="for example prediction='eps', schedule='vp-linear', event_shape=(3, 64, 64)",
            )
        return self.process, self.prediction, self.event_shape

    def stated(self) -> dict[str, Any]:
        """The settings that are given."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def changed(self, said: PriorSettings) -> Self:
        """These settings, with those that are given in `said` in their place."""
        return replace(self, **said.stated())

    def record(self) -> dict[str, Any]:
        """The settings that are given, as JSON."""
        return {name: describe(value) for name, value in self.stated().items()}


EXECUTION = frozenset(f.name for f in fields(Execution))
"""Settings of every prior with a network that do not change what it is."""


def prior_settings(
    settings: PriorSettings | Mapping[str, Any] | None = None, where: str = "prior", **changes: Any
) -> PriorSettings:
    """Settings with changes; None changes nothing.

    Args:
        settings: finished, or as plain values.
        where: what they belong to, for messages.
        changes: plain values or objects, by setting.

    Raises:
        ConfigError: If a setting is unknown or a value impossible.
    """
    made = settings if isinstance(settings, PriorSettings) else build(PriorSettings, settings or {}, where)
    return made.changed(build(PriorSettings, {k: v for k, v in changes.items() if v is not None}, where))


def body_config(table: Mapping[str, Any]) -> Body:
    """The shape of a network from plain values, of the body that it names.

    Raises:
        ConfigError: If there is no such body, or a value is impossible.
    """
    settings = dict(table)
    with about("network"):
        return BODIES[str(settings.pop("body", DEFAULT))].make(settings)


def _signal(table: Mapping[str, Any]) -> Signal:
    """What signals are, from plain values: the settings of a kind of signal, or unit and axes."""
    if kind := table.get("kind"):
        return SIGNALS.make(kind, table.get("settings", {}))
    return Signal.from_record(table)


def _dtype_name(name: str, given: object) -> str:
    shown = str(given).removeprefix("torch.")
    if shown not in DTYPES:
        raise ConfigError(f"{name} must be one of {', '.join(DTYPES)}, got `{shown}`")
    return shown
