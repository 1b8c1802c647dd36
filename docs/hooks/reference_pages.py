"""The pages of the reference, made from the package: catalogues, method cards, commands, settings, docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path

import curves

from midguide.catalogue.base import Catalogue, Entry
from midguide.catalogue.directory import PLACES, catalogue

SOURCE = Path(__file__).parents[2] / "src" / "midguide"
API = {
    "midguide": ["problem", "errors", "inference"],
    "samplers": ["samplers.base", "samplers.auto", "samplers.budget"],
    "operators": ["operators"],
    "likelihoods": ["likelihoods"],
    "priors": ["priors"],
    "diffusion": ["diffusion"],
    "signals and data": ["signals", "data"],
    "known posteriors": ["known", "exact"],
    "calibration": ["calibration"],
    "metrics": ["metrics"],
    "plots": ["plots"],
    "pages of results": ["web"],
    "studies": ["studies"],
    "training": ["training", "diagnostics"],
    "testing": ["testing"],
    "networks": ["nn"],
    "catalogues": ["catalogue"],
    "numerics": ["maths"],
    "electrocardiograms": ["domains.ecg"],
}
"""Pages of the Python reference, and the modules or packages that each is made from."""
PLURALS = [plural for plural in PLACES if plural not in ("samplers", "commands", "recipes", "kinds", "sources")]
STUDY = """\
# Study files

A study is a TOML file with these tables. [Studies](../studies.md) says how to run one.

```text
{example}
```
"""


def navigation() -> list[dict[str, object]]:
    """The entries of the reference that are made here."""
    return [
        {"Samplers": ["reference/samplers/index.md", *(_card_path(name) for name in catalogue("samplers"))]},
        {"Catalogues": [{plural: f"reference/catalogues/{plural}.md"} for plural in PLURALS]},
        {"Commands": "reference/commands.md"},
        {"Study files": "reference/study-files.md"},
        {"Recipes": "reference/recipes.md"},
        {"Python": [{title: _api_path(title)} for title in API]},
    ]


def pages() -> dict[str, str]:
    """All pages by their place in the site, in Markdown; figures as SVG."""
    made = {"reference/index.md": _index(), "reference/commands.md": _commands()}
    made["reference/study-files.md"] = _study_files()
    made["reference/recipes.md"] = _of_catalogue("recipes", "A recipe is a TOML file of the settings of its kind.")
    made |= {f"reference/catalogues/{plural}.md": _of_catalogue(plural) for plural in PLURALS}
    samplers = catalogue("samplers")
    made |= {_card_path(name): _card(entry, samplers) for name, entry in samplers.items()}
    made["reference/samplers/index.md"] = _samplers(samplers)
    made |= {path: svg for name in samplers for path, svg in curves.of_sampler(name).items()}
    return made | {_api_path(title): _api(title, parts) for title, parts in API.items()}


def _index() -> str:
    rows = [[f"[{plural}](catalogues/{plural}.md)", str(len(catalogue(plural)))] for plural in PLURALS]
    return (
        "# Reference\n\nThese pages are made from the code when the site is built.\n\n"
        "- [Samplers](samplers/index.md): a card for each method: paper, needs, cost, error, presets.\n"
        "- [Commands](commands.md), [study files](study-files.md), [recipes](recipes.md).\n"
        "- Python: the docstrings of all public modules, by package, in the list at the side.\n\n"
        f"What has a name, and how many there are:\n\n{_table(['catalogue', 'entries'], rows)}\n"
    )


def _card_path(name: str) -> str:
    return f"reference/samplers/{name}.md"


def _api_path(title: str) -> str:
    return f"reference/python/{title.replace(' ', '-')}.md"


# Samplers


def _samplers(samplers: Catalogue) -> str:
    rows = []
    for row in samplers.listed():
        cost = f"{row['forwards']:,} + {row['vjps']:,}"
        rows.append([f"[`{row['name']}`]({row['name']}.md)", row["summary"], row["operator"], row["noise"], cost])
    return (
        "# Samplers\n\nCosts are network calls of one sample with the default settings: forwards and "
        "vector-Jacobian products.\n\n" + _table(["sampler", "method", "operator", "noise", "calls"], rows)
    )


def _card(entry: Entry, samplers: Catalogue) -> str:
    row = next(row for row in samplers.listed() if row["name"] == entry.name)
    module = inspect.getmodule(entry.thing)
    needs = f"{row['operator']}, {row['noise']}{', a prior of latents' if row['latents'] else ''}"
    facts = [
        ["needs", needs],
        ["derivative of the network", "yes" if row["gradients"] else "no"],
        ["calls of a sample", f"{row['forwards']:,} forwards, {row['vjps']:,} vjps ({row['steps']:,} steps)"],
    ]
    parts = [f"# {entry.name}\n\n{entry.summary}\n", _table(["what", "how much"], facts), _paper(module.__doc__ or "")]
    if curves.of_sampler(entry.name):
        best = curves.sentence(entry.name)
        parts.append(f"## Error\n\n![Error of {entry.name} over network calls](figures/{entry.name}.svg)\n\n{best}\n")
    if presets := samplers.presets(entry.name):
        rows = [[f"`{entry.name}:{name}`", _settings(p.settings), p.source] for name, p in presets.items()]
        parts.append("## Presets\n\n" + _table(["preset", "settings", "source"], rows))
    place = f"{entry.thing.__module__}.{entry.thing.__qualname__}"
    parts.append(f"## In Python\n\n```python\n{example(row)}```\n\n::: {place}\n    options:\n      heading_level: 3\n")
    return "\n\n".join(parts)


def example(row: typing.Mapping[str, typing.Any]) -> str:
    """A program that draws with a sampler, which a test runs for each."""
    latents = bool(row["latents"])
    imports = "load_prior, make_operator, make_sampler, sample" if latents else "make_operator, make_sampler, sample"
    prior = 'load_prior("faces-64-latent")' if latents else "Gaussian(torch.zeros(1, 8, 8), 1.0)  # yours"
    shape = "prior.signal_shape" if latents else "prior.event_shape"
    lines = ["import torch", f"from midguide import Problem, {imports}"]
    lines += [] if latents else ["from midguide.priors import Gaussian"]
    truth = f"torch.zeros(1, *{shape})" if latents else "prior.sample(1)"
    lines += ["", f"prior = {prior}", f'operator = make_operator("half-mask", {shape})']
    lines += [f"problem = Problem.simulate(prior, operator, {truth}, sigma_y=0.1)"]
    lines += [f'sampler = make_sampler("{row["name"]}", problem=problem)']
    lines += ["result = sample(sampler, problem, n=sampler.needs.group)", "print(result.mean().shape, result.cost)"]
    return "\n".join(lines) + "\n"


def _paper(docstring: str) -> str:
    """What the module says of its paper, as Markdown."""
    _, _, rest = inspect.cleandoc(docstring).partition("\n")
    rest = re.sub(r"\n(- )", r"\n\n\1", rest.strip(), count=1)
    rest = re.sub(r"(?<![<(])(https://[^\s,;)]*[^\s,;).])", r"<\1>", rest)
    return f"## Paper\n\n{rest}\n" if rest else ""


def _settings(settings: typing.Mapping[str, object]) -> str:
    return ", ".join(f"`{key} = {value}`" for key, value in settings.items())


# Catalogues and files of settings


def _of_catalogue(plural: str, lead: str = "") -> str:
    entries = catalogue(plural)
    title = plural.replace("-", " ").capitalize()
    lead = lead or f"`midguide list {plural}` prints this list."
    return "\n\n".join([f"# {title}", lead, *(_entry(entry, entries) for entry in entries.values())])


def _entry(entry: Entry, entries: Catalogue, heading: str = "##") -> str:
    parts = [f"{heading} {entry.name}", entry.summary]
    if facts := [f"{key}: {value}" for key, value in entry.facts.items() if isinstance(value, str)]:
        parts.append("; ".join(facts) + ".")
    if entry.settings and dataclasses.fields(entry.settings):
        parts.append(_fields(entry.settings, _meanings(entry)))
    if presets := entries.presets(entry.name):
        rows = [[f"`{entry.name}:{name}`", _settings(p.settings), p.source] for name, p in presets.items()]
        parts.append(_table(["preset", "settings", "source"], rows))
    return "\n\n".join(parts)


def _meanings(entry: Entry) -> dict[str, str]:
    """What the docstrings say of the settings: of the class or function, or of the classes that it derives from."""
    classes = [*(entry.thing.__mro__ if isinstance(entry.thing, type) else ()), entry.thing, entry.settings]
    said: dict[str, str] = {}
    for thing in classes:
        said = arguments(getattr(thing, "__doc__", "") or "") | said
    return said


def arguments(docstring: str) -> dict[str, str]:
    """The entries of `Args:` of a Google docstring."""
    found = re.search(r"^Args:\n((?:[ ].*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    said = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", found[1] if found else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in said}


def _fields(cls: type, meanings: typing.Mapping[str, str]) -> str:
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        if field.init:
            default = "required" if _has_none(field) else f"`{_plain(_default(field))}`"
            rows.append([f"`{field.name}`", f"`{_type(hints[field.name])}`", default, meanings.get(field.name, "")])
    return _table(["setting", "type", "default", "meaning"], rows)


def _has_none(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> object:
    return field.default_factory() if field.default is dataclasses.MISSING else field.default  # pyright: ignore


def _plain(value: object) -> str:
    if dataclasses.is_dataclass(value):
        from midguide.catalogue.settings import as_plain

        value = as_plain(value)
    return re.sub(r" at 0x\w+", "", repr(value))


def _type(hint: object) -> str:
    text = inspect.formatannotation(hint)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _study_files() -> str:
    from midguide.studies.spec import study, tables

    example, closing = inspect.cleandoc(study.__doc__ or "").split("\n\nSamplers, operators,", 1)
    parts = [STUDY.format(example=inspect.cleandoc(example.partition("\n")[2])), "Samplers, operators," + closing]
    for name, cls in (
        ("[study]", tables.Head),
        ("[[problems]]", tables.ProblemTable),
        ("[[samplers]]", tables.SamplerRow),
    ):
        parts.append(f"## `{name}`\n\n{_fields(cls, arguments(cls.__doc__ or ''))}")
    for plural, lead in (("kinds", "Kinds of problems"), ("sources", "Sources of draws")):
        entries = catalogue(plural)
        parts.append(f"## {lead}\n\nBesides the keys above, a table has the settings of its kind.")
        parts += [_entry(entry, entries, "###") for entry in entries.values()]
    return "\n\n".join(parts)


# Commands


def _commands() -> str:
    import typer

    from midguide.cli.app import build

    program = typer.main.get_command(build())
    return "# Commands\n\n" + "\n\n".join(_command(program, "midguide", 2))


def _command(command: typing.Any, path: str, level: int) -> list[str]:
    parts = [f"{'#' * level} {path}", inspect.cleandoc(command.help or "").replace("\b", "")]
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        names = ", ".join(
            f"`{name}`" for name in (*getattr(parameter, "opts", ()), *getattr(parameter, "secondary_opts", ()))
        )
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        default = parameter.default if isinstance(parameter.default, (int, float, str)) else ""
        default = "" if isinstance(default, bool) else default
        rows.append([names, f"`{default}`" if default != "" else "", getattr(parameter, "help", "") or ""])
    parts += [_table(["option", "default", "meaning"], rows)] if rows else []
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        parts += _command(
            inner, f"{path} {name}", min(level + 1, 4) if level > 2 else 2 + ("commands" in vars(inner)) * 0
        )
    return parts


# Docstrings


def _api(title: str, parts: list[str]) -> str:
    lines = [f"# {title[0].upper()}{title[1:] if title != 'midguide' else 'idguide'}\n"]
    if title == "midguide":
        lines[0] = "# midguide\n\nThe names at the top of the package, and the modules that they come from.\n"
    for part in parts:
        for module in _modules(part):
            lines.append(f"::: midguide.{module}\n")
    return "\n".join(lines)


def _modules(part: str) -> list[str]:
    """A module, or the public modules of a package, with a docstring each."""
    place = SOURCE / part.replace(".", "/")
    if not place.is_dir():
        return [part]
    files = sorted(place.rglob("*.py"))
    names = [file.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".") for file in files]
    return [name for name in names if not re.search(r"\._|\.reference", name)]


def _table(columns: list[str], rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells])
