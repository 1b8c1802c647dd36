"""Training networks that draw what is hidden: as a prior is trained, with the loss over what is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from midguide.domains.ecg.conditional import conditioned, half_masks
from midguide.domains.ecg.recipes import EcgTrainingConfig
from midguide.errors import ConfigError
from midguide.priors.formats.native import save_prior
from midguide.priors.settings import UNBOUNDED, PriorSettings
from midguide.training.base import Run
from midguide.training.denoiser import Denoising
from midguide.training.loop import fit
from midguide.training.report import Origin, write_card
from midguide.training.sources import Signals


@dataclass(frozen=True)
class HiddenParts:
    """The task of a recipe with a condition."""

    config: EcgTrainingConfig
    device: str = "cpu"

    @cached_property
    def denoising(self) -> Denoising:
        """The same task without a condition."""
        return Denoising(self.config, self.device)

    def build(self) -> nn.Module:
        return self.denoising.build()

    def decays(self, name: str) -> bool:
        return self.denoising.decays(name)

    def loss(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the network's prediction over what is hidden, which is drawn anew for each event."""
        if self.config.condition is None:
            raise ConfigError("the recipe has no condition", hint='condition = "half"')
        x_t, index, target = self.denoising.noised(clean, generator)
        observed = half_masks(self.config.condition, clean, generator)
        given = conditioned(x_t, torch.where(observed, clean, 0.0).to(x_t.device), observed.to(x_t.device))
        return (self.denoising.predicted(network, given, index) - target)[~observed].square().mean()


def train_conditional(config: EcgTrainingConfig, source: Signals, run: Run) -> nn.Module:
    """Train a network for hidden parts; see `training.loop.fit`."""
    return fit(HiddenParts(config, run.device), source, run)


def export_conditional(
    config: EcgTrainingConfig, network: nn.Module, held_out: Signals, out: Path, *, origin: Origin
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`.

    Args:
        config: the recipe that was run.
        network: averaged weights, on the CPU.
        held_out: what was not trained on, for the loss on its card.
        out: folder.
        origin: what else its card says.
    """
    path, clean = out / f"{config.name}.safetensors", held_out.events()
    settings = PriorSettings(
        network=config.network,
        event_shape=tuple(clean.shape[1:]),
        prediction=config.prediction,
        value_range=UNBOUNDED,
        signal=config.ecg.signal,
        condition=config.condition,
    )
    save_prior(path, network.state_dict(), settings)
    task, generator = HiddenParts(config), torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        parts = [(len(part), float(task.loss(network, part, generator))) for part in clean.split(64)]
    facts = {
        "condition": config.condition,
        "parameters": sum(value.numel() for value in network.parameters()),
        "held_out": len(clean),
        "held_out_loss": sum(count * loss for count, loss in parts) / len(clean),
    }
    return path, write_card(path, config, tuple(clean.shape[1:]), origin, facts)
