"""The log of a training: one JSON object a line, one line a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midguide.storage.files import replacing

NAME = "log.jsonl"


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; none where there is none. Broken lines, as a full disk leaves them, are passed over."""
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
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
