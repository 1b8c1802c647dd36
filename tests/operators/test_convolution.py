from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.errors import DataError
from midguide.operators import CircularBlur, make_operator, read_kernel


def test_a_kernel_is_read_from_an_array_or_an_image_and_sums_to_one(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(0, 60000, (5, 7)).astype(np.uint16)
    np.save(tmp_path / "psf.npy", levels)
    Image.fromarray(levels).save(tmp_path / "psf.tif")
    want = torch.from_numpy(levels / levels.sum())
    for name in ("psf.npy", "psf.tif"):
        torch.testing.assert_close(read_kernel(tmp_path / name), want)
    torch.testing.assert_close(read_kernel(tmp_path / "psf.npy", normalized=False), torch.from_numpy(levels).double())


def test_the_pages_of_an_image_are_the_planes_of_a_volume(tmp_path: Path, rng: np.random.Generator) -> None:
    planes = rng.integers(1, 255, (3, 4, 5)).astype(np.uint8)
    pages = [Image.fromarray(plane) for plane in planes]
    pages[0].save(tmp_path / "psf.tif", save_all=True, append_images=pages[1:])
    torch.testing.assert_close(read_kernel(tmp_path / "psf.tif"), torch.from_numpy(planes / planes.sum()))


def test_each_channels_kernel_sums_to_one(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "psf.npy", rng.random((2, 3, 3)))
    operator = make_operator("convolution-circular", (2, 8, 8), path=str(tmp_path / "psf.npy"), per_channel=True)
    assert isinstance(operator, CircularBlur)
    torch.testing.assert_close(operator.kernel.sum((1, 2)), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3), complex), np.ones((0, 3)), np.array(["a"])],
    ids=["zero", "NaN", "complex", "empty", "text"],
)
def test_arrays_that_are_no_kernels_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "psf.npy", array)
    with pytest.raises(DataError):
        read_kernel(tmp_path / "psf.npy")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    Image.new("RGB", (3, 3)).save(tmp_path / "color.png")
    for name in ("missing.npy", "text.npy", "color.png"):
        with pytest.raises(DataError, match="^kernel |no image of a known kind"):
            read_kernel(tmp_path / name)
