"""`midguide train`: a prior from a folder or zip file of images, or from a folder of electrocardiograms."""

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
    from matplotlib.figure import Figure
    from torch import Tensor

    from midguide.training.config import TrainingConfig
    from midguide.training.sources import Images, Signals

GRID_SIZE, STRIPS, GRID_STEPS = 24, 8, 200
"""Unconditional samples shown, of images and of electrocardiograms, and the steps that each takes."""


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
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior and write its file and its card.

    A recipe with a table [ecg] takes a folder in the layout of PTB-XL, all others take images. The same command
    goes on where an interrupted one stopped.
    """
    output.use_threads(context)
    from midguide.training.config import load_training_config
    from midguide.training.denoiser import train as train_network
    from midguide.training.report import export_prior

    recipe = load_training_config(config)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    _check_device(device)
    source, kept = (_images if recipe.ecg is None else _ecg)(recipe, data, held_out)
    output.note(f"training {recipe.name} on {len(source)} of {data}, {len(kept)} held out, into {folder}")
    checkpoint = folder / "checkpoint.pt"
    try:
        with _watched(recipe) as on_step:
            network = train_network(recipe, source, folder, device=device, on_step=on_step)
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
    """Unconditional samples and the curves of the training, beside the prior's file."""
    from midguide.data.images import save_png
    from midguide.denoisers.builtin import load_prior, prior_spec
    from midguide.files import replacing
    from midguide.plots.grid import grid
    from midguide.plots.training import training_curves
    from midguide.problem import Problem
    from midguide.samplers.unconditional import Unconditional
    from midguide.sampling import sample as draw

    denoiser, ecg = load_prior(prior), prior_spec(prior).ecg
    count = GRID_SIZE if ecg is None else STRIPS
    samples = draw(Unconditional(steps=GRID_STEPS), Problem.unobserved(denoiser), count).draws[0]
    pictures = prior.with_suffix(".png"), prior.with_name(f"{prior.stem}-curves.png")
    if ecg is None:
        low, high = denoiser.value_range or (-1.0, 1.0)
        save_png(pictures[0], grid(samples.clamp(low, high), background=high), (low, high))
    else:
        with replacing(pictures[0]) as temporary:
            _strips(ecg.unit_mv * samples, ecg.rate_hz, prior.stem).savefig(temporary, format="png")
    with replacing(pictures[1]) as temporary:
        training_curves(json.loads(card.read_text("utf-8"))).savefig(temporary, dpi=100, format="png")
    return pictures


def _strips(signals: Tensor, rate_hz: float, name: str) -> Figure:
    from midguide.plots.ecg import ecg_strips

    footer = (
        f"unconditional samples of the prior {name}, {GRID_STEPS} steps, seed 0; none chosen; no patient's recordings"
    )
    return ecg_strips(signals, rate_hz=rate_hz, title=name, footer=footer)


def _images(recipe: TrainingConfig, data: Path, held_out: Path | None) -> tuple[Images, Images]:
    """Images to train on and images to judge by."""
    from midguide.data.images import load_image_set
    from midguide.nn.registry import check_fits
    from midguide.training.sources import Images

    images = load_image_set(data)
    check_fits(recipe.network, tuple(images.shape[1:]))
    if held_out is None:
        if len(images) < 2:
            raise DataError("one image is not enough to train on", hint="give at least two, better thousands")
        last = max(1, len(images) // 50)
        images, kept = images[:-last], images[-last:]
    else:
        kept = load_image_set(held_out)
    if kept.shape[1:] != images.shape[1:]:
        raise ShapeError(f"held-out images are {tuple(kept.shape[1:])}, the others {tuple(images.shape[1:])}")
    return Images(images, flip=recipe.flip), Images(kept)


def _ecg(recipe: TrainingConfig, data: Path, held_out: Path | None) -> tuple[Signals, Signals]:
    """Recordings of the folds 1 to 8 to train on, and of fold 9 to judge by, in units of the prior."""
    from midguide.data.ptbxl import load_split
    from midguide.nn.registry import check_fits
    from midguide.training.sources import Signals

    if recipe.ecg is None or held_out is not None:
        raise ConfigError("--held-out is for images", hint="PTB-XL names its own records to validate: fold 9")
    check_fits(recipe.network, (len(recipe.ecg.leads), recipe.length))
    parts = []
    for name in ("train", "val"):
        split = load_split(data, name, recipe.ecg)
        for record, reason in split.broken.items():
            output.note(f"left out record {record}: {reason}")
        parts.append(Signals(split.signals / recipe.ecg.unit_mv, recipe.length))
    return parts[0], parts[1]


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
