"""What a trained prior is worth: its denoising error by noise level on held-out images, and its card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.denoisers.base import Denoiser
from midguide.denoisers.builtin import PriorSpec, save_prior
from midguide.denoisers.loading import load_prior
from midguide.files import replacing
from midguide.rng import Rng
from midguide.training.config import TrainingConfig

CURVE_TIMES = (5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


def denoising_curve(denoiser: Denoiser, images: Tensor, *, seed: int = 0) -> list[dict[str, float]]:
    """Held-out error of `D` by noise level.

    Args:
        denoiser: the prior.
        images: clean images in the prior's value range, shape (N, *event).
        seed: of the noise.

    Returns:
        One row per time: `time`, `noise_to_signal` (sigma/alpha) and `relative_error`, the mean squared error of
        `D(x_t, t)` over the variance of the images about their mean image (a single one: about its own mean): 1
        means that nothing was recovered.
    """
    centre = images.mean(dim=0) if len(images) > 1 else images.mean()
    spread = (images - centre).square().mean()
    rows = []
    for t in CURVE_TIMES:
        level = denoiser.schedule.level(t)
        z = Rng([(seed, "curve", t)], size=len(images)).normal(images)
        with torch.no_grad():
            parts = [denoiser(x, t) for x in (level.alpha * images + level.sigma * z).split(64)]
        error = (torch.cat(parts) - images).square().mean() / spread
        rows.append({"time": t, "noise_to_signal": level.ratio, "relative_error": float(error)})
    return rows


def export_prior(
    config: TrainingConfig, network: nn.Module, held_out: Tensor, out: Path, *, command: str, log: list[dict[str, Any]]
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`.

    Args:
        config: the recipe that was run.
        network: averaged weights.
        held_out: uint8 images that were not trained on, shape (N, C, H, W), for the denoising curve.
        out: folder.
        command: how to train the prior again.
        log: rows of the training log.
    """
    path, card_path = out / f"{config.name}.safetensors", out / f"{config.name}.json"
    event_shape = tuple(held_out.shape[1:])
    save_prior(
        path,
        network.state_dict(),
        PriorSpec(network=config.network, event_shape=event_shape, prediction=config.prediction),
    )
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
        "held_out_images": len(held_out),
        "denoising_curve": denoising_curve(stored, held_out.float() / 127.5 - 1.0),
    }
    with replacing(card_path) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path, card_path
