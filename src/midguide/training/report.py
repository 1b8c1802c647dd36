"""What a trained prior is worth: its denoising error by noise level on held-out data, and its card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.denoisers.base import Denoiser
from midguide.denoisers.builtin import PriorSpec, load_prior, save_prior
from midguide.files import replacing
from midguide.rng import Rng
from midguide.training.config import TrainingConfig
from midguide.training.sources import Source

CURVE_TIMES = (5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


def denoising_curve(denoiser: Denoiser, clean: Tensor, *, seed: int = 0) -> list[dict[str, float]]:
    """Held-out error of `D` by noise level.

    Args:
        denoiser: the prior.
        clean: images or signals in the prior's value range, shape (N, *event).
        seed: of the noise.

    Returns:
        One row per time: `time`, `noise_to_signal` (sigma/alpha) and `relative_error`, the mean squared error of
        `D(x_t, t)` over the variance of the data about their mean event (a single one: about its own mean): 1
        means that nothing was recovered.
    """
    centre = clean.mean(dim=0) if len(clean) > 1 else clean.mean()
    spread = (clean - centre).square().mean()
    rows = []
    for t in CURVE_TIMES:
        level = denoiser.schedule.level(t)
        z = Rng([(seed, "curve", t)], size=len(clean)).normal(clean)
        with torch.no_grad():
            parts = [denoiser(x, t) for x in (level.alpha * clean + level.sigma * z).split(64)]
        error = (torch.cat(parts) - clean).square().mean() / spread
        rows.append({"time": t, "noise_to_signal": level.ratio, "relative_error": float(error)})
    return rows


def export_prior(
    config: TrainingConfig, network: nn.Module, held_out: Source, out: Path, *, command: str, log: list[dict[str, Any]]
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`.

    Args:
        config: the recipe that was run.
        network: averaged weights.
        held_out: what was not trained on, for the denoising curve.
        out: folder.
        command: how to train the prior again.
        log: rows of the training log.
    """
    path, card_path = out / f"{config.name}.safetensors", out / f"{config.name}.json"
    clean = held_out.events()
    event_shape = tuple(clean.shape[1:])
    spec = PriorSpec(
        network=config.network,
        event_shape=event_shape,
        prediction=config.prediction,
        value_range=held_out.value_range,
        ecg=config.ecg,
    )
    save_prior(path, network.state_dict(), spec)
    stored = load_prior(path)
    card = {
        "name": config.name,
        **asdict(config.card),
        "event_shape": list(event_shape),
        "parameters": sum(value.numel() for value in network.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": command,
        "training": asdict(config),
        "loss": log,
        "held_out": len(clean),
        "denoising_curve": denoising_curve(stored, clean),
    }
    with replacing(card_path) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path, card_path
