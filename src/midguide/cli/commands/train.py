"""`midguide train`: a prior, an autoencoder, or whatever else there is a kind of recipe for."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.completion import names
from midguide.cli.failures import Interrupted
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.training.base import OnStep, Recipe
    from midguide.training.report import Origin


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
        typer.Option(
            "--from",
            autocompletion=names("priors"),
            metavar="PRIOR",
            help="Start from the weights of a prior, a name or a file.",
        ),
    ] = None
    fork: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Begin with the checkpoint of another training; recipe and data may be others."
        ),
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
        if self.fork is not None and self.start is not None:
            raise ConfigError("--fork and --from exclude each other", hint="--fork goes on with a whole training")

    def words(self, config: str | None) -> list[str]:
        """The command that repeats the training, without folders."""
        named = [("--data", self.data), ("--held-out", self.held_out), ("--autoencoder", self.autoencoder)]
        words = ["midguide", "train", *([] if config is None else [Path(config).name])]
        words += [] if self.start is None else ["--from", Path(self.start).name]
        words += [word for option, path in named if path is not None for word in (option, path.name)]
        words += [] if self.fork is None else ["--fork", self.fork.name]
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

    recipe, weights = _recipe(config, given)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    check_device(device)
    note: Callable[[str], None] = output.note if is_first() else lambda text: None
    places = {"path": given.data, "held_out": given.held_out, "autoencoder": given.autoencoder}
    work = recipe.job(Data(**places, strict=given.strict, note=note))
    size, rest = len(work.source), len(work.kept)
    of = "" if given.data is None else f" of {given.data}"
    note(f"training {recipe.name} on {size} {work.what}{of}, {rest} held out, into {folder}")
    stepped = False
    try:
        with _watched(recipe, quiet=not is_first()) as on_step, _stopping() as stop:

            def count(step: int, total: int, loss: float) -> None:
                nonlocal stepped
                stepped = True
                on_step(step, total, loss)
                stop()

            run = Run(folder, device, given.minutes, weights, count, note, check=True, fork=given.fork)
            network = work.train(run).cpu()
        if not is_first():
            return
        paths = () if stepped else _finished(folder, recipe.name)
        if paths:
            note("the training had ended before; its files stay as they are")
        else:
            paths = work.export(network, folder, _origin(given.words(config), folder))
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
    from midguide.training.start import adaptation, fitted, weights_of

    changes = parse_overrides(given.set)
    if given.start is None:
        if config is None:
            raise ConfigError("no recipe is given", hint="midguide train RECIPE, or --from PRIOR")
        return load_recipe(config, changes), None
    path, weights = weights_of(given.start)
    if config is None:
        return adaptation(given.start, path, changes, files=given.data is not None), weights
    recipe = load_recipe(config, changes)
    return recipe, fitted(recipe, path, weights)


def _origin(words: list[str], folder: Path) -> Origin:
    """What the card says of a training besides its recipe; of its history, if it has more than a beginning."""
    from midguide.training import checkpoint, log
    from midguide.training.report import Origin

    path = folder / "checkpoint.pt"
    history = checkpoint.read(path, "cpu").get("history", []) if path.exists() else []
    return Origin(
        command=shlex.join(words), log=log.rows(folder / log.NAME), history=history if len(history) > 1 else []
    )


def _finished(folder: Path, name: str) -> tuple[Path, ...]:
    """The files that a training wrote when it ended; none where they are not complete."""
    from midguide.storage.cards import read_card
    from midguide.storage.files import sha256_of

    file, card = folder / f"{name}.safetensors", folder / f"{name}.json"
    if not file.is_file() or not card.is_file() or not (folder / "checkpoint.pt").is_file():
        return ()
    if read_card(card).sha256 != sha256_of(file):
        return ()
    pictures = (folder / f"{name}.png", folder / f"{name}-curves.png")
    return (file, card, *(picture for picture in pictures if picture.is_file()))


@contextmanager
def _stopping() -> Iterator[Callable[[], None]]:
    """What to call after each step: it raises what a first SIGINT or SIGTERM would have; a second one does so at once.

    So nothing of a training is lost when somebody or a scheduler ends it. A signal that is ignored stays so, as SIGINT
    is in the background of a shell.
    """
    from midguide.training.base import Stopped

    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before: dict[int, Any] = {number: handler for number, handler in handlers.items() if callable(handler)}

    def take(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            before[number](number, frame)
        output.note("stopping after this step; once more to stop at once")

    def stop() -> None:
        if received:
            try:
                before[received[0]](received[0], None)
            except KeyboardInterrupt:
                raise Stopped from None

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # others may not choose
        return
    for number in before:
        signal.signal(number, take)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
