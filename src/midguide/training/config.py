"""The recipe of a training run, read from a TOML file in which every key must be known."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from midguide.errors import ConfigError
from midguide.leads import EcgFormat
from midguide.nn.registry import NETWORKS, NetworkConfig
from midguide.nn.unet import UNetConfig


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """What the card of a prior says of its origin.

    Args:
        description: what a sample is.
        data: what it is trained on.
        licence: under which terms the weights may be used.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    description: str = ""
    data: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train a prior on images or on electrocardiograms.

    Args:
        name: name of the prior.
        network: its body; `kind` says which, a U-Net by default.
        ecg: the form of the electrocardiograms to train on; left out for images.
        length: samples per lead of an electrocardiogram, cut out at random.
        card: what its card says of data and licence.
        prediction: what the network predicts: `eps`, `v` or `x0`.
        steps: optimiser steps.
        batch: images or recordings per step.
        learning_rate: peak of a cosine that starts after `warmup` linear steps and ends at zero.
        weight_decay: of AdamW; weights that set rates and frequencies have none.
        warmup: steps until the peak.
        clip_norm: largest norm of the gradient.
        ema: decay of the averaged weights that are kept in the end.
        level_mean: mean of the log-normal over `sigma/alpha` that noise levels are drawn from.
        level_std: its standard deviation.
        uniform_levels: share of the draws that are uniform over the times instead.
        flip: mirror half of the images; electrocardiograms have no mirror image.
        bfloat16: compute in bfloat16 where it is safe (autocast).
        seed: of initial weights, data order and noise.
        checkpoint_every: steps between two checkpoints.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "prior"
    network: NetworkConfig = field(default_factory=UNetConfig)
    ecg: EcgFormat | None = None
    length: int = 256
    card: CardConfig = field(default_factory=CardConfig)
    prediction: str = "v"
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 6e-4
    weight_decay: float = 1e-2
    warmup: int = 300
    clip_norm: float = 1.0
    ema: float = 0.999
    level_mean: float = -0.8
    level_std: float = 1.4
    uniform_levels: float = 0.3
    flip: bool = True
    bfloat16: bool = True
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if self.prediction not in ("eps", "v", "x0"):
            raise ConfigError(f"prediction must be eps, v or x0, got {self.prediction!r}")
        if min(self.steps, self.batch, self.checkpoint_every, self.length) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps, batch, checkpoint_every, length and learning_rate must be positive")


_READER = TypeAdapter(TrainingConfig)


def load_training_config(path: str | Path) -> TrainingConfig:
    """Read a `TrainingConfig` from a TOML file.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or a value of the wrong type; names the first.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="see priors/faces-64.toml in the package for an example"
        ) from error
    try:
        return _READER.validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in NETWORKS)
        raise ConfigError(
            f"{path}: {where}: {first['msg']}", hint="see `midguide.training.config.TrainingConfig`"
        ) from error
