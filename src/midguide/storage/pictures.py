"""Image files from outside, opened by Pillow: of known kinds, and of a size that fits into memory."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from midguide.storage.outside import Outside, afford

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
"""What is opened at all. Not EPS and the like, for which Pillow would start another program."""

_BYTES = {"JPEG": 16, "MPO": 16, "WEBP": 24}
"""What a pixel takes while it is decoded, at most; 8 in other formats, with the copy that turns an image upright.

Measured on 2400 x 2400 colors: PNG, BMP, PNM and TIFF 5, JPEG 5, progressive 13, WebP 18, JPEG 2000 21, and 104 with
blocks of 4 x 4 pixels.
"""
_WIDTH, _LENGTH, _ROWS, _SAMPLES, _BITS = 322, 323, 278, 277, 258  # tags of TIFF: of tiles, strips and pixels
_PIECE = 2**20


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
    webp = _canvas(file)
    afford(_BYTES["WEBP"] * webp, f"{gate.what} {name}", error=gate.error)
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
    afford(_needed(image, file), size, error=gate.error)
    return image


def _needed(image: Image.Image, file: BinaryIO) -> int:
    """Bytes at the peak of decoding, from the headers of an image."""
    pixels = _BYTES.get(image.format or "", 8) * image.width * image.height
    if image.format == "TIFF":
        return pixels + 2 * _strip(image)
    return pixels + _codestream(file) if image.format == "JPEG2000" else pixels


def _canvas(file: BinaryIO) -> int:
    """Pixels of the canvas of a WebP file in its extended form, which Pillow allocates when it opens one; else 0."""
    head = file.read(30)
    file.seek(0)
    if len(head) < 30 or (head[:4], head[8:16]) != (b"RIFF", b"WEBPVP8X"):
        return 0
    return (1 + int.from_bytes(head[24:27], "little")) * (1 + int.from_bytes(head[27:30], "little"))


def _strip(image: Image.Image) -> int:
    """Bytes of a strip or tile of a TIFF file, which is decoded as a whole."""
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    rows = min(int(tags.get(_ROWS, image.height)), image.height)
    width, height = int(tags.get(_WIDTH, image.width)), int(tags.get(_LENGTH, rows))
    bits = max(np.ravel(tags.get(_BITS, 1)).tolist())
    return width * height * int(tags.get(_SAMPLES, 1)) * math.ceil(bits / 8)


def _codestream(file: BinaryIO) -> int:
    """Bytes that OpenJPEG takes for an image of JPEG 2000, from the markers at the start of its codestream.

    Raises:
        ValueError: If there are none.
    """
    there = file.tell()
    file.seek(0)
    held = b""
    while (at := held.find(b"\xff\x4f\xff\x51")) < 0 and (piece := file.read(_PIECE)):
        held = held[-3:] + piece
    header = held[max(at, 0) :] + file.read(_PIECE)
    file.seek(there)
    if at < 0 or len(header) < 42 or (style := header.find(b"\xff\x52")) < 0 or len(header) < style + 12:
        raise ValueError("it has no codestream")
    right, bottom, left, top, wide, high, *first, components = struct.unpack(">8IH", header[8:42])
    width, height = max(right - left, 0), max(bottom - top, 0)
    tiles = max(-(-(right - first[0]) // max(wide, 1)), 0) * max(-(-(bottom - first[1]) // max(high, 1)), 0)
    block = 2 ** (4 + min(header[style + 10], 8) + min(header[style + 11], 8))
    values = width * height * components
    return 8 * values + 512 * (values // block) + tiles * (6000 + 1200 * components)
