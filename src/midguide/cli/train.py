"""`midguide train`: a prior or an autoencoder from a folder or zip file of images."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from midguide.cli import options, output
from midguide.cli.failures import Interrupted
from midguide.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from midguide.denoisers.latent import NetworkAutoencoder
    from midguide.nn.autoencoder import AutoencoderNetwork
    from midguide.training.config import AutoencoderTrainingConfig, LoopConfig, TrainingConfig
    from midguide.training.sources import Images

GRID_SIZE, GRID_STEPS = 24, 200
COMPARED = 12
"""Reconstructions in the picture of an autoencoder."""


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The recipe, a TOML file.")],
    data: Annotated[Path, typer.Option(metavar="PATH", help="Folder or zip file of images of one size.")],
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Images kept for the denoising curve; one in fifty of DATA by default."),
    ] = None,
    autoencoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train on latents of this autoencoder, which becomes part of the prior."),
    ] = None,
    out: options.Out = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a prior, or an autoencoder for priors of latents, on images and write its file and its card.

    The same command goes on where an interrupted one stopped.
    """
    output.use_threads(context)
    from midguide.data.images import load_image_set
    from midguide.training.config import TrainingConfig, load_training_config

    recipe = load_training_config(config)
    folder = output.out_folder(out or output.default_folder(f"train-{recipe.name}"))
    _check_device(device)
    given = None if held_out is None else load_image_set(held_out)
    images, kept = _split(load_image_set(data), given, flip=recipe.flip)
    job = _PriorJob(recipe, autoencoder) if isinstance(recipe, TrainingConfig) else _AutoencoderJob(recipe, autoencoder)
    job.check(tuple(images.pixels.shape[1:]))
    size, rest = len(images.pixels), len(kept.pixels)
    output.note(f"training {recipe.name} on {size} images of {data}, {rest} held out, into {folder}")
    words = ["midguide", "train", config.name, "--data", data.name]
    words += [] if held_out is None else ["--held-out", held_out.name]
    words += [] if autoencoder is None else ["--autoencoder", autoencoder.name]
    checkpoint = folder / "checkpoint.pt"
    try:
        with _watched(recipe) as on_step:
            network = job.train(images, folder, device, on_step).cpu()
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
        paths = job.export(network, images, kept, folder, shlex.join(words), log)
    except KeyboardInterrupt:
        if checkpoint.exists():
            raise Interrupted(f"repeat the same command to go on from {checkpoint}") from None
        raise
    for path in paths:
        print(path)


@dataclass(frozen=True)
class _PriorJob:
    """A prior of images or, with an autoencoder's file, of their latents."""

    recipe: TrainingConfig
    autoencoder: Path | None

    @cached_property
    def coder(self) -> NetworkAutoencoder | None:
        from midguide.denoisers.autoencoders import load_autoencoder

        return None if self.autoencoder is None else load_autoencoder(self.autoencoder)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse images that the network cannot take."""
        network = self.recipe.network
        if self.coder is not None and self.coder.event_shape != image_shape:
            raise ShapeError(f"the images are {image_shape}, those of the autoencoder {self.coder.event_shape}")
        what, shape = ("images", image_shape) if self.coder is None else ("latents", self.coder.latent_shape)
        if shape[0] != network.in_channels:
            raise ShapeError(
                f"the {what} have {shape[0]} channels, the network takes {network.in_channels}",
                hint="set in_channels and out_channels in [network]; a prior of latents needs --autoencoder",
            )
        _check_multiple(what, shape, network.patch * 2 ** (len(network.multipliers) - 1))

    def train(self, images: Images, folder: Path, device: str, on_step: Callable[[int, float], None]) -> nn.Module:
        from midguide.training.denoiser import train
        from midguide.training.sources import Latents

        if self.coder is None:
            return train(self.recipe, images, folder, device=device, on_step=on_step)
        output.note(f"encoding {len(images.pixels)} images" + (" and their mirror images" if images.flip else ""))
        return train(self.recipe, Latents.encode(images, self.coder), folder, device=device, on_step=on_step)

    def export(
        self, network: nn.Module, images: Images, kept: Images, folder: Path, command: str, log: list[dict[str, Any]]
    ) -> tuple[Path, ...]:
        from midguide.training.report import Origin, export_prior

        origin = Origin(command=command, log=log)
        paths = export_prior(self.recipe, network, kept, folder, origin=origin, autoencoder=self.autoencoder)
        return (*paths, *_pictures(*paths))


@dataclass(frozen=True)
class _AutoencoderJob:
    """An autoencoder of images."""

    recipe: AutoencoderTrainingConfig
    autoencoder: Path | None

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Refuse images that the network cannot take, and an option that is for priors."""
        if self.autoencoder is not None:
            raise ConfigError("--autoencoder is for the recipe of a prior", hint="leave it out")
        network = self.recipe.network
        if image_shape[0] != network.channels:
            raise ShapeError(
                f"the images have {image_shape[0]} channels, the network takes {network.channels}",
                hint="set channels in [network]",
            )
        _check_multiple("images", image_shape, network.factor)

    def train(self, images: Images, folder: Path, device: str, on_step: Callable[[int, float], None]) -> nn.Module:
        from midguide.training.autoencoder import train_autoencoder

        return train_autoencoder(self.recipe, images, folder, device=device, on_step=on_step)

    def export(
        self, network: nn.Module, images: Images, kept: Images, folder: Path, command: str, log: list[dict[str, Any]]
    ) -> tuple[Path, ...]:
        from midguide.training.report import Origin, export_autoencoder

        origin = Origin(command=command, log=log)
        coder = cast("AutoencoderNetwork", network)
        paths = export_autoencoder(self.recipe, coder, images, kept, folder, origin=origin)
        return (*paths, _reconstructions(paths[0], kept))


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
    low, high = denoiser.signal_range or (-1.0, 1.0)
    pictures = prior.with_suffix(".png"), prior.with_name(f"{prior.stem}-curves.png")
    save_png(pictures[0], grid(samples.clamp(low, high), background=high), (low, high))
    with replacing(pictures[1]) as temporary:
        training_curves(json.loads(card.read_text("utf-8"))).savefig(temporary, dpi=100, format="png")
    return pictures


def _reconstructions(path: Path, kept: Images) -> Path:
    """Held-out images above what the autoencoder makes of them, beside its file."""
    import torch

    from midguide.data.images import save_png
    from midguide.denoisers.autoencoders import load_autoencoder
    from midguide.plots.grid import grid

    coder, images = load_autoencoder(path), kept.events()[:COMPARED]
    with torch.no_grad():
        decoded = coder.decode(coder.encode(images)).clamp(-1, 1)
    picture = path.with_suffix(".png")
    save_png(picture, grid(torch.cat([images, decoded]), columns=COMPARED))
    return picture


def _split(pixels: Tensor, held_out: Tensor | None, *, flip: bool) -> tuple[Images, Images]:
    """Images to train on and images to judge by."""
    from midguide.training.sources import Images

    if held_out is None:
        if len(pixels) < 2:
            raise DataError("one image is not enough to train on", hint="give at least two, better thousands")
        last = max(1, len(pixels) // 50)
        pixels, held_out = pixels[:-last], pixels[-last:]
    if held_out.shape[1:] != pixels.shape[1:]:
        raise ShapeError(f"held-out images are {tuple(held_out.shape[1:])}, the others {tuple(pixels.shape[1:])}")
    return Images(pixels, flip), Images(held_out, flip=False)


def _check_multiple(what: str, shape: tuple[int, ...], multiple: int) -> None:
    _, height, width = shape
    if height % multiple or width % multiple:
        raise ShapeError(
            f"the {what} are {height}x{width}, the network takes multiples of {multiple}",
            hint="change patch or the levels in [network], or resize the images",
        )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by backend
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot use the device {device!r}: {reason}", hint="--device cpu always works") from error


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
