"""Averages at several lengths, the rate at its peak with a linear end, held-out losses while training, glyphs."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from midguide.data.glyphs import glyphs
from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import ConfigError
from midguide.nn.unet import UNetConfig
from midguide.priors.gaussian import Gaussian
from midguide.training.averages import Averages
from midguide.training.base import Run
from midguide.training.config import TrainingConfig
from midguide.training.denoiser import train
from midguide.training.glyphs import HELD_OUT, Glyphs
from midguide.training.held_out import RATIOS, HeldOut

NETWORK = UNetConfig(in_channels=1, out_channels=1, channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
RECIPE = TrainingConfig(
    network=NETWORK, steps=6, batch=2, warmup=2, checkpoint_every=2, bfloat16=False, more_emas=(0.5, 0.9), flip=False
)


def judge_of(config):
    return HeldOut(config, Glyphs(size=4).events())


def test_an_average_is_the_weighted_sum_of_what_it_saw():
    network, decay = nn.Linear(1, 1, bias=False).double(), 0.3
    averages = Averages(network, (decay,))
    expected = network.weight.detach().clone()
    for step, value in enumerate((2.0, -1.0, 5.0), start=1):
        network.weight.data.fill_(value)
        averages.update(step)
        share = 1 - min(decay, (1 + step) / (10 + step))
        expected = (1 - share) * expected + share * value
    torch.testing.assert_close(averages.weights[decay]["weight"], expected)


def test_a_new_length_starts_from_the_longest_that_was_saved():
    network = nn.Linear(2, 2)
    saved = {decay: {name: value + decay for name, value in network.state_dict().items()} for decay in (0.9, 0.99)}
    averages = Averages(network, (0.9, 0.999))
    averages.load(saved)
    assert torch.equal(averages.weights[0.9]["weight"], saved[0.9]["weight"])
    assert torch.equal(averages.weights[0.999]["weight"], saved[0.99]["weight"])


def test_interrupted_training_goes_on_to_the_same_averages(tmp_path):
    def stop(step, total, loss):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, Glyphs(), Run(tmp_path / "a", on_step=stop))
    for name in "ab":
        train(RECIPE, Glyphs(), Run(tmp_path / name), judge=judge_of(RECIPE))
    resumed, straight = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["averages"] for name in "ab")
    assert set(resumed) == {0.999, 0.5, 0.9}
    assert all(torch.equal(resumed[d][name], value) for d in straight for name, value in straight[d].items())


def test_the_average_with_the_lowest_held_out_loss_is_kept_and_the_log_says_which(tmp_path):
    network = train(RECIPE, Glyphs(), Run(tmp_path), judge=judge_of(RECIPE))
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["held_out"]
    assert set(last) == {"0.999", "0.5", "0.9"}
    best = min(last, key=lambda decay: last[decay]["mean"])
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["averages"][float(best)]
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("changes", [{"cooldown": 0.0}, {"cooldown": 1.5}, {"more_emas": (1.0,)}, {"ema": -0.1}])
def test_wrong_lengths_are_refused_by_name(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        replace(RECIPE, **changes)


def test_held_out_losses_of_an_exact_denoiser_are_those_of_its_law():
    """For N(0, s^2 I): E|D - x_0|^2 per entry is s^2 sigma^2 / (alpha^2 s^2 + sigma^2), here over 64 x 256 entries.

    The mean of 16,384 squares has a relative standard error of sqrt(2 / 16384) = 1.1 %; 5 of them are allowed.
    """
    prior, schedule = Gaussian(torch.zeros(1, 16, 16), 0.25, schedule=DiscreteVP.linear()), DiscreteVP.linear()

    class Exact(nn.Module):
        def forward(self, x, index):
            return prior(x, int(index[0]) + 1)

    found = HeldOut(replace(RECIPE, prediction="x0"), prior.sample(64, seed=1))(Exact())
    for ratio in RATIOS:
        level = schedule.level(schedule.time_at(ratio))
        exact = 0.25 / (level.alpha**2 * 0.25 + level.sigma**2)
        assert found[f"{ratio:g}"] == pytest.approx(exact, rel=0.055)
    assert found["mean"] == pytest.approx(sum(found[f"{ratio:g}"] for ratio in RATIOS) / len(RATIOS))


def test_held_out_glyphs_are_never_drawn():
    """Numbers are at least `HELD_OUT`, and the first draws differ from every held-out picture judged by."""
    source = Glyphs(size=64)
    drawn = source.draw(64, torch.Generator().manual_seed(0))
    assert torch.equal(source.events(), glyphs(torch.arange(64)))
    assert float(torch.cdist(drawn.flatten(1), source.events().flatten(1)).min()) > 0
    numbers = torch.randint(HELD_OUT, 2**53, (64,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, glyphs(numbers))
