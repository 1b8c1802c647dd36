"""A perceptron with residual blocks, for vectors of a few entries.

Reference: Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", for the scaling of
blocks by what the noise level says; He et al. 2016 for residual blocks that begin as the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from midguide.errors import ConfigError
from midguide.nn.base import BODIES
from midguide.nn.sashimi import TimeEmbedding


@BODIES.register("mlp", summary="residual perceptron for vectors")
@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape of an `MLP`.

    Args:
        in_channels: entries of a vector.
        out_channels: entries of the output.
        width: of the hidden layers.
        blocks: residual blocks of two layers.
        features: sines and cosines of the time.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    dynamics: ClassVar[tuple[str, ...]] = ()

    in_channels: int = 16
    out_channels: int = 16
    width: int = 128
    blocks: int = 4
    features: int = 32

    def __post_init__(self) -> None:
        if min(self.in_channels, self.out_channels, self.width, self.blocks) < 1:
            raise ConfigError("in_channels, out_channels, width and blocks must be positive")
        if self.features < 2 or self.features % 2:
            raise ConfigError(f"features={self.features} must be even: they come in pairs")

    @property
    def grid(self) -> tuple[int, ...]:
        """A vector has no axis behind its entries."""
        return ()

    def build(self) -> MLP:
        """A new network of this shape."""
        return MLP(self)


class Block(nn.Module):
    """`x + layers(norm(x) * (1 + scale) + shift)`, scale and shift from the time; the identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.time = nn.Linear(width, 2 * width)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.time(embedding).chunk(2, dim=1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


class MLP(nn.Module):
    """Vectors of shape (B, in_channels) and one number for each to vectors of shape (B, out_channels)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.time = TimeEmbedding(config.features, config.width)
        self.first = nn.Linear(config.in_channels, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.last = nn.Linear(config.width, config.out_channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedding = self.time(torch.as_tensor(t, device=x.device).expand(len(x)))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.last(h)
