"""Stored draws: a folder for each unit, by the address of everything that its draws depend on, which they name, too.

They also say by which code they were made: an address holds settings, data and weights, but no code of this package.
A folder holds what `Samples.save` writes, or a Zarr store to which the draws went as they finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from midguide.errors import CheckpointError, MidguideError
from midguide.inference.samples import STORED, Samples
from midguide.inference.stored import STORE, StoredSamples
from midguide.inference.stream import stored_head
from midguide.storage.code import Code
from midguide.storage.files import aside, replacing_folder
from midguide.storage.record import fingerprint

ADDRESS = "draws_address"
"""In the record of stored draws: what they are draws of."""

CODE = "drawn_by"
"""Likewise: the code that made them."""


Draws = Samples | StoredSamples
"""In memory or on disk."""


def load_draws(address: str, kept: Path) -> Draws | None:
    """The draws of this address in the folder of stored draws, those in a store left there; None where there are none.

    Raises:
        CheckpointError: If they are damaged, or those of another unit.
    """
    folder = kept / address
    if not folder.exists():
        return None
    if (folder / STORE).exists():
        samples = StoredSamples.open(folder / STORE)
        samples.read_through()
    else:
        samples = Samples.load(folder)
    if samples.record.get(ADDRESS) != address or CODE not in samples.record:
        raise CheckpointError(f"{folder} holds draws of something else")
    return samples


def drawn_by(samples: Draws) -> Code:
    """The code that made draws which `named` gave."""
    return Code(**samples.record[CODE])


def stored_code(address: str, kept: Path) -> Code | None:
    """The code that made stored draws, without reading them; None where there are none, or damaged ones."""
    folder = kept / address
    try:
        if (folder / STORE).exists():
            return Code(**stored_head(folder / STORE)["record"][CODE])
        return Code(**STORED.json(folder / "samples.json")["record"][CODE])
    except (MidguideError, KeyError, TypeError, ImportError):
        return None


def named(samples: Samples, address: str, code: Code) -> Samples:
    """Draws that say what they are draws of, and by which code."""
    return replace(samples, record={**samples.record, **_name(address, code)})


def _name(address: str, code: Code) -> dict[str, object]:
    return {ADDRESS: address, CODE: asdict(code)}


def keep_draws(samples: Samples, address: str, kept: Path) -> None:
    """Store draws that `named` gave. What is damaged or foreign in their place is set aside."""
    make_room(address, kept)
    samples.save(kept / address)


def make_room(address: str, kept: Path) -> None:
    """Remove draws whose place others take, which other code made; what is damaged or foreign is set aside."""
    try:
        load_draws(address, kept)
    except MidguideError:
        (kept / address).replace(aside(kept / address, "damaged"))
    shutil.rmtree(kept / address, ignore_errors=True)


def write_draws(
    write: Callable[[Path], StoredSamples], names: Sequence[tuple[str, Code]], kept: Path
) -> list[StoredSamples]:
    """Draws of several units, written as they finish and then parted, so that memory holds a chunk of them.

    An interrupted call goes on where it was, unless other code began it.

    Args:
        write: draws for all units together, into a store.
        names: address and code of each.
        kept: folder of stored draws.
    """
    whole = kept / f".{fingerprint([address for address, _ in names])}.zarr"
    try:
        drawn = write(whole)
    except CheckpointError:
        _remove(whole)
        drawn = write(whole)
    for i, (address, code) in enumerate(names):
        make_room(address, kept)
        with replacing_folder(kept / address) as folder:
            drawn.extract(i, folder / STORE, _name(address, code))
    _remove(whole)
    return [StoredSamples.open(kept / address / STORE) for address, _ in names]


def _remove(store: Path) -> None:
    for path in (store, store.with_name(f"{store.name}.progress")):
        shutil.rmtree(path, ignore_errors=True)
