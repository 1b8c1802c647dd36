"""Any network as a `Denoiser`: here it says what it predicts, how it takes the time, and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from midguide.diffusion import kernels
from midguide.diffusion.schedules import Level, Schedule, Time
from midguide.errors import ConfigError, ShapeError, unknown
from midguide.maths.autodiff import checkpointed, compiled, frozen
from midguide.nn.layout import check_device, image_layout, lay_out, weight_of
from midguide.priors.base import Denoiser
from midguide.storage.record import describe

Conversion = Callable[[Tensor, Tensor, Level], Tensor]

PREDICTIONS: dict[str, Conversion] = {
    "eps": kernels.x0_from_eps,
    "v": kernels.x0_from_v,
    "x0": kernels.x0_from_x0,
    "flow": kernels.x0_from_flow,
}


class NetworkDenoiser(Denoiser):
    """`D(x, t)` computed from a network's prediction of eps, v, x0 or the flow's velocity.

    The network is called as `network(x, label)`, label of shape (B,): on discrete schedules the index 0..T-1, on EDM
    schedules sigma, on flows t. The prior freezes its parameters and puts it into evaluation mode. The last six
    settings say how the network is run; they change the answer by rounding only.

    Args:
        network: module or callable, (B, *event), (B,) -> (B, *event), or with twice the channels.
        schedule: the forward process it was trained on.
        prediction: `eps`, `v`, `x0` or `flow`.
        event_shape: shape of one sample, channels first.
        value_range: range of clean data that it was trained on.
        learned_variance: the output has twice the channels; the second half is dropped, but see `with_variance`.
        label: time to network input where it is not the schedule's own, e.g. `lambda t: t / 1000`. Labels are float32,
            but int64 where it returns an `int`, for networks that look them up in a table: `lambda t: int(t) - 1`.
        name: what to call the prior in records.
        projection: onto the linear space in which all clean data lie, applied to x0, which only comes nearer to the
            truth by it.
        dtype: dtype the network computes in (its parameters' and its input's); x0 is computed in the dtype of x.
        device: where the network lives; x is copied there and the answer back. By default both stay where they are.
        channels_last: keep images and weights in that memory layout, faster for convolutions on a GPU; by default where
            the network is on one.
        compile: run the network through `torch.compile`; the first calls take a minute or more.
        checkpointing: for derivatives, keep only the inputs of each block of the network and compute the rest again:
            less memory, one more forward for each vjp. Replaces `forward` of those blocks in the module given.
        chunk: most rows that the network is given at once. Saves memory without derivatives, and with
            `checkpointing` with them.

    Raises:
        ConfigError: If the prediction or device is unknown, or `chunk` is below 1; at a call, if the network fails.
        ShapeError: If at the first call the output does not have the declared shape.

    Example:
        >>> from midguide.diffusion.schedules import DiscreteVP
        >>> denoiser = NetworkDenoiser(lambda x, t: 0 * x, DiscreteVP.linear(), "eps", (3, 8, 8))
        >>> denoiser(torch.ones(2, 3, 8, 8), 500).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        prediction: str,
        event_shape: tuple[int, ...],
        *,
        value_range: tuple[float, float] | None = (-1.0, 1.0),
        learned_variance: bool = False,
        label: Callable[[Time], float] | None = None,
        name: str = "custom",
        projection: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        channels_last: bool | None = None,
        compile: bool = False,  # noqa: A002 (as in torch)
        checkpointing: bool = False,
        chunk: int | None = None,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise unknown("prediction", prediction, PREDICTIONS)
        if chunk is not None and chunk < 1:
            raise ConfigError(f"chunk must be at least 1, got {chunk}", hint="leave it out for no limit")
        if device is not None:
            check_device(device)
        if isinstance(network, nn.Module):
            frozen(network).to(device=device, dtype=dtype)
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.event_shape, self.value_range, self.name = tuple(event_shape), value_range, name
        self.learned_variance, self.dtype, self.device, self.chunk = learned_variance, dtype, device, chunk
        self.label, self.channels_last, self.projection = label or schedule.label, channels_last, projection
        self._lay_out()
        if checkpointing:
            network = checkpointed(network)
        self._run = compiled(network) if compile else network
        self._convert = PREDICTIONS[prediction]
        self.provenance: Mapping[str, Any] = {}

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self._predict(x, t)[0]

    def to(self, device: str) -> Self:
        """This denoiser, with its weights moved to `device`, and into the memory layout of that place.

        From then on x is copied there and the answer back, as if `device` had been given at first.

        Raises:
            ConfigError: If there is no such device.
        """
        check_device(device)
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        self.device = device
        self._lay_out()
        return self

    def with_variance(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """`D(x, t)` and the network's second half, shapes of x: where the reverse variance lies between its bounds.

        With u in [-1, 1] the log-variance is `(1 + u)/2 log beta_t + (1 - u)/2 log beta~_t` (Nichol and Dhariwal 2021,
        Eq. 15). The samplers of this package use the exact bridge instead.

        Raises:
            ConfigError: If the network was not declared to have a learned variance.
        """
        if not self.learned_variance:
            raise ConfigError(f"the prior {self.name} has no learned variance", hint="declare learned_variance=True")
        x0, variance = self._predict(x, t)
        return x0, variance.to(x)

    def _lay_out(self) -> None:
        """Choose the memory layout of images, and bring weights into it."""
        module = self.network if isinstance(self.network, nn.Module) else None
        last = self.channels_last
        if last is None:
            weight = weight_of(module)
            last = image_layout(self.device if weight is None else weight.device) == torch.channels_last
        self.layout = torch.channels_last if last and len(self.event_shape) == 3 else torch.contiguous_format
        if module is not None:
            lay_out(module, self.layout)

    def _predict(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """`D(x, t)`, and the channels of the output beyond those of x."""
        if x.shape[1:] != self.event_shape:
            got = tuple(x.shape[1:])
            raise ShapeError(f"the prior {self.name} takes samples of shape {self.event_shape}, got {got}")
        given = x.to(self.device or x.device, self.dtype or x.dtype, memory_format=self.layout)
        told = self.label(t)
        kind = torch.int64 if isinstance(told, int) else torch.float32
        parts = self._answers(given, torch.full((len(x),), told, dtype=kind, device=given.device))
        if not isinstance(parts[0], Tensor):
            raise ConfigError(
                f"the network returns a {type(parts[0]).__name__}, expected a tensor",
                hint="one of diffusers: pass midguide.priors.formats.diffusers.SampleOf(network)",
            )
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        expected = (len(x), (1 + self.learned_variance) * x.shape[1], *x.shape[2:])
        if out.shape != expected:
            raise ShapeError(
                f"the network returns {tuple(out.shape)} for {tuple(x.shape)}, expected {expected}",
                hint="twice the channels means learned_variance=True",
            )
        prediction, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]
        x0 = self._convert(x, prediction.to(x), self.schedule.level(t))
        return x0 if self.projection is None else self.projection(x0), rest

    def _answers(self, x: Tensor, label: Tensor) -> list[Any]:
        """What the network returns, chunk by chunk."""
        size = self.chunk or max(len(x), 1)
        try:
            return [self._run(*rows) for rows in zip(x.split(size), label.split(size), strict=True)]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # whatever a network says of its input
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            kinds = f"{x.dtype} and labels of {label.dtype}".replace("torch.", "")
            raise ConfigError(
                f"the network {self.name} fails on x of shape {tuple(x.shape)}, {kinds}: {reason}",
                hint="can it take this event_shape? If it looks labels up in a table: label=lambda t: int(t) - 1",
            ) from error

    def record(self) -> dict[str, Any]:
        """What this prior is, as JSON: its conventions, a digest of its weights, the origin of its file.

        A network or label given as a Python callable is known by its compiled code, its defaults, and what it uses from
        outside; see `storage.record.describe`. Where and in which pieces the network runs is left out; the dtype that
        it computes in is part of it.
        """
        settings = {
            "event_shape": self.event_shape,
            "value_range": self.value_range,
            "signal": self.signal,
            "schedule": self.schedule,
            "prediction": self.prediction,
            "learned_variance": self.learned_variance,
            "label": None if self.label == self.schedule.label else self.label,
            "projection": self.projection,
            "dtype": self.dtype or "as input",
            "network": self.network,
        }
        return {"type": "NetworkDenoiser", "name": self.name, **self.provenance, **describe(settings)}
