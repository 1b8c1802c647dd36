"""Is the autoencoder of a prior of latents used as it was trained? How well signals come back, under other readings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from midguide.diagnostics.prior import RANGES, THRESHOLD, Finding, moved, show
from midguide.priors.base import Autoencoder


def check_autoencoder(autoencoder: Autoencoder, signals: Tensor) -> list[Finding]:
    """The convention of an autoencoder's signals that is likely wrong: their value range, or the order of channels.

    It measures `|d(e(x)) - x|^2` over the variance of the signals, as they are and under every other reading. It names
    a reading that is better by more than `THRESHOLD` (mean logarithm over signals).

    Args:
        autoencoder: of a prior of latents, as declared.
        signals: in the declared value range, shape (N, *event).

    Returns:
        One finding of the kind `value range` or `channels`, or none.

    Example:
        >>> from midguide import load_prior
        >>> autoencoder = load_prior("faces-64-latent").autoencoder
        >>> check_autoencoder(autoencoder, torch.linspace(-1, 1, 64).expand(1, 3, 64, 64).contiguous())
        []
    """
    base = _error(autoencoder, signals)
    found = [
        (float((base / _error(autoencoder, view(signals))).log().mean()), kind, message)
        for kind, message, view in _readings(autoencoder, signals)
    ]
    gain, kind, message = max(found, default=(0.0, "", ""))
    return [Finding(kind, message, math.exp(gain))] if gain > THRESHOLD else []


def _readings(autoencoder: Autoencoder, signals: Tensor) -> Iterator[tuple[str, str, Callable[[Tensor], Tensor]]]:
    """Kind, message and view of every other reading."""
    declared = autoencoder.value_range
    for limits in RANGES:
        if declared is not None and limits != declared:
            message = f"the autoencoder is better with data in {show(limits)}, declared {show(declared)}"
            yield "value range", message, lambda x, to=limits: moved(x, declared, to)
    if signals.ndim == 4 and signals.shape[1] == 3:
        message = "the autoencoder is better with the channels in reverse order: BGR, not RGB"
        yield "channels", message, lambda x: x.flip(1)


def _error(autoencoder: Autoencoder, signals: Tensor) -> Tensor:
    """Squared error of each signal that went through, over the variance of all, shape (N,)."""
    with torch.no_grad():
        back = autoencoder.decode(autoencoder.encode(signals)).double()
    return (back - signals).square().flatten(1).mean(1).clamp_min(1e-12) / signals.double().var(correction=0)
