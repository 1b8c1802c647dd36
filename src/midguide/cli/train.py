"""`midguide train`: a prior or an autoencoder from images, or a prior from electrocardiograms."""

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
from midguide.cli.failures import Interrupted

if TYPE_CHECKING:
    from midguide.training.config import LoopConfig


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The recipe, a TOML file.")],
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="Images of one size (folder or zip file); or a PTB-XL folder.")
    ],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Images for the denoising curve; by default one in fifty, or PTB-XL's fold 9."
        ),
    ] = None,
    autoencoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on latents of this autoencoder, which becomes part of the prior."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a broken recording of PTB-XL instead of leaving it out.")
    ] = False,
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior, or an autoencoder for priors of latents, and write its file and its card.

    A recipe with a table [ecg] takes a folder in the layout of PTB-XL, all others take images. The same command
    goes on where an interrupted one stopped.
    """
    output.use_threads(context)
    from midguide.cli.training_jobs import job
    from midguide.nn.layout import check_device
    from midguide.training.config import load_training_config
    from midguide.training.report import Origin

    recipe = load_training_config(config)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    check_device(device)
    work = job(recipe, data, held_out, autoencoder, strict=strict)
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
def _watched(recipe: LoopConfig) -> Iterator[Callable[[int, float], None]]:
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
