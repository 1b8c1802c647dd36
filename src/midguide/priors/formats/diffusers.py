"""Pipelines of the diffusers library: a folder that `save_pretrained` wrote, or a repository id.

UNet2DModel with DDPM, DDIM, PNDM and other schedulers that have betas, or flow matching; over pixels, or over the
latents of a VQModel or AutoencoderKL. The library is needed for the networks; the forward process is computed here, in
float64.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, ConfigError
from midguide.maths.autodiff import frozen
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.repositories import (
    REPOSITORY,
    STEM,
    WEIGHTS,
    Files,
    fetch_repository,
    files_in,
    network_in,
    read_json,
)
from midguide.priors.formats.schedulers import SCHEDULER_KEYS, stated_by
from midguide.priors.formats.schedulers import read_scheduler as read_scheduler
from midguide.priors.formats.weights import CHECKPOINTS, to_load_prior
from midguide.priors.latent import NetworkAutoencoder
from midguide.priors.settings import PriorSettings
from midguide.storage import hub
from midguide.storage.cards import Card
from midguide.storage.files import sha256_of

CLASSES, PIPELINE = ("UNet2DModel", "UNet2DConditionModel", "UNet1DModel"), "pipeline"
MARKER = "down_blocks.0.resnets.0.norm1.weight"
AVERAGE = "unet_ema"
CODERS = ("vqvae", "vae")
EMA_KEYS = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
"""What the averaging of the library adds to a configuration; it matters to a training only."""
ENCODERS: dict[str, Callable[[Any], Tensor]] = {
    "VQModel": lambda out: out.latents,
    "AutoencoderKL": lambda out: out.latent_dist.mode(),
}
"""Autoencoders by class: the latent in what `encode` returns."""


class Images(NamedTuple):
    """What a network of images takes: channels, and of what height and width are multiples."""

    in_channels: int
    grid: tuple[int, int]


class SampleOf(nn.Module):
    """A diffusers network as a function of x and times: its output's `sample` alone, at one class if it has classes."""

    def __init__(self, unet: nn.Module, index: int | None = None) -> None:
        super().__init__()
        self.unet = unet
        if index is not None:
            self.index = index

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if (index := getattr(self, "index", None)) is None:
            return self.unet(x, t, return_dict=False)[0]
        return self.unet(x, t, class_labels=torch.full((len(x),), index, device=x.device), return_dict=False)[0]


@FORMATS.register("diffusers")
class Diffusers(Format):
    """Folders and repositories of diffusers: UNet2DModel with its scheduler, and maybe an autoencoder."""

    extensions = CHECKPOINTS
    uses = frozenset({"averaged", "class_index"})
    order = 30
    home = "https://huggingface.co/docs/diffusers"

    def recognizes(self, source: Source) -> bool:
        if not isinstance(source.given, str | Path):
            return False
        if source.place is not None:
            ours = source.suffix in CHECKPOINTS and (_beside(source.path) or source.contents.holds(MARKER))
            return source.is_folder or bool(ours)
        return REPOSITORY.fullmatch(str(source.given)) is not None

    def fetch(self, card: Card) -> Path:
        """The folder of a public repository, whose weights have the sum of the card."""
        wanted = (card.member,) if card.member else WEIGHTS
        folder = fetch_repository(card.source, revision=card.revision, weights=wanted)
        weights = unet_weights(folder)
        if card.sha256 and (got := sha256_of(weights)) != card.sha256:
            place = weights.resolve()  # a link in the cache of the library, to the file that it would take again
            raise hub.other_sum(card.source, got, card.sha256, remove=place)
        return folder

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """A pipeline: `unet` and `scheduler` in folders of their own, or both in one, and `vqvae` or `vae`.

        One of its parts, `PIPELINE/unet` or `PIPELINE/unet_ema`, is read with the scheduler beside it; a network
        without one needs `prediction` and `schedule`.

        Raises:
            ConfigError: If diffusers is not installed, or the pipeline is of another kind.
            CheckpointError: If a file is missing, damaged, or wants to run code.
            DataError: If a repository cannot be downloaded.
        """
        place = source.path if source.place is not None else fetch_repository(str(source.given))
        folder, part, files = _parts(place, said.averaged)
        network = _unet(part, files)
        config = network.config
        remarks = [*_remarks(folder, part, files, said.averaged), *unread(part / "config.json", network)]
        process, told = _process(folder, part)
        coder_place = next((folder / name for name in CODERS if (folder / name).is_dir()), None)
        shape = (config.in_channels, *_size(config.sample_size, folder))
        coder = None if coder_place is None else load_autoencoder(coder_place, shape)
        remarks += [*told, *(coder.provenance.get("remarks", ()) if coder else ())]
        facts: dict[str, Any] = {"format": "diffusers", "sha256": files.sha256, "class": said.class_index}
        if (folder / AVERAGE).is_dir():
            facts["weights"] = "averaged" if part.name == AVERAGE else "last"
        facts = {key: value for key, value in facts.items() if value is not None}
        facts |= {"remarks": remarks} if remarks else {}
        stated = replace(
            process, name=source.name if source.place is not None else str(source.given), event_shape=shape
        )
        return _prior(network, stated, said, facts, coder)


@FORMATS.register("diffusers-object")
class InMemory(Format):
    """Networks and pipelines that diffusers holds in memory: `load_prior(pipeline)`, `load_prior(UNet2DModel(...))`."""

    uses = frozenset({"class_index"})
    order = 0
    home = Diffusers.home

    def recognizes(self, source: Source) -> bool:
        return not isinstance(source.given, str | Path) and _kind(source.given) in (*CLASSES, PIPELINE)

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior; of a network alone `prediction` and `schedule` must be said.

        Raises:
            ConfigError: If a setting is missing, the pipeline is conditioned, or its network is of an unknown class.
        """
        given = source.given
        pipeline = _kind(given) == PIPELINE
        network, scheduler = (given.unet, given.scheduler) if pipeline else (given, None)
        if _kind(network) != CLASSES[0]:
            raise _other_network(type(given).__name__, type(network).__name__)
        process = PriorSettings() if scheduler is None else stated_by(dict(scheduler.config))
        shape = (network.config.in_channels, *_size(network.config.sample_size, type(network).__name__))
        part = next((m for name in CODERS if (m := getattr(given, name, None)) is not None), None) if pipeline else None
        coder = None if part is None else autoencoder_of(part, dict(part.config), shape, type(part).__name__)
        facts = {"format": "diffusers", **source.provenance}
        return _prior(network, replace(process, name=source.label or "custom", event_shape=shape), said, facts, coder)


def _prior(
    network: Any, stated: PriorSettings, said: PriorSettings, facts: dict[str, Any], coder: NetworkAutoencoder | None
) -> Denoiser:
    """A network of the library as a prior."""
    config = network.config
    classes = config.num_class_embeds
    if (classes is not None or config.class_embed_type is not None) and said.class_index is None:
        raise ConfigError(
            f"the network {stated.name} is conditioned on a class{f' of {classes}' if classes else ''}, which a prior "
            "of one law is not told",
            hint="fix the class: class_index=..., or "
            + to_load_prior("a module that calls the network with class_labels of its own"),
        )
    if said.class_index is not None and not 0 <= said.class_index < (classes or 0):
        known = f"classes 0..{classes - 1}" if classes else "no numbered classes"
        raise ConfigError(f"class_index={said.class_index}, but the network has {known}", hint="change class_index")
    multiple = 2 ** (len(config.block_out_channels) - 1)
    takes = Images(config.in_channels, (multiple, multiple))
    own = replace(stated, value_range=(-1.0, 1.0), learned_variance=config.out_channels == 2 * config.in_channels)
    run = SampleOf(network, said.class_index)
    return network_prior(run, own, said, provenance=facts, autoencoder=coder, takes=takes)


def _kind(thing: object) -> str:
    """The class of an object of the library; of pipelines with a U-Net `pipeline`; empty for others."""
    for kind in type(thing).__mro__:
        if kind.__module__.startswith("diffusers.") and kind.__name__ in CLASSES:
            return kind.__name__
    library = type(thing).__module__.startswith("diffusers.") or any(
        kind.__name__ == "DiffusionPipeline" for kind in type(thing).__mro__
    )
    return PIPELINE if library and getattr(thing, "unet", None) is not None else ""


def _beside(path: Path) -> bool:
    """Whether a file of weights lies in a folder of the library."""
    config = path.parent / "config.json"
    return path.name.startswith(STEM) and config.is_file() and "_class_name" in read_json(config)


def _parts(place: Path, averaged: bool | None) -> tuple[Path, Path, Files]:
    """The folder of the pipeline, that of the network, and the files of its weights.

    Raises:
        CheckpointError: If a file of weights lies alone, or there are none.
    """
    if place.is_file():
        if not _beside(place):
            raise CheckpointError(
                f"{place} holds a network of diffusers without its config.json",
                hint="put that beside it, or build the network: "
                + to_load_prior("UNet2DModel(...) with these weights, prediction and schedule"),
            )
        part = place.parent
        return _pipeline_of(part), part, files_in(part, place.name)
    if (place / AVERAGE).is_dir() and averaged is not False:
        part = place / AVERAGE
    else:
        part = _place(place, "unet")
    folder = _pipeline_of(place) if part == place else place
    read_json(part / "config.json")
    if averaged and part.name != AVERAGE:
        raise ConfigError(f"{place} holds no averaged weights beside the others", hint="leave averaged out")
    return folder, part, files_in(part)


def _pipeline_of(part: Path) -> Path:
    """The pipeline that a part of it belongs to; the folder itself where it is not part of one."""
    above = part.resolve().parent
    is_part = part.resolve().name in ("unet", AVERAGE) and (above / "scheduler").is_dir()
    return above if is_part and not (part / "scheduler_config.json").is_file() else part


def _remarks(folder: Path, part: Path, files: Files, averaged: bool | None) -> list[str]:
    """What is said of the weights that were chosen, and of parts of a pipeline that are not used."""
    told = []
    if part.name == AVERAGE:
        told.append(f"the averaged weights (EMA) of `{AVERAGE}` are used; averaged=False takes the last ones")
    elif (part.resolve().parent / AVERAGE).is_dir() and averaged is None:
        told.append(f"these are the last weights; their average (EMA) lies beside them, in `{AVERAGE}`")
    if files.variant:
        told.append(f"the variant {files.variant} of the weights is used, and float32 here")
    known = {"unet", AVERAGE, "scheduler", *CODERS}
    index = folder / "model_index.json"
    parts = [name for name, value in (read_json(index) if index.is_file() else {}).items() if isinstance(value, list)]
    if others := [name for name in parts if name not in known]:
        told.append(f"not used: the parts {', '.join(f'`{name}`' for name in others)} of the pipeline")
    return told


def _process(folder: Path, part: Path) -> tuple[PriorSettings, list[str]]:
    """What the scheduler beside a network states, with remarks; nothing where there is none."""
    places = (folder / "scheduler", folder, part)
    found = next((p for p in (place / "scheduler_config.json" for place in places) if p.is_file()), None)
    if found is None:
        if (folder / "scheduler").is_dir():
            read_json(folder / "scheduler" / "scheduler_config.json")  # which says that it is missing
        return PriorSettings(), []
    config = read_json(found)
    others = [key for key in config if key not in SCHEDULER_KEYS and not key.startswith("_")]
    told = [f"not used: {', '.join(f'`{key}`' for key in others)} of the scheduler"] if others else []
    return stated_by(config), told


def unread(place: Path, network: Any) -> list[str]:
    """What a configuration states and its class does not know."""
    known = {*inspect.signature(type(network).__init__).parameters, *EMA_KEYS}
    others = [key for key in read_json(place) if key not in known and not key.startswith("_")]
    return [f"not used: {', '.join(f'`{key}`' for key in others)} of {place.parent.name}"] if others else []


def _unet(folder: Path, files: Files) -> Any:
    """The network in a folder.

    Raises:
        ConfigError: If the network is of another kind.
    """
    kind = str(read_json(folder / "config.json").get("_class_name", "of no class"))
    if kind != CLASSES[0]:
        raise _other_network(folder, kind)
    return network_in(files, kind)


def _other_network(where: object, kind: str) -> ConfigError:
    told = ", which is conditioned on text or the like" if "Condition" in kind else ""
    return ConfigError(
        f"{where} holds a network {kind}{told}, expected {CLASSES[0]}",
        hint="load it yourself; " + to_load_prior("the module with prediction, schedule and event_shape"),
    )


def load_autoencoder(folder: Path, latent_shape: tuple[int, ...]) -> NetworkAutoencoder:
    """A VQModel or AutoencoderKL, with the scaling of latents that its configuration states.

    Encoding takes the mean of a KL autoencoder's posterior, or the value of a VQ autoencoder before quantization.
    Decoding quantizes, and lets derivatives pass the quantization unchanged.

    Args:
        folder: what `save_pretrained` wrote.
        latent_shape: shape of one latent, (C, H, W).

    Raises:
        ConfigError: If the autoencoder is of another kind.
        CheckpointError: If a file is missing, damaged, or wants to run code.
    """
    config = read_json(folder / "config.json")
    kind = str(config.get("_class_name", "of no class"))
    if kind not in ENCODERS:
        raise ConfigError(f"{folder} holds a {kind}", hint=f"known autoencoders: {', '.join(ENCODERS)}")
    files = files_in(folder)
    network = network_in(files, kind)
    coder = autoencoder_of(network, config, latent_shape, kind, folder.name)
    remarks = [*coder.provenance.get("remarks", ()), *unread(folder / "config.json", network)]
    remarks += [f"the variant {files.variant} of the autoencoder is used, and float32 here"] if files.variant else []
    coder.provenance = {"format": "diffusers", "sha256": files.sha256, **({"remarks": remarks} if remarks else {})}
    return coder


def autoencoder_of(
    network: Any, config: Mapping[str, Any], latent_shape: tuple[int, ...], kind: str, name: str = "autoencoder"
) -> NetworkAutoencoder:
    """An autoencoder of the library with the scaling that its configuration states.

    With `latents_mean` m and `latents_std` s of each channel a latent is `(e(x) - m) scaling_factor / s`; else it is
    `(e(x) - shift_factor) scaling_factor`, as in the pipelines of the library.

    Raises:
        ConfigError: If the autoencoder is of another kind, or only one of mean and deviation is stated.
    """
    if kind not in ENCODERS:
        raise ConfigError(f"{name} holds a {kind}", hint=f"known autoencoders: {', '.join(ENCODERS)}")
    frozen(network)
    factor = 2 ** (len(network.config.block_out_channels) - 1)
    # a VQ autoencoder has no scale unless its file states one; the library's default is that of another autoencoder
    scale = config.get("scaling_factor", 1.0 if kind == "VQModel" else network.config.scaling_factor)
    shift, remarks = config.get("shift_factor") or 0.0, []
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (deviation is None):
        stated = "latents_mean" if deviation is None else "latents_std"
        raise ConfigError(f"the autoencoder {name} states {stated} alone", hint="its config.json needs both or none")
    if mean is not None and deviation is not None:
        remarks = ["not used: `shift_factor` of the autoencoder, which has latents_mean"] if shift else []
        spread = _numbers("latents_std", deviation, latent_shape[0])
        scale, shift = tuple(scale / value for value in spread), _numbers("latents_mean", mean, latent_shape[0])
    coder = NetworkAutoencoder(
        lambda x: ENCODERS[kind](network.encode(x)),
        lambda z: network.decode(z).sample,
        (network.config.in_channels, *(factor * size for size in latent_shape[1:])),
        latent_shape,
        scale=scale,
        shift=shift,
        network=network,
        name=name,
    )
    coder.provenance = {"remarks": remarks} if remarks else {}
    return coder


def _numbers(what: str, stated: Any, channels: int) -> tuple[float, ...]:
    """One finite number for each channel, positive for deviations."""
    values = tuple(stated) if isinstance(stated, list | tuple) else ()
    plain = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    if len(values) != channels or not plain or (what == "latents_std" and min(values) <= 0):
        raise ConfigError(
            f"{what} is {str(stated)[:60]}, expected {channels} finite numbers", hint="correct config.json of the vae"
        )
    return tuple(map(float, values))


def unet_weights(folder: Path) -> Path:
    """The file of the network's weights in the folder of a pipeline.

    Raises:
        CheckpointError: If there is none.
    """
    return files_in(_place(folder, "unet")).main


def _place(folder: Path, part: str) -> Path:
    """Where a part of a pipeline lies: in a folder of its own, or in that of the pipeline."""
    return folder / part if (folder / part).is_dir() else folder


def _size(stated: Any, folder: object) -> tuple[int, int]:
    """Height and width of images, from the `sample_size` of a network: both, or one number for both."""
    sides = (stated, stated) if isinstance(stated, int) else stated
    match sides:
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
    raise ConfigError(
        f"{folder} does not say the size of its images: sample_size is {stated!r}",
        hint="set sample_size in unet/config.json",
    )
