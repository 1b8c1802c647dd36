"""Checkpoints of latent diffusion as its authors publish them: U-Net, its average, and the autoencoder in one file.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752. The U-Net is that of guided diffusion, under
`model.diffusion_model.`. Its average over training (EMA) is under `model_ema.`, with names without dots. The
autoencoder, with a codebook (VQ) or a Gaussian latent (KL), is under `first_stage_model.`. The forward process is
`betas`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import CheckpointError, ConfigError
from midguide.maths.autodiff import frozen
from midguide.nn.adm_unet import LDM_VQ4
from midguide.nn.ldm_autoencoder import LDMAutoencoder, visible_autoencoder
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.guided_diffusion import adm_network, learned_variance, refuse_text
from midguide.priors.formats.weights import CHECKPOINTS, Weights, betas_schedule, fit, to_say
from midguide.priors.latent import NetworkAutoencoder
from midguide.priors.settings import PriorSettings
from midguide.storage.files import sha256_of

FORMAT = "compvis"
UNET, AVERAGE, CODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
LATENT_SHAPE = (3, 64, 64)  # of the public models of faces


@FORMATS.register(FORMAT)
class CompVis(Format):
    """Latent diffusion: U-Net, its average, autoencoder and betas in one file; eps, images in [-1, 1].

    Encoding takes the mean of a KL autoencoder's posterior, or the value of a VQ autoencoder before quantization.
    Decoding quantizes, and lets derivatives pass the quantization unchanged. The file's `scale_factor` multiplies
    latents, 1 where it has none.
    """

    extensions = CHECKPOINTS
    uses = frozenset({"network", "class_index", "averaged", "quantize"})
    order = 80
    home = "https://github.com/CompVis/latent-diffusion"

    def recognizes(self, source: Source) -> bool:
        held = source.contents.containers if source.suffix in self.extensions else ()
        return any(name.removeprefix("module.").startswith(UNET) for c in held for name in c.tensors)

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior; `network` and `event_shape`, of one latent, may be left out for the public models of faces.

        Raises:
            CheckpointError: If the file does not fit its networks; the message says which setting would explain it.
            ConfigError: If `network`, `event_shape` or `class_index` is needed and missing, or does not apply.
        """
        path, weights = source.path, source.weights.last
        refuse_text(path, weights)
        chosen, which = _unets(path, weights, said.averaged).choose(said.averaged, path)
        network, taken, public = adm_network(path, chosen, said.network, [LDM_VQ4], said.class_index)
        if said.event_shape is None and not public:
            raise ConfigError(
                f"{path} does not say the size of its latents",
                hint=to_say("event_shape=(C, h, w), the shape of one latent,", "event_shape=[C, h, w]"),
            )
        latent_shape, sha256 = said.event_shape or LATENT_SHAPE, sha256_of(path)
        quantize = said.quantize is not False
        coder = _autoencoder(path, weights, latent_shape, quantize=quantize)
        coder.provenance = {"format": FORMAT, "sha256": sha256, "quantize": quantize}
        stated = PriorSettings(
            name=source.name,
            prediction="eps",
            schedule=said.schedule or _schedule(path, weights),
            event_shape=latent_shape,
            learned_variance=learned_variance(chosen),
        )
        facts = {"format": FORMAT, "sha256": sha256, "class": said.class_index, **which}
        if told := [*which.get("remarks", ()), *source.contents.remarks(_is_used)]:
            facts["remarks"] = told
        return network_prior(network, stated, said, provenance=facts, autoencoder=coder, takes=taken)


def _is_used(name: str) -> bool:
    return name.removeprefix("module.").startswith((UNET, AVERAGE, CODER))


def _unets(path: Path, weights: Mapping[str, Tensor], averaged: bool | None) -> Weights:
    """The U-Net's weights and, where the file has it, their average, which is named without dots."""
    last = {name.removeprefix(UNET): value for name, value in weights.items() if name.startswith(UNET)}
    if not any(name.startswith(AVERAGE) for name in weights):
        return Weights(last)
    names = {name: AVERAGE + (UNET.removeprefix("model.") + name).replace(".", "") for name in last}
    missing = [name for name in names.values() if name not in weights]
    if missing and averaged is not False:
        raise CheckpointError(
            f"the average in {path} is not complete: missing: {missing[0]}",
            hint="for the last weights " + to_say("averaged=False", "averaged=false"),
        )
    return Weights(last, {name: weights[other] for name, other in names.items() if other in weights})


def _autoencoder(
    path: Path, weights: Mapping[str, Tensor], latent_shape: tuple[int, ...], *, quantize: bool
) -> NetworkAutoencoder:
    own = {name.removeprefix(CODER): value for name, value in weights.items() if name.startswith(CODER)}
    own = {name: value for name, value in own.items() if not name.startswith("loss.")}  # of its training
    if not own:
        raise CheckpointError(f"{path} holds no autoencoder", hint=f"expected names that start with {CODER}")
    try:
        config = visible_autoencoder(own)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None
    if not quantize and not config.codes:
        raise ConfigError(f"the autoencoder in {path} has no codebook", hint="leave quantize out")
    with torch.device("meta"):  # draws no initial weights
        network = LDMAutoencoder(config)
    fit(network, own, path, hint=f"the file shows {config}")
    frozen(network)
    return NetworkAutoencoder(
        network.encode,
        lambda z: network.decode(z, quantize=quantize),
        config.event_shape(latent_shape),
        latent_shape,
        scale=_scale(path, weights),
        network=network,
        name="vq" if config.codes else "kl",
    )


def _scale(path: Path, weights: Mapping[str, Tensor]) -> float:
    """What latents are multiplied by: one number for all channels."""
    factor = weights.get("scale_factor", torch.ones(()))
    if factor.numel() != 1 or not 0.0 < float(factor) < math.inf:
        raise CheckpointError(
            f"the scale_factor in {path} is {str(factor.tolist())[:60]}, expected one positive number",
            hint="is the file complete? Correct or remove it there; latent_scale is for a file that has none",
        )
    return float(factor)


def _schedule(path: Path, weights: Mapping[str, Tensor]) -> DiscreteVP:
    """That of the betas in the file, in float64; the scaled-linear one where they are its, rounded to float32."""
    if "betas" not in weights:
        raise ConfigError(
            f"{path} holds no betas", hint="state the schedule that it was trained on, for example vp-scaled-linear"
        )
    return betas_schedule(weights["betas"], path)
