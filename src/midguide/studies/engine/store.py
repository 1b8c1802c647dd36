"""The results of a study on disk: one Parquet file per unit, complete or absent, named by the unit's address.

OUT/study.json                  which study this is, its file as plain values, expected numbers, the Python files run,
                                and a checksum of all that
OUT/study.earlier               the same of an earlier run of this name that had another file, if any
OUT/units/ADDRESS.parquet       one row per metric, with the code that made it
OUT/samples/ADDRESS/            the draws, where the study keeps them
OUT/.../ADDRESS.damaged         what stood there and could not be read, once it has been recreated
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from midguide.catalogue.base import short
from midguide.errors import DataError, DataRemark, MidguideError
from midguide.storage.files import aside, replacing, replacing_folder
from midguide.storage.outside import MIB, Outside
from midguide.storage.record import fingerprint
from midguide.studies.engine.units import Unit, codes_of, forget_code, made_by
from midguide.studies.report.expected import Expected

FORMAT = 1
SCHEMA = pa.schema(
    [
        pa.field("address", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("failure", pa.string()),
        pa.field("network_forwards", pa.float64()),
        pa.field("network_vjps", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("peak_memory_mib", pa.float64()),
        pa.field("configuration", pa.string(), nullable=False),
        pa.field("effective_sample_size", pa.float64()),
        pa.field("code", pa.string()),
        pa.field("verdict", pa.string()),
    ]
)
STUDY = Outside("file of a study", "give the folder that 'study run' wrote", DataError, limit=256 * MIB)
"""The gate for what a study keeps as JSON."""
_UNIT = Outside("results of a unit", "run the study again: the unit is recreated", DataError, limit=1024 * MIB)
SHARDS = "shards"
"""The folder of results that have not been merged; see `engine.shards`."""
NO_CODE: Mapping[str, str] = MappingProxyType({})
LATER = {"effective_sample_size", "code", "verdict"}
"""Columns that files of earlier versions lack; they are read as null."""


@dataclass(frozen=True)
class Progress:
    """The units of a study by what is stored of them.

    Args:
        done: complete.
        failed: of these a metric has no value.
        missing: there is nothing.
        damaged: in a damaged file.
        old: what there is was made by other code of this package.
        versions: of the package that made these.
    """

    done: list[Unit]
    failed: list[Unit]
    missing: list[Unit]
    damaged: list[Unit]
    old: list[Unit] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    def counts(self) -> dict[str, int]:
        """How many units there are of each kind."""
        return {name: len(units) for name, units in vars(self).items() if name != "versions"}

    @property
    def stored(self) -> list[Unit]:
        """The units that have rows."""
        return [*self.done, *self.failed, *self.old]

    def about_old(self) -> str:
        """What is old, in words; empty where nothing is."""
        if not self.old:
            return ""
        return f"{len(self.old)} results were made by other code (midguide {', '.join(sorted(self.versions))})"


class Store:
    """The folder of one study.

    Args:
        folder: where it is.
        plain: the study's file as plain values.
        expected: the numbers of others for this experiment.
        code: the Python files that the last run ran, with the modules that they were imported as.
    """

    def __init__(
        self, folder: Path, plain: dict[str, Any], expected: list[Expected], code: Mapping[str, str] = NO_CODE
    ) -> None:
        self.folder, self.plain, self.expected, self.code = folder, plain, expected, code

    @classmethod
    def create(
        cls, folder: str | Path, plain: dict[str, Any], expected: list[Expected], code: Mapping[str, str] = NO_CODE
    ) -> Store:
        """The folder for a study, new or with earlier results of the study of this name.

        Its `code` is that of the earlier run, if any.

        Raises:
            DataError: If the folder holds something else, or another study's results.
        """
        store, path = cls(Path(folder), plain, expected), Path(folder) / "study.json"
        head = {"midguide-study": FORMAT, "study": plain, "expected": [vars(e) for e in expected], "code": dict(code)}
        text = json.dumps(head | {"sha256": _sum(head)}, indent=2)
        if store.folder.exists() and any(path.name != SHARDS for path in store.folder.iterdir()):
            before = cls.open(folder)
            earlier, store.code = before.plain, before.code
            if earlier["study"]["name"] != plain["study"]["name"]:
                raise DataError(
                    f"{folder} holds the results of study {earlier['study']['name']!r}", hint="choose another --out"
                )
            if earlier != json.loads(text)["study"]:
                with replacing(aside(path, "earlier")) as temporary:
                    shutil.copyfile(path, temporary)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return store

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The folder that an earlier run made.

        Raises:
            DataError: If it is not a results folder, or damaged.
        """
        path = Path(folder) / "study.json"
        if not path.exists() and (path.parent / SHARDS).is_dir():
            hint = f"`midguide study merge {folder}` gathers them"
            raise DataError(f"the results in {folder} are still in shards", hint=hint)
        try:
            stored = STUDY.json(path) if path.exists() else None
            if stored is None:
                raise ValueError(f"there is no {path.name}")
            if stored["midguide-study"] != FORMAT:
                raise ValueError(f"format {stored['midguide-study']} is not {FORMAT}")
            expected = [Expected(**row) for row in stored["expected"]]
            if not isinstance(stored["study"]["study"]["name"], str):
                raise ValueError("the study has no name")
            for part in ("units", "samples"):
                if (path.parent / part).exists() and not (path.parent / part).is_dir():
                    raise ValueError(f"{part} is not a folder")
            code = dict(stored.get("code", NO_CODE))
        except (MidguideError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = error.message if isinstance(error, MidguideError) else f"{path.name}: {error}"
            raise DataError(f"{folder} holds no results of a study ({reason})", hint=STUDY.hint) from error
        _check_sum(stored, path)
        return cls(Path(folder), stored["study"], expected, code)

    def changed(self, code: Mapping[str, str]) -> list[str]:
        """The Python files whose source is another than in the last run."""
        return [path for path, module in code.items() if self.code.get(path, module) != module]

    @property
    def samples(self) -> Path:
        """The folder of stored draws."""
        return self.folder / "samples"

    @property
    def _units(self) -> Path:
        return self.folder / "units"

    def path(self, unit: Unit) -> Path:
        """The file of a unit's rows."""
        return self._units / f"{unit.address}.parquet"

    def write(self, unit: Unit, rows: list[dict[str, Any]]) -> None:
        """Store the rows of a unit, all or nothing; a file in their place that is damaged or foreign is set aside.

        Raises:
            DataError: If the folder of the study has vanished, or the disk is full.
        """
        if not (self.folder / "study.json").exists():
            raise DataError(
                f"the results in {self.folder} have vanished while the study ran",
                hint="repeat the command: it runs again what was there",
            )
        self._make_room(unit)
        texts = ("configuration", "code")
        plain = [{**row, **{name: json.dumps(row[name], sort_keys=True) for name in texts}} for row in rows]
        with replacing(self.path(unit)) as temporary:
            pq.write_table(pa.Table.from_pylist(plain, schema=SCHEMA), temporary, write_page_checksum=True)

    def addresses(self) -> set[str]:
        """The units of which the folder holds something."""
        return {path.stem for path in self._units.glob("[!.]*.parquet")}

    def others(self, units: Iterable[Unit]) -> int:
        """How many results are in the folder that belong to none of these units."""
        return len(self.addresses() - {unit.address for unit in units})

    def take(self, unit: Unit, other: Store) -> None:
        """Store the rows of a unit that another folder holds, and its draws, where that has them and this has none."""
        self._make_room(unit)
        with replacing(self.path(unit)) as temporary:
            shutil.copyfile(other.path(unit), temporary)
        draws, place = (store.samples / unit.draws_address for store in (other, self))
        if draws.is_dir() and _names(draws) - _names(place):
            with replacing_folder(place) as temporary:
                shutil.copytree(draws, temporary, copy_function=_linked, dirs_exist_ok=True)

    def _make_room(self, unit: Unit) -> None:
        """Set aside what stands in the place of a unit and is damaged or foreign."""
        try:
            self.read(unit)
        except DataError:
            self.path(unit).replace(aside(self.path(unit), "damaged"))

    def read(self, unit: Unit) -> list[dict[str, Any]] | None:
        """The rows of a unit, None where there are none.

        Raises:
            DataError: If the file is damaged or of something else.
        """
        path = self.path(unit)
        if not path.exists():
            return None
        with _UNIT.damage(path):
            table = pq.ParquetFile(_UNIT.check(path), page_checksum_verification=True).read()
            rows = table.to_pylist()
        found = {(row.get("address"), row.get("metric")) for row in rows}
        whole = {*table.schema.names, *LATER} == set(SCHEMA.names)
        if not whole or found != {(unit.address, short(name)) for name in unit.metrics}:
            raise DataError(f"{path} does not hold its unit", hint="run the study again: the unit is recreated")
        return rows

    def progress(self, units: Iterable[Unit]) -> Progress:
        """What is stored of these units; those of equal address count once."""
        forget_code()
        progress = Progress([], [], [], [])
        for unit in {unit.address: unit for unit in units}.values():
            try:
                rows = self.read(unit)
            except DataError:
                progress.damaged.append(unit)
                continue
            if rows is None:
                progress.missing.append(unit)
            elif codes_of(made := _made_by(rows)) != codes_of(made_by(unit)):
                progress.old.append(unit)
                progress.versions.add(made["drawn"]["version"])
            elif any(row["failure"] for row in rows):
                progress.failed.append(unit)
            else:
                progress.done.append(unit)
        return progress


def _sum(head: Mapping[str, Any]) -> str:
    """The checksum of what `study.json` holds."""
    return fingerprint(json.loads(json.dumps({key: value for key, value in head.items() if key != "sha256"})))


def _check_sum(head: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that has been changed since it was written; those of earlier versions have no checksum."""
    if "sha256" not in head:
        what = f"{path} has no checksum, as earlier versions wrote it"
        warnings.warn(f"{what}: the next run of the study adds one", DataRemark, stacklevel=3)
    elif head["sha256"] != _sum(head):
        raise DataError(
            f"{path} is damaged, its checksum differs",
            hint="put a copy in its place; a run of the same study file into another --out writes one",
        )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _linked(source: str, target: str) -> None:
    """The same file in another place, without a copy where the disk allows it: files here are never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _made_by(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The code behind stored rows; those of the first versions do not say it."""
    unsaid = {"version": "unknown", "sha256": ""}
    return json.loads(rows[0].get("code") or "null") or {"drawn": unsaid, "measured": unsaid}
