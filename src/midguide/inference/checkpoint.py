"""The file from which an interrupted run goes on: finished draws, and state and random streams of the step in hand."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from midguide.errors import CheckpointError
from midguide.maths.rng import Rng
from midguide.samplers.base import Finished
from midguide.storage.code import Code
from midguide.storage.files import check_writable, replacing, unshared
from midguide.storage.outside import GIB, Outside
from midguide.storage.record import fingerprint, unlike
from midguide.storage.tensors import read_tensors

_PROGRESS = Outside("checkpoint of a sampling run", "remove it", CheckpointError, limit=1024 * GIB)


class Counted(Protocol):
    """What counts the network's calls."""

    forwards: int
    vjps: int


class Held(NamedTuple):
    """State, signs, random streams and calls so far of the chunk in hand; no streams between two chunks."""

    tensors: Mapping[str, Tensor] = {}
    numbers: Mapping[str, int | float] = {}
    streams: Tensor | None = None
    step: int = 0
    forwards: int = 0
    vjps: int = 0
    signs: Mapping[str, Tensor] = {}
    part: range = range(0)


class Part(NamedTuple):
    """A finished chunk: its rows, what it gave, and its signs of convergence."""

    rows: range
    finished: Finished
    signs: dict[str, Tensor]


@dataclass
class Progress:
    """Where a run is: its finished chunks and their calls, and what the step in hand started from."""

    parts: list[Part] = field(default_factory=list)
    forwards: int = 0
    vjps: int = 0
    seconds: float = 0.0
    held: Held = field(default_factory=Held)
    begun_in: Mapping[str, Any] = field(default_factory=dict)

    def hold(self, part: range, state: Any, signs: Mapping[str, Tensor], rng: Rng, step: int, counted: Counted) -> None:
        """Remember the state at the start of a step, so that an interrupt at any moment loses no more than the step."""
        fields = state._asdict()
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        numbers = {name: value for name, value in fields.items() if name not in tensors}
        self.held = Held(tensors, numbers, rng.state(), step, counted.forwards, counted.vjps, signs, part)

    def restore(self, part: range, fresh: Any, rng: Rng, counted: Counted) -> Any:
        """The state to go on from: `fresh`, or what was held for these rows, without the calls that `fresh` took."""
        if self.held.streams is None or self.held.part != part:
            self.held = Held()
            return fresh
        rng.set_state(self.held.streams)
        counted.forwards, counted.vjps = self.held.forwards, self.held.vjps
        # copies: matrix products round differently where memory is aligned differently, as in a file's buffer
        tensors = {name: value.to(getattr(fresh, name).device).clone() for name, value in self.held.tensors.items()}
        return type(fresh)(**tensors, **self.held.numbers)

    def finish(self, part: range, counted: Counted) -> None:
        """The chunk in hand is finished."""
        self.forwards, self.vjps, self.held = self.forwards + counted.forwards, self.vjps + counted.vjps, Held()


class Checkpoint:
    """The file that keeps the progress of a run; without a path it keeps nothing.

    Args:
        path: the file, or None.
        identity: what the run is.
        code: what it is run by.
        every: seconds between two writes.
        size: rows of a chunk as the user wants it; None where it is found.
        around: what the draws depend on up to rounding.

    Raises:
        DataError: If nothing can be written there.
    """

    def __init__(
        self,
        path: str | Path | None,
        identity: Mapping[str, Any],
        code: Code,
        every: float,
        size: int | None = None,
        around: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.path, self.code, self.every, self.size = path, code, every, size
        self.identity, self.fingerprint = dict(identity), fingerprint(identity)
        self.around = dict(around)
        if path is not None:
            check_writable(path)
        self.started = self.written = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since this process took up the run."""
        return time.monotonic() - self.started

    def hold(
        self,
        progress: Progress,
        part: range,
        state: Any,
        signs: Mapping[str, Tensor],
        rng: Rng,
        step: int,
        counted: Counted,
    ) -> None:
        """Remember where the run is, and write it where it is time."""
        if self.path is None:
            return
        progress.hold(part, state, signs, rng, step, counted)
        self.save_at_times(progress)

    def save_at_times(self, progress: Progress) -> None:
        """Write where it is time."""
        if time.monotonic() - self.written > self.every:
            self.save(progress)
            self.written = time.monotonic()

    def save(self, progress: Progress) -> None:
        """Write what the finished chunks gave and what is held."""
        if self.path is None:
            return
        held = progress.held
        stored = {f"state.{name}": value for name, value in held.tensors.items()}
        stored |= {f"sign.{name}": value for name, value in held.signs.items()}
        for i, part in enumerate(progress.parts):
            stored |= {f"{name}.{i}": value for name, value in part.finished._asdict().items() if value is not None}
            stored |= {f"signs.{i}.{name}": value for name, value in part.signs.items()}
        stored |= {} if held.streams is None else {"streams": held.streams}
        place: dict[str, Any] = {name: getattr(held, name) for name in ("step", "forwards", "vjps")}
        place |= {"numbers": dict(held.numbers), "part": _ends(held.part), "size": self.size}
        place |= {"finished": {"forwards": progress.forwards, "vjps": progress.vjps}}
        place |= {"parts": [_ends(part.rows) for part in progress.parts]}
        place |= {"seconds": progress.seconds + self.seconds, "fingerprint": self.fingerprint}
        place |= {"identity": self.identity}
        place |= {"code": asdict(self.code), "environment": dict(progress.begun_in)}
        place |= {"sha256": _checksum(place, stored)}
        with replacing(self.path) as temporary:
            save_file(unshared(stored), temporary, metadata={"midguide-progress": json.dumps(place)})

    def load(self, device: torch.device) -> Progress:
        """The progress that the file keeps, or none where there is no such file.

        What finished chunks gave comes to the device on which the others are drawn.

        Raises:
            CheckpointError: If the file is damaged, belongs to another run, or was written by other code.
        """
        if self.path is None or not os.path.exists(self.path):
            return Progress(begun_in=self.around)
        metadata, stored = read_tensors(_PROGRESS, self.path)
        with _PROGRESS.damage(self.path):
            place = json.loads(metadata["midguide-progress"])
            if place.pop("sha256") != _checksum(place, stored):
                raise ValueError("it is damaged, its checksum differs")
            parts = [
                Part(range(*ends), _finished(stored, i, device), _under(f"signs.{i}.", stored, device))
                for i, ends in enumerate(place["parts"])
            ]
            code = Code(**place["code"])
            begun_in = dict(place.get("environment", self.around))  # files of earlier versions do not say it
        if (place["fingerprint"], place["size"]) != (self.fingerprint, self.size):
            kept = {**place.get("identity", self.identity), "chunk": place["size"]}
            words = unlike(kept, {**self.identity, "chunk": self.size}) or "other settings, data or seed"
            raise CheckpointError(
                f"{self.path} belongs to another run: {words}",
                hint="repeat the command that wrote it, or remove the file",
            )
        if code != self.code:
            raise CheckpointError(
                f"{self.path} was written by {code.words()}", hint="go on with that, or remove the file to start again"
            )
        held = Held(
            _under("state.", stored),
            place["numbers"],
            stored.get("streams"),
            place["step"],
            place["forwards"],
            place["vjps"],
            _under("sign.", stored, device),
            range(*place["part"]),
        )
        return Progress(
            parts, place["finished"]["forwards"], place["finished"]["vjps"], place["seconds"], held, begun_in
        )


def _ends(rows: range) -> list[int]:
    return [rows.start, rows.stop]


def _checksum(place: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a file holds, so that a flipped bit does not become another result."""
    return fingerprint({"place": place, "tensors": tensors})


def _under(prefix: str, stored: Mapping[str, Tensor], device: torch.device | None = None) -> dict[str, Tensor]:
    """The tensors of a file whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): value.to(device) for name, value in stored.items() if name.startswith(prefix)}


def _finished(stored: Mapping[str, Tensor], chunk: int, device: torch.device) -> Finished:
    """What a chunk gave, from the tensors of a file, on the device."""
    names = {name: f"{name}.{chunk}" for name in Finished._fields}
    return Finished(**{name: stored[place].to(device) for name, place in names.items() if place in stored})
