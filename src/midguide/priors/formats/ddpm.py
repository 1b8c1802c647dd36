"""Checkpoints of DDPM's ports to torch: the public CelebA-HQ, bedroom, church and CIFAR-10 models, and their family.

Ho et al. 2020, https://arxiv.org/abs/2006.11239. Files of the DDIM port (Song, Meng, Ermon 2021,
https://arxiv.org/abs/2010.02502) are lists of network, optimizer, epoch, step and, in some files, the average.
"""

from __future__ import annotations

import torch

from midguide.errors import CheckpointError, ConfigError
from midguide.nn.ddpm_unet import DDPMUNet, visible_ddpm
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.formats.weights import CHECKPOINTS, betas_schedule, fit, to_load_prior, to_say
from midguide.priors.settings import PriorSettings
from midguide.storage.files import sha256_of

FORMAT, MARKER = "ddpm", "temb.dense.0.weight"
SIZES = {
    ((1, 2, 2, 2), (1,)): 32,
    ((1, 2, 2, 2, 4), (2,)): 64,
    ((1, 1, 2, 2, 4, 4), (4,)): 256,
}
"""Side of the images by multipliers and levels of attention, of the public models of 128 channels and two blocks."""


@FORMATS.register(FORMAT)
class DDPM(Format):
    """State dicts and lists of the DDIM port: eps, linear betas over 1,000 steps, values in [-1, 1]."""

    extensions = CHECKPOINTS
    uses = frozenset({"averaged"})
    order = 70
    home = "https://github.com/ermongroup/ddim"

    def recognizes(self, source: Source) -> bool:
        return source.suffix in self.extensions and source.contents.holds(MARKER)

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior; `event_shape` may be left out for the shapes of the public models.

        Raises:
            CheckpointError: If the file is not complete.
            ConfigError: If `event_shape` is needed and missing.
        """
        path, held = source.path, source.contents.weights(MARKER)
        if held is None:
            raise CheckpointError(f"{path} holds no network of this format", hint="leave format out")
        chosen, which = held.choose(said.averaged, path)
        try:
            config = visible_ddpm(chosen)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None
        size = (
            SIZES.get((config.multipliers, config.attention)) if (config.channels, config.blocks) == (128, 2) else None
        )
        if said.event_shape is None and size is None:
            raise ConfigError(
                f"{path} does not say the size of its images",
                hint=to_say("event_shape=(3, H, W)", "event_shape=[3, H, W]"),
            )
        with torch.device("meta"):  # draws no initial weights
            network = DDPMUNet(config)
        fit(network, chosen, path, hint=f"the file shows {config}; is it complete?")
        stated = PriorSettings(
            name=source.name,
            prediction="eps",
            schedule="vp-linear" if held.betas is None else betas_schedule(held.betas, path),
            event_shape=(config.in_channels, size, size) if size else None,
            value_range=(-1.0, 1.0),
            learned_variance=config.out_channels == 2 * config.in_channels,
        )
        facts = {"format": FORMAT, "sha256": sha256_of(path), **which}
        return network_prior(network, stated, said, provenance=facts, takes=config)


@FORMATS.register("small-trainer")
class SmallTrainer(Format):
    """`model-10.pt` of denoising-diffusion-pytorch: refused, since its U-Net differs from release to release."""

    extensions = (".pt",)
    order = 71
    home = "https://github.com/lucidrains/denoising-diffusion-pytorch"

    def recognizes(self, source: Source) -> bool:
        return source.suffix in CHECKPOINTS and source.contents.holds("init_conv.weight")

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """Nothing.

        Raises:
            ConfigError: Always, with the way around.
        """
        average = ", under `ema` with the prefix `ema_model.model.`" if source.contents.holds("ema_model.betas") else ""
        raise ConfigError(
            f"{source.path} is of denoising-diffusion-pytorch, whose U-Net differs from release to release{average}",
            hint="load it with the release that wrote it; "
            + to_load_prior("its U-Net with prediction, schedule (vp-betas:... of its betas) and event_shape"),
        )
