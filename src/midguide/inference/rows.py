"""How (observation, sample) pairs are laid out in rows, rows in groups, and groups in chunks."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.maths.rng import Rng
from midguide.problem import Problem


def check_group(n: int, group: int) -> None:
    """Refuse `n` samples of an observation that do not make whole groups.

    Raises:
        ConfigError: If they do not; names the nearest numbers that do.
    """
    if n % group:
        below = n - n % group
        near = f"{below} or {below + group}" if below else f"{group}"
        raise ConfigError(f"n={n} samples cannot be drawn in groups of {group}", hint=f"take {near} samples")


def whole(name: str, value: object) -> int:
    """A count or a seed as an integer, also where NumPy or torch made it.

    Raises:
        ConfigError: If it is not a whole number.
    """
    fine = not isinstance(value, bool | np.bool_) and not (isinstance(value, Tensor) and value.dtype == torch.bool)
    if fine and isinstance(value, SupportsIndex):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise ConfigError(f"{name} must be a whole number, got {value!r}", hint=f"for example {name}=4")


def seeds(seed: object) -> int | list[int]:
    """A seed, or one for each observation, as integers.

    Raises:
        ConfigError: If they are not whole numbers.
    """
    if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str) and np.ndim(seed) == 1:
        return [whole("seed", one) for one in seed]
    return whole("seed", seed)


MOST = 2**62
"""Rows that can be counted."""


class Rows:
    """The rows of a run, `observation * n + sample`, in chunks of whole groups and whole random streams.

    Args:
        observations: of the problem.
        n: samples of each.
        group: consecutive samples of one observation that stay together.
        stream_size: consecutive samples of one observation served by one random stream.
        chunk: most rows in memory at once; rounded down to whole groups and streams; None where it is found later.
        seed: one for all observations, or one for each.

    Raises:
        ConfigError: If n is not a multiple of `group` or `stream_size`, a group does not fit into a chunk, or there are
            not as many seeds as observations.
    """

    def __init__(
        self,
        observations: int,
        n: int,
        *,
        group: int = 1,
        stream_size: int = 1,
        chunk: int | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        n, stream_size = whole("n", n), whole("stream_size", stream_size)
        chunk, seed = None if chunk is None else whole("chunk", chunk), seeds(seed)
        if n < 1 or stream_size < 1 or n % stream_size:
            raise ConfigError(f"n={n} must be a positive multiple of stream_size={stream_size}")
        if observations * n > MOST:
            raise ConfigError(f"{len(str(n))} digits of n are more draws than any machine holds", hint="take fewer")
        check_group(n, group)
        unit = math.lcm(group, stream_size)
        size = observations * n if chunk is None else chunk - chunk % unit
        if size < 1:
            raise ConfigError(
                f"chunk={chunk} is smaller than the {unit} samples that must stay together",
                hint=f"take a chunk of at least {unit}, or smaller groups",
            )
        self.addresses = [(seed, i) for i in range(observations)] if isinstance(seed, int) else [(s, 0) for s in seed]
        if len(self.addresses) != observations:
            raise ConfigError(
                f"{len(self.addresses)} seeds for {observations} observations", hint="one for each, or one"
            )
        self.n, self.group, self.stream_size, self.unit, self.seed = n, group, stream_size, unit, seed
        self.total, self.size = observations * n, None if chunk is None else size

    @property
    def chunks(self) -> list[range]:
        """The rows of each chunk; one chunk where its size is found later."""
        size = self.size or self.total
        return [range(first, min(first + size, self.total)) for first in range(0, self.total, size)]

    def problem(self, problem: Problem, part: range) -> Problem:
        """The problem of the rows of a chunk."""
        return problem.select(torch.arange(part.start, part.stop, device=problem.likelihood.y.device) // self.n)

    def rng(self, part: range) -> Rng:
        """The streams of the rows of a chunk, and of their groups; ahead of a GPU, which need not wait for them."""
        streams = [(*self.addresses[row // self.n], row % self.n) for row in part[:: self.stream_size]]
        groups = [self._shared(row) for row in part[:: self.group]]
        return Rng(streams, self.stream_size, groups, ahead=torch.accelerator.is_available())

    def _shared(self, row: int) -> tuple[int | str, ...]:
        """The address of the group that begins with this row."""
        return (*self.addresses[row // self.n], "group", row % self.n // self.group)
