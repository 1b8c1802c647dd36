"""Every registered operator with every registered sampler: it runs, or it is refused with the reason on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from midguide.cli.compatibility import page
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.inference.loop import sample
from midguide.likelihoods import GaussianLikelihood, observe_counts
from midguide.operators import Identity, Operator, Rescaled, make_operator
from midguide.operators.base import KINDS, OPERATORS, kind, operator_class
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Sampler, lacking

IMAGE, ECG = (3, 16, 16), (9, 16)
GRAY = (1, *IMAGE[1:])
DOCS = Path(__file__).parents[2] / "docs"


def shape_for(operator: str) -> tuple[int, ...]:
    """Shape of what the operator measures."""
    return ECG if operator.startswith("ecg-") else GRAY if operator == "fourier-coils" else IMAGE


def truth(shape: tuple[int, ...] = IMAGE) -> Tensor:
    return Gaussian(torch.zeros(shape), 0.25).sample(1, seed=3).clamp(-1, 1)


def prior_for(sampler: str, shape: tuple[int, ...] = IMAGE) -> Denoiser:
    """A prior that the sampler takes: of signals, or of latents that are signals in halves."""
    if not SAMPLERS.make(sampler).needs.autoencoder:
        return Gaussian(torch.zeros(shape), 0.25)
    half = (*shape[:-1], shape[-1] // 2)
    coder = NetworkAutoencoder(lambda x: x[..., ::2], lambda z: z.repeat_interleave(2, -1), shape, half)
    return LatentPrior(Gaussian(torch.zeros(half), 0.25), coder)


def build(name: str, folder: Path) -> Operator:
    """The operator with its default settings; a `path` that it asks for is that of a mask, or of a kernel."""
    settings = {}
    if name.startswith("convolution"):
        np.save(folder / "kernel.npy", np.array([[0.1, 0.7, 0.2]]))
        settings["path"] = str(folder / "kernel.npy")
    elif "path" in OPERATORS[name].required():
        Image.fromarray((truth()[0, 0] > 0).numpy()).save(folder / "mask.png")
        settings["path"] = str(folder / "mask.png")
    return make_operator(name, shape_for(name), value_range=(-1.0, 1.0), **settings)


def runs_or_is_refused(sampler: Sampler, problem: Problem) -> None:
    likelihood = problem.signal_likelihood  # latents are for samplers that see the operator on signals
    missing = lacking(sampler.needs, type(likelihood.operator), type(likelihood))
    if missing is None:
        draws = sample(sampler, problem, 2).draws
        assert draws.shape == (1, 2, *problem.signal_shape)
        assert bool(torch.isfinite(draws).all())
    else:
        with pytest.raises(
            UnsupportedProblem, match=f"needs {missing}.*\nhint: samplers that accept it: .*dps, .*mgps"
        ):
            sample(sampler, problem, 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_sampler_takes_an_operator_or_says_what_it_needs(operator: str, sampler: str, tmp_path: Path) -> None:
    shape = shape_for(operator)
    problem = Problem.simulate(prior_for(sampler, shape), build(operator, tmp_path), truth(shape), sigma_y=0.05)
    runs_or_is_refused(SAMPLERS.make(sampler, {"steps": 3}), problem)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_takes_photon_counts_or_says_what_it_needs(sampler: str) -> None:
    runs_or_is_refused(
        SAMPLERS.make(sampler, {"steps": 3}),
        Problem.of(prior_for(sampler), observe_counts(Identity(), truth(), rate=20.0)),
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_noise_is_refused_in_one_line_before_any_sampler_divides_by_it(sampler: str) -> None:
    """There is no noiseless likelihood: MGPS, PGDM and DiffPIR divide by sigma_y, the chi-square of all does."""
    prior = Gaussian(torch.zeros(IMAGE), 0.25)
    for make in (
        lambda: Problem.simulate(prior, Identity(), truth(), sigma_y=0.0),
        lambda: Problem(prior, GaussianLikelihood(Identity(), truth(), 0.0)),
    ):
        with pytest.raises(ConfigError, match=r"^sigma_y must be positive, got 0.0\nhint: .*1e-3$") as caught:
            sample(SAMPLERS.make(sampler, {"steps": 3}), make())
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_as_small_as_the_hint_proposes_is_no_trouble(sampler: str) -> None:
    problem = Problem.simulate(prior_for(sampler), make_operator("half-mask", IMAGE), truth(), sigma_y=1e-3)
    runs_or_is_refused(SAMPLERS.make(sampler, {"steps": 3}), problem)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_the_page_calls_an_operator_is_what_its_factory_makes(name: str, tmp_path: Path) -> None:
    operator = build(name, tmp_path)
    if isinstance(operator, Rescaled):
        operator = operator.operator
    assert isinstance(operator, operator_class(OPERATORS[name]))
    assert kind(type(operator)) == kind(operator_class(OPERATORS[name]))
    assert kind(operator_class(OPERATORS[name])) in KINDS.values()


def test_the_committed_page_is_the_generated_one() -> None:
    committed = (DOCS / "compatibility.md").read_text("utf-8")
    assert committed == page(), "run `make pages`, or python -m midguide.cli.compatibility > docs/compatibility.md"
