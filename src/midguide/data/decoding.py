"""Image files decoded: upright, as Pillow keeps them, with what is to be told of each; folders and archives of them."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from midguide.errors import ConfigError, DataError, DataRemark
from midguide.storage.listing import is_hidden, passed_over
from midguide.storage.outside import MIB, Outside, afford
from midguide.storage.picture_facts import depth_remark, remarks, white_is_zero
from midguide.storage.pictures import opened

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_PNG_HINT = "convert it to an 8-bit RGB or gray PNG"
_STRIPE = 2**20  # pixels of a stripe: what is computed from an image is computed by stripes of rows
_COMPUTED = 112  # bytes that a pixel of a stripe takes: colors in float64, and copies of them

IMAGE = Outside("image", f"is it complete? {_PNG_HINT}", limit=512 * MIB)
_SET = Outside("set of images", "make it again", limit=2**40)


Note = Callable[[str], None]


def warned(text: str) -> None:
    """A remark as a warning, where nobody takes it otherwise."""
    warnings.warn(text, DataRemark, stacklevel=3)


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright, as Pillow keeps it: 1, 2 or 4 bytes a pixel; numbers are made of parts of it.

    Args:
        image: all of it.
        kind: the format of its file.
        name: what to call it in messages.
        box: left, top, right and bottom of the part that is meant.
        white: the value of white, where it is said.
        dark: whether large values are dark, which Pillow does not turn.
        remarks: what is to be told of the file, each as what follows its name.
    """

    image: Image.Image
    kind: str
    name: str | Path
    box: tuple[int, int, int, int]
    white: float | None = None
    dark: bool = False
    remarks: Sequence[str] = ()

    @property
    def rows(self) -> int:
        return self.box[3] - self.box[1]

    @property
    def columns(self) -> int:
        return self.box[2] - self.box[0]

    def part(self, crop: tuple[int, int, int, int]) -> Picture:
        """The part at (top, left, height, width)."""
        if len(crop) != 4 or min(crop[:2]) < 0 or min(crop[2:]) < 1:
            raise ConfigError(f"crop must be (top, left, height, width), got {crop}", hint="in pixels, upright")
        top, left, height, width = crop
        if top + height > self.rows or left + width > self.columns:
            raise DataError(
                f"a {width}x{height} crop at row {top}, column {left} leaves image {self.name} "
                f"of {self.columns}x{self.rows} (width x height)",
                hint="TOP,LEFT,HEIGHT,WIDTH in pixels of the upright image",
            )
        left, top = self.box[0] + left, self.box[1] + top
        return replace(self, box=(left, top, left + width, top + height))

    def stripes(self) -> Iterator[tuple[int, np.ndarray]]:
        """Parts of some rows: the first row of each, and its values in [0, 1], float64, shape (rows, W, 1 or 3)."""
        left, top, right, bottom = self.box
        height = max(_STRIPE // self.columns, 1)
        for first in range(top, bottom, height):
            with IMAGE.damage(self.name):
                stripe = self.image.crop((left, first, right, min(first + height, bottom)))
                values = _values(stripe, self)
            yield first - top, values


def open_picture(source: BinaryIO, name: str | Path, white: float | None = None) -> Picture:
    """The decoded image, upright."""
    if white is not None and not 0 < white < math.inf:
        raise ConfigError(f"white must be a positive number, got {white:g}", hint="for example 4095 for 12 bits")
    image = opened(IMAGE, source, name)
    kind = image.format or ""
    # Phones write a JPEG with previews behind the picture (MPO): the first is the picture.
    if kind != "MPO" and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", "several")
        raise DataError(
            f"image {name} is animated or has pages: {frames} frames", hint="save the one you mean as a PNG"
        )
    stripe = min(max(_STRIPE, image.width, image.height), image.width * image.height)
    afford(4 * image.width * image.height + _COMPUTED * stripe, f"image {name}")
    told, dark = list(remarks(image, white=white)), white_is_zero(image)
    image.load()
    told += _checked_values(image, kind, name, white)
    ImageOps.exif_transpose(image, in_place=True)
    return Picture(image, kind, name, (0, 0, image.width, image.height), white, dark, told)


def _checked_values(image: Image.Image, kind: str, name: str | Path, white: float | None) -> list[str]:
    """Refuse values that have no place between black and white; what to tell where they may be of a smaller depth."""
    bits = _bits(image, kind)
    if bits == 32 and white is None:
        raise DataError(
            f"image {name} has 32-bit or signed values, of which none is known to be white",
            hint=f"--white VALUE says which, black is 0; or {_PNG_HINT}",
        )
    if bits == 8 and image.mode not in ("L", "I;8"):
        if white is not None and white != 255:
            raise DataError(f"image {name} has 8 bits of each color: 255 is white", hint="leave --white out")
        return []
    low, high = (float(value) for value in image.getextrema())  # type: ignore[union-attr]
    if not math.isfinite(low) or not math.isfinite(high) or (white is not None and not 0 <= low <= high <= white):
        raise DataError(
            f"image {name} has values from {low:g} to {high:g}, outside of 0 (black) to {white or 0:g} (white)",
            hint="shift them, or give another --white",
        )
    told = depth_remark(high, bits) if white is None else None
    return [told] if told else []


def _bits(image: Image.Image, kind: str) -> int:
    """Bits of a value: 16 for gray of 16, also where Pillow keeps it in 32; 32 for signed, wide and real values."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def _values(image: Image.Image, picture: Picture) -> np.ndarray:
    """Values in [0, 1] of a part of a picture, float64, shape (H, W, 1 or 3)."""
    bits, name = _bits(image, picture.kind), picture.name
    if bits > 8:
        values = np.asarray(image).astype(np.float64)
        if "transparency" in image.info and bool((values == image.info["transparency"]).any()):
            raise _transparent(name)
        scaled = values[..., None] / (picture.white or 65535)
        return 1 - scaled if picture.dark else scaled
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise _transparent(name)
    values = np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB")).astype(np.float64))
    return values / (picture.white or 255)


def _transparent(name: str | Path) -> DataError:
    return DataError(f"image {name} has transparent pixels", hint="flatten it onto a background first")


def decoded(path: str | Path, white: float | None, note: Note) -> Iterator[tuple[str, Picture]]:
    """What to call each image of a folder or zip file, and the image; in the end, what is to be told of them."""
    told, first = Counter[str](), dict[str, str]()
    for name, read in _files(Path(path)):
        where = f"{name} in {path}"
        with IMAGE.damage(where):
            image = open_picture(io.BytesIO(read()), where, white)
        told.update(image.remarks)
        first = dict.fromkeys(image.remarks, name) | first
        yield where, image
    for text, count in told.items():
        note(f"{count} images of {path}, the first {first[text]}: each {text}")


def names_in(path: Path, note: Note) -> list[str]:
    """The names of the images of a folder or zip file; tells of hidden ones that are passed over."""
    hidden: list[str] = []
    names = [name for name, _ in _files(path, hidden)]
    if text := passed_over(hidden, path):
        note(text)
    return names


def _files(path: Path, hidden: list[str] | None = None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of each image of a folder or zip file, and what reads it; hidden names are only collected."""
    if os.path.isdir(path):
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()):
            if _is_shown(str(file.relative_to(path)), hidden):
                yield file.name, partial(IMAGE.read, file)
    elif path.suffix.lower() == ".zip":
        with _SET.archive(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.filename)
            for info in (info for info in infos if info.filename.lower().endswith(IMAGE_SUFFIXES)):
                if _is_shown(info.filename, hidden):
                    yield info.filename, partial(IMAGE.member, archive, info)
    else:
        raise DataError(f"{path} is neither a folder nor a zip file of images", hint="check the path")


def _is_shown(name: str, hidden: list[str] | None) -> bool:
    if is_hidden(name) and hidden is not None:
        hidden.append(name)
    return not is_hidden(name)
