"""A small convolutional autoencoder for images, with a Gaussian over each latent (Kingma and Welling 2014).

The latents are continuous and not quantized: samplers differentiate through the decoder, and a quantizer has no
derivative. Stem and head fold `patch x patch` pixels into channels, so that no layer works at the full size of the
image. A decoding then costs about as much as a call of the network of a small pixel prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.base import AUTOENCODERS

GROUPS = 16
LOG_VARIANCE = (-20.0, 4.0)
"""Bounds of the predicted log-variances, so that a wild start of a training stays finite."""


@AUTOENCODERS.register("folding", summary="small autoencoder for images that folds pixels into channels")
@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of an `AutoencoderNetwork`, which makes each side of an image `patch * 2**(levels - 1)` times smaller.

    Args:
        channels: channels of the image.
        latent_channels: channels of the latent.
        widths: width of each level, the finest first; each further level halves the grid.
        blocks: residual blocks at each level, in encoder and decoder each.
        patch: side of the pixel block folded into channels by stem and head; 1 for none.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    channels: int = 3
    latent_channels: int = 8
    widths: tuple[int, ...] = (96, 160)
    blocks: int = 2
    patch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or any(width < 1 or width % GROUPS for width in self.widths):
            raise ConfigError(f"widths={self.widths} must be multiples of {GROUPS}")
        if min(self.channels, self.latent_channels, self.blocks, self.patch) < 1:
            raise ConfigError("channels, latent_channels, blocks and patch must be at least 1")

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.channels

    @property
    def grid(self) -> tuple[int, int]:
        """Of what height and width of an image are multiples."""
        return self.factor, self.factor

    @property
    def factor(self) -> int:
        """How many times smaller each side of a latent is."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def latent_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the latent of an image (C, H, W)."""
        return self.latent_channels, event_shape[1] // self.factor, event_shape[2] // self.factor

    def build(self) -> AutoencoderNetwork:
        """A new network of this shape."""
        return AutoencoderNetwork(self)


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection; the last starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        return x + self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderNetwork(nn.Module):
    """Encoder and decoder of an `AutoencoderConfig`; height and width of an image are multiples of its `factor`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        folded, widths = config.channels * config.patch**2, config.widths

        def blocks(width: int) -> list[nn.Module]:
            return [Residual(width) for _ in range(config.blocks)]

        down: list[nn.Module] = [nn.PixelUnshuffle(config.patch), _conv(folded, widths[0]), *blocks(widths[0])]
        for fine, coarse in pairwise(widths):
            down += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), *blocks(coarse)]
        self.encoder = nn.Sequential(*down, *_head(widths[-1], 2 * config.latent_channels))
        up: list[nn.Module] = [_conv(config.latent_channels, widths[-1]), *blocks(widths[-1])]
        for coarse, fine in pairwise(reversed(widths)):
            up += [nn.Upsample(scale_factor=2.0, mode="nearest"), _conv(coarse, fine), *blocks(fine)]
        self.decoder = nn.Sequential(*up, *_head(widths[0], folded), nn.PixelShuffle(config.patch))

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of each image, shape (B, C, H, W) -> (B, latent_channels, h, w)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def encode(self, x: Tensor) -> Tensor:
        """Mean of the latent of each image."""
        return self.distribution(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The image of each latent."""
        return self.decoder(z)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _head(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, inputs), nn.SiLU(), _conv(inputs, outputs)]
