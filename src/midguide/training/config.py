"""The recipes of training runs, read from a TOML file in which every key must be known."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from midguide.domains.ecg.conditional import Condition
from midguide.domains.ecg.leads import EcgFormat
from midguide.errors import ConfigError, suggestion, unknown
from midguide.nn.autoencoder import AutoencoderConfig
from midguide.nn.registry import BODIES, DEFAULT, BodyConfig, body_name
from midguide.nn.unet import UNetConfig
from midguide.nn.xresnet1d import XResNet1dConfig


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """What the card of a prior says of its origin.

    Args:
        description: what a sample is.
        data: what it is trained on.
        license: under which terms the weights may be used.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    description: str = ""
    data: str = ""
    license: str = ""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How any training is run.

    Args:
        name: name of what is trained.
        card: what its card says of data and license.
        steps: optimizer steps.
        batch: images or recordings per step.
        learning_rate: peak of a cosine that starts after `warmup` linear steps and ends at zero.
        weight_decay: of AdamW; weights that set rates and frequencies have none.
        warmup: steps until the peak.
        clip_norm: largest norm of the gradient.
        ema: decay of the averaged weights that are kept in the end.
        flip: mirror half of the images; electrocardiograms have no mirror image.
        bfloat16: compute in bfloat16 where it is safe (autocast).
        seed: of initial weights, data order and noise.
        checkpoint_every: steps between two checkpoints.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "prior"
    card: CardConfig = field(default_factory=CardConfig)
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 6e-4
    weight_decay: float = 1e-2
    warmup: int = 300
    clip_norm: float = 1.0
    ema: float = 0.999
    flip: bool = True
    bfloat16: bool = True
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.checkpoint_every) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps, batch, checkpoint_every and learning_rate must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(LoopConfig):
    """How to train a prior on images, on their latents, or on electrocardiograms.

    Args:
        network: shape of its network; in a recipe, `body` says of which body of `nn.registry`, a U-Net by default.
        ecg: the form of the electrocardiograms to train on; left out for images.
        length: samples per lead of an electrocardiogram, cut out at random.
        prediction: what the network predicts: `eps`, `v` or `x0`.
        level_mean: mean of the log-normal over `sigma/alpha` that noise levels are drawn from.
        level_std: its standard deviation.
        uniform_levels: share of the draws that are uniform over the times instead.
        condition: makes it no prior but a network that draws what is hidden, given the rest, of electrocardiograms:
            `half`, of which one half of all leads is hidden, or `half-of-each-lead`. Its network takes three times as
            many channels as it returns: the noisy hidden part, the known part, and which is which.
    """

    network: BodyConfig = field(default_factory=UNetConfig)
    ecg: EcgFormat | None = None
    length: int = 256
    prediction: str = "v"
    level_mean: float = -0.8
    level_std: float = 1.4
    uniform_levels: float = 0.3
    condition: Condition | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction not in ("eps", "v", "x0"):
            raise ConfigError(f"prediction must be eps, v or x0, got {self.prediction!r}")
        if self.length < 1:
            raise ConfigError(f"length must be positive, got {self.length}")
        inputs = self.network.out_channels * (1 if self.condition is None else 3)
        if self.network.in_channels != inputs:
            raise ConfigError(
                f"the network takes {self.network.in_channels} channels and returns {self.network.out_channels}",
                hint="as many: no variance is learned in training; with a condition it takes three times as many",
            )
        if self.condition is not None and self.ecg is None:
            raise ConfigError("a condition is one of electrocardiograms", hint="add a table [ecg]")

    @property
    def body(self) -> str:
        """Name of the network's body."""
        return body_name(self.network)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainingConfig(LoopConfig):
    """How to train an autoencoder on images; its recipe says `kind = "autoencoder"`.

    Args:
        network: its shape.
        decoder_std: error that a decoding is meant to have, in the value range: weighs how much the latents may say.
    """

    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    decoder_std: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decoder_std > 0.0:
            raise ConfigError(f"decoder_std must be positive, got {self.decoder_std}")


@dataclass(frozen=True, kw_only=True)
class ClassifierTrainingConfig(LoopConfig):
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


Recipe = TrainingConfig | AutoencoderTrainingConfig | ClassifierTrainingConfig

_READERS: dict[str, TypeAdapter[Any]] = {
    "autoencoder": TypeAdapter(AutoencoderTrainingConfig),
    "ecg-classifier": TypeAdapter(ClassifierTrainingConfig),
    "prior": TypeAdapter(TrainingConfig),
}


def load_training_config(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file; its `kind` says for what: a prior, the default, or another of `_READERS`.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or a value of the wrong type; names the first.
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="see priors/faces-64.toml in the package for an example"
        ) from error
    kind = table.pop("kind", "prior")
    if kind not in _READERS:
        raise ConfigError(f"{path}: unknown kind `{kind}`", hint=suggestion(str(kind), _READERS))
    try:
        if kind == "prior":
            table |= _network(table.pop("body", DEFAULT), table.get("network", {}))
        return _READERS[kind].validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}", hint="see `midguide.training.config`") from error


def _network(body: str, table: dict[str, Any]) -> dict[str, BodyConfig]:
    """The entry `network` of a recipe, read as the configuration of the body that it names."""
    if body not in BODIES:
        raise unknown("body", body, BODIES)
    tables: Any = GenericAlias(dict, (str, BODIES[body].config))  # so that errors say `network.` before the key
    return TypeAdapter(tables).validate_python({"network": table})
