"""From a recording to an inverse problem and back: window, what is given, units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.domains.ecg.leads import (
    MODELED,
    TWELVE,
    EcgFormat,
    determined,
    einthoven_error,
    modeled,
    parse_leads,
    twelve_leads,
    with_einthoven,
)
from midguide.domains.ecg.limbs import is_flat
from midguide.domains.ecg.recordings import Recording, nine_leads
from midguide.domains.ecg.scores import ecg_scores, hidden_of_twelve, mae
from midguide.errors import ConfigError, DataError
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.operators.mask import Mask
from midguide.priors.base import Denoiser
from midguide.problem import Problem


@dataclass(frozen=True, eq=False)
class Given:
    """A recording as it is used.

    Args:
        whole: without the leads that are flat or hold nothing.
        given: of that, the leads that are given.
        flat: leads that are not connected.
        absent: leads that hold nothing, or are not in the file.
    """

    whole: Recording
    given: Recording
    flat: tuple[str, ...]
    absent: tuple[str, ...]


def given(recording: Recording, leads: str | None) -> Given:
    """What a recording has, and what of it is given: the named leads, by default all.

    Raises:
        ConfigError: If a lead is unknown, or one augmented lead is the only limb lead that is given.
        DataError: If a named lead is flat or was not recorded, or no lead is left.
    """
    rows = dict(zip(recording.leads, recording.signal, strict=True))
    flat = tuple(name for name in TWELVE if name in rows and is_flat(rows[name]))
    there = tuple(name for name in TWELVE if name in rows and name not in flat and bool(rows[name].isfinite().any()))
    wanted = there if leads is None else parse_leads(leads)
    for what, names in (("is flat", flat), ("was not recorded", set(TWELVE) - {*there, *flat})):
        lacking = [name for name in wanted if name in names]
        if lacking:
            have = ", ".join(there) or "none"
            raise DataError(f"lead {', '.join(lacking)} {what}", hint=f"name leads that {recording.name} has: {have}")
    if not there:
        raise DataError(f"every lead of {recording.name} is flat or empty", hint="is it a recording?")
    modeled(wanted)
    whole, some = (
        replace(recording, leads=names, signal=torch.stack([rows[name] for name in names])) for names in (there, wanted)
    )
    known = {*determined(there), *flat}
    return Given(whole, some, flat, tuple(name for name in TWELVE if name not in known))


def window(given: Given, form: EcgFormat, samples: int, start: float) -> tuple[Tensor, Tensor]:
    """The part of a recording that a prior sees, and which of its values are given.

    What is given comes from the given leads alone; limb leads that are not are made to agree with it. A recording that
    is shorter than the prior's samples is seen as a whole, from its start.

    Args:
        given: the recording.
        form: of the prior.
        samples: that the prior sees.
        start: seconds from the beginning.

    Returns:
        Millivolts, NaN where nothing is known, and booleans, both of shape (9, samples).

    Raises:
        ConfigError: If `start` is not a time.
        DataError: If the recording ends before the window does.
    """
    if not 0 <= start < float("inf"):
        raise ConfigError(f"--start {start:g} is not a time in a recording", hint="seconds from its beginning, as 2.5")
    some, whole = nine_leads(given.given, form), nine_leads(given.whole, form)
    nine, known = torch.where(some.isfinite(), some, whole), some.isfinite()
    agreeing = with_einthoven(nine, known)
    nine = torch.where(agreeing.isfinite(), agreeing, nine)
    first = round((start - given.whole.begins) * form.rate_hz)
    if start == 0 and nine.shape[1] < samples:
        return nine, known
    if first + samples > nine.shape[1]:
        raise DataError(
            f"{given.whole.name} lasts {given.whole.lasts:g} s, "
            f"the window is {samples / form.rate_hz:g} s from {start:g} s on",
            hint="choose another --start, or a prior of shorter recordings",
        )
    return nine[:, first : first + samples], known[:, first : first + samples]


def observed(known: Tensor, hide: str | None, form: EcgFormat) -> Tensor:
    """What of the given values is outside the hidden seconds, boolean, shape (9, samples).

    Raises:
        ConfigError: If `hide` is not an interval of the window.
        DataError: If nothing is given, or nothing is missing.
    """
    if hide is not None:
        first, last = _seconds(hide, known.shape[1] / form.rate_hz)
        times = torch.arange(known.shape[1]) / form.rate_hz
        known = known & ~((times >= first) & (times < last))
    if not bool(known.any()):
        raise DataError("no lead is observed in the window", hint="name a lead that was recorded with --leads")
    if bool(known.all()):
        raise DataError("nothing is missing", hint="hide something: --leads I, or --hide 1.28-2.56")
    return known


def remarks(given: Given, leads: str | None, known: Tensor, form: EcgFormat, length: int) -> list[str]:
    """What is hidden although nobody asked for it, or may be a mistake, in lines.

    Args:
        given: the recording.
        leads: those that were named, or None.
        known: which values of the window are given, shape (9, samples).
        form: of the prior.
        length: samples that the prior sees.
    """
    lines = [f"{given.whole.name}: {told}" for told in given.whole.remarks]
    lines += [f"lead {', '.join(given.flat)} is flat: taken as missing"] if given.flat else []
    if leads is None and given.absent:
        lines.append(f"lead {', '.join(given.absent)} was not recorded: hidden")
    rows = modeled(given.given.leads)
    for name, row in zip(MODELED, known, strict=True):
        gaps = int((~row).sum())
        if name in rows and gaps:
            lines.append(f"lead {name}: {gaps} missing values ({gaps / form.rate_hz:g} s) are hidden")
    if known.shape[1] < length:
        seconds = [samples / form.rate_hz for samples in (known.shape[1], length)]
        lines.append(f"the recording ends after {seconds[0]:g} s, the prior sees {seconds[1]:g} s: is the rate right?")
    return lines


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
    return with_einthoven(torch.where(observed, window, nine), observed)


def median(nine: Tensor, observed: Tensor) -> Tensor:
    """The median of completed samples, entry by entry, then made to agree in the limb leads, shape (9, samples)."""
    return with_einthoven(nine.quantile(0.5, dim=0), observed)


def scores(nine: Tensor, window: Tensor, observed: Tensor) -> dict[str, Any]:
    """`ecg_scores` and the error of zero where the hidden part is known, else None for all that need it."""
    if not bool(window.isfinite().all()):
        names = dict.fromkeys(ecg_scores(torch.zeros(2, *window.shape), torch.zeros(window.shape), observed))
        return names | {"mae_zero_mv": None, "einthoven_max_mv": float(einthoven_error(twelve_leads(nine)).max())}
    zero = mae(torch.zeros(1, len(TWELVE), window.shape[1]), twelve_leads(window), hidden_of_twelve(observed))
    return ecg_scores(nine, window, observed) | {"mae_zero_mv": float(zero)}


def _seconds(text: str, duration: float) -> tuple[float, float]:
    """The ends of an interval FROM-TO inside the window."""
    try:
        first, last = (float(part) for part in text.split("-"))
    except ValueError:
        raise ConfigError(f"--hide takes FROM-TO in seconds, got {text!r}", hint="for example 1.28-2.56") from None
    if not 0 <= first < last <= duration:
        raise ConfigError(f"--hide {text} is not part of the window of {duration:g} s", hint="seconds from its start")
    return first, last
