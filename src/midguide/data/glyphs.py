"""Glyphs: random pictures of letters and digits, 32x32, one channel, without end and without a license question.

A picture is a character of a DejaVu font (they come with matplotlib) in two gray values. Random numbers stretch, shear,
rotate and shift it, and make it bolder or thinner. Picture number `index` of a `seed` is always the same, whatever is
drawn beside it. A hidden half often has several readings: the left half of an E is that of an F, a P, an R or a B.

Each outline becomes a signed distance once, `d(u) > 0` inside the character. A picture is then one lookup per pixel:

    x(p) = background + (ink - background) clamp(1/2 + s (d(u(p)) + w), 0, 1).

Here u(p) is the place in the outline under pixel p, and w the change of weight. A unit of the outline is s pixels long.
So thickness is an offset of the distance, and edges are one pixel wide at every size.

DejaVu fonts: https://dejavu-fonts.github.io, free to use, embed and modify.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midguide.errors import ConfigError

SIZE = 32
"""Height and width of a picture."""
CHARACTERS = "23456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The classes in order. Digits 0 and 1 are left out: they hardly differ from the letters O and I."""
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
"""The fonts, by the names of their files in matplotlib; all have capitals and digits of the same height."""

_CAPITAL = 0.729  # height of a DejaVu capital in units of the font size
_POINTS = 100  # font size at which outlines are read
_GRID = 96  # side of a table of distances
_HALF = 0.75  # a table covers [-_HALF, _HALF]^2, in units of the height of a capital
_WIDEST = 21.0  # pixels that a character may be wide before it is narrowed
_DRAWS = 11  # random numbers per picture


@dataclass(frozen=True, kw_only=True)
class GlyphVariation:
    """How much pictures vary; every number is drawn uniformly between its two bounds.

    Args:
        height: height of a capital in pixels.
        stretch: width over height, relative to the font.
        shear: horizontal shift per unit of height.
        rotation: degrees, counter-clockwise.
        shift: of the center, in pixels, in each direction.
        weight: what is added to each side of a stroke, in units of the height of a capital (a stroke has 0.13).
        ink: gray value of the character, in [-1, 1].
        background: gray value around it, in [-1, 1].
    """

    height: tuple[float, float] = (16.0, 21.0)
    stretch: tuple[float, float] = (0.85, 1.15)
    shear: tuple[float, float] = (-0.2, 0.2)
    rotation: tuple[float, float] = (-10.0, 10.0)
    shift: tuple[float, float] = (-1.5, 1.5)
    weight: tuple[float, float] = (-0.015, 0.04)
    ink: tuple[float, float] = (0.5, 1.0)
    background: tuple[float, float] = (-1.0, -0.7)

    def __post_init__(self) -> None:
        for name, (low, high) in vars(self).items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ConfigError(f"`{name}` is {(low, high)}, expected two finite numbers that do not fall")
        if min(self.height[0], self.stretch[0]) <= 0:
            raise ConfigError(f"`height` {self.height} and `stretch` {self.stretch} must be positive")
        if min(self.ink[0], self.background[0]) < -1 or max(self.ink[1], self.background[1]) > 1:
            raise ConfigError(f"`ink` {self.ink} and `background` {self.background} must lie in [-1, 1]")


STANDARD = GlyphVariation()
"""The variation that the prior `glyphs-32` is trained on."""


def glyphs(indices: Tensor, *, seed: int = 0, variation: GlyphVariation = STANDARD) -> Tensor:
    """The pictures with the given numbers.

    Args:
        indices: numbers of the pictures, integers from 0, shape (N,).
        seed: of all of them; another seed gives unrelated pictures.
        variation: how much they vary.

    Returns:
        Pictures in [-1, 1], bright on dark, float32, shape (N, 1, 32, 32).

    Raises:
        ConfigError: If `indices` is not a row of integers from 0.

    Example:
        >>> pictures = glyphs(torch.arange(4))
        >>> pictures.shape
        torch.Size([4, 1, 32, 32])
        >>> bool((pictures[2] == glyphs(torch.tensor([2]))[0]).all())
        True
    """
    uniform = _uniforms(indices, seed)
    classes, fonts = _class_and_font(uniform)
    parts = [
        _render(*part, variation)
        for part in zip(classes.split(256), fonts.split(256), uniform.split(256), strict=True)  # a few MB at a time
    ]
    return torch.cat(parts) if parts else torch.empty(0, 1, SIZE, SIZE)


def glyph_classes(indices: Tensor, *, seed: int = 0) -> Tensor:
    """Which character each picture shows, as its place in `CHARACTERS`.

    Args:
        indices: numbers of the pictures, integers from 0, shape (N,).
        seed: of all of them.

    Returns:
        Classes, int64, shape (N,).

    Raises:
        ConfigError: If `indices` is not a row of integers from 0.

    Example:
        >>> "".join(CHARACTERS[k] for k in glyph_classes(torch.arange(6)))
        'WRAT4G'
    """
    return _class_and_font(_uniforms(indices, seed))[0]


def _class_and_font(uniform: Tensor) -> tuple[Tensor, Tensor]:
    return (uniform[:, 0] * len(CHARACTERS)).long(), (uniform[:, 1] * len(FONTS)).long()


def _uniforms(indices: Tensor, seed: int) -> Tensor:
    """The random numbers of each picture, in [0, 1), float64, shape (N, _DRAWS); a hash of seed, number and column."""
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool or bool((indices < 0).any()):
        got = f"{indices.dtype} of shape {tuple(indices.shape)}"
        raise ConfigError(f"`indices` must be integers from 0 of shape (N,), got {got}", hint="torch.arange(N)")
    rows = _mixed(indices.cpu().numpy().astype(np.uint64) + _mixed(np.array([seed % 2**64], np.uint64)))
    columns = np.arange(1, _DRAWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return torch.from_numpy((_mixed(rows[:, None] + columns) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection whose bits look unrelated to the input's."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _render(classes: Tensor, fonts: Tensor, uniform: Tensor, variation: GlyphVariation) -> Tensor:
    """Pictures of the formula above, shape (N, 1, SIZE, SIZE)."""
    bounds = torch.tensor(
        [variation.height, variation.stretch, variation.shear, variation.rotation]
        + [variation.shift, variation.shift, variation.weight, variation.ink, variation.background],
        dtype=torch.float64,
    )
    low, high = bounds.unbind(1)
    drawn = low + (high - low) * uniform[:, 2:]
    height, stretch, shear, turn, right, down, weight, ink, background = (
        column[:, None, None] for column in drawn.float().unbind(1)
    )
    tables, widths = _tables()
    width = height * torch.minimum(stretch, _WIDEST / (height * widths[fonts, classes][:, None, None]))
    centered = torch.arange(SIZE) - (SIZE - 1) / 2
    across, along = centered[None, None, :] - right, centered[None, :, None] - down
    cos, sin = (turn * (math.pi / 180)).cos(), (turn * (math.pi / 180)).sin()
    u, v = cos * across - sin * along, sin * across + cos * along  # rows count downwards
    u = (u + shear * v) / width
    distance = _looked_up(tables[fonts, classes], u, v / height)
    ink_share = (0.5 + (height * width).sqrt() * (distance + weight)).clamp(0, 1)
    return (background + (ink - background) * ink_share)[:, None]


def _looked_up(tables: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Tables of distances, shape (N, _GRID, _GRID), read bilinearly at u to the right and v down, shape (N, H, W)."""
    places = [((w + _HALF) * (_GRID / (2 * _HALF)) - 0.5).clamp(0, _GRID - 1.001) for w in (u, v)]
    (column, row), (right, down) = [w.long() for w in places], [w.frac() for w in places]
    flat, first = tables.flatten(1), row * _GRID + column
    corners = [flat.gather(1, (first + k).flatten(1)).view_as(u) for k in (0, 1, _GRID, _GRID + 1)]
    upper, lower = (a + right * (b - a) for a, b in (corners[:2], corners[2:]))
    return upper + down * (lower - upper)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Distances, shape (fonts, characters, _GRID, _GRID), and widths, shape (fonts, characters); in capital heights."""
    distances, widths = [], []
    for font in FONTS:
        for outlines in _outlines(font):
            corners = np.concatenate(outlines)
            low, high = corners.min(0), corners.max(0)
            distances.append(_signed_distance([(outline - (low + high) / 2) * [1, -1] for outline in outlines]))
            widths.append(high[0] - low[0])
    shape = len(FONTS), len(CHARACTERS)
    table = torch.from_numpy(np.stack(distances)).float().view(*shape, _GRID, _GRID)
    return table, torch.tensor(widths, dtype=torch.float32).view(shape)


def _outlines(font: str) -> Iterator[list[NDArray[np.float64]]]:
    """The closed polygons of each character, up is positive, in units of the height of a capital.

    Not by `matplotlib.textpath`, which reads all fonts of the machine when it is first imported.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font, LoadFlags
    from matplotlib.path import Path as Outline

    file = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"))
    file.set_size(_POINTS, 72)
    for character in CHARACTERS:
        file.load_char(ord(character), flags=LoadFlags.NO_HINTING)
        outline = Outline(*file.get_path())
        polygons = outline.to_polygons(closed_only=True)
        yield [np.asarray(polygon, np.float64) / (_CAPITAL * _POINTS) for polygon in polygons]


def _signed_distance(polygons: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Distance to the nearest edge at the centers of a table's cells, positive inside, shape (_GRID, _GRID)."""
    axis = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _HALF
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    start = np.concatenate([polygon[:-1] for polygon in polygons])
    edge = np.concatenate([np.diff(polygon, axis=0) for polygon in polygons])
    kept = (edge**2).sum(1) > 0
    start, edge = start[kept], edge[kept]
    offset = points[:, None] - start
    along = ((offset * edge).sum(2) / (edge**2).sum(1)).clip(0, 1)
    nearest = np.sqrt(((offset - along[..., None] * edge) ** 2).sum(2).min(1))
    # Winding number: upward crossings to the right of the point count +1, downward ones -1 (Sunday 2001).
    left = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    below, end_below = start[:, 1] <= points[:, None, 1], (start + edge)[:, 1] <= points[:, None, 1]
    winding = (below & ~end_below & (left > 0)).sum(1) - (~below & end_below & (left < 0)).sum(1)
    return np.where(winding != 0, nearest, -nearest).reshape(_GRID, _GRID)
