"""Random streams of rows and of groups of rows, so that a sample does not depend on its batch beyond its group.

Each stream is a `torch.Generator` of its own. A row has the address (seed, observation, sample), a group of rows
(seed, observation, "group", group). A batch draws row by row from the streams of its rows. Problems with thousands of
tiny samples let one stream serve `size` consecutive rows, which is faster and part of the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.errors import ShapeError


def stream_seed(*address: int | str) -> int:
    """A 63-bit seed from any address, e.g. `(seed, observation, sample)`; different addresses are unrelated."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Within the block torch's global random numbers start from `seed`; after it they are as before.

    For code that cannot be given a generator: the initial weights of torch's layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Layout:
    """Which rows of a batch belong together: groups of `size` consecutive rows each.

    Args:
        groups: number of groups.
        size: rows of each.

    Example:
        >>> layout = Layout(groups=2, size=3)
        >>> layout.split(torch.arange(6)).tolist()
        [[0, 1, 2], [3, 4, 5]]
        >>> layout.pick(torch.arange(6), torch.tensor([[0, 0, 2], [1, 1, 1]])).tolist()
        [0, 0, 2, 4, 4, 4]
    """

    groups: int
    size: int

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.groups * self.size

    def split(self, x: Tensor) -> Tensor:
        """Values of rows, shape (rows, ...), by group: shape (groups, size, ...)."""
        return x.unflatten(0, (self.groups, self.size))

    def spread(self, values: Tensor) -> Tensor:
        """Values of groups, shape (groups, ...), for each of their rows: shape (rows, ...)."""
        return values.repeat_interleave(self.size, dim=0)

    def pick(self, x: Tensor, members: Tensor) -> Tensor:
        """The rows of x, shape (rows, ...), that each group picks: `members` counts within it, shape (groups, size)."""
        first = self.size * torch.arange(self.groups, device=members.device)
        return x[(first[:, None] + members).flatten()]


class _Request(NamedTuple):
    """What is drawn, of which shape and type, and whether into memory from which a GPU copies by itself."""

    fill: Callable[..., Tensor]
    shape: torch.Size
    dtype: torch.dtype
    pinned: bool


class _Guess(NamedTuple):
    """What may be asked next, the states of the streams before it, and its numbers once they are drawn."""

    request: _Request
    before: Tensor
    drawn: Future[Tensor]


@cache
def _thread() -> ThreadPoolExecutor:
    """The thread that draws ahead."""
    return ThreadPoolExecutor(1, "midguide-noise")


class Rng:
    """The random streams of one batch: of its rows, and of its groups of rows.

    `normal`, `uniform` and `poisson` draw for rows. `groups` draws what all rows of a group share, such as the random
    numbers of a resampling: `rng.groups.uniform(torch.empty(rng.layout.groups))`.

    Args:
        addresses: one address (a tuple of integers or strings) per stream of rows.
        size: rows served by each stream, consecutive in the batch.
        groups: one address per group; by default every stream of rows has one, and each row is its own group.
        ahead: draw what was asked last once more, on another thread, before it is asked. The numbers are the same:
            where something else is asked, the streams go back.

    Example:
        >>> a = Rng([(0, 0, 0), (0, 0, 1)]).normal(torch.zeros(2, 3))
        >>> b = Rng([(0, 0, 1)]).normal(torch.zeros(1, 3))
        >>> bool((a[1] == b[0]).all())
        True
    """

    def __init__(
        self,
        addresses: Sequence[tuple[int | str, ...]],
        size: int = 1,
        groups: Sequence[tuple[int | str, ...]] | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        self.size, self._ahead = size, ahead
        self._guess: _Guess | None = None
        self._generators = [torch.Generator("cpu").manual_seed(stream_seed(*address)) for address in addresses]
        self.layout = Layout(self.rows, 1) if groups is None else Layout(len(groups), self.rows // max(len(groups), 1))
        if self.layout.rows != self.rows:
            raise ShapeError(f"{self.rows} rows cannot be cut into {self.layout.groups} groups of one size")
        self._shared = ([(*address, "group") for address in addresses], size) if groups is None else (groups, 1)

    @cached_property
    def groups(self) -> Rng:
        """The streams of the groups: its rows are the groups."""
        return Rng(*self._shared)

    @property
    def rows(self) -> int:
        """Rows of the batch that the streams serve."""
        return self.size * len(self._generators)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal draws of the shape, dtype and device of `like`, shape (rows, ...)."""
        return self._draw(Tensor.normal_, like)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform draws in [0, 1) of the shape, dtype and device of `like`, shape (rows, ...)."""
        return self._draw(Tensor.uniform_, like)

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts with these means, the shape, dtype and device of `rates`, shape (rows, ...)."""
        self._check(rates)
        self._forget()
        blocks = zip(self._generators, rates.cpu().split(self.size), strict=True)
        return torch.cat([torch.poisson(block, generator=generator) for generator, block in blocks]).to(rates.device)

    def state(self) -> Tensor:
        """The state of all streams, uint8, shape (streams, bytes): those of the rows, then those of groups if used."""
        shared = self.groups._generators if "groups" in vars(self) else []
        rows = self._states() if self._guess is None else self._guess.before
        return torch.cat([rows, *(generator.get_state()[None] for generator in shared)])

    def set_state(self, state: Tensor) -> None:
        """Continue from what `state` returned."""
        self._forget()
        count = len(self._generators)
        shared = self.groups._generators if len(state) > count else []
        for generator, row in zip((*self._generators, *shared), state, strict=True):
            generator.set_state(row.clone())  # set_state reads words: a row of a file's buffer may be misaligned

    def _draw(self, fill: Callable[..., Tensor], like: Tensor) -> Tensor:
        self._check(like)
        wanted = _Request(fill, like.shape, like.dtype, like.device.type == "cuda")
        guess, self._guess = self._guess, None
        if guess is not None and guess.request != wanted:
            self._go_back(guess)
            guess = None
        out = self._filled(wanted) if guess is None else guess.drawn.result()
        if self._ahead:
            self._guess = _Guess(wanted, self._states(), _thread().submit(self._filled, wanted))
        return out.to(like.device, non_blocking=wanted.pinned)

    def _filled(self, request: _Request) -> Tensor:
        out = torch.empty(request.shape, dtype=request.dtype, device="cpu", pin_memory=request.pinned)
        for generator, block in zip(self._generators, out.split(self.size), strict=True):
            request.fill(block, generator=generator)
        return out

    def _states(self) -> Tensor:
        return torch.stack([generator.get_state() for generator in self._generators])

    def _forget(self) -> None:
        """Go back to where the streams were before what nobody asked for."""
        guess, self._guess = self._guess, None
        if guess is not None:
            self._go_back(guess)

    def _go_back(self, guess: _Guess) -> None:
        guess.drawn.result()  # the other thread has finished with the generators
        for generator, row in zip(self._generators, guess.before, strict=True):
            generator.set_state(row.clone())

    def _check(self, like: Tensor) -> None:
        if like.shape[0] != self.rows:
            raise ShapeError(f"the random streams serve {self.rows} rows, the tensor has {like.shape[0]}")
