"""The glyphs of `midguide.data.glyphs` as something to train on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from midguide.data.glyphs import SIZE, glyphs
from midguide.nn.base import check_fits
from midguide.training.base import RECIPES, Data, Job
from midguide.training.config import DenoisingConfig, check_channels

HELD_OUT = 4096
"""Pictures 0 to `HELD_OUT - 1` are never trained on; priors are judged by the first of them."""
_LAST = 2**53


@RECIPES.register("glyphs", summary="a prior of letters and digits, drawn without end: it needs no data")
@dataclass(frozen=True, kw_only=True)
class GlyphTrainingConfig(DenoisingConfig):
    """How to train a prior on glyphs; its recipe says `kind = "glyphs"`."""

    flip: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_channels(self.network)

    def job(self, data: Data) -> Job:
        """The training on pictures drawn when they are asked for."""
        from midguide.training.jobs import DrawnPrior

        data.refuse("path", "held_out", "autoencoder", "strict", hint="glyphs are drawn, not read")
        check_fits(self.network, (1, SIZE, SIZE), "glyphs")
        source = Glyphs()
        return DrawnPrior(self, source, source, "glyphs, drawn without end")


@dataclass(frozen=True)
class Glyphs:
    """Glyphs that are drawn when they are asked for: no picture is seen twice, and none of the held-out ones ever.

    Args:
        seed: of the generator of glyphs.
        size: how many held-out pictures `events` returns, at most `HELD_OUT`.
    """

    seed: int = 0
    size: int = field(default=1024, repr=False)
    value_range: tuple[float, float] | None = (-1.0, 1.0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        numbers = torch.randint(HELD_OUT, _LAST, (count,), generator=generator, device=generator.device)
        return glyphs(numbers.cpu(), seed=self.seed)

    def events(self) -> Tensor:
        """The first held-out pictures, shape (size, 1, 32, 32)."""
        return glyphs(torch.arange(self.size), seed=self.seed)

    def __len__(self) -> int:
        return self.size
