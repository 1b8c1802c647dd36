"""Public contract tests: what every operator, schedule, denoiser and sampler must satisfy, yours included.

Each `check_` function raises `ContractError`, an `AssertionError` that names the broken fact and by how much. They
run over the registries in this package's own tests; call them on your own pieces in yours.
"""

from midguide.testing.contract import ContractError
from midguide.testing.identity import changed_settings, check_identity
from midguide.testing.operators import check_operator
from midguide.testing.pieces import check_piece
from midguide.testing.samplers import check_sampler
from midguide.testing.schedules import check_denoiser, check_schedule

__all__ = [
    "ContractError",
    "changed_settings",
    "check_denoiser",
    "check_identity",
    "check_operator",
    "check_piece",
    "check_sampler",
    "check_schedule",
]
