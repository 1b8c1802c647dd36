from __future__ import annotations

import pytest
import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.maths.rng import Rng
from midguide.operators.motion_kernel import motion_kernel, motion_path

SEEDS = range(20)


def stream(seed: int) -> Rng:
    return Rng([(seed, "motion-blur", 0)])


def length(path: Tensor) -> float:
    return float(path.diff(dim=0).norm(dim=1).sum())


def turning(path: Tensor) -> float:
    """The sum of all changes of direction, in radians."""
    steps = path.diff(dim=0)
    angles = torch.atan2(steps[:, 0], steps[:, 1]).diff()
    return float(torch.atan2(angles.sin(), angles.cos()).abs().sum())


@pytest.mark.parametrize("size", [1, 3, 15, 61])
@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
def test_a_kernel_is_a_density_with_its_mass_in_the_centre(size: int, intensity: float) -> None:
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    for seed in SEEDS:
        kernel = motion_kernel(size, intensity, stream(seed))
        assert kernel.shape == (size, size)
        assert bool((kernel >= 0).all())
        # 4000 additions of numbers below 1 in float64; positions up to 30.
        assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-12)
        assert float(kernel.sum(1) @ offsets) == pytest.approx(0.0, abs=1e-10)
        assert float(kernel.sum(0) @ offsets) == pytest.approx(0.0, abs=1e-10)


def test_without_intensity_the_path_is_straight_at_constant_speed() -> None:
    for seed in SEEDS:
        path = motion_path(30.0, 0.0, stream(seed))
        values = torch.linalg.svdvals(path - path.mean(0))
        assert float(values[1]) < 1e-9  # rank one
        speeds = path.diff(dim=0).norm(dim=1)
        assert float((speeds - 0.03).abs().max()) < 1e-12


def test_the_kernel_of_a_straight_path_is_a_line() -> None:
    for seed in SEEDS:
        kernel = motion_kernel(61, 0.0, stream(seed))
        rows, columns = kernel.nonzero().double().sub(30).unbind(1)
        weights = kernel[kernel > 0]
        covariance = torch.cov(torch.stack([rows, columns]), aweights=weights, correction=0)
        across, along = torch.linalg.eigvalsh(covariance).tolist()
        # Sharing a point bilinearly spreads it by p (1 - p) <= 1/4 along each axis; a line of length 30 has 30^2 / 12.
        assert across <= 0.25
        assert along == pytest.approx(75.0, rel=0.02)


def test_length_and_turning_grow_with_the_intensity() -> None:
    for seed in SEEDS:
        paths = [motion_path(30.0, intensity, stream(seed)) for intensity in (0.0, 0.3, 0.6, 1.0)]
        lengths = [length(path) for path in paths]
        assert lengths == sorted(lengths)
        assert lengths[0] == pytest.approx(30.0)
        assert 30.0 < lengths[-1] <= 120.0
        assert turning(paths[0]) < 1e-6
        assert turning(paths[1]) > 0.1
    means = [sum(turning(motion_path(30.0, i, stream(s))) for s in SEEDS) for i in (0.0, 0.3, 0.6, 1.0)]
    assert means == sorted(means)


def test_a_path_does_not_double_back_unless_it_is_shaky() -> None:
    def straightness(intensity: float) -> float:
        paths = [motion_path(1.0, intensity, stream(seed)) for seed in SEEDS]
        return sum(float(path[-1].norm()) / length(path) for path in paths) / len(paths)

    assert straightness(0.0) == pytest.approx(1.0)
    assert straightness(0.0) > straightness(0.3) > straightness(1.0)


def test_a_kernel_is_that_of_its_seed() -> None:
    assert torch.equal(motion_kernel(15, 0.5, stream(0)), motion_kernel(15, 0.5, stream(0)))
    assert not torch.equal(motion_kernel(15, 0.5, stream(0)), motion_kernel(15, 0.5, stream(1)))


@pytest.mark.parametrize("intensity", [-0.1, 1.1, float("nan")])
def test_an_intensity_outside_its_range_is_refused(intensity: float) -> None:
    with pytest.raises(ConfigError, match=r"intensity must be in \[0, 1\]"):
        motion_kernel(15, intensity, stream(0))


@pytest.mark.parametrize("size", [0, -1, 4])
def test_a_kernel_without_a_centre_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="odd and positive"):
        motion_kernel(size, 0.5, stream(0))
