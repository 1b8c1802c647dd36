"""Forward processes `x_t = alpha_t x_0 + sigma_t z`: variance preserving, variance exploding (EDM), rectified flow.

Time is an opaque value of the schedule. Samplers compare times, ask for the `level` (alpha and sigma), and `snap` to a
time that the network knows from training. Times run down, from `noisiest` to `cleanest`, and sigma/alpha rises with
time. All coefficients are Python floats (float64).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, Protocol, get_type_hints

from midguide.catalogue.base import Catalogue, Entry
from midguide.catalogue.plugins import PLACE
from midguide.catalogue.shown import Shown
from midguide.errors import ConfigError

Time = float

MOST_STEPS, MOST_LEVELS = 1_000_000, 100_000
"""Of a walk, and of a schedule that names each of its levels."""


class Level(NamedTuple):
    """One noise level: `x = alpha x_0 + sigma z`."""

    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise-to-signal ratio `sigma / alpha`."""
        return self.sigma / self.alpha


CLEAN = Level(1.0, 0.0)
"""The level of noiseless data."""


class Schedule(Protocol):
    """What a sampler may ask of a forward process."""

    @property
    def noisiest(self) -> Time:
        """The largest usable time."""
        ...

    @property
    def cleanest(self) -> Time:
        """The smallest usable time; its noise is small but not zero."""
        ...

    def level(self, t: Time) -> Level:
        """alpha and sigma at time `t`."""
        ...

    def time_at(self, ratio: float) -> Time:
        """The usable time whose `sigma / alpha` is nearest to `ratio` (in the logarithm)."""
        ...

    def snap(self, t: Time) -> Time:
        """A usable time next to `t`: itself where it is usable."""
        ...

    def label(self, t: Time) -> float:
        """The number that a network trained on this schedule is given for time `t`."""
        ...

    def times(self, steps: int) -> list[Time]:
        """`steps` usable times, strictly decreasing, from `noisiest` towards `cleanest`."""
        ...


def spaced_times(schedule: Schedule, steps: int, spacing: float) -> list[Time]:
    """At most `steps` times from the noisiest to the cleanest, at the shares `(i / (steps - 1)) ** spacing` between.

    With spacing 1 those of the schedule itself. Where several fall on one level it counts once.
    """
    if spacing == 1.0:
        return schedule.times(steps)
    check_steps(steps)
    first, last = schedule.cleanest, schedule.noisiest
    shares = [(i / max(steps - 1, 1)) ** spacing for i in range(steps - 1, -1, -1)] if steps > 1 else [1.0]
    return sorted({schedule.snap(first + share * (last - first)) for share in shares}, reverse=True)


def _check_schedule(thing: Any) -> None:
    """Refuse what makes no schedule."""
    made = get_type_hints(thing).get("return") if callable(thing) and not isinstance(thing, type) else thing
    parts = ("noisiest", "cleanest", "level", "time_at", "snap", "label", "times")
    lacking = [part for part in parts if not hasattr(made, part)]
    if lacking:
        raise ConfigError(
            f"it makes no schedule: it lacks {', '.join(lacking)}",
            hint="a class with these, or a function whose settings are keyword-only and that says what it returns",
        )


SCHEDULES: Catalogue[Schedule] = Catalogue("schedule", "midguide.diffusion", check=_check_schedule)
"""Forward processes by name, with their default constants; 1000 times where they are discrete."""


@dataclass(frozen=True)
class DiscreteVP(Shown):
    """Variance-preserving process on the integers `1..T`.

    `alpha_t = sqrt(alphas_cumprod[t - 1])` and `sigma_t^2 = 1 - alpha_t^2`. `t` counts noising steps, so the index that
    a network trained on `0..T-1` expects is `t - 1`. `alphas_cumprod` is clipped from below at `floor`, which only
    matters at the noisiest times.

    References: Ho et al. 2020, Eq. (4); Nichol and Dhariwal 2021, Eq. (17) for the cosine schedule.

    Example:
        >>> schedule = DiscreteVP.linear()
        >>> schedule.times(4)
        [1000, 750, 500, 250]
    """

    alphas_cumprod: tuple[float, ...]
    floor: float = 1e-6

    def __post_init__(self) -> None:
        values = self.alphas_cumprod
        falling = all(a > b for a, b in zip(values, values[1:], strict=False))
        if not values or not falling or not (0.0 < values[0] < 1.0) or values[-1] < 0.0:
            raise ConfigError(
                "alphas_cumprod must fall strictly, inside (0, 1)",
                hint="pass the cumulative product of 1 - beta, not beta itself",
            )

    def shown(self) -> dict[str, Any]:
        """How many times, and the levels at both ends."""
        first, last = self.alphas_cumprod[0], max(self.alphas_cumprod[-1], self.floor)
        return {"times": len(self.alphas_cumprod), "alphas_cumprod": f"{first:.4g} to {last:.3g}"}

    @classmethod
    def from_betas(cls, betas: Iterable[float]) -> DiscreteVP:
        """Any betas, of time 1 first."""
        return cls(_cumulative(betas))

    @classmethod
    def linear(cls, steps: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> DiscreteVP:
        """Betas linear between `beta_first` and `beta_last` (Ho et al. 2020)."""
        check_steps(steps, MOST_LEVELS, least=2)
        width = (beta_last - beta_first) / (steps - 1)
        return cls(_cumulative(beta_first + i * width for i in range(steps)))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_first: float = 0.0015, beta_last: float = 0.0195) -> DiscreteVP:
        """Square roots of the betas linear (Rombach et al. 2022)."""
        check_steps(steps, MOST_LEVELS, least=2)
        first, last = math.sqrt(beta_first), math.sqrt(beta_last)
        return cls(_cumulative((first + i * (last - first) / (steps - 1)) ** 2 for i in range(steps)))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> DiscreteVP:
        """`alphas_cumprod` a squared cosine up to a factor, betas at most `beta_max` (Nichol and Dhariwal 2021)."""
        check_steps(steps, MOST_LEVELS)

        def curve(i: int) -> float:
            return math.cos((i / steps + offset) / (1 + offset) * math.pi / 2) ** 2

        return cls(_cumulative(min(1 - curve(i + 1) / curve(i), beta_max) for i in range(steps)))

    @cached_property
    def _levels(self) -> tuple[Level, ...]:
        clipped = [max(a, self.floor) for a in self.alphas_cumprod]
        return (CLEAN, *(Level(math.sqrt(a), math.sqrt(1.0 - a)) for a in clipped))

    @cached_property
    def _ratios(self) -> list[float]:
        return [level.ratio for level in self._levels[1:]]

    @property
    def noisiest(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def cleanest(self) -> int:
        return 1

    def level(self, t: Time) -> Level:
        index = int(t)
        if index != t or not 0 <= index <= self.noisiest:
            raise ConfigError(f"time {t} is not an integer in 0..{self.noisiest}", hint="use snap(t)")
        return self._levels[index]

    def time_at(self, ratio: float) -> int:
        return 1 + _nearest(self._ratios, ratio)

    def snap(self, t: Time) -> int:
        """The largest usable time that is not above `t` (a rounding error of `t` aside)."""
        return min(max(math.floor(t + 1e-9), self.cleanest), self.noisiest)

    def label(self, t: Time) -> float:
        """The network's index, 0 for the cleanest time."""
        return float(t - 1)

    def times(self, steps: int) -> list[Time]:
        check_steps(steps, self.noisiest)
        return [i * self.noisiest // steps for i in range(steps, 0, -1)]


@SCHEDULES.register("edm")
@dataclass(frozen=True)
class EDM(Shown):
    """Variance-exploding process, alpha = 1, in the time that EDM steps through: `sigma_t = (a + t (b - a))^rho`.

    `a` and `b` are the `rho`-th roots of `sigma_min` and `sigma_max`, and `t` lies in [0, 1].

    References: Karras et al. 2022, Eq. (5), with the defaults of Table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    noisiest = 1.0
    cleanest = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max or self.rho <= 0.0:
            raise ConfigError(f"EDM needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def level(self, t: Time) -> Level:
        low, high = self._roots
        return Level(1.0, (low + t * (high - low)) ** self.rho)

    def label(self, t: Time) -> float:
        """`sigma_t`, which EDM networks are conditioned on."""
        return self.level(t).sigma

    def time_at(self, ratio: float) -> Time:
        low, high = self._roots
        return self.snap((ratio ** (1 / self.rho) - low) / (high - low))

    def snap(self, t: Time) -> Time:
        return min(max(t, self.cleanest), self.noisiest)

    def times(self, steps: int) -> list[Time]:
        check_steps(steps)
        return [1.0 - i / max(steps - 1, 1) for i in range(steps)]


@SCHEDULES.register("flow")
@dataclass(frozen=True)
class RectifiedFlow(Shown):
    """Straight paths from data to noise: `alpha_t = 1 - t`, `sigma_t = t`, with t in [`cleanest`, `noisiest`].

    At t = 1 nothing of the data is left, and no step goes from it to another level. So the noisiest time stays below
    1.

    References: Liu et al. 2023; Lipman et al. 2023.
    """

    cleanest: float = 1e-3
    noisiest: float = 0.999

    def __post_init__(self) -> None:
        if not 0.0 < self.cleanest < self.noisiest < 1.0:
            raise ConfigError(f"RectifiedFlow needs 0 < cleanest < noisiest < 1, got {self.cleanest}, {self.noisiest}")

    def level(self, t: Time) -> Level:
        return Level(1.0 - t, t)

    def label(self, t: Time) -> float:
        """`t` itself."""
        return t

    def time_at(self, ratio: float) -> Time:
        return self.snap(ratio / (1.0 + ratio))

    def snap(self, t: Time) -> Time:
        return min(max(t, self.cleanest), self.noisiest)

    def times(self, steps: int) -> list[Time]:
        check_steps(steps)
        width = (self.noisiest - self.cleanest) / steps
        return [self.noisiest - i * width for i in range(steps)]


@dataclass(frozen=True)
class Reindexed(Shown):
    """The levels of one schedule, `outer`, restricted to the noise-to-signal ratios at which a network was trained.

    A network that knows only the levels of `inner` can then be asked at every usable time of this schedule:
    `x_t / alpha_t` is the same variable in both. Where `inner` is continuous, nothing is restricted but the ends.

    Args:
        outer: the schedule that samplers see. If it is discrete too, only the levels that both have are usable.
        inner: the schedule the network was trained on.
    """

    outer: Schedule
    inner: Schedule

    @cached_property
    def _usable(self) -> list[Time] | None:
        trained = _trained_ratios(self.inner)
        if trained is None:
            return None
        times = {self.outer.time_at(ratio): ratio for ratio in trained}
        # beyond its ends, and between its levels if it is discrete, `outer` has only neighbors of a trained level
        same = [t for t, ratio in times.items() if math.isclose(self.outer.level(t).ratio, ratio, rel_tol=1e-6)]
        if not same:
            hint = "a network with discrete levels can be re-expressed on a continuous schedule"
            raise ConfigError("the two schedules have no noise level in common", hint=hint)
        return sorted(same)

    @property
    def noisiest(self) -> Time:
        return self.snap(self.outer.noisiest)

    @property
    def cleanest(self) -> Time:
        return self.snap(self.outer.cleanest)

    def level(self, t: Time) -> Level:
        return self.outer.level(t)

    def label(self, t: Time) -> float:
        return self.outer.label(t)

    def time_at(self, ratio: float) -> Time:
        return self.snap(self.outer.time_at(ratio))

    def snap(self, t: Time) -> Time:
        if self._usable is None:
            ratio = min(max(self.outer.level(self.outer.snap(t)).ratio, _ends(self.inner)[0]), _ends(self.inner)[1])
            return self.outer.time_at(ratio)
        return self._usable[_nearest(self._usable, t, key=lambda value: value)]

    def times(self, steps: int) -> list[Time]:
        times = sorted({self.snap(t) for t in self.outer.times(steps)}, reverse=True)
        if len(times) < steps:
            raise ConfigError(f"only {len(times)} of {steps} steps fall on different trained levels", hint="take fewer")
        return times


@SCHEDULES.register("vp-linear")
def _vp_linear(*, first: float = 1e-4, last: float = 0.02, steps: int = 1000) -> DiscreteVP:
    """Variance preserving, betas linear between the first and the last (Ho et al. 2020)."""
    return DiscreteVP.linear(steps, first, last)


@SCHEDULES.register("vp-scaled-linear")
def _vp_scaled_linear(*, first: float = 0.0015, last: float = 0.0195, steps: int = 1000) -> DiscreteVP:
    """Variance preserving, square roots of the betas linear (Rombach et al. 2022)."""
    return DiscreteVP.scaled_linear(steps, first, last)


@SCHEDULES.register("vp-cosine")
def _vp_cosine(*, steps: int = 1000) -> DiscreteVP:
    """Variance preserving, the signal a cosine (Nichol and Dhariwal 2021)."""
    return DiscreteVP.cosine(steps)


@SCHEDULES.register("vp-betas")
def _vp_betas(*, betas: tuple[float, ...]) -> DiscreteVP:
    """Variance preserving, every beta stated, that of the cleanest time first."""
    return DiscreteVP.from_betas(betas)


def make_schedule(name: str) -> Schedule:
    """A forward process by its name in `SCHEDULES`, or `FILE.py:NAME`; numbers after a colon are its settings in order.

    `vp-linear:FIRST,LAST` and `vp-scaled-linear:FIRST,LAST` state the first and the last beta and, with a third number,
    how many there are if not 1000; `vp-betas:BETA,BETA,...` states all of them; `edm:0.002,80` the ends of sigma.

    `vp-cosine:4000` has 4,000 times.

    Raises:
        ConfigError: If there is no such name, or the numbers are not settings of it.

    Example:
        >>> make_schedule("vp-scaled-linear:0.0015,0.0195,1000") == make_schedule("vp-scaled-linear")
        True
    """
    kind, colon, numbers = name.partition(":")
    if PLACE.fullmatch(name) or not colon:
        if not PLACE.fullmatch(name) and kind not in SCHEDULES:
            raise _unknown(name)
        return SCHEDULES.make(name)
    if kind not in SCHEDULES:
        raise _unknown(name)
    try:
        return SCHEDULES[kind].make(_settings(SCHEDULES[kind], [float(number) for number in numbers.split(",")]))
    except (ValueError, ArithmeticError, ConfigError):
        raise ConfigError(
            f"`{numbers[:60]}` are not settings of the schedule `{kind}`",
            hint="between 0 and 1, as in vp-linear:0.0001,0.02 or, for 500 times, vp-linear:0.0001,0.02,500",
        ) from None


def _settings(entry: Entry[Schedule], numbers: list[float]) -> dict[str, object]:
    """The settings that numbers are in the order of the fields; all are one where there is one field for many."""
    names = [field.name for field in fields(entry.settings)] if entry.settings else []
    if names == ["betas"]:
        return {"betas": numbers}
    if len(numbers) > len(names) or len(numbers) < min(2, len(names)):
        raise ConfigError("too many or too few")
    whole = {"steps"}
    if any(key in whole and value != int(value) for key, value in zip(names, numbers, strict=False)):
        raise ConfigError("steps are counted")
    return {key: int(value) if key in whole else value for key, value in zip(names, numbers, strict=False)}


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"unknown schedule `{name[:60]}`",
        hint=f"one of {', '.join(SCHEDULES)}; with settings of its own, as vp-scaled-linear:0.00085,0.012",
    )


def check_steps(steps: int, most: int = MOST_STEPS, *, least: int = 1) -> None:
    """Refuse a number of steps that is not in `least..most`."""
    if not least <= steps <= most:
        raise ConfigError(f"steps must be at least {least} and at most {most}, got {steps}")


def _ends(schedule: Schedule) -> tuple[float, float]:
    return schedule.level(schedule.cleanest).ratio, schedule.level(schedule.noisiest).ratio


def _trained_ratios(schedule: Schedule) -> list[float] | None:
    """The only noise-to-signal ratios of a schedule, rising; None where it is continuous."""
    if isinstance(schedule, DiscreteVP):
        return [schedule.level(t).ratio for t in range(1, schedule.noisiest + 1)]
    if isinstance(schedule, Reindexed) and schedule._usable is not None:
        return [schedule.level(t).ratio for t in schedule._usable]
    return None


def _cumulative(betas: Iterable[float]) -> tuple[float, ...]:
    product, values = 1.0, []
    for beta in betas:
        if not 0.0 < beta <= 1.0:
            raise ConfigError(f"betas must lie between 0 and 1, got {beta:g}")
        product *= 1.0 - beta
        values.append(product)
    return tuple(values)


def _nearest(rising: list[float], value: float, key: Callable[[float], float] = math.log) -> int:
    """Position of the entry of a rising list nearest to `value`, distances measured after `key`."""
    right = bisect_left(rising, value)
    if right in (0, len(rising)):
        return min(right, len(rising) - 1)
    left_gap = key(value) - key(rising[right - 1])
    return right - 1 if left_gap <= key(rising[right]) - key(value) else right
