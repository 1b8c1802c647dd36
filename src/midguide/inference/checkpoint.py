"""The file from which an interrupted run goes on: finished draws, and state and random streams of the step in hand."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from midguide.errors import CheckpointError
from midguide.inference.rows import Rows
from midguide.maths.rng import Rng
from midguide.samplers.base import Finished
from midguide.storage.code import Code
from midguide.storage.files import replacing, unshared
from midguide.storage.outside import GIB, Outside
from midguide.storage.record import fingerprint
from midguide.storage.tensors import read_tensors

_PROGRESS = Outside("checkpoint of a sampling run", "remove it", CheckpointError, limit=1024 * GIB)


class Counted(Protocol):
    """What counts the network's calls."""

    forwards: int
    vjps: int


class Held(NamedTuple):
    """State, signs and random streams at the start of a step; no streams between two chunks."""

    tensors: Mapping[str, Tensor] = {}
    numbers: Mapping[str, int | float] = {}
    streams: Tensor | None = None
    step: int = 0
    forwards: int = 0
    vjps: int = 0
    signs: Mapping[str, Tensor] = {}


@dataclass
class Progress:
    """Where a run is: what its finished chunks gave and their signs, and what the step in hand started from."""

    finished: list[Finished] = field(default_factory=list)
    signs: list[dict[str, Tensor]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    held: Held = field(default_factory=Held)

    @property
    def chunk(self) -> int:
        """The chunk in hand."""
        return len(self.finished)

    def hold(self, state: Any, signs: Mapping[str, Tensor], rng: Rng, step: int, counted: Counted) -> None:
        """Remember the state at the start of a step, so that an interrupt at any moment loses no more than the step."""
        fields = state._asdict()
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        numbers = {name: value for name, value in fields.items() if name not in tensors}
        self.held = Held(tensors, numbers, rng.state(), step, counted.forwards, counted.vjps, signs)

    def restore(self, fresh: Any, rng: Rng, counted: Counted) -> Any:
        """The state to go on from: `fresh`, or what was held for this chunk, without the calls that `fresh` took."""
        if self.held.streams is None:
            return fresh
        rng.set_state(self.held.streams)
        counted.forwards, counted.vjps = self.held.forwards, self.held.vjps
        # copies: matrix products round differently where memory is aligned differently, as in a file's buffer
        tensors = {name: value.to(getattr(fresh, name).device).clone() for name, value in self.held.tensors.items()}
        return type(fresh)(**tensors, **self.held.numbers)

    def finish_chunk(self, finished: Finished, signs: dict[str, Tensor], counted: Counted) -> None:
        """Keep what the chunk in hand gave and go on to the next."""
        self.finished.append(finished)
        self.signs.append(signs)
        self.held = Held(forwards=counted.forwards, vjps=counted.vjps)
        self.step = 0


class Checkpoint:
    """The file that keeps the progress of a run; without a path nothing is kept.

    Args:
        path: the file, or None.
        fingerprint: what the run is.
        code: what it is run by.
        every: seconds between two writes.
    """

    def __init__(self, path: str | Path | None, fingerprint: str, code: Code, every: float) -> None:
        self.path, self.fingerprint, self.code, self.every = path, fingerprint, code, every
        self.started = self.written = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since this process took up the run."""
        return time.monotonic() - self.started

    def hold(
        self, progress: Progress, state: Any, signs: Mapping[str, Tensor], rng: Rng, step: int, counted: Counted
    ) -> None:
        """Remember where the run is, and write it where it is time."""
        if self.path is None:
            return
        progress.hold(state, signs, rng, step, counted)
        if time.monotonic() - self.written > self.every:
            self.save(progress)
            self.written = time.monotonic()

    def save(self, progress: Progress) -> None:
        """Write what the finished chunks gave and what is held."""
        if self.path is None:
            return
        tensors, numbers, streams, step, forwards, vjps, signs = progress.held
        stored = {f"state.{name}": value for name, value in tensors.items()}
        stored |= {f"sign.{name}": value for name, value in signs.items()}
        for i, (finished, signs) in enumerate(zip(progress.finished, progress.signs, strict=True)):
            stored |= {f"{name}.{i}": value for name, value in finished._asdict().items() if value is not None}
            stored |= {f"signs.{i}.{name}": value for name, value in signs.items()}
        stored |= {} if streams is None else {"streams": streams}
        place = {"chunk": progress.chunk, "step": step, "forwards": forwards, "vjps": vjps, "numbers": dict(numbers)}
        place |= {"seconds": progress.seconds + self.seconds, "fingerprint": self.fingerprint}
        place |= {"code": asdict(self.code)}
        place |= {"sha256": _checksum(place, stored)}
        with replacing(self.path) as temporary:
            save_file(unshared(stored), temporary, metadata={"midguide-progress": json.dumps(place)})

    def load(self, rows: Rows, counted: Counted, device: torch.device) -> Progress:
        """The progress that the file keeps, or none where there is no such file; sets the counts of `counted`.

        What finished chunks gave comes to the device on which the others are drawn.

        Raises:
            CheckpointError: If the file is damaged, belongs to another run, or was written by other code.
        """
        if self.path is None or not Path(self.path).exists():
            return Progress()
        metadata, stored = read_tensors(_PROGRESS, self.path)
        with _PROGRESS.damage(self.path):
            place = json.loads(metadata["midguide-progress"])
            if place.pop("sha256") != _checksum(place, stored):
                raise ValueError("it is damaged, its checksum differs")
            finished = [_finished(stored, i, device) for i in range(place["chunk"])]
            code = Code(**place["code"])
        sizes = [len(part) for part in rows.chunks[: len(finished)]]
        if place["fingerprint"] != self.fingerprint or [len(block.draws) for block in finished] != sizes:
            raise CheckpointError(
                f"{self.path} belongs to another run (other settings, data, seed or chunk)",
                hint="repeat the command that wrote it, or remove the file",
            )
        if code != self.code:
            raise CheckpointError(
                f"{self.path} was written by {code.words()}", hint="go on with that, or remove the file to start again"
            )
        signs = [_under(f"signs.{i}.", stored, device) for i in range(len(finished))]
        counted.forwards, counted.vjps = place["forwards"], place["vjps"]
        held = Held(
            _under("state.", stored),
            place["numbers"],
            stored.get("streams"),
            place["step"],
            counted.forwards,
            counted.vjps,
            _under("sign.", stored, device),
        )
        return Progress(finished, signs, place["step"], place["seconds"], held)


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
