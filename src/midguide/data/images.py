"""Image files to tensors and back, with one clear error for whatever cannot be read.

Pixels are read as they stand in the file: orientation tags are applied, color profiles are not. 16-bit gray images
keep their precision; Pillow reads 16-bit color images with 8 bits.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from midguide.errors import ConfigError, DataError, NumericalError, ShapeError
from midguide.storage.files import replacing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# What is opened at all. Not EPS and the like, for which Pillow would start another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's "L"
_PNG_HINT = "convert it to an 8-bit RGB or gray PNG"


def load_image(
    path: str | Path,
    event_shape: tuple[int, ...],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    resize: bool = False,
    crop: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """One image file as a batch of one, in the shape and value range of a prior.

    Orientation tags are applied first. A palette and CMYK become RGB; priors with one channel get the luma
    `0.299 R + 0.587 G + 0.114 B`, priors with three get gray images in all three. 16-bit gray is divided by 65535.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF, TIFF, PNM or JPEG 2000 file with one opaque image.
        event_shape: shape of the prior's events, or of a measurement, (C, H, W) with C = 1 or 3.
        value_range: values of black and white.
        resize: cut the largest centered part with the aspect ratio of the prior and resize it with antialiasing
            (Lanczos, clamped to the range); otherwise the image must have the prior's size.
        crop: (top, left, height, width) in pixels of the upright image, cut out before that.

    Returns:
        Image, float32 in `value_range`, shape (1, C, H, W).

    Raises:
        DataError: no such file, not an image, damaged, huge, animated, transparent, of another size than the prior, or
            smaller than `crop`; or the prior's events are no images.
        ConfigError: `crop` is no rectangle, or `value_range` does not rise.

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
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"image {path} {what}", hint="give the path of one image file")
    with _decoding(path):
        pixels = _upright_pixels(_open(path, path), path)
    if crop is not None:
        pixels = _cropped(pixels, crop, path)
    height, width = event_shape[1:]
    if resize:
        pixels = _resized(pixels, height, width)
    elif pixels.shape[:2] != (height, width):
        raise DataError(
            f"image {path} is {pixels.shape[1]}x{pixels.shape[0]}, expected {width}x{height} (width x height)",
            hint=_how_to_fit(pixels.shape[0], pixels.shape[1], height, width),
        )
    if event_shape[0] == 1:
        pixels = pixels @ _LUMA[:, None] if pixels.shape[2] == 3 else pixels
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).expand(event_shape)
    return (low + (high - low) * values).clamp(low, high).float()[None].contiguous()


def load_image_set(path: str | Path) -> Tensor:
    """All images of a folder or zip file, in the order of their names.

    Args:
        path: a folder (searched recursively) or a `.zip` of images of one size.

    Returns:
        images: uint8 in 0..255, shape (N, 3, H, W).

    Raises:
        DataError: the path does not exist, holds no images, one cannot be read (see `load_image`), or they differ in
            size.
    """
    arrays = []
    for where, pixels in _decoded(path):
        array = np.broadcast_to(np.rint(255 * pixels).astype(np.uint8), (*pixels.shape[:2], 3))
        if arrays and array.shape != arrays[0].shape:
            raise DataError(
                f"{where} is {array.shape}, the images before it {arrays[0].shape}",
                hint="crop and resize all to one size first",
            )
        arrays.append(array)
    if not arrays:
        raise _no_images(path)
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def load_gray_images(path: str | Path) -> list[Tensor]:
    """All images of a folder or zip file as gray values, in the order of their names; sizes may differ.

    Args:
        path: a folder (searched recursively) or a `.zip` of images. Colors become luma, as in `load_image`.

    Returns:
        Images in [0, 1], float32, each of shape (H, W).

    Raises:
        DataError: If the path does not exist, holds no images, or one cannot be read (see `load_image`).

    Example:
        >>> len(load_gray_images("nuclei-val.zip"))  # doctest: +SKIP
        45
    """
    found = [pixels[..., 0] if pixels.shape[2] == 1 else pixels @ _LUMA for _, pixels in _decoded(path)]
    if not found:
        raise _no_images(path)
    return [torch.from_numpy(np.ascontiguousarray(pixels, np.float32)) for pixels in found]


def _decoded(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """What to call each image of a folder or zip file, and its values in [0, 1], shape (H, W, 1 or 3)."""
    for name, data in _files(Path(path)):
        where = f"{name} in {path}"
        with _decoding(where):
            pixels = _upright_pixels(_open(io.BytesIO(data), where), where)
        yield where, pixels


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
        ShapeError: the tensor is no single image.
        NumericalError: it holds NaN.
        DataError: the file has another ending or cannot be written.

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
        NumericalError: an image holds NaN.

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


@contextmanager
def _decoding(name: str | Path) -> Iterator[None]:
    """Whatever a decoder raises as one DataError; Pillow's warning of huge images counts as an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise DataError(f"image {name} has more than {limit}", hint="crop or shrink it first") from error
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise DataError(f"{name} is empty, damaged or no image of a known kind", hint=f"known are {known}") from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, EOFError, ValueError and others on damage
        raise DataError(f"image {name} cannot be read: {error}", hint=f"is it complete? {_PNG_HINT}") from error


def _open(source: Path | io.BytesIO, name: str | Path) -> Image.Image:
    """The decoded image, upright."""
    with Image.open(source, formats=_FORMATS) as image:
        # Phones write a JPEG with previews behind the picture (MPO): the first is the picture.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(
                f"image {name} is animated or has pages: {frames} frames", hint="save the one you mean as a PNG"
            )
        kind = image.format
        upright = ImageOps.exif_transpose(image)
    upright.format = kind
    return upright


def _upright_pixels(image: Image.Image, name: str | Path) -> np.ndarray:
    """Values in [0, 1], float64, shape (H, W, 1 or 3)."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float64)
        if "transparency" in image.info and bool((values == image.info["transparency"]).any()):
            raise _transparent(name)
        return values[..., None] / 65535
    if image.mode in ("I", "F"):
        raise DataError(f"image {name} has 32-bit values, of which none is known to be white", hint=_PNG_HINT)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise _transparent(name)
    return np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB")).astype(np.float64)) / 255


def _transparent(name: str | Path) -> DataError:
    return DataError(f"image {name} has transparent pixels", hint="flatten it onto a background first")


def _cropped(pixels: np.ndarray, crop: tuple[int, int, int, int], name: Path) -> np.ndarray:
    if len(crop) != 4 or min(crop[:2]) < 0 or min(crop[2:]) < 1:
        raise ConfigError(f"crop must be (top, left, height, width), got {crop}", hint="in pixels of the upright image")
    top, left, height, width = crop
    if top + height > pixels.shape[0] or left + width > pixels.shape[1]:
        raise DataError(
            f"a {width}x{height} crop at row {top}, column {left} leaves image {name} "
            f"of {pixels.shape[1]}x{pixels.shape[0]} (width x height)",
            hint="TOP,LEFT,HEIGHT,WIDTH in pixels of the upright image",
        )
    return pixels[top : top + height, left : left + width]


def _how_to_fit(rows: int, columns: int, height: int, width: int) -> str:
    """What to do with an image of `rows` x `columns` pixels for a prior of `height` x `width`."""
    scale = min(rows / height, columns / width)
    kept = f"{round(scale * width)}x{round(scale * height)}"
    resize = f"--resize takes its largest centered part, {kept}, to {width}x{height}"
    if rows < height or columns < width:
        return resize
    return (
        f"{resize}; --crop TOP,LEFT,{height},{width} takes a part as it is, and with --resize a part of any size; "
        f"larger images than the prior are not tiled"
    )


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centered part of the aspect ratio `height : width`, to the pixel, resized."""
    scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
    rows, columns = max(round(scale * height), 1), max(round(scale * width), 1)
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    pixels = pixels[top : top + rows, left : left + columns]
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(pixels, 2, 0)]
    small = [np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
    return np.stack(small, axis=2).astype(np.float64).clip(0, 1)


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            yield file.name, file.read_bytes()
    elif path.suffix == ".zip" and path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(n for n in archive.namelist() if n.lower().endswith(IMAGE_SUFFIXES)):
                    yield name, archive.read(name)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is damaged or no zip file: {error}", hint="make it again") from error
    else:
        raise DataError(f"{path} is no folder and no zip file of images", hint="check the path")
