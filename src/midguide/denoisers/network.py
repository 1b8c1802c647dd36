"""Any network as a `Denoiser`: what it predicts, how it is told the time, and its precision are settled here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from midguide import kernels
from midguide.autodiff import frozen
from midguide.denoisers.base import Denoiser
from midguide.errors import ConfigError, ShapeError
from midguide.schedules import Level, Schedule, Time

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
    schedules sigma, on flows t. Its parameters are frozen and it is put into evaluation mode.

    Args:
        network: module or callable, (B, *event), (B,) -> (B, *event), or with twice the channels.
        schedule: the forward process it was trained on.
        prediction: `eps`, `v`, `x0` or `flow`.
        event_shape: shape of one sample, channels first.
        value_range: range of clean data that it was trained on.
        learned_variance: the output has twice the channels; the second half is dropped, but see `with_variance`.
        label: time to network input where it is not the schedule's own, e.g. `lambda t: t / 1000`.
        dtype: dtype the network computes in (its parameters' and its input's); x0 is computed in the dtype of x.
        channels_last: keep images and weights in that memory layout, faster for convolutions.
        name: what to call the prior in records.

    Raises:
        ConfigError: unknown prediction.
        ShapeError: at the first call, if the output does not have the declared shape.

    Example:
        >>> from midguide.schedules import DiscreteVP
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
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        name: str = "custom",
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ConfigError(f"unknown prediction {prediction!r}", hint=f"one of {', '.join(PREDICTIONS)}")
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        if isinstance(network, nn.Module):
            network = frozen(network).to(device=None, dtype=dtype)
            network.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.event_shape, self.value_range, self.name = tuple(event_shape), value_range, name
        self.learned_variance, self.dtype = learned_variance, dtype
        self.label = label or schedule.label
        self._convert = PREDICTIONS[prediction]
        self.provenance: dict[str, Any] = {}

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self._predict(x, t)[0]

    def to(self, device: str) -> Self:
        """This denoiser, with its weights moved to `device`."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def with_variance(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """`D(x, t)` and the network's second half, shapes of x: where the reverse variance lies between its bounds.

        With u in [-1, 1] the log-variance is `(1 + u)/2 log beta_t + (1 - u)/2 log beta~_t` (Nichol and Dhariwal 2021,
        Eq. 15). The samplers of this package use the exact bridge instead.

        Raises:
            ConfigError: the network was not declared to have a learned variance.
        """
        if not self.learned_variance:
            raise ConfigError(f"the prior {self.name} has no learned variance", hint="declare learned_variance=True")
        x0, variance = self._predict(x, t)
        return x0, variance.to(x.dtype)

    def _predict(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """`D(x, t)`, and the channels of the output beyond those of x."""
        if x.shape[1:] != self.event_shape:
            given = tuple(x.shape[1:])
            raise ShapeError(f"the prior {self.name} takes samples of shape {self.event_shape}, got {given}")
        label = torch.full((len(x),), self.label(t), dtype=torch.float32, device=x.device)
        out = self.network(x.to(self.dtype or x.dtype, memory_format=self.layout), label)
        expected = (len(x), (1 + self.learned_variance) * x.shape[1], *x.shape[2:])
        if out.shape != expected:
            raise ShapeError(
                f"the network returns {tuple(out.shape)} for {tuple(x.shape)}, expected {expected}",
                hint="twice the channels means learned_variance=True",
            )
        prediction, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]
        return self._convert(x, prediction.to(x.dtype), self.schedule.level(t)), rest

    def record(self) -> dict[str, Any]:
        """Name, conventions and, for priors from files, their digest."""
        settings = {"prediction": self.prediction, "learned_variance": self.learned_variance}
        settings |= {"event_shape": list(self.event_shape), "dtype": str(self.dtype or "as input")}
        return {"type": "NetworkDenoiser", "name": self.name, **settings, **self.provenance}
