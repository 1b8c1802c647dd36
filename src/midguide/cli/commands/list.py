"""`midguide list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from midguide.cli import output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import unknown


@COMMANDS.register("list")
def list_names(
    what: Annotated[str, typer.Argument(metavar="{samplers|operators|priors|formats|presets}", help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout instead of a table.")] = False,
) -> None:
    """List samplers, operators, priors, formats of priors, or presets by name."""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    rows = LISTS[what]()
    if as_json:
        output.print_json(rows)
    elif not rows:
        output.note(f"there are no {what}")
    else:
        columns = [name for name, value in rows[0].items() if not isinstance(value, dict)]
        output.print_table(columns, [[_cell(row.get(name)) for name in columns] for row in rows])


def _samplers() -> list[dict[str, Any]]:
    import torch

    from midguide.priors.gaussian import Gaussian
    from midguide.problem import Problem
    from midguide.samplers.base import REQUIRED, SAMPLERS

    problem = Problem.unobserved(Gaussian(torch.zeros(1), 1.0))  # network calls depend on the prior's schedule only
    rows = []
    for name, entry in SAMPLERS.items():
        sampler = entry.make()
        calls = sampler.calls(problem)
        row = {"name": name, "summary": entry.summary, "operator": REQUIRED[sampler.needs.operator]}
        row |= {"noise": REQUIRED[sampler.needs.likelihood], "gradients": sampler.needs.gradients}
        row["latents"] = sampler.needs.autoencoder
        rows.append(row | {"steps": sampler.steps, "forwards": calls.forwards, "vjps": calls.vjps})
    return rows


def _operators() -> list[dict[str, Any]]:
    from midguide.operators.base import OPERATORS, operator_class
    from midguide.samplers.base import kind

    rows = []
    for name, entry in OPERATORS.items():
        defaults, required = entry.defaults(), entry.required()
        words = ", ".join([f"{key} (required)" for key in required] + [_setting(*item) for item in defaults.items()])
        row = {"name": name, "summary": entry.summary, "kind": kind(operator_class(entry)), **entry.facts}
        rows.append(row | {"settings": words, "defaults": dict.fromkeys(required) | defaults, "required": required})
    return rows


def _setting(key: str, default: object) -> str:
    return key if default is None else f"{key}={default}"


def _priors() -> list[dict[str, Any]]:
    from midguide.priors.cards import shipped
    from midguide.storage.hub import CARDS

    keys = ("name", "description", "event_shape", "parameters", "license", "sha256", "size", "home")
    cards = [*shipped().values(), *CARDS.values()]
    return [{key: getattr(card, key) for key in keys} | {"home": card.home or "shipped"} for card in cards]


def _formats() -> list[dict[str, Any]]:
    from midguide.priors.formats.base import FORMATS

    return [
        {
            "name": name,
            "summary": entry.summary,
            "extensions": " ".join(entry.thing.extensions),
            "settings": ", ".join(sorted(entry.thing.uses)),
            "home": entry.thing.home,
        }
        for name, entry in FORMATS.items()
    ]


def _presets() -> list[dict[str, Any]]:
    from midguide.operators.base import OPERATORS
    from midguide.samplers.base import SAMPLERS

    return [
        {"name": f"{name}:{key}", "source": preset.source, "settings": dict(preset.settings)}
        for catalogue in (SAMPLERS, OPERATORS)
        for name in catalogue
        for key, preset in catalogue.presets(name).items()
    ]


LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "samplers": _samplers,
    "operators": _operators,
    "priors": _priors,
    "formats": _formats,
    "presets": _presets,
}


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list() | tuple():
            return "x".join(map(str, value))
        case _:
            return str(value)
