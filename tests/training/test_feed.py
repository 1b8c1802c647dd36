"""Batches that are drawn ahead are those that would be drawn directly, also after an interruption."""

import pytest
import torch

from midguide.training.feed import Feed
from midguide.training.sources import Images, Labeled, Latents, Signals


def numbers():
    return Signals(torch.arange(60.0).reshape(3, 2, 10), length=4)


@pytest.mark.parametrize("labels", [False, True])
def test_batches_drawn_ahead_are_those_drawn_directly(labels):
    source = Labeled(numbers(), torch.eye(3)) if labels else numbers()
    direct, ahead = Feed(source, "cpu", 5, ahead=False), Feed(source, "cpu", 5, ahead=True)
    with direct.batches(8) as a, ahead.batches(8) as b:
        for _ in range(5):
            for one, other in zip(next(a), next(b), strict=True):
                assert torch.equal(one, other)
    assert torch.equal(direct.state(), ahead.state())


def test_an_interrupted_feed_goes_on_after_the_batch_that_was_handed_out():
    first = Feed(numbers(), "cpu", 0, ahead=True)
    with first.batches(4) as batches:
        next(batches)
    second = Feed(numbers(), "cpu", 9, ahead=True)
    second.resume(first.state())
    with first.batches(4) as a, second.batches(4) as b:
        assert torch.equal(next(a), next(b))


def test_an_error_of_the_source_reaches_the_training():
    class Broken:
        def draw(self, count, generator):
            raise OSError("the disk is gone")

    with Feed(Broken(), "cpu", 0, ahead=True).batches(2) as batches, pytest.raises(OSError, match="disk is gone"):
        next(batches)


@pytest.mark.parametrize(
    "source",
    [
        Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)),
        Latents(torch.zeros(2, 1, 4, 4).half(), torch.ones(2, 1, 4, 4).half()),
        numbers(),
        Labeled(numbers(), torch.eye(3)),
    ],
)
def test_data_that_move_to_a_device_stay_what_they_are(source):
    moved, generators = source.to("cpu"), [torch.Generator().manual_seed(1) for _ in range(2)]
    one, other = (part.draw(4, generator) for part, generator in zip((source, moved), generators, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert source.nbytes == moved.nbytes > 0
