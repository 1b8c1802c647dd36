"""What the draws of a network tell of the way that it is used, and what they cannot tell.

The priors are exact, as in `test_prior.py`; the only randomness is that of a few draws and of the noise, with fixed
seeds.
"""

from __future__ import annotations

import math

import pytest
import torch

from midguide.diagnostics.draws import check_draws
from midguide.diagnostics.prior import check_prior
from midguide.diffusion.kernels import eps_from_x0
from midguide.diffusion.schedules import DiscreteVP, Schedule, make_schedule
from midguide.errors import ConfigError, ShapeError
from midguide.priors.gaussian import Gaussian
from midguide.priors.network import NetworkDenoiser

NAMES = ("vp-linear", "vp-cosine", "vp-scaled-linear", "vp-scaled-linear:0.00085,0.012", "edm", "flow")
PREDICTIONS = ("eps", "v", "x0", "flow")
SHAPE = (3, 6, 6)


def smooth(shape: tuple[int, ...], low: float = -1.0, high: float = 1.0, tint: float = 0.0) -> Gaussian:
    """Signals of any shape whose neighbors are correlated, all values but one in a million inside the range.

    Channels differ in their mean by `tint`.
    """
    place = torch.cartesian_prod(*(torch.arange(float(size)) for size in shape)).reshape(-1, len(shape)).double()
    near = torch.exp(-torch.cdist(place, place).square() / 18)
    half, centre = (high - low) / 2, (high + low) / 2
    mean = centre + tint * torch.arange(float(shape[0])).double().reshape(-1, *[1] * (len(shape) - 1))
    return Gaussian(mean.expand(shape), half**2 * (0.04 * near + 1e-7 * torch.eye(len(near))))


def prior(
    law: Gaussian, true: tuple[str, Schedule], said: tuple[str, Schedule], limits: tuple[float, float] | None = (-1, 1)
) -> NetworkDenoiser:
    """The exact denoiser as a network of one prediction and schedule, declared as another."""
    prediction, schedule = true
    times = schedule.times(1000)
    labels = torch.tensor([schedule.label(t) for t in times], dtype=torch.float64)

    def run(x, told):
        t = times[int((labels - float(told[0])).abs().argmin())]
        law.schedule, level = schedule, schedule.level(t)
        x0 = law(x.double(), t).to(x.dtype)
        eps = eps_from_x0(x, x0, level)
        return {"eps": eps, "x0": x0, "v": level.alpha * eps - level.sigma * x0, "flow": eps - x0}[prediction]

    return NetworkDenoiser(run, said[1], said[0], law.event_shape, value_range=limits)


def messages(denoiser: NetworkDenoiser) -> list[str]:
    return [finding.message for finding in check_draws(denoiser).findings]


LINEAR = DiscreteVP.linear()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_right_conventions_are_not_doubted(prediction, name):
    way = (prediction, make_schedule(name))
    report = check_draws(prior(smooth(SHAPE), way, way))
    assert report.findings == ()
    assert report.next_best[1] > 1.0
    assert all(row.error < row.linear for row in report.levels)


@pytest.mark.parametrize("said", PREDICTIONS)
@pytest.mark.parametrize("true", PREDICTIONS)
def test_the_prediction_is_told_from_each_other_one(true, said):
    article = "an" if true in ("eps", "x0") else "a"
    wanted = [] if true == said else [f"errors fit {article} {true}-prediction, not {said}"]
    assert messages(prior(smooth(SHAPE), (true, LINEAR), (said, LINEAR))) == wanted


@pytest.mark.parametrize("shape", [(5, 4, 6), (2, 48), (64,)], ids=["five channels", "two leads", "one dimension"])
def test_signals_of_all_shapes_are_drawn_and_judged(shape):
    law = smooth(shape)
    assert messages(prior(law, ("v", LINEAR), ("v", LINEAR), None)) == []
    assert messages(prior(law, ("v", LINEAR), ("eps", LINEAR), None)) == ["errors fit a v-prediction, not eps"]


@pytest.mark.parametrize("said", [name for name in NAMES if name != "vp-linear"])
def test_a_schedule_that_differs_much_is_named(said):
    found = messages(prior(smooth(SHAPE), ("v", LINEAR), ("v", make_schedule(said))))
    assert found == ["errors fit the schedule vp-linear, not the one declared"]


@pytest.mark.parametrize(("true", "said"), [((0.0, 1.0), (-1.0, 1.0)), ((-1.0, 1.0), (0.0, 1.0))])
def test_draws_in_another_range_than_declared_are_named(true, said):
    found = messages(prior(smooth(SHAPE, *true), ("eps", LINEAR), ("eps", LINEAR), said))
    show = "[{:g}, {:g}]".format
    assert found == [f"the draws look like {show(*true)}, declared {show(*said)}"]


def test_what_a_network_agrees_with_itself_in_shows_on_data_only():
    """It was trained with the channels in reverse order; its draws have them so, too."""
    own = smooth(SHAPE, tint=0.2)
    inner = prior(own, ("eps", LINEAR), ("eps", LINEAR))
    wrong = NetworkDenoiser(lambda x, t: inner.network(x.flip(1), t).flip(1), LINEAR, "eps", SHAPE)
    assert messages(wrong) == []
    assert [finding.kind for finding in check_prior(wrong, own.sample(32)).findings] == ["channels"]


def test_dropout_left_on_is_named():
    exact = prior(smooth(SHAPE), ("eps", LINEAR), ("eps", LINEAR))
    generator = torch.Generator().manual_seed(0)

    def dropping(x, t):
        out = exact.network(x, t)
        return out * (1 + 1e-3 * torch.randn(out.shape, generator=generator))

    (finding,) = check_draws(NetworkDenoiser(dropping, LINEAR, "eps", SHAPE)).findings
    assert finding.kind == "random"


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_has_learned_nothing_is_named(prediction):
    (finding,) = check_draws(NetworkDenoiser(lambda x, t: 0 * x, LINEAR, prediction, SHAPE)).findings
    assert finding.kind == "untrained"


def test_a_network_that_returns_nothing_finite_is_named_and_has_no_levels():
    report = check_draws(NetworkDenoiser(lambda x, t: math.nan * x, LINEAR, "eps", SHAPE))
    assert [finding.kind for finding in report.findings] == ["untrained"]
    assert report.levels == ()


def test_what_cannot_be_drawn_is_refused():
    wrong = NetworkDenoiser(lambda x, t: torch.cat([x, x], 1), LINEAR, "eps", SHAPE)
    with pytest.raises(ShapeError, match="learned_variance=True"):
        check_draws(wrong)
    with pytest.raises(ConfigError, match="at least 2 draws are needed, got 1"):
        check_draws(wrong, n=1)
