"""Classifiers of twelve-lead electrocardiograms as single files, and their probabilities.

The classifier sees a recording through windows of the length that it was trained on, each half a window after the last.
The largest or the mean probability of the windows counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from midguide.catalogue.settings import build
from midguide.domains.ecg.leads import TWELVE, EcgFormat
from midguide.domains.ecg.xresnet1d import XResNet1d, XResNet1dConfig
from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.maths.autodiff import frozen
from midguide.nn.layout import without_weights
from midguide.storage.files import replacing, sha256_of
from midguide.storage.outside import GIB, Outside
from midguide.storage.tensors import read_tensors

FORMAT, KEY = 1, "midguide-ecg-classifier"
_TRAIN = "train one: midguide train domains/ecg/shipped/ecg-diagnoses.toml"
_FILE = Outside("classifier of electrocardiograms", _TRAIN, CheckpointError, limit=64 * GIB)
Aggregation = Literal["max", "mean"]
Targets = Literal["diagnoses", "superclasses"]
PART = 64


@dataclass(frozen=True, kw_only=True)
class EcgClassifierSpec:
    """How to use a classifier.

    Args:
        network: its shape.
        classes: what the outputs are, in order.
        targets: which labels they are: see `midguide.domains.ecg.ptbxl.TARGETS`.
        ecg: form of the recordings; of it the rate and the high-pass count.
        length: samples of a window.
        aggregation: of the windows' probabilities: `max` or `mean`.
        mean_mv: of all training values; is subtracted.
        std_mv: of all training values; is divided by.
        thresholds: one for each class, chosen on whole recordings of the validation fold; None where none was.
    """

    network: XResNet1dConfig
    classes: tuple[str, ...]
    targets: Targets
    ecg: EcgFormat
    length: int = 250
    aggregation: Aggregation = "max"
    mean_mv: float = 0.0
    std_mv: float = 1.0
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.classes) != self.network.classes or self.network.in_channels != len(TWELVE):
            raise ConfigError(f"{len(self.classes)} classes and 12 leads do not fit {self.network}")
        if self.aggregation not in get_args(Aggregation) or self.length < 1 or not self.std_mv > 0:
            raise ConfigError(f"aggregation={self.aggregation!r}, length={self.length}, std_mv={self.std_mv}")


@dataclass(frozen=True, eq=False)
class EcgClassifier:
    """A trained network with what it takes to use it.

    Args:
        spec: how to use it.
        network: in evaluation mode.
        sha256: of its file.
    """

    spec: EcgClassifierSpec
    network: XResNet1d
    sha256: str = ""

    def probabilities(self, twelve: Tensor) -> Tensor:
        """Of each class, shape (N, classes), from twelve leads in mV, shape (N, 12, time), in the form of the spec.

        Samples after the last whole window do not count.

        Raises:
            ShapeError: If these are not twelve leads, or shorter than a window.
        """
        spec = self.spec
        if twelve.ndim != 3 or twelve.shape[1] != len(TWELVE) or twelve.shape[2] < spec.length:
            raise ShapeError(
                f"the classifier takes 12 leads of {spec.length} or more samples, got {tuple(twelve.shape)}",
                hint=f"{spec.length / spec.ecg.rate_hz:g} s at {spec.ecg.rate_hz:g} samples per second",
            )
        windows = twelve.unfold(2, spec.length, max(spec.length // 2, 1)).transpose(1, 2)  # (N, windows, 12, length)
        standard = (windows.float() - spec.mean_mv) / spec.std_mv
        with torch.no_grad():
            parts = [self.network(part).sigmoid() for part in standard.flatten(0, 1).split(PART)]
        each = torch.cat(parts).unflatten(0, windows.shape[:2])
        return each.amax(1) if spec.aggregation == "max" else each.mean(1)


def save_ecg_classifier(path: str | Path, weights: Mapping[str, Tensor], spec: EcgClassifierSpec) -> None:
    """Write a classifier's file, complete or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps({"format": FORMAT, **asdict(spec)})})


def load_ecg_classifier(path: str | Path) -> EcgClassifier:
    """Read what `save_ecg_classifier` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or of another kind.
    """
    metadata, weights = read_tensors(_FILE, path)
    with _FILE.stated(path):
        stored = json.loads(metadata[KEY])
        if stored.pop("format") != FORMAT:
            raise ValueError("it was written by a newer version of midguide")
        spec = build(EcgClassifierSpec, stored, "classifier")
        with without_weights(len(weights)):
            network = XResNet1d(spec.network)
        network.load_state_dict(weights, assign=True)
    frozen(network)
    return EcgClassifier(spec, network, sha256_of(path))
