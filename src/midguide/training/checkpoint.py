"""The file that a training goes on from, and what it must agree with."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from midguide.errors import CheckpointError, reason
from midguide.storage.files import replacing
from midguide.storage.record import describe, fingerprint
from midguide.training.config import LoopConfig

FREE = {
    "accumulate",
    "bfloat16",
    "card",
    "checkpoint_every",
    "compile",
    "cooldown",
    "ema",
    "minutes",
    "more_emas",
    "name",
    "steps",
}
"""Settings that may change when a training goes on: how long it is, how it is run, what is kept and said of it."""


def identity(config: LoopConfig, source: object, start: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must be the same when a training goes on: recipe, data, and the weights that it started from."""
    settings = {f.name: describe(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in FREE}
    return {
        "recipe": settings,
        "data": fingerprint(source),
        "start": None if start is None else fingerprint(dict(start)),
    }


def check_same(own: Mapping[str, Any], saved: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse to go on with another recipe, other data, or from other weights.

    Args:
        own: `identity` of this training.
        saved: that of the checkpoint; None for one that states none.
        path: of the checkpoint.

    Raises:
        CheckpointError: If they differ.
    """
    if saved is None:
        return
    before, now = saved["recipe"], own["recipe"]
    for name in sorted(now.keys() | before.keys()):
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"{path} was trained with `{name}` = {before.get(name)}, this recipe has {now.get(name)}",
                hint="choose another --out, or restore the recipe; `steps` may change",
            )
    for key, what in (("data", "other data"), ("start", "other weights to start from")):
        if saved[key] != own[key]:
            raise CheckpointError(f"{path} belongs to {what}", hint="choose another --out, or give the same again")


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; it appears complete or not at all."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError like any other
    torch.save(dict(state), buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read(path: Path, device: str) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise misfit(path, error) from error


def misfit(path: Path, error: Exception) -> CheckpointError:
    """The error for a checkpoint that a training cannot go on from."""
    return CheckpointError(f"{path} does not fit this training: {reason(error)}", hint="choose another --out")
