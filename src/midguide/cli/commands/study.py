"""`midguide study`: run a grid of problems and samplers, see how far it is, report what it found."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.failures import Interrupted
from midguide.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from midguide.studies.engine.store import Progress, Store
    from midguide.studies.engine.units import Unit
    from midguide.studies.report.rows import Report
    from midguide.studies.spec.study import Study

SECONDS = 30.0
"""Between two lines of progress in a log."""

FORMATS = (".png", ".svg", ".pdf")
WEIGHTS = "MIDGUIDE_WEIGHTS"  # metrics.weights.VARIABLE, which would import torch
File = Annotated[Path, typer.Argument(metavar="FILE", help="A study, such as experiments/gmm-quick.toml.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the table study, problems.KEY or samplers.KEY of all rows, or problems[LABEL].KEY; repeatable.",
    ),
]


group = typer.Typer(help="Run a grid of problems and samplers, resumable; report it.")
COMMANDS.register("study", summary="run a grid of problems and samplers, resumable; report it")(group)


@group.command("run")
def run(
    context: typer.Context,
    file: File,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes, with one thread each.")] = 1,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Run at most so many units.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PROBLEM/SAMPLER", help="Run these cells now; labels with * and ?; repeatable."),
    ] = None,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...")] = "cpu",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed units again.")] = False,
    accept_old: Annotated[
        bool, typer.Option("--accept-old-code", help="Take results and stored draws that other code made as they are.")
    ] = False,
    rerun_old: Annotated[bool, typer.Option("--rerun-old-code", help="Run again what other code made.")] = False,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the published weights that LPIPS and others need.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Measure stored draws again and do nothing else (needs keep_samples).")
    ] = False,
) -> None:
    """Run what is missing of a study; the same command goes on after an interrupt.

    Prints the folder of the results.
    """
    output.check_counts(workers=workers, limit=limit)
    folder = output.out_folder(out) if out else None
    output.use_threads(context)
    if weights is not None:
        os.environ[WEIGHTS] = str(weights.resolve())  # the processes of a study inherit it
    from midguide.catalogue.settings import parse_override
    from midguide.nn import layout
    from midguide.studies.engine.execute import check_device, check_metrics, run_units, units_to_run
    from midguide.studies.engine.store import Store
    from midguide.studies.report.expected import load_expected
    from midguide.studies.runners.base import RUNNERS
    from midguide.studies.spec.study import load_study

    layout.check_device(device)
    runner = RUNNERS.make("local", {"workers": workers})
    study = load_study(file, [parse_override(text) for text in settings or ()], announce=_announcer())
    check_metrics(study)
    check_device(study, device)
    numbers = file.parent / "expected"
    expected = load_expected(numbers, study.head.expected or study.head.name)
    if study.head.expected and numbers.is_dir() and not expected:
        raise ConfigError(f"{numbers} has no number of {study.head.expected!r}", hint="leave expected out for none")
    folder = folder or output.out_folder(output.default_folder("study", study.head.name))
    store = Store.create(folder, study.plain, expected, study.code)
    progress = store.progress(study.units)
    if accept_old and rerun_old:
        raise ConfigError("--accept-old-code and --rerun-old-code exclude each other", hint="give one of them")
    if progress.old and not (accept_old or rerun_old):
        hint = "--accept-old-code takes them as they are, --rerun-old-code runs them again"
        raise ConfigError(progress.about_old(), hint=hint)
    units = units_to_run(
        progress, store, retry=retry_failed, rerun_old=rerun_old, rescore=rescore, limit=limit, only=only or ()
    )
    if rescore:
        units = _readable(units, store, accept_old)
    else:
        _tell_of_draws(units, store, accept_old)
    _tell_what_is_odd(study, store, progress)
    output.note(f"{len(units)} units to run, {len(progress.done)} done, {len(progress.failed)} failed before")
    started = time.monotonic()
    try:
        with _watched(len(units)) as on_unit:
            failed = run_units(study, store, units, runner=runner, device=device, old_code=accept_old, on_unit=on_unit)
    except KeyboardInterrupt:
        raise Interrupted("repeat the same command to go on") from None
    output.note(f"{len(units)} units in {time.monotonic() - started:.1f} s, {failed} of them failed")
    print(folder)


@group.command("status")
def status(
    place: Annotated[Path, typer.Argument(metavar="OUT|FILE", help="A folder of results, or a study's file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    settings: Set = None,
) -> None:
    """How many units of a study are done, failed, missing, damaged, or made by other code."""
    study, store = opened(place, settings)
    progress = store.progress(study.units)
    counts: dict[str, Any] = progress.counts()
    if as_json:
        output.print_json({"study": study.head.name, "folder": store.folder, **counts})
        return
    output.print_table(("units", "count"), [(name, str(count)) for name, count in counts.items()], numbers=("count",))
    for unit in progress.damaged:
        output.note(f"damaged: {store.path(unit)}")
    _tell_of_changes(study, store)
    if progress.old:
        output.note(f"{progress.about_old()}: `run` takes --accept-old-code or --rerun-old-code")


@group.command("report")
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of results.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
    as_html: Annotated[bool, typer.Option("--html", help="One HTML file with its figures, on stdout.")] = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Compare with this sampler, paired; by default the first that samples."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Write the figure of --html: PNG, SVG or PDF.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--panels", metavar="DIR", help="Write a PNG of reconstructions for each problem.")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Images of each problem in panels and HTML.")] = 2,
    settings: Set = None,
) -> None:
    """The results of a study as Markdown, or in another form: means, intervals, failures, costs."""
    if as_json + as_csv + as_html > 1:
        raise DataError("--json, --csv and --html exclude each other", hint="give one of them")
    if baseline is not None and (as_json or as_csv):
        raise ConfigError(
            "--json and --csv have no differences from a --baseline", hint="Markdown and --html have them"
        )
    output.check_counts(images=images)
    if figure is not None and figure.suffix not in FORMATS:
        raise ConfigError(f"--figure {figure} is no {', '.join(FORMATS)}", hint="end the file's name in .png")
    study, store = opened(out, settings)
    from midguide.studies.report import layout
    from midguide.studies.report import rows as reports
    from midguide.studies.report.pictures import panels

    found = reports.make_report(study, store, baseline)
    if figure is not None:
        _save(_overview(found), figure)
    if as_json:
        output.print_json(reports.as_dicts(found))
    elif as_csv:
        print(reports.as_csv(found), end="")
    elif as_html:
        from midguide.studies.report.html import as_html as page

        print(page(found, panels(study, store, images)), end="")
    else:
        print(layout.as_markdown(found), end="")
    if pictures is not None:
        for label, picture in panels(study, store, images).items():
            _save(picture, pictures / f"{output.file_name(label)}.png")


def _overview(report: Report) -> Figure:
    from midguide.studies.report.html import MOST_PANELS
    from midguide.studies.report.html import figure as overview

    made = overview(report)
    if made is None:
        grid = f"{len(report.metrics)} metrics on {len(report.problems)} problems"
        raise DataError(f"no figure: {grid} are more than {MOST_PANELS} panels", hint="--html has tables of them")
    return made


def _save(figure: Figure, path: Path) -> None:
    from midguide.storage.files import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
    output.note(f"picture: {path}")


def opened(place: Path, settings: list[str] | None) -> tuple[Study, Store]:
    """The study and the results of a folder, or of the default folder of a study's file.

    Units are found by their content: with `settings` the same images and priors may lie elsewhere than for the run.
    """
    from midguide.catalogue.settings import parse_override
    from midguide.studies.engine.store import Store
    from midguide.studies.spec.plain import changed
    from midguide.studies.spec.study import load_study, parse_study

    changes, announce = [parse_override(text) for text in settings or ()], _announcer()
    if place.is_file():
        place = output.default_folder("study", load_study(place, changes, announce=announce).head.name)
    store = Store.open(place)
    return parse_study(changed(store.plain, changes), announce=announce), store


def _announcer() -> Callable[[str], None]:
    """Says once of each Python file that a study runs it."""
    seen: set[str] = set()

    def announce(path: str) -> None:
        if path not in seen:
            output.note(f"runs the code of {path}")
        seen.add(path)

    return announce


def _tell_what_is_odd(study: Study, store: Store, progress: Progress) -> None:
    if others := store.others(study.units):
        earlier = "; study.earlier is the file of before" if (store.folder / "study.earlier").exists() else ""
        note = f"{others} results in {store.folder} are not of this grid: they stay there, and out of its report"
        output.note(note + earlier)
    _tell_of_changes(study, store)
    for unit in progress.damaged:
        _tell_of_damage(store.path(unit))


def _tell_of_changes(study: Study, store: Store) -> None:
    for path in store.changed(study.code):
        output.note(f"{path} has changed since the last run: results of its earlier source do not count")


def _tell_of_damage(path: Path) -> None:
    from midguide.storage.files import aside

    output.note(f"damaged, kept as {aside(path, 'damaged').name} when it is made anew: {path}")


def _tell_of_draws(units: list[Unit], store: Store, accept_old: bool) -> None:
    """A line for each unit that will be drawn again because its stored draws are damaged, and one on other code."""
    from midguide.studies.engine.draws import stored_code
    from midguide.studies.engine.units import stored

    old = 0
    for unit in units:
        place = store.samples / unit.draws_address
        code = stored_code(unit.draws_address, store.samples)
        if place.exists() and (code is None or stored(unit, store.samples) is None):
            _tell_of_damage(place)
        elif code is not None and code != unit.draws_code and not accept_old:
            old += 1
    if old:
        output.note(f"{old} units are drawn again: other code made their stored draws; --accept-old-code takes them")


def _readable(units: list[Unit], store: Store, accept_old: bool) -> list[Unit]:
    """The units whose stored draws can be measured; a line for each whose draws are damaged or of other code."""
    from midguide.studies.engine.units import reusable, stored

    if not units:
        raise DataError(f"{store.samples} has no draws to measure again", hint="run the study with keep_samples = true")
    readable = []
    for unit in units:
        if reusable(unit, store.samples, accept_old) is not None:
            readable.append(unit)
        else:
            what = "damaged draws" if stored(unit, store.samples) is None else "draws of other code"
            output.note(f"not measured: {_name(unit)}: {what} in {store.samples / unit.draws_address}")
    return readable


@contextmanager
def _watched(total: int) -> Iterator[Any]:
    """A callback for finished units: a line for each failure, and a progress bar, or a line now and then in a log."""
    if not sys.stderr.isatty():
        yield _teller(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("units"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("units", total=total, left="")

        def on_unit(unit: Any, failures: list[str], left: float) -> None:
            bar.update(task, advance=1, left=_left(left))
            _complain(unit, failures)

        yield on_unit


def _teller(total: int) -> Any:
    """The callback for a stderr that is no terminal: at most one line in `SECONDS`."""
    done, last = 0, time.monotonic()

    def on_unit(unit: Any, failures: list[str], left: float) -> None:
        nonlocal done, last
        done += 1
        _complain(unit, failures)
        if (now := time.monotonic()) - last >= SECONDS:
            last = now
            output.note(f"{done} of {total} units, {_left(left)}")

    return on_unit


def _left(seconds: float) -> str:
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


def _complain(unit: Any, failures: list[str]) -> None:
    for reason in failures:
        output.note(f"failed: {_name(unit)}: {reason}")


def _name(unit: Unit) -> str:
    return f"{unit.sampler_label} on {unit.problem_label}, problem {unit.problem_seed}"
