"""A kind of recipe: a prior of levels, from a text file with one day a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from midguide.errors import DataError
from midguide.training.base import RECIPES, Data, Run
from midguide.training.config import DenoisingConfig, Network
from midguide.training.denoiser import train
from midguide.training.report import Origin, export_prior
from midguide.training.sources import Signals
from tides.levels import tide_signal
from tides.network import TideGainConfig


@RECIPES.register("tide-prior", summary="a prior of levels")
@dataclass(frozen=True, kw_only=True)
class TideTraining(DenoisingConfig):
    """How to train a prior of levels.

    Args:
        unit_m: meters of one unit of the prior.
    """

    network: Network = field(default_factory=TideGainConfig)
    prediction: str = "x0"
    unit_m: float = 0.5

    def job(self, data: Data) -> _Training:
        """The training on a text file."""
        data.refuse("held_out", "autoencoder", "strict", hint="levels lie in one text file")
        try:
            rows = [[float(word) for word in line.split()] for line in data.place.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{data.place} holds no levels: {error}", hint="one day of hourly levels a line") from error
        levels = torch.tensor(rows)[:, None] / self.unit_m
        return _Training(self, *(Signals(part, levels.shape[-1]) for part in (levels[:-4], levels[-4:])))


@dataclass(frozen=True)
class _Training:
    recipe: TideTraining
    source: Signals
    kept: Signals
    what: str = "days"

    def train(self, run: Run) -> nn.Module:
        return train(self.recipe, self.source, run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        signal = tide_signal(unit_m=self.recipe.unit_m)
        return export_prior(self.recipe, network, self.kept, folder, origin=origin, signal=signal)
