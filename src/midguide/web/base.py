"""What a page shows of a posterior, and readers of results by name: each takes the paths that it knows.

@READERS.register("samples")
def samples(path: Path, observation: int) -> Viewed | None: ...
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, DataError
from midguide.signals.base import Signal


@dataclass(frozen=True, kw_only=True)
class Viewed:
    """One observation and its draws, as a page shows them.

    Args:
        title: what the page is called.
        draws: shape (n, *signal).
        signal: shape, range, unit and axes.
        truth: shape (*signal); None where it is unknown.
        measurement: a picture of it, of the body of the signals; None where it has none.
        measured: which values were measured, shape (*signal); None where that is not known.
        weights: of the draws, normalized, shape (n,); None where all count alike.
        verdict: one entry for each number that was compared: check, line, advice (empty where nothing was found).
        facts: what else to say, by name.
    """

    title: str
    draws: Tensor
    signal: Signal
    truth: Tensor | None = None
    measurement: Tensor | None = None
    measured: Tensor | None = None
    weights: Tensor | None = None
    verdict: Sequence[Mapping[str, str]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


Reader = Callable[[Path, int], Viewed | None]
"""What a path holds, of one observation; None where it is not of this reader's kind."""


def _check_reader(thing: object) -> None:
    if not inspect.isfunction(thing) or list(inspect.signature(thing).parameters) != ["path", "observation"]:
        raise ConfigError("it is not a reader", hint="a function (path, observation) that returns a Viewed or None")


READERS: Catalogue[Reader] = Catalogue("reader", "midguide.web.readers", group="midguide.readers", check=_check_reader)
"""Readers of results by name."""


def read(path: Path, observation: int = 0) -> Viewed:
    """What a folder or file holds.

    Raises:
        DataError: If it is absent, damaged, or holds no result.
    """
    if not os.path.exists(path):  # of any name, also one too long
        raise DataError(f"there is no {path}", hint="give the folder that a command wrote, as --out named it")
    for entry in READERS.values():
        if (found := entry.thing(path, observation)) is not None:
            return found
    raise DataError(f"{path} holds no result", hint="a folder that a command or Samples.save wrote, or a .safetensors")
