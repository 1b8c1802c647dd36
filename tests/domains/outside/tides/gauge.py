"""An operator: a gauge that is read every few hours."""

import torch

from midguide.errors import ConfigError
from midguide.operators.base import OPERATORS
from midguide.operators.mask import Mask


@OPERATORS.register("tide-gauge", summary="levels are read every few hours", needs="levels, shape (1, hours)")
def tide_gauge(event_shape: tuple[int, ...], *, seed: int = 0, every: int = 3) -> Mask:
    """Read the level every `every` hours."""
    if every < 1:
        raise ConfigError(f"every must be at least 1, got {every}")
    return Mask((torch.arange(event_shape[-1]) % every == 0).expand(event_shape))
