"""Signs of convergence: their maximum over the steps reaches the samples, whatever the chunk, and after a resume."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from midguide import Problem, sample
from midguide.inference.samples import Samples
from midguide.operators import Identity
from midguide.priors import Gaussian
from midguide.samplers.base import (
    Calls,
    Needs,
    NoisyState,
    Sign,
    Step,
    finish_denoised,
    schedule_times,
    start_from_noise,
)
from midguide.testing.samplers import check_sampler


@dataclass(frozen=True, kw_only=True)
class Signing:
    """Shrinks noise, and signs with the size of its state and, for a group, with the largest in it."""

    needs = Needs(group=2)
    signs: ClassVar[dict[str, Sign]] = {
        "size": Sign(2.0, "the state is large", "take a smaller one"),
        "largest": Sign(100.0, "a group is large", "take smaller ones"),
    }

    steps: int = 6

    times = schedule_times
    init = start_from_noise
    finish = finish_denoised

    def calls(self, problem):
        return Calls(1, 0)

    def step(self, problem, state, t, s, rng):
        x = state.x_t * rng.uniform(state.x_t)
        size = x.flatten(1).norm(dim=1)
        return Step(NoisyState(x), {"size": size, "largest": rng.layout.split(size).amax(1)})


class Watch:
    """Keeps an entry of every step, and stops after one."""

    def __init__(self, stop=None):
        self.seen, self.stop_after = {}, stop

    def start(self, total, done):
        pass

    def step(self, event):
        for row, value in zip(event.rows, event.info["size"].tolist(), strict=True):
            self.seen.setdefault(row, []).append(value)
        if event.done == self.stop_after:
            raise KeyboardInterrupt

    def stop(self):
        pass


@pytest.fixture
def problem():
    prior = Gaussian(torch.zeros(3), 1.0)
    return Problem.simulate(prior, Identity(), prior.sample(2), sigma_y=0.1)


def test_signs_are_the_maxima_over_the_steps_of_each_draw(problem):
    watch = Watch()
    samples = sample(Signing(), problem, n=4, observers=[watch])
    want = torch.tensor([max(watch.seen[row]) for row in range(8)]).reshape(2, 4)
    assert torch.allclose(samples.signs["size"].float(), want, rtol=1e-6)
    pairs = samples.signs["largest"].unflatten(1, (2, 2))
    assert torch.equal(pairs[..., 0], pairs[..., 1])
    assert samples.signs["size"].dtype == torch.float64


def test_a_sampler_with_signs_satisfies_the_contract(problem):
    check_sampler(Signing(steps=4), problem)


@pytest.mark.parametrize("after", [1, 5, 7])
def test_an_interrupted_run_keeps_the_signs_of_its_first_part(problem, tmp_path, after):
    path = tmp_path / "progress.safetensors"
    with pytest.raises(KeyboardInterrupt):
        sample(Signing(), problem, n=4, chunk=4, checkpoint=path, observers=[Watch(after)])
    resumed, straight = (sample(Signing(), problem, n=4, chunk=4, checkpoint=p) for p in (path, None))
    assert all(torch.equal(resumed.signs[name], straight.signs[name]) for name in ("size", "largest"))


def test_high_signs_are_remarked_with_their_number_and_advice(problem):
    samples = sample(Signing(), problem, n=20)
    high = (samples.signs["size"] > 2).sum(1).tolist()
    (line,) = [line for line in samples.record["remarks"] if "observation 1" in line]
    assert 0 < high[1] < 20
    assert line.startswith(f"the state is large in {high[1]} of 20 draws of observation 1 (`size` up to ")
    assert line.endswith("at most 2 is fine); take a smaller one")
    assert samples.each()[1].record["remarks"] == [line]


def test_signs_are_stored_and_follow_their_draws(problem, tmp_path):
    samples = sample(Signing(), problem, n=4)
    samples.save(tmp_path / "run")
    again = Samples.load(tmp_path / "run")
    assert again.signs.keys() == samples.signs.keys()
    assert all(torch.equal(again.signs[name], value) for name, value in samples.signs.items())
    assert set(again.tensors) == set(samples.tensors)
    picks = samples.picks(3)
    assert torch.equal(samples.resampled(3).signs["size"], samples.signs["size"].gather(1, picks))
    assert torch.equal(samples.each()[1].signs["size"], samples.signs["size"][1:])


def test_a_sign_that_is_no_number_is_high(problem):
    @dataclass(frozen=True, kw_only=True)
    class Undefined(Signing):
        def step(self, problem, state, t, s, rng):
            new, info = Signing.step(self, problem, state, t, s, rng)
            return Step(new, {"size": info["size"] * torch.nan, "largest": info["largest"]})

    lines = sample(Undefined(), problem, n=2).record["remarks"]
    assert lines[0].startswith("the state is large in 2 of 2 draws of observation 0 (`size` up to nan")
