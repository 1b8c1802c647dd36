"""Blur by a kernel from a file, such as a measured point-spread function, in one to three dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midguide.errors import DataError
from midguide.operators.base import OPERATORS
from midguide.operators.blur import CircularBlur, ReflectBlur, ZeroBlur
from midguide.storage.outside import GIB, Outside
from midguide.storage.pictures import picture

_KERNEL = Outside("kernel", "an array in .npy, or a gray image", limit=GIB)


def read_kernel(path: str | Path, *, per_channel: bool = False, normalized: bool = True) -> Tensor:
    """A kernel from a file.

    Args:
        path: an array (`.npy`) of one to three axes, or with one axis more for a kernel for each channel; or a gray
            image of any kind that Pillow reads, also with several pages, which are the planes of a volume.
        per_channel: whether the first axis is that of the channels.
        normalized: divide each kernel by its sum, so that constant images stay as they are.

    Returns:
        Float64, shape of the array or image.

    Raises:
        DataError: If the file is missing, damaged, not real, not finite, or sums to zero.
    """
    array = _KERNEL.array(path) if Path(path).suffix == ".npy" else _planes(path)
    if array.dtype.kind not in "fiub" or not array.size or array.ndim > 4:
        raise DataError(f"{path} holds no kernel of real numbers with one to four axes", hint="save one array in .npy")
    kernel = torch.from_numpy(array.astype(np.float64))
    total = kernel.sum(tuple(range(1, kernel.ndim)), keepdim=True) if per_channel else kernel.sum()
    if not bool(torch.isfinite(kernel).all()) or (normalized and not bool((total > 0.0).all())):
        raise DataError(
            f"the kernel {path} is not finite, or its sum is not positive", hint="check how it was measured"
        )
    return kernel / total if normalized else kernel


def _planes(path: str | Path) -> np.ndarray:
    """The pages of an image file, shape (H, W), or (pages, H, W) if there are several."""
    with picture(_KERNEL, path) as image:
        if len(image.getbands()) != 1:
            raise ValueError(f"it has the channels {''.join(image.getbands())}")
        pages = []
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            pages.append(np.asarray(image))
    return pages[0] if len(pages) == 1 else np.stack(pages)


NEEDS = "sides not smaller than those of the kernel at path"


@OPERATORS.register("convolution", summary="blur by a kernel from a file, zero outside", needs=NEEDS)
def convolution(event_shape: tuple[int, ...], *, seed: int = 0, path: str, per_channel: bool = False) -> ZeroBlur:
    """Convolve with the kernel at `path` (see `read_kernel`), whose axes are the last ones of the signal.

    It divides the kernel by its sum. With `per_channel` its first axis is that of the channels.
    """
    return ZeroBlur(read_kernel(path, per_channel=per_channel), per_channel=per_channel)


@OPERATORS.register("convolution-reflect", summary="blur by a kernel from a file, reflect padding", needs=NEEDS)
def convolution_reflect(
    event_shape: tuple[int, ...], *, seed: int = 0, path: str, per_channel: bool = False
) -> ReflectBlur:
    """As `convolution`, for images that go on beyond their border as in a mirror."""
    return ReflectBlur(read_kernel(path, per_channel=per_channel), per_channel=per_channel)


@OPERATORS.register("convolution-circular", summary="blur by a kernel from a file, wraps around", needs=NEEDS)
def convolution_circular(
    event_shape: tuple[int, ...], *, seed: int = 0, path: str, per_channel: bool = False
) -> CircularBlur:
    """As `convolution`, for images that wrap around; it has an SVD."""
    return CircularBlur(read_kernel(path, per_channel=per_channel), per_channel=per_channel)
