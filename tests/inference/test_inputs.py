"""Arrays as people have them: what holds numbers is taken, all else is one clear line before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.errors import MidguideError
from midguide.likelihoods.gaussian import GaussianLikelihood, observe
from midguide.nn.unet import UNetConfig
from midguide.operators import Identity, Matrix
from midguide.operators.mask import Mask
from midguide.priors.base import Denoiser
from midguide.priors.formats.native import save_prior
from midguide.priors.gaussian import Gaussian
from midguide.priors.settings import PriorSettings

PRIOR = Gaussian(torch.zeros(4), 1.0)
SAMPLER = make_sampler("dps", {"steps": 2})
Y = torch.linspace(-1, 1, 8).reshape(2, 4)


def given(y: Any = Y, sigma: Any = 0.1, operator: Any = None) -> Tensor:
    likelihood = GaussianLikelihood.of(Identity() if operator is None else operator, y, sigma)
    return sample(SAMPLER, Problem(PRIOR, likelihood), 1).draws


def simulated(truth: Any = Y, sigma: Any = 0.1) -> Tensor:
    return sample(SAMPLER, Problem.simulate(PRIOR, Identity(), truth, sigma_y=sigma), 1).draws


def in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return Y.clone()


TAKEN: dict[str, Any] = {
    "float64": Y.double(),
    "half": Y.half(),
    "bfloat16": Y.bfloat16(),
    "integers": Y.round().int(),
    "bytes": (Y > 0).to(torch.uint8),
    "booleans": Y > 0,
    "numpy": Y.numpy(),
    "numpy backwards": np.ones((4, 4), np.float32)[::-2],
    "numpy 16 bits": np.ones((2, 4), np.uint16),
    "numpy half": Y.half().numpy(),
    "numpy unmasked": np.ma.masked_array(Y.numpy(), mask=False),
    "lists": Y.tolist(),
    "with a gradient": Y.clone().requires_grad_(),
    "sparse": Y.to_sparse(),
    "inference tensor": in_inference_mode(),
}


@pytest.mark.parametrize("name", TAKEN)
def test_numbers_of_any_kind_are_taken_at_no_less_than_single_precision(name: str) -> None:
    for draws in (given(TAKEN[name]), simulated(TAKEN[name])):
        assert draws.dtype in (torch.float32, torch.float64)
        assert bool(draws.isfinite().all())


def test_the_array_of_a_caller_is_copied() -> None:
    y = Y.numpy().copy()
    likelihood = GaussianLikelihood(Identity(), y, 0.1)  # pyright: ignore[reportArgumentType]
    y[:] = 9.0
    assert torch.equal(likelihood.y, Y)


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "got NoneType"),
    "text": ("abc", "got str"),
    "ragged lists": ([[1.0, 2.0], [3.0]], "got list"),
    "objects": (np.array([[1, None]]), "got ndarray"),
    "a number": (torch.tensor(1.0), "have a first axis"),
    "no rows": (torch.zeros(0, 4), "there are no"),
    "no values": (torch.zeros(2, 0), r"\(0,\)"),
    "one row": (torch.zeros(4), "y needs one row|the prior is one of signals"),
    "too many axes": (torch.zeros(2, 1, 4), r"\(1, 4\)"),
    "complex": (torch.zeros(2, 4, dtype=torch.complex64), r"\(4, 2\)"),
    "NaN": (torch.full((2, 4), math.nan), "NaN or infinity"),
    "infinity": (torch.full((2, 4), math.inf), "NaN or infinity"),
    "masked": (np.ma.masked_array(Y.numpy(), mask=Y.numpy() > 0), "masked array"),
    "without numbers": (torch.zeros(2, 4, device="meta"), "device `meta`"),
}


def refusal(call: Callable[[], object], says: str) -> None:
    with pytest.raises(MidguideError, match=says) as caught:
        call()
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_observation_and_no_truth_is_one_line(name: str) -> None:
    values, says = REFUSED[name]
    refusal(lambda: given(values), says)
    refusal(lambda: simulated(values), says)


LEVELS: dict[str, tuple[Any, str]] = {
    "negative": (-0.1, "must be positive, got -0.1"),
    "zero": (0.0, "must be positive"),
    "NaN": (math.nan, "must be positive"),
    "infinite": (math.inf, "must be positive"),
    "tiny": (1e-30, "from 1e-18"),
    "none": (None, "must be a number, got NoneType"),
    "text": ("0.1", "must be a number, got str"),
    "a truth value": (True, "must be a number, got bool"),
    "a list": ([0.1], "must be a number, got list"),
    "complex": (1j, "must be a number, got complex"),
    "wrong shape": (torch.ones(3), r"shape \(3,\) do not fit"),
    "wrong rows": (torch.ones(3, 4), r"shape \(3, 4\) do not fit"),
    "too many axes": (torch.ones(2, 2, 4), r"shape \(2, 2, 4\) do not fit"),
    "empty": (torch.ones(0), r"shape \(0,\) do not fit"),
    "one negative": (torch.tensor([1.0, -1.0, 1.0, 1.0]), "must be positive, got -1"),
    "one NaN": (torch.tensor([1.0, math.nan, 1.0, 1.0]), "must be positive"),
    "one infinite": (torch.tensor([1.0, math.inf, 1.0, 1.0]), "must be positive"),
    "complex tensor": (torch.ones(4, dtype=torch.complex64), "real numbers, got complex64"),
    "truth values": (torch.ones(4, dtype=torch.bool), "real numbers, got bool"),
    "texts": (np.array(["a"]), "noise levels are a tensor or an array"),
}


@pytest.mark.parametrize("name", LEVELS)
def test_what_is_no_noise_level_is_one_line(name: str) -> None:
    sigma, says = LEVELS[name]
    refusal(lambda: given(sigma=sigma), says)
    refusal(lambda: simulated(sigma=sigma), says)
    refusal(lambda: observe(Identity(), Y, sigma), says)


@pytest.mark.parametrize(
    "sigma", [1, np.float32(0.1), np.array(0.1), torch.tensor(0.1), torch.ones(4), np.ones((2, 1)), torch.ones(4).int()]
)
def test_noise_levels_of_any_kind_are_taken(sigma: Any) -> None:
    assert bool(given(sigma=sigma).isfinite().all())
    assert bool(simulated(sigma=sigma).isfinite().all())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Matrix.create(torch.zeros(0, 4), (4,)), "the matrix is empty"),
        (lambda: Matrix.create(torch.zeros(2, 5), (4,)), "does not act on events"),
        (lambda: Matrix.create(torch.ones(2, 4, dtype=torch.complex64), (4,)), "the matrix is complex"),
        (lambda: Matrix.create(torch.full((2, 4), math.nan), (4,)), "NaN or infinity"),
        (lambda: given(operator=Mask(torch.ones(3, dtype=torch.bool))), "does not broadcast"),
        (lambda: Mask(torch.ones(4)), "must be boolean"),
        (lambda: Mask([True, False]), "boolean tensor, got list"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_operators_of_impossible_arrays_are_one_line(make: Callable[[], object], says: str) -> None:
    refusal(make, says)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 4), torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4) > 0])
def test_matrices_of_any_real_kind_are_taken(matrix: Tensor) -> None:
    operator = Matrix.create(matrix, (4,))
    y = operator(Y)
    for name in ("dps", "ddrm", "mgps"):
        draws = sample(make_sampler(name, {"steps": 2}), Problem(PRIOR, GaussianLikelihood(operator, y, 0.1)), 1).draws
        assert bool(draws.isfinite().all())


def test_a_mask_of_numpy_is_taken() -> None:
    assert torch.equal(Mask(np.array([True, False]))(torch.ones(1, 2)), torch.tensor([[1.0, 0.0]]))  # pyright: ignore


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    """An untrained prior of images from -1 to 1."""
    network = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=8)
    file = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    save_prior(file, network.build().state_dict(), PriorSettings(network=network, event_shape=(3, 16, 16)))
    return load_prior(file)


BYTES = torch.full((2, 3, 16, 16), 200, dtype=torch.uint8)
OPERATORS = [
    "identity",
    "box-inpainting",
    "random-inpainting",
    "super-resolution",
    "gaussian-blur",
    "high-dynamic-range",
]


@pytest.mark.parametrize("name", OPERATORS)
def test_bytes_against_a_prior_of_small_values_are_refused(name: str, prior: Denoiser) -> None:
    operator = make_operator(name, prior.signal_shape, value_range=prior.signal_range)
    refusal(lambda: Problem.simulate(prior, operator, BYTES, sigma_y=0.1), "go from 200 to 200, those of the prior")
    measured = operator(BYTES.float() / 127.5 - 1) * 127.5 + 127.5
    problem = Problem.of(prior, GaussianLikelihood(operator, measured, 0.1))
    refusal(lambda: sample(SAMPLER, problem), "far more than signals from -1 to 1 can give")


def test_noise_far_above_the_range_is_no_mistake_of_scale(prior: Denoiser) -> None:
    problem = Problem.simulate(prior, Identity(), torch.zeros(1, *prior.signal_shape), sigma_y=100.0)
    assert sample(SAMPLER, problem).draws.shape[0] == 1


COUNTS: dict[str, tuple[dict[str, Any], str]] = {
    "no count": ({"n": None}, "n must be a whole number"),
    "a text": ({"n": "2"}, "n must be a whole number"),
    "a fraction": ({"n": 2.0}, "n must be a whole number"),
    "a truth value": ({"n": True}, "n must be a whole number"),
    "zero": ({"n": 0}, "positive multiple"),
    "no seed": ({"seed": None}, "seed must be a whole number"),
    "a seed that is text": ({"seed": "a"}, "seed must be a whole number"),
    "too few seeds": ({"seed": [1]}, "1 seeds for 2 observations"),
    "half a chunk": ({"chunk": 1.5}, "chunk must be a whole number"),
    "no choice": ({"on_nan": None}, "unknown choice"),
    "a number as a file": ({"checkpoint": 5}, "cannot write 5"),
    "a null byte": ({"checkpoint": "a\0b"}, "null byte"),
    "no folder": ({"checkpoint": "/proc/nowhere/run"}, "cannot write"),
    "a folder": ({"checkpoint": "."}, "not a checkpoint of a sampling run|is a folder"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_impossible_arguments_are_one_line_before_anything_is_drawn(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, says = COUNTS[name]
    problem = Problem(PRIOR, GaussianLikelihood(Identity(), Y, 0.1))
    refusal(lambda: sample(SAMPLER, problem, **options), says)
    assert list(tmp_path.iterdir()) == []


def test_counts_and_seeds_of_numpy_and_torch_are_those_of_python() -> None:
    problem = Problem(PRIOR, GaussianLikelihood(Identity(), Y, 0.1))
    want = sample(SAMPLER, problem, 2, seed=3).draws
    assert torch.equal(sample(SAMPLER, problem, np.int64(2), seed=np.int32(3)).draws, want)  # pyright: ignore
    assert torch.equal(sample(SAMPLER, problem, torch.tensor(2), seed=torch.tensor(3)).draws, want)  # pyright: ignore
    pairs = sample(SAMPLER, problem, 2, seed=np.array([3, 4])).draws  # pyright: ignore[reportArgumentType]
    assert torch.equal(pairs, sample(SAMPLER, problem, 2, seed=[3, 4]).draws)


def test_a_class_in_place_of_a_sampler_is_one_line() -> None:
    problem = Problem(PRIOR, GaussianLikelihood(Identity(), Y, 0.1))
    refusal(lambda: sample(type(SAMPLER), problem), "is a class of samplers")  # pyright: ignore[reportArgumentType]
