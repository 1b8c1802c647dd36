"""What a trained network is worth on held-out data, its file and its card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.catalogue.settings import as_plain
from midguide.maths.rng import Rng
from midguide.metrics.image import psnr, ssim
from midguide.nn.autoencoder import AutoencoderNetwork
from midguide.priors.autoencoders import load_autoencoder, prefixed, read_autoencoder, save_autoencoder
from midguide.priors.base import Autoencoder, Denoiser
from midguide.priors.formats.native import save_prior
from midguide.priors.loading import load_prior
from midguide.priors.settings import UNBOUNDED, PriorSettings
from midguide.priors.statistics import FEWEST, Statistics
from midguide.signals.base import Signal
from midguide.storage import cards
from midguide.storage.cards import Card
from midguide.storage.files import sha256_of
from midguide.storage.record import describe
from midguide.training.autoencoder import describe_autoencoder
from midguide.training.base import RECIPES
from midguide.training.config import AutoencoderTrainingConfig, DenoisingConfig, LoopConfig
from midguide.training.sources import Images, Source, encoded

CURVE_TIMES = (5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


def denoising_curve(denoiser: Denoiser, clean: Tensor, *, seed: int = 0) -> list[dict[str, float]]:
    """Held-out error of `D` by noise level.

    Args:
        denoiser: the prior.
        clean: images or signals in the prior's value range, or latents, shape (N, *event).
        seed: of the noise.

    Returns:
        One row per time: `time`, `noise_to_signal` (sigma/alpha) and `relative_error`, the mean squared error of
        `D(x_t, t)` over the variance of the data about their mean event (a single one: about its own mean): 1
        means that nothing was recovered.
    """
    centre = clean.mean(dim=0) if len(clean) > 1 else clean.mean()
    spread = (clean - centre).square().mean().clamp_min(1e-12)  # of a single flat image there is none
    rows = []
    for t in CURVE_TIMES:
        level = denoiser.schedule.level(t)
        z = Rng([(seed, "curve", t)], size=len(clean)).normal(clean)
        with torch.no_grad():
            parts = [denoiser(x, t) for x in (level.alpha * clean + level.sigma * z).split(64)]
        error = (torch.cat(parts) - clean).square().mean() / spread
        rows.append({"time": t, "noise_to_signal": level.ratio, "relative_error": float(error)})
    return rows


def reconstruction(autoencoder: Autoencoder, images: Tensor) -> dict[str, float]:
    """How close decoded latents are to what was encoded: PSNR in decibels and SSIM, averaged over the images.

    Args:
        autoencoder: what to judge.
        images: images in its value range, shape (N, C, H, W).
    """
    with torch.no_grad():
        decoded = torch.cat([autoencoder.decode(autoencoder.encode(part)) for part in images.split(64)])
    value_range = autoencoder.value_range or (-1.0, 1.0)
    return {
        "psnr": float(psnr(decoded, images, value_range).mean()),
        "ssim": float(ssim(decoded, images, value_range).mean()),
    }


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a card says of how something was trained, besides its recipe.

    Args:
        command: how to train it again.
        log: rows of the training log.
        history: by which code it was trained from which step on, and what changed there.
    """

    command: str
    log: list[dict[str, Any]]
    history: list[dict[str, Any]] = field(default_factory=list)


def export_prior(
    config: DenoisingConfig,
    network: nn.Module,
    held_out: Source,
    out: Path,
    *,
    origin: Origin,
    autoencoder: str | Path | None = None,
    signal: Signal = Signal(),  # noqa: B008 (frozen)
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`.

    Args:
        config: the recipe that was run.
        network: averaged weights.
        held_out: what was not trained on, for the denoising curve; images for a prior of latents.
        out: folder.
        origin: what else its card says.
        autoencoder: file of the autoencoder for a prior of latents, which becomes part of the prior's file.
        signal: what is known of its signals besides shape and range.
    """
    path = out / f"{config.name}.safetensors"
    clean, embedded = held_out.events(), None if autoencoder is None else read_autoencoder(autoencoder)
    shape = tuple(clean.shape[1:]) if embedded is None else embedded[0].latent_shape
    settings = PriorSettings(
        network=config.network,
        event_shape=shape,
        prediction=config.prediction,
        value_range=held_out.value_range or UNBOUNDED,
        autoencoder=embedded[0] if embedded else None,
        signal=signal,
    )
    save_prior(path, network.state_dict() | (prefixed(embedded[1]) if embedded else {}), settings)
    stored, facts = load_prior(path), dict[str, Any](body=config.body)
    if len(clean) >= FEWEST:
        seen = Statistics.of(clean, source=f"{len(clean)} held-out signals", value_range=stored.signal_range)
        facts["statistics"] = as_plain(seen, full=False)
    if stored.autoencoder is not None:
        facts["signal_shape"] = list(stored.signal_shape)
        facts["autoencoder"] = describe(stored.autoencoder) | reconstruction(stored.autoencoder, clean)
        clean = encoded(clean.split(64), stored.autoencoder).float()
    facts["parameters"] = sum(value.numel() for value in network.parameters())
    facts |= {"held_out": len(clean), "denoising_curve": denoising_curve(stored, clean)}
    return path, write_card(path, config, shape, origin, facts)


def export_autoencoder(
    config: AutoencoderTrainingConfig,
    network: AutoencoderNetwork,
    trained_on: Images,
    held_out: Images,
    out: Path,
    *,
    origin: Origin,
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json`, with the quality of its reconstructions, into `out`.

    Args:
        config: the recipe that was run.
        network: averaged weights, on the CPU.
        trained_on: what it was trained on; gives the scale of the latents.
        held_out: images that were not.
        out: folder.
        origin: what else its card says.
    """
    path = out / f"{config.name}.safetensors"
    spec = describe_autoencoder(config, network, trained_on)
    save_autoencoder(path, network.state_dict(), spec)
    facts = {
        "latent_shape": list(spec.latent_shape),
        "scale": list(spec.scale),
        "shift": list(spec.shift),
        "parameters": sum(value.numel() for value in network.parameters()),
        "held_out": len(held_out),
        "reconstruction": reconstruction(load_autoencoder(path), held_out.events()),
    }
    return path, write_card(path, config, spec.event_shape, origin, facts)


def told(log: list[dict[str, Any]], *, most: int = 40) -> list[dict[str, Any]]:
    """The rows of a log that a card has: at most so many, the last among them, with the best held-out mean.

    Of the last row the held-out losses of all averages at all levels are kept.
    """
    rows = []
    for row in log[: -1 : max(1, -(-len(log) // most))]:
        best = {"held_out": min(found["mean"] for found in row["held_out"].values())} if "held_out" in row else {}
        rows.append(row | best)
    return [*rows, *log[-1:]]


def write_card(
    path: Path, config: LoopConfig, event_shape: tuple[int, ...], origin: Origin, facts: dict[str, Any]
) -> Path:
    """The card beside the file of something trained."""
    signal_shape = tuple(facts.pop("signal_shape", ()))
    card = Card(
        name=config.name,
        **asdict(config.card),
        event_shape=event_shape,
        signal_shape=signal_shape,
        parameters=facts.pop("parameters"),
        sha256=sha256_of(path),
        command=origin.command,
        training={"kind": RECIPES.name_of(config), **asdict(config)},
        facts={"loss": told(origin.log), **({"history": origin.history} if origin.history else {}), **facts},
    )
    cards.write_card(path.with_suffix(".json"), card)
    return path.with_suffix(".json")
