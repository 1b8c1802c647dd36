"""A study in shards: n runs that know nothing of each other, each with its share of the units and a folder of its own.

OUT/shards/3-of-40/             the results of shard 3 of 40, as in any folder of a study
OUT/shards/3-of-40/shard.json   which shard it is
OUT/units, OUT/samples          what `merge` has gathered

Shares follow from the study's file and the number of shards: batches, the dearest first, go to the shard that has the
least to do. The estimated cost of a batch follows from the network calls of its sampler, which are known exactly.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from midguide.errors import ConfigError, DataError, MidguideError
from midguide.storage.files import replacing
from midguide.studies.engine.estimate import relative_costs
from midguide.studies.engine.store import SHARDS, STUDY, Progress, Store
from midguide.studies.engine.units import Unit, batches
from midguide.studies.spec.study import Study

FILE = "shard.json"


class Shard(NamedTuple):
    """The `index`-th of `count` shares, counted from 1.

    Example:
        >>> Shard.parse("3/40").name
        '3/40'
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that I/N names.

        Raises:
            ConfigError: If it names none.
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard takes I/N with I from 1 to N, got {text!r}", hint="for example --shard 3/40")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """As users write it."""
        return f"{self.index}/{self.count}"

    def folder(self, out: Path) -> Path:
        """Where its results go, in the folder of the whole study."""
        return out / SHARDS / f"{self.index}-of-{self.count}"

    def units(self, study: Study) -> list[Unit]:
        """Its share of a study, in the study's order."""
        return shares(study, self.count)[self.index - 1]

    def sign(self, store: Store) -> None:
        """Write into its folder which shard it is."""
        with replacing(store.folder / FILE) as temporary:
            temporary.write_text(json.dumps({"shard": self.index, "of": self.count}) + "\n", encoding="utf-8")


class Part(NamedTuple):
    """Some of the results of a study: those of a shard, or of a folder without shards."""

    store: Store
    shard: Shard | None

    def progress(self, study: Study) -> Progress:
        """What it holds of a study; `missing` is empty."""
        there = self.store.addresses()
        return self.store.progress(unit for unit in study.units if unit.address in there)

    def is_in(self, folder: Path) -> bool:
        """Whether it lies directly in this folder."""
        return self.store.folder.resolve() == folder.resolve()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"shard {self.shard.name} in {self.store.folder}" if self.shard else str(self.store.folder)


def shares(study: Study, count: int) -> list[list[Unit]]:
    """The units of each of `count` shards. Batches stay whole, and units of equal address count once."""
    units = list({unit.address: unit for unit in study.units}.values())
    together = batches(units, study.head.batch)
    costs = relative_costs(together)
    least = [(0.0, index) for index in range(count)]
    share_of = [0] * len(together)
    for k in sorted(range(len(together)), key=lambda k: -costs[k]):
        load, index = heapq.heappop(least)
        share_of[k] = index
        heapq.heappush(least, (load + costs[k], index))
    chosen = {unit.address: index for batch, index in zip(together, share_of, strict=True) for unit in batch}
    split: list[list[Unit]] = [[] for _ in range(count)]
    for unit in units:
        split[chosen[unit.address]].append(unit)
    return split


def parts_of(folders: Iterable[Path]) -> list[Part]:
    """The results in folders of a study, each with its shards; folders that are named twice count once.

    Raises:
        DataError: If one of them holds no results of a study.
    """
    found: dict[Path, Part] = {}
    for folder in folders:
        shards = [path.parent for path in (folder / SHARDS).glob("*/study.json")]
        own = [folder] if (folder / "study.json").exists() or not shards else []
        for place in [*own, *sorted(shards, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])]:
            found.setdefault(place.resolve(), Part(Store.open(place), _signed(place)))
    return list(found.values())


def _signed(folder: Path) -> Shard | None:
    path = folder / FILE
    try:
        if not path.exists():
            return None
        said = STUDY.json(path)
        return Shard.parse(f"{said['shard']}/{said['of']}")
    except (MidguideError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged", hint="run that shard again") from error


KINDS = ("done", "failed", "old", "damaged", "missing")
"""What is stored of a unit, the best first."""


def progress_of(study: Study, parts: Sequence[Part]) -> tuple[Progress, dict[str, Progress]]:
    """What is stored of a study in all parts together, and in the folder of each shard of its share."""
    every = [part.progress(study) for part in parts]
    own = {part.shard: progress for part, progress in zip(parts, every, strict=True) if part.shard}
    of_each = {}
    for count in sorted({shard.count for shard in own}):
        for i, share in enumerate(shares(study, count), start=1):
            shard = Shard(i, count)
            of_each[shard.name] = _best(share, [own[shard]] if shard in own else [])
    return _best(study.units, every), of_each


def _best(units: Iterable[Unit], every: Sequence[Progress]) -> Progress:
    """What is best of each unit in any of these."""
    kind_of: dict[str, str] = {}
    for kind in KINDS:
        for progress in every:
            for unit in getattr(progress, kind):
                kind_of.setdefault(unit.address, kind)
    found: dict[str, list[Unit]] = {kind: [] for kind in KINDS}
    for unit in {unit.address: unit for unit in units}.values():
        found[kind_of.get(unit.address, "missing")].append(unit)
    return Progress(**found, versions=set().union(*(progress.versions for progress in every)))


@dataclass(frozen=True)
class Merged:
    """What `merge` has done.

    Args:
        units: how many are in the folder now.
        twice: how many of them were in several parts, with the same results.
        failed: how many of them failed.
        left_out: results of the parts that are not of the study's grid.
        missing: units of which there is no result.
    """

    units: int
    twice: int
    failed: int
    left_out: int
    missing: int


def latest(parts: Sequence[Part]) -> Part:
    """The part that has run last: its study file is what the others are held against."""
    return max(parts, key=lambda part: (part.store.folder / "study.json").stat().st_mtime)


def check_same_study(parts: Sequence[Part], target: Path) -> None:
    """Refuse parts of different study files. Places of files may differ, and what the target holds may be older.

    Raises:
        DataError: If they are; names the parts and the tables that differ.
    """
    first = latest(parts)
    for part in parts:
        here, there = _unplaced(first.store.plain), _unplaced(part.store.plain)
        differ = [f"[{key}]" for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        if differ and not part.is_in(target):
            raise DataError(
                f"{part.name} is of another study file than {first.name}, which ran last: {', '.join(differ)}",
                hint="run it again with the same file and the same --set; nothing has been merged",
            )


def _unplaced(value: Any) -> Any:
    """Plain values without the folders of files."""
    match value:
        case str():
            return re.sub(r"(?:/[^/:]+)+/(?=[^/])", "", value)
        case dict():
            return {key: _unplaced(item) for key, item in value.items()}
        case list() | tuple():
            return [_unplaced(item) for item in value]
    return value


def merge(
    study: Study, parts: Sequence[Part], target: Path, *, partial: bool = False, old_code: bool = False
) -> Merged:
    """Gather the results of parts in one folder. Every check comes before the first write, and the parts stay.

    Args:
        study: of all parts.
        parts: where the results are; the target may be one of them.
        target: the folder for all.
        partial: also where units are missing.
        old_code: also results that other code made.

    Raises:
        DataError: If units are missing, have different results in two parts, or were made by other code.
    """
    rows, twice = _gathered(study, parts, old_code)
    grid = {unit.address: unit for unit in study.units}
    missing = [unit for address, unit in grid.items() if address not in rows]
    if missing and not partial:
        raise DataError(
            f"{len(missing)} of {len(grid)} units are missing{_where(study, parts, missing)}",
            hint="run these again, or merge what is there with --partial; nothing has been merged",
        )
    first = latest(parts).store
    store = Store.create(target, first.plain, first.expected, first.code)
    for address, part in rows.items():
        if not part.is_in(target):
            store.take(grid[address], part.store)
    failed = len(store.progress([grid[address] for address in rows]).failed)
    left_out = sum(part.store.others(study.units) for part in parts if not part.is_in(target))
    return Merged(len(rows), twice, failed, left_out, len(missing))


def _gathered(study: Study, parts: Sequence[Part], old_code: bool) -> tuple[dict[str, Part], int]:
    """The part with the result of each unit, the best one first, and how many units have several."""
    found: dict[str, Part] = {}
    twice = set[str]()
    every = [(part, part.progress(study)) for part in parts]
    for part, progress in every:
        if progress.old and not old_code:
            hint = "run that shard again with this version, or take its results with --accept-old-code"
            raise DataError(f"{part.name}: {progress.about_old()}", hint=hint)
    for kind in ("done", "old", "failed"):
        for part, progress in every:
            for unit in getattr(progress, kind):
                if (other := found.setdefault(unit.address, part)) is not part:
                    twice.add(unit.address)
                    if kind != "failed":
                        _check_same(unit, other, part)
    return found, len(twice)


SAME = 1e-3
"""Relative difference of results that two machines may have by rounding."""


def _check_same(unit: Unit, one: Part, other: Part) -> None:
    """Refuse two different results of one unit."""
    what = f"{unit.sampler_label} on {unit.problem_label}, problem {unit.problem_seed}"
    values = [{row["metric"]: row["value"] for row in part.store.read(unit) or ()} for part in (one, other)]
    for metric, value in values[0].items():
        there = values[1].get(metric)
        if value != there and (value is None or there is None or not math.isclose(value, there, rel_tol=SAME)):
            raise DataError(
                f"{what}, has two results: {metric} is {value} in {one.name} and {there} in {other.name}",
                hint=f"remove the wrong {unit.address}.parquet; nothing has been merged",
            )


def _where(study: Study, parts: Sequence[Part], missing: Sequence[Unit]) -> str:
    """Which shards units are missing of, where the parts are all shards of one split."""
    counts = {part.shard.count for part in parts if part.shard}
    if len(counts) != 1:
        return f" (there are shards of {' and of '.join(map(str, sorted(counts)))})" if counts else ""
    (count,) = counts
    absent = {unit.address for unit in missing}
    whole, some = [], []
    for i, share in enumerate(shares(study, count), start=1):
        lacking = sum(unit.address in absent for unit in share)
        if lacking:
            (whole if lacking == len(share) else some).append(i)
    words = [f"all of {_listed(whole, count)}"] if whole else []
    words += [f"some of {_listed(some, count)}"] if some else []
    return f": {' and '.join(words)}"


def _listed(indices: Sequence[int], count: int, most: int = 12) -> str:
    names = ", ".join(Shard(index, count).name for index in indices[:most])
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return f"shard{'s' if len(indices) > 1 else ''} {names}{more}"
