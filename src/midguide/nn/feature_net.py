"""A small classifier of 64x64 images, whose last activations serve as features, and its file.

Residual blocks with group normalization, so that the features of an image do not depend on its batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.catalogue.settings import build
from midguide.errors import CheckpointError
from midguide.nn.layout import without_weights
from midguide.storage.files import replacing, sha256_of
from midguide.storage.outside import GIB, Outside
from midguide.storage.tensors import read_tensors

FORMAT = 1
KEY = "midguide-features"
"""Of the metadata that hold the configuration of a file's network."""

_FILE = Outside("feature network", error=CheckpointError, limit=64 * GIB)


@dataclass(frozen=True, kw_only=True)
class FeatureNetConfig:
    """Shape of a `FeatureNet`.

    Args:
        channels: of the first layer; the features are four times as many.
        classes: number of classes of each question that it is trained on.
        event_shape: shape of one image, (C, H, W), H and W multiples of 8; values in [-1, 1].
    """

    channels: int = 32
    classes: tuple[int, ...] = (4, 8)
    event_shape: tuple[int, ...] = (3, 64, 64)

    @property
    def features(self) -> int:
        """Number of features."""
        return 4 * self.channels


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(8, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        return x + self.conv_out(F.silu(self.norm_out(h)))


class FeatureNet(nn.Module):
    """Three halvings of the grid, a residual block on each of the two coarser ones, the mean over the grid, heads."""

    def __init__(self, config: FeatureNetConfig) -> None:
        super().__init__()
        self.config, width = config, config.channels
        self.stem = nn.Conv2d(config.event_shape[0], width, 3, stride=2, padding=1)
        self.shrink = nn.ModuleList([nn.Conv2d(w, 2 * w, 3, stride=2, padding=1) for w in (width, 2 * width)])
        self.blocks = nn.ModuleList([Residual(w) for w in (2 * width, 4 * width)])
        self.norm = nn.GroupNorm(8, 4 * width)
        self.heads = nn.ModuleList([nn.Linear(4 * width, count) for count in config.classes])

    def features(self, x: Tensor) -> Tensor:
        """Images in [-1, 1], shape (B, C, H, W) -> features, shape (B, 4 * channels)."""
        h = self.stem(x)
        for shrink, block in zip(self.shrink, self.blocks, strict=True):
            h = block(shrink(F.silu(h)))
        return F.silu(self.norm(h)).mean((2, 3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logits of each question, each of shape (B, its classes)."""
        features = self.features(x)
        return [head(features) for head in self.heads]


def save_feature_net(path: str | Path, weights: Mapping[str, Tensor], config: FeatureNetConfig) -> None:
    """Write a network's file, weights rounded to bfloat16."""
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps({"format": FORMAT, **asdict(config)})})


def load_feature_net(path: str | Path) -> tuple[FeatureNet, str]:
    """Read what `save_feature_net` wrote: the network, in float32 and evaluation mode, and the SHA-256 of the file.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind.
    """
    metadata, weights = read_tensors(_FILE, path)
    with _FILE.stated(path):
        stored = json.loads(metadata[KEY])
        if stored.pop("format") != FORMAT:
            raise ValueError("it was written by a newer version of midguide")
        with without_weights(len(weights)):
            network = FeatureNet(build(FeatureNetConfig, stored, "network"))
        network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return network.eval(), sha256_of(path)
