"""Priors over the latents of an autoencoder, and operators seen through its decoder.

Samplers work on latents as on any other signal: `Problem.of` puts the decoder before the operator, which makes it
nonlinear, and `sample` decodes the draws.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.maths.autodiff import checkpointed
from midguide.nn.layout import move, weight_of
from midguide.operators.base import Operator
from midguide.priors.base import Autoencoder, Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.storage.record import describe

ROWS, PIXELS = 16, 65_536  # most in a network at once: 16 images of 64x64, one of 256x256


class LatentPrior(Wrapped):
    """A denoiser of latents, with the autoencoder that they belong to.

    Args:
        denoiser: the prior of the latents.
        autoencoder: turns its samples into signals.

    Raises:
        ShapeError: If the latents of one are not those of the other.

    References: Rombach, Blattmann, Lorenz, Esser, Ommer 2022, "High-Resolution Image Synthesis with Latent Diffusion
    Models", CVPR, https://arxiv.org/abs/2112.10752.
    """

    def __init__(self, denoiser: Denoiser, autoencoder: Autoencoder) -> None:
        if denoiser.event_shape != autoencoder.latent_shape:
            raise ShapeError(
                f"the prior has samples of shape {denoiser.event_shape}, the autoencoder latents of shape "
                f"{autoencoder.latent_shape}",
                hint="take the autoencoder that the prior was trained with",
            )
        super().__init__(denoiser)
        self.autoencoder, self.value_range = autoencoder, None
        self.provenance: Mapping[str, Any] = {}

    @property
    def denoiser(self) -> Denoiser:
        """The prior of the latents."""
        return self.inner

    def to(self, device: str) -> Self:
        """This prior, with the weights of both parts moved to `device`.

        Raises:
            ConfigError: If there is no such device.
            UnsupportedProblem: If a part cannot leave the CPU; an autoencoder that cannot leaves the other part there.
        """
        for part in (self.autoencoder, self.denoiser):
            if part is not None:
                part.to(device)
        return self

    def record(self) -> dict[str, Any]:
        """The records of both parts and, for priors from files, their origin."""
        parts = {"denoiser": self.denoiser, "autoencoder": self.autoencoder, "signal": self.signal}
        return {"type": "LatentPrior", **self.provenance, **describe(parts)}


class NetworkAutoencoder:
    """An autoencoder made of two networks, whose latents are scaled to unit variance: `z = scale (e(x) - shift)`.

    Both networks see at most `rows` rows at once, copied to where the weights are and back. Derivatives compute each
    piece again on the way back (activation checkpointing). So memory grows with `rows` and not with the batch.

    Args:
        encoder: signals to latents before scaling, (B, *event) -> (B, *latent). Parameters must be frozen.
        decoder: its counterpart, (B, *latent) -> (B, *event).
        event_shape: shape of one signal.
        latent_shape: shape of one latent.
        value_range: range of signals.
        scale: one over the standard deviation of `e(x)`, for all channels or for each; positive.
        shift: mean of `e(x)`, likewise.
        rows: most rows in a network at once; by default 16, or fewer if those are more than 65,536 pixels.
        dtype: dtype that both networks compute in, that of their weights by default; what comes out has that of what
            goes in.
        checkpointing: of a piece, too, keep only the inputs of each block: less memory where a piece is one large
            signal, one more forward. Replaces `forward` of those blocks in `network`.
        network: the module whose parameters both use; where they are, both compute.
        name: what to call it in records.

    Raises:
        ConfigError: If `scale` or `rows` is not positive, or `scale` or `shift` is neither a number nor one a channel.
        ShapeError: If at a call what goes in or comes out does not have the declared shape.

    Example:
        >>> twice = NetworkAutoencoder(lambda x: x / 2, lambda z: 2 * z, (3, 4, 4), (3, 4, 4), scale=4.0)
        >>> float(twice.decode(twice.encode(torch.full((1, 3, 4, 4), 0.5))).mean())
        0.5
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        event_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        *,
        value_range: tuple[float, float] | None = (-1.0, 1.0),
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        rows: int | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: bool = False,
        network: nn.Module | None = None,
        name: str = "custom",
    ) -> None:
        rows = max(1, min(ROWS, PIXELS // math.prod(event_shape[1:]))) if rows is None else rows
        self.scale, self.shift = _positive(_per_channel(scale, latent_shape)), _per_channel(shift, latent_shape)
        self.encoder, self.decoder, self.network = encoder, decoder, network
        self.event_shape, self.latent_shape = tuple(event_shape), tuple(latent_shape)
        self.value_range, self.rows, self.name = value_range, _at_least_one(rows), name
        self.dtype = dtype
        self._prepare(dtype, checkpointing)
        self.provenance: Mapping[str, Any] = {}

    def encode(self, x: Tensor) -> Tensor:
        """The scaled latent of each signal, shape (B, *event) -> (B, *latent)."""
        raw = self._by_rows("encoder", self.encoder, x, self.event_shape, self.latent_shape)
        return self.scale.to(raw) * (raw - self.shift.to(raw))

    def decode(self, z: Tensor) -> Tensor:
        """The signal of each latent, shape (B, *latent) -> (B, *event); not clamped to the value range."""
        raw = z / self.scale.to(z) + self.shift.to(z)
        return self._by_rows("decoder", self.decoder, raw, self.latent_shape, self.event_shape)

    def to(self, device: str) -> Self:
        """This autoencoder, with its weights moved to `device`, and into the memory layout of that place.

        Raises:
            ConfigError: If there is no such device.
            UnsupportedProblem: If its networks are not known.
        """
        if self.network is not None:
            move(self.network, device)
        elif torch.device(device).type != "cpu":
            raise UnsupportedProblem(
                f"the autoencoder {self.name} cannot be moved to {device}: where its weights are is not known",
                hint="make it with network=, the module whose parameters encoder and decoder use",
            )
        return self

    def changed(
        self,
        *,
        value_range: tuple[float, float] | None = None,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
        rows: int | None = None,
        dtype: torch.dtype | None = None,
        checkpointing: bool = False,
    ) -> Self:
        """The same networks with other settings. None changes nothing.

        The networks are not copied: `dtype` and `checkpointing` hold for this autoencoder as well.

        Raises:
            ConfigError: If `scale` or `rows` is not positive.
        """
        other = copy.copy(self)
        other.scale = self.scale if scale is None else _positive(_per_channel(scale, self.latent_shape))
        other.shift = self.shift if shift is None else _per_channel(shift, self.latent_shape)
        other.value_range = self.value_range if value_range is None else value_range
        other.rows = self.rows if rows is None else _at_least_one(rows)
        other.dtype = dtype or self.dtype
        other._prepare(dtype, checkpointing)
        return other

    def record(self) -> dict[str, Any]:
        """What this autoencoder is, as JSON: shapes, scaling, digests of weights, the origin of files.

        Python callables are known by their code, as in `NetworkDenoiser.record`; the dtype that they compute in is part
        of it, `rows` are not.
        """
        settings = {
            "event_shape": self.event_shape,
            "latent_shape": self.latent_shape,
            "value_range": self.value_range,
            "scale": self.scale.flatten().tolist(),
            "shift": self.shift.flatten().tolist(),
            "dtype": self.dtype or "as weights",
            "encoder": self.encoder,
            "decoder": self.decoder,
            "network": self.network,
        }
        return {"type": "NetworkAutoencoder", "name": self.name, **self.provenance, **describe(settings)}

    def _prepare(self, dtype: torch.dtype | None, checkpointing: bool) -> None:
        if self.network is not None and dtype is not None:
            self.network.to(dtype)
        if self.network is not None and checkpointing:
            checkpointed(self.network)

    def _by_rows(
        self,
        what: str,
        network: Callable[[Tensor], Tensor],
        x: Tensor,
        inner: tuple[int, ...],
        outer: tuple[int, ...],
    ) -> Tensor:
        _check_shape(f"the {what} of {self.name} takes", x, inner)
        weight = weight_of(self.network)
        place = x if weight is None else weight
        pieces = []
        for piece in x.split(self.rows):
            piece = piece.to(place.device, self.dtype or place.dtype)
            if torch.is_grad_enabled() and piece.requires_grad:
                # networks draw no random numbers in evaluation mode, so none need to be repeated
                out = checkpoint(network, piece, use_reentrant=False, preserve_rng_state=False)
            else:
                out = network(piece)
            _check_shape(f"the {what} of {self.name} gives", out, outer)
            pieces.append(out.to(x))
        return torch.cat(pieces)


@dataclass(frozen=True, eq=False)
class Decoded(Operator):
    """`y = A(Dec(z))`: what the instrument measures of a signal, as a function of its latent.

    Args:
        operator: the instrument, A.
        autoencoder: its decoder is Dec.
    """

    operator: Operator
    autoencoder: Autoencoder
    per_observation_fields: ClassVar[tuple[str, ...]] = ("operator",)

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(self.autoencoder.decode(x))

    def measured(self, y: Tensor) -> Tensor:
        return self.operator.measured(y)

    def log_volume(self, y: Tensor) -> Tensor:
        return self.operator.log_volume(y)


def _per_channel(values: float | Sequence[float], latent_shape: tuple[int, ...]) -> Tensor:
    """One value, or one for each channel, so that it broadcasts over a latent; float64.

    Raises:
        ConfigError: If it is not a number, not finite, or there are too few or too many.
    """
    try:
        found = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError):
        found = torch.empty(0)
    if found.numel() not in (1, latent_shape[0]) or not bool(found.isfinite().all()):
        raise ConfigError(
            f"latents are scaled and shifted by {values!r}"[:200],
            hint=f"one finite number, or one for each of their {latent_shape[0]} channels",
        )
    return found.reshape(-1, *[1] * (len(latent_shape) - 1))


def _positive(scale: Tensor) -> Tensor:
    if not bool((scale > 0).all()):
        raise ConfigError(
            f"the scale of latents must be positive, got {scale.flatten().tolist()}",
            hint="one over their standard deviation",
        )
    return scale


def _at_least_one(rows: int) -> int:
    if rows < 1:
        raise ConfigError(f"an autoencoder takes at least 1 row at once, got {rows}", hint="leave it out")
    return rows


def _check_shape(what: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if value.shape[1:] != expected:
        raise ShapeError(f"{what} rows of shape {expected}, got {tuple(value.shape[1:])}")
