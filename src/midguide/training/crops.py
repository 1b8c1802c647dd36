"""Square pictures cut at random out of larger gray images, for micrographs: exposure evened out, no empty pictures.

Exposures of one data set can differ by a factor of eight, and a third of random crops show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.data.images import load_gray_images
from midguide.errors import ConfigError, DataError
from midguide.nn.base import check_fits
from midguide.training.base import RECIPES, Data, Job
from midguide.training.config import DenoisingConfig, check_channels

STRIDE = 4
"""Pixels between the places where pictures may start."""
KEPT = 50
"""Every so many-th image is kept to judge by, where none are given for that."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How square pictures are cut out of larger images.

    Args:
        size: side of a picture.
        shrink: side of the blocks of pixels that are averaged first.
        white: percentile of an image that becomes white: exposures differ, so each image is divided by its own.
        bright: from where on a pixel counts as content, between 0, the darkest twentieth of its image, and 1, white.
        content: least share of such pixels in a picture; the rest, nearly empty, is not trained on.
    """

    size: int = 64
    shrink: int = 1
    white: float = 99.9
    bright: float = 0.25
    content: float = 0.02

    def __post_init__(self) -> None:
        if min(self.size, self.shrink) < 1:
            raise ConfigError(f"size={self.size} and shrink={self.shrink} must be positive")
        if not (0.0 < self.white <= 100.0 and 0.0 <= self.content <= 1.0):
            raise ConfigError(f"white={self.white} must be a percentile, content={self.content} a share in [0, 1]")


@RECIPES.register("crops", summary="a prior of pictures cut at random out of larger gray images")
@dataclass(frozen=True, kw_only=True)
class CropTrainingConfig(DenoisingConfig):
    """How to train a prior on parts of micrographs; its recipe says `kind = "crops"`.

    Args:
        crops: how they are cut out.
        white: the value of white in the image files, as 4095 for 12 bits in 16; by default the largest of their type.
    """

    crops: Crops = field(default_factory=Crops)
    white: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.network)

    def job(self, data: Data) -> Job:
        """The training on a folder or zip file of images; without held-out ones every fiftieth is kept."""
        from midguide.training.jobs import DrawnPrior

        data.refuse("autoencoder", "strict", hint="crops are cut out of images that can all be read")
        size = self.crops.size
        check_fits(self.network, (1, size, size), "crops")
        images = load_gray_images(data.place, white=self.white, note=data.note)
        kept = (
            images[::KEPT]
            if data.held_out is None
            else load_gray_images(data.held_out, white=self.white, note=data.note)
        )
        if data.held_out is None:
            images = [image for number, image in enumerate(images) if number % KEPT]
        source = Pictures.cut(images, self.crops, where=data.place)
        return DrawnPrior(self, source, Pictures.cut(kept, self.crops, where=data.held_out or data.place), "crops")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of `size` x `size` in [-1, 1], at places and in positions of a square that are equally likely.

    Args:
        images: gray values in [0, 1], each of shape (H, W).
        places: image, row and column of every picture that has content, shape (P, 3).
        size: side of a picture.
    """

    images: tuple[Tensor, ...]
    places: Tensor
    size: int
    value_range: tuple[float, float] | None = (-1.0, 1.0)

    @classmethod
    def cut(cls, images: Sequence[Tensor], form: Crops, *, where: str | Path = "the data") -> Self:
        """Prepare images and find the places of pictures with content.

        Args:
            images: gray values in [0, 1], each of shape (H, W); sizes may differ.
            form: how to cut.
            where: what to call the images in an error.

        Raises:
            DataError: If no image holds a picture with content.
        """
        ready = tuple(prepared(image, form) for image in images)
        found = [_places(number, image, form) for number, image in enumerate(ready)]
        places = torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int64)
        if not len(places):
            raise DataError(
                f"no picture of {form.size}x{form.size} in {where} has content, of {len(ready)} images",
                hint="lower size, shrink, bright or content in [crops]",
            )
        return cls(ready, places, form.size)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        pictures = self._at(self.places[torch.randint(len(self.places), (count,), generator=generator)])
        for change in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
            chosen = torch.rand(count, generator=generator) < 0.5
            pictures = torch.where(chosen[:, None, None, None], change(pictures), pictures)
        return pictures

    def events(self) -> Tensor:
        """The pictures with content of a grid without overlap, as they are, shape (N, 1, size, size)."""
        return self._at(self._apart())

    def __len__(self) -> int:
        return len(self._apart())

    def _apart(self) -> Tensor:
        """Places that are multiples of a picture's size; all, if there are none."""
        step = -(-self.size // STRIDE) * STRIDE
        apart = self.places[(self.places[:, 1:] % step == 0).all(1)]
        return apart if len(apart) else self.places

    def _at(self, places: Tensor) -> Tensor:
        size = self.size
        parts = [self.images[n][None, row : row + size, column : column + size] for n, row, column in places.tolist()]
        return 2 * torch.stack(parts) - 1


def prepared(image: Tensor, form: Crops) -> Tensor:
    """An image as a `Crops` says: blocks averaged, its bright percentile at 1, values in [0, 1].

    Args:
        image: gray values, shape (H, W).
        form: how to cut.

    Returns:
        Shape (H // shrink, W // shrink).

    Example:
        >>> prepared(torch.full((4, 4), 0.2), Crops(shrink=2))
        tensor([[1., 1.],
                [1., 1.]])
    """
    small = F.avg_pool2d(image[None, None].float(), form.shrink)[0, 0] if form.shrink > 1 else image.float()
    if not small.numel():
        return small
    rank = max(1, round(form.white / 100 * small.numel()))
    white = float(small.flatten().kthvalue(rank).values)
    return (small / white).clamp(0, 1) if white > 0 else small


def _places(number: int, image: Tensor, form: Crops) -> Tensor:
    """Where pictures with content start in an image, shape (P, 3)."""
    if min(image.shape) < form.size:
        return torch.empty(0, 3, dtype=torch.int64)
    dark = float(image.flatten().kthvalue(max(1, image.numel() // 20)).values)  # some images have a gray background
    bright = (image >= dark + form.bright * (1 - dark)).float()[None, None]
    share = F.avg_pool2d(bright, form.size, STRIDE)[0, 0]
    start = STRIDE * (share >= form.content).nonzero()
    return torch.cat([torch.full((len(start), 1), number), start], dim=1)
