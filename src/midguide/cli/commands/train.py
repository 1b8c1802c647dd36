"""`midguide train`: a prior, an autoencoder, or whatever else there is a kind of recipe for."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.failures import Interrupted

if TYPE_CHECKING:
    from midguide.training.base import Recipe


@COMMANDS.register("train")
def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The recipe, a TOML file.")],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="What to train on: images of one size (folder or zip file), say.")
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images for the denoising curve; by default one in fifty."),
    ] = None,
    autoencoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on latents of this autoencoder, which becomes part of the prior."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at broken data instead of leaving them out.")] = False,
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior, or an autoencoder for priors of latents, and write its file and its card.

    What the data are depends on the kind of recipe: by default they are images. The same command goes on where an
    interrupted one stopped.
    """
    output.use_threads(context)
    from midguide.nn.layout import check_device
    from midguide.training.base import Data, load_recipe
    from midguide.training.report import Origin

    recipe = load_recipe(config)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    check_device(device)
    given = Data(path=data, held_out=held_out, autoencoder=autoencoder, strict=strict, note=output.note)
    work = recipe.job(given)
    size, rest = len(work.source), len(work.kept)
    output.note(f"training {recipe.name} on {size} {work.what} of {data}, {rest} held out, into {folder}")
    words = ["midguide", "train", config.name, "--data", data.name]
    words += [] if held_out is None else ["--held-out", held_out.name]
    words += [] if autoencoder is None else ["--autoencoder", autoencoder.name]
    words += ["--strict"] if strict else []
    checkpoint = folder / "checkpoint.pt"
    try:
        with _watched(recipe) as on_step:
            network = work.train(folder, device, on_step).cpu()
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
        paths = work.export(network, folder, Origin(command=shlex.join(words), log=log))
    except KeyboardInterrupt:
        if checkpoint.exists():
            raise Interrupted(f"repeat the same command to go on from {checkpoint}") from None
        raise
    for path in paths:
        print(path)


@contextmanager
def _watched(recipe: Recipe) -> Iterator[Callable[[int, float], None]]:
    """A progress bar on a terminal; elsewhere a line for each checkpoint."""
    if not sys.stderr.isatty():
        every = recipe.checkpoint_every

        def tell(step: int, loss: float) -> None:
            if step % every == 0 or step == recipe.steps:
                output.note(f"step {step} of {recipe.steps}, loss {loss:.4f}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("training", total=recipe.steps, state="")

        def update(step: int, loss: float) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f} steps/s, " if speed else ""
            bar.update(task, completed=step, state=f"{rate}loss {loss:.4f}")

        yield update
