"""The log of a training: one JSON object a line, one line a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midguide.errors import CheckpointError
from midguide.storage.files import replacing
from midguide.storage.outside import GIB, Outside

NAME = "log.jsonl"
_LOG = Outside("log of a training", "move it away", CheckpointError, limit=GIB)


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; none where there is none. Broken lines, as a full disk leaves them, are passed over.

    Raises:
        CheckpointError: If something else has the name of the log.
    """
    found = []
    for line in _LOG.read(path).decode("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a log; it appears complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
