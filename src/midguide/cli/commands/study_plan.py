"""`midguide study plan`: what a study costs, before it is spent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import output
from midguide.cli.commands.study import File, Set, announcer, group
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from midguide.studies.plan.plan import Cell, Plan


@group.command("plan")
def plan(
    context: typer.Context,
    file: File,
    seconds_per_call: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Of a forward or vjp for one draw, on another machine; else this one is measured."
        ),
    ] = None,
    workers: Annotated[str, typer.Option(metavar="N,...", help="For how many workers the time is given.")] = "1,8,64",
    device: Annotated[str, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    settings: Set = None,
) -> None:
    """What a study costs: network calls, exactly; time, memory and disk, estimated from short runs of each sampler."""
    counts = _counts(workers)
    output.use_threads(context)
    started = time.process_time()
    from midguide.catalogue.settings import parse_override
    from midguide.nn import layout
    from midguide.studies.plan.plan import make_plan
    from midguide.studies.spec.study import load_study

    layout.check_device(device)
    study = load_study(file, [parse_override(text) for text in settings or ()], announce=announcer())
    made = make_plan(
        study,
        workers=counts,
        seconds_per_call=seconds_per_call,
        device=device,
        prepared=time.process_time() - started,
        on_cell=lambda cell: output.note(f"measuring {cell}"),
    )
    if as_json:
        output.print_json(made.as_dict())
    else:
        _print(made)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"--workers takes numbers of workers, got {text!r}", hint="for example --workers 1,8,64")
    return counts


def _print(made: Plan) -> None:
    """The samplers, then the workers, then memory and disk."""
    rows: list[tuple[str, ...]] = []
    cells: dict[str, list[Cell]] = {}
    for cell in made.cells:
        cells.setdefault(cell.sampler, []).append(cell)
    for sampler, own in cells.items():
        calls = sorted({cell.forwards + cell.vjps for cell in own})
        a_draw = f"{calls[0]:,}" if len(calls) == 1 else f"{calls[0]:,} to {calls[-1]:,}"
        rows.append((sampler, *_sums(own), a_draw, f"{sum(c.calls for c in own):,}", span(sum(c.seconds for c in own))))
    total = (f"{sum(c.calls for c in made.cells):,}", span(made.seconds))
    rows.append(("all", *_sums(made.cells), "", *total))
    columns = ("sampler", "units", "draws", "calls a draw", "calls", "time of one core")
    output.print_table(columns, rows, numbers=columns[1:])
    print()
    times = [(str(s.workers), span(s.seconds), f"{100 * s.busy:.0f} %", s.bottleneck) for s in made.schedules]
    output.print_table(("workers", "time", "busy", "bound by"), times, numbers=("workers", "time", "busy"))
    print()
    if made.memory_mib is not None:
        print(f"memory: {made.memory_mib:,.0f} MiB a worker")
    print(f"disk: {_size(made.disk_bytes)}")
    if made.stated is not None:
        output.note(f"at {made.stated:g} s a call, as stated; metrics and the building of problems are left out")


def _sums(cells: list[Cell] | tuple[Cell, ...]) -> tuple[str, str]:
    return f"{sum(cell.units for cell in cells):,}", f"{sum(cell.draws for cell in cells):,}"


def span(seconds: float) -> str:
    """A time in its unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
