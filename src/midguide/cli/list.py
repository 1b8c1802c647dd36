"""`midguide list`: what there is to choose from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from midguide.cli import output

KINDS = {"Operator": "any", "LinearOperator": "linear", "SVDOperator": "with SVD"}
COSTS = {
    "ddnm": "steps forwards",
    "ddnm-plus": "steps forwards",
    "ddrm": "steps forwards",
    "diffpir": "steps forwards",
    "dps": "steps forwards, steps - 1 vjps",
    "mgps": "steps + G forwards (a further G in warm steps) and G vjps, for G gradient steps",
    "pgdm": "steps forwards, steps - 1 vjps",
    "red-diff": "steps - 1 forwards",
    "unconditional": "steps forwards",
}
"""What one sample costs, in network calls; the long form stands in the docstrings of the samplers."""


def list_names(
    what: Annotated[str, typer.Argument(metavar="{samplers|operators|priors|presets}", help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout instead of a table.")] = False,
) -> None:
    """List samplers, operators, priors or presets by name."""
    if what not in LISTS:
        raise output.unknown("list", what, LISTS)
    rows = LISTS[what]()
    if as_json:
        output.print_json(rows)
    elif not rows:
        output.note(f"there are no {what}")
    else:
        columns = [name for name, value in rows[0].items() if not isinstance(value, dict)]
        output.print_table(columns, [[_cell(row.get(name)) for name in columns] for row in rows])


def _samplers() -> list[dict[str, Any]]:
    from midguide.samplers.registry import SAMPLERS

    return [
        {
            "name": name,
            "summary": _first_line(sampler),
            "operator": KINDS.get(sampler.needs.operator.__name__, sampler.needs.operator.__name__),
            "gradients": sampler.needs.gradients,
            "cost": COSTS.get(name),
        }
        for name, sampler in sorted(SAMPLERS.items())
    ]


def _operators() -> list[dict[str, Any]]:
    from midguide.operators.registry import OPERATORS

    rows = []
    for name, entry in sorted(OPERATORS.items()):
        known = {key: None if p.default is p.empty else p.default for key, p in entry.settings.items()}
        kind = "with SVD" if entry.svd else "linear" if entry.linear else "nonlinear"
        words = ", ".join(key if value is None else f"{key}={value}" for key, value in known.items())
        rows.append({"name": name, "summary": entry.summary, "kind": kind, "settings": words, "defaults": known})
    return rows


def _priors() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from midguide.denoisers.builtin import list_priors
    from midguide.hub import CARDS

    keys = ("name", "description", "event_shape", "parameters", "licence", "sha256", "size", "home")
    cards = [{**card, "home": "shipped"} for card in list_priors()] + [asdict(card) for card in CARDS.values()]
    return [{key: card.get(key) for key in keys} for card in cards]


def _presets() -> list[dict[str, Any]]:
    from midguide.operators.registry import PRESETS
    from midguide.studies.presets import list_presets

    samplers = [
        {"name": f"{preset['sampler']}:{preset['name']}", "source": preset["source"], "settings": preset["settings"]}
        for preset in list_presets()
    ]
    operators = [
        {"name": name, "source": preset.source, "settings": dict(preset.settings)} for name, preset in PRESETS.items()
    ]
    return samplers + operators


LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "samplers": _samplers,
    "operators": _operators,
    "priors": _priors,
    "presets": _presets,
}


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


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
