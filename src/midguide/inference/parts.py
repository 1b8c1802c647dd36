"""Which rows are drawn next: chunks of a size that fits into memory, handed to one or several workers."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

import torch

from midguide.errors import is_out_of_memory
from midguide.inference.cost import free_memory, used_memory

CAREFUL = {"cpu": 6000, "cuda": 1000}
"""Bytes per byte of a sample that the first chunk allows for: on the CPU what a large network needs with a derivative,
since running out of memory ends the process; less on a GPU, where it costs the start of a chunk."""

_learned: dict[str, int] = {}
"""Rows that fitted, by what was drawn and where."""


class Budget:
    """Memory that the chunks of a run may take on a device: half of the free memory of a CPU, 0.85 of a GPU's.

    Args:
        device: where the network computes.
        workers: how many workers share it.
        most: bytes; by default measured now.
    """

    def __init__(self, device: torch.device, workers: int = 1, most: int | None = None) -> None:
        self.device, (self.before, self.peak) = device, used_memory(device)
        self.per_row, self.careful = math.inf, CAREFUL.get(device.type, CAREFUL["cpu"])
        free = free_memory(device) if most is None else None
        share = (0.85 if device.type == "cuda" else 0.5) / workers
        self.bytes = most if free is None else int(free * share)

    def rows(self, per_row: float) -> int | None:
        """How many rows fit; None where no limit is known."""
        return None if self.bytes is None else int(self.bytes / max(per_row, 1))

    def measured(self, rows: int) -> int | None:
        """How many rows fit by what so many took, which is at most all that the process ever took; None: any.

        Where the peak did not rise, an earlier one may hide it: then not fewer than these rows.
        """
        peak = used_memory(self.device).peak
        most = (peak - self.before) / rows
        risen = peak > self.peak
        self.peak, self.per_row = peak, most if risen else min(self.per_row, most)
        fits = self.rows(self.per_row)
        return fits if risen or fits is None else max(fits, rows)


class Parts:
    """Ranges of rows, handed out in order, each to one worker. Safe to call from several threads.

    With a `size` from the user each is that large. Without one the first is as large as a careful guess allows. Each
    next one may be twice as large, while the measured peak says that it fits. Running out of memory halves the size for
    good, also for later runs with the same `key`.

    Args:
        total: rows of the run.
        unit: rows that must stay together.
        size: rows of each part, as the user wants it; None to find it.
        budget: memory, asked only where `size` is None.
        bytes_per_row: of one sample.
        workers: among which the rows are shared.
        done: parts that an earlier run finished.
        held: the part that it had begun, and the size it used.
        key: what is drawn.
    """

    def __init__(
        self,
        total: int,
        unit: int = 1,
        size: int | None = None,
        *,
        budget: Budget | None = None,
        bytes_per_row: int = 1,
        workers: int = 1,
        done: Iterable[range] = (),
        held: range | None = None,
        key: str = "",
    ) -> None:
        self.total, self.unit, self.budget, self.key = total, unit, budget if size is None else None, key
        self._lock, self._stopped = threading.Lock(), False
        self._most = self._whole(math.ceil(total / workers), up=True) if size is None else size
        self.size = size or self._first(bytes_per_row)
        self._waiting = _gaps(total, done)
        self.finished = total - sum(map(len, self._waiting))
        self._held = held if held and any(held[0] in gap and held[-1] in gap for gap in self._waiting) else None
        self.planned = self.size

    def take(self) -> range | None:
        """The next part; None where none is left."""
        with self._lock:
            if self._stopped or not self._waiting:
                return None
            if self._held is not None:
                part, self._held = self._held, None
                self._waiting = _gaps_without(self._waiting, part)
                return part
            gap = self._waiting.pop(0)
            part = gap[: self.size]
            if len(part) < len(gap):
                self._waiting.insert(0, gap[len(part) :])
            return part

    def finish(self, part: range) -> None:
        """A part is drawn: the next may be larger."""
        with self._lock:
            self.finished += len(part)
            if self.budget is None or len(part) < self.size:
                return
            fits = self.budget.measured(len(part))
            allowed = self._most if fits is None else max(self._whole(fits), self.unit)
            self.size = min(self._most, 2 * self.size, allowed)

    def split(self, part: range, error: BaseException) -> bool:
        """After an error: whether memory had run out and the part is now handed out again in smaller ones."""
        with self._lock:
            smaller = self._whole(len(part) // 2)
            if self._stopped or not is_out_of_memory(error) or smaller < self.unit:
                return False
            self.size = self._most = min(self.size, smaller)
            _learned[self.key] = self.size
            self._waiting = sorted([part, *self._waiting], key=lambda gap: gap.start)
            return True

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether a worker failed or the user interrupted."""
        return self._stopped

    def _first(self, bytes_per_row: int) -> int:
        known = _learned.get(self.key) if self.key else None
        allowed = None if self.budget is None else self.budget.rows(self.budget.careful * bytes_per_row)
        if known is not None:
            self._most = min(self._most, known)
        return min(self._most, max(self._whole(self._most if allowed is None else allowed), self.unit))

    def _whole(self, rows: int, *, up: bool = False) -> int:
        return rows - rows % self.unit + (self.unit if up and rows % self.unit else 0)


def _gaps(total: int, done: Iterable[range]) -> list[range]:
    """What is left of `range(total)`."""
    gaps, first = [], 0
    for part in sorted(done, key=lambda part: part.start):
        gaps += [range(first, part.start)] if part.start > first else []
        first = max(first, part.stop)
    return gaps + ([range(first, total)] if first < total else [])


def _gaps_without(gaps: list[range], part: range) -> list[range]:
    found = []
    for gap in gaps:
        pieces = [gap] if part[0] not in gap else [range(gap.start, part.start), range(part.stop, gap.stop)]
        found += [piece for piece in pieces if len(piece)]
    return found
