"""Walks along noise levels that several methods share: down to a prediction of `x_0`, and stretches walked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import Schedule, Time
from midguide.errors import ConfigError
from midguide.maths.rng import Rng


@dataclass(frozen=True, kw_only=True)
class Travel:
    """Time travel: it cuts the steps into stretches, from the cleanest up, and walks each stretch several times.

    At the end of a stretch the forward process takes the state back to where the stretch began.

    Args:
        length: steps of a stretch (l of the paper); 0 for no travel.
        repeats: how often each stretch is walked (r of the paper); 1 for no travel.

    References: Lugmayr et al. 2022 (RePaint), in the form of the authors' code: stretches do not overlap.
    """

    length: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.length < 0 or self.repeats < 1:
            raise ConfigError(
                f"travel needs length >= 0 and repeats >= 1, got {self.length} and {self.repeats}",
                hint="length 10, repeats 3 walks every ten steps three times; repeats 1 means no travel",
            )

    @property
    def active(self) -> bool:
        """Whether any step is walked more than once."""
        return self.length > 0 and self.repeats > 1

    def check(self, steps: int) -> None:
        """Refuse stretches that do not fit into `steps` noise levels."""
        if self.active and self.length >= steps:
            raise ConfigError(
                f"a time travel of {self.length} steps does not fit into {steps} noise levels",
                hint="take a smaller travel length, or more steps",
            )

    def again(self, times: Sequence[Time], s: Time) -> list[Sequence[Time]]:
        """The stretches to walk once `s` is reached, each as its times from the noisiest down to `s`."""
        end = times.index(s)
        ends_here = end >= self.length and (len(times) - 1 - end) % self.length == 0
        return [times[end - self.length : end + 1]] * (self.repeats - 1) if ends_here else []

    def steps(self, steps: int) -> int:
        """Steps that it adds to `steps` noise levels."""
        return (self.repeats - 1) * self.length * ((steps - 1) // self.length) if self.active else 0

    def halved(self) -> Self:
        """Half the repeats, rounded up."""
        return replace(self, repeats=(self.repeats + 1) // 2)


Move = Callable[[Tensor, Time, Time, Rng], Tensor]
"""`move(x_t, t, s, rng)`: a draw of `x_s`, shape of `x_t`."""


def walked_again(stretches: Sequence[Sequence[Time]], x_s: Tensor, move: Move, schedule: Schedule, rng: Rng) -> Tensor:
    """`x_s` after each stretch was noised to its noisiest time and walked down again by `move`, shape of `x_s`."""
    for stretch in stretches:
        back = kernels.transition(schedule.level(stretch[-1]), schedule.level(stretch[0]))
        x_s = back.scale * x_s + math.sqrt(back.variance) * rng.normal(x_s)
        for above, below in pairwise(stretch):
            x_s = move(x_s, above, below, rng)
    return x_s


def descent(schedule: Schedule, t: Time, count: int) -> list[Time]:
    """Up to `count` usable times from `t` towards the cleanest, evenly spaced, strictly decreasing.

    Example:
        >>> from midguide.diffusion.schedules import DiscreteVP
        >>> descent(DiscreteVP.linear(), 500, 4), descent(DiscreteVP.linear(), 2, 4)
        ([500, 375, 250, 125], [2, 1])
    """
    first = schedule.cleanest
    below = {schedule.snap(first + (t - first) * i / count) for i in range(1, count)}
    return sorted(below | {t}, reverse=True)


def walk(
    denoise: Callable[[Tensor, Time], Tensor],
    schedule: Schedule,
    x_t: Tensor,
    times: Sequence[Time],
    eta: float,
    rng: Rng,
) -> Tensor:
    """`x_0` from `x_t` at the first of `times`: DDIM steps through all of them, and `D` at the last; shape of `x_t`.

    With `eta` = 1 it is a draw of the prior's `p(x_0 | x_t)`, to first order in the steps. With `eta` = 0 it is the end
    of the probability-flow ODE, which is not a draw. Each time costs one forward.
    """
    for t, s in pairwise(times):
        move, x0_hat = kernels.ddim(schedule.level(s), schedule.level(t), eta), denoise(x_t, t)
        x_t = move.draw(x0_hat, x_t, rng.normal(x_t)) if eta > 0.0 else move.mean(x0_hat, x_t)
    return denoise(x_t, times[-1])
