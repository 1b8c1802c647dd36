"""JPEG: what compressing an image and opening it again makes of it.

Standard: ITU-T T.81 (1992), baseline sequential coding (A.3: transform and quantization; Annex K: tables), with the
colors of JFIF (ITU-T T.871). Entropy coding is absent: it loses nothing.

Differences from an encoder and decoder such as libjpeg:
- rounding has a gradient unless `rounding="exact"`;
- numbers stay real. In contrast, libjpeg also rounds colors, pixels and intermediate results of its transforms. So a
  coefficient near the middle between two steps may go the other way. With exact rounding and the triangle filter, a
  portrait differs from libjpeg's by 0.3 (quality 2) to 1.2 of 255 levels on average;
- decoded values outside [-1, 1] stay, so that decoding again changes nothing; a decoder clips them, as
  `compose(HighDynamicRange(1.0), JPEG())` does;
- chroma is enlarged by replication; libjpeg's triangle filter is `upsampling="triangle"`. At quality 2 replication
  adds 2.4 levels (root mean square) to that portrait, where compression itself costs 26.

Together they are small. The default differs from Pillow's round trip of the portrait by 4.5 levels (root mean square)
at quality 2, where compression costs 26. From quality 5 on it is 1.6 to 3.5 levels, where compression costs 16 to 4.
The paper's setting differs by 5.5 levels of 36 from the round trip of a file with its tables.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError, unknown
from midguide.operators.base import OPERATORS, PseudoInvertibleOperator
from midguide.operators.colorization import LUMA

BLOCK = 8

# ITU-T T.81, Tables K.1 and K.2.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def _standard(tables: Tensor, quality: int) -> Tensor:
    """As libjpeg does, in integers: rounded, and clamped to the bytes of a baseline file."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((tables * scale + 50) / 100).floor().clamp(1, 255)


def _unclamped(tables: Tensor, quality: int) -> Tensor:
    """As the code of the MGPS paper does: neither rounded nor clamped."""
    return tables * (5000 / quality if quality < 50 else 200 - 2 * quality) / 100


def _cubic(values: Tensor) -> Tensor:
    """`round(v) + (v - round(v))^3`: within 1/8 of rounding, with the derivative `3 (v - round(v))^2`."""
    rounded = values.round()
    return rounded + (values - rounded) ** 3


def _replicate(plane: Tensor, ratio: int) -> Tensor:
    """Each value fills `ratio` x `ratio` pixels."""
    height, width = plane.shape[-2:]
    cells = plane[..., :, None, :, None].expand(*plane.shape[:-2], height, ratio, width, ratio)
    return cells.flatten(-2).flatten(-3, -2)


def _triangle(plane: Tensor, ratio: int) -> Tensor:
    """Twice the size: 3/4 of the nearer and 1/4 of the farther value along each axis, edges repeated."""
    if ratio == 1:
        return plane
    for dim in (plane.ndim - 2, plane.ndim - 1):
        n = plane.shape[dim]
        before = torch.cat([plane.narrow(dim, 0, 1), plane.narrow(dim, 0, n - 1)], dim)
        after = torch.cat([plane.narrow(dim, 1, n - 1), plane.narrow(dim, n - 1, 1)], dim)
        pairs = torch.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], dim + 1)
        plane = pairs.flatten(dim, dim + 1)
    return plane


TABLES: dict[str, Callable[[Tensor, int], Tensor]] = {"standard": _standard, "unclamped": _unclamped}
SUBSAMPLING = {"4:2:0": 2, "4:4:4": 1}
ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {"cubic": _cubic, "exact": torch.round}
UPSAMPLING: dict[str, Callable[[Tensor, int], Tensor]] = {"replicate": _replicate, "triangle": _triangle}


@dataclass(frozen=True, eq=False)
class JPEG(PseudoInvertibleOperator):
    """The decoded image, shape (B, C, H, W) -> (B, C, H, W), of any size.

    Three channels are RGB. Any other number are components of their own, each coded as luma: gray, or bands without
    colors (T.81 allows up to 255).

    Values in [-1, 1] go to [0, 255] and to `Y = 0.299 R + 0.587 G + 0.114 B`, `Cb`, `Cr`. Chroma is averaged over 2x2
    pixels. It transforms each 8x8 block by the DCT, divides it by a table and rounds it; then it undoes all of that.
    Repeating the edge fills incomplete blocks.

    The pseudo-inverse is the identity, since measurements are decoded images: `h(y) = y` for `y = h(x)`.
    - Exact, up to rounding errors, with `rounding="exact"`, replication and sizes that are multiples of 8 (of 16 with
      4:2:0).
    - With `rounding="cubic"` at these sizes no coefficient moves by more than 1/8 of its entry in the table. One that
      is d from its step is d^3 from it in y, and d^9 in h(y). At quality 2 this is 4 to 5 of 255 levels (root mean
      square) on a portrait, where compression costs 26 to 34. Nothing holds relative to y: if every coefficient is
      rounded to zero, y consists of the d^3 alone.
    - At other sizes the edge that fills the incomplete blocks is that of y, not of x. Means do not undo the triangle
      filter. On the portrait h(y) differs from y by at most a seventh (exact) or a fifth (cubic) of what compression
      changes. That is 4 or 6 levels at quality 2, and 1.3 or 2 from quality 10 on.

    Args:
        quality: 1 (worst) to 100.
        tables: `standard`, the tables of T.81 scaled, rounded and clamped to 1..255 as libjpeg does; or `unclamped`,
            only scaled, as the code of the MGPS paper does: at quality 2 they reach 3025.
        subsampling: `4:2:0`, chroma at half the size; or `4:4:4`, at full size.
        rounding: `cubic`, `round(v) + (v - round(v))^3`, which has a gradient; or `exact`, whose derivative is zero.
        upsampling: how chroma is enlarged: `replicate` or `triangle`.

    Raises:
        ConfigError: If the quality is not an integer from 1 to 100, a name is unknown, or all entries of the table are
            zero.
        ShapeError: If x is not a batch of images.

    Example:
        >>> JPEG(quality=50)(torch.zeros(2, 3, 20, 30)).shape
        torch.Size([2, 3, 20, 30])

    References: Reich, Debnath, Patel, Chakradhar 2024, "Differentiable JPEG: the devil is in the details", WACV; Shin
    and Song 2017, "JPEG-resistant adversarial images" (the cubic rounding).
    """

    quality: int = 2
    tables: str = "standard"
    subsampling: str = "4:2:0"
    rounding: str = "cubic"
    upsampling: str = "replicate"

    def __post_init__(self) -> None:
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ConfigError(
                f"the quality of a JPEG is an integer from 1 to 100, got {self.quality!r}", hint="1 is the worst"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.tables == "unclamped" and self.quality == 100:
            raise ConfigError("unclamped tables are zero at quality 100", hint="take quality=99, or tables=standard")

    @property
    def value_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ShapeError(
                f"a JPEG has events of shape (channels, H, W), got {tuple(x.shape[1:])}",
                hint="three channels are RGB, others have no color; values are in [-1, 1]",
            )
        luma, chroma = self.quantization().to(x)
        levels = 127.5 * (x + 1)
        if x.shape[1] != 3:
            return (self._code(levels - 128, luma) + 128) / 127.5 - 1
        levels = _mix(_rgb_to_ycbcr(), levels)
        planes = [self._code(levels[:, :1] - 128, luma) + 128, self._code_chroma(levels[:, 1:], chroma)]
        return _mix(_rgb_to_ycbcr().inverse(), torch.cat(planes, 1)) / 127.5 - 1

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def quantization(self) -> Tensor:
        """The tables of luma and chroma, by vertical and horizontal frequency: shape (2, 8, 8), float64."""
        return TABLES[self.tables](torch.tensor([LUMINANCE, CHROMINANCE], dtype=torch.float64), self.quality)

    def _code_chroma(self, planes: Tensor, table: Tensor) -> Tensor:
        ratio = SUBSAMPLING[self.subsampling]
        height, width = planes.shape[-2:]
        # The order of libjpeg: the edge is repeated to whole cells downwards and to whole blocks sideways, the means
        # are taken, and only they are repeated to whole blocks downwards.
        cells = _repeat_edge(planes, ratio, BLOCK * ratio).unflatten(-2, (-1, ratio)).unflatten(-1, (-1, ratio))
        small = self._code(cells.mean((-3, -1)), table)
        small = small[..., : math.ceil(height / ratio), : math.ceil(width / ratio)]
        return UPSAMPLING[self.upsampling](small, ratio)[..., :height, :width]

    def _code(self, planes: Tensor, table: Tensor) -> Tensor:
        """Transform, quantize and undo both, shape (B, c, h, w) -> the same."""
        height, width = planes.shape[-2:]
        dct = _dct().to(planes)
        blocks = _repeat_edge(planes, BLOCK, BLOCK).unflatten(-2, (-1, BLOCK)).unflatten(-1, (-1, BLOCK))
        coefficients = dct @ blocks.transpose(-3, -2) @ dct.mT
        quantized = table * ROUNDING[self.rounding](coefficients / table)
        decoded = (dct.mT @ quantized @ dct).transpose(-3, -2).flatten(-2).flatten(-3, -2)
        return decoded[..., :height, :width]


CHOICES = {"tables": TABLES, "subsampling": SUBSAMPLING, "rounding": ROUNDING, "upsampling": UPSAMPLING}


@OPERATORS.register(
    "jpeg",
    summary="compressed and opened again; values in the prior's range, else -1 to 1",
    needs="an image with channels",
)
def jpeg(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    quality: int = 2,
    tables: str = "standard",
    subsampling: str = "4:2:0",
    rounding: str = "cubic",
    upsampling: str = "replicate",
) -> JPEG:
    """JPEG at this quality; blocks have 8 pixels whatever the size of the image. Settings as in `JPEG`."""
    return JPEG(quality, tables, subsampling, rounding, upsampling)


@functools.cache
def _dct() -> Tensor:
    """The orthonormal DCT-II of 8 values, shape (8, 8), float64."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    dct = torch.cos(math.pi / BLOCK * torch.outer(k, k + 0.5)) * math.sqrt(2 / BLOCK)
    dct[0] /= math.sqrt(2)
    return dct


@functools.cache
def _rgb_to_ycbcr() -> Tensor:
    """T.871: luma, and the differences `(B - Y) / 1.772` and `(R - Y) / 1.402`, shape (3, 3), float64."""
    luma = torch.tensor(LUMA, dtype=torch.float64)
    red, _, blue = torch.eye(3, dtype=torch.float64)
    return torch.stack([luma, (blue - luma) / (2 - 2 * LUMA[2]), (red - luma) / (2 - 2 * LUMA[0])])


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix times the channels of each pixel."""
    return torch.einsum("ij,bjhw->bihw", matrix.to(x), x)


def _repeat_edge(x: Tensor, rows: int, columns: int) -> Tensor:
    """Repeat the last row and column until the sizes are multiples of `rows` and `columns`."""
    for dim, multiple in ((-2, rows), (-1, columns)):
        last = x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([x, *[last] * (-x.shape[dim] % multiple)], dim)
    return x
