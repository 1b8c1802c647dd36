"""Priors as single files: weights and everything needed to use them, in one safetensors file.

The metadata of a prior's file hold a JSON object under the key `midguide`. It has the format, network body and its
shape, prediction, schedule, value range, event shape, and what its signals are. For a prior of latents it also has the
autoencoder, whose weights are in the same file. A card beside the file (`NAME.json`) tells where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from midguide.catalogue.settings import as_plain
from midguide.errors import CheckpointError, ConfigError
from midguide.nn.base import BODIES, DEFAULT, is_dynamics
from midguide.nn.layout import without_weights
from midguide.priors.autoencoders import AutoencoderSpec, build_autoencoder, split
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.weights import fit, metadata_of
from midguide.priors.settings import UNBOUNDED, PriorSettings, body_config, prior_settings
from midguide.signals.base import SIGNALS, Signal
from midguide.storage.files import replacing, sha256_of
from midguide.storage.outside import GIB, Outside

KEY, FORMAT = "midguide", 1
DEFAULTS = PriorSettings(prediction="v", schedule="vp-linear", value_range=(-1.0, 1.0))
STATED = ("event_shape", "prediction", "schedule", "condition")
"""Settings that lie in the metadata as they are."""

_PRIOR = Outside("prior", "was it written by save_prior?", CheckpointError, limit=1024 * GIB)


@FORMATS.register("native")
class Native(Format):
    """What `save_prior` writes: one file that states everything."""

    extensions = (".safetensors",)
    order = 10

    def recognizes(self, source: Source) -> bool:
        return KEY in source.metadata

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior; of a shipped one the file must have the sum of its card.

        Raises:
            CheckpointError: If the file is damaged, of another kind, or not the one that its card names.
        """
        path = source.path
        stated, sha256 = stated_in(path), sha256_of(path)
        if stated.condition is not None:
            raise CheckpointError(
                f"{path} is not a prior: it was trained to draw one kind of hidden part ({stated.condition})",
                hint="name it in a study, as the network of a source that draws hidden parts",
            )
        if source.card and source.card.sha256 != sha256:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one of its card",
                hint="install the package that ships it again",
            )
        weights, coder_weights = split(source.weights.last)
        coder = stated.autoencoder and build_autoencoder(stated.autoencoder, coder_weights, where=path)
        network, config = build_network(stated, weights, path), stated.body
        twice = config is not None and config.out_channels == 2 * config.in_channels
        own = PriorSettings(name=source.name, learned_variance=twice)
        facts: dict[str, Any] = {"format": "native", "sha256": sha256}
        if others := sorted(source.metadata.keys() - {KEY, "format"}):  # safetensors' own word for whose tensors
            facts["remarks"] = [f"not used: {', '.join(f'`{name}`' for name in others)} of its metadata"]
        return network_prior(network, stated.changed(own), said, provenance=facts, autoencoder=coder, takes=config)


def build_network(stated: PriorSettings, weights: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """The network that a file states, with its weights.

    Raises:
        CheckpointError: If they do not fit each other.
    """
    if stated.body is None:
        raise CheckpointError(f"{path} states no network", hint="was it written by save_prior?")
    with _PRIOR.stated(path), without_weights(len(weights)):
        network = stated.body.build()
    fit(network, weights, path, hint="was it written by another version of midguide?")
    return network


def save_prior(
    path: str | Path,
    weights: Mapping[str, torch.Tensor],
    settings: PriorSettings,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a prior's file, weights rounded to `dtype` except those that set rates and frequencies.

    Args:
        path: a `.safetensors` file.
        weights: of the network by name; of an autoencoder with a prefix, see `priors.autoencoders.prefixed`.
        settings: what the file states. `network` and `event_shape` are needed. By default the network predicts `v` on
            the schedule `vp-linear`, and data are in [-1, 1].
        dtype: of the weights in the file.

    Raises:
        ConfigError: If a setting is missing, or cannot be written to a file.

    Example:
        >>> import tempfile
        >>> from midguide.nn.adm_unet import ADMConfig, ADMUNet
        >>> config = ADMConfig(channels=32, multipliers=(1,), blocks=1, attention=(), head_channels=16)
        >>> settings = PriorSettings(network=config, event_shape=(3, 8, 8), prediction="eps")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_prior(f"{folder}/own.safetensors", ADMUNet(config).state_dict(), settings)
    """
    text, network = to_metadata(settings), settings.body
    tensors = {
        name: value.detach().to("cpu", torch.float32 if network and is_dynamics(network, name) else dtype).contiguous()
        for name, value in weights.items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def stated_in(path: Path) -> PriorSettings:
    """What the file that `save_prior` wrote states, without its weights.

    Raises:
        CheckpointError: If the file is damaged or of another kind.
    """
    metadata = metadata_of(path)
    if KEY not in metadata:
        raise _PRIOR.damaged(path, f"it does not state {KEY!r}")
    with _PRIOR.stated(path):
        return from_metadata(metadata[KEY])


def to_metadata(settings: PriorSettings) -> str:
    """Settings, those of `DEFAULTS` where none are given, as the JSON in a prior's file.

    Raises:
        ConfigError: If a setting is missing, or cannot be written to a file.
    """
    settings = DEFAULTS.changed(settings)
    network, coder = settings.body, settings.autoencoder
    if network is None or settings.event_shape is None:
        raise ConfigError("a prior's file states its network and event_shape", hint="give both")
    kept = {*STATED, "network", "value_range", "autoencoder", "signal"}
    if not isinstance(settings.schedule, str) or (lost := settings.stated().keys() - kept - {"learned_variance"}):
        what = "a schedule that has no name" if not isinstance(settings.schedule, str) else ", ".join(sorted(lost))
        raise ConfigError(f"a prior's file cannot state {what}", hint="such as vp-betas:... for any betas")
    table = {"format": FORMAT, "body": BODIES.name_of(network), "network": as_plain(network)}
    table |= {name: getattr(settings, name) for name in STATED}
    table |= {"value_range": settings.bounds if coder is None else None, "autoencoder": coder and coder.to_fields()}
    return json.dumps(table | {"signal": settings.signals.record()})


def from_metadata(text: str) -> PriorSettings:
    """Read what `to_metadata` wrote."""
    stored = json.loads(text)
    if stored.pop("format") != FORMAT:
        raise ValueError("the file was written by a newer version of midguide")
    network = body_config({"body": stored.pop("body", DEFAULT), **stored.pop("network")})
    coder, limits = stored.pop("autoencoder", None), stored.pop("value_range")
    coder = None if coder is None else AutoencoderSpec.from_fields(coder)
    limits = (UNBOUNDED if limits is None else limits) if coder is None else coder.value_range
    signal = _signal(stored)
    return prior_settings(
        where="the file", network=network, autoencoder=coder, value_range=limits, signal=signal, **stored
    )


def _signal(stored: dict[str, Any]) -> Signal | None:
    """What a file says of its signals, taken out of its other fields; None where it says nothing.

    Files of version 0.1 have the settings of a kind of signal under the name of the kind, which may be null.
    """
    for kind in [key for key in stored if key not in STATED and key in SIGNALS]:
        if settings := stored.pop(kind):
            return Signal.from_record({"kind": kind, "settings": settings})
    record = stored.pop("signal", {})
    return Signal.from_record(record) if record else None
