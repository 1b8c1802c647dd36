"""From a recording to an inverse problem and back: window, what is given, units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.data.ecg import Recording, nine_leads
from midguide.denoisers.base import Denoiser
from midguide.errors import ConfigError, DataError
from midguide.leads import (
    MODELLED,
    TWELVE,
    EcgFormat,
    determined,
    einthoven_error,
    parse_leads,
    twelve_leads,
    with_einthoven,
)
from midguide.likelihoods import GaussianLikelihood
from midguide.metrics.signal import ecg_scores, hidden_of_twelve, mae
from midguide.operators.mask import Mask
from midguide.problem import Problem


def window(recording: Recording, form: EcgFormat, samples: int, start: float) -> Tensor:
    """The part of a recording that a prior sees, mV, shape (9, samples); NaN where nothing is known.

    A recording that is shorter than the prior's samples is seen as a whole, from its start.

    Raises:
        DataError: the recording ends before the window does.
    """
    nine, first = nine_leads(recording, form), round(start * form.rate_hz)
    if first == 0 and nine.shape[1] < samples:
        return nine
    if first < 0 or first + samples > nine.shape[1]:
        raise DataError(
            f"{recording.name} lasts {recording.seconds:g} s, "
            f"the window is {samples / form.rate_hz:g} s from {start:g} s on",
            hint="choose another --start, or a prior of shorter recordings",
        )
    return nine[:, first : first + samples]


def observed(window: Tensor, leads: str | None, hide: str | None, form: EcgFormat) -> Tensor:
    """What is given, boolean, shape (9, samples): what was recorded, in the given leads, outside the hidden seconds.

    Raises:
        ConfigError: a lead is unknown, or `hide` is no interval of the window.
        DataError: a given lead was not recorded, nothing is given, or nothing is missing.
    """
    given = window.isfinite()
    if leads is not None:
        wanted = determined(parse_leads(leads))
        rows = torch.tensor([name in wanted for name in MODELLED])
        lacking = [name for name, row, known in zip(MODELLED, rows, given, strict=True) if row and not known.any()]
        if lacking:
            raise DataError(f"lead {', '.join(lacking)} was not recorded", hint="name leads that the file has")
        given = given & rows[:, None]
    if hide is not None:
        first, last = _seconds(hide, window.shape[1] / form.rate_hz)
        times = torch.arange(window.shape[1]) / form.rate_hz
        given = given & ~((times >= first) & (times < last))
    if not bool(given.any()):
        raise DataError("no lead is observed in the window", hint="name a lead that was recorded with --leads")
    if bool(given.all()):
        raise DataError("nothing is missing", hint="hide something: --leads I, or --hide 1.28-2.56")
    return given


def problem(denoiser: Denoiser, window: Tensor, observed: Tensor, form: EcgFormat, sigma_mv: float) -> Problem:
    """What is known of the window, in units of the prior; what the prior has after its end counts as hidden."""
    beyond = (0, denoiser.event_shape[1] - window.shape[1])
    y, given = F.pad((window / form.unit_mv).float(), beyond)[None], F.pad(observed, beyond)
    return Problem(denoiser, GaussianLikelihood(Mask(given), y, sigma_mv / form.unit_mv))


def completed(nine: Tensor, window: Tensor, observed: Tensor) -> Tensor:
    """Samples with what was given in its place and with limb leads that agree, mV.

    Args:
        nine: samples, shape (n, 9, samples).
        window: shape (9, samples).
        observed: what of it was given, boolean, shape (9, samples).
    """
    return with_einthoven(torch.where(observed, window, nine), _given(observed))


def median(nine: Tensor, observed: Tensor) -> Tensor:
    """The median of completed samples, entry by entry, then made to agree in the limb leads, shape (9, samples)."""
    return with_einthoven(nine.quantile(0.5, dim=0), _given(observed))


def scores(nine: Tensor, window: Tensor, observed: Tensor) -> dict[str, Any]:
    """`ecg_scores` and the error of zero where the hidden part is known, else None for all that need it."""
    if not bool(window.isfinite().all()):
        names = dict.fromkeys(ecg_scores(torch.zeros(2, *window.shape), torch.zeros(window.shape), observed))
        return names | {"mae_zero_mv": None, "einthoven_max_mv": float(einthoven_error(twelve_leads(nine)).max())}
    zero = mae(torch.zeros(1, len(TWELVE), window.shape[1]), twelve_leads(window), hidden_of_twelve(observed))
    return ecg_scores(nine, window, observed) | {"mae_zero_mv": float(zero)}


def _given(observed: Tensor) -> list[str]:
    """Leads of which anything was given."""
    return [name for name, row in zip(MODELLED, observed, strict=True) if bool(row.any())]


def _seconds(text: str, duration: float) -> tuple[float, float]:
    """The ends of an interval FROM-TO inside the window."""
    try:
        first, last = (float(part) for part in text.split("-"))
    except ValueError:
        raise ConfigError(f"--hide takes FROM-TO in seconds, got {text!r}", hint="for example 1.28-2.56") from None
    if not 0 <= first < last <= duration:
        raise ConfigError(f"--hide {text} is no part of the window of {duration:g} s", hint="seconds from its start")
    return first, last
