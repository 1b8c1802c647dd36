"""The blur of an encoded kernel space: a network that blurs an image as a latent code says.

Phong Tran, Anh Tuan Tran, Quynh Phung and Minh Hoai (CVPR 2021), "Explore Image Deblurring via Encoded Blur Kernel
Space", https://arxiv.org/abs/2104.00317. This is their generator `G(x, k)`. It computes features of the image on a grid
four times coarser. A U-Net takes in the code where its grid is coarsest. Residual blocks and upsampling then make a
correction, which is added to the image. The extractor of codes from pairs of images, `F`, is not here.

The paper does not give every layer. Widths, strides and the names of the parameters follow the code that its authors
released (configuration `GOPRO/wVAE`), read for that purpose. An earlier version of that code upsamples in another way,
and weights trained with it are refused. The code here is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import CheckpointError, ShapeError
from midguide.maths.autodiff import frozen
from midguide.storage.outside import GIB, Outside
from midguide.storage.tensors import read_tensors, read_torch

_WEIGHTS = Outside("file of weights", "a file of tensors only", CheckpointError, limit=64 * GIB)
GRID = 128
"""Pixels per entry of the code, along each side: 4 by the features, 32 by the U-Net."""


@dataclass(frozen=True, kw_only=True)
class KernelSpaceConfig:
    """Shape of a `KernelSpaceNetwork`; the defaults are those of the published weights.

    Args:
        channels: width of the features; the code has eight times as many channels.
        front_blocks: residual blocks before the U-Net.
        back_blocks: residual blocks after it.
    """

    channels: int = 64
    front_blocks: int = 10
    back_blocks: int = 20


class Residual(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class CodedUNet(nn.Module):
    """A U-Net of five levels, without normalization, whose coarsest features are joined by the code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * m for m in (1, 1, 2, 4, 8, 8)]
        levels = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in levels)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * b, a, 4, stride=2, padding=1, bias=level == 0) for level, (a, b) in enumerate(levels)
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        features = [self.down[0](x)]
        for conv in self.down[1:]:
            features.append(conv(F.leaky_relu(features[-1], 0.2)))
        joined = code
        for conv, skip in zip(reversed(self.up), reversed(features), strict=True):
            # The code comes after the features it joins, all other inputs before.
            pair = (skip, joined) if joined is code else (joined, skip)
            joined = conv(F.relu(torch.cat(pair, dim=1)))
        return torch.tanh(joined)


class KernelSpaceNetwork(nn.Module):
    """`x + R(U(E(x), k))`: an image and a code to the blurred image, in the dtype of the parameters.

    Args:
        config: widths and depths.
    """

    image_channels = 3

    def __init__(self, config: KernelSpaceConfig) -> None:
        super().__init__()
        width = config.channels
        self.code_channels = 8 * width
        leaky = nn.LeakyReLU(0.1)
        self.features = nn.Sequential(
            nn.Conv2d(self.image_channels, width, 3, padding=1),
            leaky,
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            leaky,
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            leaky,
            *(Residual(width) for _ in range(config.front_blocks)),
        )
        self.unet = CodedUNet(width)
        self.correction = nn.Sequential(
            *(Residual(width) for _ in range(config.back_blocks)),
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            leaky,
            nn.Conv2d(width, 4 * 64, 3, padding=1),
            nn.PixelShuffle(2),
            leaky,
            nn.Conv2d(64, 64, 3, padding=1),
            leaky,
            nn.Conv2d(64, self.image_channels, 3, padding=1),
        )

    def code_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Shape of the code of one image.

        Raises:
            ShapeError: If the image is not RGB, or its sides are not multiples of 128.
        """
        if channels != self.image_channels or height % GRID or width % GRID:
            raise ShapeError(
                f"the kernel-space network takes RGB images with sides that are multiples of {GRID}, "
                f"got {channels}x{height}x{width}",
                hint="crop or resize; without weights, nonlinear-blur takes any image",
            )
        return self.code_channels, height // GRID, width // GRID

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """The blurred image.

        Args:
            image: in [0, 1], shape (B, 3, H, W).
            code: shape (B, 8 * channels, H / 128, W / 128).
        """
        dtype = next(self.parameters()).dtype
        correction = self.correction(self.unet(self.features(image.to(dtype)), code.to(dtype)))
        return image + correction.to(image.dtype)


def load_kernel_space(path: str | Path, config: KernelSpaceConfig | None = None) -> KernelSpaceNetwork:
    """Read the published weights: a plain dictionary of tensors, as `.pth` or `.safetensors`.

    Parameters of the extractor (`kernel_extractor.*`) are passed over.

    Args:
        path: the file.
        config: shape of the network; that of the published weights by default.

    Raises:
        CheckpointError: If the file is missing or damaged, or holds other parameters than the network has.
    """
    with torch.device("meta"):  # parameters without values: nothing is drawn
        network = KernelSpaceNetwork(config or KernelSpaceConfig())
    names = {name: _published_name(name) for name in network.state_dict()}
    found = {k: v for k, v in _read(Path(path)).items() if not k.startswith("kernel_extractor.")}
    faults = {
        "missing": [theirs for theirs in names.values() if theirs not in found],
        "unexpected": [key for key in found if key not in names.values()],
        "of another shape": [
            f"{theirs} {tuple(found[theirs].shape)} instead of {tuple(network.get_parameter(ours).shape)}"
            for ours, theirs in names.items()
            if theirs in found and found[theirs].shape != network.get_parameter(ours).shape
        ],
    }
    if any(faults.values()):
        said = "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in faults.items() if keys)
        raise CheckpointError(
            f"{path} does not fit the kernel-space network: {said}",
            hint="it takes the weights GOPRO_wVAE.pth of Tran et al. (2021)",
        )
    network.load_state_dict({ours: found[theirs].float() for ours, theirs in names.items()}, assign=True)
    frozen(network)
    return network


def _published_name(name: str) -> str:
    """Our name of a parameter in the published files; their U-Net is nested, a level inside the next finer one."""
    head, *rest = name.split(".")
    if head != "unet":
        return ".".join([{"features": "feature_extractor", "correction": "recon_trunk"}[head], *rest])
    side, level, kind = rest
    place = 0 if (side, level) == ("down", "0") else 1  # after an activation, but for the first layer
    return ".".join(["adapter.model", *["submodule"] * int(level), side, str(place), kind])


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    if path.suffix == ".safetensors":
        return read_tensors(_WEIGHTS, path)[1]
    with _WEIGHTS.damage(path):
        content = read_torch(_WEIGHTS, path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} is not a dictionary of tensors", hint="save network.state_dict() itself")
    return content


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
