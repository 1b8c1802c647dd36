"""Operators by name, for configuration files and the command line.

A new operator is one file with a factory `(event_shape, *, seed=0, **settings) -> Operator`, whose keyword arguments
with their types are the operator's settings, and one line in `OPERATORS`. Lengths among the settings are those of an
image with 256 pixels and scale with the image. `PRESETS` are settings with a name, written `operator:preset`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args, get_type_hints

import torch

from midguide.errors import ConfigError, ShapeError, unknown
from midguide.operators import (
    bicubic,
    blur,
    colorization,
    compressed_sensing,
    decomposed,
    ecg,
    high_dynamic_range,
    jpeg,
    mask,
    matrix,
    nonlinear_blur,
    phase_retrieval,
    separable_blur,
    super_resolution,
)
from midguide.operators.base import Operator
from midguide.operators.rescaled import rescaled


@dataclass(frozen=True)
class OperatorEntry:
    """What is known of a registered operator.

    Args:
        build: the factory.
        summary: one line for lists.
        needs: what it needs of the signal, in words for lists; anything else is refused.
    """

    build: Callable[..., Operator]
    summary: str
    needs: str

    @property
    def operator(self) -> type[Operator]:
        """The class of the operators that it makes."""
        return get_type_hints(self.build)["return"]

    @property
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """The settings of the operator with their types and defaults, in the order of the factory."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "seed"}


_RANGE = "values in the prior's range, else -1 to 1"

OPERATORS: dict[str, OperatorEntry] = {
    "bicubic": OperatorEntry(bicubic.bicubic, "bicubic downsampling", "an image, its sides multiples of factor"),
    "box-inpainting": OperatorEntry(mask.box_inpainting, "a box is hidden", "an image that holds the box"),
    "colorization": OperatorEntry(
        colorization.colorization, "mean or luma of the channels", "an image with channels; luma: three"
    ),
    "compressed-sensing": OperatorEntry(
        compressed_sensing.compressed_sensing,
        "random combinations of the pixels",
        "an image; hadamard: a power of two of pixels; gaussian: up to 4,096",
    ),
    "ecg-missing-block": OperatorEntry(ecg.missing_block, "one half of an electrocardiogram is hidden", "nine leads"),
    "ecg-missing-leads": OperatorEntry(ecg.missing_leads, "some leads of an electrocardiogram are known", "nine leads"),
    "gaussian-blur": OperatorEntry(
        separable_blur.gaussian_blur,
        "Gaussian blur, reflect padding",
        "an image not smaller than the kernel",
    ),
    "gaussian-blur-circular": OperatorEntry(
        blur.gaussian_blur_circular, "Gaussian blur, wraps around", "an image not smaller than the kernel"
    ),
    "gaussian-blur-separable": OperatorEntry(
        separable_blur.gaussian_blur_separable,
        "Gaussian blur, zero padding, small singular values cut",
        "an image not smaller than the kernel",
    ),
    "half-mask": OperatorEntry(
        mask.half_inpainting, "one half of the image is hidden", "an image of at least two rows or columns"
    ),
    "high-dynamic-range": OperatorEntry(
        high_dynamic_range.high_dynamic_range, f"multiplied and clipped; {_RANGE}", "nothing"
    ),
    "identity": OperatorEntry(matrix.identity, "everything is measured: denoising", "nothing"),
    "jpeg": OperatorEntry(jpeg.jpeg, f"compressed and opened again; {_RANGE}", "an image with channels"),
    "mask-file": OperatorEntry(
        mask.file_inpainting,
        "an image file says what is measured (white)",
        "an image of the size of the file at path",
    ),
    "motion-blur": OperatorEntry(
        blur.motion_blur, "blur by camera shake, reflect padding", "an image not smaller than the kernel"
    ),
    "motion-blur-decomposed": OperatorEntry(
        decomposed.motion_blur_decomposed,
        "the same, decomposed",
        "an image not smaller than the kernel, of up to 4,096 pixels",
    ),
    "nonlinear-blur": OperatorEntry(
        nonlinear_blur.nonlinear_blur,
        f"blur in kernel space, or by a camera that shakes in linear light; {_RANGE}",
        "an image with channels; weights: three, sides multiples of 128",
    ),
    "phase-retrieval": OperatorEntry(
        phase_retrieval.phase_retrieval,
        f"modulus of the Fourier transform of the padded image; {_RANGE}",
        "an image",
    ),
    "random-inpainting": OperatorEntry(mask.random_inpainting, "a random fraction of pixels is measured", "nothing"),
    "super-resolution": OperatorEntry(
        super_resolution.super_resolution,
        "means of square blocks",
        "an image, its sides multiples of factor",
    ),
}


@dataclass(frozen=True)
class OperatorPreset:
    """Settings of an operator that have a name.

    Args:
        settings: keyword arguments of the factory.
        source: where they come from.
    """

    settings: Mapping[str, object]
    source: str


_PAPER = "Moufad et al. 2025"

PRESETS: dict[str, OperatorPreset] = {
    "bicubic:x16": OperatorPreset({"factor": 16}, "super-resolution x16 with bicubic weights"),
    "bicubic:x4": OperatorPreset({"factor": 4}, "super-resolution x4 with bicubic weights"),
    "box-inpainting:paper": OperatorPreset(
        {"box": 150.0, "top": 50.0, "left": 50.0}, f"{_PAPER}: rows and columns 50 to 199 of 256, not quite centred"
    ),
    "gaussian-blur-separable:paper": OperatorPreset(
        {"std": 3.0, "truncate": 4.0, "cut": 0.03}, f"{_PAPER}: for methods that need an SVD; 73 of 256 values kept"
    ),
    "gaussian-blur:paper": OperatorPreset(
        {"std": 3.0, "truncate": 4.0}, f"{_PAPER}: 25x25 pixels of 256, in a kernel of 61x61"
    ),
    "half-mask:right": OperatorPreset({"side": "right"}, f"{_PAPER}: half mask"),
    "half-mask:top": OperatorPreset({"side": "top"}, f"{_PAPER}: top mask"),
    "high-dynamic-range:paper": OperatorPreset({"scale": 2.0}, _PAPER),
    "jpeg:paper": OperatorPreset(
        {"quality": 2, "tables": "unclamped", "subsampling": "4:2:0"}, f"{_PAPER}: quality 2, tables as in its code"
    ),
    "motion-blur-decomposed:paper": OperatorPreset(
        {"size": 61.0, "intensity": 0.5}, f"{_PAPER}: 61x61 pixels of 256; for methods that need an SVD"
    ),
    "motion-blur:paper": OperatorPreset({"size": 61.0, "intensity": 0.5}, f"{_PAPER}: 61x61 pixels of 256"),
    "nonlinear-blur:paper": OperatorPreset(
        {"strength": 1.2}, f"{_PAPER}: codes of 1.2 N(0, I), drawn once; its network takes weights = FILE"
    ),
    "phase-retrieval:paper": OperatorPreset({"oversampling": 2.0}, f"{_PAPER}: 256 pixels become 384"),
    "super-resolution:x16": OperatorPreset({"factor": 16}, f"{_PAPER}: super-resolution x16"),
    "super-resolution:x4": OperatorPreset({"factor": 4}, f"{_PAPER}: super-resolution x4"),
}


def make_operator(
    name: str,
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    **settings: object,
) -> Operator:
    """Build an operator of the registry and try it once on zeros.

    Args:
        name: a key of `OPERATORS`, or of `PRESETS`, `box-inpainting:paper`.
        event_shape: shape of one signal; images are (channels, height, width).
        seed: seed of whatever the operator draws.
        value_range: smallest and largest value of signals, `signal_range` of a prior: an operator made for another
            range is rescaled. None: the range that the operator is made for.
        settings: the operator's own settings, on top of the preset's.

    Raises:
        ConfigError: the name, a preset or a setting is unknown, a setting is missing or has an impossible value.
        ShapeError: the operator does not fit the event.

    Example:
        >>> make_operator("super-resolution", (3, 64, 64), factor=4)
        BlockMean(factor=4)
    """
    name, settings = _preset(name, settings)
    if name not in OPERATORS:
        raise unknown("operator", name, OPERATORS)
    if not event_shape or any(not isinstance(size, int) or size < 1 for size in event_shape):
        raise ShapeError(
            f"an event shape is a tuple of positive integers, got {event_shape!r}",
            hint="(3, 64, 64) for RGB",
        )
    entry = OPERATORS[name]
    _check_settings(name, entry.settings, settings)
    operator = rescaled(entry.build(tuple(event_shape), seed=seed, **settings), value_range)
    operator(torch.zeros(operator.observations or 1, *event_shape))
    return operator


def _preset(name: str, settings: dict[str, object]) -> tuple[str, dict[str, object]]:
    """The operator that `operator:preset` names, and the preset's settings changed by `settings`."""
    operator, colon, preset = name.partition(":")
    if not colon or operator not in OPERATORS:
        return operator, settings
    if name not in PRESETS:
        known = ", ".join(key for key in PRESETS if key.startswith(f"{operator}:"))
        raise ConfigError(f"the operator {operator!r} has no preset {preset!r}", hint=f"its presets: {known or 'none'}")
    return operator, {**PRESETS[name].settings, **settings}


def _check_settings(name: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, object]) -> None:
    """Refuse settings that the operator does not have, lacks, or that have the wrong type."""
    listing = ", ".join(f"{key} ({inspect.formatannotation(p.annotation)})" for key, p in known.items())
    hint = f"its settings: {listing or 'none'}"
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"the operator {name!r} has no setting {key!r}", hint=hint)
        if not _fits(value, known[key].annotation):
            raise ConfigError(f"the setting {key!r} of {name!r} cannot be {value!r}", hint=hint)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise ConfigError(f"the operator {name!r} needs the setting {key!r}", hint=hint)


def _fits(value: object, annotation: object) -> bool:
    """Whether a value of a configuration file has the annotated type and is finite; integers serve as floats."""
    types = tuple(part for part in get_args(annotation) or (annotation,) if isinstance(part, type))
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, types) or (isinstance(value, int) and float in types)
