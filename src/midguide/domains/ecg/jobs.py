"""Trainings on recordings in the layout of PTB-XL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from midguide.domains.ecg.classifier_training import Recordings, export_classifier, train_classifier
from midguide.domains.ecg.conditional_training import export_conditional, train_conditional
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.plots import ecg_strips
from midguide.domains.ecg.ptbxl import Split, is_labeled, labels, load_split
from midguide.domains.ecg.recipes import EcgClassifierTrainingConfig, EcgTrainingConfig
from midguide.domains.ecg.xresnet1d import XResNet1d
from midguide.nn.base import check_fits
from midguide.storage.files import replacing
from midguide.training.base import Data, Run
from midguide.training.jobs import PICTURE_STEPS, train_judged, unconditional, write_curves
from midguide.training.report import Origin, export_prior
from midguide.training.sources import Signals

STRIPS = 8
"""Unconditional samples in a picture."""


def ecg_prior(recipe: EcgTrainingConfig, data: Data) -> _EcgPrior:
    """With the recordings of the folds 1 to 8 to train on, and of fold 9 to judge by."""
    channels = len(recipe.ecg.leads) * (1 if recipe.condition is None else 3)
    check_fits(recipe.network, (channels, recipe.length), "recordings")
    unit = recipe.ecg.unit_mv
    source, kept = (Signals(split.signals / unit, recipe.length) for split in _splits(data, recipe.ecg))
    return _EcgPrior(recipe, source, kept)


def ecg_classifier(recipe: EcgClassifierTrainingConfig, data: Data) -> _EcgClassifier:
    """With the recordings of the folds 1 to 8, and of fold 9, whose labels are known."""
    parts = []
    for split in _splits(data, recipe.ecg):
        rows = torch.tensor([is_labeled(entry, recipe.targets) for entry in split.entries], dtype=torch.bool)
        known = [entry for entry, row in zip(split.entries, rows, strict=True) if row]
        if not bool(rows.all()):
            data.note(f"left out {len(rows) - len(known)} recordings whose {recipe.targets} are unknown")
        parts.append(Recordings(split.signals[rows], labels(known, recipe.targets)))
    return _EcgClassifier(recipe, *parts)


@dataclass(frozen=True)
class _EcgPrior:
    """A prior of electrocardiograms, in its own units; or a network for their hidden parts."""

    recipe: EcgTrainingConfig
    source: Signals
    kept: Signals
    what: str = "recordings"

    def train(self, run: Run) -> nn.Module:
        if self.recipe.condition is not None:
            return train_conditional(self.recipe, self.source, run)
        return train_judged(self.recipe, self.source, self.kept.events(), run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        if self.recipe.condition is not None:
            return export_conditional(self.recipe, network, self.kept, folder, origin=origin)
        signal, name = self.recipe.ecg.signal, self.recipe.name
        paths = export_prior(self.recipe, network, self.kept, folder, origin=origin, signal=signal)
        samples, picture = self.recipe.ecg.unit_mv * unconditional(paths[0], STRIPS)[0], paths[0].with_suffix(".png")
        footer = f"unconditional samples of the prior {name}, {PICTURE_STEPS} steps, seed 0; none chosen"
        footer += "; no patient's recordings"
        with replacing(picture) as temporary:
            figure = ecg_strips(samples, rate_hz=self.recipe.ecg.rate_hz, title=name, footer=footer)
            figure.savefig(temporary, format="png")
        return (*paths, picture, write_curves(*paths))


@dataclass(frozen=True)
class _EcgClassifier:
    """A classifier of electrocardiograms."""

    recipe: EcgClassifierTrainingConfig
    source: Recordings
    kept: Recordings
    what: str = "recordings"

    def train(self, run: Run) -> nn.Module:
        return train_classifier(self.recipe, self.source, run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        classifier = cast(XResNet1d, network)
        return export_classifier(self.recipe, classifier, self.source, self.kept, folder, origin=origin)


def _splits(data: Data, form: EcgFormat) -> Iterator[Split]:
    """The recordings to train on, and those to judge by; says which are left out, or refuses them."""
    data.refuse("held_out", "autoencoder", hint="PTB-XL names its own records to validate, fold 9")
    for name in ("train", "val"):
        split = load_split(data.place, name, form, refuse_broken=data.strict)
        for record, reason in split.broken.items():
            data.note(f"left out record {record}: {reason}")
        yield split
