"""LPIPS: how different two images look to a network that was trained to classify photographs.

Zhang, Isola, Efros, Shechtman, Wang 2018, "The unreasonable effectiveness of deep features as a perceptual metric"
(CVPR). The weights are version 0.1 of theirs, in a folder of the user (see `metrics.weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, ShapeError, reason
from midguide.metrics.image import unit_images
from midguide.metrics.weights import read_weights, weights_folder
from midguide.nn.perceptual_features import BODIES, Body, activations, load_layers

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
ROWS = 16
"""Images that go through the network together."""

TORCHVISION = "download.pytorch.org/models"
HEADS = "lpips/weights/v0.1 of github.com/richzhang/PerceptualSimilarity"


@dataclass(frozen=True, eq=False)
class LPIPS:
    """A network with its heads.

    Args:
        body: which network.
        layers: its layers with their weights.
        heads: the weight of each channel of each of its activations, shapes (channels,).
        files: SHA-256 by the name of each file that was read.
    """

    body: Body
    layers: nn.Sequential
    heads: tuple[Tensor, ...]
    files: dict[str, str] = field(default_factory=dict)

    def __call__(self, x: Tensor, truth: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
        """The distance of each image from its truth; 0 for equal images, about 0.7 for unlike ones.

        With the activations of tap l divided by their norm over the channels, a_l and b_l,

            sum over l of mean over pixels of sum over channels c of  w_lc (a_lc - b_lc)^2.

        It clamps images to `value_range` and compares them at their own size, in float32.

        Args:
            x: images, shape (B, 3, H, W).
            truth: shape (B, 3, H, W), or (1, 3, H, W) for one truth of all.
            value_range: black and white.

        Returns:
            Float64, shape (B,).

        Raises:
            ShapeError: If the shapes are not RGB images, do not agree, or are smaller than the network can take.
            NumericalError: If an image holds NaN or infinity.
        """
        x, truth = (images.to(self.heads[0].device) for images in unit_images(x, truth, value_range))
        if x.shape[1] != 3 or min(x.shape[2:]) < self.body.smallest:
            raise ShapeError(
                f"LPIPS needs RGB images of at least {self.body.smallest} pixels a side, got {tuple(x.shape[1:])}",
                hint="this network takes none that small; others may (docs/metrics.md)",
            )
        pairs = zip(x.split(ROWS), truth.expand_as(x).split(ROWS), strict=True)
        with torch.no_grad():
            return torch.cat([self._distance(*pair) for pair in pairs])

    def _distance(self, x: Tensor, truth: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for head, a, b in zip(self.heads, self._unit(x), self._unit(truth), strict=True):
            total += ((a - b).square() * head[:, None, None]).sum(1).mean((1, 2)).double()
        return total

    def _unit(self, images: Tensor) -> list[Tensor]:
        """Activations of norm one over the channels, of images in [0, 1]."""
        shift, scale = (images.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        found = activations(self.layers, self.body.taps, ((2 * images - 1 - shift) / scale).float())
        return [a / (a.square().sum(1, keepdim=True).sqrt() + EPS) for a in found]


@dataclass(frozen=True)
class Published:
    """One set of weights that LPIPS is computed with.

    Args:
        network: a name in `nn.perceptual_features.BODIES`.
        files: names of the files that hold it, each with its origin.
    """

    network: str
    files: tuple[tuple[str, str], ...]


PUBLISHED: dict[str, Published] = {
    "alexnet": Published("alexnet", (("alexnet-owt-7be5be79.pth", TORCHVISION), ("alex.pth", HEADS))),
    "vgg16": Published("vgg16", (("vgg16-397923af.pth", TORCHVISION), ("vgg.pth", HEADS))),
    "squeezenet1.1": Published("squeezenet1.1", (("squeezenet1_1-b8a52dc0.pth", TORCHVISION), ("squeeze.pth", HEADS))),
    "squeezenet1.1-caffe": Published(
        "squeezenet1.1", (("squeezenet11-caffe-lpips-v0.1.safetensors", "DeepScale's Caffe weights, LPIPS v0.1 heads"),)
    ),
}
"""By the name of the weights. Caffe's SqueezeNet is not shown to be torchvision's: no LPIPS, but something like it."""


def load_lpips(name: str) -> LPIPS:
    """LPIPS with the weights of this name in `PUBLISHED`, from the user's folder.

    Raises:
        CheckpointError: If a file is missing, damaged, or not the one of its name.
    """
    return _load(name, str(weights_folder().resolve()))


@cache
def _load(name: str, folder: str) -> LPIPS:
    published, tensors, sums = PUBLISHED[name], dict[str, Tensor](), dict[str, str]()
    for file, origin in published.files:
        read, sums[file] = read_weights(file, origin)
        tensors |= read
    try:
        return assembled(BODIES[published.network], tensors, sums)
    except (KeyError, RuntimeError) as error:
        names = " and ".join(sums)
        raise CheckpointError(f"{names} in {folder} do not fit LPIPS with {name}: {reason(error)}") from error


def assembled(body: Body, tensors: Mapping[str, Tensor], files: dict[str, str] | None = None) -> LPIPS:
    """LPIPS from tensors by their published names: `features.*` and `lin*.model.1.weight` (or `lpips.lin*`).

    Raises:
        KeyError, RuntimeError: tensors are missing or of another shape.
    """
    prefix = "features."
    layers = load_layers(body, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    named = {key.removeprefix("lpips."): value for key, value in tensors.items()}
    heads = [named[f"lin{i}.model.1.weight"].float().reshape(width) for i, width in enumerate(body.channels)]
    return LPIPS(body, layers, tuple(heads), files or {})
