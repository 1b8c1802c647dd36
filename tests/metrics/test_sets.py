"""Frechet and kernel distances against SciPy, explicit sums and their expectation; the registered set metrics."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from midguide.errors import CheckpointError, ShapeError
from midguide.metrics.base import SET_METRICS
from midguide.metrics.features import CLASSIFIER, INCEPTION_FILE, Features, classifier_features, inception_features
from midguide.metrics.sets import FeatureDistance, frechet_distance, kernel_distance


def features(n, d=6, *, seed, scale=1.0, shift=0.0):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows @ torch.linspace(0.5, 1.5, d * d, dtype=torch.float64).reshape(d, d) * scale + shift


def frechet_by_scipy(a, b):
    """The formula of the original FID, with SciPy's matrix square root."""
    a, b = a.numpy(), b.numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * np.real(root))


def test_frechet_distance_is_that_of_scipy():
    a = features(40, seed=0) + torch.randn(40, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    b = features(30, seed=1, scale=1.5, shift=0.3)
    b = b + torch.randn(30, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    # sqrtm of a product that is not symmetric is the less accurate of the two.
    assert frechet_distance(a, b) == pytest.approx(float(frechet_by_scipy(a, b)), rel=1e-8)


def test_frechet_distance_of_fewer_images_than_features_is_finite_and_zero_for_one_set():
    a = features(4, 12, seed=0)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6 * float(a.square().sum()))  # roots of rounding errors
    assert np.isfinite(frechet_distance(a, features(5, 12, seed=1)))


def test_frechet_distance_is_biased_and_kernel_distance_is_not():
    """Pairs of sets of 20 of one law, 200 times: the mean of the first is away from 0, that of the second is not.

    Five standard errors: one false alarm in a million, for another seed.
    """
    pairs = [(features(20, seed=2 * i), features(20, seed=2 * i + 1)) for i in range(200)]
    frechet = torch.tensor([frechet_distance(a, b) for a, b in pairs])
    kernel = torch.tensor([kernel_distance(a, b) for a, b in pairs])
    assert frechet.mean() > 5 * frechet.std() / 200**0.5
    assert kernel.mean().abs() < 5 * kernel.std() / 200**0.5


def test_kernel_distance_is_the_sum_over_all_pairs():
    a, b = features(5, seed=0), features(7, seed=1, shift=0.5)

    def k(u, v):
        return (float(u @ v) / 6 + 1) ** 3

    within_a = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(k(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
    between = sum(k(u, v) for u in a for v in b) / 35
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-10)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_distance_grows_with_the_shift_of_a_set(distance):
    a = features(200, seed=0)
    values = [distance(a, features(200, seed=1, shift=shift)) for shift in (0.0, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[2] > 10 * abs(values[0])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_single_images_and_different_features_are_refused(distance):
    with pytest.raises(ShapeError, match="at least 2"):
        distance(features(1, seed=0), features(5, seed=0))
    with pytest.raises(ShapeError):
        distance(features(5, 4, seed=0), features(5, seed=0))


def test_features_scale_and_clamp_images():
    network = Features("sums", lambda x: x.flatten(1)[:, :2], 2, (1, -1, -1))
    images = torch.tensor([0.0, 255.0, 300.0, 51.0]).reshape(1, 1, 2, 2)
    assert network(images, (0, 255)).tolist() == [[-1.0, 1.0]]
    with pytest.raises(ShapeError, match="sums"):
        network(torch.zeros(1, 3, 2, 2))


def faces(n, *, noise, seed=0):
    """Smooth pictures with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)
    return smooth + noise * torch.randn(smooth.shape, generator=generator)


@pytest.mark.parametrize("name", [name for name in SET_METRICS if CLASSIFIER in name])
def test_shipped_features_tell_noise(name):
    truths = faces(40, noise=0.0)
    values = [SET_METRICS.make(name)(faces(40, noise=noise, seed=1), truths) for noise in (0.0, 0.1, 0.3)]
    assert values == sorted(values)
    SET_METRICS.make(name).check((3, 64, 64))
    with pytest.raises(ShapeError, match=CLASSIFIER):
        SET_METRICS.make(name).check((3, 32, 32))


def test_card_of_the_shipped_features_says_what_they_are():
    folder = Path(str(resources.files("midguide"))) / "metrics" / "shipped"
    card = json.loads((folder / f"{CLASSIFIER}.json").read_text())
    features = classifier_features()
    assert features.files == {f"{CLASSIFIER}.safetensors": card["sha256"]}
    assert features.size == card["features"]
    assert "non-commercial" in card["license"]
    assert min(card["held_out_accuracy"][question] for question in ("angle", "change")) > 0.5
    assert (folder / f"{CLASSIFIER}.safetensors").stat().st_size <= 2**20


def test_value_names_what_it_was_measured_with():
    metric = FeatureDistance(kernel_distance, classifier_features)
    assert metric.record() == {"weights": classifier_features().files}


def test_inception_is_refused_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"needs the file {INCEPTION_FILE}.*\n?hint: put it there"):
        inception_features()
    (tmp_path / INCEPTION_FILE).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not the published file"):
        inception_features()
