import math

import pytest

from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow, Reindexed, make_schedule
from midguide.errors import ConfigError
from midguide.testing import ContractError, check_schedule

SCHEDULES = {
    "linear": DiscreteVP.linear(),
    "scaled linear": DiscreteVP.scaled_linear(),
    "cosine": DiscreteVP.cosine(),
    "short": DiscreteVP.linear(steps=20, beta_last=0.4),
    "edm": EDM(),
    "flow": RectifiedFlow(),
    "edm on linear": Reindexed(EDM(), DiscreteVP.linear()),
    "flow on cosine": Reindexed(RectifiedFlow(), DiscreteVP.cosine()),
    "flow on edm": Reindexed(RectifiedFlow(), EDM()),
    "flow on edm on linear": Reindexed(RectifiedFlow(), Reindexed(EDM(), DiscreteVP.linear())),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_keeps_its_contract(name):
    check_schedule(SCHEDULES[name])


@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine", "edm", "flow"])
def test_noise_rises_at_every_one_of_1000_times(name):
    schedule = SCHEDULES[name]
    times = schedule.times(1000)
    ratios = [schedule.level(t).ratio for t in times]
    assert all(t > r for t, r in zip(times, times[1:], strict=False))
    assert all(a > b for a, b in zip(ratios, ratios[1:], strict=False))


def test_flow_times_fall_strictly_however_many():
    times = RectifiedFlow().times(5000)
    assert all(t > r for t, r in zip(times, times[1:], strict=False))
    assert times[-1] >= RectifiedFlow().cleanest


@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine"])
def test_discrete_schedules_preserve_variance(name):
    for t in SCHEDULES[name].times(50):
        alpha, sigma = SCHEDULES[name].level(t)
        assert math.isclose(alpha**2 + sigma**2, 1.0, rel_tol=1e-14)


def test_linear_schedule_is_the_product_of_its_betas():
    # log prod (1 - beta) over 1,000 betas from 1e-4 to 0.02, summed independently.
    expected = math.fsum(math.log1p(-(1e-4 + i * (0.02 - 1e-4) / 999)) for i in range(1000))
    assert math.isclose(
        2 * math.log(DiscreteVP.linear().level(1000).alpha), max(expected, math.log(1e-6)), rel_tol=1e-10
    )


def test_a_schedule_is_named_with_its_betas():
    """Three times whose betas, or the square roots of their betas, are 0.1, 0.2, 0.3."""
    by_hand = DiscreteVP((0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7))
    scaled = DiscreteVP((0.99, 0.99 * 0.96, 0.99 * 0.96 * 0.91))
    named = {"vp-linear:0.1,0.3,3": by_hand, "vp-betas:0.1,0.2,0.3": by_hand, "vp-scaled-linear:0.01,0.09,3": scaled}
    for name, want in named.items():
        assert make_schedule(name).alphas_cumprod == pytest.approx(want.alphas_cumprod, rel=1e-14)
    assert make_schedule("vp-linear:1e-4,2e-2") == make_schedule("vp-linear") == DiscreteVP.linear()


@pytest.mark.parametrize(
    "betas", ["", "0.1", "0.1,2", "0,0.1", "a,b", "0.1,nan", "0.1,0.2,1", "0.1,0.2,0", "0.1,0.2,inf", "0.1,0.2,3,4"]
)
def test_betas_that_are_none_are_refused(betas):
    with pytest.raises(ConfigError, match="are not settings of the schedule `vp-linear`") as caught:
        make_schedule(f"vp-linear:{betas}")
    assert "vp-linear:0.0001,0.02" in caught.value.hint


def test_numbers_after_a_colon_are_settings_in_their_order():
    assert make_schedule("edm:0.01,40") == EDM(0.01, 40.0)
    with pytest.raises(ConfigError, match="`vp-betas` lacks the setting `betas`|vp-betas lacks the setting `betas`"):
        make_schedule("vp-betas")


@pytest.mark.parametrize("name", ["linear", "linear:0.1,0.2", ""])
def test_unknown_names_of_schedules_are_refused(name):
    with pytest.raises(ConfigError, match=f"unknown schedule `{name}`"):
        make_schedule(name)


@pytest.mark.parametrize("count", ["1000000000000", "100001", "1e300", "inf", "-1", "1"])
@pytest.mark.parametrize("kind", ["vp-linear:0.0001,0.02", "vp-scaled-linear:0.001,0.02"])
def test_a_name_cannot_ask_for_more_levels_than_fit(kind, count):
    """A file states it: this once took 3 GB and did not end."""
    with pytest.raises(ConfigError, match="are not settings of the schedule"):
        make_schedule(f"{kind},{count}")


def test_edm_times_are_the_sigmas_of_the_paper():
    schedule, n, rho = EDM(), 18, 7  # Karras et al. 2022, Eq. (5)
    for i, t in enumerate(schedule.times(n)):
        sigma = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        assert math.isclose(schedule.level(t).sigma, sigma, rel_tol=1e-9)


def test_time_zero_of_a_discrete_schedule_is_clean_and_not_usable():
    schedule = DiscreteVP.linear()
    assert schedule.level(0).sigma == 0.0
    assert schedule.snap(0) == 1
    assert schedule.snap(1.9) == 1
    with pytest.raises(ConfigError, match="not an integer"):
        schedule.level(1.5)


@pytest.mark.parametrize("outer", [EDM(), RectifiedFlow(), EDM(sigma_max=3.0)])
def test_reindexed_snaps_onto_trained_levels(outer):
    inner = DiscreteVP.linear()
    ratios = [inner.level(t).ratio for t in range(1, 1001)]
    schedule = Reindexed(outer, inner)
    for i in range(101):
        got = schedule.level(schedule.snap(outer.cleanest + (outer.noisiest - outer.cleanest) * i / 100)).ratio
        assert min(abs(math.log(got / ratio)) for ratio in ratios) < 1e-9


def test_reindexed_twice_still_knows_the_trained_levels():
    inner = DiscreteVP.linear(steps=20, beta_last=0.4)
    schedule = Reindexed(RectifiedFlow(), Reindexed(EDM(), inner))
    ratios = [inner.level(t).ratio for t in range(1, 21)]
    got = schedule.level(schedule.snap(0.4321)).ratio
    assert min(abs(math.log(got / ratio)) for ratio in ratios) < 1e-9


def test_reindexed_refuses_more_steps_than_levels_and_disjoint_schedules():
    with pytest.raises(ConfigError, match="different trained levels"):
        Reindexed(EDM(), DiscreteVP.linear(steps=20, beta_last=0.4)).times(50)
    with pytest.raises(ConfigError, match="no noise level in common"):
        Reindexed(EDM(sigma_min=300.0, sigma_max=400.0), DiscreteVP.linear()).times(1)


@pytest.mark.parametrize("values", [(), (0.5, 0.5), (1.0, 0.5), (0.5, -0.1), (0.2, 0.5)])
def test_impossible_alphas_are_refused(values):
    with pytest.raises(ConfigError):
        DiscreteVP(values)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(ConfigError, match="steps"):
        DiscreteVP.linear().times(steps)


def test_the_contract_notices_a_schedule_that_runs_the_wrong_way():
    class Backwards(RectifiedFlow):
        def times(self, steps):
            return sorted(super().times(steps))

    with pytest.raises(ContractError, match="times"):
        check_schedule(Backwards())
