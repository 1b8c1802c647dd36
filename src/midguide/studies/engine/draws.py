"""Stored draws: a folder for each unit, by the address of everything that its draws depend on, which they name, too.

They also say by which code they were made: an address holds settings, data and weights, but no code of this package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from midguide.errors import CheckpointError
from midguide.inference.samples import Samples
from midguide.storage.code import Code
from midguide.storage.files import aside

ADDRESS = "draws_address"
"""In the record of stored draws: what they are draws of."""

CODE = "drawn_by"
"""Likewise: the code that made them."""


def load_draws(address: str, kept: Path) -> Samples | None:
    """The draws of this address in the folder of stored draws; None where there are none.

    Raises:
        CheckpointError: If they are damaged, or those of another unit.
    """
    if not (kept / address).exists():
        return None
    samples = Samples.load(kept / address)
    if samples.record.get(ADDRESS) != address or CODE not in samples.record:
        raise CheckpointError(f"{kept / address} holds draws of something else")
    return samples


def drawn_by(samples: Samples) -> Code:
    """The code that made draws which `named` gave."""
    return Code(**samples.record[CODE])


def stored_code(address: str, kept: Path) -> Code | None:
    """The code that made stored draws, without reading them; None where there are none, or damaged ones."""
    try:
        record = json.loads((kept / address / "samples.json").read_text("utf-8"))["record"]
        return Code(**record[CODE])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def named(samples: Samples, address: str, code: Code) -> Samples:
    """Draws that say what they are draws of, and by which code."""
    return replace(samples, record={**samples.record, ADDRESS: address, CODE: asdict(code)})


def keep_draws(samples: Samples, address: str, kept: Path) -> None:
    """Store draws that `named` gave. What is damaged or foreign in their place is set aside."""
    try:
        load_draws(address, kept)
    except CheckpointError:
        (kept / address).replace(aside(kept / address, "damaged"))
    samples.save(kept / address)
