"""European Data Format (EDF, EDF+) and BDF, each signal at its own rate.

Kemp et al., "A simple format for exchange of digitized polygraphic recordings" (1992, https://www.edfplus.info).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from midguide.domains.ecg.formats.base import (
    RECORDING,
    RECORDINGS,
    Channel,
    Contents,
    File,
    RecordingFormat,
    Said,
    agreed_rate,
)
from midguide.errors import ConfigError, DataError
from midguide.storage.outside import afford

_MAGIC = (b"0       ", b"\xffBIOSEMI")


@RECORDINGS.register("edf", summary="European Data Format, EDF+ and BDF")
class Edf(RecordingFormat):
    """Frames are the data records of the file, often a second long."""

    extensions = (".edf", ".bdf", ".rec")
    needs = "edfio, in the extra `ecg`"
    order = 20
    home = "https://www.edfplus.info"

    def recognizes(self, file: File) -> bool:
        return file.start.startswith(_MAGIC) and len(file.start) >= 256

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The signals of the file, without its annotations.

        Raises:
            ConfigError: If the library is not installed.
            DataError: If the file is damaged, or has gaps in time.
        """
        try:
            import edfio
        except ImportError as error:
            raise ConfigError(
                "EDF files are read by the library edfio, which is not installed", hint="pip install 'midguide[ecg]'"
            ) from error
        path = RECORDING.check(file.path)
        wide = file.start.startswith(_MAGIC[1])
        if wide:
            afford(4 * path.stat().st_size, f"the file {path.name}")
        with RECORDING.damage(path):
            read = edfio.read_bdf if wide else edfio.read_edf
            edf: Any = read(path, header_encoding="latin-1")
            signals, seconds = edf.signals, float(edf.data_record_duration)
            notes = len(edf.annotations)
            broken = not edf.is_continuous
        if broken:
            raise DataError(
                f"{path} has gaps in time (EDF+D)", hint="export it as EDF or EDF+C, one file for each part"
            )
        if not seconds > 0:
            raise DataError(f"{path} says that its records last {seconds:g} s", hint="is it a recording?")
        counts = [signal.samples_per_data_record for signal in signals]
        most = max(counts, default=1)
        agreed_rate(path, most / seconds, said.rate_hz)
        yield Contents(
            channels=tuple(
                Channel(name=s.label, unit=s.physical_dimension or None, per_frame=n)
                for s, n in zip(signals, counts, strict=True)
            ),
            frames=edf.num_data_records,
            frame_rate=1 / seconds,
            read=lambda rows, first, stop: _read(file, [signals[row] for row in rows], first, stop, seconds),
            remarks=(f"{path.name} has {notes} annotations: not used",) if notes else (),
            stated=_stated(edf),
        )


def _read(file: File, signals: Sequence[Any], first: int, stop: int, seconds: float) -> list[np.ndarray]:
    counts = [signal.samples_per_data_record for signal in signals]
    afford(3 * 8 * (stop - first) * sum(counts), f"a part of {file.path.name}")
    with RECORDING.damage(file.path):
        whole = [signal._lazy_loader is None for signal in signals]  # BDF is read as a whole
        return [
            np.asarray(s.data[first * n : stop * n] if there else s.get_data_slice(first * seconds, stop * seconds))
            for s, n, there in zip(signals, counts, whole, strict=True)
        ]


def _stated(edf: Any) -> dict[str, str]:
    """What the header states beside the signals."""
    known = {"patient": edf.local_patient_identification, "recording": edf.local_recording_identification}
    for signal in edf.signals:
        known[f"transducer of {signal.label}"] = signal.transducer_type
        known[f"prefiltering of {signal.label}"] = signal.prefiltering
    return {name: text for name, text in known.items() if text}
