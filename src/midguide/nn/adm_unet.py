"""The U-Net of guided diffusion (ADM), with the parameter names of its public checkpoints.

Written from Sections 3 and B of Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021,
https://arxiv.org/abs/2105.05233), and from Nichol and Dhariwal 2021. The public files fix the names of the parameters,
and everything here is named to fit them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError
from midguide.nn.base import BODIES

GROUPS = 32


@BODIES.register("adm", summary="U-Net of guided diffusion")
@dataclass(frozen=True, kw_only=True)
class ADMConfig:
    """Shape of an `ADMUNet`.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output; `2 * in_channels` for a network that also predicts a variance.
        channels: width in units of which `multipliers` count.
        multipliers: width of each level; each further level halves the grid.
        blocks: residual blocks per level on the way down (one more on the way up).
        attention: levels, 0 the finest, that have self-attention after each residual block. The public configurations
            name resolutions: 16 of an image of 256 pixels is level 4.
        heads: heads of each attention layer, where `head_channels` is None.
        head_channels: channels of one head; the number of heads follows from the width.
        legacy_attention: heads are split before queries, keys and values (`use_new_attention_order` false).
        scale_shift: the time embedding scales and shifts the second normalization of a residual block, else is added.
        residual_resampling: the grid changes inside residual blocks (`resblock_updown`), else by layers of their own.
        learned_resampling: those layers have a convolution (`conv_resample`).
        classes: number of classes that the network is conditioned on; 0 for none.
        dropout: dropout rate inside residual blocks while training.

    Example:
        >>> ADMConfig(channels=32, multipliers=(1, 2), attention=(1,), head_channels=16).out_channels  # mean, variance
        6
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    dynamics: ClassVar[tuple[str, ...]] = ()

    in_channels: int = 3
    out_channels: int = 6
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 1
    attention: tuple[int, ...] = (4,)
    heads: int = 1
    head_channels: int | None = 64
    legacy_attention: bool = True
    scale_shift: bool = True
    residual_resampling: bool = True
    learned_resampling: bool = True
    classes: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        widths = {level: self.channels * m for level, m in enumerate(self.multipliers)}
        if any(width % GROUPS for width in widths.values()):
            raise ConfigError(
                f"widths {sorted(set(widths.values()))} do not divide into {GROUPS} groups",
                hint="change channels or multipliers",
            )
        if bad := [level for level in self.attention if level not in widths]:
            raise ConfigError(
                f"attention at level {bad[0]}, but levels end at {len(widths) - 1}", hint="0 is the finest"
            )
        for width in {widths[level] for level in self.attention} | {widths[len(widths) - 1]}:
            if width % (self.head_channels or self.heads):
                what = f"heads of {self.head_channels}" if self.head_channels else f"{self.heads} heads"
                raise ConfigError(f"{width} channels do not divide into {what}", hint="change heads or head_channels")

    @property
    def grid(self) -> tuple[int, int]:
        """Of what height and width of an image are multiples."""
        multiple = 2 ** (len(self.multipliers) - 1)
        return multiple, multiple

    def build(self) -> ADMUNet:
        """A new network of this shape."""
        return ADMUNet(self)


FFHQ_256 = ADMConfig()
"""FFHQ at 256 pixels (Choi et al. 2021, `ffhq_10m.pt`)."""

IMAGENET_256 = ADMConfig(channels=256, blocks=2, attention=(3, 4, 5))
"""ImageNet at 256 pixels, unconditional (Dhariwal and Nichol 2021, `256x256_diffusion_uncond.pt`)."""

LDM_VQ4 = ADMConfig(
    out_channels=3,
    channels=224,
    multipliers=(1, 2, 3, 4),
    blocks=2,
    attention=(1, 2, 3),
    head_channels=32,
    scale_shift=False,
    residual_resampling=False,
)
"""Latents 3x64x64 of faces (Rombach et al. 2022: FFHQ and CelebA-HQ at 256 pixels, with the autoencoder `vq-f4`)."""


class Resample(nn.Module):
    """Halves (`op`) or doubles (`conv`) the grid, with a convolution or without."""

    def __init__(self, channels: int, *, up: bool, learned: bool) -> None:
        super().__init__()
        self.up = up
        if learned and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif up:
            self.conv = nn.Identity()
        else:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")) if self.up else self.op(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the time embedding between them, and a skip connection; may change the grid on the way."""

    def __init__(self, inputs: int, outputs: int, config: ADMConfig, *, resample: Resample | None = None) -> None:
        super().__init__()
        self.scale_shift = config.scale_shift
        self.resample = resample or nn.Identity()  # without parameters, so without keys
        self.in_layers = nn.Sequential(norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        features = 2 * outputs if config.scale_shift else outputs
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, features))
        last = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.out_layers = nn.Sequential(norm(outputs), nn.SiLU(), nn.Dropout(config.dropout), last)
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
        features = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = features.chunk(2, dim=1)
            h = self.out_layers[1:](torch.addcmul(shift, self.out_layers[0](h), 1 + scale))
        else:
            h = self.out_layers(h + features)
        return self.skip_connection(self.resample(x)) + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels of the grid, with a skip connection."""

    def __init__(self, channels: int, config: ADMConfig) -> None:
        super().__init__()
        self.heads = channels // config.head_channels if config.head_channels else config.heads
        self.legacy = config.legacy_attention
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.legacy:  # (heads, 3, channels of a head)
            q, k, v = qkv.unflatten(1, (self.heads, 3, -1)).unbind(2)
        else:  # (3, heads, channels of a head)
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        h = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        return (flat + self.proj_out(h.flatten(1, 2))).view_as(x)


class Stage(nn.Sequential):
    """Layers in a row, of which the residual blocks see the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class ADMUNet(nn.Module):
    """U-Net of an `ADMConfig`: x of shape (B, in_channels, H, W), times and classes of shape (B,).

    H and W are multiples of `2**(levels - 1)`. Times are the indices 0..999.

    Example:
        >>> network = ADMUNet(ADMConfig(channels=32, multipliers=(1, 2), attention=(1,), head_channels=32))
        >>> network(torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])).shape
        torch.Size([2, 6, 16, 16])
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        width = 4 * config.channels
        self.time_embed = nn.Sequential(nn.Linear(config.channels, width), nn.SiLU(), nn.Linear(width, width))
        if config.classes:
            self.label_emb = nn.Embedding(config.classes, width)
        first = config.channels * config.multipliers[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(config.in_channels, first, 3, padding=1))])
        skips, current = [first], first
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self.input_blocks.append(_stage(current, config.channels * multiplier, level, config))
                current = config.channels * multiplier
                skips.append(current)
            if level < len(config.multipliers) - 1:
                self.input_blocks.append(Stage(_resampling(current, config, up=False)))
                skips.append(current)
        middle = [ResidualBlock(current, current, config) for _ in range(2)]
        self.middle_block = Stage(middle[0], SelfAttention(current, config), middle[1])
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for _ in range(config.blocks + 1):
                self.output_blocks.append(_stage(current + skips.pop(), config.channels * multiplier, level, config))
                current = config.channels * multiplier
            if level > 0:
                self.output_blocks[-1].append(_resampling(current, config, up=True))  # pyright: ignore
        self.out = nn.Sequential(
            norm(current), nn.SiLU(), zeroed(nn.Conv2d(current, config.out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        features = sinusoids(t, self.config.channels).to(next(self.time_embed.parameters()).dtype)
        embedding = self.time_embed(features)
        if self.config.classes:
            if classes is None:
                raise ConfigError("this network is conditioned on a class, and none was given", hint="pass classes")
            embedding = embedding + self.label_emb(classes)
        skips, h = [], x
        for stage in self.input_blocks:
            h = stage(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


def visible_config(state: Mapping[str, Tensor]) -> ADMConfig:
    """The configuration that the keys and shapes of a checkpoint show.

    Heads, the order of attention and dropout leave no trace. Here they are heads of 64 channels where the widths allow,
    else one head, and the legacy order.

    Raises:
        ConfigError: If the keys are not those of a guided-diffusion U-Net.
    """
    try:
        stem = state["input_blocks.0.0.weight"]
        blocks, resampling = _resampling_stage(state)
        stages = _indices(state, "input_blocks.")
        first = range(1, max(stages) + 1, blocks + 1)  # stage of each level
        features, outputs = (state[f"input_blocks.1.0.{name}.weight"] for name in ("emb_layers.1", "in_layers.2"))
        channels = state["time_embed.0.weight"].shape[1]
        widths = [state[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in first]
        return ADMConfig(
            in_channels=stem.shape[1],
            out_channels=state["out.2.weight"].shape[0],
            channels=channels,
            multipliers=tuple(width // channels for width in widths),
            blocks=blocks,
            attention=tuple(level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in state),
            head_channels=64 if all(width % 64 == 0 for width in widths) else None,
            scale_shift=features.shape[0] == 2 * outputs.shape[0],
            residual_resampling=resampling == "in_layers",
            learned_resampling=resampling != "",
            classes=state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0,
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the weights are not those of a guided-diffusion U-Net: no {error}", hint="which network wrote the file?"
        ) from None


def _resampling_stage(state: Mapping[str, Tensor]) -> tuple[int, str]:
    """Index of the first output stage that doubles the grid, which is `blocks`, and what it does it with.

    Returns:
        blocks: residual blocks per level.
        resampling: "in_layers" (a residual block), "conv", or "" where the grid changes without parameters.
    """
    found = {}
    for key in state:
        place, _, rest = key.removeprefix("output_blocks.").partition(".")
        position, _, name = rest.partition(".")
        if key.startswith("output_blocks.") and position != "0" and name.startswith(("in_layers.", "conv.")):
            found[int(place)] = name.partition(".")[0]
    if found:
        return min(found), found[min(found)]
    stages = _indices(state, "input_blocks.")
    absent = sorted(set(range(max(stages))) - stages)  # halving without parameters leaves a gap
    return (absent[0] if absent else len(stages)) - 1, "" if absent else "in_layers"


def _indices(state: Mapping[str, Tensor], prefix: str) -> set[int]:
    return {int(key.removeprefix(prefix).partition(".")[0]) for key in state if key.startswith(prefix)}


def sinusoids(t: Tensor, channels: int) -> Tensor:
    """Cosines, then sines, of t times rates that fall from 1 towards 1/10000: shape (B, channels), float32."""
    pairs = channels // 2
    rates = torch.arange(pairs, dtype=torch.float32, device=t.device) / pairs
    angles = t.float()[:, None] * torch.exp(-math.log(10_000.0) * rates)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    """Normalization in groups, as everywhere in this network."""
    return nn.GroupNorm(GROUPS, channels)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all parameters zero, as last layers start."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _stage(inputs: int, outputs: int, level: int, config: ADMConfig) -> Stage:
    attention = [SelfAttention(outputs, config)] if level in config.attention else []
    return Stage(ResidualBlock(inputs, outputs, config), *attention)


def _resampling(channels: int, config: ADMConfig, *, up: bool) -> nn.Module:
    if not config.residual_resampling:
        return Resample(channels, up=up, learned=config.learned_resampling)
    return ResidualBlock(channels, channels, config, resample=Resample(channels, up=up, learned=False))
