"""The result of `sample`: draws, what they cost, and everything they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from midguide.errors import CheckpointError
from midguide.storage.files import replacing_folder, sha256_of


@dataclass(frozen=True)
class Cost:
    """What the samples cost.

    Args:
        network_forwards: network evaluations per sample.
        network_vjps: vector-Jacobian products through the network per sample.
        seconds: wall-clock time of all samples.
        peak_memory_mib: peak memory of the process (CPU) or of the device's allocator (GPU) so far, in MiB.
    """

    network_forwards: float
    network_vjps: float
    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True, eq=False)
class Samples:
    """Posterior draws of every observation.

    Args:
        draws: shape (observation, sample, *signal), in the value range of signals.
        cost: network calls, seconds, memory.
        record: the resolved configuration: sampler, problem, seed, versions.
        tensors: further tensors to keep with the draws, by name: the observations `y`, the `truth` where known, the
            `latents` of the draws where the prior is one of latents.
    """

    draws: Tensor
    cost: Cost
    record: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def mean(self) -> Tensor:
        """Posterior mean of each observation, shape (observation, *event)."""
        return self.draws.mean(dim=1)

    def std(self) -> Tensor:
        """Posterior standard deviation entry by entry, shape (observation, *event); zero for a single sample."""
        return self.draws.std(dim=1, correction=min(1, self.draws.shape[1] - 1))

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Empirical quantiles entry by entry, shape (level, observation, *event)."""
        return torch.quantile(self.draws, self.draws.new_tensor(levels), dim=1)

    def each(self) -> list[Samples]:
        """The samples of each observation on their own, on the CPU, with an equal share of the seconds.

        Their record is that of the whole, with the place of the observation.
        """
        count = len(self.draws)
        if count == 1:  # its tensors may be of other kinds than one row per observation
            return [replace(self, draws=self.draws.cpu(), tensors={k: v.cpu() for k, v in self.tensors.items()})]
        cost = replace(self.cost, seconds=self.cost.seconds / count)
        return [
            Samples(
                self.draws[i : i + 1].cpu(),
                cost,
                {**self.record, "observation": i},
                {name: value[i : i + 1].cpu() for name, value in self.tensors.items()},
            )
            for i in range(count)
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `samples.safetensors` and `samples.json` into `folder`, both complete or neither."""
        with replacing_folder(folder) as temporary:
            self.write(temporary)
        return [Path(folder) / "samples.safetensors", Path(folder) / "samples.json"]

    def write(self, folder: Path) -> None:
        """Write the two files of `save` into an existing folder, without its promise."""
        tensors = {"draws": self.draws, **self.tensors}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "samples.safetensors")
        plain = {"cost": asdict(self.cost), "record": self.record, "tensors": sha256_of(folder / "samples.safetensors")}
        text = json.dumps({**plain, "sha256": _checksum(plain)}, indent=2)
        (folder / "samples.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Samples:
        """Read what `save` wrote.

        Raises:
            CheckpointError: files are missing, damaged or of different runs.
        """
        folder = Path(folder)
        try:
            stored = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "samples.safetensors")
            sums = _checksum(stored), sha256_of(folder / "samples.safetensors")
            if (stored["sha256"], stored["tensors"]) != sums:
                raise ValueError("a checksum differs")
            return cls(tensors.pop("draws"), Cost(**stored["cost"]), stored["record"], tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder} holds no readable samples: {error}", hint="give the folder that save() wrote"
            ) from error


def _checksum(plain: dict[str, Any]) -> str:
    """SHA-256 of what `samples.json` holds besides."""
    rest = {key: value for key, value in plain.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
