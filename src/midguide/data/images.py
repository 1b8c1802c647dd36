"""Image files to tensors and back, with one clear error for whatever cannot be read.

Readers take pixels as they stand in the file: they apply orientation tags, and no color profiles. 16-bit gray images
keep their precision; Pillow reads 16-bit color images with 8 bits. One line names what a file states and nothing uses:
the caller's `note`, or else a `DataRemark`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midguide.data.decoding import (
    IMAGE,
    IMAGE_SUFFIXES,
    Note,
    Picture,
    decoded,
    names_in,
    open_picture,
    warned,
)
from midguide.errors import ConfigError, DataError, NumericalError, ShapeError
from midguide.storage.files import replacing
from midguide.storage.outside import afford

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"


def load_image(
    path: str | Path,
    event_shape: tuple[int, ...],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    resize: bool = False,
    crop: tuple[int, int, int, int] | None = None,
    white: float | None = None,
    note: Note = warned,
) -> Tensor:
    """One image file as a batch of one, in the shape and value range of a prior.

    It applies orientation tags first. Palette and CMYK images become RGB. Priors with one channel get the luma
    `0.299 R + 0.587 G + 0.114 B`; priors with three get gray images in all three. White is 65535 in 16-bit gray, or
    `white`.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF, TIFF, PNM or JPEG 2000 file with one opaque image.
        event_shape: shape of the prior's events, or of a measurement, (C, H, W) with C = 1 or 3.
        value_range: values of black and white.
        resize: cut the largest centered part with the aspect ratio of the prior and resize it with antialiasing
            (Lanczos, clamped to the range); otherwise the image must have the prior's size.
        crop: (top, left, height, width) in pixels of the upright image, cut out before that.
        white: the value of white in the file, where it is not the largest that the file can hold: 4095 for 12 bits in a
            16-bit PNG. Images of 32-bit or floating-point values need one. Black is 0.
        note: takes a line on what the file states and is not used, or may be a mistake.

    Returns:
        Image, float32 in `value_range`, shape (1, C, H, W).

    Raises:
        DataError: If there is no such file, or it is not an image, damaged, huge, animated, transparent, of another
            size than the prior, or smaller than `crop`; or the prior's events are not images.
        ConfigError: If `crop` is not a rectangle, `value_range` does not rise, or `white` is not positive.

    Example:
        >>> load_image("face.png", (3, 64, 64), resize=True).shape  # doctest: +SKIP
        torch.Size([1, 3, 64, 64])
    """
    low, high = _check_range(value_range)
    path = Path(path)
    if len(event_shape) != 3 or event_shape[0] not in (1, 3):
        raise DataError(
            f"an image has 1 or 3 channels, events of this prior have shape {tuple(event_shape)}",
            hint="take a prior of images; give signals of other shapes to Problem and sample in Python, as tensors",
        )
    with IMAGE.open(path) as file:
        image = open_picture(file, path, white)
    for told in image.remarks:
        note(f"image {path} {told}")
    if crop is not None:
        image = image.part(crop)
    height, width = event_shape[1:]
    if resize:
        stripes = [(0, _resized(image, height, width))]
    elif (image.rows, image.columns) != (height, width):
        raise DataError(
            f"image {path} is {image.columns}x{image.rows}, expected {width}x{height} (width x height)",
            hint=_how_to_fit(image.rows, image.columns, height, width),
        )
    else:
        stripes = image.stripes()
    afford(4 * math.prod(event_shape), f"image {path}, as {width}x{height} values,")
    found = torch.empty(event_shape, dtype=torch.float32)
    for top, pixels in stripes:
        if event_shape[0] == 1 and pixels.shape[2] == 3:
            pixels = pixels @ _LUMA[:, None]
        values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        found[:, top : top + len(pixels)] = (low + (high - low) * values).clamp(low, high)
    return found[None]


def image_size(path: str | Path, *, white: float | None = None) -> tuple[int, int]:
    """Height and width of an image file, upright, in pixels.

    Raises:
        DataError: If `load_image` would raise it.
    """
    with IMAGE.open(Path(path)) as file:
        image = open_picture(file, Path(path), white)
    return image.rows, image.columns


def load_image_set(path: str | Path, *, white: float | None = None, note: Note = warned) -> Tensor:
    """All images of a folder or zip file, in the order of their names.

    Hidden files, as systems and tools leave them (`__MACOSX`, `._1.png`, `.ipynb_checkpoints`), do not count. It keeps
    copies of one image, and names them.

    Args:
        path: a folder (searched recursively) or a `.zip` of images of one size.
        white: as in `load_image`.
        note: likewise; takes one line for all images that have something in common.

    Returns:
        images: uint8 in 0..255, shape (N, 3, H, W).

    Raises:
        DataError: If the path does not exist, holds no images, one cannot be read (see `load_image`), or they differ in
            size.
    """
    names = names_in(Path(path), note)
    if not names:
        raise _no_images(path)
    found, seen, copies = np.empty(0), dict[bytes, str](), list[str]()
    for number, (where, image) in enumerate(decoded(path, white, note)):
        shape = (image.rows, image.columns, 3)
        if number == 0:
            afford(len(names) * math.prod(shape), f"{path}, a set of {len(names)} images")
            found = np.empty((len(names), 3, *shape[:2]), np.uint8)
        if shape[:2] != found.shape[2:]:
            raise DataError(
                f"{where} is {shape}, the images before it {(*found.shape[2:], 3)}",
                hint="crop and resize all to one size first",
            )
        for top, values in image.stripes():
            found[number, :, top : top + len(values)] = np.moveaxis(np.rint(255 * values), 2, 0)
        first = seen.setdefault(hashlib.sha256(found[number].tobytes()).digest(), names[number])
        copies += [f"{names[number]} of {first}"] if first != names[number] else []
    if copies:
        shown = ", ".join(copies[:3]) + (", ..." if len(copies) > 3 else "")
        note(f"{len(copies)} of {len(names)} images of {path} are copies of others: {shown}")
    return torch.from_numpy(found)


def load_gray_images(path: str | Path, *, white: float | None = None, note: Note = warned) -> list[Tensor]:
    """All images of a folder or zip file as gray values, in the order of their names; sizes may differ.

    Args:
        path: a folder (searched recursively) or a `.zip` of images. Colors become luma, as in `load_image`.
        white: as in `load_image`.
        note: as in `load_image_set`.

    Returns:
        Images in [0, 1], float32, each of shape (H, W).

    Raises:
        DataError: If the path does not exist, holds no images, or one cannot be read (see `load_image`).

    Example:
        >>> len(load_gray_images("nuclei-val.zip"))  # doctest: +SKIP
        45
    """
    names_in(Path(path), note)
    found, held = list[Tensor](), 0
    for where, image in decoded(path, white, note):
        held += 4 * image.rows * image.columns
        afford(held, f"{path}, a set of images up to {where},")
        found.append(_gray(image))
    if not found:
        raise _no_images(path)
    return found


def _gray(image: Picture) -> Tensor:
    """The luma of an image, float32, shape (H, W)."""
    gray = np.empty((image.rows, image.columns), np.float32)
    for top, values in image.stripes():
        gray[top : top + len(values)] = values[..., 0] if values.shape[2] == 1 else values @ _LUMA
    return torch.from_numpy(gray)


def _no_images(path: str | Path) -> DataError:
    return DataError(f"{path} holds no images", hint=f"looked for {', '.join(IMAGE_SUFFIXES)}")


def luma(pixels: Tensor) -> Tensor:
    """RGB bytes, shape (N, 3, H, W), as gray ones, shape (N, 1, H, W).

    Example:
        >>> luma(torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)).item()
        76
    """
    weights = torch.from_numpy(_LUMA).float()[:, None, None]
    parts = [(part.float() * weights).sum(1, keepdim=True).round().to(torch.uint8) for part in pixels.split(256)]
    return torch.cat(parts)


def save_png(path: str | Path, image: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
    """Write one image as an 8-bit PNG, which appears complete or not at all.

    Args:
        path: where to; ends in `.png`. Missing folders are made.
        image: shape (C, H, W) with C = 1 or 3; values outside `value_range` are clamped.
        value_range: values of black and white.

    Raises:
        ShapeError: If the tensor is not a single image.
        NumericalError: If it holds NaN.
        DataError: If the file has another ending or cannot be written.

    Example:
        >>> save_png("out/black.png", -torch.ones(3, 64, 64))  # doctest: +SKIP
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ShapeError(f"a PNG needs a tensor of shape (1 or 3, H, W), got {tuple(image.shape)}")
    if Path(path).suffix.lower() != ".png":
        raise DataError(f"{path} does not end in .png", hint="images are written as PNG only")
    array = to_uint8(image, value_range).cpu().permute(1, 2, 0).numpy()
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array.squeeze(2) if array.shape[2] == 1 else array)).save(temporary, "PNG")


def to_uint8(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images as bytes: `round(255 (x - low) / (high - low))`, clamped to 0..255.

    Args:
        images: any shape.
        value_range: values of black and white, (low, high).

    Returns:
        uint8, the shape of `images`.

    Raises:
        NumericalError: If an image holds NaN.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 1.0, 7.0]))
        tensor([  0, 255, 255], dtype=torch.uint8)
    """
    low, high = _check_range(value_range)
    if bool(torch.isnan(images).any()):
        raise NumericalError("an image to write holds NaN")
    return ((images.detach().float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)


def _check_range(value_range: tuple[float, float]) -> tuple[float, float]:
    low, high = value_range
    if not low < high:
        raise ConfigError(f"value_range must rise, got {value_range}")
    return low, high


def _how_to_fit(rows: int, columns: int, height: int, width: int) -> str:
    """What to do with an image of `rows` x `columns` pixels for a prior of `height` x `width`."""
    scale = min(rows / height, columns / width)
    kept = f"{round(scale * width)}x{round(scale * height)}"
    resize = f"--resize takes its largest centered part, {kept}, to {width}x{height}"
    if rows < height or columns < width:
        return resize
    return (
        f"{resize}; --crop TOP,LEFT,{height},{width} takes a part as it is, and with --resize a part of any size; "
        f"--tile covers all of it with tiles, for priors of patches"
    )


def _resized(image: Picture, height: int, width: int) -> np.ndarray:
    """The largest centered part of the aspect ratio `height : width`, to the pixel, resized.

    Pillow resizes rows first, then columns; so do we, rows in stripes, which gives the same values in less memory.
    """
    scale = min(image.rows / height, image.columns / width)
    rows, columns = max(round(scale * height), 1), max(round(scale * width), 1)
    part = image.part(((image.rows - rows) // 2, (image.columns - columns) // 2, rows, columns))
    stripes = [_planes_resized(values, len(values), width) for _, values in part.stripes()]
    return _planes_resized(np.concatenate(stripes), height, width).astype(np.float64).clip(0, 1)


def _planes_resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each channel resized by Pillow, float32, shape (height, width, C)."""
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(values, 2, 0)]
    small = [np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
    return np.stack(small, axis=2)
