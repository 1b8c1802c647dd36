"""`midguide benchmark`: a sampler on problems with a known posterior, beside all others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.completion import names
from midguide.cli.failures import Interrupted
from midguide.cli.units import Engine, Which
from midguide.errors import ConfigError, DataError

if TYPE_CHECKING:
    from midguide.studies.benchmark import Line

Budgets = Annotated[
    list[int] | None,
    typer.Option("--budget", metavar="N", help="Network calls of a draw; repeatable. 25, 50, 100 and 300 by default."),
]
Problems = Annotated[
    list[str] | None,
    typer.Option(
        "--problems",
        autocompletion=names("known"),
        metavar="NAME",
        help="Of `midguide list known`, with * and ?, or FILE.py:NAME; repeatable.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Forms:
    """The form of the result.

    Raises:
        ConfigError: If two forms exclude each other.
    """

    as_json: Annotated[bool, typer.Option("--json", help="The lines of the sampler as JSON on stdout.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="The lines of the sampler as CSV on stdout.")] = False
    as_html: Annotated[
        bool, typer.Option("--html", help="One HTML file on stdout: all lines, sortable, with a figure.")
    ] = False

    def __post_init__(self) -> None:
        if self.as_json + self.as_csv + self.as_html > 1:
            raise ConfigError("--json, --csv and --html exclude each other", hint="give one of them")

    def print(self, lines: Sequence[Line], marked: str) -> None:
        """The lines of a run on stdout; with a `marked` sampler table and page have those of the package, too."""
        from midguide.studies.benchmark import REFERENCES, as_csv
        from midguide.studies.leaderboard import as_html

        together = _beside(lines) if marked else lines
        if self.as_csv:
            print(as_csv(lines), end="")
        elif self.as_json:
            output.print_json([vars(line) for line in lines if line.sampler not in REFERENCES])
        elif self.as_html:
            print(as_html(together, marked), end="")
        else:
            _print_means(together, marked)


@COMMANDS.register("benchmark", summary="a sampler on problems with a known posterior, beside all others")
@options.grouped
def benchmark(
    context: typer.Context,
    sampler: Annotated[
        str,
        typer.Argument(
            autocompletion=names("samplers"),
            metavar="[SAMPLER]",
            help="A sampler, a preset, or FILE.py:NAME. Without, see --all.",
        ),
    ] = "",
    *,
    which: Which,
    engine: Engine,
    form: Forms,
    every: Annotated[
        bool, typer.Option("--all", help="Run every sampler; --csv makes the package's own table.")
    ] = False,
    problems: Problems = None,
    budget: Budgets = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the sampler; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")] = None,
) -> None:
    """Draw from problems whose posterior is known, at budgets of network calls, and compare with every other sampler.

    The same command goes on after an interrupt, and runs only what is missing.
    """
    output.use_threads(context)
    from midguide.catalogue.settings import parse_overrides
    from midguide.studies import benchmark as table

    if bool(sampler) == every:
        raise ConfigError("give a sampler, or --all", hint="for example midguide benchmark my.py:MySampler")
    if every and settings:
        raise ConfigError("--set is for one sampler, --all runs them all", hint="give the sampler by its name")
    specs = table.every_sampler() if every else [sampler]
    plain = table.plan(specs, problems or (), budget or table.BUDGETS, parse_overrides(settings))
    folder = output.out_folder(out or output.default_folder("benchmark", sampler or "all"))
    lines = _run(plain, folder, which, engine)
    own = [line for line in lines if line.sampler not in table.REFERENCES]
    if not own:
        raise DataError(f"`{sampler}` has run on none of these problems", hint="the notes above say why")
    form.print(lines, "" if every else own[0].sampler)


def _run(plain: dict[str, Any], folder: Path, which: Which, engine: Engine) -> list[Line]:
    """Run what is missing of the study, and read its lines."""
    from midguide.cli.watch import watched
    from midguide.studies.benchmark import lines_of
    from midguide.studies.engine.execute import run_units
    from midguide.studies.engine.store import Store
    from midguide.studies.report.rows import make_report
    from midguide.studies.spec.study import parse_study

    runner = engine.make()
    study = parse_study(plain, announce=lambda path: output.note(f"runs the code of {path}"))
    for reason in dict.fromkeys(cell.reason for cell in study.left_out if len(plain["samplers"]) <= 3):
        output.note(f"left out: {reason}")
    store = Store.create(folder, study.plain, [], study.code)
    units = which.units(study, store, store.progress(study.units))
    output.note(f"{len(units)} of {len(study.units)} units to run; results in {folder}")
    started = time.monotonic()
    try:
        with watched(len(units)) as on_unit:
            run_units(
                study, store, units, runner=runner, device=engine.device, old_code=which.accept_old, on_unit=on_unit
            )
    except KeyboardInterrupt:
        raise Interrupted("repeat the same command to go on") from None
    output.note(f"{len(units)} units in {time.monotonic() - started:.1f} s")
    return lines_of(make_report(study, store, "exact"))


def _beside(lines: Sequence[Line]) -> list[Line]:
    """The lines of a run with those of the package for other samplers, on the same problems at the same budgets."""
    from midguide.studies.benchmark import ours

    cells = {(line.problem, line.budget) for line in lines}
    known = {line.sampler for line in lines}
    return [*lines, *(o for o in ours() if o.sampler not in known and (o.problem, o.budget) in cells)]


def _print_means(lines: Sequence[Line], marked: str) -> None:
    """A table of means over problems for each budget, the nearest to the posterior first; `marked` has an arrow."""
    from midguide.studies.benchmark import REFERENCES

    rows, most = [], {}
    for budget in sorted({line.budget for line in lines} - {0}):
        cells: dict[str, list[Line]] = {}
        for line in lines:
            if line.budget == budget and not math.isnan(line.error):
                cells.setdefault(line.sampler, []).append(line)
        wanted = {line.problem for line in cells.get(marked, [])} or {line.problem for line in lines}
        floor = {name: [x for x in lines if x.sampler == name and x.problem in wanted] for name in REFERENCES}
        both = {**{k: [x for x in v if x.problem in wanted] for k, v in cells.items()}, **floor}
        most[budget] = len(wanted)
        ranked = sorted((fmean(x.error for x in v), name, v) for name, v in both.items() if len(v) == len(wanted))
        rows += [_row(budget, error, name, own, name == marked) for error, name, own in ranked]
    output.print_table(
        ("calls", "sampler", "error", "MMSE gap, dB", "90 % intervals hold", "forwards + vjps"),
        rows,
        numbers=("calls", "error", "MMSE gap, dB", "90 % intervals hold", "forwards + vjps"),
    )
    problems = ", ".join(f"{count} at {budget} calls" for budget, count in most.items())
    output.note(f"error: 0 as exact draws, 1 as draws of the prior; means over problems ({problems})")
    output.note("samplers that do not run on all of these problems are left out")


def _row(budget: int, error: float, name: str, own: Sequence[Line], marked: bool) -> list[str]:
    calls = fmean(line.calls for line in own)
    mean = [fmean(getattr(line, part) for line in own) for part in ("gap", "coverage")]
    shown = f"{name}  <--" if marked else name
    return [str(budget), shown, f"{error:.3f}", f"{mean[0]:.2f}", f"{100 * mean[1]:.0f} %", f"{calls:.0f}"]
