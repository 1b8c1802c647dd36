"""`midguide train`: a prior, an autoencoder, or whatever else there is a kind of recipe for."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.failures import Interrupted
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.training.base import OnStep, Recipe, Run


@dataclass(frozen=True)
class Given:
    """What is trained."""

    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="What to train on: images of one size (folder or zip file), say."),
    ] = None
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images to judge by; by default one in fifty."),
    ] = None
    autoencoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on latents of this autoencoder, which becomes part of the prior."),
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help="Stop at broken data instead of leaving them out.")] = False
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="PRIOR", help="Start from the weights of a prior, a name or a file."),
    ] = None
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="Train for so many minutes, instead of the steps of the recipe.")
    ] = None
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe; repeatable.")
    ] = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0.0 < self.minutes < math.inf:
            raise ConfigError(f"--minutes must be positive, got {self.minutes}", hint="for example --minutes 30")

    def words(self, config: str | None) -> list[str]:
        """The command that repeats the training, without folders."""
        named = [("--data", self.data), ("--held-out", self.held_out), ("--autoencoder", self.autoencoder)]
        words = ["midguide", "train", *([] if config is None else [Path(config).name])]
        words += [] if self.start is None else ["--from", Path(self.start).name]
        words += [word for option, path in named if path is not None for word in (option, path.name)]
        words += ["--strict"] if self.strict else []
        words += [] if self.minutes is None else ["--minutes", f"{self.minutes:g}"]
        return words + [word for change in self.set or [] for word in ("--set", change)]


@COMMANDS.register("train")
@options.grouped
def train(
    context: typer.Context,
    given: Given,
    config: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A TOML file, or the name of one; with --from, by default its own."),
    ] = None,
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior, or an autoencoder for priors of latents, and write its file and its card.

    What the data are depends on the kind of recipe: by default they are images. The same command goes on where an
    interrupted one stopped. `torchrun --nproc-per-node N -m midguide train ...` uses N processes, on GPUs one each.
    """
    output.use_threads(context)
    from midguide.nn.layout import check_device
    from midguide.training.base import Data, Run
    from midguide.training.processes import is_first
    from midguide.training.report import Origin

    recipe, weights = _recipe(config, given)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    check_device(device)
    note: Callable[[str], None] = output.note if is_first() else lambda text: None
    places = {"path": given.data, "held_out": given.held_out, "autoencoder": given.autoencoder}
    work = recipe.job(Data(**places, strict=given.strict, note=note))
    size, rest = len(work.source), len(work.kept)
    of = "" if given.data is None else f" of {given.data}"
    note(f"training {recipe.name} on {size} {work.what}{of}, {rest} held out, into {folder}")
    try:
        with _watched(recipe, quiet=not is_first()) as on_step:
            run = Run(folder, device, given.minutes, weights, on_step, note, check=True)
            network = work.train(run).cpu()
        if not is_first():
            return
        origin = Origin(command=shlex.join(given.words(config)), log=_log(run))
        paths = work.export(network, folder, origin)
    except KeyboardInterrupt:
        if (folder / "checkpoint.pt").exists():
            raise Interrupted(f"repeat the same command to go on from {folder / 'checkpoint.pt'}") from None
        raise
    for path in paths:
        print(path)


def _recipe(config: str | None, given: Given) -> tuple[Any, dict[str, Tensor] | None]:
    """The recipe, and the weights to start from."""
    from midguide.catalogue.settings import parse_overrides
    from midguide.training.base import load_recipe
    from midguide.training.start import adaptation, check_start, weights_of

    changes = parse_overrides(given.set)
    if given.start is None:
        if config is None:
            raise ConfigError("no recipe is given", hint="midguide train RECIPE, or --from PRIOR")
        return load_recipe(config, changes), None
    path, weights = weights_of(given.start)
    if config is None:
        return adaptation(given.start, path, changes, files=given.data is not None), weights
    recipe = load_recipe(config, changes)
    check_start(recipe, weights)
    return recipe, weights


def _log(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text("utf-8").splitlines()]


@contextmanager
def _watched(recipe: Recipe, *, quiet: bool) -> Iterator[OnStep]:
    """A progress bar on a terminal; elsewhere a line for each checkpoint."""
    if quiet:
        yield lambda step, total, loss: None
        return
    if not sys.stderr.isatty():
        every, last = recipe.checkpoint_every, 0

        def tell(step: int, total: int, loss: float) -> None:
            nonlocal last
            if step // every > last // every or step >= total:
                output.note(f"step {step} of {total}, loss {loss:.4f}")
            last = step

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("training", total=recipe.steps, state="")

        def update(step: int, total: int, loss: float) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} steps/s, " if speed else ""
            bar.update(task, completed=step, total=total, state=f"{rate}loss {loss:.4f}")

        yield update
