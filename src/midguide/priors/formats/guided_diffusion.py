"""Checkpoints of guided diffusion (ADM): the public FFHQ and ImageNet models, and others of the family.

Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233; Choi et al. 2021 for FFHQ. Files are state dicts. They name
no configuration: what the shapes show is read off them, the rest (heads, order of attention, size of the images) must
be known. For the two public models it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, ConfigError
from midguide.nn.adm_unet import FFHQ_256, IMAGENET_256, ADMConfig, ADMUNet, visible_config
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.weights import CHECKPOINTS, Weights, betas_schedule, fit, to_load_prior, to_say
from midguide.priors.settings import PriorSettings
from midguide.storage.files import sha256_of

FORMAT = "guided-diffusion"
MARKER = "input_blocks.0.0.weight"
PUBLIC = {"ffhq-256": FFHQ_256, "imagenet-256": IMAGENET_256}
_INVISIBLE = {"heads", "head_channels", "legacy_attention", "dropout"}


class OfClass(nn.Module):
    """A class-conditional network at one class.

    Args:
        network: called as `network(x, t, classes)`, classes of shape (B,).
        index: the class.
    """

    def __init__(self, network: nn.Module, index: int) -> None:
        super().__init__()
        self.network, self.index = network, index

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t, torch.full((len(x),), self.index, device=x.device))


@FORMATS.register(FORMAT)
class GuidedDiffusion(Format):
    """State dicts of ADM U-Nets: eps, linear betas over 1,000 steps, values in [-1, 1]."""

    extensions = CHECKPOINTS
    uses = frozenset({"network", "class_index", "averaged"})
    order = 90
    home = "https://github.com/openai/guided-diffusion"

    def recognizes(self, source: Source) -> bool:
        return source.suffix in self.extensions

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior; `network` and `event_shape` may be left out for the public models.

        Raises:
            CheckpointError: If the file does not fit `network`; the message says which setting would explain it.
            ConfigError: If `network`, `event_shape` or `class_index` is needed and missing, or does not apply.
        """
        path = source.path
        held = source.contents.weights(MARKER) or _none(source)
        chosen, which = held.choose(said.averaged, path)
        refuse_text(path, chosen)
        config = said.network or PUBLIC.get(source.name)
        network, taken, public = adm_network(path, chosen, config, PUBLIC.values(), said.class_index)
        if said.event_shape is None and not public:
            raise ConfigError(
                f"{path} does not say the size of its images",
                hint=to_say("event_shape=(3, H, W)", "event_shape=[3, H, W]"),
            )
        stated = PriorSettings(
            name=source.name,
            prediction="eps",
            schedule="vp-linear" if held.betas is None else betas_schedule(held.betas, path),
            event_shape=(3, 256, 256),
            value_range=(-1.0, 1.0),
            learned_variance=learned_variance(chosen),
        )
        facts = {"format": FORMAT, "sha256": sha256_of(path), "class": said.class_index, **which}
        return network_prior(network, stated, said, provenance=facts, takes=taken)


def refuse_text(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse a network that is told a text.

    Raises:
        ConfigError: If the names of its weights show that.
    """
    if any(word in name for name in weights for word in (".transformer_blocks.", ".attn2.", "encoder_kv.")):
        raise ConfigError(
            f"{path} holds a network with cross-attention, which is conditioned on text or the like",
            hint="load it yourself; "
            + to_load_prior("a function of x and the index with prediction, schedule and event_shape"),
        )


def _none(source: Source) -> Weights:
    """What a file without such a network holds, to be refused with what it lacks.

    Raises:
        CheckpointError: If it holds no weights.
    """
    if source.contents.is_optimizer:
        raise CheckpointError(
            f"{source.path} holds the state of an optimizer, and no weights",
            hint="look for another file of the training",
        )
    return source.weights


def adm_network(
    path: Path,
    weights: Mapping[str, Tensor],
    config: object,
    known: Iterable[ADMConfig],
    class_index: int | None,
) -> tuple[nn.Module, ADMConfig, bool]:
    """The ADM U-Net with these weights, at one class if it is conditioned on them.

    Args:
        path: where the weights come from, for messages.
        weights: its parameters by name.
        config: its shape; may be left out where it is one of those known.
        known: shapes that are recognized.
        class_index: the class.

    Returns:
        network: called as `network(x, t)`.
        config: its shape.
        recognized: whether its shape is one of those known.

    Raises:
        CheckpointError, ConfigError: As `GuidedDiffusion.read`.
    """
    if not isinstance(config, ADMConfig | None):
        raise ConfigError(f"`network` of this format is an ADM U-Net, got {config}", hint='a table with body = "adm"')
    try:
        visible = visible_config(weights)
    except ConfigError as error:
        card = "it has no midguide card, and " if path.suffix == ".safetensors" else ""
        raise CheckpointError(f"{path} is not a prior: {card}{error.message}", hint=error.hint) from None
    public = next((shape for shape in known if _differences(visible, shape) == []), None)
    if config is None and public is None:
        raise ConfigError(
            f"{path} is not a public checkpoint, and does not say how many heads it has",
            hint=to_load_prior(f"network=ADMConfig(...), with what the file shows: {_settings(visible)},"),
        )
    config = config or public or visible
    _check_class(config, class_index)
    with torch.device("meta"):  # draws no initial weights
        network = ADMUNet(config)
    differences = _differences(visible, config)
    explained = f"the file shows {'; '.join(differences)}" if differences else "was it written by another code?"
    fit(network, weights, path, hint=explained)
    return network if class_index is None else OfClass(network, class_index), config, public is not None


def learned_variance(weights: Mapping[str, Tensor]) -> bool:
    """Whether a network has twice as many channels out as in."""
    return len(weights["out.2.weight"]) == 2 * weights["input_blocks.0.0.weight"].shape[1]


def _differences(visible: ADMConfig, config: ADMConfig) -> list[str]:
    """What a checkpoint shows otherwise than a configuration says, as `blocks=2 where the configuration has 1`."""
    config = replace(config, learned_resampling=config.learned_resampling or config.residual_resampling)
    pairs = {f.name: (getattr(visible, f.name), getattr(config, f.name)) for f in fields(config)}
    return [
        f"{name}={seen} where the configuration has {said}"
        for name, (seen, said) in pairs.items()
        if name not in _INVISIBLE and seen != said
    ]


def _settings(config: ADMConfig) -> str:
    return ", ".join(f"{f.name}={getattr(config, f.name)}" for f in fields(config) if f.name not in _INVISIBLE)


def _check_class(config: ADMConfig, index: int | None) -> None:
    if config.classes and index is None:
        raise ConfigError(
            f"the network is conditioned on one of {config.classes} classes",
            hint=to_say("class_index=...", "class_index=..."),
        )
    if index is not None and not 0 <= index < config.classes:
        known = f"classes 0..{config.classes - 1}" if config.classes else "no classes"
        raise ConfigError(f"class_index={index}, but the network has {known}", hint="change class_index")
