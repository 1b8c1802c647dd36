"""Recipes of electrocardiograms: of priors, of networks for hidden parts, and of classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from midguide.domains.ecg.conditional import Condition
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.xresnet1d import XResNet1dConfig
from midguide.errors import ConfigError
from midguide.training.base import RECIPES, Data, Job
from midguide.training.config import DenoisingConfig, LoopConfig, check_channels


@RECIPES.register("ecg-prior", summary="a prior of electrocardiograms, or a network for their hidden parts")
@dataclass(frozen=True, kw_only=True)
class EcgTrainingConfig(DenoisingConfig):
    """How to train a prior on electrocardiograms; its recipe says `kind = "ecg-prior"` or has a table `[ecg]`.

    Args:
        ecg: the form of the electrocardiograms.
        length: samples per lead, cut out at random.
        condition: makes it no prior but a network that draws what is hidden, given the rest: `half`, of which one half
            of all leads is hidden, or `half-of-each-lead`. Its network takes three times as many channels as it
            returns: the noisy hidden part, the known part, and which is which.
    """

    ecg: EcgFormat = field(default_factory=EcgFormat)
    length: int = 256
    condition: Condition | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ConfigError(f"length must be positive, got {self.length}")
        check_channels(self.network, times=1 if self.condition is None else 3)

    def job(self, data: Data) -> Job:
        """The training on a folder in the layout of PTB-XL."""
        from midguide.domains.ecg.jobs import ecg_prior

        return ecg_prior(self, data)


@RECIPES.register("ecg-classifier", summary="a classifier of electrocardiograms")
@dataclass(frozen=True, kw_only=True)
class EcgClassifierTrainingConfig(LoopConfig):
    """How to train a classifier of electrocardiograms; its recipe says `kind = "ecg-classifier"`.

    Args:
        network: its shape; the number of classes follows from the targets.
        targets: `diagnoses`, the four of the MGPS paper, or `superclasses`, the five of PTB-XL.
        ecg: form of the recordings: that of the prior whose draws it is to judge.
        length: samples of a window, cut out at random.
        aggregation: of the windows of a recording: `max` or `mean`.
        threshold: how thresholds are chosen on fold 9: `balanced`, `f1`, or a number.
    """

    network: XResNet1dConfig = field(default_factory=XResNet1dConfig)
    targets: Literal["diagnoses", "superclasses"] = "diagnoses"
    ecg: EcgFormat = field(default_factory=EcgFormat)
    length: int = 250
    aggregation: Literal["max", "mean"] = "max"
    threshold: Literal["balanced", "f1"] | float = "balanced"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1 or self.flip:
            raise ConfigError(f"length={self.length}, flip={self.flip}", hint="positive; flip = false")

    def job(self, data: Data) -> Job:
        """The training on a folder in the layout of PTB-XL."""
        from midguide.domains.ecg.jobs import ecg_classifier

        return ecg_classifier(self, data)
