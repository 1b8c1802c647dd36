"""Samplers by the name that the command line and studies use."""

from __future__ import annotations

from midguide.samplers.base import Sampler
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional

SAMPLERS: dict[str, type[Sampler]] = {
    "dps": DPS,
    "mgps": MGPS,
    "unconditional": Unconditional,
}
