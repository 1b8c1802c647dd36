"""The U-Net: shapes, time, stem, counts."""

from dataclasses import replace

import pytest
import torch

from midguide.errors import ConfigError
from midguide.nn.unet import UNet, UNetConfig


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 5])
def test_output_has_the_shape_of_the_input(patch, channels):
    config = UNetConfig(
        in_channels=channels, out_channels=2 * channels, channels=32, multipliers=(1, 2), blocks=1, patch=patch
    )
    x = torch.zeros(2, channels, 16, 24)
    assert UNet(config)(x, torch.tensor([0.0, 999.0])).shape == (2, 2 * channels, 16, 24)


def test_new_network_returns_zero_and_each_time_matters_once_it_is_trained():
    network = UNet(UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=()))
    x, t = torch.ones(2, 3, 8, 8), torch.tensor([10.0, 900.0])
    assert not bool(network(x, t).any())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    first, second = network(x, t).detach()
    assert float((first - second).abs().max()) > 1e-3


def test_rows_do_not_depend_on_their_batch():
    network = UNet(UNetConfig(channels=32, multipliers=(1, 2), blocks=1)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    x, t = torch.linspace(-1, 1, 3 * 768).reshape(3, 3, 16, 16), torch.tensor([1.0, 50.0, 999.0])
    with torch.no_grad():
        together, alone = network(x, t)[1:2], network(x[1:2], t[1:2])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5 * float(together.abs().max()))


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="32 groups"):
        UNetConfig(channels=48)


@pytest.mark.parametrize(("blocks", "attention"), [(1, (0, 1)), (2, ()), (3, (1,)), (4, (0, 1))])
@pytest.mark.parametrize("before", [1, 2])
def test_a_deeper_network_begins_as_the_one_that_it_deepens(before, blocks, attention):
    shape = UNetConfig(channels=32, multipliers=(1, 2), blocks=before, attention=(), patch=2)
    deeper = replace(shape, blocks=blocks, attention=attention)
    assert deeper.deepens(shape) == (blocks >= before)
    if blocks < before:
        return
    network, started = shape.build(), deeper.build()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    started.start_as(shape, network.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    torch.testing.assert_close(started(x, t), network(x, t))
    assert not replace(deeper, channels=64).deepens(shape)
