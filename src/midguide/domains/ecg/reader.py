"""Reads what `midguide ecg reconstruct` wrote, for `midguide view`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from midguide.domains.ecg.leads import TWELVE
from midguide.errors import DataError
from midguide.signals.base import Axis, Signal
from midguide.storage.outside import arrays_of
from midguide.web.base import READERS, Viewed
from midguide.web.readers.samples import RESULT, described, lines_of, metrics_of

FILE = "samples.npz"


@READERS.register("ecg")
def reconstruction(path: Path, observation: int) -> Viewed | None:
    """A folder of `midguide ecg reconstruct`: twelve leads in millivolts."""
    if not os.path.isfile(path / FILE):
        return None
    try:
        arrays = arrays_of(RESULT, path / FILE)
        known = {name: torch.from_numpy(arrays[name]) for name in ("samples_mv", "observed")}
        rate, leads = float(arrays["rate_hz"]), tuple(map(str, arrays["leads"]))
        truth = torch.from_numpy(arrays["truth_mv"]) if "truth_mv" in arrays else None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path / FILE} is damaged: {error}", hint="draw it again") from error
    draws, observed = known["samples_mv"], known["observed"]
    if leads != TWELVE or draws.ndim != 3 or draws.shape[1] != len(TWELVE) or observed.shape != draws.shape[1:]:
        raise DataError(f"{path / FILE} holds no draws of twelve leads", hint="draw it again")
    if observation != 0:
        raise DataError(f"there is no observation {observation} in {path}", hint="it holds one, number 0")
    axes = Axis(name="lead", labels=TWELVE), Axis(name="time", unit="s", rate=rate)
    metrics = metrics_of(path)
    return Viewed(
        title=path.resolve().name,
        draws=draws.float(),
        signal=Signal(shape=tuple(draws.shape[1:]), unit="mV", axes=axes),
        truth=truth,
        measured=observed,
        verdict=lines_of(metrics.get("verdict", [])),
        facts=described(metrics, ("record", "prior", "sampler", "leads", "hide", "sigma_mv", "seed", "warning")),
    )
