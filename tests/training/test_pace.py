"""The course of a training: by its steps, or by the clock."""

from dataclasses import replace

import pytest

from midguide.errors import ConfigError
from midguide.training.config import LoopConfig
from midguide.training.pace import Pace


class Clock:
    """A clock that a test winds."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def run(pace, clock, seconds):
    """Steps and rates of a training whose steps take so long, from the state of the pace on."""
    step, rates = pace._first, []
    while not pace.done(step):
        rates.append(pace.rate(step))
        clock.time += seconds
        step += 1
        pace.tick(step, pace.now())
    return step, rates


def test_with_a_cooldown_the_rate_stays_at_its_peak_whatever_the_number_of_steps():
    short = LoopConfig(steps=1000, warmup=10, cooldown=0.2)
    longer = replace(short, steps=5000)
    assert [Pace(short).rate(step) for step in range(800)] == [Pace(longer).rate(step) for step in range(800)]
    assert Pace(short).rate(500) == 1.0
    assert Pace(short).rate(900) == pytest.approx(0.5)
    assert Pace(short).rate(999) == pytest.approx(1 / 200)


@pytest.mark.parametrize("cooldown", [None, 0.25])
@pytest.mark.parametrize("seconds", [0.5, 7.0])
def test_a_training_of_minutes_ends_in_time_with_its_rate_near_zero_however_slow_it_is(cooldown, seconds):
    clock = Clock()
    pace = Pace(LoopConfig(steps=3, warmup=300, cooldown=cooldown), minutes=5, clock=clock)
    step, rates = run(pace, clock, seconds)
    assert clock.time <= 300
    assert step >= 300 / seconds - 2
    assert max(rates) > 0.9
    assert rates[-1] <= 2 * seconds / (0.25 * 300)  # two steps before the end, at the steepest of the courses
    assert pace.total == step or pace.limit - pace.seconds < 2 * seconds


def test_time_of_earlier_runs_counts():
    clock = Clock()
    pace = Pace(LoopConfig(), minutes=1, clock=clock)
    pace.resume(40, 45.0)
    step, _ = run(pace, clock, 1.0)
    assert (step, clock.time) == (55, 15.0)


def test_checkpoints_by_the_clock_are_rarer_where_judging_them_takes_long():
    clock = Clock()
    pace = Pace(LoopConfig(), minutes=10, clock=clock)

    def waits(took: float) -> int:
        return next(second for second in range(1000) if pace.tick(second, 100.0 + second) or pace.late(100.0, took))

    assert [waits(took) for took in (0.0, 5.0, 6.0, 30.0)] == [60, 60, 60, 300]
    assert not Pace(LoopConfig(), clock=clock).late(-1e9, 0.0)


def test_the_total_is_estimated_from_the_speed():
    clock = Clock()
    pace = Pace(LoopConfig(), minutes=1, clock=clock)
    clock.time = 6.0
    pace.tick(12, pace.now())
    assert pace.total == 120


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_is_refused(minutes):
    with pytest.raises(ConfigError, match="minutes must be positive"):
        Pace(LoopConfig(), minutes)
