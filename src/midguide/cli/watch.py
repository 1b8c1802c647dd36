"""How far the units of a study are, on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from midguide.cli import output

if TYPE_CHECKING:
    from midguide.studies.engine.units import Unit

SECONDS = 30.0
"""Between two lines of progress in a log."""


@contextmanager
def watched(total: int) -> Iterator[Any]:
    """A callback for finished units: a line for each failure, and a progress bar, or a line now and then in a log."""
    if not sys.stderr.isatty():
        yield _teller(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("units"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("units", total=total, left="")

        def on_unit(unit: Any, failures: list[str], left: float) -> None:
            bar.update(task, advance=1, left=_left(left))
            _complain(unit, failures)

        yield on_unit


def _teller(total: int) -> Any:
    """The callback for a stderr that is not a terminal: at most one line in `SECONDS`."""
    done, last = 0, time.monotonic()

    def on_unit(unit: Any, failures: list[str], left: float) -> None:
        nonlocal done, last
        done += 1
        _complain(unit, failures)
        if (now := time.monotonic()) - last >= SECONDS:
            last = now
            output.note(f"{done} of {total} units, {_left(left)}")

    return on_unit


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


def _complain(unit: Any, failures: list[str]) -> None:
    for reason in failures:
        output.note(f"failed: {name_of(unit)}: {reason}")


def name_of(unit: Unit) -> str:
    """A unit in words."""
    return f"{unit.sampler_label} on {unit.problem_label}, problem {unit.problem_seed}"
