from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch

from midguide import Problem, observe, sample
from midguide.errors import ConfigError
from midguide.operators.base import LinearOperator
from midguide.operators.deepinv import SVDDeepInverse, from_deepinv, physics_of_deepinv
from midguide.priors import Gaussian
from midguide.samplers.ddrm import DDRM
from midguide.samplers.mgps import MGPS
from midguide.storage.record import describe
from midguide.testing import check_operator


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)  # makes the import fail as if it were not installed
    monkeypatch.setitem(sys.modules, "deepinv.physics", None)
    with pytest.raises(ConfigError, match=r"midguide\[deepinv\]"):
        from_deepinv(object())


@pytest.fixture
def physics() -> ModuleType:
    pytest.importorskip("einops", reason="`make interop` has deepinv")  # without torchvision's help: see below
    return physics_of_deepinv()


def test_something_else_is_refused(physics: ModuleType) -> None:
    with pytest.raises(ConfigError, match="got Linear"):
        from_deepinv(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["mask", "blur", "mri"])
def test_linear_operators_of_the_library_satisfy_the_contract(name: str, physics: ModuleType) -> None:
    mask = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.4
    kernel = torch.tensor([[0.1, 0.2, 0.05], [0.05, 0.5, 0.1], [0.0, 0.0, 0.0]])[None, None]
    make = {
        "mask": lambda: physics.Inpainting((2, 8, 8), mask=mask[0].float()),
        "blur": lambda: physics.Blur(kernel, padding="circular"),
        "mri": lambda: physics.MRI(mask=mask[:, :1].float(), img_size=(2, 8, 8)),
    }
    operator = from_deepinv(make[name](), (2, 8, 8))
    assert isinstance(operator, LinearOperator)
    check_operator(operator, (2, 8, 8))


def test_the_adjoint_of_tomography_is_true_where_it_is_differentiated(physics: ModuleType) -> None:
    operator = from_deepinv(physics.Tomography(8, 16, normalize=False), (1, 16, 16))
    check_operator(operator, (1, 16, 16), dtype=torch.float32, pinv_tolerance=math.inf)  # few angles: ill-conditioned


def test_an_approximate_adjoint_is_refused(physics: ModuleType) -> None:
    approximate = physics.Tomography(8, 16, normalize=False, adjoint_via_backprop=False)
    with pytest.raises(ConfigError, match="the adjoint of Tomography is wrong"):
        from_deepinv(approximate, (1, 16, 16))


def test_nonlinear_operators_of_the_library_are_not_linear(physics: ModuleType) -> None:
    operator = from_deepinv(physics.Physics(A=lambda x, **_: x**2))
    assert not isinstance(operator, LinearOperator)
    check_operator(operator, (1, 8, 8))


@pytest.mark.parametrize("kind", ["bicubic", "gaussian", "sinc", "bilinear"])
def test_downsampling_with_a_filter_runs_in_a_sampler(kind: str, physics: ModuleType) -> None:
    """Its filter is a view of conjugate values, which a record has to digest."""
    shape = (1, 16, 16)
    operator = from_deepinv(physics.Downsampling(shape, filter=kind, factor=2), shape)
    prior = Gaussian(torch.zeros(shape), 1.0)
    observed = observe(operator, torch.zeros(1, *shape), 0.1, seed=0)
    samples = sample(MGPS(steps=3), Problem.of(prior, observed), n=1, seed=0)
    assert samples.draws.shape == (1, 1, *shape)
    assert describe(operator) != describe(from_deepinv(physics.Downsampling(shape, filter=kind, factor=4), shape))


def test_a_decomposition_is_used(physics: ModuleType) -> None:
    """Inpainting and colors have one of real numbers; that of MRI is complex, so it stays linear."""
    mask = (torch.arange(64).reshape(1, 8, 8) % 3 > 0).float()
    operators = [physics.Inpainting((1, 8, 8), mask=mask), physics.Denoising(), physics.Demosaicing((3, 8, 8))]
    for library, shape in zip(operators, [(1, 8, 8), (1, 8, 8), (3, 8, 8)], strict=True):
        operator = from_deepinv(library, shape)
        assert isinstance(operator, SVDDeepInverse)
        check_operator(operator, shape)
    observed = observe(from_deepinv(operators[0], (1, 8, 8)), torch.zeros(1, 1, 8, 8), 0.1, seed=0)
    draws = sample(DDRM(steps=5), Problem.of(Gaussian(torch.zeros(1, 8, 8), 1.0), observed), n=2, seed=0).draws
    assert bool(draws.isfinite().all())


def test_what_is_no_operator_here_is_one_line_when_it_is_converted(physics: ModuleType) -> None:
    shape = (1, 8, 8)
    same = physics.Denoising()
    cases = [
        (physics.StackedLinearPhysics([same, same]), "several tensors at once.*\nhint: .*`stack`"),
        (physics.LinearPhysics(A=lambda x, **_: [x, x]), "several tensors at once"),
        (
            physics.LinearPhysics(A=lambda x, **_: torch.fft.fft2(x)),
            "complex numbers of real signals\nhint: .*`fourier`",
        ),
        (physics.LinearPhysics(A=lambda x, **_: x @ x[..., :5, :5]), "fails on signals of shape"),
        (physics.LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda y, **_: y[..., 1:]), "the adjoint of .* gives"),
        (physics.LinearPhysics(A=lambda x, **_: x[:1], A_adjoint=lambda y, **_: y), "1 measurements for 2 signals"),
    ]
    for library, says in cases:
        with pytest.raises(ConfigError, match=says) as caught:
            from_deepinv(library, shape)
        assert "\n" not in caught.value.message
