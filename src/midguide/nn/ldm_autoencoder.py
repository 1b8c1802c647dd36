"""The autoencoders of latent diffusion, VQ and KL, with the parameter names of their public checkpoints.

Written from Table 7 of Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis" (2021,
https://arxiv.org/abs/2012.09841). The second source is Section G of Rombach et al. 2022
(https://arxiv.org/abs/2112.10752). The public files fix the names of the parameters, and everything here is named to
fit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.base import AUTOENCODERS

GROUPS, EPSILON = 32, 1e-6
VECTORS = 4096  # most vectors that are compared with the codebook at once


@AUTOENCODERS.register("latent-diffusion", summary="autoencoder of latent diffusion")
@dataclass(frozen=True, kw_only=True)
class LDMAutoencoderConfig:
    """Shape of an `LDMAutoencoder`, which makes each side of an image `2**(levels - 1)` times smaller.

    Args:
        channels: channels of the image.
        width: width in units of which `multipliers` count.
        multipliers: width of each level, the finest first; each further level halves the grid.
        blocks: residual blocks per level of the encoder (one more in the decoder).
        attention: levels, 0 the finest, that have self-attention after each residual block.
        inner_channels: channels between encoder or decoder and the 1x1 convolution beside the latent (`z_channels`).
        latent_channels: channels of the latent (`embed_dim`).
        codes: vectors of the codebook; 0 for a KL autoencoder, whose encoder gives mean and log-variance.

    Example:
        >>> LDMAutoencoderConfig(width=32, multipliers=(1, 2), codes=64).codes
        64
    """

    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    inner_channels: int = 3
    latent_channels: int = 3
    codes: int = 8192

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        if any(self.width * multiplier % GROUPS for multiplier in self.multipliers):
            raise ConfigError(f"width={self.width} does not divide into {GROUPS} groups", hint="change width")

    @property
    def factor(self) -> int:
        """How many times smaller each side of a latent is."""
        return 2 ** (len(self.multipliers) - 1)

    def latent_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the latent of an image (C, H, W)."""
        return self.latent_channels, *(size // self.factor for size in event_shape[1:])

    def event_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the image of a latent (C, h, w)."""
        return self.channels, *(self.factor * size for size in latent_shape[1:])

    def build(self) -> LDMAutoencoder:
        """A new network of this shape."""
        return LDMAutoencoder(self)


VQ_F4 = LDMAutoencoderConfig()
"""The autoencoder `vq-f4` of Rombach et al. 2022: 8192 codes, a quarter of each side."""


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), conv(inputs, outputs)
        self.norm2, self.conv2 = norm(outputs), conv(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (x if x.shape == h.shape else self.nin_shortcut(x))


class Attention(nn.Module):
    """Self-attention of one head over the pixels of the grid, with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].mT
        return x + self.proj_out(h.reshape(x.shape))


class Resample(nn.Module):
    """Doubles the grid, or halves it with zeros at right and bottom only; a convolution in both cases."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = conv(channels, channels) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        grown = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1))
        return self.conv(grown)


class Level(nn.Module):
    """Residual blocks, each followed by attention where the level has it; then, but at the last, another grid."""

    def __init__(self, inputs: int, outputs: int, *, blocks: int, attention: bool, resample: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(Residual(outputs if i else inputs, outputs) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(blocks if attention else 0))
        self.resample = resample
        if resample:
            self.add_module(resample, Resample(outputs, up=resample == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.get_submodule(self.resample)(x) if self.resample else x


class Middle(nn.Module):
    """What encoder and decoder have at the coarsest grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Residual(width, width), Attention(width), Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """An image to `inner_channels` channels, twice as many for a KL autoencoder."""

    def __init__(self, config: LDMAutoencoderConfig) -> None:
        super().__init__()
        current, last = config.width, len(config.multipliers) - 1
        self.conv_in, self.down = conv(config.channels, current), nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            resample, attention = ("downsample" if level < last else None), level in config.attention
            inputs, current = current, config.width * multiplier
            self.down.append(Level(inputs, current, blocks=config.blocks, attention=attention, resample=resample))
        self.mid, self.norm_out = Middle(current), norm(current)
        self.conv_out = conv(current, config.inner_channels * (1 if config.codes else 2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """The counterpart of `Encoder`; its levels are counted from the finest, and run from the coarsest."""

    def __init__(self, config: LDMAutoencoderConfig) -> None:
        super().__init__()
        current, levels = config.width * config.multipliers[-1], []
        self.conv_in, self.mid = conv(config.inner_channels, current), Middle(current)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            resample, attention = ("upsample" if level else None), level in config.attention
            inputs, current = current, config.width * multiplier
            levels.append(Level(inputs, current, blocks=config.blocks + 1, attention=attention, resample=resample))
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = norm(current), conv(current, config.channels)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    """The nearest of a set of vectors, in place of each pixel's; derivatives pass as if nothing was replaced."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def forward(self, z: Tensor) -> Tensor:
        vectors, book = z.detach().movedim(1, -1).flatten(0, -2), self.embedding.weight
        # |v - c|^2 without |v|^2, which is the same for all codes
        nearest = [(book.square().sum(1) - 2 * part @ book.mT).argmin(1) for part in vectors.split(VECTORS)]
        chosen = book[torch.cat(nearest)].unflatten(0, (len(z), *z.shape[2:])).movedim(-1, 1)
        return z + (chosen - z).detach()


class LDMAutoencoder(nn.Module):
    """Encoder and decoder of an `LDMAutoencoderConfig`; height and width of an image are multiples of its `factor`.

    Example:
        >>> network = LDMAutoencoder(LDMAutoencoderConfig(width=32, multipliers=(1, 2), codes=16))
        >>> network.decode(network.encode(torch.zeros(1, 3, 8, 12))).shape
        torch.Size([1, 3, 8, 12])
    """

    def __init__(self, config: LDMAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        moments = 1 if config.codes else 2
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(moments * config.inner_channels, moments * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.inner_channels, 1)
        if config.codes:
            self.quantize = Codebook(config.codes, config.latent_channels)

    def encode(self, x: Tensor) -> Tensor:
        """The latent of each image before quantization, or the mean of its latents, (B, C, H, W) -> (B, c, h, w)."""
        return self.quant_conv(self.encoder(x))[:, : self.config.latent_channels]

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """The image of each latent, which is quantized first where there is a codebook and `quantize` is true."""
        return self.decoder(self.post_quant_conv(self.quantize(z) if self.config.codes and quantize else z))


def visible_autoencoder(state: Mapping[str, Tensor]) -> LDMAutoencoderConfig:
    """The configuration that the keys and shapes of a checkpoint show, which is all of it.

    Raises:
        ConfigError: If the keys are not those of such an autoencoder.
    """
    try:
        width, channels = state["encoder.conv_in.weight"].shape[:2]
        levels = range(1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down.")))
        codes = len(state["quantize.embedding.weight"]) if "quantize.embedding.weight" in state else 0
        inner, latent = state["post_quant_conv.weight"].shape[:2]
        if len(state["quant_conv.weight"]) != latent * (1 if codes else 2):
            raise ConfigError(
                f"the autoencoder has no codebook, and {len(state['quant_conv.weight'])} channels in quant_conv",
                hint=f"a KL autoencoder has {2 * latent} there, a VQ autoencoder quantize.embedding.weight",
            )
        return LDMAutoencoderConfig(
            channels=channels,
            width=width,
            multipliers=tuple(len(state[f"encoder.down.{i}.block.0.conv1.weight"]) // width for i in levels),
            blocks=sum(key.startswith("encoder.down.0.block.") and key.endswith("conv1.weight") for key in state),
            attention=tuple(i for i in levels if f"encoder.down.{i}.attn.0.q.weight" in state),
            inner_channels=inner,
            latent_channels=latent,
            codes=codes,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"the weights are not those of an autoencoder of latent diffusion: no {error}", hint="which code wrote it?"
        ) from None


def norm(channels: int) -> nn.GroupNorm:
    """Normalization in groups, as everywhere in this network."""
    return nn.GroupNorm(GROUPS, channels, eps=EPSILON)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the grid."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)
