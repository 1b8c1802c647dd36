from __future__ import annotations

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.maths.autodiff import vjp
from midguide.operators import make_operator
from midguide.operators.phase_retrieval import PhaseRetrieval

SHAPE = (2, 6, 8)


def images(rows: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def test_it_is_the_modulus_of_numpys_transform_of_the_padded_image() -> None:
    x = images(3)
    padded = np.pad((x.numpy() + 1) / 2, ((0, 0), (0, 0), (2, 2), (3, 3)))
    want = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(padded, (-2, -1)), norm="ortho"), (-2, -1)))
    np.testing.assert_allclose(PhaseRetrieval((2, 3))(x).numpy(), want, atol=1e-13)  # 140 terms of size 1


def test_registered_padding_is_a_quarter_of_each_side() -> None:
    assert make_operator("phase-retrieval", (3, 256, 256))(torch.zeros(1, 3, 256, 256)).shape == (1, 3, 384, 384)
    assert make_operator("phase-retrieval", (1, 16, 24))(torch.zeros(1, 1, 16, 24)).shape == (1, 1, 24, 36)


def test_energy_is_kept() -> None:
    x = images(3)
    energy = PhaseRetrieval((2, 3))(x).square().flatten(1).sum(1)
    torch.testing.assert_close(energy, ((x + 1) / 2).square().flatten(1).sum(1))


def test_an_image_and_its_rotation_by_half_a_turn_look_the_same() -> None:
    x, operator = images(2), PhaseRetrieval((2, 3))
    torch.testing.assert_close(operator(x.flip(-1, -2)), operator(x))


def test_derivative_agrees_with_finite_differences() -> None:
    operator, x, direction = PhaseRetrieval((1, 2)), images(1), images(2)[1:]
    y, pullback = vjp(operator, x)
    w = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
    step = 1e-6
    slope = ((operator(x + step * direction) - operator(x - step * direction)) * w).sum() / (2 * step)
    # Central differences of step 1e-6: curvature 1/|z| <= 1e3 times step^2, and rounding 1e-15 over the step.
    assert float((pullback(w) * direction).sum()) == pytest.approx(float(slope), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_at_zero_modulus_is_zero(dtype: torch.dtype) -> None:
    black = torch.full((1, *SHAPE), -1.0, dtype=dtype)
    y, pullback = vjp(PhaseRetrieval((2, 2)), black)
    assert not bool(y.any())
    assert not bool(pullback(torch.ones_like(y)).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_is_bounded_however_small_the_modulus(dtype: torch.dtype) -> None:
    tiny = 100 * torch.finfo(dtype).tiny  # its square is zero
    x = torch.full((1, 1, 4, 4), -1.0, dtype=dtype)
    for offset in (tiny, torch.finfo(dtype).eps, 1e-3):
        y, pullback = vjp(lambda u, o=offset: PhaseRetrieval((1, 1))(o * u - 1), x.abs())
        gradient = pullback(torch.ones_like(y)) / offset
        # |d|z|| <= |dz|, and F is orthonormal: at most the root of the 36 measurements, over 2 for x to [0, 1].
        assert float(gradient.norm()) <= 3.0 * (1 + 1e-3)


def test_bad_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="oversampling must be from 0 to 64, got -1"):
        make_operator("phase-retrieval", (3, 16, 16), oversampling=-1.0)
    with pytest.raises(ShapeError, match="expected an image"):
        make_operator("phase-retrieval", (16,))
