"""Priors as single files: weights and everything needed to use them, in one safetensors file; and the shipped ones.

The metadata of a prior's file hold, under the key `midguide`, a JSON object: format, network body and its shape,
prediction, schedule, value range, event shape, what its signals are; for a prior of latents its autoencoder, whose
weights are in the same file. A card beside it (`NAME.json`) tells where it comes from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from midguide.catalogue.domain import domains
from midguide.catalogue.settings import as_plain
from midguide.diffusion.schedules import make_schedule
from midguide.errors import CheckpointError, ConfigError, reason, unknown
from midguide.nn.base import BODIES, DEFAULT, Body, is_dynamics
from midguide.priors.autoencoders import AutoencoderSpec, build_autoencoder, split
from midguide.priors.formats.base import Pretrained, fit, read_weights
from midguide.priors.network import PREDICTIONS
from midguide.signals.base import SIGNALS, Signal
from midguide.storage.files import replacing, sha256_of

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """How to use a network as a prior.

    Args:
        network: shape of the network; its type says which body it is. With twice as many channels out as in, it
            also predicts a variance.
        event_shape: shape of one sample, (C, H, W) or (C, time); of a latent, for a prior of latents.
        prediction: `eps`, `v`, `x0` or `flow`.
        schedule: its name for `make_schedule`.
        value_range: range of clean data, or None where unbounded.
        autoencoder: that of the latents, for a prior of latents.
        signal: what is known of its signals besides shape and range.
        condition: for a network that is no prior, what it was trained to draw the rest from.
    """

    network: Body
    event_shape: tuple[int, ...]
    prediction: str = "v"
    schedule: str = "vp-linear"
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    autoencoder: AutoencoderSpec | None = None
    signal: Signal = Signal()
    condition: str | None = None

    def __post_init__(self) -> None:
        make_schedule(self.schedule)
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)

    def to_json(self) -> str:
        """The metadata of a prior's file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"network": as_plain(self.network), "signal": self.signal.record()}
        fields |= {"autoencoder": self.autoencoder and self.autoencoder.to_fields()}
        return json.dumps({"format": FORMAT, "body": self.body, **fields})

    @property
    def body(self) -> str:
        """Name of the network body."""
        return BODIES.name_of(self.network)

    @classmethod
    def from_json(cls, text: str) -> PriorSpec:
        """Read what `to_json` wrote."""
        stored = json.loads(text)
        if stored.pop("format") != FORMAT:
            raise ValueError("the file was written by a newer version of midguide")
        network = BODIES[stored.pop("body", DEFAULT)].make(stored.pop("network"))
        limits, inner, signal = stored.pop("value_range"), stored.pop("autoencoder", None), _signal(stored)
        return cls(
            network=network,
            event_shape=tuple(stored.pop("event_shape")),
            value_range=None if limits is None else tuple(limits),
            autoencoder=None if inner is None else AutoencoderSpec.from_fields(inner),
            signal=signal,
            **stored,
        )


def _signal(stored: dict[str, Any]) -> Signal:
    """What a file says of its signals, taken out of its other fields.

    Files of version 0.1 have the settings of a kind of signal under the name of the kind, which may be null.
    """
    known = {field.name for field in dataclasses.fields(PriorSpec)}
    for kind in [key for key in stored if key not in known and key in SIGNALS]:
        if settings := stored.pop(kind):
            return Signal.from_record({"kind": kind, "settings": settings})
    return Signal.from_record(stored.pop("signal", {}))


def save_prior(
    path: str | Path, weights: Mapping[str, torch.Tensor], spec: PriorSpec, *, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a prior's file, weights rounded to `dtype` except those that set rates and frequencies."""
    tensors = {
        name: value.detach().to("cpu", torch.float32 if is_dynamics(spec.network, name) else dtype).contiguous()
        for name, value in weights.items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"midguide": spec.to_json()})


def read_prior(path: Path, *, card: Mapping[str, Any] | None = None) -> Pretrained:
    """A prior from the file that `save_prior` wrote.

    Args:
        path: a `.safetensors` file.
        card: the card of a shipped prior; the file must have its sha256.

    Raises:
        CheckpointError: the file is damaged, of another kind, or not the one that its card names.
    """
    spec = read_spec(path)
    if spec.condition is not None:
        raise CheckpointError(
            f"{path} is no prior: it was trained to draw one kind of hidden part ({spec.condition})",
            hint="name it in a study, as the network of a source that draws hidden parts",
        )
    weights, coder_weights = split(read_weights(path).last)
    sha256 = sha256_of(path)
    if card and card["sha256"] != sha256:
        raise CheckpointError(
            f"{path} is damaged: its sha256 is not the one of its card", hint="install midguide again"
        )
    with torch.device("meta"):  # draws no initial weights
        network = spec.network.build()
    fit(network, weights, path, hint="was it written by another version of midguide?")
    return Pretrained(
        network=network,
        schedule=make_schedule(spec.schedule),
        prediction=spec.prediction,
        event_shape=spec.event_shape,
        value_range=spec.value_range,
        learned_variance=spec.network.out_channels == 2 * spec.network.in_channels,
        name=card["name"] if card else path.stem,
        provenance={"sha256": sha256, "schedule": spec.schedule},
        autoencoder=spec.autoencoder and build_autoencoder(spec.autoencoder, coder_weights, where=path),
        signal=spec.signal,
        takes=spec.network,
    )


def read_spec(path: Path) -> PriorSpec:
    """How to use the prior in the file that `save_prior` wrote, without its weights.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    try:
        return PriorSpec.from_json(metadata(path)["midguide"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        why = f"it does not state {error}" if isinstance(error, KeyError) else reason(error)
        raise CheckpointError(
            f"{path} cannot be read as a prior: {why}", hint="was it written by save_prior?"
        ) from error


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as a prior: {error}", hint="is the file complete?") from error


def list_priors() -> list[dict[str, Any]]:
    """The cards of the shipped priors, of this package and of its domains, sorted by name."""
    return [json.loads(path.read_text("utf-8")) for _, path in sorted(_shipped(".json").items())]


def shipped(card: Mapping[str, Any]) -> Path:
    """The file of a shipped prior."""
    return _shipped(".json")[card["name"]].with_suffix(".safetensors")


def recipe(name: str) -> Path | None:
    """The recipe of a prior, shipped or not."""
    return _shipped(".toml").get(name)


def _shipped(suffix: str) -> dict[str, Path]:
    """Files with this ending in the folders of shipped priors, by stem."""
    return {path.stem: path for folder in _folders() for path in folder.iterdir() if path.suffix == suffix}


def _folders() -> list[Path]:
    """Where priors are shipped: in this package, and in those of its domains."""
    homes = [Path(str(resources.files("midguide"))) / "priors", *(resources.files(d.package) for d in domains())]
    return [folder for home in homes if (folder := Path(str(home)) / "shipped").is_dir()]
