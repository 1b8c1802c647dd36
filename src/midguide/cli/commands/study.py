"""`midguide study`: run a grid of problems and samplers, see how far it is, report what it found."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.failures import Interrupted
from midguide.cli.units import Engine, Which, tell_of_damage
from midguide.cli.watch import watched
from midguide.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from midguide.studies.engine.shards import Shard
    from midguide.studies.engine.store import Progress, Store
    from midguide.studies.engine.units import Unit
    from midguide.studies.report.rows import Report
    from midguide.studies.spec.study import Study

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
@options.grouped
def run(
    context: typer.Context,
    file: File,
    *,
    which: Which,
    engine: Engine,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Run the I-th of N shares, in a folder of its own in DIR.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the published weights that LPIPS and others need.")
    ] = None,
) -> None:
    """Run what is missing of a study; the same command goes on after an interrupt.

    Prints the folder of the results.
    """
    folder = output.out_folder(out) if out else None
    output.use_threads(context)
    if weights is not None:
        os.environ[WEIGHTS] = str(weights.resolve())  # the processes of a study inherit it
    from midguide.studies.engine.execute import run_units
    from midguide.studies.engine.shards import Shard

    share = Shard.parse(shard) if shard else None
    with closing(engine.make()) as runner:
        study, store = _started(file, settings, folder, engine.device if engine.is_here else "cpu", share)
        progress = store.progress(share.units(study) if share else study.units)
        units = which.units(study, store, progress)
        _tell_what_is_odd(study, store, progress)
        what = f"shard {share.name} of {len(study.units)} units: " if share else ""
        output.note(f"{what}{len(units)} units to run, {len(progress.done)} done, {len(progress.failed)} failed before")
        started = time.monotonic()
        try:
            with watched(len(units)) as on_unit:
                failed = run_units(
                    study, store, units, runner=runner, device=engine.device, old_code=which.accept_old, on_unit=on_unit
                )
        except KeyboardInterrupt:
            raise Interrupted("repeat the same command to go on") from None
    output.note(f"{len(units)} units in {time.monotonic() - started:.1f} s, {failed} of them failed")
    print(store.folder)


def _started(
    file: Path, settings: list[str] | None, folder: Path | None, device: str, share: Shard | None
) -> tuple[Study, Store]:
    """The study of a file, complete and checked, and the folder of its results."""
    from midguide.catalogue.settings import parse_override
    from midguide.studies.engine.execute import check_device, check_metrics
    from midguide.studies.engine.store import Store
    from midguide.studies.report.expected import load_expected
    from midguide.studies.spec.study import load_study

    study = load_study(file, [parse_override(text) for text in settings or ()], announce=announcer())
    check_metrics(study)
    check_device(study, device)
    numbers = file.parent / "expected"
    expected = load_expected(numbers, study.head.expected or study.head.name)
    if study.head.expected and os.path.isdir(numbers) and not expected:
        raise ConfigError(f"{numbers} has no number of {study.head.expected!r}", hint="leave expected out for none")
    folder = folder or output.out_folder(output.default_folder("study", study.head.name))
    store = Store.create(share.folder(folder) if share else folder, study.plain, expected, study.code)
    if share:
        share.sign(store)
    return study, store


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of a report.

    Raises:
        ConfigError: If options exclude each other.
    """

    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on stdout.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False
    as_html: Annotated[bool, typer.Option("--html", help="One HTML file with its figures, on stdout.")] = False
    baseline: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Compare with this sampler, paired; by default the first that samples."),
    ] = None

    def __post_init__(self) -> None:
        if self.as_json + self.as_csv + self.as_html > 1:
            raise ConfigError("--json, --csv and --html exclude each other", hint="give one of them")
        if self.baseline is not None and (self.as_json or self.as_csv):
            raise ConfigError(
                "--json and --csv have no differences from a --baseline", hint="Markdown and --html have them"
            )

    def print(self, found: Report, panels: Callable[[], dict[str, Figure]]) -> None:
        """The report on stdout; `panels` draws the pictures of a page."""
        from midguide.studies.report import html, layout, rows

        if self.as_json:
            output.print_json(rows.as_dicts(found))
        elif self.as_csv:
            print(rows.as_csv(found), end="")
        elif self.as_html:
            print(html.as_html(found, panels()), end="")
        else:
            print(layout.as_markdown(found), end="")


@group.command("report")
@options.grouped
def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of results.")],
    *,
    form: Form,
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
    output.check_counts(images=images)
    if figure is not None and figure.suffix not in FORMATS:
        raise ConfigError(f"--figure {figure} is not {' or '.join(FORMATS)}", hint="for example --figure figure.png")
    study, store = opened(out, settings)
    from midguide.studies.report import rows
    from midguide.studies.report.pictures import panels

    found = rows.make_report(study, store, form.baseline)
    if figure is not None:
        _save(_overview(found), figure)
    form.print(found, lambda: panels(study, store, images))
    if pictures is not None:
        made = panels(study, store, images)
        if not made:
            raise DataError(
                f"there are no panels: {out} keeps no draws of images", hint="run it with keep_samples = true"
            )
        for label, picture in made.items():
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

    It finds units by their content: with `settings` the same images and priors may lie elsewhere than for the run.
    """
    from midguide.catalogue.settings import parse_override
    from midguide.studies.engine.store import Store
    from midguide.studies.spec.plain import changed
    from midguide.studies.spec.study import load_study, parse_study

    changes, announce = [parse_override(text) for text in settings or ()], announcer()
    if os.path.isfile(place):
        place = output.default_folder("study", load_study(place, changes, announce=announce).head.name)
    store = Store.open(place)
    return parse_study(changed(store.plain, changes), announce=announce), store


def announcer() -> Callable[[str], None]:
    """Says once of each Python file that a study runs it."""
    seen: set[str] = set()

    def announce(path: str) -> None:
        if path not in seen:
            output.note(f"runs the code of {path}")
        seen.add(path)

    return announce


def _tell_what_is_odd(study: Study, store: Store, progress: Progress) -> None:
    if others := store.others(study.units):
        earlier = "; study.earlier is the previous study file" if os.path.exists(store.folder / "study.earlier") else ""
        note = f"{others} results in {store.folder} are not of this grid: they stay there, and out of its report"
        output.note(note + earlier)
    tell_of_changes(study, store)
    for line in dict.fromkeys(line for unit in study.units if (line := _chosen(unit))):
        output.note(line)
    for unit in progress.damaged:
        tell_of_damage(store.path(unit))


def _chosen(unit: Unit) -> str:
    """What `auto` chose for a unit, and why; empty where it did not choose."""
    from midguide.samplers.auto import reason_of
    from midguide.samplers.base import SAMPLERS
    from midguide.studies.sources.sampled import Sampled

    if not isinstance(unit.source, Sampled) or not (reason := reason_of(unit.source.sampler)):
        return ""
    name = SAMPLERS.name_of(unit.source.sampler)
    return f"{unit.sampler_label} on {unit.problem_label}: {name}, {unit.source.sampler.steps} steps; for {reason}"


def tell_of_changes(study: Study, store: Store) -> None:
    for path in store.changed(study.code):
        output.note(f"{path} has changed since the last run: results of its earlier source do not count")
