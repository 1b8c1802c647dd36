"""Wrappers of a prior: a denoiser that stands for another one and passes on whatever it does not change itself."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import Tensor

from midguide.diffusion.schedules import Reindexed, Schedule, Time
from midguide.maths.covariance import Moments
from midguide.priors.base import Denoiser


class Wrapped(Denoiser):
    """The prior `inner`, under another type. Subclasses change `__call__`, or set an attribute of their own.

    Every attribute that `Denoiser` declares is that of `inner`, unless the wrapper sets it. This includes attributes
    that `Denoiser` declares later on, and changes of `inner`.

    Args:
        inner: what is wrapped.

    Example:
        >>> import torch
        >>> from midguide.priors.gaussian import Gaussian
        >>> prior = Gaussian(torch.zeros(2), 1.0)
        >>> Wrapped(prior).schedule is prior.schedule
        True
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.inner(*self.asked(x, t))

    def asked(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """What `inner` is asked for: the same signal seen at the same ratio of noise, on its schedule."""
        return x, t

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        """Those of `inner` where it has them in closed form; else from the products of this denoiser."""
        if self.exact_moments:
            return self.inner.moments(*self.asked(x, t), directions=directions)
        return Denoiser.moments(self, x, t, directions=directions)

    def to(self, device: str) -> Self:
        self.inner.to(device)
        return self


class _OfInner:
    """An attribute that is read from what is wrapped; one that the wrapper sets takes its place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Wrapped | None, owner: type) -> Any:
        return self if wrapper is None else getattr(wrapper.inner, self.name)


for _name in inspect.get_annotations(Denoiser):
    setattr(Wrapped, _name, _OfInner(_name))


class OnSchedule(Wrapped):
    """A prior re-expressed: `D'(x, t') = D(x alpha_t / alpha'_t', t)` where both levels have the same `sigma/alpha`."""

    def __init__(self, inner: Denoiser, schedule: Schedule) -> None:
        super().__init__(inner)
        self.schedule = Reindexed(schedule, inner.schedule)

    def asked(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        level = self.schedule.level(t)
        t_inner = self.inner.schedule.time_at(level.ratio)
        return x * (self.inner.schedule.level(t_inner).alpha / level.alpha), t_inner
