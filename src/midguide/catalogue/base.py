"""The one registry: a catalogue of named things, found by name, by entry point, or as `FILE.py:NAME`.

Each kind of thing (samplers, operators, metrics, ...) has one catalogue. A thing enters it at its definition:

    @SAMPLERS.register("dps")
    @dataclass(frozen=True, kw_only=True)
    class DPS: ...

The catalogue finds the modules of its package by itself, so that a new thing is one new file. The same decorator, or an
entry point of the group, or a path `FILE.py:NAME`, brings in things from outside. Lists, hints, pages and tests come
from the entries.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from midguide.catalogue import plugins
from midguide.catalogue.domain import Domain, domains
from midguide.catalogue.presets import Preset, presets_of, read_preset
from midguide.catalogue.shown import page
from midguide.errors import ConfigError, MidguideError, about, reason, suggestion, unknown

T = TypeVar("T")
Thing = TypeVar("Thing")
HTML = "_repr_html_"
NO_CHANGES: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One named thing.

    Args:
        name: as users write it.
        thing: a class or function that makes it; or the thing itself, where it has no settings.
        summary: one line for lists; by default the first line of the docstring.
        settings: the dataclass of its settings.
        facts: what else lists and pages say of it, by column.
        origin: `midguide`, the distribution, or the Python file that it comes from.
    """

    name: str
    thing: Any
    summary: str
    settings: type | None
    facts: Mapping[str, Any]
    origin: str = "midguide"

    def make(self, given: Mapping[str, object] = NO_CHANGES, *context: object, **named: object) -> T:
        """The thing with these settings.

        Args:
            given: plain values by setting; what is left out has its default.
            context: what its factory takes besides settings, by position.
            named: likewise by name.

        Raises:
            ConfigError: If a setting is unknown, missing, or has an impossible value.
        """
        if self.settings is None:
            if given:
                raise ConfigError(f"`{self.name}` has no settings, got {', '.join(given)}", hint="remove them")
            return self.thing(*context, **named) if context or named else self.thing
        made: Any = _engine().build(self.settings, given, self.name)
        if self.settings is self.thing:
            return made
        with about(self.name):
            return self.thing(*context, **named, **{f.name: getattr(made, f.name) for f in dataclasses.fields(made)})

    def defaults(self) -> dict[str, Any]:
        """The settings that have a default, as plain values."""
        fields = dataclasses.fields(self.settings) if self.settings else ()
        values = {f.name: _default(f) for f in fields if f.init}
        return {
            name: _engine().as_plain(value, full=False)
            for name, value in values.items()
            if value is not dataclasses.MISSING
        }

    def required(self) -> list[str]:
        """The settings that have no default."""
        fields = dataclasses.fields(self.settings) if self.settings else ()
        return [f.name for f in fields if f.init and _default(f) is dataclasses.MISSING]


class Catalogue(Mapping[str, Entry[T]], Generic[T]):
    """All things of one kind, by name.

    Args:
        kind: what they are, in the singular: `sampler`.
        package: the package whose modules define them; all of them are imported when a name is first looked up.
        group: of entry points; by default that of the package.
        context: parameters of factories that are not settings.
        check: refuses what is not of its kind; raises `ConfigError` with what it lacks.
        columns: what lists say of an entry besides its summary and settings, in words; by default its facts.

    Example:
        >>> numbers = Catalogue[int]("number", "midguide.catalogue")
        >>> @numbers.register("three")
        ... def three(*, plus: int = 0) -> int:
        ...     "Three, and something."
        ...     return 3 + plus
        >>> numbers.make("three", {"plus": 4})
        7
    """

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        group: str = "",
        context: tuple[str, ...] = (),
        check: Callable[[Any], None] | None = None,
        columns: Callable[[Entry[T]], Mapping[str, Any]] = lambda entry: entry.facts,
    ) -> None:
        self.kind, self.package, self.group = kind, package, group or package
        self._context, self._check = context, check or (lambda thing: None)
        self.selective = check is not None
        self._columns = columns
        self._entries: dict[str, Entry[T]] = {}
        self._outside: dict[str, Entry[T]] = {}
        self._broken: dict[str, MidguideError] = {}
        self._complete = False

    def register(
        self, name: str, *, summary: str = "", settings: type | None = None, **facts: Any
    ) -> Callable[[Thing], Thing]:
        """Decorator: enter a class, a function, or a finished thing under a name.

        Raises:
            ConfigError: If the name is taken, or the thing is not of this kind.
        """

        def enter(thing: Thing) -> Thing:
            self._enter(self._entry(name, thing, summary=summary, settings=settings, facts=facts))
            return thing

        return enter

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry of a name, of a path `FILE.py:NAME`, or of either with a preset, which is ignored here.

        Raises:
            ConfigError: If there is none.
        """
        return self.find(name)[0]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def find(self, spec: str) -> tuple[Entry[T], str]:
        """The entry that `spec` names, and the preset that it names, or nothing.

        Args:
            spec: `NAME`, `NAME:PRESET`, `FILE.py:NAME`, or `FILE.py:NAME:PRESET`.

        Raises:
            ConfigError: If there is no such entry.
        """
        self._load()
        name, preset = split(spec)
        if found := plugins.PLACE.fullmatch(name):
            return self._from_file(found[1], found[2]), preset
        if name in self._entries:
            return self._entries[name], preset
        if name in self._broken:
            error = self._broken[name]
            raise ConfigError(f"{self.kind} `{name}`: {error.message}", hint=error.hint)
        raise unknown(self.kind, name, self)

    def make(self, spec: str, changes: Mapping[str, object] = NO_CHANGES, *context: object, **named: object) -> T:
        """What `spec` names, with some of its settings changed.

        Args:
            spec: as for `find`.
            changes: plain values by setting, applied in their order on top of the preset. A key may be dotted
                (`optimizer.rate`); a table changes the keys that it names and keeps the others.
            context: what factories of this kind take besides settings.
            named: likewise by name.

        Raises:
            ConfigError: If a name or key is unknown, or a value does not fit.
        """
        entry, settings = self.resolve(spec, changes)
        return entry.make(settings, *context, **named)

    def resolve(self, spec: str, changes: Mapping[str, object] = NO_CHANGES) -> tuple[Entry[T], dict[str, Any]]:
        """The entry that `spec` names, and its settings as plain values: defaults, preset and changes."""
        entry, name = self.find(spec)
        settings = entry.defaults()
        if name or spec.endswith(":"):
            settings |= self.preset(entry, name).settings
        for key, value in changes.items():
            _engine().override(settings, str(key), value)
        return entry, settings

    def preset(self, entry: Entry[T], name: str) -> Preset:
        """A preset of an entry, or the one in a TOML file.

        Raises:
            ConfigError: If there is none of this name.
        """
        if name.endswith(".toml"):
            return read_preset(Path(name))
        known = self.presets(entry.name)
        if name not in known:
            raise ConfigError(f"{self.kind} `{entry.name}` has no preset `{name}`", hint=suggestion(name, known))
        return known[name]

    def presets(self, name: str) -> dict[str, Preset]:
        """The presets of an entry by name, sorted; also those that domains bring for it."""
        return presets_of(self.package, self._plural, name)

    def name_of(self, thing: object) -> str:
        """The registered name of a thing or of its class; the name of the class where it has none."""
        self._load()
        for name, entry in (self._entries | self._outside).items():
            if thing is entry.thing or type(thing) is entry.thing:
                return name
        return thing.__name__ if isinstance(thing, type) else type(thing).__name__

    def record(self, thing: object) -> dict[str, Any]:
        """What `from_record` makes an equal thing from: its name and all its settings, as plain values.

        A thing from outside adds the SHA-256 of its source.
        """
        source = plugins.source_digest(thing)
        known = {"name": self.name_of(thing), "settings": _engine().as_plain(thing, deep=True)}
        return known | ({"source": source} if source else {})

    def from_record(self, record: Mapping[str, Any]) -> T:
        """The thing that `record` describes.

        Raises:
            ConfigError: If the name or a setting is unknown here, or a thing from outside has another source by now.
        """
        entry = self[record["name"]]
        if plugins.source_digest(entry.thing) != record.get("source", ""):
            raise ConfigError(
                f"the source of {self.kind} `{entry.name}` has changed since it was recorded",
                hint="make it by its name to take it as it is now",
            )
        return entry.make(record["settings"])

    def listed(self) -> list[dict[str, Any]]:
        """One table for each entry, as plain values: name, summary, columns, settings, presets, origin.

        A warning replaces what an entry from outside cannot say of itself.
        """
        return [self._listed(entry) for entry in self.values()]

    def _listed(self, entry: Entry[T]) -> dict[str, Any]:
        try:
            columns = dict(self._columns(entry))
        except Exception as error:
            if entry.origin == "midguide":
                raise
            plugins.warn(ConfigError(f"what {self.kind} `{entry.name}` of {entry.origin} needs: {reason(error)}"))
            columns = {}
        settings = dict.fromkeys(entry.required()) | entry.defaults()
        named = {"settings": settings, "required": entry.required(), "presets": list(self.presets(entry.name))}
        return {"name": entry.name, "summary": entry.summary, **columns, **named, "origin": entry.origin}

    @property
    def broken(self) -> dict[str, str]:
        """Names from outside that cannot be used, and why."""
        self._load()
        return {name: error.message for name, error in self._broken.items()}

    @property
    def _plural(self) -> str:
        """What domains call things of this kind."""
        return self.group.rpartition(".")[2]

    def _load(self) -> None:
        """Import the modules of the package, of the domains, and the entry points; once."""
        if self._complete:
            return
        self._complete = True  # what is imported may look up names while it is
        try:
            self._load_all()
        except BaseException:  # a part of the names must not pass for all
            self._complete = False
            raise

    def _load_all(self) -> None:
        package = import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                import_module(f"{self.package}.{module.name}")
        for domain in domains():
            self._from_domain(domain)
        for outside in plugins.entry_points(self.group):
            self._from_entry_point(outside)

    def _from_domain(self, domain: Domain) -> None:
        before = set(self._entries)
        try:
            domain.load(self._plural)
        except MidguideError as error:
            plugins.warn(error)
        for name in self._entries.keys() - before:  # an instance of a class of ours does not show where it is from
            if not domain.inside and self._entries[name].origin == "midguide":
                self._entries[name] = dataclasses.replace(self._entries[name], origin=domain.package)

    def _from_entry_point(self, outside: plugins.Outside) -> None:
        try:
            thing = outside.load()  # which may register itself
            taken = self._entries.get(outside.name)
            if taken is not None and taken.thing is not thing:
                raise ConfigError(f"plug-in `{outside.name}` of {outside.distribution}: the name is taken")
            if taken is None:
                self._enter(self._entry(outside.name, thing, origin=outside.distribution))
        except MidguideError as error:
            self._broken.setdefault(outside.name, error)
            plugins.warn(error)

    def _from_file(self, path: str, name: str) -> Entry[T]:
        thing = plugins.load_object(path, name)
        place = f"{Path(path).expanduser().resolve()}:{name}"
        known = self._outside.get(place)
        if known is None or known.thing is not thing:
            said = next((entry.summary for entry in self._entries.values() if entry.thing is thing), "")
            self._outside[place] = self._entry(place, thing, summary=said, origin=path)
        return self._outside[place]

    def _enter(self, entry: Entry[T]) -> None:
        taken = self._entries.get(entry.name)
        if taken is not None and taken.origin == entry.origin == "midguide":
            raise ConfigError(f"two {self.kind}s are called `{entry.name}`")
        if taken is not None:
            raise ConfigError(f"the {self.kind} `{entry.name}` of {entry.origin}: the name is taken")
        self._entries[entry.name] = entry
        if isinstance(entry.thing, type) and dataclasses.is_dataclass(entry.thing) and not hasattr(entry.thing, HTML):
            setattr(entry.thing, HTML, page)  # a notebook shows its settings as a table

    def _entry(
        self,
        name: str,
        thing: Any,
        *,
        summary: str = "",
        settings: type | None = None,
        facts: Mapping[str, Any] = NO_CHANGES,
        origin: str = "",
    ) -> Entry[T]:
        with about(f"{self.kind} `{name}`"):
            self._check(thing)
        module = getattr(thing, "__module__", type(thing).__module__)
        first = (inspect.getdoc(thing) or "").partition("\n")[0]
        return Entry(
            name=name,
            thing=thing,
            summary=summary or first.removesuffix("."),
            settings=settings or settings_of(thing, self._context),
            facts=dict(facts),
            origin=origin or ("midguide" if module.partition(".")[0] == "midguide" else module),
        )


def split(spec: str) -> tuple[str, str]:
    """The name, or `FILE.py:NAME`, and the preset in `NAME:PRESET`; the preset is empty where none is named."""
    if found := plugins.PLACE.match(spec):
        rest = spec[found.end() :]
        if not rest or rest.startswith(":"):
            return found[0], rest[1:]
    name, _, preset = spec.partition(":")
    return name, preset


def short(spec: str) -> str:
    """A name as tables show it: `FILE.py:NAME` without the folder of the file."""
    found = plugins.PLACE.match(spec)
    return Path(found[1]).name + spec[len(found[1]) :] if found else spec


def _engine() -> ModuleType:
    """What checks settings; imported when it is needed, since `midguide --help` needs no pydantic."""
    from midguide.catalogue import settings

    return settings


def settings_of(thing: object, context: tuple[str, ...] = ()) -> type | None:
    """The dataclass of settings of a class or factory.

    A dataclass is its own. Of a function the settings are its keyword-only parameters but those of the context, with
    their types and defaults. What is neither has no settings.
    """
    if isinstance(thing, type):
        return thing if dataclasses.is_dataclass(thing) else None
    if not inspect.isfunction(thing):
        return None
    parameters = inspect.signature(thing).parameters
    own = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name not in context]
    if own:  # only then must all names of its annotations be there
        parameters = inspect.signature(thing, eval_str=True).parameters
    fields = [
        (p.name, p.annotation) if p.default is p.empty else (p.name, p.annotation, dataclasses.field(default=p.default))
        for p in map(parameters.__getitem__, own)
    ]
    return dataclasses.make_dataclass(f"{thing.__name__}_settings", fields, frozen=True, kw_only=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
