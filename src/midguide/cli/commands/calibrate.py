"""`midguide calibrate`: whether a sampler's draws are those of the posterior, for any prior and operator."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.commands.reconstruct import Instrument
from midguide.cli.completion import names
from midguide.cli.failures import Interrupted
from midguide.cli.watch import watched

if TYPE_CHECKING:
    from midguide.studies.calibrate.found import Found
    from midguide.studies.calibrate.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Given:
    """The problems to calibrate on."""

    prior: options.Prior = "faces-64"
    prior_set: options.PriorSet = None
    truths: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Held-out signals: a folder of images or a .npy file; by default draws."),
    ] = None
    white: options.White = None
    truth_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of the draws of the prior, where it has no exact sampler.")
    ] = None

    def table(self, instrument: Instrument, seed: int) -> dict[str, Any]:
        """The table of problems of a study."""
        from midguide.catalogue.settings import given, parse_overrides

        output.check_counts(**{"truth-steps": self.truth_steps})
        said = given(
            truths=self.truths, white=self.white, steps=self.truth_steps, sigma_y=instrument.sigma, rate=instrument.rate
        )
        tables = {
            "operator_settings": parse_overrides(instrument.operator_set),
            "noise_settings": parse_overrides(instrument.noise_set),
            "prior_settings": parse_overrides(self.prior_set),
        }
        named = {"prior": self.prior, "operator": instrument.operator, "noise": instrument.noise}
        return {**named, "operator_seed": seed, **said, **{key: table for key, table in tables.items() if table}}


@COMMANDS.register("calibrate")
@options.grouped
def calibrate(
    context: typer.Context,
    *,
    given: Given,
    instrument: Instrument,
    sampler: Annotated[
        list[str],
        typer.Option(
            autocompletion=names("samplers", "exact", "prior"),
            metavar="NAME[:PRESET]",
            help="The method, or `exact`, or `prior` (its draws); repeatable.",
        ),
    ],
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the samplers; repeatable.")
    ] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Problems.")] = 200,
    draws: Annotated[int, typer.Option(metavar="L", help="Draws of each problem.")] = 31,
    level: Annotated[float, typer.Option(metavar="A", help="Probability that right draws are rejected.")] = 0.05,
    quantity: Annotated[
        list[str] | None, typer.Option(metavar="FILE.py:NAME", help="A test quantity of your own; repeatable.")
    ] = None,
    one_of_each_group: Annotated[
        bool, typer.Option("--one-of-each-group", help="Take one draw of each group of particles: independent ones.")
    ] = False,
    workers: Annotated[int, typer.Option(metavar="W", help="Processes, with one thread each.")] = 1,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...")] = "cpu",
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Find out whether draws are those of the posterior: on problems whose truths are draws of the prior itself.

    Judges ranks of the truth among the draws by many test quantities, and writes calibration.html and
    calibration.json. The same command goes on after an interrupt.
    """
    output.check_counts(n=n, draws=draws, workers=workers)
    default = output.default_folder("calibrate", output.prior_label(given.prior), instrument.operator, of=context)
    folder = output.out_folder(out or default)
    output.use_threads(context)
    from midguide.catalogue.settings import parse_overrides
    from midguide.nn import layout
    from midguide.studies.calibrate.plan import Plan, sampler_tables

    layout.check_device(device)
    source = "one-of-each-group" if one_of_each_group else ""
    plan = Plan(
        problem=given.table(instrument, seed),
        samplers=sampler_tables(sampler, parse_overrides(set), source),
        n=n,
        draws=draws,
        seed=seed,
        level=level,
        quantities=tuple(quantity or ()),
        workers=workers,
        device=device,
    )
    found = judged(plan, folder)
    title = f"Calibration: {output.prior_label(given.prior)}, {instrument.operator}"
    write(found, folder, this_command("calibrate"), title)
    if as_json:
        output.print_json({**found.as_dict(), "folder": folder})
        return
    _print(found)
    output.note(f"page: {folder / 'calibration.html'}")


def judged(plan: Plan, folder: Path) -> Found:
    """What a plan finds, with its progress on stderr.

    Raises:
        Interrupted: If it was; what was done is kept.
    """
    from midguide.studies.calibrate.run import run

    try:
        return run(plan, folder, watch=watched, announce=lambda path: output.note(f"runs the code of {path}"))
    except KeyboardInterrupt:
        raise Interrupted("repeat the same command to go on") from None


def write(found: Found, folder: Path, command: str, title: str) -> None:
    """Write the page, and the same as JSON."""
    from midguide.storage.files import replacing
    from midguide.studies.calibrate.page import as_html

    texts = {
        "calibration.json": output.dump_json({**found.as_dict(ranks=True), "command": command}) + "\n",
        "calibration.html": as_html(found, command, title),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _print(found: Found) -> None:
    from midguide.studies.calibrate.page import QUANTITIES_HEAD, SUMMARY, quantities, summary

    output.print_table(SUMMARY, [summary(found, each) for each in found.samplers])
    for each in found.samplers:
        print(f"\n{each.label}: {each.verdict()}")
        output.print_table(QUANTITIES_HEAD, quantities(each), numbers=QUANTITIES_HEAD[1:4])
    print()
    for note in found.notes():
        print(note)


def this_command(name: str) -> str:
    """The command line that was given, as a shell takes it."""
    return shlex.join(["midguide", *sys.argv[1:]]) if sys.argv[1:2] == [name] else f"midguide {name}"
