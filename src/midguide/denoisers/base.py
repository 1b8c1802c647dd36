"""The prior, as its denoiser `D(x, t) = E[x_0 | x_t = x]`, and the same prior seen on another schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor

from midguide.errors import UnsupportedProblem
from midguide.kernels import score_from_x0
from midguide.schedules import Reindexed, Schedule, Time


class Denoiser(ABC):
    """A diffusion prior.

    Attributes:
        schedule: the forward process; `D` may be called at its usable times only.
        event_shape: shape of one sample.
        value_range: smallest and largest value of clean data, or None where unbounded.
    """

    schedule: Schedule
    event_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None

    @abstractmethod
    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """`E[x_0 | x_t = x]`, shape (B, *event) -> (B, *event); differentiable in x."""

    def score(self, x: Tensor, t: Time) -> Tensor:
        """`grad log p_t(x)` by Tweedie's formula, shape of x."""
        return score_from_x0(x, self(x, t), self.schedule.level(t))

    def to(self, device: str) -> Self:
        """This denoiser, computing on `device` from now on.

        Raises:
            UnsupportedProblem: it computes on the CPU only.
        """
        if device != "cpu":
            raise UnsupportedProblem(f"{type(self).__name__} computes on the CPU only", hint="leave the device out")
        return self

    def on(self, schedule: Schedule) -> Denoiser:
        """The same prior on another schedule, usable at the noise-to-signal ratios of its own."""
        return OnSchedule(self, schedule)


class OnSchedule(Denoiser):
    """A prior re-expressed: `D'(x, t') = D(x alpha_t / alpha'_t', t)` where both levels have the same `sigma/alpha`."""

    def __init__(self, inner: Denoiser, schedule: Schedule) -> None:
        self.inner = inner
        self.schedule = Reindexed(schedule, inner.schedule)
        self.event_shape = inner.event_shape
        self.value_range = inner.value_range

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        level = self.schedule.level(t)
        t_inner = self.inner.schedule.time_at(level.ratio)
        return self.inner(x * (self.inner.schedule.level(t_inner).alpha / level.alpha), t_inner)
