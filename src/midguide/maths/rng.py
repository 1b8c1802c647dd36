"""Random streams addressed by (seed, observation, sample), so that a sample does not depend on its batch.

Each stream is a `torch.Generator` of its own; a batch draws row by row from the streams of its rows. Problems with
thousands of tiny samples let one stream serve `size` consecutive rows, which is faster and part of the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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


class Rng:
    """The random streams of the rows of one batch.

    Args:
        addresses: one address (a tuple of integers or strings) per stream.
        size: rows served by each stream, consecutive in the batch.

    Example:
        >>> a = Rng([(0, 0, 0), (0, 0, 1)]).normal(torch.zeros(2, 3))
        >>> b = Rng([(0, 0, 1)]).normal(torch.zeros(1, 3))
        >>> bool((a[1] == b[0]).all())
        True
    """

    def __init__(self, addresses: Sequence[tuple[int | str, ...]], size: int = 1) -> None:
        self.size = size
        self._generators = [torch.Generator().manual_seed(stream_seed(*address)) for address in addresses]

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
        blocks = zip(self._generators, rates.cpu().split(self.size), strict=True)
        return torch.cat([torch.poisson(block, generator=generator) for generator, block in blocks]).to(rates.device)

    def state(self) -> Tensor:
        """The state of all streams, uint8, shape (streams, bytes)."""
        return torch.stack([generator.get_state() for generator in self._generators])

    def set_state(self, state: Tensor) -> None:
        """Continue from what `state` returned."""
        for generator, row in zip(self._generators, state, strict=True):
            generator.set_state(row.clone())  # set_state reads words: a row of a file's buffer may be misaligned

    def _draw(self, fill: Callable[..., Tensor], like: Tensor) -> Tensor:
        self._check(like)
        out = torch.empty(like.shape, dtype=like.dtype)
        for generator, block in zip(self._generators, out.split(self.size), strict=True):
            fill(block, generator=generator)
        return out.to(like.device)

    def _check(self, like: Tensor) -> None:
        if like.shape[0] != self.rows:
            raise ShapeError(f"the random streams serve {self.rows} rows, the tensor has {like.shape[0]}")
