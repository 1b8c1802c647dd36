"""Electrocardiograms from files: units, names, rates, gaps, filters, and what is refused."""

import numpy as np
import pytest
import torch

from midguide.domains.ecg.files import write_csv, write_wfdb
from midguide.domains.ecg.leads import MODELED, TWELVE, EcgFormat, einthoven_error
from midguide.domains.ecg.recordings import (
    Recording,
    check_complete,
    high_passed,
    load_recording,
    nine_leads,
    resampled,
)
from midguide.domains.ecg.simulator import simulate
from midguide.errors import ConfigError, DataError

PLAIN = EcgFormat(high_pass_hz=0.0)


@pytest.fixture(scope="module")
def patient():
    return simulate(0, seconds=4.0, rate_hz=100.0)


def table(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_wfdb_files_hold_a_recording_to_half_a_count_and_einthoven_exactly(tmp_path, patient):
    write_wfdb(tmp_path, "one", patient)
    back = load_recording(tmp_path / "one.hea")
    assert (back.leads, back.rate_hz) == (TWELVE, 100.0)
    # I and II are rounded to 0.001 mV; III, their difference, has the error of both.
    assert float((back.signal - patient.signal).abs().max()) <= 0.001
    assert float((back.signal - patient.signal)[6:].abs().max()) <= 0.00025 + 1e-9
    assert float(einthoven_error(back.signal)) < 1e-12


def test_csv_files_hold_a_recording_to_a_nanovolt(tmp_path, patient):
    write_csv(tmp_path / "one.csv", patient)
    back = load_recording(tmp_path / "one.csv")
    assert (back.leads, back.rate_hz) == (TWELVE, pytest.approx(100.0))
    assert float((back.signal - patient.signal).abs().max()) <= 0.5e-9 + 1e-12
    assert float(einthoven_error(back.signal)) < 1e-6


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1.0), ("uV", 1e3), ("V", 1e-3)])
def test_units_and_orders_of_leads_do_not_change_the_result(tmp_path, patient, unit, factor):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    header = "\t".join(TWELVE[i].upper() for i in order)
    np.savetxt(tmp_path / "x.tsv", factor * patient.signal[order].T, delimiter="\t", header=header, comments="")
    got = nine_leads(load_recording(tmp_path / "x.tsv", rate_hz=100, unit=unit), EcgFormat())
    assert torch.allclose(got, nine_leads(patient, EcgFormat()), atol=1e-9)


def test_arrays_have_nine_or_twelve_leads_or_say_which(tmp_path, patient):
    np.save(tmp_path / "x.npy", patient.signal.numpy())
    assert load_recording(tmp_path / "x.npy", rate_hz=100).leads == TWELVE
    np.save(tmp_path / "x.npy", patient.signal[:2].numpy())
    assert load_recording(tmp_path / "x.npy", rate_hz=100, leads=("v1", "AVR")).leads == ("V1", "aVR")
    with pytest.raises(DataError, match="expected .leads, time"):
        load_recording(tmp_path / "x.npy", rate_hz=100)


def test_limb_leads_follow_from_any_two_of_them(patient):
    whole = nine_leads(patient, PLAIN)
    rows = [TWELVE.index(name) for name in ("aVF", "aVL", "V2")]
    some = nine_leads(Recording("x", patient.signal[rows], ("aVF", "aVL", "V2"), 100.0), PLAIN)
    known = [MODELED.index(name) for name in ("I", "II", "III", "V2")]
    assert torch.allclose(some[known], whole[known])
    assert bool(some[[3, 5, 6, 7, 8]].isnan().all())


@pytest.mark.parametrize("rate", [250.0, 360.0, 500.0, 1000.0])
def test_resampling_keeps_a_slow_sine(rate):
    """10 Hz through the anti-alias filter of 50 Hz, away from the ends: passband ripple of the library's filter."""
    times = np.arange(round(4 * rate)) / rate
    got = resampled(np.sin(2 * np.pi * 10 * times), rate, 100.0)
    want = np.sin(2 * np.pi * 10 * np.arange(400) / 100)
    assert len(got) == 400
    assert np.abs(got - want)[50:-50].max() < 2e-3


def test_resampling_removes_what_the_new_rate_cannot_hold():
    times = np.arange(2000) / 500
    assert np.abs(resampled(np.sin(2 * np.pi * 90 * times), 500.0, 100.0))[20:-20].max() < 0.01


def test_the_high_pass_removes_wander_and_keeps_beats_in_place():
    times = np.arange(1000) / 100
    beat = np.exp(-0.5 * ((times - 5) / 0.02) ** 2)
    # Order 5 twice leaves (0.25 / 0.6)^10 = 2e-4 of a wave of 0.25 Hz; most of the rest comes from its mirrored ends.
    got = high_passed(beat + np.sin(2 * np.pi * 0.25 * times), 100.0, 0.6)
    assert np.abs((got - high_passed(beat, 100.0, 0.6))[200:800]).max() < 0.02
    assert int(got.argmax()) == 500
    assert got.max() == pytest.approx(1.0, abs=0.08)  # the filter takes away the beat's mean over a second


def test_a_gap_in_one_limb_lead_is_filled_by_the_others(patient):
    signal = patient.signal.clone()
    signal[1, 50:90] = torch.nan
    signal[2] = torch.nan
    got = nine_leads(Recording("x", signal, TWELVE, 100.0), PLAIN)
    assert torch.allclose(got, nine_leads(patient, PLAIN), atol=1e-12)


def test_a_gap_in_one_of_two_limb_leads_is_none_in_the_other(patient):
    signal = patient.signal[[0, 1]].clone()
    signal[1, 50:90] = torch.nan
    got = nine_leads(Recording("x", signal, ("I", "II"), 100.0), PLAIN)
    assert torch.allclose(got[0], nine_leads(patient, PLAIN)[0], atol=1e-12)
    assert [int(row.isnan().sum()) for row in got[:3]] == [0, 40, 40]


def test_gaps_stay_gaps_and_do_not_spread(patient):
    signal = patient.signal.clone()
    signal[7, 120:160] = torch.nan
    got = nine_leads(Recording("x", signal, TWELVE, 100.0), PLAIN)
    row = MODELED.index("V2")
    assert bool(got[row, 120:160].isnan().all())
    assert int(got.isnan().sum()) == 40
    elsewhere = ~got.isnan()
    assert torch.allclose(got[elsewhere], nine_leads(patient, PLAIN)[elsewhere])


def test_a_whole_recording_is_complete(patient):
    check_complete(patient, seconds=4.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: Recording("x", r.signal[:11], TWELVE[:11], 100.0), "x has no lead V6"),
        (lambda r: Recording("x", r.signal.index_fill(0, torch.tensor([8]), 0.3), TWELVE, 100.0), "lead V3 is flat"),
        (
            lambda r: Recording("x", r.signal.index_fill(1, torch.tensor([5]), torch.nan), TWELVE, 100.0),
            "I has 1 missing",
        ),
        (lambda r: Recording("x", r.signal[:, :300], TWELVE, 100.0), "lasts 3 s, not 4 s"),
    ],
)
def test_broken_recordings_are_refused_by_name(patient, change, says):
    with pytest.raises(DataError, match=says):
        check_complete(change(patient), seconds=4.0)


@pytest.mark.parametrize(
    ("header", "rows", "settings", "says"),
    [
        ("MLII,resp", [(0.1, 0.2)] * 5, {"rate_hz": 100}, r"no channel .*MLII \(--lead II=MLII .*\), resp"),
        ("I,lead i", [(0.1, 0.2)] * 5, {"rate_hz": 100}, "a lead twice"),
        ("I,II", [(80.0, 850.0)] * 5, {"rate_hz": 100}, "850 mV.*uV or ADC"),
        ("I,II", [(0.0001, 0.002)] * 5, {"rate_hz": 100}, "0.002 mV only.*probably V"),
        ("I,II", [(0.1, 0.2)] * 5, {}, "rate of .* is unknown"),
        ("time,I", [(0, 0.1), (0.01, 0.1), (0.02, 0.2)], {"rate_hz": 500}, "times .* of 100 samples .* not of 500"),
        ("I,II", [(0.1, 0.2)] * 5, {"rate_hz": -4}, "at -4 per second"),
        ("I,II", [(0.1,), (0.1, 0.2)], {"rate_hz": 100}, "different lengths"),
        ("I,II", [(0.1, "x")], {"rate_hz": 100}, "not a table of numbers"),
        ("I,II,V1", [(0.1, 0.2)] * 5, {"rate_hz": 100}, "3 names and 2 columns"),
        ("I,II", [], {"rate_hz": 100}, "columns"),
        ("time,I", [(0, 0.1), (1, 0.1), (7, 0.2)], {}, "not equally spaced"),
        ("I,II", [(0.1, "inf")] * 5, {"rate_hz": 100}, "infinite"),
    ],
)
def test_tables_that_are_no_recordings_are_refused_in_one_line(tmp_path, header, rows, settings, says):
    with pytest.raises(DataError, match=says) as error:
        load_recording(table(tmp_path / "x.csv", header, rows), **settings)
    assert "\n" not in error.value.message


def test_empty_cells_are_gaps(tmp_path):
    got = load_recording(table(tmp_path / "x.csv", "I,II", [(0.1, ""), (0.2, 0.3), ("nan", 0.1)]), rate_hz=100)
    assert got.signal.isnan().tolist() == [[False, False, True], [True, False, False]]


def test_damaged_and_missing_files_are_refused(tmp_path, patient):
    with pytest.raises(DataError, match="no recording"):
        load_recording(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no recording .*nowhere.csv: it is not there"):
        load_recording(tmp_path / "nowhere.csv")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="no .npy file"):
        load_recording(tmp_path / "x.npy", rate_hz=100)
    with pytest.raises(ConfigError, match="unknown unit"):
        load_recording(tmp_path / "x.npy", rate_hz=100, unit="counts")
    write_wfdb(tmp_path, "cut", patient)
    data = (tmp_path / "cut.dat").read_bytes()
    (tmp_path / "cut.dat").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut"):
        load_recording(tmp_path / "cut")
    (tmp_path / "cut.dat").unlink()
    with pytest.raises(DataError, match="cut"):
        load_recording(tmp_path / "cut")


def test_a_rate_below_the_priors_is_refused(patient):
    with pytest.raises(DataError, match="has 50 samples per second, the prior needs 100"):
        nine_leads(Recording("x", patient.signal, TWELVE, 50.0), PLAIN)


def test_wfdb_files_take_whole_recordings_only(tmp_path, patient):
    for signal, leads in (
        (patient.signal[:9], TWELVE[:9]),
        (20 * patient.signal, TWELVE),
        (patient.signal / 0, TWELVE),
    ):
        with pytest.raises(DataError, match="twelve complete leads"):
            write_wfdb(tmp_path, "x", Recording("x", signal, leads, 100.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("gain", "says"), [("1(0)/mV", "no heart does"), ("2000(0)/uV", "mV only")])
def test_a_header_with_a_wrong_gain_or_unit_is_to_be_corrected(tmp_path, patient, gain, says):
    """And not by a setting that WFDB records do not take."""
    write_wfdb(tmp_path, "x", patient)
    header = tmp_path / "x.hea"
    header.write_text(header.read_text().replace("2000(0)/mV", gain))
    with pytest.raises(DataError, match=rf"(?s){says}.*correct the gain or the units in its header"):
        load_recording(tmp_path / "x")
