"""`midguide train`: a prior from a folder or zip file of images."""

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
from midguide.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.training.config import TrainingConfig

GRID_SIZE, GRID_STEPS = 24, 200


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The recipe, a TOML file.")],
    data: Annotated[Path, typer.Option(metavar="PATH", help="Folder or zip file of images of one size.")],
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images kept for the denoising curve; one in fifty of DATA by default."),
    ] = None,
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior on images and write its file and its card.

    The same command goes on where an interrupted one stopped.
    """
    output.use_threads(context)
    from midguide.data.images import load_image_set
    from midguide.training.config import load_training_config
    from midguide.training.denoiser import train as train_network
    from midguide.training.report import export_prior

    recipe = load_training_config(config)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    _check_device(device)
    images, kept = _split(load_image_set(data), None if held_out is None else load_image_set(held_out))
    _check_channels(recipe, images)
    output.note(f"training {recipe.name} on {len(images)} images of {data}, {len(kept)} held out, into {folder}")
    checkpoint = folder / "checkpoint.pt"
    try:
        with _watched(recipe) as on_step:
            network = train_network(recipe, images, folder, device=device, on_step=on_step)
        words = ["midguide", "train", config.name, "--data", data.name]
        words += [] if held_out is None else ["--held-out", held_out.name]
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
        paths = export_prior(recipe, network.cpu(), kept, folder, command=shlex.join(words), log=log)
        paths = (*paths, *_pictures(*paths))
    except KeyboardInterrupt:
        if checkpoint.exists():
            raise Interrupted(f"repeat the same command to go on from {checkpoint}") from None
        raise
    for path in paths:
        print(path)


def _pictures(prior: Path, card: Path) -> tuple[Path, Path]:
    """A grid of unconditional samples and the curves of the training, beside the prior's file."""
    from midguide.data.images import save_png
    from midguide.denoisers.loading import load_prior
    from midguide.files import replacing
    from midguide.plots.grid import grid
    from midguide.plots.training import training_curves
    from midguide.problem import Problem
    from midguide.samplers.unconditional import Unconditional
    from midguide.sampling import sample as draw

    denoiser = load_prior(prior)
    samples = draw(Unconditional(steps=GRID_STEPS), Problem.unobserved(denoiser), GRID_SIZE).draws[0]
    low, high = denoiser.value_range or (-1.0, 1.0)
    pictures = prior.with_suffix(".png"), prior.with_name(f"{prior.stem}-curves.png")
    save_png(pictures[0], grid(samples.clamp(low, high), background=high), (low, high))
    with replacing(pictures[1]) as temporary:
        training_curves(json.loads(card.read_text("utf-8"))).savefig(temporary, dpi=100, format="png")
    return pictures


def _split(images: Tensor, held_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images to train on and images to judge by."""
    if held_out is None:
        if len(images) < 2:
            raise DataError("one image is not enough to train on", hint="give at least two, better thousands")
        return images[: -max(1, len(images) // 50)], images[-max(1, len(images) // 50) :]
    if held_out.shape[1:] != images.shape[1:]:
        raise ShapeError(f"held-out images are {tuple(held_out.shape[1:])}, the others {tuple(images.shape[1:])}")
    return images, held_out


def _check_channels(recipe: TrainingConfig, images: Tensor) -> None:
    """Refuse images that the network cannot take."""
    network, (channels, height, width) = recipe.network, images.shape[1:]
    if channels != network.in_channels:
        raise ShapeError(
            f"the images have {channels} channels, the network takes {network.in_channels}",
            hint="set in_channels and out_channels in [network]",
        )
    multiple = network.patch * 2 ** (len(network.multipliers) - 1)
    if height % multiple or width % multiple:
        raise ShapeError(
            f"the images are {height}x{width}, the network takes multiples of {multiple}",
            hint="change patch or multipliers in [network], or resize the images",
        )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by backend
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use the device {device!r}: {reason}", hint="--device cpu always works") from error


@contextmanager
def _watched(recipe: TrainingConfig) -> Iterator[Callable[[int, float], None]]:
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
