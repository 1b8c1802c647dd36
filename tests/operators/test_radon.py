from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.transform import iradon
from skimage.transform import radon as their_radon

from midguide.errors import ConfigError, ShapeError
from midguide.likelihoods import observe_counts
from midguide.maths.autodiff import jvp, linearize
from midguide.operators import Radon, make_operator


def smooth_image(size: int, rng: np.random.Generator) -> np.ndarray:
    image = np.zeros((size, size))
    inside = slice(size // 4, 3 * size // 4)
    image[inside, inside] = rng.random((inside.stop - inside.start,) * 2)
    return gaussian_filter(image, 2.0)


def test_projections_of_smooth_images_are_scikit_images(rng: np.random.Generator) -> None:
    image, angles = smooth_image(63, rng), np.arange(0.0, 180.0, 7.0)
    want = their_radon(image, angles, circle=False)  # its center is cell `len // 2`
    cells = 2 * (len(want) // 2) + 1
    ours = Radon(tuple(angles), cells, 63, 63)(torch.from_numpy(image)[None])[0].numpy().T[: len(want)] * 63
    # theirs interpolates between pixels, ours integrates over squares: second order in the pixel over the width of 2
    assert np.linalg.norm(ours - want) < 2e-3 * np.linalg.norm(want)


def test_filtered_back_projection_is_as_good_as_scikit_images(rng: np.random.Generator) -> None:
    image, angles = smooth_image(63, rng), np.arange(180.0)
    operator = Radon(tuple(angles), 91, 63, 63)
    ours = operator.filtered_back_projection(operator(torch.from_numpy(image)[None]))[0].numpy()
    theirs = iradon(their_radon(image, angles, circle=False), angles, circle=False, filter_name="ramp", output_size=63)
    assert np.linalg.norm(ours - image) < 1.1 * np.linalg.norm(theirs - image) < 0.05 * np.linalg.norm(image)


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, 213.0])
def test_a_view_sees_all_of_the_image(angle: float, rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.random((1, 6, 9)))
    y = Radon((angle,), 24, 6, 9, spacing=0.5)(image)
    assert float(y.sum()) == pytest.approx(float(image.sum()) / 9 / 0.5, rel=1e-12)


def test_a_disk_has_the_projections_of_a_disk() -> None:
    size, radius = 201, 60.0
    place = torch.arange(size, dtype=torch.float64) - size // 2
    disk = (place[:, None].square() + place.square() <= radius**2).double()
    y = Radon((0.0, 20.0, 70.0), size, size, size)(disk[None])[0] * size
    want = 2 * (radius**2 - place.square()).clamp_min(0.0).sqrt()
    # the rim of the disk is made of squares: about one pixel at each end
    assert float((y - want).abs().mean()) < 0.5


def test_a_fan_from_far_away_is_parallel(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.random((1, 8, 8)))
    angles = (0.0, 33.0, 90.0)
    parallel, fan = Radon(angles, 13, 8, 8), Radon(angles, 13, 8, 8, distance=1e5)
    # rays turn by 4e-6 over the image of 8 pixels
    torch.testing.assert_close(fan(image), parallel(image), rtol=0, atol=1e-4)


def test_a_fan_magnifies_what_is_near_its_source() -> None:
    image = torch.zeros(1, 41, 41, dtype=torch.float64)
    image[0, 5, 30] = 1.0  # 15 pixels up, 10 to the right
    y = Radon((0.0,), 1001, 41, 41, spacing=0.1, distance=2.0)(image)[0, 0]
    center = float((y * (torch.arange(1001) - 500)).sum() / y.sum()) / 10
    assert center == pytest.approx(10 * 82 / (82 - 15), abs=0.01)  # a tenth of a cell


def test_it_can_be_differentiated_as_often_as_wanted(rng: np.random.Generator) -> None:
    operator = make_operator("radon", (1, 6, 6), views=4)
    x, v = torch.from_numpy(rng.normal(size=(2, 2, 1, 6, 6)))
    torch.testing.assert_close(jvp(operator, x, v)[1], operator(v))
    torch.testing.assert_close(linearize(operator, x)[1](v), operator(v))


@pytest.mark.parametrize(
    "settings", [{"views": 0}, {"spacing": 0.0}, {"detectors": 0}, {"distance": 0.5}, {"distance": -2.0}]
)
def test_impossible_geometries_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_operator("radon", (1, 8, 8), **settings)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected images of 8x8"):
        make_operator("radon", (1, 8, 8))(torch.zeros(1, 1, 8, 9))


def test_back_projection_of_a_fan_is_refused() -> None:
    fan = make_operator("radon", (1, 8, 8), distance=2.0)
    assert isinstance(fan, Radon)
    with pytest.raises(ConfigError, match="parallel beams"):
        fan.filtered_back_projection(torch.zeros(1, 1, 60, fan.detectors))
    assert fan.detectors > math.hypot(8, 8)


def test_transmission_of_a_slab_is_that_of_beer_and_lambert() -> None:
    operator = make_operator("transmission", (1, 8, 8), views=1, detectors=8, absorption=2.0)
    slab = torch.zeros(1, 1, 8, 8)
    slab[..., :4, :] = 1.0
    torch.testing.assert_close(operator(slab), torch.full((1, 1, 1, 8), math.exp(-1.0)))
    with pytest.raises(ConfigError, match="absorption"):
        make_operator("transmission", (1, 8, 8), absorption=0.0)


def test_photons_that_pass_are_counted() -> None:
    image = torch.rand(1, 1, 8, 8) * 2 - 1
    operator = make_operator("transmission", (1, 8, 8), views=4, value_range=(-1.0, 1.0))
    likelihood = observe_counts(operator, image, 1000.0)
    passed = make_operator("transmission", (1, 8, 8), views=4)((image + 1) / 2)
    torch.testing.assert_close(likelihood.intensity(image), 1000 * passed)
