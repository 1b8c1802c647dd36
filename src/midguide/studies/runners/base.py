"""What a runner is: the one thing to write for another engine. It submits jobs, collects their rows, and closes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError
from midguide.studies.engine.units import Rows, Unit, run_batch

Batch = Sequence[Unit]
"""Units of one cell that are drawn together."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A batch and all that it needs; it runs in this process, or packed in another one.

    Args:
        units: the batch.
        kept: folder of stored draws, if they are to be stored.
        device: where networks compute.
        old_code: also take stored draws that other code of this package made.
        code: the Python files that the study runs, by path, with the module of their content.
        stream: store draws as they finish.
    """

    units: Batch
    kept: Path | None = None
    device: str = "cpu"
    old_code: bool = False
    code: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False

    def run(self) -> list[Rows]:
        """The rows of each unit.

        Raises:
            ConfigError: If a file of `code` has changed.
        """
        _check_unchanged(self.code)
        return run_batch(self.units, self.kept, self.device, old_code=self.old_code, stream=self.stream)

    def packed(self) -> bytes:
        """The job for `run_packed` in another process."""
        return pickle.dumps((dict(self.code), pickle.dumps(self), self.units[0].draws_code.sha256))


def run_packed(packed: bytes) -> list[Rows]:
    """Run what `Job.packed` made: the files of its code first, since they define what the rest is made of.

    Raises:
        ConfigError: If one of them has changed, or the code of the package is other than where the job comes from.
    """
    code, packed_job, drawn_by = pickle.loads(packed)
    _check_unchanged(code)
    for path in code:
        plugins.load_file(path)
    job = pickle.loads(packed_job)
    if job.units[0].draws_code.sha256 != drawn_by:
        raise ConfigError(
            "worker processes have other code of the package than this process: it was changed in memory or on disk",
            hint="run the study again; what is changed in memory needs --workers 1, or FILE.py:NAME",
        )
    return job.run()


def picklable(error: Exception) -> Exception:
    """An error that another process can hand over: itself, or its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Finished(NamedTuple):
    """A unit and its rows, one per metric."""

    unit: Unit
    rows: Rows


class Runner(Protocol):
    """Runs jobs in any order."""

    def submit(self, job: Job) -> None:
        """Accept a job; it may start at once or wait."""
        ...

    def collect(self) -> Iterator[Finished]:
        """Every submitted unit with its rows, as they finish."""
        ...

    def close(self) -> None:
        """Stop what still runs, and drop what was not collected. Once more changes nothing."""
        ...


RUNNERS: Catalogue[Runner] = Catalogue("runner", "midguide.studies.runners", group="midguide.runners")
"""Functions that make a runner by name; their settings are keyword-only.

Fact: `elsewhere`, where the device is that of other machines, so that this one does not look for it.
"""


def _check_unchanged(code: Mapping[str, str]) -> None:
    for path, module in code.items():
        if not Path(path).is_file() or plugins.module_of(path) != module:
            raise ConfigError(f"{path} has changed while the study ran", hint="run the study again")
