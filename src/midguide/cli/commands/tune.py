"""`midguide tune`: settings of a sampler for any prior and operator, found and confirmed on draws of the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.commands.calibrate import Given, judged, this_command, write
from midguide.cli.commands.reconstruct import Instrument
from midguide.cli.completion import names

if TYPE_CHECKING:
    from midguide.studies.calibrate.tune import Tuned


@COMMANDS.register("tune")
@options.grouped
def tune(
    context: typer.Context,
    *,
    given: Given,
    instrument: Instrument,
    sampler: Annotated[
        list[str],
        typer.Option(
            autocompletion=names("samplers"), metavar="NAME[:PRESET]", help="A method, and where to start; repeatable."
        ),
    ],
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting that stays; repeatable.")
    ] = None,
    calls: Annotated[int, typer.Option(metavar="N", help="Most network calls of a draw, forwards and vjps.")] = 100,
    budget: Annotated[int, typer.Option(metavar="N", help="Most network calls of the whole search.")] = 1_000_000,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Fresh problems that confirm the result.")] = 100,
    first: Annotated[int, typer.Option(metavar="N", help="Problems of the first round.")] = 8,
    draws: Annotated[int, typer.Option(metavar="L", help="Draws of each problem.")] = 15,
    workers: Annotated[int, typer.Option(metavar="W", help="Processes, with one thread each.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...")] = "cpu",
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Find settings for your prior and operator, on draws of the prior and never on your data.

    Writes preset.toml, for `--sampler NAME:OUT/preset.toml`, and calibration.html and .json of the confirmation on
    fresh problems. The same command goes on after an interrupt.
    """
    output.check_counts(n=n, draws=draws, workers=workers, calls=calls, budget=budget, first=first)
    default = output.default_folder("tune", output.prior_label(given.prior), instrument.operator, of=context)
    folder = output.out_folder(out or default)
    output.use_threads(context)
    from midguide.catalogue.settings import parse_overrides
    from midguide.nn import layout
    from midguide.storage.files import replacing
    from midguide.studies.calibrate import tune as tuning

    layout.check_device(device)
    search = tuning.Search(
        problem=given.table(instrument, seed),
        specs=tuple(sampler),
        settings=parse_overrides(set),
        calls=calls,
        budget=budget,
        draws=draws,
        n=n,
        first=first,
        seed=seed,
        workers=workers,
        device=device,
    )
    tuned = tuning.tune(search, lambda plan: judged(plan, folder), output.note)
    name, command = tuned.winner.name, this_command("tune")
    write(tuned.confirmed, folder, command, f"Tuned: {output.prior_label(given.prior)}, {instrument.operator}")
    place = folder / "preset.toml"
    source = f"{command}; on {n} fresh problems: {tuned.found.verdict()}"
    with replacing(place) as temporary:
        temporary.write_text(tuning.as_preset(tuned.winner.sampler, source), encoding="utf-8")
    if as_json:
        output.print_json({**_plain(tuned), "preset": place, "folder": folder})
        return
    _print(tuned, f"{name}:{place}")


def _plain(tuned: Tuned) -> dict[str, Any]:
    from midguide.studies.calibrate.tune import settings_of

    return {
        "sampler": tuned.winner.name,
        "winner": tuned.winner.label,
        "settings": settings_of(tuned.winner.sampler),
        "calls": tuned.winner.calls,
        "spent": tuned.spent,
        "rungs": [{"problems": rung.problems, "criterion": dict(rung.criterion)} for rung in tuned.rungs],
        "confirmed": tuned.confirmed.as_dict(),
    }


def _print(tuned: Tuned, spec: str) -> None:
    from midguide.studies.calibrate.page import SUMMARY, summary

    header = ("candidate", *(f"{rung.problems} problems" for rung in tuned.rungs))
    order = list(dict.fromkeys(label for rung in reversed(tuned.rungs) for label in rung.criterion))
    rows = [
        [label, *(f"{rung.criterion[label]:.3f}" if label in rung.criterion else "" for rung in tuned.rungs)]
        for label in order
    ]
    output.print_table(header, rows, numbers=header[1:])
    print()
    output.print_table(SUMMARY, [summary(tuned.confirmed, each) for each in tuned.confirmed.samplers])
    print(f"\n{tuned.winner.label}: {tuned.found.verdict()}\n--sampler {spec}")
    output.note(f"{tuned.spent:,} network calls")
