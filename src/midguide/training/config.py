"""The settings of training runs: how any is run, and those of denoisers and autoencoders of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import PlainValidator

from midguide.errors import ConfigError
from midguide.nn.autoencoder import AutoencoderConfig
from midguide.nn.base import BODIES, Body
from midguide.nn.unet import UNetConfig
from midguide.priors.settings import body_config
from midguide.storage.outside import portable_name
from midguide.training.base import RECIPES, Data, Job


def _body(value: Any) -> Body:
    """The network that a table shapes; its key `body` says which body it is."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"network must be a table, got {value!r}", hint="[network]")
    return body_config(value)


Network = Annotated[Any, PlainValidator(_body)]
"""The shape of a network of any body."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """What the card of a prior says of its origin.

    Args:
        description: what a sample is.
        data: what it is trained on.
        license: under which terms the weights may be used.
    """

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
        batch: events per step.
        accumulate: parts that a batch is computed in, one after another, where memory is short.
        learning_rate: peak, reached after `warmup` linear steps; then a cosine that ends at zero, but see `cooldown`.
        weight_decay: of AdamW; weights that set rates and frequencies have none.
        warmup: steps until the peak.
        clip_norm: largest norm of the gradient.
        cooldown: the rate stays at its peak and falls linearly to zero in this last share of the training. So `steps`
            can be raised later and the training goes on as if it had always been longer. By default a cosine.
        ema: decay of the averaged weights that are kept in the end.
        more_emas: decays of further averages; the one with the lowest held-out loss is kept in the end.
        flip: mirror half of the images.
        bfloat16: compute in bfloat16 where it is safe (autocast).
        compile: on a GPU, run the network through `torch.compile`.
        seed: of initial weights, data order and noise.
        checkpoint_every: steps between two checkpoints.
    """

    name: str = "prior"
    card: CardConfig = field(default_factory=CardConfig)
    steps: int = 10_000
    batch: int = 64
    accumulate: int = 1
    learning_rate: float = 6e-4
    weight_decay: float = 1e-2
    warmup: int = 300
    clip_norm: float = 1.0
    cooldown: float | None = None
    ema: float = 0.999
    more_emas: tuple[float, ...] = ()
    flip: bool = True
    bfloat16: bool = True
    compile: bool = True
    seed: int = 0
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        portable_name(self.name, "the recipe's name")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, expected an integer of at most 63 bits")
        if min(self.steps, self.batch, self.checkpoint_every) < 1 or self.learning_rate <= 0:
            raise ConfigError("steps, batch, checkpoint_every and learning_rate must be positive")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ConfigError(f"a batch of {self.batch} has no {self.accumulate} equal parts", hint="change accumulate")
        if self.cooldown is not None and not 0.0 < self.cooldown <= 1.0:
            raise ConfigError(f"cooldown is {self.cooldown}, expected a share of the training in (0, 1]")
        if not all(0.0 <= decay < 1.0 for decay in (self.ema, *self.more_emas)):
            raise ConfigError(f"ema={self.ema} and more_emas={self.more_emas} must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig(LoopConfig):
    """How to train a network that predicts what is clean or what is noise.

    Args:
        network: its shape; in a recipe, `body` says of which body of `nn.base`, a U-Net by default.
        prediction: what the network predicts: `eps`, `v` or `x0`.
        level_mean: mean of the log-normal over `sigma/alpha` that noise levels are drawn from.
        level_std: its standard deviation.
        uniform_levels: share of the draws that are uniform over the times instead.
    """

    network: Network = field(default_factory=UNetConfig)
    prediction: str = "v"
    level_mean: float = -0.8
    level_std: float = 1.4
    uniform_levels: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction not in ("eps", "v", "x0"):
            raise ConfigError(f"prediction must be eps, v or x0, got {self.prediction!r}")

    @property
    def body(self) -> str:
        """Name of the network's body."""
        return BODIES.name_of(self.network)


def check_channels(network: Body, *, times: int = 1) -> None:
    """Refuse a network that does not take `times` as many channels as it returns.

    Raises:
        ConfigError: If it takes others.
    """
    if network.in_channels != times * network.out_channels:
        raise ConfigError(
            f"the network takes {network.in_channels} channels and returns {network.out_channels}",
            hint="as many: no variance is learned in training" if times == 1 else f"it takes {times} times as many",
        )


@RECIPES.register("prior", summary="a prior of images, or of their latents")
@dataclass(frozen=True, kw_only=True)
class TrainingConfig(DenoisingConfig):
    """How to train a prior on images, or on their latents.

    Args:
        white: the value of white in the image files, as 4095 for 12 bits in 16; by default the largest of their type.
    """

    white: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.network)

    def job(self, data: Data) -> Job:
        """The training on a folder or zip file of images."""
        from midguide.training.jobs import image_prior

        return image_prior(self, data)


@RECIPES.register("autoencoder", summary="an autoencoder of images, for priors of latents")
@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainingConfig(LoopConfig):
    """How to train an autoencoder on images; its recipe says `kind = "autoencoder"`.

    Args:
        network: its shape.
        decoder_std: error that a decoding is meant to have, in the value range: weighs how much the latents may say.
        white: the value of white in the image files, as 4095 for 12 bits in 16; by default the largest of their type.
    """

    network: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    decoder_std: float = 0.03
    white: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decoder_std > 0.0:
            raise ConfigError(f"decoder_std must be positive, got {self.decoder_std}")

    def job(self, data: Data) -> Job:
        """The training on a folder or zip file of images."""
        from midguide.training.jobs import image_autoencoder

        return image_autoencoder(self, data)
