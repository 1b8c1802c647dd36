"""Pictures that every installation has."""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.errors import DataError


def portrait(size: int) -> Tensor:
    """The face of the astronaut Eileen Collins (NASA, public domain), in [-1, 1], shape (1, 3, size, size).

    Cropped as the faces that `faces-64` was trained on: eyes at 0.29 of the height, the mouth at 0.71.

    Args:
        size: height and width in pixels.

    Raises:
        DataError: If the installation of scikit-image lacks its pictures.

    Example:
        >>> portrait(64).shape
        torch.Size([1, 3, 64, 64])
    """
    try:
        from skimage import data, transform

        photo = data.astronaut()[73:175, 174:276]
    except (ImportError, OSError) as error:
        raise DataError(f"cannot read the portrait of scikit-image: {error}", hint="install midguide again") from error
    image = transform.resize(photo, (size, size), anti_aliasing=True)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() * 2 - 1
