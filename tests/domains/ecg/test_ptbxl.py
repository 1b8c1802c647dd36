"""The PTB-XL folder: splits, labels, official sizes, broken records."""

import csv

import pytest
import torch

from midguide.domains.ecg.files import write_wfdb
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.ptbxl import RELEASES, SUPERCLASSES, is_labeled, labels, load_split, read_index
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import simulate
from midguide.errors import ConfigError, DataError

FORM = EcgFormat()


def write_index(folder, rows):
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def row(number, fold, codes="{'NORM': 100.0}", **others):
    return {
        "ecg_id": number,
        "scp_codes": codes,
        "strat_fold": fold,
        "filename_lr": f"records100/00000/{number:05d}_lr",
        **others,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four simulated patients: two to train, one each to validate and to test."""
    root = tmp_path_factory.mktemp("ptb-xl")
    for number in range(1, 5):
        write_wfdb(root / "records100/00000", f"{number:05d}_lr", simulate(number, rate_hz=100.0))
    write_index(root, [row(1, 1), row(2, 8), row(3, 9), row(4, 10)])
    return root


def test_folds_are_splits_and_recordings_come_in_the_priors_form(folder):
    assert [entry.split for entry in read_index(folder)] == ["train", "train", "val", "test"]
    split = load_split(folder, "train", FORM)
    assert split.signals.shape == (2, 9, 1000)
    assert split.broken == {}
    # The file rounds I and II to 0.001 mV; their difference, III, has the error of both.
    assert torch.allclose(split.signals[0].double(), nine_leads(simulate(1, rate_hz=100.0), FORM), atol=0.0011)


def test_the_column_split_counts_where_no_fold_is_known(tmp_path):
    write_index(tmp_path, [row(1, "", split="val"), row(2, "3.0", split="val"), row(3, 10, split="")])
    assert [entry.split for entry in read_index(tmp_path)] == ["val", "train", "test"]


def test_a_statement_counts_whatever_its_likelihood(tmp_path):
    codes = [
        "{'AFIB': 0.0, 'SBRAD': 50.0}",
        '{"CRBBB": 100.0, "IRBBB": 0.0}',
        "{'IRBBB': 100.0, 'AFLT': 0.0}",
        "{'CLBBB': 0}",
    ]
    write_index(tmp_path, [row(i, 1, text) for i, text in enumerate(codes)])
    want = [[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert torch.equal(labels(read_index(tmp_path)), torch.tensor(want, dtype=torch.bool))


def test_records_without_statements_have_no_labels(tmp_path):
    write_index(tmp_path, [row(7, 1, "")])
    assert read_index(tmp_path)[0].codes is None
    with pytest.raises(DataError, match="record 7 are unknown"):
        labels(read_index(tmp_path))


@pytest.mark.parametrize("total", RELEASES)
def test_a_complete_release_must_have_its_official_folds(tmp_path, total):
    train, val, test = RELEASES[total]
    assert train + val + test == total
    folds = [1] * train + [9] * val + [10] * test
    write_index(tmp_path, [row(i, fold) for i, fold in enumerate(folds)])
    assert len(read_index(tmp_path)) == total
    folds[0] = 9
    write_index(tmp_path, [row(i, fold) for i, fold in enumerate(folds)])
    with pytest.raises(DataError, match="this release has"):
        read_index(tmp_path)


def test_broken_records_are_left_out_by_name_or_refused(folder, tmp_path):
    whole = simulate(1, rate_hz=100.0)
    flat = whole.signal.clone()
    flat[6] = 0.5
    place = tmp_path / "records100/00000"
    write_wfdb(place, "00001_lr", whole)
    write_wfdb(place, "00002_lr", type(whole)("x", flat, whole.leads, 100.0))
    write_wfdb(place, "00003_lr", simulate(3, seconds=8.0, rate_hz=100.0))
    write_wfdb(place, "00004_lr", whole)
    (place / "00004_lr.dat").write_bytes((place / "00004_lr.dat").read_bytes()[:5000])
    write_wfdb(place, "00006_lr", simulate(3, seconds=10.0, rate_hz=200.0))
    write_index(tmp_path, [row(number, 1) for number in range(1, 7)])
    split = load_split(tmp_path, "train", FORM)
    assert [entry.name for entry in split.entries] == ["1"]
    reasons = {"2": "V1 is flat", "3": "lasts 8 s", "4": "cannot be read", "5": "no recording", "6": "200 samples"}
    assert split.broken.keys() == reasons.keys()
    assert all(reason in split.broken[name] for name, reason in reasons.items())
    with pytest.raises(DataError, match="V1 is flat"):
        load_split(tmp_path, "train", FORM, refuse_broken=True)


def test_what_is_no_index_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match="does not exist"):
        read_index(tmp_path)
    for wrong, says in [
        ([row(1, 11)], "record 1 is in no split"),
        ([row(1, "")], "record 1 is in no split"),
        ([row(1, 1), row(1, 2)], "record 1 twice"),
        ([row(1, 1, "{'NORM': ")], "record 1"),
        ([row(1, 1, "5")], "record 1"),
        ([row(1, 1, "[[1]]")], "record 1"),
        ([row(1, "inf")], "record 1"),
    ]:
        write_index(tmp_path, wrong)
        with pytest.raises(DataError, match=says):
            read_index(tmp_path)
    with pytest.raises(ConfigError, match="unknown split"):
        load_split(folder, "dev", FORM)
    with pytest.raises(DataError, match="no file of 500"):
        load_split(folder, "test", FORM, rate=500)


@pytest.mark.parametrize("codes", ["-" * 100_000 + "1", "[" * 5000, "{'NORM': 100.0", "__import__('os')"])
def test_statements_that_are_no_dictionary_are_refused(tmp_path, codes):
    write_index(tmp_path, [row(1, 1, codes)])
    with pytest.raises(DataError, match="record 1"):
        read_index(tmp_path)


def test_damaged_statements_are_refused(tmp_path):
    write_index(tmp_path, [row(1, 1)])
    (tmp_path / "scp_statements.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="scp_statements"):
        read_index(tmp_path)


def test_superclasses_come_from_the_statements_or_from_a_column(tmp_path):
    """Of any likelihood; a record without one is not labeled."""
    (tmp_path / "scp_statements.csv").write_text(
        ",description,diagnostic_class\nNORM,normal,NORM\nIMI,infarction,MI\nCLBBB,block,CD\nSR,sinus rhythm,\n"
    )
    codes = ["{'CLBBB': 0.0, 'IMI': 50.0}", "{'NORM': 100.0, 'SR': 0.0}", "{'SR': 0.0}"]
    write_index(tmp_path, [row(i, 1, code) for i, code in enumerate(codes, start=1)])
    entries = read_index(tmp_path)
    assert [entry.superclass for entry in entries] == ["MI;CD", "NORM", ""]
    assert [is_labeled(entry, "superclasses") for entry in entries] == [True, True, False]
    assert labels(entries[:2], "superclasses").tolist() == [
        [name in ("MI", "CD") for name in SUPERCLASSES],
        [name == "NORM" for name in SUPERCLASSES],
    ]
    write_index(tmp_path, [row(1, 1, "", superclass="STTC;HYP"), row(2, 1, codes[0], superclass="")])
    column = read_index(tmp_path)
    assert [entry.superclass for entry in column] == ["STTC;HYP", "MI;CD"]
    assert [is_labeled(entry) for entry in column] == [False, True]
    with pytest.raises(DataError, match="superclasses of record 3 are unknown"):
        labels(entries, "superclasses")
    with pytest.raises(ConfigError, match="unknown targets"):
        labels(entries, "rhythms")
