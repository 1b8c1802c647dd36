"""`midguide study status` and `merge`: how far a study is, in one folder or in shards, and shards in one folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import output
from midguide.cli.commands.study import Set, announcer, group, tell_of_changes
from midguide.errors import DataError

if TYPE_CHECKING:
    from midguide.studies.engine.shards import Part
    from midguide.studies.engine.store import Progress
    from midguide.studies.spec.study import Study


@group.command("status")
def status(
    place: Annotated[Path, typer.Argument(metavar="OUT|FILE", help="A folder of results, or a study's file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    settings: Set = None,
) -> None:
    """How many units of a study are done, failed, missing, damaged, or made by other code; also in each shard."""
    from midguide.studies.engine.shards import progress_of

    study, folder, parts = _opened([place], settings)
    progress, shards = progress_of(study, parts)
    counts: dict[str, Any] = progress.counts()
    if as_json:
        by_shard = {"shards": {name: part.counts() for name, part in shards.items()}} if shards else {}
        output.print_json({"study": study.head.name, "folder": folder, **counts, **by_shard})
        return
    if shards:
        rows = [(name, *map(str, part.counts().values())) for name, part in shards.items()]
        output.print_table(("shard", *counts), [*rows, ("all", *map(str, counts.values()))], numbers=counts)
    else:
        output.print_table(("units", "count"), [(name, str(n)) for name, n in counts.items()], numbers=("count",))
    _tell_what_is_wrong(study, folder, parts, progress)


@group.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders with shards, or of results.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where all results go; the first OUT by default.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Merge what is there, if units are missing, too.")] = False,
    accept_old: Annotated[
        bool, typer.Option("--accept-old-code", help="Take results that other code made as they are.")
    ] = False,
    settings: Set = None,
) -> None:
    """Gather the results of shards in one folder. The shards stay.

    Prints the folder of the results.
    """
    from midguide.studies.engine import shards

    study, first, parts = _opened(folders, settings)
    target = output.out_folder(out or first)
    shards.check_same_study(parts, target)
    done = shards.merge(study, parts, target, partial=partial, old_code=accept_old)
    said = [f"{done.units} units of {len(parts)} folders", f"{done.failed} of them failed"]
    said += [f"{done.twice} were there twice"] if done.twice else []
    said += [f"{done.left_out} are not of this grid and stay where they are"] if done.left_out else []
    said += [f"{done.missing} are missing"] if done.missing else []
    output.note(", ".join(said))
    print(target)


def _opened(places: list[Path], settings: list[str] | None) -> tuple[Study, Path, list[Part]]:
    """The study of some folders, or of the default folder of its file; the first folder; and all parts of results."""
    from midguide.catalogue.settings import parse_override
    from midguide.studies.engine.shards import latest, parts_of
    from midguide.studies.spec.plain import changed
    from midguide.studies.spec.study import load_study, parse_study

    changes, announce = [parse_override(text) for text in settings or ()], announcer()
    first = places[0]
    if os.path.isfile(first):
        first = output.default_folder("study", load_study(first, changes, announce=announce).head.name)
    parts = parts_of([first, *places[1:]])
    return parse_study(changed(latest(parts).store.plain, changes), announce=announce), first, parts


def _tell_what_is_wrong(study: Study, folder: Path, parts: list[Part], progress: Progress) -> None:
    from midguide.studies.engine.shards import check_same_study

    for unit in progress.damaged:
        for part in parts:
            if part.store.path(unit).exists():
                output.note(f"damaged: {part.store.path(unit)}")
    for part in parts:
        tell_of_changes(study, part.store)
    try:
        check_same_study(parts, folder)
    except DataError as error:
        output.note(error.message)
    if progress.old:
        output.note(f"{progress.about_old()}: `run` takes --accept-old-code or --rerun-old-code")
