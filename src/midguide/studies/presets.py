"""Samplers from plain settings: named presets, a study's TOML, `key=value` of a command line.

Settings are what TOML holds: numbers, text, lists and tables. A sampler's `gradient_steps` is an integer (the same at
every step) or a table with the fields of `StepRule`; its `optimiser` a table with `rule` (adam, sgd, normalised-sgd)
and the fields of that rule; "off" stands for None. Every key must be known and every value of the right type.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from typing import Any

from midguide.errors import ConfigError, suggestion, unknown
from midguide.optim import SGD, Adam, NormalisedSGD, Optimiser
from midguide.rules import StepRule
from midguide.samplers.base import Sampler
from midguide.samplers.registry import SAMPLERS

OPTIMISERS: dict[str, type] = {"adam": Adam, "normalised-sgd": NormalisedSGD, "sgd": SGD}

T = typing.TypeVar("T")

_OFF = ("off", "none")
_SETTING = re.compile(r"\s*((?:\w+\[[^]]+\]\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\s*=(.*)", re.DOTALL)
_WORD = re.compile(r"[A-Za-z./~][A-Za-z0-9_./~-]*")
_NO_OVERRIDES: Mapping[str, object] = types.MappingProxyType({})


def make_sampler(spec: str, overrides: Mapping[str, object] = _NO_OVERRIDES) -> Sampler:
    """The sampler that `spec` names, with some of its settings changed.

    Args:
        spec: a sampler, `mgps`, which has the defaults of its class; or one of its presets, `mgps:ffhq`.
        overrides: settings by name, applied in their order on top of the preset. A key may be dotted
            (`optimiser.rate`); a table changes the keys that it names and keeps the others.

    Returns:
        A frozen dataclass, ready for `midguide.sample`.

    Raises:
        ConfigError: an unknown sampler, preset or key, or a value that does not fit.

    Example:
        >>> make_sampler("mgps:mixture", {"steps": 50, "gradient_steps.default": 4}).gradient_steps.default
        4
        >>> make_sampler("dps", {"guidance": 1})
        DPS(steps=1000, guidance=1.0)
    """
    name, colon, preset = spec.partition(":")
    cls = _sampler_class(name)
    settings = _preset_settings(name, preset) if colon else _plain_fields(cls())
    for key, value in overrides.items():
        _override(settings, str(key).split("."), value)
    return sampler_from_settings(name, settings)


def sampler_from_settings(name: str, settings: Mapping[str, object]) -> Sampler:
    """The sampler `name` with these settings, and the defaults of its class for the others.

    Args:
        name: a registered sampler.
        settings: plain values by field, as TOML holds them.

    Raises:
        ConfigError: an unknown sampler or key, or a value of the wrong type or out of range.

    Example:
        >>> sampler_from_settings("mgps", {"optimiser": {"rule": "sgd", "rate": 1}, "gradient_steps": 5}).optimiser
        SGD(rate=1.0)
    """
    return _build(_sampler_class(name), settings, name)


def parse_override(text: str) -> tuple[str, object]:
    """Key and value of `key=value`, with the value as TOML writes it; a single word or path needs no quotes.

    Args:
        text: for example `midpoint=0.6`, `optimiser.rate=0.1`, `gradient_steps.cleanest=[20, 2]`, `warm_start=off`,
            and for one row of a study `problems[dx = 20].dimension=30`.

    Returns:
        The key, dotted for nested tables, and the value.

    Raises:
        ConfigError: it is not of this form.

    Example:
        >>> parse_override("optimiser.rate=0.1")
        ('optimiser.rate', 0.1)
    """
    found = _SETTING.fullmatch(text)
    key, value = (part.strip() for part in found.groups()) if found else ("", "")
    if not value:
        raise ConfigError(f"cannot read the setting {text!r}", hint="write key=value, for example midpoint=0.6")
    if "\n" not in value and "\r" not in value:
        try:
            return key, tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            if _WORD.fullmatch(value):
                return key, value
    raise ConfigError(
        f"cannot read the value of {text!r}",
        hint='values are written as in TOML: 0.6, true, [20, 2], {rate = 0.1}, "text"',
    )


def list_presets() -> list[dict[str, Any]]:
    """Every preset, sorted: `sampler`, `name`, `source` (where its numbers come from) and `settings` (plain values).

    Example:
        >>> [preset["name"] for preset in list_presets() if preset["sampler"] == "unconditional"]
        ['ddim', 'ddpm']
    """
    return [
        {"sampler": sampler, "name": name, **copy.deepcopy(preset)}
        for sampler in sorted(SAMPLERS)
        for name, preset in sorted(_presets(sampler).items())
    ]


def dataclass_from_settings(cls: type[T], settings: Mapping[str, object], where: str) -> T:
    """A dataclass of plain fields from plain values; `where` names it in messages.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    return _build(cls, settings, where)


def _sampler_class(name: str) -> Any:
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def _preset_settings(sampler: str, name: str) -> dict[str, Any]:
    presets = _presets(sampler)
    if name not in presets:
        raise ConfigError(f"sampler {sampler!r} has no preset {name!r}", hint=suggestion(name, presets))
    return copy.deepcopy(presets[name]["settings"])


@functools.cache
def _presets(sampler: str) -> dict[str, dict[str, Any]]:
    """The presets of one sampler by name: a table with `source` and `settings` each."""
    file = resources.files("midguide") / "presets" / f"{sampler}.toml"
    presets = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, preset in presets.items():
        if set(preset) != {"source", "settings"} or not preset["source"]:
            raise ConfigError(f"preset {sampler}:{name} must have a source and settings, it has {sorted(preset)}")
    return presets


def _override(table: dict[str, Any], path: list[str], value: object) -> None:
    """Set `table[path[0]][path[1]]...` to `value`, in place; a table as value is merged."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            _override(table, [*path, str(key)], item)
        return
    for key in path[:-1]:
        inner = table.get(key)
        if isinstance(inner, int) and not isinstance(inner, bool):
            inner = {"default": inner}  # a bare integer is a step rule with only a default
        table[key] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[key]
    table[path[-1]] = value


def _build(cls: Any, settings: Mapping[str, object], where: str) -> Any:
    """The dataclass `cls` from plain values; `where` names it in messages."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in settings:
        if key not in fields:
            raise ConfigError(f"{where} has no setting {key!r}", hint=suggestion(str(key), fields))
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in settings:
            raise ConfigError(f"{where} lacks the setting {key!r}", hint=f"known are {', '.join(fields)}")
    kinds = typing.get_type_hints(cls)
    values = {key: _value(kinds[key], value, f"{where}.{key}") for key, value in settings.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error


def _value(kind: Any, value: object, where: str) -> Any:
    """`value` as the type `kind` of a field."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return _optional(kind, value, where)
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise _mismatch(where, f"one of {', '.join(map(repr, typing.get_args(kind)))}", value)
        return value
    if typing.get_origin(kind) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(where, "a table", value)
        return dict(value)
    if typing.get_origin(kind) is tuple:
        return _tuple(typing.get_args(kind), value, where)
    if kind is StepRule and isinstance(value, int) and not isinstance(value, bool):
        value = {"default": value}
    if kind is Optimiser or dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            example = 'a table such as {rule = "adam", rate = 0.03}' if kind is Optimiser else "a table"
            raise _mismatch(where, "an integer or a table" if kind is StepRule else example, value)
        return _optimiser(value, where) if kind is Optimiser else _build(kind, value, where)
    return _scalar(kind, value, where)


def _optional(kind: Any, value: object, where: str) -> Any:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if len(options) != 1:
        raise ConfigError(f"{where} cannot be set from plain values")
    if value is None or (isinstance(value, str) and value.lower() in _OFF):
        return None
    try:
        return _value(options[0], value, where)
    except ConfigError as error:
        raise ConfigError(error.message, hint=error.hint or f'"{_OFF[0]}" switches it off') from error


def _tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(where, "a list", value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise _mismatch(where, f"a list of {len(kinds)}", value)
    return tuple(_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _scalar(kind: Any, value: Any, where: str) -> Any:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    if kind not in names:
        raise ConfigError(f"{where} cannot be set from plain values")
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise _mismatch(where, names[kind], value)
    if kind is float and not abs(value) <= sys.float_info.max:
        raise _mismatch(where, "a finite number", value)
    return kind(value)


def _optimiser(settings: Mapping[str, object], where: str) -> Any:
    rule = settings.get("rule")
    if not isinstance(rule, str) or rule not in OPTIMISERS:
        got = f"unknown rule {rule!r}" if "rule" in settings else "no rule is given"
        raise ConfigError(f"{where}: {got}", hint=suggestion(str(rule), OPTIMISERS))
    others = {key: value for key, value in settings.items() if key != "rule"}
    return _build(OPTIMISERS[rule], others, f"{where} ({rule})")


def _mismatch(where: str, expected: str, value: object) -> ConfigError:
    return ConfigError(f"{where} must be {expected}, got {value!r}")


def _plain_fields(value: Any, *, full: bool = True) -> dict[str, Any]:
    """The fields of a dataclass as plain settings; nested ones without those that have their default."""
    return {
        field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.init and (full or getattr(value, field.name) != field.default)
    }


def _plain(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    rules = {cls: rule for rule, cls in OPTIMISERS.items()}
    head = {"rule": rules[type(value)]} if type(value) in rules else {}
    return head | _plain_fields(value, full=False)
