"""Draws on disk as they finish: a Zarr store, or a netCDF file made of one at the end.

While the run goes on, the folder `draws.zarr.progress` lies beside `draws.zarr`. It says what the run is and which rows
are written (one line of `rows.jsonl` each time). It holds the state of the chunk in hand, and a lock that ends with its
process. Nobody can write a netCDF file safely bit by bit, so its draws wait in that folder as Zarr.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from midguide.errors import CheckpointError, ConfigError, DataError, reason
from midguide.inference.arrays import axes_of, labels_of, libraries
from midguide.inference.cost import Cost
from midguide.problem import Problem
from midguide.signals.base import Signal
from midguide.storage.code import Code
from midguide.storage.files import replacing
from midguide.storage.outside import GIB, Outside
from midguide.storage.record import fingerprint, unlike

FORMAT = 1
PIECE = 2**20
"""Bytes that a piece of a store has at least, where there are as many."""
GATE = Outside("store of draws", "draw it again", CheckpointError, limit=1024 * GIB)
_PROGRESS = Outside("progress of a run", "remove it and the store to start again", CheckpointError, limit=GIB)
HEAD = "midguide"
"""The attribute of a store that holds record, cost and whatever is not an array, as JSON; there once it is complete."""


@dataclass
class Written:
    """What earlier calls wrote: rows, and the calls and seconds that they took."""

    parts: list[range] = field(default_factory=list)
    forwards: int = 0
    vjps: int = 0
    seconds: float = 0.0


def check_target(path: Path, checkpoint: object) -> None:
    """Refuse a target that is neither a Zarr store nor a netCDF file, without its library, or with a checkpoint.

    Raises:
        ConfigError: If it is one of these.
    """
    if path.suffix not in (".zarr", ".nc"):
        raise ConfigError(f"draws go to a store NAME.zarr or a file NAME.nc, got {path}", hint="draws.zarr")
    if checkpoint is not None:
        raise ConfigError("`out` keeps the progress of the run itself", hint="leave `checkpoint` out")
    libraries(netcdf=path.suffix == ".nc")


class Stream:
    """The one writer of a store of draws.

    Args:
        path: `NAME.zarr` or `NAME.nc`.
        identity: what the run is.
        code: what it is run by.

    Raises:
        DataError: If another process writes there, the folder is not writable, or something else lies there.
        CheckpointError: If it holds draws of another run, or of other code.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], code: Code) -> None:
        self.path, self.identity, self.what, self.code = path, identity, fingerprint(identity), code
        self.progress = path.with_name(f"{path.name}.progress")
        self.store = path if path.suffix == ".zarr" else self.progress / "draws.zarr"
        self.complete = not os.path.exists(self.progress) and os.path.exists(path)
        if self.complete:
            self._check(stored_head(path), path)
            return
        with _writing(path):
            self.progress.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.progress / "lock", path)
        try:
            self.written = self._taken_up()
        except BaseException:
            self._lock.close()
            raise

    @property
    def step(self) -> Path:
        """Where the state of the chunk in hand is kept."""
        return self.progress / "step"

    def _check(self, known: Mapping[str, Any], place: Path) -> None:
        if known.get("fingerprint") != self.what:
            kept = known.get("identity", known.get("record", self.identity))
            words = unlike({name: kept.get(name) for name in self.identity}, dict(self.identity))
            raise CheckpointError(
                f"{place} belongs to another run: {words or 'other settings, data or seed'}",
                hint="repeat the call that wrote it, give another name, or remove it",
            )
        if known["code"]["sha256"] != self.code.sha256:
            raise CheckpointError(
                f"{place} was written by {Code(**known['code']).words()}", hint="go on with that, or give another name"
            )

    def _taken_up(self) -> Written:
        """What is written already; makes the file that says what the run is where there is none."""
        about, lines = self.progress / "run.json", self.progress / "rows.jsonl"
        GATE.check_folder(self.store)
        GATE.check_folder(self.progress)
        if not about.exists():
            if self.store.exists() and any(self.store.iterdir()):
                raise DataError(f"{self.store} exists and is not a store of this run", hint="give another name")
            with replacing(about) as temporary:
                plain = {"fingerprint": self.what, "identity": self.identity, "code": asdict(self.code)}
                temporary.write_text(json.dumps(plain) + "\n", encoding="utf-8")
            return Written()
        try:
            self._check(_PROGRESS.json(about), self.path)
            rows = [_checked(line) for line in _whole_lines(lines)]
            written = Written([range(*row["rows"]) for row in rows])
            for name in ("forwards", "vjps", "seconds"):
                setattr(written, name, sum(row[name] for row in rows))
            return written
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{self.progress} is damaged: {reason(error)}", hint=f"remove it and {self.path} to start again"
            ) from error

    def lay_out(self, problem: Problem, n: int, dtype: torch.dtype, rows: int | None) -> None:
        """Make the arrays, and write what is known before the first draw: y, and the truth where there is one.

        Args:
            problem: what is asked.
            n: samples of each observation.
            dtype: of the draws.
            rows: of a chunk as the user wants it.
        """
        if (self.store / "draws").exists():
            return
        observations, axes = problem.observations, axes_of(problem.denoiser.signal)
        with _writing(self.path):
            root = _group(self.store, "a")
            for name, shape, dims in _of_draws(problem, axes):
                self._array(name, (observations, n, *shape), ("observation", "draw", *dims), dtype, rows)
            known = {"y": problem.likelihood.y} | ({} if problem.truth is None else {"truth": problem.truth})
            for name, value in known.items():
                inner = axes if name == "truth" else tuple(f"y_{i}" for i in range(value.ndim - 1))
                array = root.create_array(name, data=_numpy(value), dimension_names=("observation", *inner))
                del array
            for axis in problem.denoiser.signal.axes:
                if axis.rate and axis.name in axes:
                    size = problem.signal_shape[axes.index(axis.name)]
                    places = root.create_array(
                        axis.name, data=_numpy(torch.arange(size) / axis.rate), dimension_names=(axis.name,)
                    )
                    places.attrs["units"] = axis.unit

    def _array(
        self, name: str, shape: tuple[int, ...], dims: Sequence[str], dtype: torch.dtype, rows: int | None = None
    ) -> Any:
        """An array of (observation, draw, ...), in pieces of at least a mebibyte, each with its checksum."""
        from zarr.codecs import Crc32cCodec

        values = torch.empty(0, dtype=dtype)
        size = max(1, torch.Size(shape[2:]).numel() * values.element_size())
        draws = min(shape[1], max(PIECE // size, 1, min(rows or 1, 64 * PIECE // size)))
        observations = min(shape[0], max(PIECE // (size * draws), 1)) if draws == shape[1] else 1
        return _group(self.store, "a").create_array(
            name,
            shape=shape,
            chunks=(observations, draws, *shape[2:]),
            dtype=str(dtype).removeprefix("torch."),
            compressors=[Crc32cCodec()],
            dimension_names=dims,
        )

    def write(self, rows: range, n: int, values: Mapping[str, Tensor], calls: Mapping[str, float]) -> None:
        """Write what a chunk gave, then note that its rows are there.

        Args:
            rows: of the chunk, `observation * n + sample`.
            n: samples of each observation.
            values: by the name of the array, shape (rows, ...), or (groups, ...).
            calls: `forwards`, `vjps` and `seconds` that it took.

        Raises:
            DataError: If the disk is full or read-only: what is written stays, and the run can go on.
        """
        with _writing(self.path):
            root = _group(self.store, "a")
            for name, value in values.items():
                per = n * len(value) // len(rows)
                if name not in root:
                    shape = (root["draws"].shape[0], per, *value.shape[1:])
                    dim = "draw" if len(value) == len(rows) else "group"
                    self._array(name, shape, ("observation", dim), value.dtype)
                array, first = root[name], rows.start * len(value) // len(rows)
                for at, observation, inner in _blocks(range(first, first + len(value)), per):
                    array[observation, inner.start : inner.stop] = _numpy(value[at : at + len(inner)])
            line = {"rows": [rows.start, rows.stop], **calls}
            line |= {"sha256": fingerprint(line)}
            with (self.progress / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def read(self, name: str) -> Tensor | None:
        """An array of one value for each draw or group; None where there is none."""
        root = _group(self.store, "r")
        return torch.from_numpy(root[name][:]) if name in root else None

    def fill(self, failed: Tensor) -> None:
        """Put the first good draw of its observation in the place of each that failed, shape (observation, sample)."""
        root = _group(self.store, "a")
        for i, j in failed.nonzero().tolist():
            good = int((failed[i] == 0).int().argmax())
            for name in ("draws", "latents"):
                if name in root:
                    root[name][i, j] = root[name][i, good]

    def seal(self, record: Mapping[str, Any], cost: Cost, group: int, signal: Signal) -> None:
        """Say what the draws are: the store is complete. It writes a netCDF file now, in one piece or not at all."""
        import zarr

        plain = {"format": FORMAT, "record": record, "cost": asdict(cost), "group": group}
        plain |= {"fingerprint": self.what, "code": asdict(self.code), "labels": labels_of(signal)}
        plain |= {"sha256": fingerprint(plain)}
        with _writing(self.path):
            _group(self.store, "a").attrs[HEAD] = json.dumps(plain)
            with warnings.catch_warnings():  # one entry of all metadata is not part of the third format yet
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(str(self.store))
            if self.path.suffix == ".nc":
                with replacing(self.path) as temporary:
                    _as_netcdf(self.store, temporary)
            self._lock.close()
            shutil.rmtree(self.progress)

    def check_space(self, problem: Problem, n: int, dtype: torch.dtype) -> None:
        """Refuse to begin what the disk has no space for.

        Raises:
            DataError: If it has not.
        """
        left = problem.observations * n - sum(map(len, self.written.parts))
        values = sum(torch.Size(shape).numel() for _, shape, _ in _of_draws(problem, ()))
        needed = left * values * torch.empty(0, dtype=dtype).element_size()
        needed *= 2 if self.path.suffix == ".nc" else 1
        with _writing(self.path):
            free = shutil.disk_usage(self.progress).free
        if needed > free:
            raise DataError(
                f"cannot write {self.path}: it takes {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free",
                hint="take fewer samples, or another disk",
            )

    def close(self) -> None:
        """Let others write."""
        if not self.complete:
            self._lock.close()


def _group(store: Path, mode: Any) -> Any:
    import zarr

    return zarr.open_group(str(store), mode=mode, zarr_format=3, use_consolidated=False)


def _of_draws(problem: Problem, axes: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, ...], tuple[str, ...]]]:
    yield "draws", problem.signal_shape, axes
    if problem.denoiser.autoencoder is not None:
        yield "latents", problem.event_shape, tuple(f"latent_{i}" for i in range(len(problem.event_shape)))


def _blocks(rows: range, n: int) -> Iterator[tuple[int, int, range]]:
    """Place in the chunk, observation, and samples of each observation that rows belong to."""
    first = rows.start
    while first < rows.stop:
        observation, sample = divmod(first, n)
        count = min(n - sample, rows.stop - first)
        yield first - rows.start, observation, range(sample, sample + count)
        first += count


def _numpy(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().numpy()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, without one that was cut off as it was written."""
    if not path.exists():
        return []
    text = _PROGRESS.read(path).decode()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with replacing(path) as temporary:
            temporary.write_text(whole, encoding="utf-8")
    return whole.splitlines()


def _checked(line: str) -> dict[str, Any]:
    """What a line says of the rows that are written; lines of earlier versions have no checksum."""
    row = json.loads(line)
    sha256 = row.pop("sha256", None)
    if sha256 is not None and sha256 != fingerprint(row):
        raise ValueError("a checksum differs")
    return row


def _locked(path: Path, target: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataError(f"another process is writing {target}", hint="wait for it, or give another name") from None
    return file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a full or read-only disk into one line."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or reason(error)}",
            hint="what is written stays: check the folder and free space, then repeat the call to go on",
        ) from error


def stored_head(path: Path) -> dict[str, Any]:
    """What the attribute `midguide` of a complete store says.

    Raises:
        CheckpointError: If there is no such store, or it is damaged or not complete.
    """
    running = os.path.exists(path.with_name(f"{path.name}.progress"))
    try:
        if path.suffix == ".nc":
            import h5netcdf

            with h5netcdf.File(str(GATE.check(path)), "r") as file:
                text = str(file.attrs[HEAD])
        else:
            text = _group(GATE.check_folder(path), "r").attrs[HEAD]
        plain = json.loads(text)
        if plain.pop("sha256") != fingerprint(plain):
            raise ValueError("a checksum differs")
        return plain
    except Exception as error:  # damaged bytes make the readers of stores raise anything
        state = "is not complete" if running else f"holds no draws: {getattr(error, 'message', reason(error))}"
        hint = "repeat the call that writes it to go on" if running else "give what sample(..., out=...) wrote"
        raise CheckpointError(f"{path} {state}", hint=hint) from error


def copied(source: Path, target: Path, observation: int, changes: Mapping[str, Any]) -> None:
    """Write one observation of a complete Zarr store into a new one, piece by piece.

    Args:
        source: the store.
        target: the new one; complete at the end of the call.
        observation: which one.
        changes: of what the attribute `midguide` says.
    """
    plain = stored_head(source) | dict(changes)
    plain |= {"fingerprint": fingerprint([plain["fingerprint"], observation])}
    with _writing(target):
        ours, theirs = _group(target, "w"), _group(source, "r")
        for name, array in theirs.arrays():
            whole = array.metadata.dimension_names[0] != "observation"  # places along an axis
            shape = array.shape if whole else (1, *array.shape[1:])
            kept = ours.create_array(
                name,
                shape=shape,
                chunks=array.chunks if whole else (1, *array.chunks[1:]),
                dtype=array.dtype,
                compressors=array.compressors,
                dimension_names=array.metadata.dimension_names,
                attributes=dict(array.attrs),
            )
            if whole or array.ndim < 2:
                kept[:] = array[:] if whole else array[observation : observation + 1]
                continue
            for first in range(0, array.shape[1], array.chunks[1]):
                piece = slice(first, first + array.chunks[1])
                kept[0:1, piece] = array[observation : observation + 1, piece]
        ours.attrs[HEAD] = json.dumps(plain | {"sha256": fingerprint(plain)})


def _as_netcdf(store: Path, path: Path) -> None:
    """Copy a store into a netCDF file, piece by piece."""
    import h5netcdf

    root = _group(store, "r")
    with h5netcdf.File(str(path), "w") as file:
        for name, array in sorted(root.arrays()):
            for dim, size in zip(array.metadata.dimension_names, array.shape, strict=True):
                if dim not in file.dimensions:
                    file.dimensions[dim] = size
            dims = array.metadata.dimension_names
            kept = file.create_variable(name, dims, array.dtype, chunks=array.chunks, fletcher32=True)
            for key, value in array.attrs.items():
                kept.attrs[key] = value
            rows = array.chunks[0]
            inner = array.chunks[1] if array.ndim > 1 else 1
            for i in range(0, array.shape[0], rows):
                for j in range(0, array.shape[1], inner) if array.ndim > 1 else [None]:
                    at = (slice(i, i + rows),) if j is None else (slice(i, i + rows), slice(j, j + inner))
                    kept[at] = array[at]
        file.attrs[HEAD] = root.attrs[HEAD]
