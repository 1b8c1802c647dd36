"""Every registered operator, and those that only the API makes, satisfy the contract; broken ones do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from midguide.errors import ConvergenceWarning
from midguide.operators import (
    JPEG,
    OPERATORS,
    BlockMean,
    CircularBlur,
    CoilFourier,
    Colorization,
    Decomposed,
    Fourier,
    HighDynamicRange,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    PhaseRetrieval,
    Radon,
    ReflectBlur,
    SeparableBlur,
    Subsample,
    SubsampledTransform,
    SVDOperator,
    ZeroBlur,
    bicubic_downsampling,
    coil_maps,
    compose,
    from_function,
    gaussian_kernel,
    make_operator,
    random_mask,
    stack,
)
from midguide.testing import ContractError, check_operator

IMAGES = [(1, 16, 16), (3, 24, 16), (5, 16, 32)]
ECGS = [(9, 16), (9, 33)]


def shapes(operator: str) -> list[tuple[int, ...]]:
    """Shapes of what the operator measures."""
    return [*(ECGS if operator.startswith("ecg-") else IMAGES[:1] if operator == "fourier-coils" else IMAGES)]


def draw(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(shape))


def mild_kernels(*shape: int) -> Tensor:
    """Asymmetric kernels whose transfer function stays away from zero."""
    kernels = 0.3 * draw(*shape) / math.prod(shape[-2:])
    kernels[..., shape[-2] // 2, shape[-1] // 2] += 0.7
    return kernels


def vectors(*shape: int) -> Tensor:
    """The same for signals."""
    return mild_kernels(*shape[:-1], 1, shape[-1])[..., 0, :]


def needed_settings(name: str, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Settings without which an operator cannot be made."""
    if name.startswith("convolution"):
        np.save(folder / "kernel.npy", mild_kernels(3, 4).numpy())
        return {"path": str(folder / "kernel.npy")}
    if name != "mask-file":
        return {}
    gray = np.random.default_rng(0).choice([0, 255], size=shape[1:]).astype(np.uint8)
    Image.fromarray(gray).save(folder / "mask.png")
    return {"path": str(folder / "mask.png")}


PINV_TOLERANCES = {
    "radon": math.inf,  # 60 views of 16 pixels: singular values from 0.7 down to rounding
    # Cubic rounding, on noise, which has every coefficient between two steps: measured 0.36 at most. Exact rounding is
    # in API below; bounds in the coefficients, and in levels of a portrait, are in tests/operators/test_jpeg.py.
    "jpeg": 0.4,
}


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in OPERATORS for shape in shapes(name)])
def test_registered_operators_satisfy_the_contract(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    operator = make_operator(name, shape, **needed_settings(name, shape, tmp_path))
    check_operator(operator, shape, pinv_tolerance=PINV_TOLERANCES.get(name))


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ecg-missing-block": [{"hidden": "first"}, {"hidden": "random", "count": 3}],
    "ecg-missing-leads": [{"observed": "holter"}, {"observed": "aVR,I,V6", "recorded": 20}],
}


@pytest.mark.parametrize(("name", "settings"), [(name, one) for name, many in SETTINGS.items() for one in many])
def test_ecg_operators_satisfy_the_contract_in_other_settings(name: str, settings: dict[str, Any]) -> None:
    check_operator(make_operator(name, (9, 32), **settings), (9, 32))


API: dict[str, tuple[Callable[[], Operator], tuple[int, ...]]] = {
    "identity of a signal": (Identity, (7,)),
    "matrix": (lambda: Matrix.create(draw(5, 12), (3, 4)), (3, 4)),
    "tall matrix": (lambda: Matrix.create(draw(9, 6), (6,)), (6,)),
    "rank-deficient matrix": (lambda: Matrix.create(draw(8, 2) @ draw(2, 6), (6,)), (6,)),
    "zero matrix": (lambda: Matrix.create(torch.zeros(3, 6), (6,)), (6,)),
    "matrix per observation": (lambda: Matrix.create(draw(4, 5, 8), (8,)), (8,)),
    "matrices of different scales": (
        lambda: Matrix.create(draw(3, 4, 6) * torch.tensor([1.0, 1e-14, 1e-3])[:, None, None], (6,)),
        (6,),
    ),
    "mask of a signal": (lambda: random_mask((30,), 0.5, seed=0), (30,)),
    "mask per channel": (lambda: Mask(draw(3, 6, 5) > 0.5), (3, 6, 5)),
    "mask per observation": (lambda: random_mask((6, 5), 0.4, seed=0, count=4), (3, 6, 5)),
    "mask that hides everything": (lambda: Mask(torch.zeros(5, dtype=torch.bool)), (5,)),
    "one observation with a mask of its own": (lambda: random_mask((6, 5), 0.4, seed=0, count=1), (3, 6, 5)),
    "block mean of a signal": (lambda: BlockMean((4,)), (2, 12)),
    "block mean of rectangles": (lambda: BlockMean((3, 2)), (2, 9, 4)),
    "circular blur, odd sizes": (lambda: CircularBlur(mild_kernels(3, 4)), (2, 9, 7)),
    "circular blur without channels": (lambda: CircularBlur(mild_kernels(3, 3)), (8, 6)),
    "circular blur, kernel as large as the image": (lambda: CircularBlur(mild_kernels(5, 4)), (1, 5, 4)),
    "circular blur with exact zeros": (lambda: CircularBlur(torch.full((1, 2), 0.5)), (1, 3, 8)),
    "circular blur per observation": (lambda: CircularBlur(mild_kernels(3, 5, 3), per_observation=True), (2, 8, 9)),
    "reflect blur, odd sizes": (lambda: ReflectBlur(mild_kernels(5, 4)), (2, 9, 7)),
    "reflect blur per observation": (lambda: ReflectBlur(mild_kernels(3, 3, 3), per_observation=True), (2, 8, 9)),
    "reflect blur with its decomposition": (
        lambda: SeparableBlur.reflected(gaussian_kernel(0.6), gaussian_kernel(0.4), 6, 9),
        (2, 6, 9),
    ),
    "decomposed blur": (lambda: Decomposed.create(ReflectBlur(mild_kernels(5, 4)), (5, 7)), (2, 3, 5, 7)),
    "decomposed blur without channels": (lambda: Decomposed.create(ReflectBlur(mild_kernels(3, 3)), (4, 5)), (4, 5)),
    "decomposed blur per observation": (
        lambda: Decomposed.create(ReflectBlur(mild_kernels(3, 3, 3), per_observation=True), (4, 6)),
        (2, 4, 6),
    ),
    "decomposed blur with exact zeros": (
        lambda: Decomposed.create(CircularBlur(torch.full((1, 2), 0.5)), (3, 8)),
        (1, 3, 8),
    ),
    "circular blur of volumes": (lambda: CircularBlur(mild_kernels(2, 3, 3)), (2, 4, 5, 6)),
    "circular blur of signals, a kernel per channel": (lambda: CircularBlur(vectors(2, 3), per_channel=True), (2, 9)),
    "circular blur, a kernel per observation and channel": (
        lambda: CircularBlur(mild_kernels(3, 2, 3, 3), per_observation=True, per_channel=True),
        (2, 7, 6),
    ),
    "reflect blur of volumes": (lambda: ReflectBlur(mild_kernels(2, 3, 3)), (1, 4, 5, 6)),
    "zero blur of images": (lambda: ZeroBlur(mild_kernels(4, 3)), (2, 6, 7)),
    "zero blur of signals, a kernel per channel": (lambda: ZeroBlur(vectors(2, 5), per_channel=True), (2, 9)),
    "zero blur per observation": (lambda: ZeroBlur(mild_kernels(3, 3, 3), per_observation=True), (2, 8, 9)),
    "subsampled volume": (lambda: Subsample((2, 3, 1)), (2, 4, 6, 5)),
    "spectrum of a signal": (lambda: Fourier(draw(15) > 0.5), (2, 15)),
    "spectrum of complex signals": (lambda: Fourier(draw(15) > 0.5, complex_signal=True), (2, 15)),
    "spectrum of volumes": (lambda: Fourier(draw(4, 5, 6) > 0.5), (1, 4, 5, 6)),
    "spectrum of complex volumes": (lambda: Fourier(draw(4, 5, 6) > 0.5, complex_signal=True), (2, 4, 5, 6)),
    "spectrum per observation": (lambda: Fourier(draw(3, 9, 8) > 0.5, per_observation=True), (2, 9, 8)),
    "spectrum of complex images per observation": (
        lambda: Fourier(draw(3, 9, 8) > 0.5, complex_signal=True, per_observation=True),
        (2, 9, 8),
    ),
    "coils": (lambda: CoilFourier(draw(9, 8) > 0.5, coil_maps(3, (9, 8))), (1, 9, 8)),
    "coils, complex": (lambda: CoilFourier(draw(9, 8) > 0.5, coil_maps(3, (9, 8)), True), (2, 9, 8)),
    "coils of a complex signal": (lambda: CoilFourier(draw(12) > 0.3, coil_maps(2, (12,)), True), (2, 12)),
    "coils per observation": (
        lambda: make_operator("fourier-coils", (2, 8, 9), coils=2, count=3, complex_signal=True),
        (2, 8, 9),
    ),
    "fan beam": (lambda: make_operator("radon", (1, 8, 8), views=16, arc=360.0, distance=1.5, spacing=0.8), (1, 8, 8)),
    "tomography of columns": (lambda: Radon((0.0, 90.0, 45.0), 9, 7, 5), (7, 5)),
    "two measurements": (lambda: stack([BlockMean(2), CircularBlur(mild_kernels(3, 3))], (2, 6, 8)), (2, 6, 8)),
    "three measurements, one per observation": (
        lambda: stack([BlockMean(2), random_mask((6, 8), 0.5, seed=0, count=3), Identity()], (2, 6, 8)),
        (2, 6, 8),
    ),
    "a linear and another measurement": (lambda: stack([BlockMean(2), HighDynamicRange()], (1, 4, 4)), (1, 4, 4)),
    "a linear function": (lambda: from_function(lambda x: x.cumsum(-1), (2, 7), linear=True), (2, 7)),
    "a function": (lambda: from_function(lambda x: x.square().sum(1), (3, 4)), (3, 4)),
    "a function with complex values": (lambda: from_function(torch.fft.rfft, (9,), linear=True), (9,)),
    "nonlinear blur per observation": (lambda: make_operator("nonlinear-blur", (2, 33, 40), count=3), (2, 33, 40)),
    "phase retrieval, odd sizes": (lambda: PhaseRetrieval((2, 1)), (2, 7, 9)),
    "separable blur": (lambda: SeparableBlur.create(gaussian_kernel(0.6), gaussian_kernel(0.4), 6, 9), (2, 6, 9)),
    "bicubic downsampling, odd sizes": (lambda: bicubic_downsampling(9, 15, 3), (2, 9, 15)),
    "bicubic downsampling without channels": (lambda: bicubic_downsampling(8, 12, 2), (8, 12)),
    "colorization with unequal weights": (lambda: Colorization((0.1, 0.0, 0.7, 0.4)), (4, 5, 3)),
    "gray": (lambda: Colorization((1.0,)), (1, 5, 3)),
    "Gaussian compressed sensing": (
        lambda: make_operator("compressed-sensing", (3, 5, 7), kind="gaussian", fraction=0.3),
        (3, 5, 7),
    ),
    "compressed sensing without channels": (
        lambda: make_operator("compressed-sensing", (4, 8), fraction=0.25),
        (4, 8),
    ),
    "compressed sensing, a prime number of pixels": (
        lambda: make_operator("compressed-sensing", (5, 1, 13), fraction=0.4),
        (5, 1, 13),
    ),
    "Hadamard compressed sensing": (
        lambda: make_operator("compressed-sensing", (5, 4, 16), kind="hadamard", fraction=0.3),
        (5, 4, 16),
    ),
    "Hadamard rows of a vector": (
        lambda: SubsampledTransform(torch.ones(8), torch.tensor([6, 0, 1]), "hadamard"),
        (8,),
    ),
    "JPEG with exact rounding": (lambda: JPEG(10, rounding="exact"), (3, 16, 32)),
    "JPEG with exact rounding, the paper's tables": (lambda: JPEG(2, "unclamped", rounding="exact"), (3, 32, 16)),
    "JPEG with exact rounding and all chroma": (lambda: JPEG(2, "unclamped", "4:4:4", "exact"), (3, 24, 8)),
    "gray JPEG with exact rounding": (lambda: JPEG(50, rounding="exact"), (1, 8, 24)),
    "JPEG after saturation": (lambda: compose(JPEG(30), HighDynamicRange()), (3, 17, 9)),
    "strong gain": (lambda: HighDynamicRange(5.0), (7,)),
    "mask after blur": (lambda: compose(Mask(draw(8, 8) > 0.3), ReflectBlur(mild_kernels(3, 3))), (2, 8, 8)),
    "block mean after blur after mask": (
        lambda: compose(BlockMean(2), CircularBlur(mild_kernels(3, 3)), random_mask((8, 8), 0.6, seed=0, count=3)),
        (2, 8, 8),
    ),
}


@pytest.mark.parametrize("name", API)
def test_operators_of_the_api_satisfy_the_contract(name: str) -> None:
    make, shape = API[name]
    check_operator(make(), shape)


SINGLE = ["box-inpainting", "super-resolution", "gaussian-blur", "gaussian-blur-separable"]
SINGLE += ["bicubic", "colorization", "compressed-sensing", "high-dynamic-range", "jpeg"]
SINGLE += ["motion-blur", "nonlinear-blur", "phase-retrieval"]


@pytest.mark.parametrize("name", SINGLE)
def test_the_contract_holds_in_single_precision(name: str) -> None:
    tolerance = PINV_TOLERANCES.get(name)
    check_operator(make_operator(name, (3, 16, 16)), (3, 16, 16), dtype=torch.float32, pinv_tolerance=tolerance)


def test_a_blur_too_strong_to_invert_by_iteration_says_so_and_satisfies_the_rest() -> None:
    kernel = gaussian_kernel(1.5)
    blur = ReflectBlur(torch.outer(kernel, kernel))
    with pytest.warns(ConvergenceWarning, match="the pseudo-inverse of ReflectBlur is approximate"):
        blur.pinv(torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    check_operator(blur, (1, 16, 16), pinv_tolerance=math.inf)
    check_operator(make_operator("motion-blur", (1, 32, 40), count=2), (1, 32, 40), pinv_tolerance=math.inf)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_work_on_the_device_that_they_are_moved_to(name: str, tmp_path: Path) -> None:
    """On torch's device without storage, which refuses to mix with another as an accelerator does."""
    shape = (9, 16) if name.startswith("ecg-") else (1 if name == "fourier-coils" else 3, 16, 16)
    operator = make_operator(name, shape, **needed_settings(name, shape, tmp_path)).to("meta")
    x = torch.empty(2, *shape, device="meta")
    y = operator(x)
    assert y.is_meta
    assert operator.measured(y).is_meta
    if isinstance(operator, SVDOperator):
        assert operator.pinv(y).is_meta
        assert operator.v(operator.vt(x), x).is_meta


@dataclass(frozen=True, eq=False)
class WrongAdjoint(LinearOperator):
    """The reference's blur: its adjoint is said to be the identity."""

    blur: ReflectBlur

    def __call__(self, x: Tensor) -> Tensor:
        return self.blur(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True, eq=False)
class BatchScaled(Operator):
    """Divides by the norm of the whole batch."""

    def __call__(self, x: Tensor) -> Tensor:
        return x / x.norm()


@dataclass(frozen=True, eq=False)
class Affine(LinearOperator):
    """Linear but for a constant."""

    def __call__(self, x: Tensor) -> Tensor:
        return x + 1.0

    def adjoint(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True, eq=False)
class WrongPinv(Identity):
    """Its pseudo-inverse is an adjoint of the wrong scale."""

    def pinv(self, y: Tensor) -> Tensor:
        return 0.999 * y


@dataclass(frozen=True, eq=False)
class WrongRightInverse(HighDynamicRange):
    """The reference's saturation: its pseudo-inverse is said to be the identity."""

    def pinv(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True, eq=False)
class WrongValues(BlockMean):
    """Its singular values are those of the sum."""

    def singular_values(self, x: Tensor) -> Tensor:
        return 4 * super().singular_values(x)


@dataclass(frozen=True, eq=False)
class Doubled(Operator):
    """Returns double precision always."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.double()


@dataclass(frozen=True, eq=False)
class WrongMeasured(Mask):
    """Says that hidden entries are the measured ones."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("operator", "fact"),
    [
        (WrongAdjoint(ReflectBlur(mild_kernels(3, 3))), "<A x, y> = <x, A^T y>"),
        (BatchScaled(), "does not depend on its batch"),
        (Affine(), "A(2x - 3u) = 2 A(x) - 3 A(u)"),
        (WrongPinv(), "A A^+ A x = A x"),
        (WrongRightInverse(), "h(h^+(h(x))) = h(x)"),
        (WrongValues(2), "prox is optimal"),
        (Doubled(), "torch.float32 into torch.float64"),
        (WrongMeasured(torch.zeros(6, dtype=torch.bool)), "not measured are not zero"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Operator) else "",
)
def test_broken_operators_are_found(operator: Operator, fact: str) -> None:
    with pytest.raises(ContractError) as error:
        check_operator(operator, (1, 6, 6))
    assert fact in str(error.value)
