"""Nonlinear blur: a code, drawn once for each observation and kept, says what the image becomes.

Either by the network of Tran et al. (2021), for those who have its weights (`midguide.nn.kernel_space`), or by
`ShakenCamera`, a stand-in of our own that needs none. Both take codes of 512 channels.

Difference from common practice: The implementation of DPS (Chung et al. 2023), and those after it, draw a new code
whenever they evaluate the operator, also inside the gradient. Their forward model is then random, and not the one that
made the observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.errors import ConfigError, ShapeError
from midguide.maths.rng import Rng
from midguide.nn.kernel_space import load_kernel_space
from midguide.operators.base import OPERATORS, Operator, check_rows, image_size, observation_streams, scaled
from midguide.operators.blur import ReflectBlur
from midguide.operators.motion_kernel import motion_kernel

CODE_CHANNELS = 512
KERNELS = 8
SHARPNESS = 3.0
"""Size of the scores for a code of unit size: at 3 a few of the kernels make most of the mixture."""


class BlurModel(Protocol):
    """A module that blurs images in [0, 1], shape (B, C, H, W), as a code says, shape (B, *code_shape(C, H, W))."""

    def code_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]: ...

    def __call__(self, image: Tensor, code: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class NonlinearBlur(Operator):
    """`y = clip(2 G((x + 1) / 2, k) - 1, -1, 1)` with a blur model G and a code k.

    Args:
        model: G.
        code: k, shape (K, h, w).
        per_observation: the code has a leading axis with one code for each observation.

    Raises:
        ShapeError: If the code does not fit the image.

    Example:
        >>> blur = nonlinear_blur((3, 16, 16))
        >>> blur(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    model: BlurModel
    code: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("code",)

    @property
    def value_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        check_rows(self, x)
        wanted = _code_shape(self.model, tuple(x.shape[1:]))
        code = self.code if self.per_observation else self.code[None]
        if tuple(code.shape[1:]) != wanted:
            raise ShapeError(
                f"a code of shape {tuple(self.code.shape)} does not fit images of shape {tuple(x.shape[1:])}",
                hint=f"they take codes of shape {wanted}; with one for each observation, set per_observation=True",
            )
        y = self.model((x + 1) / 2, code.to(x).expand(len(x), *wanted))
        return (2 * y - 1).clamp(-1, 1)


class ShakenCamera(nn.Module):
    """A camera that shakes differently in each part of the image, and whose pixels store light nonlinearly.

    `G(x, k) = r(sum_m w_m (K_m * r^-1(x)))`. The inverse of the sRGB response r makes light of pixel values. Eight
    fixed kernels of camera shake blur the light, the first sharp, the last 61 pixels wide in 256. Weights w_m that vary
    smoothly over the image mix them, and the sum becomes pixel values again. Unlike a blur of the pixel values,
    highlights bleed far into the dark. Each corner of the image has weights of its own, the softmax of eight scores. A
    score is the sum of 64 channels of the code, scaled to three times the code's own size. Between the corners, scores
    are interpolated.

    Args:
        kernels: K_m, shape (8, k, k), each of sum one.
    """

    def __init__(self, kernels: Tensor) -> None:
        super().__init__()
        self.kernels: Tensor
        self.register_buffer("kernels", kernels)

    @classmethod
    def create(cls, height: int, width: int) -> Self:
        """Kernels up to 61 pixels for images of 256, scaled to the shorter side; the same for every seed."""
        largest = scaled(61.0, min(height, width))
        sides = [2 * round((largest * m / (KERNELS - 1) - 1) / 2) + 1 for m in range(KERNELS)]
        kernels = torch.zeros(KERNELS, sides[-1], sides[-1], dtype=torch.float64)
        for m, side in enumerate(sides):
            margin, size = (sides[-1] - max(side, 1)) // 2, max(side, 1)
            kernel = motion_kernel(size, 0.5, Rng([("shaken camera", m)]))
            kernels[m, margin : margin + size, margin : margin + size] = kernel
        return cls(kernels)

    def code_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return CODE_CHANNELS, 2, 2

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        scores = SHARPNESS * code.unflatten(1, (KERNELS, -1)).sum(2) / math.sqrt(CODE_CHANNELS / KERNELS)
        weights = F.interpolate(scores, image.shape[-2:], mode="bilinear", align_corners=True).softmax(1)
        light = srgb_to_light(image)
        blurred = sum(weights[:, m, None] * ReflectBlur(self.kernels[m])(light) for m in range(KERNELS))
        return light_to_srgb(torch.as_tensor(blurred))


def srgb_to_light(value: Tensor) -> Tensor:
    """Light of a pixel value, both in [0, 1] (IEC 61966-2-1); linear below 0.04045, also for negative values.

    The straight piece keeps all derivatives finite.
    """
    curved = ((value.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(value > 0.04045, curved, value / 12.92)


def light_to_srgb(light: Tensor) -> Tensor:
    """Pixel value of light, the inverse of `srgb_to_light`."""
    curved = 1.055 * light.clamp_min(0.04045 / 12.92) ** (1 / 2.4) - 0.055
    return torch.where(light > 0.04045 / 12.92, curved, 12.92 * light)


@OPERATORS.register(
    "nonlinear-blur",
    summary="blur in kernel space, or by a shaking camera in linear light; values in the prior's range, else -1 to 1",
    needs="an image with channels; weights: three, sides multiples of 128",
)
def nonlinear_blur(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    weights: str | None = None,
    strength: float = 1.2,
    count: int | None = None,
) -> NonlinearBlur:
    """Blur by a code `strength * N(0, I)`, by the published network where its `weights` are given.

    Code i comes from the stream (seed, "nonlinear-blur", i); `count` is how many observations get a code of their own,
    None for one code that serves all.
    """
    if not strength >= 0.0:
        raise ConfigError(f"strength must not be negative, got {strength:g}", hint="1.2 in the MGPS paper")
    height, width = image_size(event_shape)
    model = ShakenCamera.create(height, width) if weights is None else load_kernel_space(weights)
    like = torch.empty(1, *_code_shape(model, event_shape))
    codes = strength * torch.cat([rng.normal(like) for rng in observation_streams(seed, "nonlinear-blur", count)])
    return NonlinearBlur(model, codes[0]) if count is None else NonlinearBlur(model, codes, per_observation=True)


def _code_shape(model: BlurModel, event_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(event_shape) != 3:
        raise ShapeError(
            f"nonlinear blur takes images of shape (channels, H, W), got {event_shape}", hint="add an axis of channels"
        )
    return model.code_shape(*event_shape)
