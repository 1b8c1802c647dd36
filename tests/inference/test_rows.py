"""Rows in groups and chunks, for all sizes: nothing is split, nothing straddles two observations, streams are whole."""

import math
import resource

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midguide import make_sampler, sample
from midguide.errors import ConfigError
from midguide.inference.rows import Rows
from midguide.maths.rng import Layout
from midguide.testing.pieces import vectors

SIZES = st.integers(1, 5)


@given(observations=SIZES, groups=SIZES, group=SIZES, factor=SIZES, spare=st.integers(0, 7))
def test_chunks_are_whole_groups_and_streams_in_order(observations, groups, group, factor, spare):
    n = groups * group
    stream = math.gcd(n, factor)
    unit = math.lcm(group, stream)
    rows = Rows(observations, n, group=group, stream_size=stream, chunk=unit + spare, seed=3)
    assert [row for part in rows.chunks for row in part] == list(range(observations * n))
    for part in rows.chunks:
        assert len(part) <= unit + spare
        assert len(part) % unit == 0
        rng = rows.rng(part)
        assert rng.layout == Layout(len(part) // group, group)
        assert rng.rows == len(part)
        for first in part[::group]:
            assert first // n == (first + group - 1) // n  # one observation


@given(groups=SIZES, size=SIZES, seed=st.integers(0, 99))
def test_layouts_split_and_spread_agree_with_pick(groups, size, seed):
    layout = Layout(groups, size)
    x = torch.arange(float(2 * layout.rows)).reshape(layout.rows, 2)
    members = torch.randint(size, (groups, size), generator=torch.Generator().manual_seed(seed))
    want = torch.stack([block[chosen] for block, chosen in zip(layout.split(x), members, strict=True)])
    assert torch.equal(layout.split(layout.pick(x, members)), want)
    values = torch.arange(float(groups))
    assert torch.equal(layout.split(layout.spread(values)), values[:, None].expand(groups, size))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": "4"}, "n must be a whole number"),
        ({"n": 2, "chunk": 1.5}, "chunk must be a whole number"),
        ({"n": 2, "seed": 1.5}, "seed must be a whole number"),
        ({"n": 2, "seed": "1"}, "seed must be a whole number"),
        ({"n": 2, "seed": [1, 2.0]}, "seed must be a whole number"),
    ],
)
def test_what_is_no_whole_number_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Rows(2, settings.pop("n"), **settings)


@pytest.mark.parametrize("n", [10**13, 10**400])
def test_more_draws_than_memory_holds_are_refused_before_they_are_counted(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match="GiB|more draws than any machine holds"):
        sample(make_sampler("dps", {"steps": 2}), vectors(), n, chunk=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
