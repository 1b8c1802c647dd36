from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.maths.autodiff import vjp
from midguide.operators import make_operator
from midguide.operators.nonlinear_blur import NonlinearBlur, ShakenCamera, light_to_srgb, srgb_to_light
from midguide.storage.record import describe


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def make(shape: tuple[int, ...] = (3, 32, 32), **settings: Any) -> NonlinearBlur:
    operator = make_operator("nonlinear-blur", shape, **settings)
    assert isinstance(operator, NonlinearBlur)
    return operator.to(torch.float64)


def test_the_code_is_drawn_once() -> None:
    operator, x = make(seed=3), images(2, 3, 32, 32)
    assert torch.equal(operator(x), operator(x))
    assert torch.equal(operator(x), make(seed=3)(x))
    assert not torch.allclose(operator(x), make(seed=4)(x), atol=1e-3)
    assert operator.code.shape == (512, 2, 2)
    assert float(operator.code.std()) == pytest.approx(1.2, rel=0.1)  # 2048 draws: 6 standard errors
    assert describe(operator)["code"]["sha256"] != describe(make(seed=4))["code"]["sha256"]
    assert describe(operator)["model"] == describe(make(seed=4))["model"]


def test_each_observation_may_have_a_code_of_its_own() -> None:
    one, three, x = make(seed=3), make(seed=3, count=3), images(1, 3, 32, 32)
    assert three.observations == 3
    y = three(x.expand(3, -1, -1, -1))
    torch.testing.assert_close(y[:1], one(x))
    assert not torch.allclose(y[0], y[1], atol=1e-3)
    with pytest.raises(ConfigError, match="count must be at least 1"):
        make(count=0)


def test_response_and_its_inverse_cancel() -> None:
    value = torch.linspace(-1.0, 2.0, 301, dtype=torch.float64)
    torch.testing.assert_close(light_to_srgb(srgb_to_light(value)), value)
    for response in (srgb_to_light, light_to_srgb):
        points = torch.tensor([-1.0, 0.0, 0.0031308, 0.04045, 1.0], dtype=torch.float64)
        value, pullback = vjp(response, points)
        slope = pullback(torch.ones_like(value))
        assert bool(((slope > 0.05) & (slope < 13.0)).all())  # between 1/12.92 and 12.92: finite, never zero


def test_a_constant_image_stays_as_it_is() -> None:
    for level in (-1.0, -0.97, 0.3, 1.0):
        image = torch.full((1, 3, 32, 32), level, dtype=torch.float64)
        torch.testing.assert_close(make()(image), image)


def test_it_blurs_light_and_not_pixel_values() -> None:
    operator, x = make(), images(1, 3, 32, 32)
    u = x.flip(-1)
    mixed = operator((x + u) / 2) - (operator(x) + operator(u)) / 2
    assert float(mixed.abs().max()) > 0.05  # zero for a linear operator
    checkers = torch.ones(32, 32, dtype=torch.float64)
    checkers[::2, ::2] = checkers[1::2, 1::2] = -1.0
    # Half the pixels white: the mean is light 1/2, pixel value 0.735, and not 0.5; a blur only approaches it.
    assert float(operator(checkers[None, None].expand(1, 3, -1, -1)).mean() + 1) / 2 > 0.52


def test_the_blur_differs_over_the_image() -> None:
    points = torch.full((2, 1, 64, 64), -1.0, dtype=torch.float64)
    points[0, 0, 16, 16] = points[1, 0, 48, 48] = 1.0
    y = make((1, 64, 64))(points)
    assert not torch.allclose(y[0, 0, 4:28, 4:28], y[1, 0, 36:60, 36:60], atol=1e-2)


def test_its_kernels_go_from_sharp_to_wide() -> None:
    kernels = ShakenCamera.create(256, 256).kernels
    assert kernels.shape == (8, 61, 61)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(8, dtype=torch.float64))
    assert float(kernels[0, 30, 30]) == pytest.approx(1.0)
    offsets = torch.arange(61, dtype=torch.float64) - 30
    spread = (kernels * (offsets[:, None] ** 2 + offsets**2)).sum((1, 2)).sqrt()
    assert float(spread[0]) < 1e-9
    assert float(spread[1]) < 3.0 < 9.0 < float(spread.max())


def test_bad_input_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ShapeError, match=r"images of shape \(channels, H, W\)"):
        make((16, 16))
    with pytest.raises(ShapeError, match="sides that are multiples of 128, got 3x64x64"):
        make_network((3, 64, 64), tmp_path)
    operator = make(count=2)
    with pytest.raises(ShapeError, match="per_observation=True"):
        NonlinearBlur(operator.model, operator.code)(images(2, 3, 32, 32))
    with pytest.raises(CheckpointError, match="file of weights .* (cannot be read|does not exist)"):
        make(weights="missing.pth")


def make_network(shape: tuple[int, ...], folder: Any) -> NonlinearBlur:
    """The operator with a file of random weights of the published shape, most of them zero."""
    from midguide.nn.kernel_space import KernelSpaceConfig, KernelSpaceNetwork, _published_name

    with torch.device("meta"):
        template = KernelSpaceNetwork(KernelSpaceConfig())
    weights = {_published_name(name): torch.zeros(value.shape) for name, value in template.state_dict().items()}
    weights["recon_trunk.28.bias"] = torch.tensor([0.1, 0.2, -0.3])
    torch.save(weights, folder / "weights.pth")
    operator = make_operator("nonlinear-blur", shape, weights=str(folder / "weights.pth"))
    assert isinstance(operator, NonlinearBlur)
    return operator


def test_the_published_network_takes_the_place_of_the_stand_in(tmp_path: Any) -> None:
    operator, x = make_network((3, 128, 128), tmp_path), images(1, 3, 128, 128)
    assert operator.code.shape == (512, 1, 1)
    shift = 2 * torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)[:, None, None]  # [0, 1] to [-1, 1]
    torch.testing.assert_close(operator(x), (x + shift).clamp(-1, 1), rtol=0.0, atol=1e-6)  # weights of float32
    assert describe(operator)["model"]["type"] == "KernelSpaceNetwork"
