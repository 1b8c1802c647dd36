"""The prior, as its denoiser `D(x, t) = E[x_0 | x_t = x]`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from midguide.catalogue.shown import Shown
from midguide.diffusion.kernels import score_from_x0
from midguide.diffusion.schedules import Schedule, Time
from midguide.errors import UnsupportedProblem
from midguide.maths import autodiff
from midguide.maths.covariance import Moments, Pullback
from midguide.priors.statistics import Statistics
from midguide.signals.base import Signal
from midguide.storage.record import describe_fields


class Autoencoder(Protocol):
    """A map of signals to latents, of about unit variance, and back.

    Attributes:
        event_shape: shape of one signal.
        latent_shape: shape of one latent.
        value_range: smallest and largest value of signals, or None where unbounded.
    """

    event_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    value_range: tuple[float, float] | None

    def encode(self, x: Tensor) -> Tensor:
        """The latent of each signal, shape (B, *event) -> (B, *latent); differentiable in x."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """The signal of each latent, shape (B, *latent) -> (B, *event); differentiable in z."""
        ...

    def record(self) -> dict[str, Any]:
        """What this autoencoder is, as JSON, with digests of its weights."""
        ...

    def to(self, device: str) -> Self:
        """This autoencoder, computing on `device` from now on."""
        ...


class Denoiser(Shown, ABC):
    """A diffusion prior, of signals or of their latents.

    Attributes:
        schedule: the forward process; `D` may be called at its usable times only.
        event_shape: shape of one sample.
        value_range: smallest and largest value of clean data, or None where unbounded.
        autoencoder: what turns samples into signals, where samples are latents; else None.
        provenance: what is known of its origin: format and digest of its file; empty where it was made by hand.
        statistics: what its signals look like, where that is known; checks of draws compare with it.
        exact_moments: whether `moments` are in closed form, so that their covariance costs no vjp.
        evaluations: of the network for one row of one call; as many as there are tiles where it answers tile by tile.
    """

    schedule: Schedule
    event_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None
    autoencoder: Autoencoder | None = None
    provenance: Mapping[str, Any] = MappingProxyType({})
    statistics: Statistics | None = None
    exact_moments: bool = False
    evaluations: int = 1
    _signal: Signal = Signal()

    @property
    def signal(self) -> Signal:
        """What is measured and looked at: its shape and range, and what else is known of it.

        To set it says what is known besides shape and range, which always are those of the prior.
        """
        return replace(self._signal, shape=self.signal_shape, value_range=self.signal_range)

    @signal.setter
    def signal(self, signal: Signal) -> None:
        self._signal = signal

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of what is measured and looked at: `event_shape`, or that of the decoded samples."""
        return self.event_shape if self.autoencoder is None else self.autoencoder.event_shape

    @property
    def signal_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of a signal, or None where unbounded."""
        return self.value_range if self.autoencoder is None else self.autoencoder.value_range

    @abstractmethod
    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """`E[x_0 | x_t = x]`, shape (B, *event) -> (B, *event); differentiable in x."""

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """Mean and covariance of `p(x_0 | x_t = x)` for each row, shape (B, *event).

        The covariance is `sigma_t^2 / alpha_t dD/dx` (Meng et al. 2021, Theorem 1), known by its products.

        Cost: one forward; each product is a vjp. A root takes `directions` of them and a solve at most as many, exactly
        `covariance.products(r)`.

        Args:
            x: noisy batch, shape (B, *event).
            t: its time.
            directions: of the Krylov space of a root or a solve; not used where the moments are in closed form.
        """
        mean, pullback = autodiff.vjp(lambda u: self(u, t), x)
        level = self.schedule.level(t)
        return Moments(mean, Pullback(pullback, level.sigma**2 / level.alpha, self.event_shape, directions))

    def shown(self) -> Mapping[str, Any]:
        """What it draws, on which schedule, where it comes from, and the networks that it has."""
        known: dict[str, Any] = {"signals": f"{self.signal_shape} {self.signal.unit}".rstrip()}
        if self.autoencoder is not None:
            known["latents"] = str(self.event_shape)
        known |= {"range": "unbounded" if self.signal_range is None else self.signal_range, "schedule": self.schedule}
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        networks = {name: value for name, value in own.items() if isinstance(value, nn.Module)}
        return known | networks | {key: self.provenance[key] for key in ("name", "format") if key in self.provenance}

    def score(self, x: Tensor, t: Time) -> Tensor:
        """`grad log p_t(x)` by Tweedie's formula, shape of x."""
        return score_from_x0(x, self(x, t), self.schedule.level(t))

    def to(self, device: str) -> Self:
        """This denoiser, computing on `device` from now on.

        Raises:
            UnsupportedProblem: If it computes on the CPU only.
        """
        if torch.device(device).type != "cpu":
            raise UnsupportedProblem(f"{type(self).__name__} computes on the CPU only", hint="leave the device out")
        return self

    def on(self, schedule: Schedule) -> Denoiser:
        """The same prior on another schedule, usable at the noise-to-signal ratios of its own."""
        return _on_schedule(self, schedule)

    def record(self) -> dict[str, Any]:
        """What this prior is, as JSON: two priors of equal record give equal answers.

        By default the type and all attributes, with digests of tensors and of the weights of modules. A class that
        keeps what is not part of it, such as a cache, says in a `record` of its own what is.
        """
        return describe_fields(self)


def _on_schedule(prior: Denoiser, schedule: Schedule) -> Denoiser:
    from midguide.priors.wrapped import OnSchedule  # which is a denoiser

    return OnSchedule(prior, schedule)
