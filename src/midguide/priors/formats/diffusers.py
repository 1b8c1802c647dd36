"""Pipelines of the diffusers library: a folder that `save_pretrained` wrote, or a repository id.

UNet2DModel with DDPM, DDIM, PNDM and other schedulers that have betas, or flow matching; over pixels, or over the
latents of a VQModel or AutoencoderKL. The library is needed for the networks; the forward process is computed here, in
float64.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from midguide.diffusion.schedules import DiscreteVP, RectifiedFlow, Schedule
from midguide.errors import CheckpointError, ConfigError, DataError, reason
from midguide.maths.autodiff import frozen
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.weights import read_weights, refuse_misfit, to_load_prior
from midguide.priors.latent import NetworkAutoencoder
from midguide.priors.settings import PriorSettings
from midguide.storage import hub
from midguide.storage.cards import Card
from midguide.storage.files import sha256_of

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
BETA_SCHEDULES = {"linear": DiscreteVP.linear, "scaled_linear": DiscreteVP.scaled_linear}
COSINE = "squaredcos_cap_v2"
STATES_BETAS = ("beta_schedule", "num_train_timesteps", "beta_start", "beta_end", "trained_betas")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
ENCODERS: dict[str, Callable[[Any], Tensor]] = {
    "VQModel": lambda out: out.latents,
    "AutoencoderKL": lambda out: out.latent_dist.mode(),
}
"""Autoencoders by class: the latent in what `encode` returns."""

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""The id of a repository, `owner/name`."""

CONNECTION_TIMEOUT = 10.0  # seconds
FLOW_TIMES = 1000.0  # flow-matching networks of diffusers are told t times this


class Images(NamedTuple):
    """What a network of images takes: channels, and of what height and width are multiples."""

    in_channels: int
    grid: tuple[int, int]


class SampleOf(nn.Module):
    """A diffusers network as a function of x and times: its output's `sample` alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t, return_dict=False)[0]


@FORMATS.register("diffusers")
class Diffusers(Format):
    """Folders and repositories of diffusers: UNet2DModel with its scheduler, and maybe an autoencoder."""

    order = 30
    home = "https://huggingface.co/docs/diffusers"

    def recognizes(self, source: Source) -> bool:
        if source.place is not None or not isinstance(source.given, str):
            return source.is_folder
        return REPOSITORY.fullmatch(source.given) is not None

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

        Raises:
            ConfigError: If diffusers is not installed, or the pipeline is of another kind.
            CheckpointError: If a file is missing, damaged, or wants to run code.
            DataError: If a repository cannot be downloaded.
        """
        folder = source.path if source.place is not None else fetch_repository(source.given)
        weights, network, config = _unet(folder)
        schedule, prediction = read_scheduler(_json(_place(folder, "scheduler") / "scheduler_config.json"))
        shape = (config.in_channels, *_size(config.sample_size, folder))
        multiple = 2 ** (len(config.block_out_channels) - 1)
        place = next((folder / part for part in ("vqvae", "vae") if (folder / part).is_dir()), None)
        stated = PriorSettings(
            name=source.name if source.place is not None else source.given,
            prediction=prediction,
            schedule=schedule,
            event_shape=shape,
            value_range=(-1.0, 1.0),
            learned_variance=config.out_channels == 2 * config.in_channels,
            label=(lambda t: FLOW_TIMES * t) if isinstance(schedule, RectifiedFlow) else None,
        )
        facts = {"format": "diffusers", "sha256": sha256_of(weights)}
        coder = None if place is None else load_autoencoder(place, shape)
        takes = Images(config.in_channels, (multiple, multiple))
        return network_prior(SampleOf(network), stated, said, provenance=facts, autoencoder=coder, takes=takes)


def _unet(folder: Path) -> tuple[Path, nn.Module, Any]:
    """The file of weights of a pipeline, its network, and the network's configuration with the defaults of its class.

    Raises:
        ConfigError: If the network is of another kind, or conditioned.
    """
    kind = _json(_place(folder, "unet") / "config.json").get("_class_name", "of no class")
    if kind != "UNet2DModel":
        raise ConfigError(
            f"{folder} holds a network {kind}, expected UNet2DModel",
            hint="load it yourself; " + to_load_prior("the module with prediction, schedule and event_shape"),
        )
    weights = unet_weights(folder)
    network = _network(weights, kind)
    if network.config.num_class_embeds is not None or network.config.class_embed_type is not None:
        raise ConfigError(
            f"the network in {folder} is conditioned on a class, which a prior of one law is not told",
            hint="fix the class: " + to_load_prior("a module that calls the network with class_labels of its own"),
        )
    return weights, network, network.config


def load_autoencoder(folder: Path, latent_shape: tuple[int, ...]) -> NetworkAutoencoder:
    """A VQModel or AutoencoderKL, with the scaling of latents that its configuration states.

    Encoding takes the mean of a KL autoencoder's posterior, and what a VQ autoencoder has before quantization; decoding
    quantizes, and lets derivatives pass the quantization unchanged.

    Args:
        folder: what `save_pretrained` wrote.
        latent_shape: shape of one latent, (C, H, W).

    Raises:
        ConfigError: If the autoencoder is of another kind.
        CheckpointError: If a file is missing, damaged, or wants to run code.
    """
    config = _json(folder / "config.json")
    kind = str(config.get("_class_name", "of no class"))
    if kind not in ENCODERS:
        raise ConfigError(f"{folder} holds a {kind}", hint=f"known autoencoders: {', '.join(ENCODERS)}")
    weights = _weights(folder)
    network = _network(weights, kind)
    frozen(network)
    factor = 2 ** (len(network.config.block_out_channels) - 1)
    coder = NetworkAutoencoder(
        lambda x: ENCODERS[kind](network.encode(x)),
        lambda z: network.decode(z).sample,
        (network.config.in_channels, *(factor * size for size in latent_shape[1:])),
        latent_shape,
        # a VQ autoencoder has no scale unless its file states one; the library's default is that of another autoencoder
        scale=config.get("scaling_factor", 1.0 if kind == "VQModel" else network.config.scaling_factor),
        shift=network.config.get("shift_factor") or 0.0,
        network=network,
        name=folder.name,
    )
    coder.provenance = {"format": "diffusers", "sha256": sha256_of(weights)}
    return coder


def read_scheduler(config: dict[str, Any]) -> tuple[Schedule, str]:
    """The forward process and the prediction that a diffusers scheduler's configuration states.

    Raises:
        ConfigError: If the process or the prediction is unknown here, or the betas are none.
    """
    kind = str(config.get("_class_name", ""))
    named = str(config.get("prediction_type", "epsilon"))  # files older than the setting predict eps
    flows = bool(config.get("use_flow_sigmas")), named == "flow_prediction"
    if "FlowMatch" in kind or all(flows):  # betas beside them mean nothing
        return RectifiedFlow(), "flow"
    if any(flows):
        raise ConfigError(
            f"the scheduler {kind} has prediction_type {named!r} and use_flow_sigmas {flows[0]}: flow or betas?",
            hint="a network trained on a flow has flow_prediction and true; correct scheduler_config.json",
        )
    other_labels = config.get("timestep_type", "discrete") != "discrete"
    if "EDM" in kind or "VeScheduler" in kind or "beta_schedule" not in config or other_labels:
        raise ConfigError(
            f"the scheduler {kind or 'of no class'} is not one whose networks are known",
            hint="load the network yourself; " + to_load_prior("it with prediction, schedule and event_shape"),
        )
    if named not in PREDICTION_TYPES:
        raise ConfigError(f"unknown prediction_type `{named}`", hint=f"known: {', '.join(PREDICTION_TYPES)}")
    return _discrete(config), PREDICTION_TYPES[named]


def fetch_repository(name: str, *, revision: str | None = None, weights: Sequence[str] = WEIGHTS) -> Path:
    """The folder of a repository of the Hugging Face hub, downloaded if it is not in the cache.

    The cache is that of the library, or `huggingface` in MIDGUIDE_CACHE where that is set.

    Args:
        name: `owner/name`.
        revision: commit, tag or branch; the newest by default.
        weights: names of the files of weights that are wanted.

    Raises:
        ConfigError: If huggingface_hub is not installed.
        DataError: If there is no such repository, or no connection.
    """
    hub = _library("huggingface_hub")
    own = os.environ.get("MIDGUIDE_CACHE")
    cache = Path(own) / "huggingface" if own else None
    patterns = ["*.json", *(f"{folder}{file}" for folder in ("", "unet/", "vqvae/", "vae/") for file in weights)]
    download = hub.snapshot_download  # brings the part of the library that sets up its logger
    settings = {"revision": revision, "cache_dir": cache, "allow_patterns": patterns}
    try:
        with _silenced("huggingface_hub"):  # which tells of every attempt
            if revision is not None and (unreachable := _unreachable(hub, name, revision)):
                return _cached(download, name, settings, unreachable)
            return Path(download(name, **settings))
    except Exception as error:  # of several libraries: connection, HTTP, cache
        other = "no prior, no file, and no repository" if revision is None else "cannot get the repository"
        raise DataError(
            f"{other} {name!r} to download: {reason(error)}",
            hint="check the name and the network; a downloaded repository is loaded by the path of its folder",
        ) from error


def _unreachable(hub: Any, name: str, revision: str) -> Exception | None:
    """Why a repository does not answer, asked once: for a commit the library asks six times over half a minute."""
    try:
        hub.HfApi().repo_info(name, revision=revision, timeout=CONNECTION_TIMEOUT)
    except Exception as error:  # of several libraries
        return error
    return None


def _cached(download: Callable[..., str], name: str, settings: Mapping[str, Any], otherwise: Exception) -> Path:
    """The folder of a repository in the cache; where it is not there, the error that kept it from being downloaded."""
    try:
        return Path(download(name, **settings, local_files_only=True))
    except Exception:  # of several libraries
        raise otherwise from None


def _discrete(config: dict[str, Any]) -> DiscreteVP:
    """The process of the betas that a configuration states, and of nothing but noise at last where it says so."""
    kinds = [*BETA_SCHEDULES, COSINE]
    if config.get("trained_betas") is None and (kind := config["beta_schedule"]) not in kinds:
        raise ConfigError(f"unknown beta_schedule `{kind}`", hint=f"known: {', '.join(kinds)}, and trained_betas")
    try:
        schedule = _of_betas(config)
        return _without_last_signal(schedule) if config.get("rescale_betas_zero_snr") else schedule
    except (TypeError, ValueError, ArithmeticError, ConfigError):
        stated = ", ".join(f"{name} {config[name]!r}" for name in STATES_BETAS if config.get(name) is not None)
        raise ConfigError(
            f"the scheduler states no betas between 0 and 1: {stated[:200]}",
            hint="correct scheduler_config.json, by default num_train_timesteps 1000, beta_start 0.0001, beta_end 0.02",
        ) from None


def _of_betas(config: dict[str, Any]) -> DiscreteVP:
    steps, kind = config.get("num_train_timesteps", 1000), config["beta_schedule"]
    if config.get("trained_betas") is not None:
        return DiscreteVP.from_betas(config["trained_betas"])
    if kind == COSINE:
        return DiscreteVP.cosine(steps)
    return BETA_SCHEDULES[kind](steps, config.get("beta_start", 1e-4), config.get("beta_end", 0.02))


def _without_last_signal(schedule: DiscreteVP) -> DiscreteVP:
    """Square roots of `alphas_cumprod` shifted and scaled so that the last is zero (Lin et al. 2024, Algorithm 1)."""
    roots = [math.sqrt(value) for value in schedule.alphas_cumprod]
    first, last = roots[0], roots[-1]
    return DiscreteVP(tuple(((root - last) * first / (first - last)) ** 2 for root in roots))


def unet_weights(folder: Path) -> Path:
    """The file of the network's weights in the folder of a pipeline.

    Raises:
        CheckpointError: If there is none.
    """
    return _weights(_place(folder, "unet"))


def _place(folder: Path, part: str) -> Path:
    """Where a part of a pipeline lies: in a folder of its own, or in that of the pipeline."""
    return folder / part if (folder / part).is_dir() else folder


def _size(stated: Any, folder: Path) -> tuple[int, int]:
    """Height and width of images, from the `sample_size` of a network: both, or one number for both."""
    sides = (stated, stated) if isinstance(stated, int) else stated
    match sides:
        case [int(height), int(width)] if min(height, width) > 0:
            return height, width
    raise ConfigError(
        f"{folder} does not say the size of its images: sample_size is {stated!r}",
        hint="set sample_size in unet/config.json",
    )


def _weights(folder: Path) -> Path:
    """The file of weights in a folder, safetensors where there is one."""
    found = next((folder / file for file in WEIGHTS if (folder / file).exists()), None)
    if found is None:
        raise CheckpointError(f"{folder} holds no weights", hint=f"expected {' or '.join(WEIGHTS)}")
    return found


def _network(weights: Path, kind: str) -> Any:
    diffusers = _library("diffusers")
    if weights.suffix != ".safetensors":
        read_weights(weights)  # which says of a file that wants to run code that it does
    try:
        with _silenced("diffusers.models.modeling_utils"):  # what it would say of weights that do not fit is said below
            network, found = getattr(diffusers, kind).from_pretrained(
                weights.parent,
                use_safetensors=weights.suffix == ".safetensors",
                local_files_only=True,
                low_cpu_mem_usage=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # of diffusers, safetensors and torch
        raise CheckpointError(
            f"{weights} cannot be read: {reason(error)}", hint="are the file and its config.json complete?"
        ) from error
    faults = {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(found["unexpected_keys"]),
        "of another shape": [
            f"{name} {tuple(has)} for {tuple(wants)}" for name, has, wants in sorted(found["mismatched_keys"])
        ],
    }
    hint = f"{weights.parent / 'config.json'} states another network: see its layers_per_block, block types and widths"
    refuse_misfit(faults, weights, hint=hint)
    return network


@contextmanager
def _silenced(logger: str) -> Iterator[None]:
    """Nothing below an error is logged by this logger."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed: {error}", hint="pip install 'midguide[hub]'") from error


def _json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds something else.
    """
    hint = "is it a folder of diffusers?"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint=hint) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {json.dumps(found)[:40]}, expected an object in braces", hint=hint)
    return found
