"""A t-digest: the rank of its quantiles is off by less than it says, in whatever order and with whatever weights."""

from __future__ import annotations

import math

import pytest
import torch

from midguide.maths.digest import Digest

LEVELS = (0.001, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99)
N = 20_000


def values(law: str) -> torch.Tensor:
    """Values of one entry by their quantiles, without any randomness, shape (n,)."""
    p = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    match law:
        case "normal":
            return torch.special.ndtri(p)
        case "cauchy":
            return (math.pi * (p - 0.5)).tan()
        case "two places":
            return torch.where(p < 0.3, -5.0, 5.0) + p
    return torch.where(p < 0.7, 0.0, p)  # ties


@pytest.mark.parametrize("law", ["normal", "cauchy", "two places", "ties"])
@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_the_rank_is_off_by_less_than_it_says(law, order):
    x = values(law)
    mixed = x[torch.randperm(N, generator=torch.Generator().manual_seed(0))]
    given = {"sorted": x, "reversed": x.flip(0), "shuffled": mixed}[order]
    digest = Digest()
    for block in given.split(777):
        digest.add(block[:, None])
    for level, found in zip(LEVELS, digest.quantiles(LEVELS)[:, 0].tolist(), strict=True):
        low, high = float((x < found).double().mean()), float((x <= found).double().mean())
        error = max(low - level, level - high, 0.0)
        assert error < math.pi * math.sqrt(level * (1 - level)) / digest.size + 1 / N


def test_weights_count_as_repeated_values():
    x = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    weights = torch.where(x > 0, 3.0, 1.0)
    digest = Digest()
    for block, w in zip(x[:, None].split(300), weights.split(300), strict=True):
        digest.add(block, w)
    repeated = torch.cat([x, x[x > 0], x[x > 0]])
    for level in (0.1, 0.5, 0.9):
        rank = float((repeated < digest.quantiles([level])[0, 0]).double().mean())
        assert abs(rank - level) < math.pi * math.sqrt(level * (1 - level)) / digest.size


def test_few_values_are_kept_and_entries_do_not_mix():
    x = torch.stack([torch.arange(50.0), 100 - torch.arange(50.0)], 1)
    digest = Digest()
    digest.add(x)
    low, middle, high = digest.quantiles([0.0, 0.5, 1.0])
    assert low.tolist() == [0.0, 51.0]
    assert high.tolist() == [49.0, 100.0]
    assert middle.tolist() == pytest.approx([24.5, 75.5])
