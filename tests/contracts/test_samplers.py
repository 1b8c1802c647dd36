"""Every registered sampler satisfies the contract, on vectors and on images; broken ones do not."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow
from midguide.diffusion.walks import Travel
from midguide.errors import CheckpointError, ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.maths.linalg import inner
from midguide.operators import Identity, Matrix, Operator, SVDOperator
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Needs
from midguide.samplers.copaint import CoPaint
from midguide.samplers.dps import DPS
from midguide.samplers.ilvr import ILVR
from midguide.samplers.lgd import LGD
from midguide.samplers.mgdm import MGDM
from midguide.samplers.mgps import MGPS
from midguide.samplers.pnp_dm import PnPDM
from midguide.samplers.psld import PSLD
from midguide.samplers.repaint import RePaint
from midguide.samplers.resample import ReSample
from midguide.samplers.unconditional import Unconditional
from midguide.testing import ContractError, check_sampler
from midguide.testing.pieces import images, latents, masked_images, vectors

RULE = StepRule(default=2, cleanest=(2, 1), noisiest=(2, 3))


VARIANTS = {
    "mgps-plain": MGPS(steps=12, warm_start=None, gradient_steps=RULE),
    "mgps-recompute": MGPS(steps=12, midpoint=0.5, warm_start=0.7, gradient_steps=RULE, recompute=True),
    "mgps-low-midpoint": MGPS(steps=12, midpoint=0.01, warm_start=0.7, gradient_steps=RULE),
    "mgps-late": MGPS(steps=12, midpoint=0.5, late_midpoint=1.0, warm_start=0.7, gradient_steps=RULE),
    "ddim": Unconditional(steps=12, eta=0.0),
    "repaint-travel": RePaint(steps=12, travel=Travel(length=3, repeats=2)),
    "copaint-travel": CoPaint(steps=12, eta=0.5, travel=Travel(length=5, repeats=2)),
    "pnp-dm-moves": PnPDM(steps=6, walk_steps=3, moves=2, last_moves=3),
    "mgdm-moves": MGDM(steps=8, moves=2, walk_steps=3, gradient_steps=RULE),
    "ilvr-range": ILVR(steps=12, until=0.5),
    "lgd-dps": LGD(steps=12, spread=0.0),
}
REGISTERED = {name: entry.make({"steps": 12}) for name, entry in SAMPLERS.items()}
CASES = {name: sampler for name, sampler in REGISTERED.items() if not sampler.needs.autoencoder} | VARIANTS


@pytest.mark.parametrize("problem", [vectors, images, masked_images], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", CASES)
def test_samplers_satisfy_the_contract(name, problem):
    check_sampler(CASES[name], problem())


LATENT_CASES = {name: sampler for name, sampler in REGISTERED.items() if sampler.needs.operator is Operator}
LATENT_CASES |= {"psld": PSLD(steps=12), "resample-often": ReSample(steps=12, every=2, iterations=5)}


@pytest.mark.parametrize("name", LATENT_CASES)
def test_samplers_satisfy_the_contract_on_latents(name):
    check_sampler(LATENT_CASES[name], latents())


@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlow()], ids=["edm", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_satisfy_the_contract_on_other_schedules(name, schedule):
    problem = latents() if REGISTERED[name].needs.autoencoder else vectors()
    moved = replace(problem, denoiser=problem.denoiser.on(schedule))
    check_sampler(REGISTERED[name], moved)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_does_not_list_all_times(name, monkeypatch):
    """Its cost would grow with their number; once at the start is enough."""
    problem, asked, times = latents() if REGISTERED[name].needs.autoencoder else vectors(), [], DiscreteVP.times
    monkeypatch.setattr(DiscreteVP, "times", lambda *arguments: asked.append(1) or times(*arguments))
    sample(REGISTERED[name], problem)
    assert len(asked) <= 2


def test_the_contract_sees_a_norm_over_the_batch():
    @dataclass(frozen=True, kw_only=True)
    class Coupled(DPS):
        def step(self, problem, state, t, s, rng):
            out = super().step(problem, state, t, s, rng)
            return out._replace(state=type(state)(out.state.x_t / (1 + out.state.x_t.norm())))

    with pytest.raises(ContractError, match="depend on"):
        check_sampler(Coupled(steps=12), vectors())


def test_the_contract_sees_an_unannounced_network_call():
    @dataclass(frozen=True, kw_only=True)
    class Wasteful(Unconditional):
        def finish(self, problem, state, t, rng):
            problem.denoiser(state.x_t, t)
            return super().finish(problem, state, t, rng)

    with pytest.raises(ContractError, match="announces"):
        check_sampler(Wasteful(steps=12), vectors())


def test_a_loop_written_by_hand_gives_the_draws_of_sample():
    from midguide.maths.rng import Rng

    problem, sampler = vectors(), MGPS(steps=12, gradient_steps=RULE)
    rows, rng = problem.expand(2), Rng([(5, i, j) for i in range(2) for j in range(2)])
    times = sampler.times(rows)
    state = sampler.init(rows, rng)
    for t, s in pairwise(times):
        state, _ = sampler.step(rows, state, t, s, rng)
    draws = sampler.finish(rows, state, times[-1], rng).draws.reshape(2, 2, 6)
    assert torch.equal(draws, sample(sampler, problem, 2, seed=5).draws)


def test_an_operator_that_a_sampler_cannot_use_is_refused_with_those_that_can():
    class Square(Operator):
        def __call__(self, x):
            return x.square()

    @dataclass(frozen=True, kw_only=True)
    class Spectral(Unconditional):
        needs = Needs(operator=SVDOperator)

    prior = random_gaussian(6, 0)
    problem = Problem.simulate(prior, Square(), prior.sample(1), sigma_y=0.1)
    with pytest.raises(UnsupportedProblem, match="needs an operator with an SVD, Square is nonlinear") as caught:
        sample(Spectral(steps=4), problem)
    assert {"dps", "mgps"} <= set(caught.value.hint.split(": ")[1].split(", "))


def test_nan_stops_with_step_sampler_and_hint():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Unconditional):
        def step(self, problem, state, t, s, rng):
            out = super().step(problem, state, t, s, rng)
            return out._replace(state=type(state)(out.state.x_t * (math.nan if s < 500 else 1.0)))

    with pytest.raises(NumericalError, match=r"`Broken` produced NaN .* of 2 of 2 samples at step 4 ") as caught:
        sample(Broken(steps=6, spacing=1.0), vectors())
    assert caught.value.hint


def test_residual_of_exactly_zero_gives_dps_no_guidance():
    prior = Gaussian(torch.zeros(2), 1.0)
    operator = Matrix.create(torch.zeros(1, 2), (2,))
    problem = Problem.simulate(prior, operator, prior.sample(1), sigma_y=0.1)
    zero = Problem(prior, type(problem.likelihood)(operator, torch.zeros(1, 1), 0.1))
    assert bool(torch.isfinite(sample(DPS(steps=10), zero, 3).draws).all())


def test_observations_with_seeds_of_their_own_have_the_samples_of_runs_of_their_own():
    prior = Gaussian(torch.zeros(2), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(3), sigma_y=0.1)
    together = sample(Unconditional(steps=4), problem, 2, seed=[7, 1, 7])
    for i, seed in enumerate((7, 1, 7)):
        alone = sample(Unconditional(steps=4), problem.select(torch.tensor([i])), 2, seed=seed)
        assert torch.allclose(together.draws[i], alone.draws[0], atol=1e-6)
    assert together.record["seed"] == [7, 1, 7]
    with pytest.raises(ConfigError, match="2 seeds for 3 observations"):
        sample(Unconditional(steps=4), problem, 2, seed=[7, 1])


def test_more_samples_than_memory_are_refused_before_anything_is_drawn():
    with pytest.raises(ConfigError, match=r"1,000,000,000,000 samples of each observation \(2\) take 44,703 GiB"):
        sample(Unconditional(steps=4), vectors(), 10**12)


def test_a_stream_may_serve_many_samples_and_is_recorded():
    problem = vectors()
    whole = sample(Unconditional(steps=4), problem, 6, stream_size=3)
    chunked = sample(Unconditional(steps=4), problem, 6, stream_size=3, chunk=4)
    assert whole.record["stream_size"] == 3
    assert torch.allclose(whole.draws, chunked.draws, atol=1e-6)
    with pytest.raises(ConfigError, match="multiple of stream_size"):
        sample(Unconditional(steps=4), problem, 4, stream_size=3)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    class Stop:
        def start(self, total, done): ...

        def step(self, event):
            raise KeyboardInterrupt

        def stop(self): ...

    path, problem = tmp_path / "progress", vectors()
    with pytest.raises(KeyboardInterrupt):
        sample(Unconditional(steps=4), problem, checkpoint=path, observers=[Stop()])
    with pytest.raises(CheckpointError, match="another run"):
        sample(Unconditional(steps=4), problem, seed=1, checkpoint=path)
    done = sample(Unconditional(steps=4), problem, checkpoint=path)
    again = sample(Unconditional(steps=4), problem, checkpoint=path)  # a finished run's checkpoint holds its draws
    assert torch.equal(done.draws, again.draws)
    assert again.cost.network_forwards == done.cost.network_forwards
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        sample(Unconditional(steps=4), problem, checkpoint=path)


def test_samples_survive_saving_with_their_record(tmp_path):
    from midguide.inference.samples import Samples

    drawn = sample(MGPS(steps=6, gradient_steps=RULE), vectors(), 2)
    drawn.save(tmp_path / "out")
    loaded = Samples.load(tmp_path / "out")
    assert torch.equal(loaded.draws, drawn.draws)
    assert loaded.record == drawn.record
    assert loaded.cost == drawn.cost
    assert torch.equal(loaded.tensors["truth"], drawn.tensors["truth"])
    (tmp_path / "out" / "samples.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no readable samples"):
        Samples.load(tmp_path / "out")


def test_observation_of_another_shape_is_refused():
    prior = random_gaussian(6, 0)
    problem = vectors()
    with pytest.raises(ShapeError, match="y is"):
        Problem(prior, type(problem.likelihood)(problem.likelihood.operator, torch.zeros(2, 4), 0.1))


def test_misfit_of_posterior_draws_is_the_noise():
    """chi-square per measured value is about 1 for the truth: 300 values, so 1 +- 5 sqrt(2 / 300)."""
    prior = Gaussian(torch.zeros(300), 1.0)
    problem = Problem.simulate(prior, Matrix.create(torch.eye(300), (300,)), prior.sample(1), sigma_y=0.1)
    r = problem.likelihood.residual(problem.truth)
    assert abs(float(problem.likelihood.chi_square(problem.truth)) - 1) < 5 * math.sqrt(2 / 300)
    assert torch.allclose(-0.5 * inner(r, r), problem.likelihood.log_prob(problem.truth))
