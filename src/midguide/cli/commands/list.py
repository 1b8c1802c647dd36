"""`midguide list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from midguide.catalogue.directory import catalogue, catalogues, places
from midguide.cli import output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import unknown

OTHERS = ("auto", "domains", "presets", "priors")
"""Lists that are not catalogues."""


@COMMANDS.register("list")
def list_names(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            autocompletion=lambda: [*places(), *OTHERS],
            metavar="WHAT",
            help=f"{', '.join(sorted((*places(), *OTHERS)))}.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout instead of text.")] = False,
) -> None:
    """List samplers, operators, priors, metrics, presets, or others, by name."""
    if what in places():
        rows = catalogue(what).listed()
    elif what in OTHERS:
        rows = {"auto": _auto, "domains": _domains, "presets": _presets, "priors": _priors}[what]()
    else:
        raise unknown("list", what, sorted((*places(), *OTHERS)))
    if as_json:
        output.print_json(rows)
    elif not rows:
        output.note(f"there are no {what}")
    else:
        output.print_entries([(row["name"], row["summary"], _details(row)) for row in rows])


def _details(row: Mapping[str, Any]) -> str:
    """What a row says besides name and summary, in words; what is empty, usual, or of no use to an eye is left out."""
    hidden = {"name", "summary", "required", "sha256", *(("origin",) if row.get("origin") == "midguide" else ())}
    said = {key: value for key, value in row.items() if key not in hidden and value not in (None, "", [], {})}
    required = {f"{key} (required)": None for key in row.get("required", ())}
    if "settings" in said:
        said["settings"] = required | {k: v for k, v in said["settings"].items() if k not in row.get("required", ())}
    return "; ".join(f"{key}: {_words(value)}" for key, value in said.items())


def _words(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case Mapping():
            return ", ".join(key if item is None else f"{key}={item}" for key, item in value.items())
        case list() | tuple() if all(isinstance(item, int) for item in value):
            return "x".join(map(str, value))
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _auto() -> list[dict[str, Any]]:
    from midguide.samplers.auto import RULE

    return [
        {"name": line.spec, "summary": f"For {line.when}: {line.because}", "settings": dict(line.settings)}
        for line in RULE
    ]


def _domains() -> list[dict[str, Any]]:
    from midguide.catalogue.domain import domains

    return [
        {"name": each.name, "summary": each.summary, "package": each.package, "brings": sorted(each.modules)}
        for each in domains()
    ]


def _priors() -> list[dict[str, Any]]:
    from midguide.priors.cards import APART, INSTALL, PACKAGE, not_installed, shipped
    from midguide.storage.hub import CARDS

    if absent := [name for name, what in APART.items() if what == "prior" and not_installed(name)]:
        output.note(f"not here, as {PACKAGE} is not installed: {', '.join(absent)} ({INSTALL})")
    keys = ("event_shape", "parameters", "license", "sha256", "size")
    return [
        {"name": card.name, "summary": card.description, **{key: getattr(card, key) for key in keys}}
        | {"home": card.home or "shipped"}
        for card in (*shipped().values(), *CARDS.values())
    ]


def _presets() -> list[dict[str, Any]]:
    return [
        {"name": f"{name}:{key}", "summary": preset.source, "settings": dict(preset.settings)}
        for each in catalogues().values()
        for name in each
        for key, preset in each.presets(name).items()
    ]
