"""Groups of samples that stay together: any size satisfies the contract, and what breaks a group is caught."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from particles import FilterState, TwistedFilter, resampled

from midguide.errors import ConfigError, NumericalError, ShapeError
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.maths.rng import Layout, Rng
from midguide.operators import BlockMean, Matrix
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Finished, Needs, Step
from midguide.samplers.dps import DPS
from midguide.samplers.unconditional import Unconditional
from midguide.testing import ContractError, check_sampler


def vectors() -> Problem:
    prior = random_gaussian(6, 0)
    operator = Matrix.create(torch.linspace(-1, 1, 18).reshape(3, 6), (6,))
    return Problem.simulate(prior, operator, prior.sample(2), sigma_y=1.0)


def images() -> Problem:
    prior = Gaussian(torch.zeros(3, 8, 8), 0.25)
    return Problem.simulate(prior, BlockMean(2), prior.sample(2), sigma_y=0.5)


@pytest.mark.parametrize("problem", [vectors, images], ids=lambda f: f.__name__)
@pytest.mark.parametrize("particles", [1, 2, 5, 8])
def test_groups_of_any_size_satisfy_the_contract(particles, problem):
    check_sampler(TwistedFilter(particles=particles), problem())


def test_the_contract_sees_a_filter_that_resamples_over_the_edge_of_its_group():
    @dataclass(frozen=True, kw_only=True)
    class Peeking(TwistedFilter):
        def step(self, problem, state, t, s, rng):
            state, info = TwistedFilter.step(self, problem, state, t, s, rng)
            one = Rng([(0,)] * len(state.x_t), groups=[(0,)])
            log_weight, members = resampled(state.log_weight, one, torch.tensor([0.5]))
            return Step(FilterState(state.x_t[members[0]], log_weight, state.log_twist[members[0]]), info)

    with pytest.raises(ContractError, match="depend on"):
        check_sampler(Peeking(), vectors())


def test_the_contract_sees_a_filter_whose_groups_share_a_stream():
    @dataclass(frozen=True, kw_only=True)
    class Shared(TwistedFilter):
        def finish(self, problem, state, t, rng):
            out = TwistedFilter.finish(self, problem, state, t, rng)
            first = rng.groups.uniform(torch.empty(rng.layout.groups))[:1].expand(rng.layout.groups)
            _, members = resampled(4 * out.log_weight, rng, first)
            return Finished(rng.layout.pick(out.draws, members))

    with pytest.raises(ContractError, match="depend on"):
        check_sampler(Shared(), vectors())


def own_numbers(groups: int) -> torch.Tensor:
    """Neither a seed nor the address of a group reaches these; no batch changes them."""
    return Rng([(0, "mine")], size=groups).uniform(torch.empty(groups))[:1].expand(groups)


@pytest.mark.parametrize(("draw", "words"), [(torch.rand, "global random numbers"), (own_numbers, "of its own")])
def test_the_contract_sees_group_decisions_from_another_stream(draw, words):
    @dataclass(frozen=True, kw_only=True)
    class Own(TwistedFilter):
        def finish(self, problem, state, t, rng):
            out = TwistedFilter.finish(self, problem, state, t, rng)
            _, members = resampled(4 * out.log_weight, rng, draw(rng.layout.groups))
            return Finished(rng.layout.pick(out.draws, members))

    with pytest.raises(ContractError, match=words):
        check_sampler(Own(), vectors())


@dataclass(frozen=True, kw_only=True)
class Weighing(Unconditional):
    """Weights as given: one for each row of a batch."""

    log_weight: float = 0.0
    group: int = 1

    @property
    def needs(self) -> Needs:
        return Needs(group=self.group)

    def finish(self, problem, state, t, rng):
        weights = torch.zeros(len(state.x_t))
        weights[0] = self.log_weight
        return Finished(state.x_t, weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_stop_the_run_and_break_the_contract(value):
    words = "`Weighing` produced NaN or infinity in log_weight of 1 of 4 samples at the end, after step 3"
    with pytest.raises(NumericalError, match=words):
        sample(Weighing(steps=4, log_weight=value), vectors(), 2, on_nan="stop")
    with pytest.raises(ContractError, match="NaN or infinity in log_weight"):
        check_sampler(Weighing(steps=4, log_weight=value), vectors())


def test_nan_in_weights_within_a_run_names_the_step_and_minus_infinity_may_pass():
    @dataclass(frozen=True, kw_only=True)
    class Broken(TwistedFilter):
        value: float = math.nan

        def step(self, problem, state, t, s, rng):
            out = TwistedFilter.step(self, problem, state, t, s, rng)
            log_weight = out.state.log_weight.clone()
            log_weight[3] = self.value
            return out._replace(state=out.state._replace(log_weight=log_weight))

    with pytest.raises(NumericalError, match=r"`Broken` .* in log_weight of 1 of 8 samples at step 1 \(time "):
        sample(Broken(), vectors(), 4, on_nan="stop")
    drawn = sample(Broken(value=-math.inf), vectors(), 4)
    assert drawn.log_weight[0, 3] == -math.inf
    assert bool(drawn.mean().isfinite().all())


def test_an_observation_whose_weights_are_all_zero_is_an_error():
    @dataclass(frozen=True, kw_only=True)
    class Hopeless(Weighing):
        def finish(self, problem, state, t, rng):
            return Finished(state.x_t, torch.tensor([0.0, 0.0, -math.inf, -math.inf]))

    with pytest.raises(NumericalError, match="`Hopeless` gave every draw of observation 1 the weight zero"):
        sample(Hopeless(steps=4), vectors(), 2)


def test_collapsed_weights_are_said_in_the_record():
    drawn = sample(Weighing(steps=4, log_weight=30.0), vectors(), 3)
    words = "the weights of observation 0 collapsed: 3 draws count as 1.0"
    assert drawn.record["remarks"] == [words]
    first, second = drawn.each()
    assert first.record["remarks"] == [words]
    assert "remarks" not in second.record


def test_weights_of_other_shapes_are_refused():
    @dataclass(frozen=True, kw_only=True)
    class Flat(Weighing):
        def finish(self, problem, state, t, rng):
            return Finished(state.x_t, torch.zeros(len(state.x_t), 1))

    @dataclass(frozen=True, kw_only=True)
    class Bare(Weighing):
        def finish(self, problem, state, t, rng):
            return state.x_t

    with pytest.raises(ShapeError, match=r"`Flat` finished with log_weight of shape \(4, 1\), expected \(4,\)"):
        sample(Flat(steps=4), vectors(), 2)
    with pytest.raises(ShapeError, match="`Bare` finished with a Tensor") as caught:
        sample(Bare(steps=4), vectors(), 2)
    assert "Finished(draws)" in caught.value.hint


def test_the_mean_weight_of_a_group_is_its_evidence_whatever_the_sampler_scales():
    @dataclass(frozen=True, kw_only=True)
    class Islands(Weighing):
        group: int = 2

        def finish(self, problem, state, t, rng):
            evidence = torch.tensor([1.0, 2.0, 3.0, -math.inf])
            weights = torch.tensor([0.0, 1.0, 100.0, 100.0, -math.inf, 7.0, 0.0, 0.0])
            return Finished(state.x_t, weights, evidence)

    drawn = sample(Islands(steps=4), vectors(), 4)
    assert torch.allclose(drawn.log_weight[0].exp().reshape(2, 2).mean(1), drawn.log_evidence[0].exp())
    assert drawn.log_weight[0, 1] - drawn.log_weight[0, 0] == pytest.approx(1.0)
    assert drawn.log_weight[1].tolist() == pytest.approx([-math.inf, 3.0 + math.log(2), -math.inf, -math.inf])
    assert drawn.effective_sample_size(of_groups=True)[1].tolist() == pytest.approx([1.0, 0.0])


def test_evidence_alone_weighs_the_groups():
    @dataclass(frozen=True, kw_only=True)
    class Islands(Weighing):
        group: int = 2

        def finish(self, problem, state, t, rng):
            return Finished(state.x_t, None, torch.arange(4.0))

    drawn = sample(Islands(steps=4), vectors(), 4)
    assert drawn.log_weight.tolist() == [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]]
    assert torch.allclose(drawn.effective_sample_size(of_groups=True), torch.tensor(2.0).double())


def test_a_loop_written_by_hand_gives_the_weighted_draws_of_sample():
    problem, sampler = vectors(), TwistedFilter(particles=2)
    streams = [(5, i, j) for i in range(2) for j in range(4)]
    rng = Rng(streams, groups=[(5, i, "group", j) for i in range(2) for j in range(2)])
    rows, times = problem.expand(4), sampler.times(problem)
    state = sampler.init(rows, rng)
    for t, s in pairwise(times):
        state, _ = sampler.step(rows, state, t, s, rng)
    finished, drawn = sampler.finish(rows, state, times[-1], rng), sample(sampler, problem, 4, seed=5)
    assert torch.equal(finished.draws.reshape(2, 4, 6), drawn.draws)
    assert torch.allclose(finished.log_weight.double().reshape(2, 4), drawn.log_weight, atol=1e-5)  # float32


def test_n_that_no_whole_groups_make_is_refused_with_the_nearest():
    for n, near in ((6, "take 4 or 8 samples"), (3, "take 4 samples")):
        with pytest.raises(ConfigError, match=f"n={n} samples cannot be drawn in groups of 4") as caught:
            sample(TwistedFilter(), vectors(), n)
        assert caught.value.hint == near


def test_a_chunk_is_cut_to_whole_groups_and_refused_below_one():
    batches = []

    @dataclass(frozen=True, kw_only=True)
    class Watched(TwistedFilter):
        def init(self, problem, rng):
            batches.append((rng.layout, problem.likelihood.y[:, 0].tolist()))
            return TwistedFilter.init(self, problem, rng)

    problem = vectors()
    sample(Watched(particles=4), problem, 8, chunk=11)
    assert [layout for layout, _ in batches] == [Layout(2, 4)] * 2
    sample(Watched(particles=4), problem, 12, chunk=9)
    first, second = problem.likelihood.y[:, 0].tolist()
    assert batches[3] == (Layout(2, 4), [first] * 4 + [second] * 4)  # two observations in one batch, not in one group
    with pytest.raises(ConfigError, match="chunk=3 is smaller than the 4 samples that must stay together"):
        sample(Watched(particles=4), problem, 8, chunk=3)
    with pytest.raises(ConfigError, match="chunk=9 is smaller than the 12 samples"):
        sample(Watched(particles=4), problem, 12, chunk=9, stream_size=6)


def test_streams_are_addressed_by_observation_and_group():
    from midguide.inference.rows import Rows

    rows = Rows(3, 4, group=2, chunk=6, seed=7)
    assert rows.chunks == [range(6), range(6, 12)]
    rng = rows.rng(rows.chunks[1])
    assert rng.layout == Layout(3, 2)
    of_rows = Rng([(7, 1, 2), (7, 1, 3), (7, 2, 0), (7, 2, 1), (7, 2, 2), (7, 2, 3)])
    of_groups = Rng([(7, 1, "group", 1), (7, 2, "group", 0), (7, 2, "group", 1)])
    assert torch.equal(rng.normal(torch.empty(6, 2)), of_rows.normal(torch.empty(6, 2)))
    assert torch.equal(rng.groups.uniform(torch.empty(3)), of_groups.uniform(torch.empty(3)))
    restored = rows.rng(rows.chunks[1])
    restored.set_state(rng.state())
    assert torch.equal(restored.groups.uniform(torch.empty(3)), rng.groups.uniform(torch.empty(3)))
    assert torch.equal(restored.normal(torch.empty(6)), rng.normal(torch.empty(6)))
    with pytest.raises(ShapeError, match="6 rows cannot be cut into 4 groups"):
        Rng([(0, i) for i in range(6)], groups=[(0, i) for i in range(4)])


class Stop:
    """Acts as Ctrl-C after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def start(self, total, done): ...

    def step(self, event):
        if event.done == self.after:
            raise KeyboardInterrupt

    def stop(self): ...


def interrupted(sampler, problem, n, path, after, **options) -> Samples:
    with pytest.raises(KeyboardInterrupt):
        sample(sampler, problem, n, checkpoint=path, observers=[Stop(after)], **options)
    return sample(sampler, problem, n, checkpoint=path, **options)


@pytest.mark.parametrize("after", [1, 7, 11, 12, 18])
def test_a_run_interrupted_between_or_within_groups_ends_as_one_in_one_go(tmp_path, after):
    sampler, problem = TwistedFilter(particles=4, twist=1.0), vectors()
    straight = sample(sampler, problem, 8, chunk=8)
    resumed = interrupted(sampler, problem, 8, tmp_path / "progress", after, chunk=8)
    for name in ("draws", "log_weight", "log_evidence"):
        assert torch.equal(getattr(resumed, name), getattr(straight, name))
    assert resumed.cost.network_forwards == straight.cost.network_forwards == 12


def test_calls_made_in_init_are_counted_once_also_on_resume(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Eager(TwistedFilter):
        def calls(self, problem):
            return TwistedFilter.calls(self, problem)._replace(forwards=self.steps + 1)

        def init(self, problem, rng):
            state = TwistedFilter.init(self, problem, rng)
            return state._replace(x_t=state.x_t + 0 * problem.denoiser(state.x_t, problem.schedule.noisiest))

    check_sampler(Eager(), vectors())
    resumed = interrupted(Eager(), vectors(), 8, tmp_path / "progress", 3, chunk=8)
    assert resumed.cost.network_forwards == 13


def test_state_tensors_may_share_memory(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Sharing(Unconditional):
        def init(self, problem, rng):
            x_t = Unconditional.init(self, problem, rng).x_t
            return FilterState(x_t, x_t[:, 0], x_t.flatten()[: len(x_t)])

        def step(self, problem, state, t, s, rng):
            x_t = Unconditional.step(self, problem, state, t, s, rng).state.x_t
            return Step(FilterState(x_t, x_t[:, 0], x_t.flatten()[: len(x_t)]), {})

        def finish(self, problem, state, t, rng):
            return Finished(state.x_t, state.x_t[:, 0], state.x_t[:, 0])

    problem = vectors()
    resumed = interrupted(Sharing(steps=6), problem, 4, tmp_path / "progress", 3)
    straight = sample(Sharing(steps=6), problem, 4)
    assert torch.equal(resumed.draws, straight.draws)
    straight.save(tmp_path / "out")
    assert torch.equal(Samples.load(tmp_path / "out").log_weight, straight.log_weight)


def test_a_sampler_with_the_methods_of_before_is_refused_when_it_registers():
    with pytest.raises(ConfigError, match="its `finish` does not take 4 arguments"):

        @SAMPLERS.register("of-before")
        @dataclass(frozen=True, kw_only=True)
        class Old(DPS):
            def finish(self, problem, state, t):
                return state.x_t


def test_the_prior_is_called_once_for_all_rows_of_a_chunk():
    """Groups are batched: islands cost no more calls of the network than independent samples."""
    sizes = []

    class Seen(Denoiser):
        def __init__(self, inner):
            self.inner, self.schedule, self.event_shape = inner, inner.schedule, inner.event_shape
            self.value_range = inner.value_range

        def __call__(self, x, t):
            sizes.append(len(x))
            return self.inner(x, t)

    problem = vectors()
    sample(TwistedFilter(particles=4), Problem(Seen(problem.denoiser), problem.likelihood), 8)
    assert sizes == [16] * 12


def test_groups_and_streams_of_other_sizes_are_cut_where_both_end():
    """Streams of three rows, groups of two: chunks of six rows give the groups of one batch."""
    problem, sampler = vectors(), TwistedFilter(particles=2)
    whole = sample(sampler, problem, 12, stream_size=3)
    cut = sample(sampler, problem, 12, stream_size=3, chunk=8)
    assert torch.allclose(whole.draws, cut.draws, atol=1e-5)  # float32
    assert torch.allclose(whole.log_weight, cut.log_weight, atol=1e-4)


def test_a_group_without_any_weight_does_not_reach_into_others():
    """A filter half of whose groups die goes on with the others, whose draws are as before."""

    @dataclass(frozen=True, kw_only=True)
    class Mortal(TwistedFilter):
        def step(self, problem, state, t, s, rng):
            first = torch.arange(rng.layout.groups) == 0
            log_weight = state.log_weight.masked_fill(rng.layout.spread(first), -math.inf)
            return TwistedFilter.step(self, problem, state._replace(log_weight=log_weight), t, s, rng)

    problem = vectors().select(torch.tensor([0]))
    drawn, alive = sample(Mortal(), problem, 8), sample(TwistedFilter(), problem, 8)
    assert drawn.log_evidence[0, 0] == -math.inf
    assert torch.equal(drawn.draws[0, 4:], alive.draws[0, 4:])
    assert torch.equal(drawn.log_evidence[0, 1], alive.log_evidence[0, 1])
    assert drawn.weights()[0, :4].tolist() == [0.0] * 4
    assert bool(drawn.resampled().draws.isfinite().all())
