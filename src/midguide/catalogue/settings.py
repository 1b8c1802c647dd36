"""One engine that turns plain values (TOML, JSON, a command line) into settings, and one grammar of overrides.

Settings are dataclasses. Plain values are what TOML holds: numbers, text, lists and tables; "off" stands for None, and
an integer for a table with only the key `default`. Pydantic checks them in its strict mode for JSON: every key must be
known, every value of the right type. Numbers must be finite. Fields may also allow objects, which only Python can give.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
import sys
import tomllib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError, core_schema

from midguide.errors import ConfigError, suggestion

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PathOr:
    """Annotation of a setting that is a path, unless it is one of these words: `Annotated[str, PathOr("prior")]`."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)


OFF = ("off", "none")
"""Words for None, which TOML does not have."""

_OVERRIDE = re.compile(r"\s*((?:\w+\[[^]]+\]\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*=(.*)", re.DOTALL)
_WORD = re.compile(r"[A-Za-z./~][A-Za-z0-9_./~:-]*")

_PLAIN = (bool, int, float, str, list, tuple, Mapping, type(None))

_EXPECTED = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "mapping": "a table",
    "dataclass": "a table",
    "model": "a table",
}
"""What is expected, by the first word of pydantic's type of error."""


class Python:
    """Marks a type that only Python can give to a field: `schedule: str | Annotated[Schedule, Python]`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Plain values are refused."""

        def refuse(value: object) -> object:
            raise PydanticCustomError("python_only", "given from Python")

        return core_schema.no_info_plain_validator_function(refuse)


def build(cls: type[T], plain: Mapping[str, object], where: str) -> T:
    """The dataclass `cls` from plain values.

    Args:
        cls: a dataclass, whose fields may be dataclasses, tuples, mappings, literals, or optional.
        plain: values by field; fields that are left out have their defaults. Objects are taken as they are for fields
            that allow them, see `Python`.
        where: what the settings belong to, for messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is of the wrong type or out of range.

    Example:
        >>> from midguide.diffusion.rules import StepRule
        >>> build(StepRule, {"default": 2, "every": [10, 20]}, "gradient_steps").every
        (10, 20)
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where} must be a table, got {_shown(plain)}")
    objects = {key: plain[key] for key in _of_python(cls) & plain.keys() if not isinstance(plain[key], _PLAIN)}
    values = {str(key): as_plain(value, full=False) for key, value in plain.items() if key not in objects}
    _check_finite(values, where)
    try:
        made: Any = _validated(cls, _expanded(cls, values))
        return dataclasses.replace(made, **objects) if objects else made
    except ValidationError as error:
        raise _explained(error, values, where, cls) from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error


def as_plain(value: Any, *, full: bool = True, deep: bool = False) -> Any:
    """The plain values that `build` makes `value` from; None stays None.

    Args:
        value: a dataclass of settings, or a value of one of its fields.
        full: also the fields that have their default.
        deep: also those of dataclasses inside, as records need them; otherwise these are left out.
    """
    match value:
        case type():
            return value
        case _ if dataclasses.is_dataclass(value):
            return {
                f.name: as_plain(getattr(value, f.name), full=deep, deep=deep)
                for f in dataclasses.fields(value)
                if f.init and (full or _is_tag(f) or getattr(value, f.name) != f.default)
            }
        case Mapping():
            return {str(key): as_plain(item, full=deep, deep=deep) for key, item in value.items()}
        case tuple() | list():
            return [as_plain(item, full=deep, deep=deep) for item in value]
        case _:
            return value


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None, by name."""
    return {key: value for key, value in values.items() if value is not None}


def override(table: dict[str, Any], key: str, value: object) -> None:
    """Change the setting that a dotted key names, in place; a table changes the keys that it names, and no others."""
    _override(table, key.split("."), value)


def parse_override(text: str) -> tuple[str, object]:
    """Key and value of `key=value`, with the value as TOML writes it; a single word or path needs no quotes.

    Args:
        text: for example `midpoint=0.6`, `optimizer.rate=0.1`, `gradient_steps.cleanest=[20, 2]`, `warm_start=off`,
            and for one row of a study `problems[dx = 20].dimension=30`.

    Returns:
        The key, dotted for nested tables, and the value.

    Raises:
        ConfigError: If it is not of this form.

    Example:
        >>> parse_override("optimizer.rate=0.1")
        ('optimizer.rate', 0.1)
    """
    found = _OVERRIDE.fullmatch(text)
    key, value = (part.strip() for part in found.groups()) if found else ("", "")
    if not value:
        raise ConfigError(
            f"cannot read the setting `{' '.join(text.split())}`", hint="write key=value, for example midpoint=0.6"
        )
    if "\n" not in value and "\r" not in value:
        try:
            return key, tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            if _WORD.fullmatch(value):
                return key, value
    raise ConfigError(
        f"cannot read the value of `{' '.join(text.split())}`",
        hint='values are written as in TOML: 0.6, true, [20, 2], {rate = 0.1}, "text"',
    )


def parse_overrides(texts: list[str] | None) -> dict[str, object]:
    """The overrides of a command line, in their order."""
    return dict(parse_override(text) for text in texts or ())


@functools.cache
def _of_python(cls: type) -> set[str]:
    """The fields of a dataclass that allow objects."""
    return {name for name, hint in typing.get_type_hints(cls, include_extras=True).items() if _allows_objects(hint)}


def _allows_objects(hint: Any) -> bool:
    return Python in getattr(hint, "__metadata__", ()) or any(map(_allows_objects, typing.get_args(hint)))


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(cls)
    except PydanticUserError as error:
        raise ConfigError(
            f"the settings of {cls.__name__} cannot be set from plain values: {error.message.splitlines()[0]}",
            hint="give fields the types bool, int, float, str, tuples of them, or dataclasses of such fields",
        ) from error


def _validated(cls: type[T], values: dict[str, Any]) -> T:
    """The dataclass; where a value is refused that says "off", None is tried in its place."""
    try:
        return _checked(cls, values)
    except ValidationError as error:
        off = [_places(values, e["loc"]) for e in error.errors() if isinstance(e["input"], str) and e["input"] in OFF]
        if not off:
            raise
        changed = copy.deepcopy(values)
        for path in off:
            _override(changed, path, None)
        try:
            return _checked(cls, changed)
        except ValidationError:
            raise error from None


def _places(values: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys of a location that are in the values: pydantic also names the members of unions."""
    path = []
    for key in location:
        if isinstance(values, Mapping) and key in values:
            path.append(str(key))
            values = values[key]
    return path


def _checked(cls: type[T], values: dict[str, Any]) -> T:
    return _adapter(cls).validate_json(json.dumps(values), strict=True, extra="forbid")


def _expanded(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values with tables in the place of their short form, an integer."""
    hints, found = typing.get_type_hints(cls), dict(values)
    for key, value in values.items():
        members = _members(hints.get(key))
        if len(members) == 1 and isinstance(value, dict):
            found[key] = _expanded(members[0], value)
        elif len(members) == 1 and type(value) is int and _has_short_form(members[0]):
            found[key] = {"default": value}
    return found


def _has_short_form(cls: type) -> bool:
    return any(f.name == "default" for f in dataclasses.fields(cls))


def _check_finite(value: Any, where: str) -> None:
    match value:
        case Mapping():
            for key, item in value.items():
                _check_finite(item, f"{where}.{key}")
        case list():
            for i, item in enumerate(value):
                _check_finite(item, f"{where}[{i}]")
        case bool():
            return
        case int() | float() if not abs(value) <= sys.float_info.max:
            raise ConfigError(f"{where} must be a finite number, got {str(value)[:20]}")


def _explained(error: ValidationError, values: dict[str, Any], where: str, cls: type) -> ConfigError:
    """The first error of pydantic in our words; unknown keys before others, which may follow from them."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
    first = errors[0]
    place, parent = _words(values, where, first["loc"]), _words(values, where, first["loc"][:-1])
    kind, context, got = first["type"], first.get("ctx", {}), first["input"]
    name = str(first["loc"][-1]) if first["loc"] else ""
    if kind == "unexpected_keyword_argument":
        return ConfigError(f"{parent} has no setting `{name}`", hint=suggestion(name, _siblings(cls, first["loc"])))
    if kind == "missing" and isinstance(first["loc"][-1], int):
        return ConfigError(f"{parent} is too short, got {_shown(got)}")
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        known = _siblings(cls, first["loc"])
        return ConfigError(f"{parent} lacks the setting `{name}`", hint=f"known are {', '.join(known)}")
    if kind == "union_tag_invalid":
        key, known = context["discriminator"].strip("'"), context["expected_tags"].replace("'", "").split(", ")
        return ConfigError(f"{place}: unknown {key} `{context['tag']}`", hint=suggestion(str(context["tag"]), known))
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        return ConfigError(f"{place}: no {key} is given", hint=f"a table with the key {key}")
    optional = any(e["type"] == "none_required" for e in errors) or _is_optional(cls, first["loc"])
    hint = f'"{OFF[0]}" switches it off' if optional else ""
    wanted = _wanted(errors)
    found = _dataclass_at_location(cls, first["loc"])
    if wanted == "a table" and found is not None:
        wanted = "an integer or a table" if _has_short_form(found) else wanted
    return ConfigError(f"{place} must be {wanted}, got {_shown(got)}", hint=hint)


def _wanted(errors: list[Any]) -> str:
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "literal_error":
        return f"one of {context['expected'].replace(' or ', ', ')}".replace("'", "`")
    if kind in ("too_long", "missing_positional_argument", "too_short"):
        return f"a list of {context.get('max_length', context.get('min_length'))}"
    if kind == "missing":
        return "complete"
    if kind == "python_only":
        return first["msg"]
    words = _EXPECTED.get(kind.partition("_")[0])
    return words or f"valid ({first['msg'][:1].lower()}{first['msg'][1:]})"


def _words(values: Any, where: str, location: tuple[int | str, ...]) -> str:
    """A location as a user writes it: `mgps.gradient_steps.every[1]`, with the tag of a union in brackets."""
    for key in location:
        if isinstance(key, int):
            where += f"[{key}]"
            values = values[key] if isinstance(values, list) and key < len(values) else None
        elif isinstance(values, Mapping) and key in values:
            where += f".{key}"
            values = values[key]
        elif isinstance(values, Mapping) and key in values.values():
            where += f" ({key})"
        elif isinstance(values, Mapping):  # others are members of unions
            where += f".{key}" if key == location[-1] else ""
    return where


def _siblings(cls: type, location: tuple[int | str, ...]) -> list[str]:
    """The settings that there are where the last key of a location was looked for."""
    for key in location[:-1]:
        found = _dataclass_at(cls, key)
        cls = found or cls
    return [f.name for f in dataclasses.fields(cls) if f.init and not _is_tag(f)]


def _dataclass_at(cls: type, key: int | str) -> type | None:
    """The dataclass of the field `key`, or the member of a union that the tag `key` names."""
    hints = typing.get_type_hints(cls)
    if isinstance(key, str) and key in hints:
        members = _members(hints[key])
        return members[0] if len(members) == 1 else None
    for hint in hints.values():
        for member in _members(hint):
            if any(_is_tag(f) and f.default == key for f in dataclasses.fields(member)):
                return member
    return None


def _dataclass_at_location(cls: type, location: tuple[int | str, ...]) -> type | None:
    found: type | None = cls
    for key in location:
        found = _dataclass_at(found, key) if found else None
    return found


def _members(hint: Any) -> list[type]:
    arguments = typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return [hint] if isinstance(hint, type) else []
    return [member for argument in arguments for member in _members(argument)]


def _is_optional(cls: type, location: tuple[int | str, ...]) -> bool:
    for key in location:
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
        hint = hints.get(key) if isinstance(key, str) else None
        if hint is None:
            return False
        if type(None) in typing.get_args(hint):
            return True
        cls = (_members(hint) or [object])[0]
    return False


def _is_tag(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is the tag by which a union is told: it has a default and is left out of what is shown."""
    return not field.repr and isinstance(field.default, str)


def _shown(value: object) -> str:
    return repr(value)[:80]


def _override(table: dict[str, Any], path: list[str], value: object) -> None:
    """Set `table[path[0]][path[1]]...` to `value`, in place; a table as value is merged."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _override(table, [*path, str(key)], item)
        return
    for key in path[:-1]:
        inner = table.get(key)
        if isinstance(inner, int) and not isinstance(inner, bool):
            inner = {"default": inner}  # the short form of a table is its default
        table[key] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[key]
    table[path[-1]] = value
