"""The file and the card of a network that draws what is hidden; it is trained as a prior is, by `training.denoiser`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from midguide.priors.formats.native import PriorSpec, save_prior
from midguide.signals.base import Signal
from midguide.training.config import TrainingConfig
from midguide.training.denoiser import Denoising
from midguide.training.report import Origin, write_card
from midguide.training.sources import Signals


def export_conditional(
    config: TrainingConfig, network: nn.Module, held_out: Signals, out: Path, *, origin: Origin
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
    spec = PriorSpec(
        network=config.network,
        event_shape=tuple(clean.shape[1:]),
        prediction=config.prediction,
        value_range=None,
        signal=Signal() if config.ecg is None else config.ecg.signal,
        condition=config.condition,
    )
    save_prior(path, network.state_dict(), spec)
    task, generator = Denoising(config), torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        parts = [(len(part), float(task.loss(network, part, generator))) for part in clean.split(64)]
    facts = {
        "condition": config.condition,
        "parameters": sum(value.numel() for value in network.parameters()),
        "held_out": len(clean),
        "held_out_loss": sum(count * loss for count, loss in parts) / len(clean),
    }
    return path, write_card(path, config, spec.event_shape, origin, facts)
