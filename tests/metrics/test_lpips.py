"""LPIPS against a second implementation in plain NumPy, with small random weights and, where there are, published ones.

Published weights are not part of the package. With MIDGUIDE_WEIGHTS naming a folder that holds
squeezenet11-caffe-lpips-v0.1.safetensors the tests that need it run; otherwise they say why they do not.
"""

import math

import numpy as np
import pytest
import torch

from midguide.errors import CheckpointError, NumericalError, ShapeError
from midguide.metrics.lpips import PUBLISHED, Published, assembled, load_lpips
from midguide.metrics.weights import read_weights, weights_folder
from midguide.nn.perceptual_features import BODIES

CAFFE = PUBLISHED["squeezenet1.1-caffe"].files[0][0]
published = pytest.mark.skipif(
    not (weights_folder() / CAFFE).is_file(), reason=f"{CAFFE} is not in the folder that MIDGUIDE_WEIGHTS names"
)


def random_weights(name, seed=0):
    """Tensors under their published names: He-normal convolutions, and heads that are not negative."""
    body, generator = BODIES[name], torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in body.make().state_dict().items()}
    tensors = {}
    for key, shape in shapes.items():
        scale = (2 / shape[1:].numel()) ** 0.5 if len(shape) == 4 else 0.1
        tensors[f"features.{key}"] = scale * torch.randn(shape, generator=generator)
    for i, width in enumerate(body.channels):
        tensors[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return tensors


def images(count, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, side // 4, side // 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").tanh()


# The second implementation: float64, windows and einsum, written from the papers' definitions.


def convolution(x, weight, bias, stride=1, padding=0):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def pooled(x):
    """Maxima of 3x3 at stride 2; windows that overlap the lower right edge are cut."""
    rows, columns = (range(0, 2 * math.ceil((side - 3) / 2) + 1, 2) for side in x.shape[1:])
    return np.stack([[x[:, i : i + 3, j : j + 3].max((1, 2)) for j in columns] for i in rows]).transpose(2, 0, 1)


def squeezenet_by_numpy(tensors, image):
    """The seven activations of SqueezeNet 1.1."""
    w = {key.removeprefix("features."): value.double().numpy() for key, value in tensors.items()}

    def fire(x, n):
        x = np.maximum(convolution(x, w[f"{n}.squeeze.weight"], w[f"{n}.squeeze.bias"]), 0)
        one = convolution(x, w[f"{n}.expand1x1.weight"], w[f"{n}.expand1x1.bias"])
        three = convolution(x, w[f"{n}.expand3x3.weight"], w[f"{n}.expand3x3.bias"], padding=1)
        return np.maximum(np.concatenate([one, three]), 0)

    first = np.maximum(convolution(image, w["0.weight"], w["0.bias"], stride=2), 0)
    second = fire(fire(pooled(first), 3), 4)
    third = fire(fire(pooled(second), 6), 7)
    rest = [fire(pooled(third), 9)]
    for n in (10, 11, 12):
        rest.append(fire(rest[-1], n))
    return [first, second, third, *rest]


def lpips_by_numpy(tensors, x, truth):
    """Of two images in [-1, 1], shape (3, H, W)."""
    shift = np.array([-0.030, -0.088, -0.188])[:, None, None]
    scale = np.array([0.458, 0.448, 0.450])[:, None, None]
    maps = [squeezenet_by_numpy(tensors, (i.double().clamp(-1, 1).numpy() - shift) / scale) for i in (x, truth)]
    total = 0.0
    for i, (a, b) in enumerate(zip(*maps, strict=True)):
        a, b = (m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in (a, b))
        key = f"lin{i}.model.1.weight"
        head = tensors[key if key in tensors else f"lpips.{key}"].double().numpy().ravel()
        total += np.einsum("chw,c->hw", (a - b) ** 2, head).mean()
    return total


def check_against_numpy(tensors, side):
    metric, x, truth = assembled(BODIES["squeezenet1.1"], tensors), images(2, side), images(2, side, seed=1)
    x[0, 0, 0, 0] = 3.0  # counts as 1
    want = [lpips_by_numpy(tensors, *pair) for pair in zip(x, truth, strict=True)]
    # float32 through 26 convolutions against float64
    assert metric(x, truth).tolist() == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("side", [24, 36])
def test_lpips_is_that_of_numpy(side):
    check_against_numpy(random_weights("squeezenet1.1"), side)


@published
def test_lpips_of_published_weights_is_that_of_numpy():
    check_against_numpy(read_weights(CAFFE, "")[0], 64)


@published
def test_published_weights_see_more_damage_as_more():
    metric, truth = load_lpips("squeezenet1.1-caffe"), images(3, 64)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    values = [metric(truth + level * noise, truth).mean() for level in (0.0, 0.02, 0.1, 0.3)]
    assert values[0] == 0
    assert values == sorted(values)
    assert list(metric.files) == [CAFFE]


@pytest.mark.parametrize("name", sorted(BODIES))
def test_lpips_is_a_distance_of_one_image_and_its_truth(name):
    metric = assembled(BODIES[name], random_weights(name))
    x, truth = images(3, 36), images(3, 36, seed=1)
    found = metric(x, truth)
    assert found.shape == (3,)
    assert bool((found > 0).all())
    assert torch.equal(metric(x, x), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(metric(truth, x), found, rtol=1e-6, atol=0)  # symmetric
    alone = torch.cat([metric(x[i : i + 1], truth[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-7)  # float32 sums in another order
    shared = metric(x, truth[:1])
    torch.testing.assert_close(shared, metric(x, truth[:1].expand(3, -1, -1, -1)), rtol=1e-6, atol=0)
    torch.testing.assert_close(metric(127.5 * (x + 1), 127.5 * (truth + 1), (0, 255)), found, rtol=1e-3, atol=1e-7)


def test_images_that_do_not_fit_are_refused():
    metric = assembled(BODIES["alexnet"], random_weights("alexnet"))
    with pytest.raises(ShapeError, match="at least 31"):
        metric(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    with pytest.raises(ShapeError, match="RGB"):
        metric(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    with pytest.raises(NumericalError, match="NaN"):
        metric(torch.full((1, 3, 64, 64), torch.nan), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_missing_file_is_one_clear_line(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"needs the file {PUBLISHED[name].files[0][0]}.*\n?hint: put it there"):
        load_lpips(name)


def test_files_as_published_are_read(tmp_path, monkeypatch):
    """A backbone with its classifier and heads in a file of their own, as torch.save writes them."""
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(
        PUBLISHED, "test", type(PUBLISHED["alexnet"])("squeezenet1.1", (("net.pth", ""), ("lin.pth", "")))
    )
    tensors = random_weights("squeezenet1.1")
    backbone = {key: value for key, value in tensors.items() if key.startswith("features.")}
    torch.save(backbone | {"classifier.1.bias": torch.zeros(1000)}, tmp_path / "net.pth")
    torch.save({key: value for key, value in tensors.items() if key.startswith("lin")}, tmp_path / "lin.pth")
    metric, x, truth = load_lpips("test"), images(1, 32), images(1, 32, seed=1)
    assert torch.equal(metric(x, truth), assembled(BODIES["squeezenet1.1"], tensors)(x, truth))
    assert set(metric.files) == {"net.pth", "lin.pth"}


def test_damaged_unsafe_and_foreign_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    (tmp_path / "half.safetensors").write_bytes(b"\x10")
    torch.save({"weight": print}, tmp_path / "code.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name in ("half.safetensors", "code.pth", "list.pth"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_weights(name, "")
    torch.save({}, tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(CheckpointError, match="is not the published file"):
        load_lpips("alexnet")
    monkeypatch.setitem(PUBLISHED, "test", Published("alexnet", (("other.pth", ""),)))
    torch.save(random_weights("squeezenet1.1"), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="do not fit LPIPS"):
        load_lpips("test")
