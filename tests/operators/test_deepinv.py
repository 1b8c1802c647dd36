from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
import torch

from midguide.errors import ConfigError
from midguide.operators.base import LinearOperator
from midguide.operators.deepinv import from_deepinv
from midguide.testing import check_operator


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)  # makes the import fail as if it were not installed
    monkeypatch.setitem(sys.modules, "deepinv.physics", None)
    with pytest.raises(ConfigError, match=r"midguide\[deepinv\]"):
        from_deepinv(object())


@pytest.fixture
def physics() -> ModuleType:
    return pytest.importorskip("deepinv.physics")


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
    with pytest.raises(ConfigError, match="the adjoint of Tomography is none"):
        from_deepinv(approximate, (1, 16, 16))


def test_nonlinear_operators_of_the_library_are_not_linear(physics: ModuleType) -> None:
    operator = from_deepinv(physics.Physics(A=lambda x, **_: x**2))
    assert not isinstance(operator, LinearOperator)
    check_operator(operator, (1, 8, 8))
