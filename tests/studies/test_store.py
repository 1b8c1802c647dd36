"""Units on disk: complete or absent, damage is seen, foreign folders are left alone."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from midguide.errors import CheckpointError, DataError, DataRemark
from midguide.storage.files import aside
from midguide.studies.engine.draws import keep_draws, load_draws
from midguide.studies.engine.execute import run_units, units_to_run
from midguide.studies.engine.store import Store
from midguide.studies.spec.study import load_study


@pytest.fixture
def study(tiny):
    return load_study(tiny)


@pytest.fixture
def store(study, tmp_path):
    """The results of the study, complete."""
    store = Store.create(tmp_path / "out", study.plain, [])
    run_units(study, store, list(study.units))
    return store


def test_rows_are_read_as_they_were_written_with_their_configuration(study, store):
    unit = study.units[-1]
    rows = store.read(unit)
    assert [row["metric"] for row in rows] == list(unit.metrics)
    assert all(row["network_forwards"] == 5 for row in rows)
    assert json.loads(rows[0]["configuration"]) == unit.configuration


def test_running_again_does_what_is_missing_only(study, store):
    assert units_to_run(store.progress(study.units), store) == []
    gone = study.units[3]
    store.path(gone).unlink()
    assert units_to_run(store.progress(study.units), store) == [gone]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_bit(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 1]) + content[61:]


@pytest.mark.parametrize("damage", [lambda c: c[:100], lambda c: b"", lambda c: b"text" * 50, flip_a_bit])
def test_damaged_file_is_seen_named_set_aside_and_made_anew(study, store, damage):
    unit = study.units[1]
    before = store.read(unit)
    damaged = damage(store.path(unit).read_bytes())
    store.path(unit).write_bytes(damaged)
    with pytest.raises(DataError, match=unit.address):
        store.read(unit)
    progress, place = store.progress(study.units), aside(store.path(unit), "damaged")
    assert progress.damaged == [unit]
    run_units(study, store, units_to_run(progress, store))
    assert [row["value"] for row in store.read(unit)] == [row["value"] for row in before]
    store.path(unit).write_bytes(b"again")
    run_units(study, store, [unit])
    assert place.read_bytes() == damaged
    assert place.with_name(f"{unit.address}.damaged-2").read_bytes() == b"again"


def test_file_under_the_name_of_another_unit_is_damage(study, store):
    other = store.path(study.units[1]).read_bytes()
    store.path(study.units[0]).write_bytes(other)
    assert store.progress(study.units).damaged == [study.units[0]]
    place = aside(store.path(study.units[0]), "damaged")
    run_units(study, store, [study.units[0]])
    assert place.read_bytes() == other


def test_result_that_is_readable_is_replaced_by_a_new_one(study, store):
    run_units(study, store, [study.units[0]])
    assert len(list((store.folder / "units").iterdir())) == len(study.units)


def test_results_of_another_grid_of_the_same_study_stay_and_are_counted(study, store, tiny):
    before = contents(store.folder / "units")
    other = load_study(tiny, [("problems.dimension", 3)])
    wider = Store.create(store.folder, other.plain, [])
    assert wider.progress(other.units).missing == list(other.units)
    assert (wider.others(study.units), wider.others(study.units[:1]), wider.others(other.units)) == (0, 5, 6)
    run_units(other, wider, list(other.units))
    assert before.items() <= contents(store.folder / "units").items()
    assert json.loads((store.folder / "study.earlier").read_text())["study"] == study.plain
    assert Store.create(store.folder, study.plain, []).progress(study.units).done == list(study.units)


def test_folder_of_another_study_is_refused_and_untouched(study, store, tiny):
    other = load_study(tiny, [("name", "another")])
    before = contents(store.folder)
    with pytest.raises(DataError, match="'tiny'"):
        Store.create(store.folder, other.plain, [])
    assert contents(store.folder) == before


@pytest.mark.parametrize(
    "content", [None, "{}", "not json", "[]", '{"midguide-study": 99}', '{"midguide-study": 1, "study": {}}']
)
def test_folder_that_holds_no_study_is_refused_and_untouched(study, tmp_path, content):
    folder = tmp_path / "foreign"
    (folder / "units").mkdir(parents=True)
    (folder / "units" / "thesis.txt").write_text("years of work")
    if content is not None:
        (folder / "study.json").write_text(content)
    before = contents(folder)
    with pytest.raises(DataError, match="no results of a study"):
        Store.create(folder, study.plain, [])
    assert contents(folder) == before
    assert len(before) == 2 - (content is None)


@pytest.mark.parametrize(("of", "to"), [('"samples": 16', '"samples": 17'), ('"code": {}', '"code": {"/a.py": ""}')])
def test_a_study_file_that_was_changed_is_refused_and_untouched(study, store, of, to):
    path = store.folder / "study.json"
    changed = path.read_text().replace(of, to)
    assert changed != path.read_text()
    path.write_text(changed)
    for call in (lambda: Store.open(store.folder), lambda: Store.create(store.folder, study.plain, [])):
        with pytest.raises(DataError, match=r"study.json is damaged, its checksum differs\nhint: put a copy"):
            call()
    assert path.read_text() == changed


def test_a_study_file_without_a_checksum_is_read_with_a_remark_and_gets_one(study, store):
    path = store.folder / "study.json"
    head = json.loads(path.read_text())
    del head["sha256"]
    path.write_text(json.dumps(head))
    with pytest.warns(DataRemark, match="has no checksum, as earlier versions wrote it: the next run"):
        found = Store.create(store.folder, study.plain, [])
    assert found.progress(study.units).done == list(study.units)
    assert Store.open(store.folder).plain == json.loads(json.dumps(study.plain))


def test_a_pipe_is_not_waited_for(study, store):
    path = store.folder / "study.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="no results of a study .* is not a regular file but a pipe"):
        Store.open(store.folder)


@pytest.mark.parametrize("part", ["units", "samples"])
def test_file_where_a_folder_belongs_is_refused_and_untouched(study, tmp_path, part):
    store = Store.create(tmp_path / "out", study.plain, [])
    (store.folder / part).write_text("years of work")
    before = contents(store.folder)
    with pytest.raises(DataError, match=f"{part} is not a folder"):
        Store.create(store.folder, study.plain, [])
    assert contents(store.folder) == before


def test_folder_where_the_file_of_a_unit_belongs_is_damage_and_set_aside(study, store):
    path = store.path(study.units[0])
    path.unlink()
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    assert store.progress(study.units).damaged == [study.units[0]]
    run_units(study, store, [study.units[0]])
    assert (path.with_suffix(".damaged") / "thesis.txt").read_text() == "years of work"
    assert store.progress(study.units).damaged == []


@pytest.fixture
def kept(study, tmp_path):
    """The results of two problems and one sampler, with draws."""
    store = Store.create(tmp_path / "kept", study.plain, [])
    store.samples.mkdir()
    run_units(study, store, [study.units[1], study.units[4]])
    return store


@pytest.mark.parametrize("file", ["samples.safetensors", "samples.json"])
def test_any_flipped_bit_of_stored_draws_is_seen(study, kept, file):
    """Every 50th byte of both files, one bit each: the draws, the observation, the cost, the record."""
    unit = study.units[1]
    path = kept.samples / unit.draws_address / file
    whole = path.read_bytes()
    for place in range(0, len(whole), 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=unit.draws_address):
            load_draws(unit.draws_address, kept.samples)
    path.write_bytes(whole)
    assert load_draws(unit.draws_address, kept.samples) is not None


def test_draws_of_another_unit_are_damage_set_aside_and_drawn_anew(study, kept):
    unit, other = study.units[1], study.units[4]
    place = kept.samples / unit.draws_address
    before, value = contents(kept.samples / other.draws_address), [row["value"] for row in kept.read(unit)]
    shutil.rmtree(place)
    shutil.copytree(kept.samples / other.draws_address, place)
    with pytest.raises(CheckpointError, match="something else"):
        load_draws(unit.draws_address, kept.samples)
    run_units(study, kept, [unit])
    assert contents(place.with_suffix(".damaged")) == before
    assert load_draws(unit.draws_address, kept.samples) is not None
    assert [row["value"] for row in kept.read(unit)] == value


def test_draws_that_are_good_are_never_set_aside(study, kept):
    draws = load_draws(study.units[1].draws_address, kept.samples)
    keep_draws(draws, study.units[1].draws_address, kept.samples)
    assert len(list(kept.samples.iterdir())) == 2


def test_empty_folder_is_accepted(study, tmp_path):
    (tmp_path / "empty").mkdir()
    assert Store.create(tmp_path / "empty", study.plain, []).progress(study.units).missing == list(study.units)
