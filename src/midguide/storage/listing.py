"""Files that people do not see: what systems and tools leave in folders and archives beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}
LEFT_BY_SYSTEMS |= {"lost+found", "@eadir", "icon\r", "__pycache__"}


def is_hidden(name: str | PurePath) -> bool:
    """Whether a part of a path is hidden: it begins with a dot (`._1.png`, `.ipynb_checkpoints`) or a system left it.

    Example:
        >>> is_hidden("__MACOSX/faces/._1.png"), is_hidden("faces/1.png")
        (True, False)
    """
    parts = [part.lower() for part in PurePath(str(name).replace("\\", "/")).parts]
    return any((part.startswith(".") and part not in (".", "..")) or part in LEFT_BY_SYSTEMS for part in parts)


def passed_over(names: Sequence[str | PurePath], where: object) -> str | None:
    """One line on hidden files that were passed over; None where there were none."""
    if not names:
        return None
    shown = ", ".join(sorted({_shown(name) for name in names})[:3])
    return f"{len(names)} hidden files of {where} are passed over ({shown})"


def _shown(name: str | PurePath) -> str:
    """The hidden part of a path."""
    return next((part for part in PurePath(str(name)).parts if is_hidden(part)), str(name))
