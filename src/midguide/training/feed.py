"""Batches where the network is: drawn there, or drawn ahead by a thread and copied while the network computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

Drawn = TypeVar("Drawn", covariant=True)
AHEAD = 2
"""Batches that are drawn ahead."""
SHARE = 0.25
"""Share of the free memory of a device that data may take there."""


class Draws(Protocol[Drawn]):
    """What to train on: gives batches of events, perhaps with labels."""

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """A batch of `count` events, on the device of `generator`, from which all randomness comes."""
        ...


@runtime_checkable
class Movable(Protocol):
    """Data that can be brought to a device as a whole."""

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        ...

    def to(self, device: str) -> Self:
        """The same data there."""
        ...


class Feed(Generic[Drawn]):
    """Batches from a source, with the random stream that they come from.

    Args:
        source: what to train on.
        device: where batches are wanted.
        seed: of the stream.
        ahead: draw on the CPU, ahead of time; by default where the data cannot be on the device.
    """

    def __init__(self, source: Draws[Drawn], device: str, seed: int, *, ahead: bool | None = None) -> None:
        on_cpu = torch.device(device).type == "cpu"
        fits = on_cpu or (isinstance(source, Movable) and source.nbytes < SHARE * torch.cuda.mem_get_info(device)[0])
        self.ahead = not fits if ahead is None else ahead
        self.device = device
        moved: Any = source if on_cpu or self.ahead or not isinstance(source, Movable) else source.to(device)
        self.source: Draws[Drawn] = moved
        self.generator = torch.Generator("cpu" if self.ahead else device).manual_seed(seed)
        self._state = self.generator.get_state()

    def state(self) -> Tensor:
        """The random stream as it is after the batches that were handed out."""
        return self._state if self.ahead else self.generator.get_state()

    def resume(self, state: Tensor) -> None:
        """Go on from a state."""
        self.generator.set_state(state.cpu())
        self._state = state.cpu()

    @contextmanager
    def batches(self, count: int) -> Iterator[Iterator[Drawn]]:
        """An endless iterator over batches of `count` events."""
        if not self.ahead:
            yield self._direct(count)
            return
        drawn: queue.Queue[Any] = queue.Queue(AHEAD)
        stop = threading.Event()
        thread = threading.Thread(target=self._draw_ahead, args=(count, drawn, stop), daemon=True)
        thread.start()
        try:
            yield self._handed_out(drawn)
        finally:
            stop.set()
            while thread.is_alive():  # it may wait for a place
                _drain(drawn)
                thread.join(0.01)
            self.generator.set_state(self._state)

    def _direct(self, count: int) -> Iterator[Drawn]:
        while True:
            yield self.source.draw(count, self.generator)

    def _draw_ahead(self, count: int, drawn: queue.Queue[Any], stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                batch = self.source.draw(count, self.generator)
                drawn.put((_each(batch, _pinned), self.generator.get_state()))
        except BaseException as error:  # which the thread of the training raises
            drawn.put((error, self._state))

    def _handed_out(self, drawn: queue.Queue[Any]) -> Iterator[Drawn]:
        while True:
            batch, state = drawn.get()
            if isinstance(batch, BaseException):
                raise batch
            self._state = state
            yield _each(batch, lambda part: part.to(self.device, non_blocking=True))


def _drain(drawn: queue.Queue[Any]) -> None:
    while not drawn.empty():
        drawn.get_nowait()


def _each(batch: Any, change: Any) -> Any:
    """A batch, or each part of it, changed."""
    return tuple(map(change, batch)) if isinstance(batch, tuple) else change(batch)


def _pinned(part: Tensor) -> Tensor:
    return part.pin_memory() if torch.cuda.is_available() else part
