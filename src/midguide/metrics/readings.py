"""What glyphs are read as: the class probabilities of the shipped network `glyphs-32-reader`.

It is there to name the readings of draws of `glyphs-32`; its card states its accuracy on pictures that it was not
trained on.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from midguide.errors import CheckpointError, NumericalError, ShapeError
from midguide.nn.feature_net import FeatureNet, load_feature_net
from midguide.storage.cards import read_card

READER = "glyphs-32-reader"
ROWS = 256
"""Pictures that go through the network together."""


def read_glyphs(pictures: Tensor) -> Tensor:
    """The probability of each character of `midguide.data.glyphs.CHARACTERS`, by the shipped reader.

    Args:
        pictures: in [-1, 1], bright on dark, shape (N, 1, 32, 32); values outside the range are clamped.

    Returns:
        Probabilities, float64, shape (N, 34); each row sums to one.

    Raises:
        ShapeError: If `pictures` have another shape.
        NumericalError: If a picture holds NaN or infinity.

    Example:
        >>> from midguide.data.glyphs import CHARACTERS, glyphs
        >>> "".join(CHARACTERS[k] for k in read_glyphs(glyphs(torch.arange(6))).argmax(1))
        'WRAT4G'
    """
    network = _reader()
    if pictures.ndim != 4 or tuple(pictures.shape[1:]) != network.config.event_shape:
        raise ShapeError(f"pictures to read have the shape (N, 1, 32, 32), got {tuple(pictures.shape)}")
    if not bool(torch.isfinite(pictures).all()):
        raise NumericalError("a picture to read holds NaN or infinity")
    with torch.no_grad():
        parts = [network(part.clamp(-1, 1).float())[0].double() for part in pictures.detach().cpu().split(ROWS)]
    return torch.cat(parts).softmax(1)


def card_path() -> Path:
    """The card of the reader; its weights lie beside it."""
    return Path(str(resources.files("midguide.metrics"))) / "shipped" / f"{READER}.json"


@cache
def _reader() -> FeatureNet:
    card = read_card(card_path())
    network, sha256 = load_feature_net(card_path().with_suffix(".safetensors"))
    if sha256 != card.sha256:
        raise CheckpointError(f"the weights of `{READER}` are not those of its card", hint="install midguide again")
    return network
