"""Trainings on images: priors of them or of their latents, and autoencoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from midguide.data.images import load_image_set, luma, save_png
from midguide.errors import DataError, ShapeError
from midguide.inference.loop import sample
from midguide.nn.autoencoder import AutoencoderNetwork
from midguide.nn.base import check_fits
from midguide.plots.grid import grid
from midguide.plots.training import training_curves
from midguide.priors.autoencoders import load_autoencoder
from midguide.priors.latent import NetworkAutoencoder
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.cards import read_card
from midguide.storage.files import replacing
from midguide.training.autoencoder import train_autoencoder
from midguide.training.base import Data, Run
from midguide.training.config import AutoencoderTrainingConfig, DenoisingConfig, TrainingConfig
from midguide.training.denoiser import train
from midguide.training.held_out import JUDGED, HeldOut
from midguide.training.page import Page
from midguide.training.report import Origin, export_autoencoder, export_prior
from midguide.training.sources import Images, Latents, Source, encoded

GRID_SIZE, PICTURE_STEPS = 24, 200
"""Unconditional samples in a picture, and the steps that each takes."""
COMPARED = 12
"""Reconstructions in the picture of an autoencoder."""
NARROW = 64
"""Range of bytes that is remarked as a poor exposure."""
NO_BROKEN = "images are never left out"


def image_prior(recipe: TrainingConfig, data: Data) -> _ImagePrior:
    """The training of a prior, which `TrainingConfig.job` is."""
    data.refuse("strict", hint=NO_BROKEN)
    gray = data.autoencoder is None and recipe.network.in_channels == 1
    source, kept = _images(data, flip=recipe.flip, white=recipe.white, gray=gray)
    image_shape = tuple(source.pixels.shape[1:])
    coder = None if data.autoencoder is None else load_autoencoder(data.autoencoder)
    if coder is None:
        check_fits(recipe.network, image_shape, "images")
    elif coder.event_shape != image_shape:
        raise ShapeError(f"the images are {image_shape}, those of the autoencoder {coder.event_shape}")
    else:
        check_fits(recipe.network, coder.latent_shape, "latents")
    _remark(source, data)
    return _ImagePrior(recipe, source, kept, data.autoencoder, coder)


def image_autoencoder(recipe: AutoencoderTrainingConfig, data: Data) -> _Autoencoder:
    """The training of an autoencoder, which `AutoencoderTrainingConfig.job` is."""
    data.refuse("strict", hint=NO_BROKEN)
    data.refuse("autoencoder", hint="it is for the recipe of a prior")
    source, kept = _images(data, flip=recipe.flip, white=recipe.white)
    check_fits(recipe.network, tuple(source.pixels.shape[1:]), "images")
    _remark(source, data)
    return _Autoencoder(recipe, source, kept)


@dataclass(frozen=True)
class _ImagePrior:
    """A prior of images or, with an autoencoder, of their latents."""

    recipe: TrainingConfig
    source: Images
    kept: Images
    file: Path | None
    coder: NetworkAutoencoder | None
    what: str = "images"

    def train(self, run: Run) -> nn.Module:
        if self.coder is None:
            return train_judged(self.recipe, self.source, self.kept.events(), run)
        run.note(f"encoding {len(self.source)} images" + (" and their mirror images" if self.source.flip else ""))
        kept, shape = self.kept.events(), self.coder.latent_shape
        page = Page(self.recipe, run.folder, shape, kept, run.device, self.coder.decode)
        judge = HeldOut(self.recipe, encoded(kept[:JUDGED].split(64), self.coder).float(), run.device)
        return train(self.recipe, Latents.encode(self.source, self.coder), run, judge=judge, watch=page)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        return export_pictures(self.recipe, network, self.kept, folder, origin, autoencoder=self.file)


@dataclass(frozen=True)
class DrawnPrior:
    """A prior of pictures that a generator draws, or that are cut out of larger ones.

    Args:
        recipe: how it is trained.
        source: what to train on.
        kept: what to judge by.
        what: what the pictures are, in the plural.
    """

    recipe: DenoisingConfig
    source: Source
    kept: Source
    what: str

    def train(self, run: Run) -> nn.Module:
        return train_judged(self.recipe, self.source, self.kept.events(), run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        return export_pictures(self.recipe, network, self.kept, folder, origin)


def train_judged(recipe: DenoisingConfig, source: Source, kept: Tensor, run: Run) -> nn.Module:
    """Train a denoiser that held-out events, shape (N, *event), judge by noise level, with its page."""
    pictures = kept.ndim == 4 and kept.shape[1] in (1, 3)
    page = Page(recipe, run.folder, tuple(kept.shape[1:]), kept if pictures else None, run.device)
    return train(recipe, source, run, judge=HeldOut(recipe, kept[:JUDGED], run.device), watch=page)


def export_pictures(
    recipe: DenoisingConfig,
    network: nn.Module,
    kept: Source,
    folder: Path,
    origin: Origin,
    autoencoder: Path | None = None,
) -> tuple[Path, ...]:
    """Write a prior of pictures, its card, a grid of unchosen samples, and its curves."""
    paths = export_prior(recipe, network, kept, folder, origin=origin, autoencoder=autoencoder)
    samples, (low, high) = unconditional(paths[0], GRID_SIZE)
    picture = paths[0].with_suffix(".png")
    save_png(picture, grid(samples.clamp(low, high), background=high), (low, high))
    return (*paths, picture, write_curves(*paths))


@dataclass(frozen=True)
class _Autoencoder:
    """An autoencoder of images."""

    recipe: AutoencoderTrainingConfig
    source: Images
    kept: Images
    what: str = "images"

    def train(self, run: Run) -> nn.Module:
        return train_autoencoder(self.recipe, self.source, run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        coder = cast("AutoencoderNetwork", network)
        paths = export_autoencoder(self.recipe, coder, self.source, self.kept, folder, origin=origin)
        return (*paths, _reconstructions(paths[0], self.kept))


def remarks(pixels: Tensor) -> list[str]:
    """What is unusual about images, bytes of shape (N, C, H, W): gray ones among colored ones, dark or flat ones."""
    count, flat = len(pixels), pixels.flatten(1)
    gray = (pixels == pixels[:, :1]).flatten(1).all(1)
    narrow = flat.amax(1).int() - flat.amin(1).int() < NARROW
    told = []
    if 0 < int(gray.sum()) < count:
        told.append(
            f"{int(gray.sum())} of {count} images are gray, the others colored; the first is number {_first(gray)}"
        )
    if bool(narrow.any()):
        told.append(
            f"{int(narrow.sum())} of {count} images use less than a quarter of the range from black to white; "
            f'the first is number {_first(narrow)}; `kind = "crops"` evens exposures out'
        )
    return told


def _remark(source: Images, data: Data) -> None:
    for remark in remarks(source.pixels):
        data.note(remark)


def _first(chosen: Tensor) -> int:
    """Number of the first image that is chosen, from 1 in the order of names."""
    return int(chosen.nonzero()[0]) + 1


def _images(data: Data, *, flip: bool, white: float | None, gray: bool = False) -> tuple[Images, Images]:
    """Images to train on and images to judge by; as luma, where the network takes one channel."""
    kept = None if data.held_out is None else load_image_set(data.held_out, white=white, note=data.note)
    pixels = load_image_set(data.place, white=white, note=data.note)
    if kept is None:
        if len(pixels) < 2:
            raise DataError("one image is not enough to train on", hint="give at least two, better thousands")
        last = max(1, len(pixels) // 50)
        pixels, kept = pixels[:-last], pixels[-last:]
    if kept.shape[1:] != pixels.shape[1:]:
        raise ShapeError(f"held-out images are {tuple(kept.shape[1:])}, the others {tuple(pixels.shape[1:])}")
    if gray:
        pixels, kept = luma(pixels), luma(kept)
    return Images(pixels, flip), Images(kept, flip=False)


def unconditional(prior: Path, count: int) -> tuple[Tensor, tuple[float, float]]:
    """Samples of a prior that was just written, and the range of its signals."""
    denoiser = load_prior(prior)
    samples = sample(Unconditional(steps=PICTURE_STEPS), Problem.unobserved(denoiser), count, progress=False).draws[0]
    return samples, denoiser.signal_range or (-1.0, 1.0)


def write_curves(prior: Path, card: Path) -> Path:
    """The curves of a training, beside the prior's file."""
    picture = prior.with_name(f"{prior.stem}-curves.png")
    with replacing(picture) as temporary:
        training_curves(read_card(card)).savefig(temporary, dpi=100, format="png")
    return picture


def _reconstructions(path: Path, kept: Images) -> Path:
    """Held-out images above what the autoencoder makes of them, beside its file."""
    coder, images = load_autoencoder(path), kept.events()[:COMPARED]
    with torch.no_grad():
        decoded = coder.decode(coder.encode(images)).clamp(-1, 1)
    picture = path.with_suffix(".png")
    save_png(picture, grid(torch.cat([images, decoded]), columns=COMPARED))
    return picture
