"""What the numbers of a prior stand for: unit, axes, and the linear space that clean signals lie in.

The core knows signals by this description only. A field of use registers a kind of signal, which makes the description
from settings of its own. A prior's file names the kind and the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from midguide.catalogue.base import Catalogue
from midguide.catalogue.settings import build
from midguide.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a signal.

    Args:
        name: `channel`, `time`, ...
        labels: names of its places, in order; empty where they have none.
        unit: of positions along the axis, such as `s`.
        rate: places per unit where they are regular.
    """

    name: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    rate: float | None = None


@dataclass(frozen=True)
class Space:
    """A linear space of signals.

    Args:
        name: what identifies it.
        project: the nearest signal in the space, (..., *event) -> (..., *event).
    """

    name: str
    project: Callable[[Tensor], Tensor] = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a prior's signals are.

    Args:
        shape: of one signal.
        value_range: smallest and largest value, or None where unbounded.
        unit: that of the quantity, such as `mV`; empty where it has none.
        unit_size: how many units one unit of the prior is.
        axes: what the axes are, in order; empty where that is not known.
        space: the linear space that all clean signals lie in; None for all of it.
        kind: the name in `SIGNALS` of what made this description; empty where nothing did.
        settings: the plain settings that it was made from.

    Example:
        >>> Signal(unit="K", unit_size=0.5, axes=(Axis(name="time", unit="s", rate=10.0),)).axes[0].rate
        10.0
    """

    shape: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None
    unit: str = ""
    unit_size: float = 1.0
    axes: tuple[Axis, ...] = ()
    space: Space | None = None
    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not 0 < self.unit_size < float("inf"):
            raise ConfigError(f"unit_size must be positive, got {self.unit_size}")

    def record(self) -> dict[str, Any]:
        """All but shape and range, as JSON; what is not known is left out."""
        axes = [{**asdict(axis), "labels": list(axis.labels)} for axis in self.axes]
        space = "" if self.space is None else self.space.name
        known = {"unit": self.unit, "axes": axes, "space": space, "kind": self.kind, "settings": dict(self.settings)}
        size = {} if self.unit_size == 1.0 else {"unit_size": self.unit_size}
        return {key: value for key, value in known.items() if value} | size

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Signal:
        """What `record` describes; of one with a kind, `kind` and `settings` are enough.

        Raises:
            ConfigError: If the kind is not known here.
            CheckpointError: If the kind describes its signals otherwise here.
        """
        if kind := record.get("kind"):
            made = SIGNALS.make(kind, record.get("settings", {}))
            if not record.items() <= made.record().items():
                raise CheckpointError(
                    f"its signals are of another version of the kind `{kind}`", hint="install the one that wrote it"
                )
            return made
        if "space" in record:
            raise CheckpointError(f"its signals lie in the space `{record['space']}`, which no kind of signal says")
        return build(cls, record, "signal")


SIGNALS: Catalogue[Signal] = Catalogue("kind of signal", "midguide.signals")
"""Kinds of signals by name: each makes a `Signal` from settings."""
