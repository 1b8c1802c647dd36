"""A prior of one's own through `sample()`: any prediction on any schedule, any number of channels, any shape."""

import math

import pytest
import torch
from torch import nn

from midguide.diffusion.kernels import eps_from_x0
from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow
from midguide.inference.loop import sample
from midguide.maths.optim import Adam
from midguide.nn.unet import UNet, UNetConfig
from midguide.operators.mask import Mask
from midguide.operators.matrix import Matrix
from midguide.priors.loading import load_prior
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional

VP = DiscreteVP.linear()
RATIOS = torch.tensor([VP.level(t).ratio for t in range(1, 1001)], dtype=torch.float64)


class AtLevelsOfVP:
    """Visits the noise-to-signal ratios that VP visits, so that draws of one prior can be compared one by one."""

    def times(self, steps):
        return [self.time_at(VP.level(t).ratio) for t in VP.times(steps)]


class VE(AtLevelsOfVP, EDM):
    pass


class Flow(AtLevelsOfVP, RectifiedFlow):
    pass


SCHEDULES = {"vp": VP, "ve": VE(0.002, 1000.0), "flow": Flow()}
RATIO_OF_LABEL = {
    "vp": lambda index: VP.level(int(index) + 1).ratio,
    "ve": lambda sigma: sigma,
    "flow": lambda t: t / (1.0 - t),
}


def small_network():
    """A network of x_0 + ratio z, scaled to unit size, and of the logarithm of the ratio, in float64."""
    network = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4)).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return network


def wrapped(network, kind, prediction):
    """The network retold: it takes x_t and the label of a schedule, and returns a prediction in its terms."""
    schedule = SCHEDULES[kind]

    def run(x, label):
        told = RATIO_OF_LABEL[kind](float(label[0]))  # labels are float32: take the level that they mean
        ratio = float(RATIOS[(RATIOS.log() - math.log(told)).abs().argmin()])
        level = schedule.level(schedule.time_at(ratio))
        scaled = x / level.alpha / math.hypot(1.0, ratio)
        x0 = network(torch.cat([scaled, torch.full_like(x[:, :1], math.log(ratio))], dim=1))
        eps = eps_from_x0(x, x0, level)
        return {"eps": eps, "x0": x0, "v": level.alpha * eps - level.sigma * x0, "flow": eps - x0}[prediction]

    return load_prior(run, prediction=prediction, schedule=schedule, event_shape=(4,), dtype=torch.float64)


def test_one_network_gives_the_same_posterior_samples_in_every_prediction_on_every_schedule():
    """In float64: rounding grows by at most the ratio 157 of the noisiest level where x_0 is computed from eps."""
    network = small_network()
    operator = Matrix.create(torch.eye(4, dtype=torch.float64)[:2], (4,))
    truth = torch.linspace(-1, 1, 4, dtype=torch.float64)[None]
    sampler = MGPS(steps=8, gradient_steps=StepRule(default=2), warm_start=None)
    draws = {}
    for kind in SCHEDULES:
        for prediction in ("eps", "v", "x0", "flow"):
            prior = wrapped(network, kind, prediction).on(VP)
            problem = Problem.simulate(prior, operator, truth, sigma_y=0.1)
            draws[kind, prediction] = sample(sampler, problem, 2).draws
    reference = draws["vp", "eps"]
    assert float(reference.std()) > 0.1
    for name, other in draws.items():
        assert torch.allclose(other, reference, rtol=0, atol=1e-8), name


def mixture(kind):
    """Two components in four dimensions, whose denoiser is known in closed form on every schedule."""
    means = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(2, 4).sin() * 3
    variances = torch.tensor([0.3, 0.5], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    return GaussianMixture(weights, means, variances, schedule=SCHEDULES[kind])


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("t", [1, 50, 300, 700, 1000])
def test_a_denoiser_is_a_function_of_x_over_alpha_and_the_ratio_alone(kind, t):
    """In float64; the tolerance is some hundred roundings of numbers of size 10."""
    x, level, schedule = torch.linspace(-4, 4, 20, dtype=torch.float64).reshape(5, 4), VP.level(t), SCHEDULES[kind]
    same = schedule.time_at(level.ratio)
    assert schedule.level(same).ratio == pytest.approx(level.ratio, rel=1e-12)
    torch.testing.assert_close(
        mixture(kind)(schedule.level(same).alpha * x, same), mixture("vp")(level.alpha * x, t), rtol=0, atol=1e-12
    )


def native_draws(prior, sampler):
    operator = Matrix.create(torch.linspace(-1, 3, 8, dtype=torch.float64).reshape(2, 4).cos(), (4,))
    truth = torch.linspace(-1, 1, 4, dtype=torch.float64)[None]
    return sample(sampler, Problem.simulate(prior, operator, truth, sigma_y=0.1), 4).draws


# Methods whose formulas depend on noise-to-signal ratios only, whatever the schedule. Others step along gradients in
# the units of x_t, or walk levels of their own between two times.
FREE_OF_UNITS = (
    "ddnm",
    "ddnm-plus",
    "ddrm",
    "diffpir",
    "ding",
    "ilvr",
    "matheron",
    "mmps",
    "pgdm",
    "red-diff",
    "repaint",
)
FREE_OF_UNITS += ("fps", "mcgdiff", "sda", "smcdiff", "tds", "tmpd")
INVARIANT = {name: make_sampler(name, {"steps": 20}) for name in FREE_OF_UNITS} | {
    "unconditional": Unconditional(steps=20, spacing=1.0),
    "ddim": Unconditional(steps=20, eta=0.0, spacing=1.0),
    "mgps": MGPS(steps=20, spacing=1.0),
    "mgps that does not descend": MGPS(steps=20, gradient_steps=StepRule(default=2), optimizer=Adam(rate=1e-14)),
}


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("sampler", INVARIANT.values(), ids=INVARIANT)
def test_native_schedules_give_the_same_draws_from_the_same_random_numbers(sampler, kind):
    """Bridges between x_t / alpha_t depend on ratios alone. The tolerance is a thousand roundings in each of 20 steps,
    and what a rate of 1e-14 amounts to."""
    got, want = native_draws(mixture(kind), sampler), native_draws(mixture("vp"), sampler)
    assert float(want.std()) > 0.1
    assert torch.allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("kind", ["ve", "flow"])
def test_one_network_gives_the_same_draws_natively_on_every_schedule_in_every_prediction(kind, prediction):
    network, sampler = small_network(), Unconditional(steps=20, spacing=1.0)
    got, want = (native_draws(wrapped(network, *told), sampler) for told in ((kind, prediction), ("vp", "eps")))
    assert float(want.std()) > 0.1
    assert torch.allclose(got, want, rtol=0, atol=1e-8)  # as above


class Signals(nn.Module):
    """A small network of signals with two channels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(3, 16, 5, padding=2), nn.SiLU(), nn.Conv1d(16, 2, 5, padding=2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, (t / 1000).to(x)[:, None, None].expand(-1, 1, x.shape[2])], dim=1))


def images(channels):
    config = UNetConfig(
        in_channels=channels, out_channels=channels, channels=32, multipliers=(1,), blocks=1, attention=()
    )
    return UNet(config)


@pytest.mark.parametrize(
    ("make", "event_shape"),
    [
        (lambda: images(1), (1, 8, 8)),
        (lambda: images(3), (3, 8, 12)),
        (lambda: images(5), (5, 8, 8)),
        (Signals, (2, 40)),
    ],
    ids=["one channel", "not square", "five channels", "one-dimensional"],
)
def test_priors_of_any_shape_are_sampled_from(make, event_shape):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = make()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    prior = load_prior(network, prediction="v", schedule="vp-linear", event_shape=event_shape)
    keep = torch.arange(math.prod(event_shape)).reshape(event_shape) % 2 == 0
    truth = torch.linspace(-1, 1, math.prod(event_shape)).reshape(1, *event_shape)
    problem = Problem.simulate(prior, Mask(keep), truth, sigma_y=0.05)
    sampler = MGPS(steps=5, gradient_steps=StepRule(default=4), warm_start=None, optimizer=Adam(rate=0.3))
    draws = sample(sampler, problem, 2).draws
    assert draws.shape == (1, 2, *event_shape)
    prior_draws = sample(sampler, Problem.unobserved(prior), 2).draws
    kept, gap, free_gap = keep.expand(draws.shape), (draws - truth).abs(), (prior_draws - truth).abs()
    assert float(gap[kept].mean()) < 0.7 * float(free_gap[kept].mean())  # the observation was used
