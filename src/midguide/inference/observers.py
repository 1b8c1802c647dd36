"""What may watch a sampling run without changing it: progress on a terminal, a trace of diagnostics."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from midguide.diffusion.schedules import Time


@dataclass(frozen=True)
class Event:
    """One finished step.

    Args:
        rows: indices of the rows of the batch, `observation * n + sample`.
        done: steps finished, over all chunks.
        time: time reached.
        info: the sampler's diagnostics, tensors of shape (B,), or (groups,) for what belongs to a group.
    """

    rows: range
    done: int
    time: Time
    info: dict[str, Tensor]


class Observer(Protocol):
    """Called around the loop of `sample`."""

    def start(self, total: int, done: int) -> None:
        """Before the first of `total` steps, `done` of which an earlier run has finished."""
        ...

    def step(self, event: Event) -> None:
        """After each step."""
        ...

    def stop(self) -> None:
        """After the last step, or when the run fails or is interrupted."""
        ...


class Progress:
    """A progress bar on stderr with rate and time left; silent where stderr is not a terminal."""

    def __init__(self, description: str = "sampling") -> None:
        self.description = description

    def start(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        console = Console(file=sys.stderr)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(self.description, total=total, completed=done, rate="")
        self._bar.start()

    def step(self, event: Event) -> None:
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, completed=event.done, rate=f"{speed:.1f} steps/s" if speed else "")

    def stop(self) -> None:
        self._bar.stop()


class Line:
    """One line of text on stderr that overwrites itself, as in a notebook; at most every `SECONDS`."""

    SECONDS = 0.5

    def start(self, total: int, done: int) -> None:
        self._total, self._first, self._begun, self._told = total, done, time.monotonic(), -math.inf

    def step(self, event: Event) -> None:
        now = time.monotonic()
        if now - self._told < self.SECONDS and event.done < self._total:
            return
        self._told = now
        rate = (event.done - self._first) / max(now - self._begun, 1e-9)
        left = f"{(self._total - event.done) / rate:.0f} s left" if rate else ""
        sys.stderr.write(f"\rsampling: step {event.done} of {self._total}, {rate:.1f} steps/s, {left}   ")
        sys.stderr.flush()

    def stop(self) -> None:
        sys.stderr.write("\n")


def with_progress(observers: Sequence[Observer], wanted: bool | None) -> list[Observer]:
    """Observers, and one that shows how far the run is, where none does and somebody looks.

    Args:
        observers: those that were given.
        wanted: show it, or do not; by default on a terminal and in a notebook.
    """
    found = list(observers)
    if wanted is False or any(isinstance(each, Progress | Line) for each in found):
        return found
    if sys.stderr.isatty():
        return [*found, Progress()]
    return [*found, Line()] if wanted or in_notebook() else found


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


class Trace:
    """Keeps the diagnostics of every step, as `rows`: one dictionary of lists per step and chunk."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float | list[float]]] = []

    def start(self, total: int, done: int) -> None:
        self.rows.clear()

    def step(self, event: Event) -> None:
        info: dict[str, float | list[float]] = {name: value.tolist() for name, value in event.info.items()}
        self.rows.append({"time": event.time, "first_row": event.rows.start, **info})

    def stop(self) -> None:
        """Nothing to close."""
