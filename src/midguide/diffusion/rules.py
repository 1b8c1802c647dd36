"""A setting that changes along the list of steps: other values for the noisiest, the cleanest and every n-th step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from midguide.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """An integer by position in the list of steps; the first rule that matches wins, in the order of the arguments.

    Positions run down with time, from `steps` (noisiest) to 1 (cleanest, where a sampler only denoises once more).

    Args:
        default: value where no rule matches.
        cleanest: (n, value) for positions up to n.
        noisiest: (n, value) for positions above `steps - n`.
        every: (n, value) for positions divisible by n.

    Example:
        >>> rule = StepRule(default=2, cleanest=(20, 2), noisiest=(5, 20), every=(10, 20))
        >>> [rule.at(position, steps=100) for position in (100, 90, 85, 10)]
        [20, 20, 2, 2]
    """

    default: int
    cleanest: tuple[int, int] | None = None
    noisiest: tuple[int, int] | None = None
    every: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("cleanest", "noisiest", "every"):
            rule = getattr(self, name)
            if rule is not None:
                if len(rule) != 2 or rule[0] < 1 or rule[1] < 1:
                    raise ConfigError(f"rule {name}={rule!r} is not a pair of positive integers (n, value)")
                object.__setattr__(self, name, tuple(rule))
        if self.default < 1:
            raise ConfigError(f"rule default={self.default} must be at least 1")

    def at(self, position: int, steps: int) -> int:
        """The value at `position` (`steps` noisiest, 1 cleanest)."""
        if self.cleanest and position <= self.cleanest[0]:
            return self.cleanest[1]
        if self.noisiest and position > steps - self.noisiest[0]:
            return self.noisiest[1]
        if self.every and position % self.every[0] == 0:
            return self.every[1]
        return self.default

    def halved(self) -> Self:
        """The same rule with half of each value, rounded up."""
        pairs = {name: getattr(self, name) for name in ("cleanest", "noisiest", "every")}
        halves = {name: (rule[0], (rule[1] + 1) // 2) for name, rule in pairs.items() if rule}
        return replace(self, default=(self.default + 1) // 2, **halves)
