"""Walks of a Levy process as something to train on: a learned denoiser to set beside the exact one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from midguide.errors import ConfigError
from midguide.exact.levy import LevyProcess
from midguide.known.levy import LAWS
from midguide.nn.base import check_fits
from midguide.training.base import RECIPES, Data, Job, Run
from midguide.training.config import DenoisingConfig, check_channels
from midguide.training.jobs import train_judged, write_curves
from midguide.training.report import Origin, export_prior

SEED_OF_HELD_OUT = 1
"""Seeds of what is trained on are larger."""


@RECIPES.register("levy", summary="a prior of Levy walks, drawn without end: it needs no data")
@dataclass(frozen=True, kw_only=True)
class LevyTrainingConfig(DenoisingConfig):
    """How to train a prior on the walks of a Levy process; its recipe says `kind = "levy"`.

    Args:
        law: of the increments: `gauss`, `laplace`, `student-t` or `bernoulli-laplace`.
        length: entries of a walk.
    """

    law: str = "laplace"
    length: int = 16
    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.network)
        if self.law not in LAWS:
            raise ConfigError(f"law must be one of {', '.join(LAWS)}, got {self.law!r}")

    def job(self, data: Data) -> Job:
        """The training on walks drawn when they are asked for."""
        data.refuse("path", "held_out", "autoencoder", "strict", hint="walks are drawn, not read")
        check_fits(self.network, (self.length,), "walks")
        return _LevyPrior(self, Walks(LevyProcess(LAWS[self.law], self.length)))


@dataclass(frozen=True)
class Walks:
    """Walks that are drawn when they are asked for.

    Args:
        process: their law.
        size: how many held-out walks `events` returns.
    """

    process: LevyProcess
    size: int = field(default=1024, repr=False)
    value_range: tuple[float, float] | None = None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2, 2**53, (), generator=generator, device=generator.device))
        return self.process.sample(count, seed=seed)

    def events(self) -> Tensor:
        """The held-out walks, shape (size, length)."""
        return self.process.sample(self.size, seed=SEED_OF_HELD_OUT)

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True)
class _LevyPrior:
    """A prior of walks."""

    recipe: LevyTrainingConfig
    source: Walks
    what: str = "Levy walks, drawn without end"

    @property
    def kept(self) -> Walks:
        """Has walks to judge by that are never trained on."""
        return self.source

    def train(self, run: Run) -> nn.Module:
        return train_judged(self.recipe, self.source, self.kept.events(), run)

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        paths = export_prior(self.recipe, network, self.kept, folder, origin=origin)
        return (*paths, write_curves(*paths))
