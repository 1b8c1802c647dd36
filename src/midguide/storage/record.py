"""What a number depends on, as plain JSON: every setting of a dataclass, a digest of every tensor and module."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Recorded(Protocol):
    """Something that describes itself."""

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, as JSON."""
        ...


def describe(value: Any) -> Any:
    """`value` as JSON: dataclasses by type and fields; tensors, modules and long tuples by digest."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case Tensor():
            return {
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "sha256": digest(value),
            }
        case Recorded():
            return value.record()
        case nn.Module():
            return {"type": type(value).__name__, "sha256": fingerprint(value.state_dict())}
        case Mapping():
            return {str(key): describe(item) for key, item in value.items()}
        case list() | tuple() if len(value) > 64:
            return {"length": len(value), "sha256": hashlib.sha256(repr(value).encode()).hexdigest()}
        case list() | tuple():
            return [describe(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
            return {"type": type(value).__name__, **fields}
        case _:
            return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}


def digest(tensor: Tensor) -> str:
    """SHA-256 of the values of a tensor."""
    return hashlib.sha256(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def fingerprint(record: Any) -> str:
    """SHA-256 of a record, the same for equal records."""
    return hashlib.sha256(json.dumps(describe(record), sort_keys=True).encode()).hexdigest()
