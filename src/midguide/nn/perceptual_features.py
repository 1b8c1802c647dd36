"""The convolutional parts of AlexNet, VGG16 and SqueezeNet 1.1, and the activations that perceptual metrics read.

Layers have torchvision's numbers, so that the published weights fit (keys `features.*` without that word): AlexNet in
the version of Krizhevsky 2014, VGG16 of Simonyan and Zisserman 2015 (configuration D), SqueezeNet 1.1 of Iandola et al.
2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)}
FIRES |= {9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}


@dataclass(frozen=True)
class Body:
    """One of the networks.

    Args:
        make: its layers, with weights still to be loaded.
        taps: the layers whose output is read.
        channels: channels of each output.
        smallest: least height and width of an image.
    """

    make: Callable[[], nn.Sequential]
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    smallest: int


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions to many, side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


def alexnet() -> nn.Sequential:
    """AlexNet up to its last activation."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg16() -> nn.Sequential:
    """VGG16 up to its last activation."""
    layers: list[nn.Module] = []
    inputs = 3
    for widths in VGG16_WIDTHS:
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers[:-1])


def squeezenet() -> nn.Sequential:
    """SqueezeNet 1.1 up to its last fire module."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU()]
    for index in range(2, max(FIRES) + 1):
        layers.append(Fire(*FIRES[index]) if index in FIRES else nn.MaxPool2d(3, stride=2, ceil_mode=True))
    return nn.Sequential(*layers)


BODIES: dict[str, Body] = {
    "alexnet": Body(alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31),
    "squeezenet1.1": Body(squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), 17),
    "vgg16": Body(vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
}
"""name -> network. The taps are those of LPIPS (Zhang et al. 2018): after activations."""


def load_layers(body: Body, weights: Mapping[str, Tensor]) -> nn.Sequential:
    """The layers with weights, keys `NUMBER.*`, in float32 and evaluation mode; RuntimeError where these do not fit."""
    with torch.device("meta"):  # draws no initial weights
        layers = body.make()
    layers.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return layers.eval()


def activations(layers: nn.Sequential, taps: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """The outputs of the layers `taps`, each of shape (B, its channels, its height, its width)."""
    found = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in taps:
            found.append(x)
    return found
