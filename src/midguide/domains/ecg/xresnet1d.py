"""A residual network for signals, XResNet1d: the classifier of electrocardiograms of Strodthoff et al. and of MGPS.

First come three convolutions of width 5 and a maximum over neighbors, then stages of bottlenecks, all of the same
width. Where a stage is shorter than the one before, its shortcut takes means of two neighbors. The maximum and the mean
over time go into two fully connected layers.

References: He et al. 2019, "Bag of tricks for image classification with convolutional neural networks"; Strodthoff,
Wagner, Schaeffter, Samek 2021, "Deep learning for ECG analysis: benchmarks and insights from PTB-XL", IEEE JBHI 25(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class XResNet1dConfig:
    """Shape of an `XResNet1d`; the defaults are those of XResNet1d50 for 12 leads and 4 classes: 953,860 parameters.

    Args:
        in_channels: leads.
        classes: outputs, one logit each.
        blocks: bottlenecks of each stage.
        width: channels inside a bottleneck; the stem has half as many before its last convolution.
        expansion: channels between bottlenecks, in widths.
        kernel: samples that a convolution sees; odd.
        hidden: width of the first fully connected layer.
        dropout: before each of the fully connected layers.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    in_channels: int = 12
    classes: int = 4
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    expansion: int = 4
    kernel: int = 5
    hidden: int = 128
    dropout: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "dropout", tuple(self.dropout))
        sizes = (self.in_channels, self.classes, *self.blocks, self.expansion, self.kernel, self.hidden)
        if min(sizes) < 1 or self.width < 2 or self.kernel % 2 == 0 or not self.blocks:
            raise ConfigError("channels, classes, blocks and widths must be positive, and the kernel odd")
        if not all(0 <= share < 1 for share in self.dropout):
            raise ConfigError(f"dropout must be two shares in [0, 1), got {self.dropout}")


class Bottleneck(nn.Module):
    """To the inner width, along time, back to the outer width; added to a shortcut."""

    def __init__(self, inputs: int, config: XResNet1dConfig, stride: int) -> None:
        super().__init__()
        width, outputs = config.width, config.width * config.expansion
        self.layers = nn.Sequential(
            _convolution(inputs, width, 1),
            nn.ReLU(),
            _convolution(width, width, config.kernel, stride),
            nn.ReLU(),
            _convolution(width, outputs, 1),
        )
        self.stride = stride
        self.shortcut = nn.Identity() if inputs == outputs else _convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.stride == 1 else F.avg_pool1d(x, self.stride, ceil_mode=True)
        return F.relu(self.layers(x) + self.shortcut(short))


class XResNet1d(nn.Module):
    """Network of an `XResNet1dConfig`: signals of shape (B, leads, time) to logits of shape (B, classes).

    Example:
        >>> XResNet1d(XResNet1dConfig()).eval()(torch.zeros(2, 12, 250)).shape
        torch.Size([2, 4])
    """

    def __init__(self, config: XResNet1dConfig) -> None:
        super().__init__()
        self.config, half, outer = config, config.width // 2, config.width * config.expansion
        stem = ((config.in_channels, half, 2), (half, half, 1), (half, config.width, 1))
        layers = [nn.Sequential(_convolution(i, o, config.kernel, stride), nn.ReLU()) for i, o, stride in stem]
        self.stem = nn.Sequential(*layers, nn.MaxPool1d(3, stride=2, padding=1))
        inputs, stages = config.width, []
        for number, count in enumerate(config.blocks):
            for place in range(count):
                stages.append(Bottleneck(inputs, config, stride=2 if number and not place else 1))
                inputs = outer
        self.stages = nn.Sequential(*stages)
        first, second = config.dropout
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * outer),
            nn.Dropout(first),
            nn.Linear(2 * outer, config.hidden),
            nn.ReLU(),
            nn.BatchNorm1d(config.hidden),
            nn.Dropout(second),
            nn.Linear(config.hidden, config.classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stages(self.stem(x))
        return self.head(torch.cat([h.amax(2), h.mean(2)], dim=1))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, and batch normalization."""
    layer = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(layer, nn.BatchNorm1d(outputs))
