"""Priors as single files: weights and everything needed to use them, in one safetensors file; and the shipped ones.

The metadata of a prior's file hold, under the key `midguide`, a JSON object: format, network body and its shape,
prediction, schedule, value range, event shape, and the format of electrocardiograms. A card beside it (`NAME.json`)
tells where it comes from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from midguide.denoisers.network import PREDICTIONS, NetworkDenoiser
from midguide.errors import CheckpointError, ConfigError
from midguide.files import replacing
from midguide.leads import EcgFormat
from midguide.nn.registry import NETWORKS, is_dynamics, network_config
from midguide.nn.sashimi import SashimiConfig
from midguide.nn.unet import UNetConfig
from midguide.schedules import DiscreteVP

FORMAT = 1
SCHEDULES = {
    "vp-linear": DiscreteVP.linear,
    "vp-cosine": DiscreteVP.cosine,
    "vp-scaled-linear": DiscreteVP.scaled_linear,
}


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """How to use a network as a prior.

    Args:
        network: its body and its shape.
        event_shape: shape of one sample, (C, H, W) or (leads, time).
        prediction: `eps`, `v` or `x0`.
        schedule: `vp-linear`, `vp-cosine` or `vp-scaled-linear`, each with 1000 times.
        value_range: range of clean data, or None where unbounded.
        ecg: for priors of electrocardiograms, how they hold a recording.
    """

    network: UNetConfig | SashimiConfig
    event_shape: tuple[int, ...]
    prediction: str = "v"
    schedule: str = "vp-linear"
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    ecg: EcgFormat | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES or self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"unknown schedule {self.schedule!r} or prediction {self.prediction!r}",
                hint=f"schedules: {', '.join(SCHEDULES)}; predictions: {', '.join(PREDICTIONS)}",
            )

    def to_json(self) -> str:
        """The metadata of a prior's file."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> PriorSpec:
        """Read what `to_json` wrote."""
        stored = json.loads(text)
        if stored.pop("format") != FORMAT:
            raise ValueError("the file was written by a newer version of midguide")
        network, ecg = network_config(stored.pop("network")), stored.pop("ecg", None)
        event_shape, value_range = tuple(stored.pop("event_shape")), stored.pop("value_range")
        return cls(
            network=network,
            event_shape=event_shape,
            value_range=None if value_range is None else tuple(value_range),
            ecg=None if ecg is None else EcgFormat(**ecg),
            **stored,
        )


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


def load_prior(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> NetworkDenoiser:
    """A shipped prior by name, or a prior's file by path.

    Args:
        name_or_path: a name of `list_priors`, or the path of a `.safetensors` file that `save_prior` wrote.
        dtype: dtype the network computes in.
        device: where its weights live.

    Raises:
        ConfigError: no such name and no such file.
        CheckpointError: the file is damaged, of another kind, or not the one that its card names.
    """
    path, card = _locate(str(name_or_path))
    spec, weights = _read(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if card and card["sha256"] != sha256:
        raise CheckpointError(
            f"{path} is damaged: its sha256 is not the one of its card", hint="install midguide again"
        )
    with torch.device("meta"):  # draws no initial weights
        network = NETWORKS[spec.network.kind].build(spec.network)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit their network: {error}".splitlines()[0]) from error
    denoiser = NetworkDenoiser(
        network.to(device),
        SCHEDULES[spec.schedule](),
        spec.prediction,
        spec.event_shape,
        value_range=spec.value_range,
        dtype=dtype,
        channels_last=len(spec.event_shape) == 3,
        name=card["name"] if card else path.stem,
    )
    denoiser.provenance = {"sha256": sha256, "schedule": spec.schedule}
    return denoiser


def prior_spec(name_or_path: str | Path) -> PriorSpec:
    """How to use a prior, without building its network.

    Args:
        name_or_path: as for `load_prior`.

    Raises:
        ConfigError: no such name and no such file.
        CheckpointError: the file is damaged or of another kind.
    """
    return _read(_locate(str(name_or_path))[0])[0]


def list_priors() -> list[dict[str, Any]]:
    """The cards of the shipped priors, sorted by name."""
    cards = [json.loads(file.read_text("utf-8")) for file in _folder().iterdir() if file.suffix == ".json"]
    return sorted(cards, key=lambda card: card["name"])


def _read(path: Path) -> tuple[PriorSpec, dict[str, torch.Tensor]]:
    """What stands in a prior's file, weights in float32."""
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is no safetensors file; other formats can run code when they are read",
            hint="train or export a prior with `midguide train`",
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "midguide" not in metadata:
                raise CheckpointError(
                    f"{path} has no midguide card in its metadata", hint="was it written by save_prior?"
                )
            spec = PriorSpec.from_json(metadata["midguide"])
            return spec, {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a prior: {error}", hint="is the file complete?") from error


def _locate(name: str) -> tuple[Path, dict[str, Any]]:
    cards = {card["name"]: card for card in list_priors()}
    if name in cards:
        return _folder() / f"{name}.safetensors", cards[name]
    path = Path(name)
    if path.is_file():
        return path, {}
    recipe = _folder() / f"{name}.toml"
    if recipe.is_file():
        raise ConfigError(
            f"the prior {name} is not shipped: there is only its recipe",
            hint=f"train it: midguide train {recipe} --data PATH; then give its .safetensors file as the prior",
        )
    close = difflib.get_close_matches(name, cards, n=1)
    known = f"did you mean {close[0]}?" if close else f"shipped priors: {', '.join(cards)}; or give a file's path"
    raise ConfigError(f"no prior and no file is called {name!r}", hint=known)


def _folder() -> Path:
    return Path(str(resources.files("midguide"))) / "priors"
