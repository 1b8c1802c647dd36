"""Training a classifier of electrocardiograms on windows of recordings, each class a question of its own.

Reference: Strodthoff, Wagner, Schaeffter, Samek 2021, "Deep learning for ECG analysis: benchmarks and insights from
PTB-XL". There one network learns all 71 statements together, and the learning rate follows one cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midguide.domains.ecg.accuracy import area_under_curve, balanced_accuracy, choose_threshold
from midguide.domains.ecg.classifier import (
    EcgClassifier,
    EcgClassifierSpec,
    save_ecg_classifier,
)
from midguide.domains.ecg.leads import TWELVE, twelve_leads
from midguide.domains.ecg.ptbxl import TARGETS
from midguide.domains.ecg.recipes import EcgClassifierTrainingConfig
from midguide.domains.ecg.xresnet1d import XResNet1d
from midguide.maths.rng import global_seed
from midguide.training.base import Run
from midguide.training.loop import fit
from midguide.training.report import Origin, write_card
from midguide.training.sources import Labeled, Signals


@dataclass(frozen=True)
class Classifying:
    """The task of a `EcgClassifierTrainingConfig`."""

    config: EcgClassifierTrainingConfig
    device: str = "cpu"

    def build(self) -> XResNet1d:
        return XResNet1d(replace(self.config.network, classes=len(TARGETS[self.config.targets])))

    def decays(self, name: str) -> bool:
        return True

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Cross-entropy of each class, averaged."""
        windows, labels = (part.to(self.device) for part in batch)
        # Dropout is drawn from torch's global stream.
        dropout = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bfloat16)
        with autocast, global_seed(dropout):
            logits = network(windows)
        return F.binary_cross_entropy_with_logits(logits.float(), labels)


@dataclass(frozen=True, eq=False)
class Recordings:
    """Whole recordings with labels.

    Args:
        nine: the modeled leads, mV, float32, shape (N, 9, time).
        labels: boolean, shape (N, classes).
    """

    nine: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.nine)

    def twelve(self) -> Tensor:
        """All leads, mV, shape (N, 12, time)."""
        return twelve_leads(self.nine)


def train_classifier(config: EcgClassifierTrainingConfig, recordings: Recordings, run: Run) -> XResNet1d:
    """Train a classifier; see `training.loop.fit`."""
    twelve, (mean, std) = recordings.twelve(), _moments(recordings)
    source = Labeled(Signals((twelve - mean) / std, config.length), recordings.labels.float())
    return cast(XResNet1d, fit(Classifying(config, run.device), source, run))


def export_classifier(
    config: EcgClassifierTrainingConfig,
    network: XResNet1d,
    trained_on: Recordings,
    held_out: Recordings,
    out: Path,
    *,
    origin: Origin,
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`, with thresholds chosen on held-out recordings.

    Args:
        config: the recipe that was run.
        network: on the CPU.
        trained_on: gives mean and standard deviation of the input.
        held_out: fold 9; what its card says of accuracy is of these, on which the thresholds were chosen.
        out: folder.
        origin: what else its card says.
    """
    path, (mean, std) = out / f"{config.name}.safetensors", _moments(trained_on)
    spec = EcgClassifierSpec(
        network=network.config,
        classes=TARGETS[config.targets],
        targets=config.targets,
        ecg=config.ecg,
        length=config.length,
        aggregation=config.aggregation,
        mean_mv=mean,
        std_mv=std,
    )
    scores = EcgClassifier(spec, network.eval()).probabilities(held_out.twelve())
    columns = list(zip(scores.T, held_out.labels.T, strict=True))
    thresholds = tuple(choose_threshold(*column, config.threshold) for column in columns)
    save_ecg_classifier(path, network.state_dict(), replace(spec, thresholds=thresholds))
    held = [
        {
            "class": name,
            "records": len(own),
            "positive": int(truth.sum()),
            "auc": area_under_curve(own, truth),
            "threshold": threshold,
            "balanced_accuracy": balanced_accuracy(own, truth, threshold),
        }
        for name, threshold, (own, truth) in zip(spec.classes, thresholds, columns, strict=True)
    ]
    facts = {"parameters": sum(value.numel() for value in network.parameters()), "held_out": held}
    return path, write_card(path, config, (len(TWELVE), config.length), origin, facts)


def _moments(recordings: Recordings) -> tuple[float, float]:
    """Mean and standard deviation of all values of the twelve leads."""
    twelve = recordings.twelve()
    return float(twelve.mean(dtype=torch.float64)), float(twelve.std())
