"""The classifier of electrocardiograms: its size, lengths, and what it looks at."""

import pytest
import torch

from midguide.domains.ecg.xresnet1d import XResNet1d, XResNet1dConfig
from midguide.errors import ConfigError

TINY = XResNet1dConfig(in_channels=3, classes=2, blocks=(1, 1), width=4, expansion=2, hidden=8)


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 953_860), ({"classes": 71}, 962_503), ({"classes": 71, "blocks": (3, 4, 23, 3)}, 1_880_775)],
)
def test_it_has_the_parameters_of_the_published_network(changes, count):
    """XResNet1d50 with the 4 classes of MGPS, the same with the 71 statements of PTB-XL, and XResNet1d101."""
    with torch.device("meta"):
        network = XResNet1d(XResNet1dConfig(**changes))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("length", "first", "last"), [(250, 63, 8), (1000, 250, 32)])
def test_time_is_shortened_as_published(length, first, last):
    network = XResNet1d(XResNet1dConfig(width=4, expansion=2)).eval()
    stem = network.stem(torch.zeros(1, 12, length))
    assert stem.shape[2] == first
    assert network.stages(stem).shape[2] == last


def test_rows_do_not_depend_on_their_batch_once_it_is_trained():
    network, x = XResNet1d(TINY).eval(), torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(network(x)[1:2], network(x[1:2]), atol=1e-5)


@pytest.mark.parametrize("changes", [{"kernel": 4}, {"classes": 0}, {"blocks": ()}, {"dropout": (1.0, 0.5)}])
def test_impossible_shapes_are_refused(changes):
    with pytest.raises(ConfigError):
        XResNet1dConfig(**changes)
