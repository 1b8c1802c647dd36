"""The file that a training goes on from, and what it must agree with.

A checkpoint holds its checksum, what the training is (recipe, data, first weights), all rows of its log, and its
history: by which code it was trained, and from which step on a setting was another. What may change when a training
goes on is `FREE`; a finished training changes only by more steps or minutes. `fork` begins another training from it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from midguide.errors import CheckpointError, reason
from midguide.storage.code import Code
from midguide.storage.files import replacing
from midguide.storage.outside import GIB, Outside
from midguide.storage.record import describe, fingerprint
from midguide.storage.tensors import read_torch
from midguide.training import log
from midguide.training.config import LoopConfig

FREE = {
    "accumulate",
    "bfloat16",
    "card",
    "checkpoint_every",
    "compile",
    "cooldown",
    "ema",
    "more_emas",
    "name",
    "steps",
}
"""Settings that may change when a training goes on: how long it is, how it is run, what is kept and said of it."""
FIRST = {"network", "optimizer", "averages", "streams", "step", "seconds"}
"""What a checkpoint holds."""
LATER = {"identity", "settings", "log", "logged", "losses", "history", "sha256"}
"""What those of earlier versions lack."""
FORK = "--fork OLD --out NEW begins another training from it"
_AGAIN = "choose another --out, or remove it to start again"
_FILE = Outside("checkpoint of a training", _AGAIN, CheckpointError, limit=1024 * GIB)


def identity(config: LoopConfig, source: object, start: Mapping[str, Any] | None) -> dict[str, Any]:
    """What must be the same when a training goes on: recipe, data, and the weights that it started from."""
    return {
        "recipe": {name: value for name, value in settings(config).items() if name not in FREE},
        "data": fingerprint(source),
        "start": None if start is None else fingerprint(dict(start)),
    }


def settings(config: LoopConfig) -> dict[str, Any]:
    """All settings of a recipe, as JSON."""
    return {f.name: describe(getattr(config, f.name)) for f in dataclasses.fields(config)}


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
    for name, (before, now) in differences(saved["recipe"], own["recipe"]).items():
        raise CheckpointError(
            f"{path} was trained with `{name}` = {before}, this recipe has {now}",
            hint=f"choose another --out, or restore the recipe (`steps` may change); {FORK}",
        )
    for key, what in (("data", "other data"), ("start", "other weights to start from")):
        if saved[key] != own[key]:
            raise CheckpointError(
                f"{path} belongs to {what}", hint=f"choose another --out, or give the same again; {FORK}"
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings that differ, by name: what they were and what they are."""
    names = sorted(before.keys() | now.keys())
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def check_unchanged(changed: Mapping[str, Any], step: int, path: Path) -> None:
    """Refuse to change settings of a training that has ended: only its card would be another.

    Raises:
        CheckpointError: If one is changed.
    """
    for name, (before, now) in changed.items():
        raise CheckpointError(
            f"the training of {path} has ended at step {step}, with `{name}` = {before}; this recipe has {now}",
            hint=f"raise `steps` to go on, or choose another --out; {FORK}",
        )


def told(
    saved: Mapping[str, Any], config: LoopConfig, data: str, code: Code, *, forks: bool = False
) -> list[dict[str, Any]]:
    """The history of a training that goes on from a checkpoint, with a new entry where something is another.

    Args:
        saved: the checkpoint.
        config: the recipe from now on.
        data: digest of what it is trained on from now on.
        code: by which it is trained from now on.
        forks: whether this is another training than that of the checkpoint.
    """
    history = list(saved.get("history") or [{"step": 0, "midguide": "unknown", "code": ""}])
    changed = differences(saved.get("settings") or settings(config), settings(config))
    before = (saved["identity"] or {}).get("data", data)
    changed |= {} if before == data else {"data": [before, data]}
    entry = begun(saved["step"], code) | ({"changed": changed} if changed else {})
    entry |= {"forked_from": saved["sha256"] or "unknown"} if forks else {}
    return [*history, entry] if len(entry) > 3 or code.sha256 != history[-1]["code"] else history


def begun(step: int, code: Code) -> dict[str, Any]:
    """The entry of a history from a step on."""
    return {"step": step, "midguide": code.version, "code": code.sha256}


def words(entry: Mapping[str, Any]) -> str:
    """An entry of a history as a line for the reader."""
    changed = [f"`{name}` = {now} (it was {before})" for name, (before, now) in entry.get("changed", {}).items()]
    how = "forking a training" if "forked_from" in entry else "going on"
    return f"{how} at step {entry['step']} with " + (", ".join(changed) or "other code") + "; its card will say so"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint with its checksum; it appears complete or not at all."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError like any other
    torch.save({**state, "sha256": fingerprint(dict(state))}, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read(path: Path, device: str) -> dict[str, Any]:
    """What a checkpoint holds, with the log of one that has none from the file beside it.

    Raises:
        CheckpointError: If it is damaged, or something else.
    """
    try:
        saved = read_torch(_FILE, path, device)
        if not isinstance(saved, dict) or not FIRST <= saved.keys() <= FIRST | LATER:
            raise ValueError("it holds something else")
        sha256 = saved.pop("sha256", None)
        if sha256 is not None and sha256 != fingerprint(saved):
            raise ValueError("it is damaged, its checksum differs")
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # damaged bytes make the readers of pickles and archives raise anything
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise CheckpointError(f"{path} is not a checkpoint of a training: {why}", hint=_AGAIN) from error
    rows = [row for row in log.rows(path.with_name(log.NAME)) if row.get("step", 0) <= saved["step"]]
    return {"identity": None, "log": rows, "sha256": sha256, **saved}


def misfit(path: Path, error: Exception) -> CheckpointError:
    """The error for a checkpoint that a training cannot go on from."""
    return CheckpointError(f"{path} does not fit this training: {reason(error)}", hint="choose another --out")
