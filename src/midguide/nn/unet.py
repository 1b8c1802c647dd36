"""A small U-Net for images: residual blocks, attention where the grid is coarse, an optional pixel-unshuffle stem.

It knows nothing of diffusion: it maps an image and one number per image to an image. Building blocks follow Ho et al.
(2020) and Dhariwal and Nichol (2021): group normalization whose scale and shift come from the time embedding, SiLU,
zero-initialized last layers. The stem folds `patch x patch` pixels into channels, so that the network works on a grid
`patch` times coarser. A 64x64 image then costs what a 16x16 one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.base import BODIES


@BODIES.register("unet", summary="small U-Net for images")
@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a `UNet`.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output; `2 * in_channels` for a network that also predicts a variance.
        channels: width of the finest level.
        multipliers: width of each level in units of `channels`; each further level halves the grid.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: levels, 0 the finest, that have self-attention after each residual block.
        head_channels: channels of one attention head.
        patch: side of the pixel block folded into channels by the stem; 1 for none.
        dropout: dropout rate inside residual blocks while training.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    dynamics: ClassVar[tuple[str, ...]] = ()

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 96
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    head_channels: int = 32
    patch: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        groups_fit = all(self.channels * m % 32 == 0 for m in self.multipliers)
        if not groups_fit or self.channels % self.head_channels:
            raise ConfigError(
                f"channels={self.channels} does not divide into 32 groups and heads of {self.head_channels}",
                hint="take a multiple of 32 and of head_channels",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Of what height and width of an image are multiples."""
        multiple = self.patch * 2 ** (len(self.multipliers) - 1)
        return multiple, multiple

    @property
    def needs_two_pixels(self) -> bool:
        """Whether a single pixel at the coarsest level would be normalized away: its groups are single channels."""
        return self.channels * self.multipliers[-1] == 32

    def build(self) -> UNet:
        """A new network of this shape."""
        return UNet(self)

    def deepens(self, other: UNetConfig) -> bool:
        """Whether it has the blocks and the attention of another shape or more, and differs in nothing else."""
        more = self.blocks >= other.blocks and set(self.attention) >= set(other.attention)
        return more and replace(other, blocks=self.blocks, attention=self.attention) == self


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the time index (cosines first, then sines), then a two-layer perceptron."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pairs = channels // 2
        self.layers = nn.Sequential(nn.Linear(2 * self.pairs, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        rates = torch.arange(self.pairs, dtype=torch.float32, device=t.device) / self.pairs
        angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * rates)[None]  # float32 also in a bfloat16 network
        features = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.layers(features.to(next(self.layers.parameters()).dtype))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection; the time embedding scales and shifts the second normalization."""

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(32, inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * outputs)
        self.norm_out = nn.GroupNorm(32, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_out(h), 1 + scale)
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of the grid, with a skip connection."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(2, 3).reshape(batch, channels, height, width))


class UNet(nn.Module):
    """U-Net of a `UNetConfig`; `forward(x, t)` with x of shape (B, in_channels, H, W) and t of shape (B,).

    H and W are multiples of `patch * 2**(levels - 1)`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * m for m in config.multipliers]
        embedding = 2 * config.channels
        folded = config.patch**2

        def block(inputs: int, outputs: int, level: int) -> nn.ModuleList:
            layers: list[nn.Module] = [ResidualBlock(inputs, outputs, embedding, config.dropout)]
            if level in config.attention:
                layers.append(SelfAttention(outputs, config.head_channels))
            return nn.ModuleList(layers)

        self.time = TimeEmbedding(config.channels, embedding)
        self.unfold = nn.PixelUnshuffle(config.patch)
        self.stem = nn.Conv2d(config.in_channels * folded, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        skips, current = [config.channels], config.channels
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(block(current, width, level))
                current = width
                skips.append(current)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        self.middle = nn.ModuleList([ResidualBlock(current, current, embedding, config.dropout) for _ in range(2)])
        self.middle_attention = SelfAttention(current, config.head_channels)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(block(current + skips.pop(), width, level))
                current = width
            if level > 0:
                self.grow.append(nn.Conv2d(current, current, 3, padding=1))
        self.head_norm = nn.GroupNorm(32, current)
        self.head = _zeroed(nn.Conv2d(current, config.out_channels * folded, 3, padding=1))
        self.fold = nn.PixelShuffle(config.patch)

    def start_as(self, shape: UNetConfig, weights: Mapping[str, Tensor]) -> None:
        """Begin as a network of a shape that this one deepens: blocks and attention that it lacks do nothing yet.

        Args:
            shape: of the other network.
            weights: its weights by name.
        """
        blocks, extra = self.config.blocks, self.config.blocks - shape.blocks
        places: dict[str, str] = {}
        for level in range(len(shape.multipliers)):
            for k in range(shape.blocks):
                places[f"down.{level * shape.blocks + k}"] = f"down.{level * blocks + k}"
            for k in range(shape.blocks + 1):  # new blocks come after the first: those behind find the skips they know
                old, new = level * (shape.blocks + 1) + k, level * (blocks + 1) + k + (extra if k else 0)
                places[f"up.{old}"] = f"up.{new}"
            for k in range(1, extra + 1):
                passes: nn.Conv2d = self.up[level * (blocks + 1) + k].get_submodule("0.skip")  # pyright: ignore
                nn.init.dirac_(passes.weight)  # what comes from below, nothing of the skip connection
                nn.init.zeros_(passes.bias)  # pyright: ignore[reportArgumentType]
        named = {}
        for name, value in weights.items():
            place = ".".join(name.split(".")[:2])
            named[places.get(place, place) + name[len(place) :]] = value
        self.load_state_dict(named, strict=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        config = self.config
        embedding = F.silu(self.time(t))
        h = self.stem(self.unfold(x))
        skips = [h]
        for level in range(len(config.multipliers)):
            for layers in self.down[level * config.blocks : (level + 1) * config.blocks]:
                h = _apply(layers, h, embedding)
                skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
                skips.append(h)
        h = self.middle[1](self.middle_attention(self.middle[0](h, embedding)), embedding)
        per_level = config.blocks + 1
        for rung in range(len(config.multipliers)):
            for layers in self.up[rung * per_level : (rung + 1) * per_level]:
                h = _apply(layers, torch.cat([h, skips.pop()], dim=1), embedding)
            if rung < len(self.grow):
                h = self.grow[rung](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.fold(self.head(F.silu(self.head_norm(h))))


def _apply(layers: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """A residual block, and the attention that may follow it."""
    block, *attention = layers.children()
    h = block(h, embedding)
    return attention[0](h) if attention else h


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
