"""The networks of the features of FID and KID, under the name that tables give them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from midguide.errors import CheckpointError, ConfigError, NumericalError, ShapeError, reason
from midguide.metrics.weights import read_weights, weights_folder
from midguide.nn.feature_net import load_feature_net
from midguide.nn.inception import FEATURES, load_inception
from midguide.storage.cards import read_card

CLASSIFIER = "faces-64-classifier"
INCEPTION = "inception-2015-12-05"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
ROWS = 32
"""Images that go through a network together."""


@dataclass(frozen=True, eq=False)
class Features:
    """A network that turns images into features.

    Args:
        name: of the features, as tables show it.
        network: images in [-1, 1], float32, shape (B, *event) -> features, shape (B, size); no gradients are asked for.
        size: number of features.
        event_shape: the images that it takes, (C, H, W), -1 for any height or width.
        files: SHA-256 by the name of each file of weights.
    """

    name: str
    network: Callable[[Tensor], Tensor]
    size: int
    event_shape: tuple[int, int, int]
    files: dict[str, str] = field(default_factory=dict)

    def __call__(self, images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
        """The features of images, which are clamped to `value_range` and not rounded, shape (B, size), float64.

        Args:
            images: shape (B, C, H, W).
            value_range: black and white.

        Raises:
            ShapeError: If the network does not take such images.
            ConfigError: If the range does not rise.
            NumericalError: If an image holds NaN or infinity.
        """
        low, high = value_range
        if not low < high:
            raise ConfigError(f"value_range must rise, got {value_range}")
        self.check(tuple(images.shape[1:]))
        if not bool(torch.isfinite(images).all()):
            raise NumericalError("an image to compare holds NaN or infinity")
        with torch.no_grad():
            parts = images.detach().cpu().split(ROWS)
            scaled = (2 * (part.clamp(low, high).float() - low) / (high - low) - 1 for part in parts)
            return torch.cat([self.network(part).double() for part in scaled])

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Refuse events that are not images that the network takes, with a ShapeError."""
        wanted = self.event_shape
        fits = len(event_shape) == 3 and all(w in (-1, got) for w, got in zip(wanted, event_shape, strict=True))
        if not fits:
            shown = tuple("any" if side == -1 else side for side in wanted)
            raise ShapeError(f"the features {self.name} are those of images {shown}, got {tuple(event_shape)}")


@cache
def classifier_features(name: str = CLASSIFIER) -> Features:
    """The features of a shipped classifier (`midguide/features/NAME.json` is its card), or of one's file by path.

    Raises:
        CheckpointError: If the file is missing, damaged, or not the one of its card.
    """
    shipped = Path(str(resources.files("midguide"))) / "metrics" / "shipped" / f"{name}.safetensors"
    path = shipped if os.path.isfile(shipped) else Path(name)
    network, sha256 = load_feature_net(path)
    if path == shipped and read_card(path.with_suffix(".json")).sha256 != sha256:
        raise CheckpointError(f"{path} is not the file of its card: its sha256 differs", hint="install midguide again")
    channels, height, width = network.config.event_shape
    shape = (channels, height, width)
    return Features(path.stem, network.features, network.config.features, shape, {path.name: sha256})


def inception_features() -> Features:
    """The 2048 features of the original FID, from the user's folder of weights.

    Raises:
        CheckpointError: If the file is missing, damaged, or not the published one.
    """
    return _inception(str(weights_folder().resolve()))


@lru_cache(maxsize=1)
def _inception(folder: str) -> Features:
    weights, sha256 = read_weights(INCEPTION_FILE, "release fid_weights of github.com/mseitzer/pytorch-fid")
    try:
        network = load_inception(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{INCEPTION_FILE} in {folder} does not fit its network: {reason(error)}") from error
    return Features(INCEPTION, network, FEATURES, (3, -1, -1), {INCEPTION_FILE: sha256})
