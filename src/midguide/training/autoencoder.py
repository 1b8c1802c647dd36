"""Training an autoencoder: the evidence bound of a Gaussian decoder (Kingma and Welling 2014, Eq. 7 and 10).

With `q(z | x)` the encoder's Gaussian and `p(x | z) = N(Dec(z), s^2 I)`, minus the bound of an image is, times `2 s^2`,

    ||x - Dec(z)||^2 + 2 s^2 KL(q(z | x) || N(0, I)),    z ~ q(z | x).

So the weight of the second term follows from the error s that a decoding is meant to have, `decoder_std`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from midguide.nn.autoencoder import AutoencoderNetwork
from midguide.nn.layout import image_layout
from midguide.priors.autoencoders import AutoencoderSpec
from midguide.training.base import Run
from midguide.training.config import AutoencoderTrainingConfig
from midguide.training.loop import fit
from midguide.training.sources import Images, Source


@dataclass(frozen=True)
class Autoencoding:
    """The task of an `AutoencoderTrainingConfig`."""

    config: AutoencoderTrainingConfig
    device: str = "cpu"

    def build(self) -> AutoencoderNetwork:
        return AutoencoderNetwork(self.config.network)

    def decays(self, name: str) -> bool:
        return True

    def loss(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        """`(||x - Dec(z)||^2 + 2 s^2 KL) / entries of x`, averaged over the batch."""
        coder = cast(AutoencoderNetwork, network)
        latent = self.config.network.latent_shape(tuple(clean.shape[1:]))
        noise = torch.randn(len(clean), *latent, generator=generator, device=generator.device).to(self.device)
        x = clean.to(self.device, memory_format=image_layout(self.device))
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bfloat16):
            mean, log_variance = coder.distribution(x)
            decoded = coder.decode(mean + (0.5 * log_variance).exp() * noise)
        squared = (decoded.float() - x).square().flatten(1).sum(1)
        divergence = kl_to_standard_normal(mean.float(), log_variance.float())
        return (squared + 2 * self.config.decoder_std**2 * divergence).mean() / clean[0].numel()


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """`KL(N(mean, diag(exp(log_variance))) || N(0, I))` of each row in nats, shape (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


def train_autoencoder(config: AutoencoderTrainingConfig, source: Source, run: Run) -> AutoencoderNetwork:
    """Train an autoencoder; see `training.loop.fit`."""
    return cast(AutoencoderNetwork, fit(Autoencoding(config, run.device), source, run))


def describe_autoencoder(
    config: AutoencoderTrainingConfig, network: AutoencoderNetwork, images: Images, *, most: int = 4096
) -> AutoencoderSpec:
    """How to use a trained network: shapes, and the scaling that gives each channel of its latents unit variance.

    Args:
        config: the recipe.
        network: averaged weights, on the CPU.
        images: what it was trained on.
        most: how many images to measure the latents on, evenly spaced.
    """
    some = Images(images.pixels[:: -(-len(images.pixels) // most)]).events()
    with torch.no_grad():
        latents = torch.cat([network.encode(part) for part in some.split(64)])
    return AutoencoderSpec(
        network=config.network,
        event_shape=tuple(some.shape[1:]),
        scale=tuple((1 / latents.std(dim=(0, 2, 3))).tolist()),
        shift=tuple(latents.mean(dim=(0, 2, 3)).tolist()),
        name=config.name,
    )
