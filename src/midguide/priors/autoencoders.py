"""Autoencoders as single files: weights, shape and scaling, in one safetensors file. Priors of latents embed them.

The metadata of a file hold, under the key `midguide-autoencoder`, a JSON object with the fields of `AutoencoderSpec`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from midguide.catalogue.settings import build
from midguide.errors import CheckpointError, ConfigError
from midguide.maths.autodiff import frozen
from midguide.nn.base import AUTOENCODERS, DEFAULT_AUTOENCODER, AutoencoderBody
from midguide.nn.layout import move, without_weights
from midguide.priors.formats.weights import fit
from midguide.priors.latent import NetworkAutoencoder
from midguide.storage.files import replacing
from midguide.storage.outside import GIB, Outside
from midguide.storage.tensors import read_tensors

KEY = "midguide-autoencoder"
PREFIX = "autoencoder."
"""Of the names of an autoencoder's weights in the file of a prior."""

_FILE = Outside("autoencoder", "is the path right and the file complete?", CheckpointError, limit=64 * GIB)


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What there is to know of an autoencoder besides its network."""

    event_shape: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    value_range: tuple[float, float] = (-1.0, 1.0)
    name: str = "autoencoder"

    def __post_init__(self) -> None:
        if not self.value_range[0] < self.value_range[1] or len(self.scale) != len(self.shift):
            raise ConfigError(f"value_range={self.value_range}, scale={self.scale}, shift={self.shift} are impossible")
        if len(self.event_shape) != 3 or min(self.event_shape) < 1:
            raise ConfigError(f"event_shape={self.event_shape} is not (channels, height, width)")


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec(_Use):
    """How to use a network as an autoencoder.

    Args:
        network: its shape; the type says which autoencoder it is.
        event_shape: shape of one image, (C, H, W).
        scale: one over the standard deviation of each channel of its latents.
        shift: mean of each channel.
        value_range: range of images.
        name: what to call it in records.

    Example:
        >>> from midguide.nn.ldm_autoencoder import LDMAutoencoderConfig
        >>> network = LDMAutoencoderConfig(width=32, multipliers=(1, 2))
        >>> AutoencoderSpec(network=network, event_shape=(3, 16, 16), scale=(1.0,), shift=(0.0,)).event_shape
        (3, 16, 16)
    """

    network: AutoencoderBody

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return self.network.latent_shape(self.event_shape)

    def to_fields(self) -> dict[str, Any]:
        """What JSON can hold, with the name of the autoencoder."""
        return {"body": AUTOENCODERS.name_of(self.network), **asdict(self)}

    @classmethod
    def from_fields(cls, stored: Mapping[str, Any]) -> AutoencoderSpec:
        """From what `to_fields` gave.

        Raises:
            ConfigError: If a field is unknown, missing, or has an impossible value.
        """
        fields = dict(stored)
        network = AUTOENCODERS[str(fields.pop("body", DEFAULT_AUTOENCODER))].make(fields.pop("network"))
        return cls(network=network, **vars(build(_Use, fields, "autoencoder")))


def save_autoencoder(
    path: str | Path, weights: Mapping[str, Tensor], spec: AutoencoderSpec, *, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write an autoencoder's file, weights rounded to `dtype`."""
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(spec.to_fields())})


def read_autoencoder(path: str | Path) -> tuple[AutoencoderSpec, dict[str, Tensor]]:
    """What `save_autoencoder` wrote: how to use it, and its weights in float32.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind.
    """
    metadata, weights = read_tensors(_FILE, path)
    if KEY not in metadata:
        raise CheckpointError(f"{path} holds no autoencoder", hint="train one with `midguide train`")
    with _FILE.stated(path):
        spec = AutoencoderSpec.from_fields(json.loads(metadata[KEY]))
    return spec, {name: value.float() for name, value in weights.items()}


def load_autoencoder(path: str | Path, *, device: str = "cpu", rows: int | None = None) -> NetworkAutoencoder:
    """An autoencoder from its file.

    Args:
        path: a `.safetensors` file that `save_autoencoder` wrote.
        device: where its weights live.
        rows: most rows that are encoded or decoded at once; see `NetworkAutoencoder`.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind.
    """
    return build_autoencoder(*read_autoencoder(path), where=path, device=device, rows=rows)


def build_autoencoder(
    spec: AutoencoderSpec,
    weights: Mapping[str, Tensor],
    *,
    where: str | Path,
    device: str = "cpu",
    rows: int | None = None,
) -> NetworkAutoencoder:
    """An autoencoder from its parts; `where` names the file in messages.

    Raises:
        CheckpointError: If the weights are not those of the network.
    """
    with _FILE.stated(where), without_weights(len(weights)):
        network: Any = spec.network.build()
    fit(network, weights, where, hint="was it written by another version of midguide?")
    move(frozen(network), device)
    coder = NetworkAutoencoder(
        network.encode,
        network.decode,
        spec.event_shape,
        spec.latent_shape,
        value_range=spec.value_range,
        scale=spec.scale,
        shift=spec.shift,
        rows=rows,
        network=network,
        name=spec.name,
    )
    coder.provenance = {"weights": weights_digest(weights)}
    return coder


def prefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's weights under the names that they have in the file of a prior.

    Args:
        weights: by their names in the network.

    Example:
        >>> list(prefixed({"encoder.weight": torch.zeros(1)}))
        ['autoencoder.encoder.weight']
    """
    return {PREFIX + name: value for name, value in weights.items()}


def split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a prior's file: those of its network, and those of its autoencoder."""
    own = {name: value for name, value in weights.items() if not name.startswith(PREFIX)}
    return own, {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of all weights in the order of their names, the same in a file of its own and inside a prior's."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(weights[name].float().contiguous().numpy().tobytes())
    return total.hexdigest()
