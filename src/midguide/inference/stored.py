"""Draws that stay on disk: read piece by piece, summarized in one pass, whatever their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from midguide.catalogue.shown import Shown
from midguide.errors import ConfigError
from midguide.inference.arrays import libraries
from midguide.inference.cost import Cost
from midguide.inference.samples import BEFORE, SIGN, WEIGHTS, Samples, picks_of, record_of
from midguide.inference.stream import GATE, copied, stored_head
from midguide.inference.verdict.base import FALSE_ALARMS, Verdict
from midguide.maths.digest import Digest
from midguide.maths.weights import effective_size, normalized
from midguide.problem import Problem
from midguide.storage.outside import afford

if TYPE_CHECKING:
    from xarray import Dataset

STORE = "draws.zarr"
"""The store in a folder of draws, such as that of a unit of a study."""
BLOCK = 2**23
"""Bytes of draws that are read at once."""
EXACT = 2**28
"""Bytes of draws of one observation up to which quantiles are exact."""
JUDGED = 2**26
"""Bytes of draws that a verdict looks at."""
ENTRIES = 2**16
"""Entries of a signal that are summarized together where quantiles are not."""


class OnDisk:
    """An array on disk. Indexing reads that part of it, as a tensor on the CPU.

    Args:
        array: what reads it.
        path: where it lies.
        source: what must stay open for it.
    """

    def __init__(self, array: Any, path: Path, source: object) -> None:
        self._array, self._path, self._source = array, path, source

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        with GATE.damage(self._path):
            return tuple(self._array.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of its values."""
        with GATE.damage(self._path):
            return getattr(torch, str(self._array.dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> Tensor:
        with GATE.damage(self._path):
            chunk = math.prod(getattr(self._array, "chunks", None) or ())
            count = np.broadcast_to(np.False_, self.shape)[at].size  # of a view that takes no memory
            afford(2 * (count + chunk) * self.dtype.itemsize, f"a part of {self._path}", error=GATE.error)
            return torch.as_tensor(self._array[at])


@dataclass(frozen=True, eq=False)
class StoredSamples(Shown):
    """Posterior draws of every observation, on disk. The statistics are those of `Samples`.

    Each takes one pass, and memory for a block of draws and what it accumulates, not for all draws.

    Args:
        path: of the Zarr store or netCDF file.
        arrays: by name: `draws`, and what `Samples` has in `tensors`.
        cost: network calls, seconds, memory.
        record: as of `Samples`.
        group: consecutive samples that were drawn together.
        labels: names of the places along axes, by the name of the axis.
    """

    path: Path
    arrays: dict[str, OnDisk]
    cost: Cost
    record: dict[str, Any]
    group: int = 1
    labels: dict[str, list[str]] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> StoredSamples:
        """What `sample(..., out=...)` wrote. It reads only what the draws are.

        Raises:
            CheckpointError: If there is no such store, or it is damaged or not complete.
            ConfigError: If a library is missing.
        """
        path = Path(path)
        libraries(netcdf=path.suffix == ".nc")
        head = stored_head(path)
        with GATE.damage(path):
            if path.suffix == ".nc":
                import h5netcdf

                source = h5netcdf.File(str(path), "r")
                found = dict(source.variables)
            else:
                import zarr

                source = zarr.open_group(str(path), mode="r", use_consolidated=False)
                found = dict(source.arrays())
            if "draws" not in found:
                raise GATE.damaged(path, "it holds no draws")
            arrays = {name: OnDisk(array, path, source) for name, array in found.items()}
            return cls(path, arrays, Cost(**head["cost"]), head["record"], head["group"], head["labels"])

    def shown(self) -> Mapping[str, Any]:
        """Where the draws are and how many; reads nothing."""
        count, n, *signal = self.draws.shape
        return {"path": self.path, "draws": f"{n} of each of {count} observations", "signals": tuple(signal)}

    @property
    def draws(self) -> OnDisk:
        """The draws, shape (observation, sample, *signal): `draws[0, :10]` reads ten of the first observation."""
        return self.arrays["draws"]

    @cached_property
    def log_weight(self) -> Tensor | None:
        """As of `Samples`."""
        return self.arrays["log_weight"][:] if "log_weight" in self.arrays else None

    @cached_property
    def log_evidence(self) -> Tensor | None:
        """As of `Samples`."""
        return self.arrays["log_evidence"][:] if "log_evidence" in self.arrays else None

    @cached_property
    def signs(self) -> dict[str, Tensor]:
        """As of `Samples`."""
        return {name.removeprefix(SIGN): self.arrays[name][:] for name in self.arrays if name.startswith(SIGN)}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """As of `Samples`, without what is as large as the draws."""
        return {name: self.arrays[name][:] for name in ("y", "truth") if name in self.arrays}

    def load(self, observation: int | None = None) -> Samples:
        """All draws in memory, or those of one observation, as `Samples`."""
        of = slice(None) if observation is None else slice(observation, observation + 1)
        if observation is not None and not 0 <= observation < len(self.draws):
            raise ConfigError(f"there is no observation {observation}", hint=f"0 to {len(self.draws) - 1}")
        signs = {name: value[of] for name, value in self.signs.items()}
        tensors = {name: self.arrays[name][of] for name in ("y", "truth", "latents") if name in self.arrays}
        log_weight, log_evidence = (self.arrays[name][of] if name in self.arrays else None for name in WEIGHTS)
        asked = self.problem if observation is None else None
        if observation is not None and self.problem is not None:
            asked = self.problem.select(torch.tensor([observation], device=self.problem.likelihood.y.device))
        record, cost = self._about(observation)
        return Samples(self.draws[of], cost, record, tensors, log_weight, log_evidence, self.group, signs, asked)

    def _about(self, observation: int | None) -> tuple[dict[str, Any], Cost]:
        """Record and cost, of one observation with an equal share of the seconds."""
        count = len(self.draws)
        if observation is None or count == 1:
            return self.record, self.cost
        return record_of(self, observation), replace(self.cost, seconds=self.cost.seconds / count)

    def first(self, n: int) -> Samples:
        """The first draws of each observation, whole groups of them, as `Samples` in memory."""
        n = min(-(-n // self.group) * self.group, self.draws.shape[1])
        log_weight = None if self.log_weight is None else self.log_weight[:, :n]
        log_evidence = None if self.log_evidence is None else self.log_evidence[:, : n // self.group]
        signs = {name: value[:, :n] for name, value in self.signs.items()}
        return Samples(
            self.draws[:, :n],
            self.cost,
            self.record,
            self.tensors,
            log_weight,
            log_evidence,
            self.group,
            signs,
            self.problem,
        )

    def check(self, problem: Problem | None = None, *, false_alarms: float = FALSE_ALARMS) -> Verdict:
        """The verdict of `Samples.check` on the first draws of each observation: as many as 64 MiB hold."""
        size = len(self.draws) * torch.Size(self.draws.shape[2:]).numel() * self.draws.dtype.itemsize
        return self.first(max(JUDGED // size, 1)).check(problem, false_alarms=false_alarms)

    def extract(self, observation: int, path: Path, more: Mapping[str, Any]) -> None:
        """Write the draws of one observation into a Zarr store of their own, piece by piece.

        Args:
            observation: which one.
            path: of the new store, whose folder exists.
            more: what its record says besides.
        """
        record, cost = self._about(observation)
        copied(self.path, path, observation, {"record": {**record, **more}, "cost": asdict(cost)})

    def read_through(self) -> None:
        """Read every piece once, which compares the checksums.

        Raises:
            CheckpointError: If one is damaged.
        """
        for array in self.arrays.values():
            size = max(BLOCK // max(array[:1, :1].nbytes, 1), 1) if len(array.shape) > 1 else len(array)
            for i in range(len(array)):
                for first in range(0, array.shape[1], size) if len(array.shape) > 1 else (None,):
                    array[i] if first is None else array[i, first : first + size]

    def picks(self, n: int | None = None, seed: int = 0) -> Tensor:
        """As of `Samples`."""
        return picks_of(self, n, seed)

    def resampled(self, n: int | None = None, seed: int = 0) -> Samples:
        """As of `Samples`; only the draws that are taken are read, each observation after the other."""
        picks = self.picks(n, seed)
        tensors, record = dict(self.tensors), dict(self.record)
        if self.log_weight is not None:
            record["resampled"] = {"n": picks.shape[1], "seed": seed}
            tensors[BEFORE] = self.effective_sample_size()
        at = [(i, pick.unique(return_inverse=True)) for i, pick in enumerate(picks)]
        draws, *latents = (
            torch.stack([self.arrays[name][i, some.numpy()][back] for i, (some, back) in at])
            for name in ("draws", "latents")
            if name in self.arrays
        )
        tensors |= {"latents": latents[0]} if latents else {}
        signs = {name: value.gather(1, picks) for name, value in self.signs.items()}
        return Samples(draws, self.cost, record, tensors, None, self.log_evidence, 1, signs, self.problem)

    def each(self) -> Iterator[Samples]:
        """The samples of one observation after the other, in memory one at a time."""
        return (self.load(i) for i in range(len(self.draws)))

    def blocks(self, observation: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws of an observation with their weights, which sum to one over all, some of them at a time."""
        count, event = self.draws.shape[1], torch.Size(self.draws.shape[2:]).numel()
        size = max(BLOCK // max(event * self.draws.dtype.itemsize, 1), 1)
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        if self.log_weight is not None:
            weights = normalized(self.log_weight[observation])
        for first in range(0, count, size):
            yield self.draws[observation, first : first + size], weights[first : first + size]

    def average(self, values: Callable[[Tensor], Tensor]) -> Tensor:
        """The weighted mean over the draws of each observation of any values of each draw, such as its PSNR.

        Args:
            values: shape (k, *signal) -> (k, ...).

        Returns:
            Float64, shape (observation, ...).
        """
        return torch.stack(
            [
                torch.stack([torch.tensordot(w, values(x).double(), 1) for x, w in self.blocks(i)]).sum(0)
                for i in range(len(self.draws))
            ]
        )

    def mean(self) -> Tensor:
        """Posterior mean of each observation, shape (observation, *signal)."""
        return torch.stack([mean for mean, _ in self._all_moments]).to(self.draws.dtype)

    def std(self) -> Tensor:
        """Posterior standard deviation entry by entry, as that of `Samples`, shape (observation, *signal)."""
        return torch.stack([variance.sqrt() for _, variance in self._all_moments]).to(self.draws.dtype)

    @cached_property
    def _all_moments(self) -> list[tuple[Tensor, Tensor]]:
        return [self._moments(i) for i in range(len(self.draws))]

    def _moments(self, observation: int) -> tuple[Tensor, Tensor]:
        """Mean and variance, by the update of Chan et al. 1979 for each block."""
        total, squares, mean = 0.0, 0.0, torch.zeros(self.draws.shape[2:], dtype=torch.float64)
        spread = torch.zeros_like(mean)
        for x, w in self.blocks(observation):
            weight = float(w.sum())
            if weight == 0:
                continue
            x = x.double()
            here = torch.tensordot(w, x, 1) / weight
            away = here - mean
            total += weight
            mean = mean + away * (weight / total)
            spread = spread + torch.tensordot(w, (x - here).square(), 1)
            spread = spread + away.square() * (weight * (total - weight) / total)
            squares += float(w.square().sum())
        share = 1 - squares
        floor = self.draws.shape[1] * torch.finfo(torch.float64).eps
        return mean, spread / share if share > floor else torch.zeros_like(mean)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles entry by entry, shape (level, observation, *signal).

        Exact, as those of `Samples`, where the draws of an observation take at most 256 MiB. Else those of a t-digest,
        whose rank is off by less than `pi sqrt(p (1 - p)) / 200`; see `maths.digest`.
        """
        if any(not 0 <= level <= 1 for level in levels):
            raise ConfigError(f"levels lie in [0, 1], got {list(levels)}")
        found = [self._quantiles(i, levels) for i in range(len(self.draws))]
        return torch.stack(found, 1).to(self.draws.dtype)

    def _quantiles(self, observation: int, levels: Sequence[float]) -> Tensor:
        event = self.draws.shape[2:]
        entries = torch.Size(event).numel()
        if self.draws.shape[1] * entries * self.draws.dtype.itemsize <= EXACT:
            return self.load(observation).quantiles(levels)[:, 0]
        found = []
        for first in range(0, entries, ENTRIES):
            digest = Digest()
            for x, w in self.blocks(observation):
                digest.add(x.flatten(1)[:, first : first + ENTRIES], w)
            found.append(digest.quantiles(levels))
        return torch.cat(found, 1).reshape(len(levels), *event)

    def effective_sample_size(self) -> Tensor:
        """As of `Samples`, shape (observation,)."""
        if self.log_weight is None:
            return torch.full((len(self.draws),), float(self.draws.shape[1]), dtype=torch.float64)
        return effective_size(normalized(self.log_weight))

    def to_xarray(self) -> Dataset:
        """The draws as a data set of xarray that reads them when they are used; see `Samples.to_xarray`."""
        import xarray

        if self.path.suffix == ".nc":
            data = xarray.open_dataset(self.path, engine="h5netcdf")
        else:
            data = xarray.open_zarr(self.path, chunks=None, consolidated=False)
        return data.assign_coords(self.labels)
