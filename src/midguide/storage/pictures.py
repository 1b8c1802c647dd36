"""Image files from outside, opened by Pillow: of known kinds, and of a size that fits into memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from midguide.storage.outside import Outside, afford

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""What is opened at all. Not EPS and the like, for which Pillow would start another program."""

_BYTES = 8  # a pixel takes while an image is decoded


@contextmanager
def picture(gate: Outside, path: str | Path) -> Iterator[Image.Image]:
    """The image in a file; what the block does with it and fails on damage becomes one error.

    Raises:
        MidguideError: If there is no such file, or it is damaged, of another kind or huge.
    """
    with gate.open(path) as file:
        yield opened(gate, file, path)


def opened(gate: Outside, file: BinaryIO, name: str | Path) -> Image.Image:
    """The image in an open file, not decoded yet.

    Raises:
        MidguideError: If it is of another kind or huge.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise gate.error(f"{gate.what} {name} has more than {limit}", hint="crop or shrink it first") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise gate.error(f"{name} is empty, damaged or no image of a known kind", hint=f"known are {known}") from error
    size = f"{gate.what} {name} of {image.width}x{image.height}"
    afford(_BYTES * image.width * image.height, size, error=gate.error)
    return image
