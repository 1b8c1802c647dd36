"""Operators by name, for configuration files and the command line.

A new operator is one file with a factory `(event_shape, *, seed=0, **settings) -> Operator`, whose keyword arguments
with their types are the operator's settings, and one line in `OPERATORS`. Lengths among the settings are those of an
image with 256 pixels and scale with the image.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import blur, ecg, mask, matrix, separable_blur, super_resolution
from midguide.operators.base import Operator


@dataclass(frozen=True)
class OperatorEntry:
    """What is known of a registered operator.

    Args:
        build: the factory.
        summary: one line for lists.
        linear: it makes a `LinearOperator`.
        svd: it makes an `SVDOperator`.
    """

    build: Callable[..., Operator]
    summary: str
    linear: bool
    svd: bool

    @property
    def settings(self) -> Mapping[str, inspect.Parameter]:
        """The settings of the operator with their types and defaults, in the order of the factory."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "seed"}


OPERATORS: dict[str, OperatorEntry] = {
    "box-inpainting": OperatorEntry(mask.box_inpainting, "a box is hidden", True, True),
    "ecg-missing-block": OperatorEntry(ecg.missing_block, "one half of an electrocardiogram is hidden", True, True),
    "ecg-missing-leads": OperatorEntry(ecg.missing_leads, "some leads of an electrocardiogram are known", True, True),
    "gaussian-blur": OperatorEntry(blur.gaussian_blur, "Gaussian blur, reflect padding", True, False),
    "gaussian-blur-circular": OperatorEntry(blur.gaussian_blur_circular, "Gaussian blur, wraps around", True, True),
    "gaussian-blur-separable": OperatorEntry(
        separable_blur.gaussian_blur_separable, "Gaussian blur, zero padding, small singular values cut", True, True
    ),
    "half-mask": OperatorEntry(mask.half_inpainting, "one half of the image is hidden", True, True),
    "identity": OperatorEntry(matrix.identity, "everything is measured: denoising", True, True),
    "mask-file": OperatorEntry(mask.file_inpainting, "an image file says what is measured (white)", True, True),
    "random-inpainting": OperatorEntry(mask.random_inpainting, "a random fraction of pixels is measured", True, True),
    "super-resolution": OperatorEntry(super_resolution.super_resolution, "means of square blocks", True, True),
}


def make_operator(name: str, event_shape: tuple[int, ...], *, seed: int = 0, **settings: object) -> Operator:
    """Build an operator of the registry and try it once on zeros.

    Args:
        name: a key of `OPERATORS`.
        event_shape: shape of one signal; images are (channels, height, width).
        seed: seed of whatever the operator draws.
        settings: the operator's own settings.

    Raises:
        ConfigError: the name or a setting is unknown, a setting is missing or has an impossible value.
        ShapeError: the operator does not fit the event.

    Example:
        >>> make_operator("super-resolution", (3, 64, 64), factor=4)
        BlockMean(factor=4)
    """
    if name not in OPERATORS:
        raise ConfigError(f"unknown operator {name!r}", hint=_suggest(name, OPERATORS))
    if not event_shape or any(not isinstance(size, int) or size < 1 for size in event_shape):
        raise ShapeError(f"an event shape is a tuple of positive integers, got {event_shape!r}")
    entry = OPERATORS[name]
    _check_settings(name, entry.settings, settings)
    operator = entry.build(tuple(event_shape), seed=seed, **settings)
    operator(torch.zeros(operator.observations or 1, *event_shape))
    return operator


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
    """Whether a value of a configuration file has the annotated type; integers serve as floats, booleans do not."""
    types = tuple(part for part in get_args(annotation) or (annotation,) if isinstance(part, type))
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(known)}"
