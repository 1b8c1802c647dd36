"""The U-Net of DDPM, with the parameter names of its ports to torch, in which CelebA-HQ and LSUN are published.

Written from the description of Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (2020,
https://arxiv.org/abs/2006.11239), Appendix B. The public files fix the names of the parameters, and everything here is
named to fit them. Its parts, except for the time, are those of the autoencoders of latent diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.ldm_autoencoder import GROUPS, Attention, Resample, conv, norm


@dataclass(frozen=True, kw_only=True)
class DDPMConfig:
    """Shape of a `DDPMUNet`.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output.
        channels: width in units of which `multipliers` count.
        multipliers: width of each level; each further level halves the grid.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: levels, 0 the finest, that have self-attention after each residual block.
        learned_resampling: halving and doubling have a convolution.
        wide_shortcut: where the width changes the shortcut is a 3x3 convolution, else 1x1.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    learned_resampling: bool = True
    wide_shortcut: bool = False

    def __post_init__(self) -> None:
        if any(self.channels * multiplier % GROUPS for multiplier in self.multipliers):
            raise ConfigError(f"channels={self.channels} does not divide into {GROUPS} groups", hint="change channels")

    @property
    def grid(self) -> tuple[int, int]:
        """Of what height and width of an image are multiples."""
        multiple = 2 ** (len(self.multipliers) - 1)
        return multiple, multiple

    def build(self) -> DDPMUNet:
        """A new network of this shape."""
        return DDPMUNet(self)


class TimedResidual(nn.Module):
    """Two 3x3 convolutions with a skip connection, the time embedding added between them."""

    def __init__(self, inputs: int, outputs: int, config: DDPMConfig) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), conv(inputs, outputs)
        self.temb_proj = nn.Linear(4 * config.channels, outputs)
        self.norm2, self.conv2 = norm(outputs), conv(outputs, outputs)
        self.shortcut = None
        if inputs != outputs:
            self.shortcut = "conv_shortcut" if config.wide_shortcut else "nin_shortcut"
            size = 3 if config.wide_shortcut else 1
            self.add_module(self.shortcut, nn.Conv2d(inputs, outputs, size, padding=size // 2))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.get_submodule(self.shortcut)(x) if self.shortcut else x)


class Plain(nn.Module):
    """Halves or doubles the grid without parameters."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.avg_pool2d(x, 2)


class Level(nn.Module):
    """The residual blocks of one level, its attention, and the way to the next level."""

    def __init__(
        self, widths: list[tuple[int, int]], *, attention: bool, up: bool, last: bool, config: DDPMConfig
    ) -> None:
        super().__init__()
        outputs = widths[0][1]
        self.block = nn.ModuleList(TimedResidual(*pair, config) for pair in widths)
        self.attn = nn.ModuleList(Attention(outputs) for _ in widths if attention)
        self.resample = None if last else "upsample" if up else "downsample"
        if self.resample:
            self.add_module(self.resample, Resample(outputs, up=up) if config.learned_resampling else Plain(up=up))

    def part(self, i: int, x: Tensor, embedding: Tensor) -> Tensor:
        """One residual block, with attention where the level has it."""
        h = self.block[i](x, embedding)
        return self.attn[i](h) if len(self.attn) else h

    def onward(self, x: Tensor) -> Tensor:
        """Onto the grid of the next level."""
        return self.get_submodule(self.resample)(x) if self.resample else x


class Middle(nn.Module):
    """What lies at the coarsest grid."""

    def __init__(self, width: int, config: DDPMConfig) -> None:
        super().__init__()
        self.block_1, self.block_2 = (TimedResidual(width, width, config) for _ in range(2))
        self.attn_1 = Attention(width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, embedding)), embedding)


class DDPMUNet(nn.Module):
    """U-Net of a `DDPMConfig`: x of shape (B, in_channels, H, W), times of shape (B,), the indices 0..999.

    Example:
        >>> network = DDPMUNet(DDPMConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,)))
        >>> network(torch.zeros(2, 3, 8, 8), torch.tensor([0, 999])).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        width, current, levels = 4 * config.channels, config.channels, len(config.multipliers)
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(config.channels, width), nn.Linear(width, width)])
        self.conv_in, skips = conv(config.in_channels, current), [current]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(config.multipliers):
            outputs, last = config.channels * multiplier, level == levels - 1
            pairs = [(current if i == 0 else outputs, outputs) for i in range(config.blocks)]
            self.down.append(Level(pairs, attention=level in config.attention, up=False, last=last, config=config))
            current = outputs
            skips += [outputs] * (config.blocks if last else config.blocks + 1)
        self.mid = Middle(current, config)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            outputs, pairs = config.channels * multiplier, []
            for _ in range(config.blocks + 1):
                pairs.append((current + skips.pop(), outputs))
                current = outputs
            made = Level(pairs, attention=level in config.attention, up=True, last=level == 0, config=config)
            self.up.insert(0, made)
        self.norm_out, self.conv_out = norm(current), conv(current, config.out_channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first, second = self.temb.get_submodule("dense.0"), self.temb.get_submodule("dense.1")
        features = _sines(t, self.config.channels).to(next(first.parameters()).dtype)
        embedding = second(F.silu(first(features)))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            assert isinstance(level, Level)
            for i in range(self.config.blocks):
                h = level.part(i, h, embedding)
                skips.append(h)
            if level.resample:
                h = level.onward(h)
                skips.append(h)
        h = self.mid(h, embedding)
        for level in reversed(list(self.up)):
            assert isinstance(level, Level)
            for i in range(self.config.blocks + 1):
                h = level.part(i, torch.cat([h, skips.pop()], dim=1), embedding)
            h = level.onward(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def visible_ddpm(state: Mapping[str, Tensor]) -> DDPMConfig:
    """The configuration that the keys and shapes of a checkpoint show, which is all of it.

    Raises:
        ConfigError: If the keys are not those of such a network.
    """
    try:
        channels = state["temb.dense.0.weight"].shape[1]
        levels = range(1 + max(int(key.split(".")[1]) for key in state if key.startswith("down.")))
        return DDPMConfig(
            in_channels=state["conv_in.weight"].shape[1],
            out_channels=len(state["conv_out.weight"]),
            channels=channels,
            multipliers=tuple(len(state[f"down.{i}.block.0.conv1.weight"]) // channels for i in levels),
            blocks=sum(key.startswith("down.0.block.") and key.endswith(".conv1.weight") for key in state),
            attention=tuple(i for i in levels if f"down.{i}.attn.0.q.weight" in state),
            learned_resampling="down.0.downsample.conv.weight" in state or len(levels) == 1,
            wide_shortcut=any("conv_shortcut" in key for key in state),
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ConfigError(f"the weights are not those of a DDPM U-Net: no {error}", hint="is it complete?") from None


def _sines(t: Tensor, channels: int) -> Tensor:
    """Sines, then cosines, of t times rates that fall from 1 to 1/10000: shape (B, channels), float32."""
    pairs = channels // 2
    rates = torch.arange(pairs, dtype=torch.float32, device=t.device) / max(pairs - 1, 1)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * rates)[None]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, channels % 2))
