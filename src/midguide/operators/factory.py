"""`make_operator`: an operator by name, for signals of a shape and range."""

from __future__ import annotations

import torch

from midguide.errors import ShapeError
from midguide.maths.environment import in_fixed_environment
from midguide.operators.base import OPERATORS, Operator
from midguide.operators.rescaling import rescaled


@in_fixed_environment
def make_operator(
    name: str,
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
    **settings: object,
) -> Operator:
    """Build an operator of the catalogue and try it once on zeros.

    Args:
        name: of `midguide list operators`, with or without a preset (`box-inpainting:paper`), or `FILE.py:NAME`.
        event_shape: shape of one signal; images are (channels, height, width).
        seed: seed of whatever the operator draws.
        value_range: smallest and largest value of signals, `signal_range` of a prior: an operator made for another
            range is rescaled. None: the range that the operator is made for.
        settings: the operator's own settings, on top of the preset's.

    Raises:
        ConfigError: If the name, a preset or a setting is unknown, or a setting is missing or impossible; or inside
            `torch.inference_mode`.
        ShapeError: If the operator does not fit the event.

    Example:
        >>> make_operator("super-resolution", (3, 64, 64), factor=4)
        BlockMean(factor=4, made_from=super-resolution(factor=4))
    """
    entry, plain = OPERATORS.resolve(name, settings)
    if not event_shape or any(not isinstance(size, int) or size < 1 for size in event_shape):
        raise ShapeError(
            f"an event shape is a tuple of positive integers, got {event_shape!r}",
            hint="(3, 64, 64) for RGB",
        )
    operator = rescaled(entry.make(plain, tuple(event_shape), seed=seed), value_range)
    object.__setattr__(operator, "made_from", {"name": entry.name, "settings": plain, "seed": seed})
    operator(torch.zeros(operator.observations or 1, *event_shape))
    return operator
