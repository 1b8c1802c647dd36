"""Stored draws: a folder for each unit, by the address of everything that its draws depend on, which they name, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from midguide.errors import CheckpointError
from midguide.inference.samples import Samples
from midguide.storage.files import aside

ADDRESS = "draws_address"
"""In the record of stored draws: what they are draws of."""


def load_draws(address: str, kept: Path) -> Samples | None:
    """The draws of this address in the folder of stored draws; None where there are none.

    Raises:
        CheckpointError: they are damaged, or those of another unit.
    """
    if not (kept / address).exists():
        return None
    samples = Samples.load(kept / address)
    if samples.record.get(ADDRESS) != address:
        raise CheckpointError(f"{kept / address} holds draws of something else")
    return samples


def keep_draws(samples: Samples, address: str, kept: Path) -> None:
    """Store draws. What is damaged or foreign in their place is set aside."""
    try:
        load_draws(address, kept)
    except CheckpointError:
        (kept / address).replace(aside(kept / address, "damaged"))
    replace(samples, record={**samples.record, ADDRESS: address}).save(kept / address)
