"""Samplers by the name that the command line and studies use."""

from __future__ import annotations

from midguide.samplers.base import Sampler
from midguide.samplers.ddnm import DDNM, DDNMPlus
from midguide.samplers.ddrm import DDRM
from midguide.samplers.diffpir import DiffPIR
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.pgdm import PGDM
from midguide.samplers.psld import PSLD
from midguide.samplers.red_diff import REDDiff
from midguide.samplers.resample import ReSample
from midguide.samplers.unconditional import Unconditional

SAMPLERS: dict[str, type[Sampler]] = {
    "ddnm": DDNM,
    "ddnm-plus": DDNMPlus,
    "ddrm": DDRM,
    "diffpir": DiffPIR,
    "dps": DPS,
    "mgps": MGPS,
    "pgdm": PGDM,
    "psld": PSLD,
    "red-diff": REDDiff,
    "resample": ReSample,
    "unconditional": Unconditional,
}
