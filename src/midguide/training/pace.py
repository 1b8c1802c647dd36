"""How far a training is, and its learning rate: by its steps, or by the clock where it has so many minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from midguide.errors import ConfigError
from midguide.training.config import LoopConfig

WARMUP = 0.1
"""Largest share of the time that the warm-up may take."""
SHARES = 10
"""Checkpoints over the time of a training that is given minutes, where judging them is quick."""
JUDGING = 0.1
"""Largest share of the time between two of them that the first may have taken."""


class Pace:
    """Progress of a training in [0, 1], from which the learning rate follows.

    With `minutes` the steps of the recipe do not count: the training makes as many as there is time for, and its rate
    has the same course over the time as otherwise over the steps.

    Args:
        config: steps, warm-up and cooldown.
        minutes: time of the whole training, that of earlier runs included; None for the steps of the recipe.
        clock: seconds from an arbitrary start.

    Example:
        >>> pace = Pace(LoopConfig(steps=100, warmup=10, cooldown=0.5))
        >>> [pace.rate(step) for step in (0, 9, 50, 75)]
        [0.1, 1.0, 1.0, 0.5]
    """

    def __init__(
        self, config: LoopConfig, minutes: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if minutes is not None and not 0.0 < minutes < math.inf:
            raise ConfigError(f"minutes must be positive, got {minutes}", hint="for example --minutes 30")
        self.config, self.limit = config, None if minutes is None else 60 * minutes
        self._clock, self._before, self._first = clock, 0.0, 0
        self._started = clock()
        self.seconds, self._steps = 0.0, 0

    def resume(self, step: int, seconds: float) -> None:
        """Go on after that many steps and seconds of earlier runs."""
        self._started, self._before, self._first = self._clock(), seconds, step
        self.seconds, self._steps = seconds, step

    def now(self) -> float:
        """Seconds of training so far, those of earlier runs included."""
        return self._before + self._clock() - self._started

    def tick(self, step: int, seconds: float) -> None:
        """Take note that a number of steps is done after so many seconds."""
        self.seconds, self._steps = seconds, step

    @property
    def steps_per_second(self) -> float:
        """Of this run."""
        spent = self.seconds - self._before
        return (self._steps - self._first) / spent if spent > 0 else 0.0

    @property
    def total(self) -> int:
        """Steps of the whole training: those of the recipe, or an estimate from the speed so far."""
        if self.limit is None:
            return self.config.steps
        return self._steps + round(max(self.limit - self.seconds, 0.0) * self.steps_per_second)

    def done(self, step: int) -> bool:
        """Whether the training ends before another step."""
        if self.limit is None:
            return step >= self.config.steps
        one = 1 / self.steps_per_second if self.steps_per_second else 0.0
        return self.seconds + one > self.limit

    def late(self, saved: float, took: float) -> bool:
        """Whether it is time for a checkpoint by the clock; the last began at second `saved` and took so many."""
        return self.limit is not None and self.seconds - saved >= max(self.limit / SHARES, took / JUDGING)

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine to zero, or a linear end."""
        config, progress = self.config, self._progress(step)
        warm = (step + 1) / config.warmup if step < config.warmup else 1.0
        if self.limit is not None:
            warm = max(warm, progress / WARMUP)
        if warm < 1.0:
            return warm
        if config.cooldown is not None:
            return min(1.0, (1 - progress) / config.cooldown)
        return 0.5 * (1 + math.cos(math.pi * progress))

    def _progress(self, step: int) -> float:
        if self.limit is not None:
            return min(self.seconds / self.limit, 1.0)
        if self.config.cooldown is not None:
            return step / self.config.steps
        return max(step - self.config.warmup, 0) / max(self.config.steps - self.config.warmup, 1)
