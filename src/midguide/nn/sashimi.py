"""A multi-scale network for signals: residual state-space blocks on grids of falling length (SaShiMi).

It knows nothing of diffusion: it maps a signal and one number per signal to a signal. As in a U-Net, tiers of blocks
work on ever shorter and wider signals and come back. A skip connection goes around every block and every change of
tier. Each block is a bidirectional S4D layer and a pointwise perceptron.

Differences from the MGPS paper's network for signals of nine channels, by its tables and parameter count: The state
matrix is diagonal (S4D) and not diagonal plus rank one. There is no weight normalization. Normalizations have an
epsilon, and add their shift last.

References: Goel et al. 2022, "It's raw! Audio generation with state-space models"; Kong et al. 2021, "DiffWave", for
the embedding of the time; Moufad et al. 2025 (MGPS), Table 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.base import BODIES
from midguide.nn.s4d import DYNAMICS, S4D


@BODIES.register("sashimi", summary="multi-scale state-space network for signals")
@dataclass(frozen=True, kw_only=True)
class SashimiConfig:
    """Shape of a `Sashimi`; the defaults are those of the MGPS paper's prior of signals.

    Args:
        in_channels: channels of the signal.
        out_channels: channels of the output.
        channels: width of the first tier; every further one is twice as wide.
        blocks: blocks per tier (on the way down, and again on the way up).
        pools: by what factor each further tier is shorter; 1 only widens.
        expand: width of the pointwise perceptrons, in widths of their tier.
        states: modes of each state-space channel, with their conjugates.
        features: sines and cosines of the time.
        embedding: width of the time embedding.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    dynamics: ClassVar[tuple[str, ...]] = DYNAMICS

    in_channels: int = 9
    out_channels: int = 9
    channels: int = 64
    blocks: int = 4
    pools: tuple[int, ...] = (1, 2, 2)
    expand: int = 2
    states: int = 64
    features: int = 128
    embedding: int = 512

    def __post_init__(self) -> None:
        object.__setattr__(self, "pools", tuple(self.pools))
        sizes = (self.in_channels, self.out_channels, self.channels, self.blocks, self.expand, self.embedding)
        if min(*sizes, *self.pools) < 1:
            raise ConfigError("channels, blocks, pools, expand and embedding must be positive")
        if min(self.states, self.features) < 2 or self.states % 2 or self.features % 2:
            raise ConfigError(f"states={self.states} and features={self.features} must be even: they come in pairs")

    @property
    def grid(self) -> tuple[int]:
        """Of what the length of a signal is a multiple."""
        return (math.prod(self.pools),)

    def build(self) -> Sashimi:
        """A new network of this shape."""
        return Sashimi(self)


class TimeEmbedding(nn.Module):
    """Sines, then cosines of the time index, then two layers, each followed by a SiLU (DiffWave, Section 3.1)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.pairs = features // 2
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        exponents = torch.arange(self.pairs, dtype=torch.float32, device=t.device) / max(self.pairs - 1, 1)
        angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * exponents)
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.layers(features.to(next(self.layers.parameters()).dtype))


class ChannelNorm(nn.Module):
    """Each time step's channels get mean `shift` and standard deviation `scale`, two scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(dim=1, keepdim=True)
        variance = centered.square().mean(dim=1, keepdim=True)
        # The epsilon: zero padding is constant over the channels after a ReLU.
        return centered * (self.scale * torch.rsqrt(variance + 1e-5)) + self.shift


class Block(nn.Module):
    """`x + S4(norm(x) + embedding)`, then `x + perceptron(norm(x))`."""

    def __init__(self, channels: int, config: SashimiConfig) -> None:
        super().__init__()
        self.norm_in, self.norm_out = ChannelNorm(), ChannelNorm()
        self.time = nn.Linear(config.embedding, channels)
        self.system = S4D(channels, config.states)
        self.mix = nn.Conv1d(channels, 2 * channels, 1)
        inner = config.expand * channels
        self.perceptron = nn.Sequential(nn.Conv1d(channels, inner, 1), nn.GELU(), nn.Conv1d(inner, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm_in(x) + self.time(embedding)[:, :, None]
        x = x + F.glu(self.mix(F.gelu(self.system(h))), dim=1)
        return x + self.perceptron(self.norm_out(x))


class Shrink(nn.Module):
    """Neighbors in time become channels, which a pointwise layer mixes."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.mix = nn.Conv1d(inputs * factor, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        x = x.reshape(batch, channels, length // self.factor, self.factor)
        return self.mix(x.transpose(2, 3).reshape(batch, channels * self.factor, -1))


class Grow(nn.Module):
    """The way back: a pointwise layer, whose channels become neighbors in time."""

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.mix = nn.Conv1d(inputs, outputs * factor, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, length = x.shape
        x = self.mix(x).reshape(batch, -1, self.factor, length)
        return x.transpose(2, 3).reshape(batch, -1, length * self.factor)


class Sashimi(nn.Module):
    """Network of a `SashimiConfig`; `forward(x, t)` with x of shape (B, in_channels, length) and t of shape (B,).

    The length is a multiple of the product of the pools. A new network returns zero.
    """

    def __init__(self, config: SashimiConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * 2**tier for tier in range(len(config.pools) + 1)]
        self.time = TimeEmbedding(config.features, config.embedding)
        self.stem = nn.Sequential(nn.Conv1d(config.in_channels, widths[0], 1), nn.ReLU())
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for narrow, wide, factor in zip(widths, widths[1:], config.pools, strict=False):
            self.down.extend(Block(narrow, config) for _ in range(config.blocks))
            self.down.append(Shrink(narrow, wide, factor))
        self.middle = nn.ModuleList(Block(widths[-1], config) for _ in range(config.blocks))
        for narrow, wide, factor in reversed(list(zip(widths, widths[1:], config.pools, strict=False))):
            self.up.append(Grow(wide, narrow, factor))
            self.up.extend(Block(narrow, config) for _ in range(config.blocks))
        last = nn.Conv1d(widths[0], config.out_channels, 1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.head = nn.Sequential(ChannelNorm(), nn.Conv1d(widths[0], widths[0], 1), nn.ReLU(), last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedding = self.time(t)
        h = self.stem(x)
        skips = []
        for layer in self.down:
            skips.append(h)
            h = _apply(layer, h, embedding)
        entry = h
        for layer in self.middle:
            h = _apply(layer, h, embedding)
        h = h + entry
        for layer in self.up:
            h = _apply(layer, h, embedding) + skips.pop()
        return self.head(h)


def _apply(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    return layer(h, embedding) if isinstance(layer, Block) else layer(h)
