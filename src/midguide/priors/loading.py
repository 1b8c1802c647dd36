"""`load_prior`: one call for every kind of prior.

A name is that of a shipped prior, of a public checkpoint (`midguide.storage.hub`), or a diffusers repository; a path
that of a file or folder in one of the formats; anything callable is a network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import Schedule, Time, make_schedule
from midguide.errors import CheckpointError, ConfigError, suggestion
from midguide.nn.adm_unet import ADMConfig
from midguide.nn.base import check_fits
from midguide.nn.layout import check_device
from midguide.priors.formats.base import Pretrained, check_start, read_weights, to_load_prior
from midguide.priors.formats.compvis import is_compvis, load_compvis
from midguide.priors.formats.diffusers import WEIGHTS, fetch_repository, load_diffusers, unet_weights
from midguide.priors.formats.guided_diffusion import PUBLIC, load_guided_diffusion
from midguide.priors.formats.native import (
    PriorSpec,
    list_priors,
    metadata,
    read_prior,
    read_spec,
    recipe,
    shipped,
)
from midguide.priors.formats.python_file import PLACE, load_python
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.network import NetworkDenoiser
from midguide.storage import hub
from midguide.storage.files import sha256_of
from midguide.storage.record import describe

Network = nn.Module | Callable[[Tensor, Tensor], Tensor]

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin")
_ASKABLE = ("guided-diffusion", "compvis")  # formats with settings of their own
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def load_prior(
    prior: str | Path | Network,
    *,
    prediction: str | None = None,
    schedule: Schedule | str | None = None,
    event_shape: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
    learned_variance: bool | None = None,
    label: Callable[[Time], float] | None = None,
    network: ADMConfig | None = None,
    class_index: int | None = None,
    averaged: bool | None = None,
    quantize: bool | None = None,
    latent_scale: float | None = None,
    latent_chunk: int | None = None,
    latent_dtype: torch.dtype | None = None,
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    channels_last: bool | None = None,
    compile: bool = False,  # noqa: A002 (as in torch)
    checkpointing: bool = False,
    chunk: int | None = None,
) -> NetworkDenoiser | LatentPrior:
    """A prior by name or path, or a network as a prior; with its autoencoder, for a prior of latents.

    The conventions of a file are those that it states or that its format has; what is given here takes their place.
    `midguide check-prior` measures whether they are right.

    Args:
        prior: a name of `midguide list priors`; a diffusers folder or repository id `owner/name`; a checkpoint of
            guided diffusion or of latent diffusion (`.pt`, `.pth`, `.ckpt`, `.safetensors`); a `.safetensors` file
            that `save_prior` wrote; a Python file and a function in it that returns a prior, `own.py:prior`; or a
            network, called as `network(x, label)`.
        prediction: `eps`, `v`, `x0` or `flow`; needed for a network.
        schedule: the forward process, or its name for `diffusion.schedules.make_schedule`: `vp-linear`, `vp-cosine`,
            `vp-scaled-linear`, `edm`, `flow`, `vp-linear:0.0001,0.02`, ...; needed for a network.
        event_shape: shape of one sample, of a latent for a prior of latents; needed for a network.
        value_range: range of clean data, of signals for a prior of latents; [-1, 1] where nothing else is known.
        learned_variance: whether the output has twice the channels, the second half for a variance.
        label: time to network input where it is not the schedule's own; an `int` is told as an integer.
        network: shape of the U-Net of such a checkpoint that is not one of the public ones.
        class_index: the class, where that U-Net is conditioned on classes.
        averaged: false to take the last weights of a checkpoint that also has their average (EMA).
        quantize: false to decode latents of latent diffusion as they are, where the autoencoder has a codebook.
        latent_scale: what latents are multiplied by, where the file does not say it or is wrong.
        latent_chunk: most rows that the autoencoder of latents is given at once; by default 16, or fewer if those are
            more than 65,536 pixels.
        latent_dtype: dtype that the autoencoder of latents computes in; by default that of its weights, float32.
        name: what to call the prior in records.
        dtype: dtype the network computes in; states keep theirs. See `latent_dtype` for that of an autoencoder.
        device: where the networks live; x is copied there and the answer back.
        channels_last: keep images and weights in that memory layout; by default where `device` is a GPU.
        compile: run the network through `torch.compile`.
        checkpointing: recompute the network's blocks for derivatives instead of keeping what they computed, and those
            of the autoencoder of latents, which without it is recomputed as a whole.
        chunk: most rows that the network is given at once; see `latent_chunk` for that of an autoencoder.

    Raises:
        ConfigError: no such name, file or device, or a setting is missing or does not apply.
        ShapeError: the network cannot take samples of this shape.
        CheckpointError: a file is damaged, unsafe, not the one of its card, or does not fit its network.
        DataError: a download failed.

    Example:
        >>> load_prior("faces-64").event_shape
        (3, 64, 64)
        >>> load_prior(lambda x, t: 0 * x, prediction="eps", schedule="vp-linear", event_shape=(1, 8, 12)).event_shape
        (1, 8, 12)
    """
    if device is not None:
        check_device(device)  # before anything is downloaded
    given, schedule = schedule, make_schedule(schedule) if isinstance(schedule, str) else schedule
    asked = _Asked(event_shape, network, class_index, averaged, quantize, schedule)
    if isinstance(prior, str | Path):
        found = _from_name(str(prior), asked)
    else:
        found = _from_network(prior, prediction, schedule, event_shape)
    if asked.of_checkpoints and found.provenance.get("format") not in _ASKABLE:
        raise ConfigError(
            f"{', '.join(asked.of_checkpoints)}: for a guided-diffusion or CompVis checkpoint, which this is not",
            hint="leave them out",
        )
    changes = {"prediction": prediction, "learned_variance": learned_variance, "event_shape": event_shape}
    changes |= {"label": label, "name": name, "schedule": schedule}
    found = replace(found, **{key: value for key, value in changes.items() if value is not None})
    if found.takes is not None:
        check_fits(found.takes, found.event_shape, "samples", hint="change event_shape, the shape of one sample")
    latent = {"scale": latent_scale, "rows": latent_chunk, "dtype": latent_dtype}
    found = _of_signals(found, value_range, latent, checkpointing)
    space = found.signal.space
    denoiser = NetworkDenoiser(
        found.network,
        found.schedule,
        found.prediction,
        found.event_shape,
        value_range=found.value_range,
        learned_variance=found.learned_variance,
        label=found.label,
        name=found.name,
        projection=None if space is None or found.autoencoder is not None else space.project,
        dtype=dtype,
        device=device,
        channels_last=channels_last,
        compile=compile,
        checkpointing=checkpointing,
        chunk=chunk,
    )
    stated = {"schedule": given, "value_range": value_range}
    stated = {key: describe(value) for key, value in stated.items() if value is not None}
    denoiser.provenance, denoiser.signal = {**found.provenance, **stated}, found.signal
    if found.autoencoder is None:
        return denoiser
    both = LatentPrior(denoiser, found.autoencoder if device is None else found.autoencoder.to(str(device)))
    both.provenance, both.signal = denoiser.provenance, found.signal
    return both


@dataclass(frozen=True)
class _Asked:
    """What a caller says of a file; see `load_prior`."""

    event_shape: tuple[int, ...] | None
    network: ADMConfig | None
    class_index: int | None
    averaged: bool | None
    quantize: bool | None
    schedule: Schedule | None

    @property
    def of_checkpoints(self) -> list[str]:
        """The settings given that only checkpoints of training codes have."""
        names = ("network", "class_index", "averaged", "quantize")
        return [name for name in names if getattr(self, name) is not None]


def prior_spec(prior: str | Path) -> PriorSpec:
    """How to use a prior of this package, without its weights.

    Args:
        prior: name of a shipped prior, or path of the file that `save_prior` wrote.

    Raises:
        ConfigError: no such name and no such file.
        CheckpointError: the file is damaged or of another kind.

    Example:
        >>> prior_spec("faces-64").body
        'unet'
    """
    cards = {card["name"]: card for card in list_priors()}
    path = shipped(cards[str(prior)]) if str(prior) in cards else Path(prior)
    if not path.is_file():
        raise _unknown(str(prior))
    return read_spec(path)


def _from_network(
    prior: Network,
    prediction: str | None,
    schedule: Schedule | None,
    event_shape: tuple[int, ...] | None,
) -> Pretrained:
    if prediction is None or schedule is None or event_shape is None:
        needed = {"prediction": prediction, "schedule": schedule, "event_shape": event_shape}
        raise ConfigError(
            f"a network does not say its {', '.join(key for key, value in needed.items() if value is None)}",
            hint="for example prediction='eps', schedule='vp-linear', event_shape=(3, 64, 64)",
        )
    return Pretrained(network=prior, schedule=schedule, prediction=prediction, event_shape=tuple(event_shape))


def _from_name(name: str, asked: _Asked) -> Pretrained:
    cards = {card["name"]: card for card in list_priors()}
    path = Path(name)
    if name in cards:
        return read_prior(shipped(cards[name]), card=cards[name])
    if place := PLACE.fullmatch(name):
        return load_python(Path(place[1]), place[2])
    if path.is_dir():
        return load_diffusers(path)
    if path.is_file():
        return _from_file(path, asked)
    if name in hub.CARDS:
        return _from_card(hub.CARDS[name], asked)
    if _REPOSITORY.fullmatch(name):
        return load_diffusers(fetch_repository(name), name=name)
    raise _unknown(name)


def _from_file(path: Path, asked: _Asked) -> Pretrained:
    if path.suffix == ".safetensors":
        check_start(path)
        if "midguide" in metadata(path):
            return read_prior(path)
    if path.suffix in (".pkl", ".pickle"):
        raise CheckpointError(
            f"{path} is a pickle, which may run code when it is read: refused",
            hint="load it with the library that wrote it; " + to_load_prior("the module"),
        )
    if path.suffix not in (".safetensors", *_CHECKPOINTS):
        raise CheckpointError(
            f"{path} is no prior that can be read",
            hint=f"a folder of diffusers, .safetensors, or a checkpoint {', '.join(_CHECKPOINTS)}",
        )
    weights = read_weights(path)
    settings = {"config": asked.network, "event_shape": asked.event_shape, "class_index": asked.class_index}
    if is_compvis(weights.last):
        quantize = asked.quantize is not False
        own = {"averaged": asked.averaged, "quantize": quantize, "schedule": asked.schedule}
        return load_compvis(path, weights.last, **settings, **own)
    if asked.quantize is not None:
        raise ConfigError(f"{path} holds no autoencoder", hint="leave quantize out")
    return load_guided_diffusion(path, weights, **settings, averaged=asked.averaged)


def _unknown(name: str) -> ConfigError:
    """The error for a name that is none."""
    if path := recipe(name):
        return ConfigError(
            f"{name} is not shipped: there is only its recipe",
            hint=f"train it: midguide train {path} --data PATH; then give its .safetensors file as the prior",
        )
    names = [*(card["name"] for card in list_priors()), *hub.CARDS]
    hint = f"{suggestion(name, names)}; or give the path of a file or folder"
    return ConfigError(f"no prior and no file is called {name!r}", hint=hint)


def _from_card(card: hub.Card, asked: _Asked) -> Pretrained:
    if card.format == "diffusers":
        wanted = (card.member,) if card.member else WEIGHTS
        folder = fetch_repository(card.source, revision=card.revision, weights=wanted)
        weights = unet_weights(folder)
        if card.sha256 and (got := sha256_of(weights)) != card.sha256:
            place = weights.resolve()  # a link in the cache of the library, to the file that it would take again
            raise hub.other_sum(card.source, got, card.sha256, remove=place)
        return load_diffusers(folder, name=card.name)
    known = PUBLIC.get(card.name)
    return replace(_from_file(hub.fetch(card), replace(asked, network=asked.network or known)), name=card.name)


def _of_signals(
    found: Pretrained, value_range: tuple[float, float] | None, latent: dict[str, Any], checkpointing: bool
) -> Pretrained:
    """A prior whose signals are in another range, or whose autoencoder has these settings; None changes nothing."""
    if isinstance(found.autoencoder, NetworkAutoencoder):
        changed = found.autoencoder.changed(value_range=value_range, checkpointing=checkpointing, **latent)
        return replace(found, autoencoder=changed)
    names = {"scale": "latent_scale", "rows": "latent_chunk", "dtype": "latent_dtype"}
    for key, name in names.items():
        if latent[key] is not None:
            raise ConfigError(f"{name} belongs to a prior of latents, which this is not", hint="leave it out")
    return found if value_range is None else replace(found, value_range=value_range)
