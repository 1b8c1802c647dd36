"""What `midguide train` can train: priors of images, of latents or of electrocardiograms, and what goes with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from midguide.cli import output
from midguide.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from midguide.domains.ecg.leads import EcgFormat
    from midguide.domains.ecg.ptbxl import Split
    from midguide.nn.autoencoder import AutoencoderNetwork
    from midguide.nn.xresnet1d import XResNet1d
    from midguide.priors.latent import NetworkAutoencoder
    from midguide.training.classifier import Recordings
    from midguide.training.config import AutoencoderTrainingConfig, ClassifierTrainingConfig, Recipe, TrainingConfig
    from midguide.training.report import Origin
    from midguide.training.sources import Images, Signals

GRID_SIZE, STRIPS, GRID_STEPS = 24, 8, 200
"""Unconditional samples in a picture, of images and of electrocardiograms, and the steps that each takes."""
COMPARED = 12
"""Reconstructions in the picture of an autoencoder."""

OnStep = Callable[[int, float], None]


class Job(Protocol):
    """A recipe with its data, read and fit for its network."""

    @property
    def what(self) -> str:
        """What the data are, in the plural."""
        ...

    @property
    def source(self) -> Sized:
        """What to train on."""
        ...

    @property
    def kept(self) -> Sized:
        """What to judge by."""
        ...

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        """Train until the recipe ends, or go on with what lies in the folder."""
        ...

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        """Write the file, its card and pictures."""
        ...


def job(recipe: Recipe, data: Path, held_out: Path | None, autoencoder: Path | None, *, strict: bool = False) -> Job:
    """Read the data that a recipe is to be trained on.

    Args:
        recipe: what to train.
        data: folder or zip file of images; folder in the layout of PTB-XL for a recipe of electrocardiograms.
        held_out: images to judge by.
        autoencoder: file of the autoencoder, for a prior of latents.
        strict: refuse electrocardiograms of which one is broken, instead of leaving it out.

    Raises:
        ConfigError: an option does not go with the recipe.
        DataError: the data cannot be read, or are too few.
        ShapeError: they do not fit the network.
    """
    from midguide.training.config import AutoencoderTrainingConfig, ClassifierTrainingConfig

    if strict and (isinstance(recipe, AutoencoderTrainingConfig) or recipe.ecg is None):
        raise ConfigError("--strict is for electrocardiograms", hint="leave it out: images are never left out")
    if isinstance(recipe, AutoencoderTrainingConfig):
        return _autoencoder(recipe, data, held_out, autoencoder)
    if recipe.ecg is None:
        return _image_prior(recipe, data, held_out, autoencoder)
    if held_out is not None or autoencoder is not None:
        option = "--autoencoder" if held_out is None else "--held-out"
        raise ConfigError(f"{option} is for images", hint="PTB-XL names its own records to validate: fold 9")
    if isinstance(recipe, ClassifierTrainingConfig):
        return _ecg_classifier(recipe, data, strict=strict)
    return _ecg_prior(recipe, recipe.ecg, data, strict=strict)


@dataclass(frozen=True)
class _ImagePrior:
    """A prior of images or, with an autoencoder, of their latents."""

    recipe: TrainingConfig
    source: Images
    kept: Images
    file: Path | None
    coder: NetworkAutoencoder | None
    what: str = "images"

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        from midguide.training.denoiser import train
        from midguide.training.sources import Latents

        if self.coder is None:
            return train(self.recipe, self.source, folder, device=device, on_step=on_step)
        output.note(f"encoding {len(self.source)} images" + (" and their mirror images" if self.source.flip else ""))
        return train(self.recipe, Latents.encode(self.source, self.coder), folder, device=device, on_step=on_step)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        from midguide.data.images import save_png
        from midguide.plots.grid import grid
        from midguide.training.report import export_prior

        paths = export_prior(self.recipe, network, self.kept, folder, origin=origin, autoencoder=self.file)
        samples, (low, high) = _unconditional(paths[0], GRID_SIZE)
        picture = paths[0].with_suffix(".png")
        save_png(picture, grid(samples.clamp(low, high), background=high), (low, high))
        return (*paths, picture, _curves(*paths))


@dataclass(frozen=True)
class _EcgPrior:
    """A prior of electrocardiograms, in its own units; or a network for their hidden parts."""

    recipe: TrainingConfig
    form: EcgFormat
    source: Signals
    kept: Signals
    what: str = "recordings"

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        from midguide.training.denoiser import train

        return train(self.recipe, self.source, folder, device=device, on_step=on_step)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        from midguide.domains.ecg.plots import ecg_strips
        from midguide.domains.ecg.training import export_conditional
        from midguide.storage.files import replacing
        from midguide.training.report import export_prior

        if self.recipe.condition is not None:
            return export_conditional(self.recipe, network, self.kept, folder, origin=origin)
        paths, name = export_prior(self.recipe, network, self.kept, folder, origin=origin), self.recipe.name
        samples, picture = self.form.unit_mv * _unconditional(paths[0], STRIPS)[0], paths[0].with_suffix(".png")
        footer = f"unconditional samples of the prior {name}, {GRID_STEPS} steps, seed 0; none chosen"
        footer += "; no patient's recordings"
        with replacing(picture) as temporary:
            figure = ecg_strips(samples, rate_hz=self.form.rate_hz, title=name, footer=footer)
            figure.savefig(temporary, format="png")
        return (*paths, picture, _curves(*paths))


@dataclass(frozen=True)
class _EcgClassifier:
    """A classifier of electrocardiograms."""

    recipe: ClassifierTrainingConfig
    source: Recordings
    kept: Recordings
    what: str = "recordings"

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        from midguide.training.classifier import train_classifier

        return train_classifier(self.recipe, self.source, folder, device=device, on_step=on_step)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        from midguide.training.classifier import export_classifier

        classifier = cast("XResNet1d", network)
        return export_classifier(self.recipe, classifier, self.source, self.kept, folder, origin=origin)


@dataclass(frozen=True)
class _Autoencoder:
    """An autoencoder of images."""

    recipe: AutoencoderTrainingConfig
    source: Images
    kept: Images
    what: str = "images"

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        from midguide.training.autoencoder import train_autoencoder

        return train_autoencoder(self.recipe, self.source, folder, device=device, on_step=on_step)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        from midguide.training.report import export_autoencoder

        coder = cast("AutoencoderNetwork", network)
        paths = export_autoencoder(self.recipe, coder, self.source, self.kept, folder, origin=origin)
        return (*paths, _reconstructions(paths[0], self.kept))


def _image_prior(recipe: TrainingConfig, data: Path, held_out: Path | None, autoencoder: Path | None) -> _ImagePrior:
    from midguide.nn.registry import check_fits
    from midguide.priors.autoencoders import load_autoencoder

    source, kept = _images(data, held_out, flip=recipe.flip)
    image_shape = tuple(source.pixels.shape[1:])
    coder = None if autoencoder is None else load_autoencoder(autoencoder)
    if coder is None:
        check_fits(recipe.network, image_shape, "images")
    elif coder.event_shape != image_shape:
        raise ShapeError(f"the images are {image_shape}, those of the autoencoder {coder.event_shape}")
    else:
        check_fits(recipe.network, coder.latent_shape, "latents")
    return _ImagePrior(recipe, source, kept, autoencoder, coder)


def _ecg_prior(recipe: TrainingConfig, form: EcgFormat, data: Path, *, strict: bool) -> _EcgPrior:
    """With the recordings of the folds 1 to 8 to train on, and of fold 9 to judge by."""
    from midguide.nn.registry import check_fits
    from midguide.training.sources import Signals

    channels = len(form.leads) * (1 if recipe.condition is None else 3)
    check_fits(recipe.network, (channels, recipe.length), "recordings")
    source, kept = (
        Signals(split.signals / form.unit_mv, recipe.length) for split in _splits(data, form, strict=strict)
    )
    return _EcgPrior(recipe, form, source, kept)


def _ecg_classifier(recipe: ClassifierTrainingConfig, data: Path, *, strict: bool) -> _EcgClassifier:
    """With the recordings of the folds 1 to 8, and of fold 9, whose labels are known."""
    import torch

    from midguide.domains.ecg.ptbxl import is_labeled, labels
    from midguide.training.classifier import Recordings

    parts = []
    for split in _splits(data, recipe.ecg, strict=strict):
        rows = torch.tensor([is_labeled(entry, recipe.targets) for entry in split.entries], dtype=torch.bool)
        known = [entry for entry, row in zip(split.entries, rows, strict=True) if row]
        if not bool(rows.all()):
            output.note(f"left out {len(rows) - len(known)} recordings whose {recipe.targets} are unknown")
        parts.append(Recordings(split.signals[rows], labels(known, recipe.targets)))
    return _EcgClassifier(recipe, *parts)


def _splits(data: Path, form: EcgFormat, *, strict: bool) -> Iterator[Split]:
    """The recordings to train on, and those to judge by; says which are left out, or refuses them."""
    from midguide.domains.ecg.ptbxl import load_split

    for name in ("train", "val"):
        split = load_split(data, name, form, refuse_broken=strict)
        for record, reason in split.broken.items():
            output.note(f"left out record {record}: {reason}")
        yield split


def _autoencoder(
    recipe: AutoencoderTrainingConfig, data: Path, held_out: Path | None, autoencoder: Path | None
) -> _Autoencoder:
    from midguide.nn.registry import check_fits

    if autoencoder is not None:
        raise ConfigError("--autoencoder is for the recipe of a prior", hint="leave it out")
    source, kept = _images(data, held_out, flip=recipe.flip)
    check_fits(recipe.network, tuple(source.pixels.shape[1:]), "images")
    return _Autoencoder(recipe, source, kept)


def _images(data: Path, held_out: Path | None, *, flip: bool) -> tuple[Images, Images]:
    """Images to train on and images to judge by."""
    from midguide.data.images import load_image_set
    from midguide.training.sources import Images

    kept, pixels = None if held_out is None else load_image_set(held_out), load_image_set(data)
    if kept is None:
        if len(pixels) < 2:
            raise DataError("one image is not enough to train on", hint="give at least two, better thousands")
        last = max(1, len(pixels) // 50)
        pixels, kept = pixels[:-last], pixels[-last:]
    if kept.shape[1:] != pixels.shape[1:]:
        raise ShapeError(f"held-out images are {tuple(kept.shape[1:])}, the others {tuple(pixels.shape[1:])}")
    return Images(pixels, flip), Images(kept, flip=False)


def _unconditional(prior: Path, count: int) -> tuple[Tensor, tuple[float, float]]:
    """Samples of a prior that was just written, and the range of its signals."""
    from midguide.inference.loop import sample
    from midguide.priors.loading import load_prior
    from midguide.problem import Problem
    from midguide.samplers.unconditional import Unconditional

    denoiser = load_prior(prior)
    samples = sample(Unconditional(steps=GRID_STEPS), Problem.unobserved(denoiser), count).draws[0]
    return samples, denoiser.signal_range or (-1.0, 1.0)


def _curves(prior: Path, card: Path) -> Path:
    """The curves of a training, beside the prior's file."""
    from midguide.plots.training import training_curves
    from midguide.storage.files import replacing

    picture = prior.with_name(f"{prior.stem}-curves.png")
    with replacing(picture) as temporary:
        training_curves(json.loads(card.read_text("utf-8"))).savefig(temporary, dpi=100, format="png")
    return picture


def _reconstructions(path: Path, kept: Images) -> Path:
    """Held-out images above what the autoencoder makes of them, beside its file."""
    import torch

    from midguide.data.images import save_png
    from midguide.plots.grid import grid
    from midguide.priors.autoencoders import load_autoencoder

    coder, images = load_autoencoder(path), kept.events()[:COMPARED]
    with torch.no_grad():
        decoded = coder.decode(coder.encode(images)).clamp(-1, 1)
    picture = path.with_suffix(".png")
    save_png(picture, grid(torch.cat([images, decoded]), columns=COMPARED))
    return picture
