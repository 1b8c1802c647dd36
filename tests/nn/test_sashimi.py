"""The multi-scale network: its size, shapes, scales."""

import pytest
import torch

from midguide.errors import ConfigError
from midguide.nn.sashimi import Block, Sashimi, SashimiConfig

TINY = SashimiConfig(in_channels=3, out_channels=3, channels=8, blocks=1, pools=(1, 2), states=8, embedding=16)


def awake(config, seed=0):
    """A network whose last layer is not zero."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        network = Sashimi(config)
        torch.nn.init.normal_(network.head[-1].weight, std=0.3)
    return network.eval()


def parameters(config):
    with torch.device("meta"):
        network = Sashimi(config)
    return network, sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_its_number_of_parameters_less_those_of_the_rank_one_part(capsys):
    """16 million in the paper: 16,177,531 with a state matrix that is diagonal plus rank one and with weight norms."""
    network, count = parameters(SashimiConfig())
    with capsys.disabled():
        print(f"\nSaShiMi of the paper's shape: {count:,} parameters")
    assert count == 15_437_883
    assert sum(isinstance(module, Block) for module in network.modules()) == 28


def test_the_small_network_has_a_million_parameters():
    small = SashimiConfig(channels=48, blocks=2, pools=(2, 2), states=32, features=64, embedding=128)
    assert parameters(small)[1] == 1_062_451


@pytest.mark.parametrize("pools", [(), (1,), (2, 2), (4, 1)])
@pytest.mark.parametrize("length", [8, 24])
def test_output_has_the_shape_of_the_input(pools, length):
    config = SashimiConfig(in_channels=2, out_channels=4, channels=4, blocks=1, pools=pools, states=4, embedding=8)
    assert Sashimi(config)(torch.zeros(3, 2, length), torch.zeros(3)).shape == (3, 4, length)


def test_new_network_returns_zero_and_each_time_matters_once_it_is_trained():
    x, t = torch.ones(2, 3, 16), torch.tensor([10.0, 900.0])
    assert not bool(Sashimi(TINY)(x, t).any())
    first, second = awake(TINY)(x, t).detach()
    assert float((first - second).abs().max()) > 1e-3


def test_rows_do_not_depend_on_their_batch():
    network, x = awake(TINY), torch.randn(3, 3, 32, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 50.0, 999.0])
    with torch.no_grad():
        together, alone = network(x, t)[1:2], network(x[1:2], t[1:2])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5 * float(together.abs().max()))


def test_every_parameter_takes_part():
    network, x = awake(TINY), torch.randn(3, 3, 32, generator=torch.Generator().manual_seed(0))
    network(x, torch.tensor([1.0, 50.0, 999.0])).square().sum().backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not bool(value.grad.any())]
    # The frequency of mode 0 starts at zero, its gradient does not.
    assert silent == []


def test_an_impulse_reaches_both_ends_of_the_signal():
    network, x = awake(TINY), torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    bumped = x.clone()
    bumped[..., 32] += 1.0
    t = torch.tensor([100.0])
    with torch.no_grad():
        change = (network(bumped, t) - network(x, t)).abs().amax(dim=(0, 1))
    assert bool((change[[0, 1, 62, 63]] > 0).all())


def test_zero_padding_is_no_division_by_zero():
    with torch.no_grad():
        assert bool(torch.isfinite(awake(TINY)(torch.zeros(1, 3, 16), torch.zeros(1))).all())


@pytest.mark.parametrize("change", [{"states": 7}, {"channels": 0}, {"pools": (2, 0)}, {"features": 0}])
def test_impossible_shapes_are_refused(change):
    with pytest.raises(ConfigError):
        SashimiConfig(**change)


def test_network_computes_in_bfloat16():
    """Each of some thirty operations rounds to 2^-9: in the root mean square a percent or two."""
    fine, coarse = awake(TINY), awake(TINY).to(torch.bfloat16)
    x, t = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 50.0, 400.0, 999.0])
    with torch.no_grad():
        want, got = fine(x, t), coarse(x.to(torch.bfloat16), t).float()
    assert float((got - want).square().mean().sqrt()) < 0.03 * float(want.square().mean().sqrt())
