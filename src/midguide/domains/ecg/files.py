"""Writing electrocardiograms: WFDB records and CSV, which appear complete or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midguide.domains.ecg.formats.wfdb import using_wfdb
from midguide.domains.ecg.leads import TWELVE, with_einthoven
from midguide.domains.ecg.recordings import Recording
from midguide.errors import DataError
from midguide.storage.files import replacing, replacing_folder

COUNTS_PER_MV = 2000
"""Of WFDB files. I and II are written as even counts, so that the augmented leads, their halves, are whole."""


def write_wfdb(folder: str | Path, name: str, recording: Recording, *, comments: tuple[str, ...] = ()) -> None:
    """Write `name.hea` and `name.dat` (format 16, 2000 counts per mV) into `folder`.

    It rounds values to 0.001 mV such that the relations between the limb leads hold exactly in the file.

    Args:
        folder: made where it is missing.
        name: letters, digits, hyphens and underscores.
        recording: the twelve leads in the usual order, up to 16 mV.
        comments: lines of the header.

    Raises:
        DataError: If the leads are others, values are missing or too large, or the file cannot be written.
        ConfigError: If the library wfdb is not installed.
    """
    if recording.leads != TWELVE or not bool((recording.signal.abs() * COUNTS_PER_MV < 2**15 - 1).all()):
        raise DataError(f"{recording.name}: a WFDB file takes twelve complete leads of at most 16 mV")
    with replacing_folder(folder) as place, using_wfdb() as wfdb:
        wfdb.wrsamp(
            name,
            fs=_whole(recording.rate_hz),
            units=["mV"] * len(TWELVE),
            sig_name=list(TWELVE),
            d_signal=_counts(recording.signal).numpy().T.astype(np.int16),
            fmt=["16"] * len(TWELVE),
            adc_gain=[COUNTS_PER_MV] * len(TWELVE),
            baseline=[0] * len(TWELVE),
            comments=list(comments),
            write_dir=str(place),
        )


def write_csv(path: str | Path, recording: Recording) -> None:
    """Write a header `time,I,II,...` and one row per sample: seconds and millivolts (nine decimals).

    Raises:
        DataError: If the file cannot be written.
    """
    times = np.arange(recording.signal.shape[1])[:, None] / recording.rate_hz
    table = np.concatenate([times, recording.signal.double().numpy().T], axis=1)
    with replacing(path) as temporary:
        header = ",".join(("time", *recording.leads))
        np.savetxt(
            temporary, table, fmt=["%.6f"] + ["%.9f"] * len(recording.leads), delimiter=",", header=header, comments=""
        )


def _counts(signal: Tensor) -> Tensor:
    """Twelve leads in counts whose limb leads agree exactly."""
    half = torch.round(signal.double() * COUNTS_PER_MV / 2)
    nine = with_einthoven(torch.cat([half[:3], half[6:]]), ("I", "II"))
    one, two, three = 2 * nine[:3]
    limb = torch.stack([one, two, three, -(one + two) / 2, (one - three) / 2, (two + three) / 2])
    return torch.cat([limb, torch.round(signal[6:].double() * COUNTS_PER_MV)])


def _whole(rate: float) -> float | int:
    return int(rate) if rate == int(rate) else rate
