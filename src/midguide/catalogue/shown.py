"""How things show themselves: one line on a console, a table with thumbnails in a notebook, never a tensor's numbers.

It escapes everything that ends up in HTML: names, settings and remarks come from outside.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import io
from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, LONGEST = 60, 400
"""Characters of one value, and of one thing."""
FEW = 4
"""Tensors and lists of at most so many entries are written out."""
THUMBNAIL, MOST_THUMBNAILS = 72, 8
"""Pixels on a page; how many."""


def brief(value: Any) -> str:
    """A value in a few words.

    Example:
        >>> brief(0.25), brief([1, 2, 3, 4, 5]), brief({"steps": 20})
        ('0.25', '(1, 2, 3, 4, ... 5 in all)', 'steps=20')
    """
    match value:
        case float():
            return f"{value:g}"
        case str():
            return cut(value)
        case Mapping():
            return cut(", ".join(f"{key}={brief(item)}" for key, item in value.items()))
        case list() | tuple() if not hasattr(value, "_fields"):
            few = ", ".join(brief(item) for item in value[:FEW])
            return cut(f"({few})" if len(value) <= FEW else f"({few}, ... {len(value)} in all)")
        case type():
            return value.__name__
    if is_tensor(value):
        kind = str(value.dtype).removeprefix("torch.")
        few = value.tolist() if _entries(value) <= FEW else None
        return f"{kind} {tuple(value.shape)}" if few is None else brief(few)
    if inspect.isroutine(value):
        return str(getattr(value, "__name__", type(value).__name__))
    if callable(getattr(value, "parameters", None)):  # a network
        count = sum(_entries(weight) for weight in value.parameters())
        return f"{type(value).__name__}, {count:,} parameters"
    if isinstance(value, Shown) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return line(value, 2 * WIDTH)
    return cut(str(value))


def fields_of(thing: Any) -> dict[str, Any]:
    """What to show of a dataclass: the fields of its `repr`, without those that say nothing."""
    fields = (f for f in dataclasses.fields(thing) if f.repr and not f.name.startswith("_"))
    values = {f.name: getattr(thing, f.name) for f in fields}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def line(thing: Any, longest: int = LONGEST) -> str:
    """A thing on one line: its class and what it has."""
    shown = thing.shown() if isinstance(thing, Shown) else fields_of(thing)
    return cut(f"{type(thing).__name__}({', '.join(f'{key}={brief(item)}' for key, item in shown.items())})", longest)


def cut(text: str, longest: int = WIDTH) -> str:
    """A text of at most so many characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class Shown:
    """Base of what shows itself. Subclasses say in `shown` what there is to see.

    A dataclass below this class keeps this `repr`, in place of the one that it would write itself.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown.__repr__

    def shown(self) -> Mapping[str, Any]:
        """What a reader wants to know, by name; the fields of a dataclass by default."""
        return fields_of(self) if dataclasses.is_dataclass(self) else {}

    def __repr__(self) -> str:
        return line(self)

    def _repr_html_(self) -> str:
        return page(self)


def page(thing: Any) -> str:
    """A thing as a table, with thumbnails of its tensors that are pictures."""
    shown = thing.shown() if isinstance(thing, Shown) else fields_of(thing)
    pictures = [thumbnail(value, name) for name, value in shown.items() if is_picture(value)]
    return table(type(thing).__name__, shown) + "".join(pictures[:MOST_THUMBNAILS])


def table(title: str, rows: Mapping[str, Any]) -> str:
    """Names and values as an HTML table."""
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(str(name))}</th>'
        f'<td style="text-align:left">{escape(brief(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption><b>{escape(title)}</b></caption><tbody>{lines}</tbody></table>"


def thumbnail(picture: Any, name: str) -> str:
    """A tensor as a small image: the first picture of a batch, its smallest value black, its largest white.

    Args:
        picture: shape (..., H, W), or (..., 3, H, W) in color.
        name: below the image.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(picture.detach().cpu().float() if hasattr(picture, "detach") else picture, dtype=np.float32)
    while values.ndim > 3 or (values.ndim == 3 and len(values) != 3):
        values = values[0]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    shades = np.nan_to_num(255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    step = max(1, max(shades.shape[-2:]) // (2 * THUMBNAIL))
    shades = shades[..., ::step, ::step]
    file = io.BytesIO()
    Image.fromarray(shades.transpose(1, 2, 0) if shades.ndim == 3 else shades).save(file, format="png")
    return f'<figure style="display:inline-block;margin:4px;text-align:center">{inline(file.getvalue(), name)}' + (
        f"<figcaption><small>{escape(name)}</small></figcaption></figure>"
    )


def inline(png: bytes, name: str, width: int = THUMBNAIL) -> str:
    """A PNG as an image inside a page."""
    data = base64.b64encode(png).decode()
    style = f'alt="{escape(name)}" width="{width}" style="image-rendering:pixelated"'
    return f'<img {style} src="data:image/png;base64,{data}">'


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor or an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "tolist")


def is_picture(value: Any) -> bool:
    """Whether it is a tensor that an eye can read as a picture: real, its last two axes neither short nor long."""
    if not is_tensor(value) or value.ndim < 2 or "complex" in str(value.dtype):
        return False
    height, width = value.shape[-2:]
    return min(height, width) >= 8 and max(height, width) <= 8 * min(height, width) and _entries(value) > 0


def _entries(tensor: Any) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count
