from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.maths.rng import Rng
from midguide.operators import CoilFourier, Fourier, coil_maps, make_operator
from midguide.operators.fourier import cartesian_mask

SPACES = [(9,), (8, 7), (4, 5, 6)]


def centered(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


@pytest.mark.parametrize("space", SPACES)
def test_spectra_of_complex_signals_are_numpys(space: tuple[int, ...], rng: np.random.Generator) -> None:
    x, mask = rng.normal(size=(2, 2, *space)), rng.random(space) > 0.4
    want = mask * centered(x[:, 0] + 1j * x[:, 1], tuple(range(1, 1 + len(space))))
    y = Fourier(torch.from_numpy(mask), complex_signal=True)(torch.from_numpy(x))
    np.testing.assert_allclose(torch.view_as_complex(y).numpy(), want, atol=1e-13)


@pytest.mark.parametrize("space", SPACES)
def test_each_coil_sees_the_spectrum_of_its_share(space: tuple[int, ...], rng: np.random.Generator) -> None:
    x, mask, maps = rng.normal(size=(2, 2, *space)), rng.random(space) > 0.4, coil_maps(3, space)
    shares = torch.view_as_complex(maps).numpy() * (x[:, 0] + 1j * x[:, 1])[:, None]
    want = mask * centered(shares, tuple(range(2, 2 + len(space))))
    y = CoilFourier(torch.from_numpy(mask), maps, complex_signal=True)(torch.from_numpy(x))
    np.testing.assert_allclose(torch.view_as_complex(y).numpy(), want, atol=1e-13)


@pytest.mark.parametrize("complex_signal", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_singular_values_are_those_of_the_dense_matrix(
    space: tuple[int, ...], complex_signal: bool, dense: Callable[..., np.ndarray], rng: np.random.Generator
) -> None:
    operator = Fourier(torch.from_numpy(rng.random(space) > 0.5), complex_signal)
    shape = (2, *space) if complex_signal else (1, *space)
    want = np.linalg.svd(dense(operator, shape), compute_uv=False)
    values = operator.singular_values(torch.zeros(1, *shape, dtype=torch.float64)).sort(descending=True).values
    np.testing.assert_allclose(values.numpy()[: len(want)], want, atol=1e-14)


def test_squares_of_sensitivities_sum_to_one() -> None:
    for space in SPACES:
        torch.testing.assert_close(coil_maps(4, space).square().sum((0, -1)), torch.ones(space, dtype=torch.float64))


@pytest.mark.parametrize("pattern", ["random", "gaussian"])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_mask_measures_its_share_and_its_center(pattern: str, axes: int) -> None:
    mask = cartesian_mask((20, 30, 40), 5.0, 0.1, pattern, axes, Rng([(0, "mask")]))
    assert mask.double().mean() == pytest.approx(1 / 5)
    assert bool(mask[..., 18:22].all()) if axes == 1 else bool(mask[:, 14:17, 18:22].all())
    assert bool((mask == mask[:1]).all())


def test_a_gaussian_mask_prefers_low_frequencies() -> None:
    def spread(pattern: str) -> float:
        mask = cartesian_mask((1000,), 4.0, 0.0, pattern, 1, Rng([(0, "mask")]))
        return float((torch.arange(1000.0)[mask] - 500).std())

    # a standard deviation of 200 without replacement, against 289 of the uniform law; 250 draws: 5 % is one deviation
    assert spread("gaussian") < 235 < 260 < spread("random")


def test_an_equispaced_mask_takes_every_fourth_column_and_the_center() -> None:
    mask = cartesian_mask((2, 16), 4.0, 0.25, "equispaced", 1, Rng([(0, "mask")]))
    assert mask[0].nonzero().flatten().tolist() == [0, 4, 6, 7, 8, 9, 12]


def test_observations_may_have_masks_of_their_own() -> None:
    operator = make_operator("fourier", (1, 16, 16), count=3)
    assert isinstance(operator, Fourier)
    assert operator.observations == 3
    assert not torch.equal(operator.mask[0], operator.mask[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"acceleration": 0.5}, "describe no mask"),
        ({"center": 2.0}, "describe no mask"),
        ({"axes": 3}, "describe no mask"),
        ({"pattern": "radial"}, "unknown pattern `radial`"),
        ({"pattern": "equispaced", "axes": 2}, "undersamples one axis"),
    ],
)
def test_impossible_scans_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_operator("fourier", (1, 16, 16), **settings)


def test_a_scan_without_coils_is_refused() -> None:
    with pytest.raises(ConfigError, match="coils must be at least 1"):
        make_operator("fourier-coils", (1, 16, 16), coils=0)


def test_signals_of_other_channels_or_sizes_are_refused() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    for operator, shape in (
        (Fourier(mask, complex_signal=True), (3, 4, 4)),
        (Fourier(mask), (1, 4, 5)),
        (CoilFourier(mask, coil_maps(2, (4, 4))), (3, 4, 4)),
    ):
        with pytest.raises(ShapeError, match="do not have the shape"):
            operator(torch.zeros(1, *shape))
    with pytest.raises(ShapeError, match="do not fit a mask"):
        CoilFourier(mask, coil_maps(2, (4, 5)))
    with pytest.raises(ShapeError, match="boolean mask"):
        Fourier(torch.ones(4, 4))
