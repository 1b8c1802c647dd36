"""The contract of identity: what a thing records of itself changes with whatever changes its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, get_args, get_type_hints

from midguide.catalogue.base import NO_CHANGES, Entry
from midguide.catalogue.settings import as_plain, build, override
from midguide.errors import MidguideError
from midguide.storage.record import describe
from midguide.testing.contract import require

WORDS = (0.5, 1, 2, 3.0, True)
"""Tried in place of a setting that is off."""


def check_identity(
    make: Callable[[], Any],
    changes: Mapping[str, Callable[[], Any]] | None = None,
    *,
    same: Callable[[Any, Any], bool] = lambda thing, other: False,
) -> None:
    """Check that the record of a thing is JSON, that of an equal thing is equal, and that of each other thing differs.

    Args:
        make: makes the thing, anew at each call.
        changes: for each thing that numbers depend on (a setting, an array, a weight, a schedule), what makes the
            thing with that one changed.
        same: whether two things give the same numbers after all, so that they may have one record.

    Raises:
        ContractError: If a record is not JSON, differs for equal things, or leaves out a change.

    Example:
        >>> from midguide.samplers.dps import DPS
        >>> check_identity(DPS, {"guidance": lambda: DPS(guidance=0.2), "steps": lambda: DPS(steps=10)})
    """
    thing = make()
    record = describe(thing)
    require(json.loads(json.dumps(record)) == record, thing, "its record is not JSON")
    require(describe(make()) == record, thing, "made again, it has another record")
    require(describe(thing) == record, thing, "it has another record the second time")
    made = {"": thing, **{name: other() for name, other in (changes or {}).items()}}
    for (a, first), (b, second) in combinations(made.items(), 2):
        left_out = f"its record does not change with {b}" if not a else f"its record is the same for {a} and {b}"
        require(describe(first) != describe(second) or same(first, second), thing, left_out)


def changed_settings(
    entry: Entry[Any],
    make: Callable[[Mapping[str, Any]], Any],
    given: Mapping[str, Any] = NO_CHANGES,
    words: Mapping[str, object] = NO_CHANGES,
) -> dict[str, Callable[[], Any]]:
    """For each setting of a piece, also those of tables, what makes it with another value that it accepts.

    Args:
        entry: the piece.
        make: makes it from plain values.
        given: settings in place of the defaults.
        words: another value by setting, for those that are text.

    Returns:
        Functions by setting; a setting that accepts none of the values tried has no function.
    """
    if entry.settings is None:
        return {}
    plain = describe(as_plain(build(entry.settings, entry.defaults() | dict(given), entry.name), deep=True))
    found = {}
    for key, candidates in _alternatives(plain, get_type_hints(entry.settings)):
        for value in [words[key]] if key in words else candidates:
            changed = json.loads(json.dumps(plain))
            override(changed, key, value)
            if _is_accepted(make, changed):
                found[key] = lambda changed=changed: make(changed)
                break
    return found


def _is_accepted(make: Callable[[Mapping[str, Any]], Any], plain: Mapping[str, Any]) -> bool:
    try:
        make(plain)
    except MidguideError:
        return False
    return True


def _alternatives(
    plain: Mapping[str, Any], hints: Mapping[str, Any] = NO_CHANGES, above: str = ""
) -> Iterator[tuple[str, list[Any]]]:
    """Each setting by its dotted key, with values to try in its place."""
    for name, value in plain.items():
        match value:
            case Mapping() if value:
                yield from _alternatives(value, above=f"{above}{name}.")
            case bool():
                yield above + name, [not value]
            case int() | float():
                yield above + name, [new for new in (2 * value, value / 2, value + 1, value - 1) if new != value]
            case list() if value and all(isinstance(item, int | float) for item in value):
                yield above + name, [[item + 1 for item in value], [2 * item for item in value], value[:-1]]
            case None:
                yield above + name, list(WORDS)
            case str():
                yield above + name, [word for word in get_args(hints.get(name)) if word != value]
            case _:
                yield above + name, []
