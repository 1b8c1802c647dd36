"""What `midguide study run` runs, and by which engine: the options, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import output
from midguide.cli.completion import names
from midguide.cli.watch import name_of
from midguide.errors import ConfigError, DataError

if TYPE_CHECKING:
    from midguide.studies.engine.store import Progress, Store
    from midguide.studies.engine.units import Unit
    from midguide.studies.runners.base import Runner
    from midguide.studies.spec.study import Study


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which units to run, and which of earlier results count.

    Raises:
        ConfigError: If two options exclude each other.
    """

    limit: Annotated[int | None, typer.Option(metavar="N", help="Run at most so many units.")] = None
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PROBLEM/SAMPLER", help="Run these cells now; labels with * and ?; repeatable."),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed units again.")] = False
    accept_old: Annotated[
        bool, typer.Option("--accept-old-code", help="Take results and stored draws that other code made as they are.")
    ] = False
    rerun_old: Annotated[bool, typer.Option("--rerun-old-code", help="Run again what other code made.")] = False
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Measure stored draws again and do nothing else (needs keep_samples).")
    ] = False

    def __post_init__(self) -> None:
        output.check_counts(limit=self.limit)
        if self.accept_old and self.rerun_old:
            raise ConfigError("--accept-old-code and --rerun-old-code exclude each other", hint="give one of them")

    def units(self, study: Study, store: Store, progress: Progress) -> list[Unit]:
        """The units to run, after a word on stored draws that cannot be used.

        Raises:
            ConfigError: If a pattern matches no cell, or nothing is said of results that other code made.
        """
        from midguide.studies.engine.execute import check_patterns, units_to_run

        check_patterns(study, self.only or ())
        if progress.old and not (self.accept_old or self.rerun_old):
            hint = "--accept-old-code takes them as they are, --rerun-old-code runs them again"
            raise ConfigError(progress.about_old(), hint=hint)
        units = units_to_run(
            progress,
            store,
            retry=self.retry_failed,
            rerun_old=self.rerun_old,
            rescore=self.rescore,
            limit=self.limit,
            only=self.only or (),
        )
        if self.rescore:
            return _readable(units, store, self.accept_old)
        _tell_of_draws(units, store, self.accept_old)
        return units


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs the units."""

    runner: Annotated[
        str,
        typer.Option(
            "--engine",
            "--runner",
            autocompletion=names("runners"),
            metavar="NAME",
            help="What runs the units: `midguide list runners`.",
        ),
    ] = "local"
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of the cluster, for --engine ray; also ray://HOST:PORT.")
    ] = None
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes, with one thread each; 1 by default.")] = (
        None
    )
    runner_set: Annotated[
        list[str] | None,
        typer.Option("--engine-set", "--runner-set", metavar="KEY=VALUE", help="A setting of the engine; repeatable."),
    ] = None
    device: Annotated[str, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...")] = "cpu"

    def __post_init__(self) -> None:
        output.check_counts(workers=self.workers)

    def make(self) -> Runner:
        """The runner with its settings, once it is sure that there is the device."""
        from midguide.catalogue.settings import given, parse_overrides
        from midguide.nn import layout
        from midguide.studies.runners.base import RUNNERS

        if self.is_here:
            layout.check_device(self.device)
        changes = given(workers=self.workers, address=self.address) | parse_overrides(self.runner_set)
        return RUNNERS.make(self.runner, changes)

    @property
    def is_here(self) -> bool:
        """Whether the device is one of this machine."""
        from midguide.studies.runners.base import RUNNERS

        return "elsewhere" not in RUNNERS[self.runner].facts


def tell_of_damage(path: Path) -> None:
    from midguide.storage.files import aside

    output.note(f"damaged, kept as {aside(path, 'damaged').name} when recreated: {path}")


def _tell_of_draws(units: list[Unit], store: Store, accept_old: bool) -> None:
    """A line for each unit that will be drawn again because its stored draws are damaged, and one on other code."""
    from midguide.studies.engine.draws import stored_code
    from midguide.studies.engine.units import stored

    old = 0
    for unit in units:
        place = store.samples / unit.draws_address
        code = stored_code(unit.draws_address, store.samples)
        if place.exists() and (code is None or stored(unit, store.samples) is None):
            tell_of_damage(place)
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
            output.note(f"not measured: {name_of(unit)}: {what} in {store.samples / unit.draws_address}")
    return readable
