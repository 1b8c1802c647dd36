"""Recordings as people have them: every format gives the same values, and nothing that a file states is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from midguide.domains.ecg.formats.base import RECORDINGS, File
from midguide.domains.ecg.formats.wfdb import using_wfdb
from midguide.domains.ecg.leads import TWELVE, EcgFormat, signed_lead
from midguide.domains.ecg.recordings import Part, Recording, load_recording, nine_leads
from midguide.domains.ecg.simulator import simulate
from midguide.errors import ConfigError, DataError, MidguideError

PLAIN = EcgFormat(high_pass_hz=0.0)
RATE = 250.0
STEP = 0.5e-3 + 1e-9
"""Half a count of files with 1000 counts per mV."""


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Twelve leads in the usual order, mV, four seconds."""
    return simulate(3, seconds=4.0, rate_hz=RATE).signal.numpy()


def wfdb_record(folder: Path, name: str, labels, rows, *, units=None, fs=RATE, fmt="16") -> Path:
    with using_wfdb() as wfdb:
        wfdb.wrsamp(
            name, fs=fs, units=units or ["mV"] * len(labels), sig_name=list(labels), p_signal=np.asarray(rows).T,
            fmt=[fmt] * len(labels), write_dir=str(folder),
        )  # fmt: skip
    return folder / name


def in_counts(folder: Path, name: str, lines, samples, first: str, *, comments: str = "") -> Path:
    """A record whose header and samples (frames in a row) are written by hand."""
    np.asarray(samples).astype("<i2").tofile(folder / f"{name}.dat")
    (folder / f"{name}.hea").write_text(
        f"{name} {len(lines)} {first}\n" + "".join(f"{line}\n" for line in lines) + comments
    )
    return folder / name


def rows(recording: Recording, *leads: str) -> np.ndarray:
    return recording.signal[[recording.leads.index(lead) for lead in leads]].numpy()


# Names and signs


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        *(
            (text, "I")
            for text in ("I", "i", "DI", "D1", "ECG I", "MDC_ECG_LEAD_I", "lead-I", "Lead I (Einthoven)", "\u2160")
        ),
        *((text, "aVR") for text in ("AVR", "a VR", "ECG aVR", "MDC_ECG_LEAD_AVR", "EKG-aVR", "ECG aVR-REF")),
        *((text, "V1") for text in ("C1", "v1", "ECG:V1", "'V1'", "ecg_v1", "MDC_ECG_ELEC_POTL_V1")),
    ],
)
def test_a_lead_is_known_by_the_names_that_people_use(text, lead):
    assert signed_lead(text) == (lead, 1)


@pytest.mark.parametrize(
    "text",
    [
        "-aVR",
        "\N{MINUS SIGN}aVR",
        "\N{EN DASH}AVR",
        "- aVR",
        "lead -aVR",
        "minus aVR",
        "aVR (inverted)",
        "(-)aVR",
        "neg_aVR",
    ],
)
def test_a_minus_is_a_sign(text):
    assert signed_lead(text) == ("aVR", -1)


@pytest.mark.parametrize(
    "text", ["MLII", "ECG1", "ECG", "V", "V3R", "V7", "lead", "", "-", "x-I", "RESP", "vx", "lead1"]
)
def test_what_is_near_a_lead_is_not_taken_for_it(text):
    assert signed_lead(text) is None


def test_the_cabrera_order_with_minus_avr_has_the_values_of_the_usual_one(tmp_path, x):
    order = [x[4], x[0], -x[3], x[1], x[5], x[2], *x[6:]]
    wfdb_record(tmp_path, "cabrera", ["aVL", "I", "-aVR", "II", "aVF", "III", *TWELVE[6:]], order)
    got = load_recording(tmp_path / "cabrera")
    assert np.abs(rows(got, *TWELVE) - x).max() < 1e-3
    assert got.remarks == ("times -1: aVR from -aVR",)
    wfdb_record(tmp_path, "two", ["-aVR", "II"], [-x[3], x[1]])
    two = nine_leads(load_recording(tmp_path / "two"), EcgFormat(high_pass_hz=0, rate_hz=RATE))
    assert np.abs(two[0].numpy() - x[0]).max() < 3e-3  # I = -2 aVR - II, of rounded values


def test_a_long_minus_and_a_micro_sign_in_a_header_are_read(tmp_path, x):
    """The library drops what is not ASCII: it would make aVR of the one and volts of the other."""
    counts = np.rint(1000 * np.stack([-x[3], x[1]])).T
    lines = [
        "odd.dat 16 1/\N{MICRO SIGN}V 16 0 0 0 0 \N{MINUS SIGN}aVR",
        "odd.dat 16 1/\N{GREEK SMALL LETTER MU}V 16 0 0 0 0 II",
    ]
    for encoding in ("utf-8", "latin-1"):
        text = f"odd 2 250 {len(counts)}\n" + "\n".join(
            lines
            if encoding == "utf-8"
            else [
                lines[0].replace("\N{MINUS SIGN}", "-"),
                lines[1].replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}"),
            ]
        )
        (tmp_path / "odd.hea").write_text(text, encoding=encoding)
        counts.astype("<i2").tofile(tmp_path / "odd.dat")
        assert np.abs(rows(load_recording(tmp_path / "odd"), "aVR", "II") - x[[3, 1]]).max() <= STEP


def test_foreign_channels_are_set_aside_by_name_and_the_leads_are_read(tmp_path, x):
    labels = [name.lower() for name in TWELVE] + ["vx", "RESP", "PLETH"]
    other = np.stack([0.5 * x[0], np.sin(np.arange(x.shape[1]) / 50), x[1]])
    wfdb_record(tmp_path, "many", labels, np.vstack([x, other]), units=["mV"] * 13 + ["Ohm", "NU"])
    got = load_recording(tmp_path / "many")
    assert got.leads == TWELVE
    assert got.remarks == ("set aside, not taken as leads: vx, RESP (in Ohm), PLETH (in NU)",)


def test_a_modified_lead_is_a_lead_where_the_user_says_so(tmp_path, x):
    wfdb_record(tmp_path, "holter", ["MLII", "V5", "ECG1"], x[[1, 10, 0]])
    assert load_recording(tmp_path / "holter").leads == ("V5",)
    assert "MLII (--lead II=MLII takes it as II), ECG1" in load_recording(tmp_path / "holter").remarks[0]
    got = load_recording(tmp_path / "holter", channels={"II": "mlii", "I": "-ECG1"})
    assert np.abs(rows(got, "II", "I") - [x[1], -x[0]]).max() < 1e-3
    assert load_recording(tmp_path / "holter", channels={"II": "MLII", "V5": ""}).leads == ("II",)
    with pytest.raises(DataError, match="no channel `MLIII`\nhint: it has MLII, V5, ECG1"):
        load_recording(tmp_path / "holter", channels={"III": "MLIII"})


def test_two_channels_of_one_lead_are_chosen_between_by_the_user(tmp_path, x):
    wfdb_record(tmp_path, "both", ["II", "ECG II"], x[[1, 0]])
    with pytest.raises(DataError, match="a lead twice: II, ECG II are both II\nhint: --lead II=NAME"):
        load_recording(tmp_path / "both")
    got = load_recording(tmp_path / "both", channels={"II": "ECG II"})
    assert np.abs(got.signal[0].numpy() - x[0]).max() < 1e-3
    assert got.remarks == ("set aside, not taken as leads: II (II is taken from ECG II)",)


def test_a_record_of_foreign_channels_only_says_what_each_is(tmp_path, x):
    wfdb_record(tmp_path, "none", ["I", "RESP"], x[:2], units=["adu", "Ohm"])
    with pytest.raises(DataError, match=r"no channel of none is known as a lead: I \(in adu\), RESP \(in Ohm\)"):
        load_recording(tmp_path / "none")


# Rates


def test_each_signal_has_its_own_rate(tmp_path, x):
    """Frames of 62.5 per second with four samples of each lead and one of a pressure."""
    counts = np.rint(1000 * x[[1, 6, 3]]).astype(int)
    pressure = 800 + np.arange(250) % 7
    frames = [np.concatenate([*counts[:, 4 * f : 4 * f + 4], pressure[f : f + 1]]) for f in range(250)]
    lines = [
        f"m.dat 16x4 1000(0)/mV 16 0 {c[0]} {c.sum() % 65536} 0 {n}"
        for c, n in zip(counts, ("II", "V1", "AVR"), strict=True)
    ]
    in_counts(tmp_path, "m", [*lines, "m.dat 16 10/mmHg 12 0 0 0 0 ABP"], np.concatenate(frames), "62.5 250")
    got = load_recording(tmp_path / "m")
    assert (got.rate_hz, got.signal.shape, got.leads) == (250.0, (3, 1000), ("II", "V1", "aVR"))
    assert np.abs(got.signal.numpy() - x[[1, 6, 3]]).max() <= STEP
    assert got.remarks == ("set aside, not taken as leads: ABP (in mmHg)",)


def test_leads_of_different_rates_are_brought_to_the_highest(tmp_path):
    times = np.arange(1000) / 250
    fast, slow = np.sin(2 * np.pi * 3 * times), np.cos(2 * np.pi * 3 * times[::2])
    frames = np.rint(1000 * np.concatenate([fast.reshape(-1, 2), slow[:, None]], 1))
    in_counts(
        tmp_path, "two", ["two.dat 16x2 1000/mV 16 0 0 0 0 I", "two.dat 16 1000/mV 16 0 0 0 0 V1"], frames, "125 500"
    )
    got = load_recording(tmp_path / "two")
    assert got.rate_hz == 250.0
    assert "lead V1 of a lower rate: brought to 250" in got.remarks[0]
    # Passband ripple of the library's filter, and rounding to a count.
    assert np.abs(got.signal[1].numpy() - np.cos(2 * np.pi * 3 * times))[20:-20].max() < 5e-3


# Consistency


def test_rows_in_another_order_are_refused_with_the_order_that_agrees(tmp_path, x):
    order = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "aVR", "aVL", "aVF")
    np.save(tmp_path / "x.npy", x[[TWELVE.index(name) for name in order]])
    with pytest.raises(DataError, match=r"contradict each other by up to [1-9].*\nhint: --order " + ",".join(order)):
        load_recording(tmp_path / "x.npy", rate_hz=RATE)
    got = load_recording(tmp_path / "x.npy", rate_hz=RATE, leads=order)
    assert np.array_equal(rows(got, *TWELVE), x)
    np.save(tmp_path / "x.npy", x[[TWELVE.index(name) for name in reversed(TWELVE)]])
    with pytest.raises(DataError, match="aVF,aVL,aVR,III,II,I"):
        load_recording(tmp_path / "x.npy", rate_hz=RATE)


def test_nine_rows_in_another_order_are_refused(tmp_path, x):
    np.save(tmp_path / "x.npy", x[[6, 7, 8, 9, 10, 11, 0, 1, 2]])
    with pytest.raises(DataError, match="contradict each other .* no single lead explains it"):
        load_recording(tmp_path / "x.npy", rate_hz=RATE)


@pytest.mark.parametrize(
    ("change", "how"),
    [(lambda v: -v, "is upside down"), (lambda v: 2 * v, "is 2 times"), (lambda v: v[::-1], "is not what follows")],
)
def test_the_one_lead_that_contradicts_the_others_is_named_and_set_aside(tmp_path, x, change, how):
    wrong = np.vstack([x[:3], change(x[3])[None], x[4:]])
    wfdb_record(tmp_path, "one", TWELVE, wrong)
    got = load_recording(tmp_path / "one")
    assert got.leads == tuple(name for name in TWELVE if name != "aVR")
    assert any("lead aVR contradicts the other limb leads" in told and how in told for told in got.remarks)
    assert np.abs(rows(got, "I", "II", "III") - x[:3]).max() < 1e-3


def test_exchanged_names_of_limb_leads_are_named(tmp_path, x):
    wfdb_record(tmp_path, "swap", ["II", "I", *TWELVE[2:]], x)
    with pytest.raises(
        DataError, match="they agree with II in the place of I, I in the place of II\nhint: --lead II=I --lead I=II"
    ):
        load_recording(tmp_path / "swap")
    got = load_recording(tmp_path / "swap", channels={"I": "II", "II": "I"})
    assert np.abs(rows(got, "I", "II") - x[:2]).max() < 1e-3


def test_rounding_and_noise_are_no_contradiction(tmp_path, x):
    noisy = np.rint((x + 0.005 * np.random.default_rng(0).standard_normal(x.shape)) * 200) / 200
    np.save(tmp_path / "x.npy", noisy)
    got = load_recording(tmp_path / "x.npy", rate_hz=RATE)
    assert got.leads == TWELVE
    assert "limb leads disagree by up to 0.0" in got.remarks[-1]
    np.save(tmp_path / "x.npy", np.rint(1000 * x) / 1000)
    assert len(load_recording(tmp_path / "x.npy", rate_hz=RATE).remarks) == 1


def test_leads_made_by_hand_are_measured_before_they_are_repaired(x):
    swapped = torch.from_numpy(x[[1, 0, *range(2, 12)]].copy())
    with pytest.raises(DataError, match="contradict each other"):
        nine_leads(Recording("x", swapped, TWELVE, RATE), PLAIN)


def test_samples_that_do_not_have_the_stated_sum_are_named(tmp_path, x):
    wfdb_record(tmp_path, "flip", ["I", "II"], x[:2])
    data = bytearray((tmp_path / "flip.dat").read_bytes())
    data[100] ^= 4
    (tmp_path / "flip.dat").write_bytes(data)
    assert "the samples of I do not have the sum that flip.hea states" in load_recording(tmp_path / "flip").remarks[0]


def test_a_lead_of_impossible_size_is_set_aside_where_the_others_are_possible(tmp_path, x):
    wfdb_record(tmp_path, "big", ["I", "V1"], np.stack([x[0], 300 * x[6] + 50]))
    got = load_recording(tmp_path / "big")
    assert got.leads == ("I",)
    assert "lead V1 reaches" in got.remarks[0]


# WFDB as it lies on disks


def segments(folder: Path, x: np.ndarray) -> Path:
    for i in (0, 1):
        wfdb_record(folder, f"seg{i}", ["I", "II"], x[:2, 300 * i : 300 * i + 300], units=["mV", ("mV", "uV")[0]])
    (folder / "fixed.hea").write_text("fixed/2 2 250 600\nseg0 300\nseg1 300\n")
    lay = "".join(f"~ 0 1000/mV 16 0 0 0 0 {name}\n" for name in ("I", "II", "V1"))
    (folder / "lay.hea").write_text(f"lay 3 250 0\n{lay}")
    (folder / "var.hea").write_text("var/4 3 250 700\nlay 0\nseg0 300\n~ 100\nseg1 300\n")
    return folder


def test_segments_are_joined_and_what_none_holds_is_named(tmp_path, x):
    segments(tmp_path, x)
    assert np.abs(load_recording(tmp_path / "fixed").signal.numpy() - x[:2, :600]).max() < 1e-3
    got = load_recording(tmp_path / "var")
    assert got.leads == ("I", "II", "V1")
    assert "no segment of var.hea holds V1" in got.remarks
    assert bool(got.signal[2].isnan().all())
    assert bool(got.signal[:2, 300:400].isnan().all())
    assert np.abs(got.signal[:2, :300].numpy() - x[:2, :300]).max() < 1e-3
    assert np.abs(got.signal[:2, 400:].numpy() - x[:2, 300:600]).max() < 1e-3


def test_segments_may_differ_in_gain_and_unit(tmp_path, x):
    wfdb_record(tmp_path, "a", ["I"], x[:1, :300])
    wfdb_record(tmp_path, "b", ["I"], 1000 * x[:1, 300:600], units=["uV"])
    (tmp_path / "ab.hea").write_text("ab/2 1 250 600\na 300\nb 300\n")
    assert np.abs(load_recording(tmp_path / "ab").signal.numpy() - x[:1, :600]).max() < 1e-3


def test_capitals_in_names_do_not_hide_a_record(tmp_path, x):
    wfdb_record(tmp_path, "up", ["I", "II"], x[:2])
    text = (tmp_path / "up.hea").read_text()
    (tmp_path / "up.hea").rename(tmp_path / "UP.HEA")
    (tmp_path / "up.dat").rename(tmp_path / "UP.DAT")
    for name in ("UP.HEA", "UP"):
        assert np.abs(load_recording(tmp_path / name).signal.numpy() - x[:2]).max() < 1e-3
    (tmp_path / "UP.HEA").write_text(text.replace("up", "UP").replace(".dat", ".DAT"))
    assert load_recording(tmp_path / "UP.HEA").leads == ("I", "II")


def test_a_zip_of_a_mac_with_one_record_is_read_and_one_with_two_names_them(tmp_path, x):
    wfdb_record(tmp_path, "one", ["I", "II"], x[:2])
    with zipfile.ZipFile(tmp_path / "rec.ZIP", "w") as archive:
        for name in ("one.hea", "one.dat"):
            archive.write(tmp_path / name, f"visit/{name}")
            archive.writestr(f"__MACOSX/visit/._{name}", b"\0\5\x16\7")
    assert np.abs(load_recording(tmp_path / "rec.ZIP").signal.numpy() - x[:2]).max() < 1e-3
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("one.hea", "one.dat"):
            archive.write(tmp_path / name, name)
        archive.writestr("x.csv", "I\n1\n")
    with pytest.raises(DataError, match="holds 2 recordings: one.hea, x.csv\nhint: unpack it"):
        load_recording(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../x.csv", "I\n1\n")
    with pytest.raises(DataError, match="outside of it"):
        load_recording(tmp_path / "out.zip")


def test_a_header_without_length_gain_or_names_is_read_as_the_format_says(tmp_path, x):
    counts = np.rint(200 * x[:2]).T
    in_counts(tmp_path, "bare", ["bare.dat 16 200(0)/mV 16 0 0 0 0 I", "bare.dat 16 0 12 0 0 0 0 II", "bare.dat 16"],
              np.concatenate([counts, counts[:, :1]], 1), "250")  # fmt: skip
    got = load_recording(tmp_path / "bare")
    assert np.abs(got.signal.numpy() - x[:2]).max() <= 0.5 / 200 + 1e-9
    assert "bare.hea states no gain of II, signal 2: taken as 200 per mV" in got.remarks


def test_a_header_that_promises_more_than_its_file_holds_allocates_nothing(tmp_path):
    in_counts(tmp_path, "liar", ["liar.dat 16 1000/mV 16 0 0 0 0 I"], np.zeros(10), "250 999999999999")
    with pytest.raises(DataError, match="liar.dat ends after 10 of 999999999999 frames"):
        load_recording(tmp_path / "liar")


WFDB_FIELDS = {
    "used": {
        "record_name", "n_seg", "n_sig", "fs", "sig_len", "file_name", "fmt", "samps_per_frame", "skew", "byte_offset",
        "adc_gain", "baseline", "units", "adc_zero", "checksum", "sig_name", "seg_name", "seg_len",
    },
    "irrelevant": {"counter_freq", "base_counter", "adc_res", "init_value", "block_size"},
    "handed on": {"base_time", "base_date"},
}  # fmt: skip


def test_every_field_of_a_wfdb_header_is_used_irrelevant_or_handed_on(tmp_path, x):
    """Fields that a later version of the library knows fail here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wfdb.io._header import FIELD_SPECS

    assert set(FIELD_SPECS.index) == set().union(*WFDB_FIELDS.values())
    counts = np.rint(100 * x[:1]).T + 7
    header = "250/360(5) 1000 10:11:12 03/02/2001"
    in_counts(tmp_path, "all", ["all.dat 16 100(7)/mV 12 3 0 0 0 I"], counts, header, comments="# Age: 50\n#Dx: none\n")
    got = load_recording(tmp_path / "all")
    assert np.abs(got.signal.numpy() - x[:1]).max() <= 0.5 / 100 + 1e-9
    assert got.stated == {
        "comment 1": "Age: 50",
        "comment 2": "Dx: none",
        "base_date": "2001-02-03",
        "base_time": "10:11:12",
    }
    zero = ["all.dat 16 100/mV 12 7 0 0 0 I"]  # without a baseline the zero of the converter is it
    in_counts(tmp_path, "all", zero, counts, "250 1000")
    assert np.abs(load_recording(tmp_path / "all").signal.numpy() - x[:1]).max() <= 0.5 / 100 + 1e-9
    offset = np.concatenate([[9, 9], counts[:, 0]])
    in_counts(tmp_path, "all", ["all.dat 16+4 100(7)/mV 12 0 0 0 0 I"], offset, "250 1000")
    assert np.abs(load_recording(tmp_path / "all").signal.numpy() - x[:1]).max() <= 0.5 / 100 + 1e-9
    skewed = np.stack([counts[:, 0], np.roll(counts[:, 0], 5)], 1)
    lines = ["all.dat 16 100(7)/mV 12 0 0 0 0 I", "all.dat 16:5 100(7)/mV 12 0 0 0 0 V1"]
    in_counts(tmp_path, "all", lines, skewed, "250 1000")
    got = load_recording(tmp_path / "all").signal
    assert torch.equal(got[0, :-5], got[1, :-5])


# Parts


def test_a_part_of_a_recording_is_what_the_whole_has_there(tmp_path):
    """To 1e-9 mV: the filter has forgotten its ends. 128 to 100 per second needs parts that begin at whole quarters."""
    x = simulate(5, seconds=100.0, rate_hz=128.0).signal.numpy()[[0, 1, 7]]
    np.save(tmp_path / "x.npy", np.stack([x[0], x[1], x[2]]))
    said = {"rate_hz": 128.0, "leads": ("I", "II", "V2")}
    whole, form = nine_leads(load_recording(tmp_path / "x.npy", **said), EcgFormat()), EcgFormat()
    for start in (0.0, 2.5, 47.33, 97.4):
        got = load_recording(tmp_path / "x.npy", **said, part=Part(start=start, seconds=2.56))
        assert got.seconds <= 2.56 + 2 * 30 + 1
        assert got.lasts == 100.0
        first, at = round((start - got.begins) * 100), round(start * 100)
        a, b = nine_leads(got, form)[:, first : first + 256], whole[:, at : at + 256]
        assert torch.allclose(a, b, atol=1e-9, rtol=0, equal_nan=True)
    with pytest.raises(DataError, match="lasts 100 s, the window begins at 1000 s"):
        load_recording(tmp_path / "x.npy", **said, part=Part(start=1000.0, seconds=2.56))


MEASURE = """
import resource, sys, time
sys.path.insert(0, "")
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.recordings import Part, load_recording, nine_leads
load_recording("warm", part=Part(start=0.0, seconds=1.0))
before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
nine_leads(load_recording("day", part=Part(start=50000.0, seconds=2.56)), EcgFormat())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, time.process_time() - clock)
"""


@pytest.mark.slow
def test_a_window_of_a_day_costs_the_window(tmp_path, x):
    """Of a day at 128 per second, two leads: less than 100 MiB and 2 s, where the whole takes 11 GiB."""
    frames = 24 * 3600 * 128
    day = np.resize(np.rint(1000 * x[[1, 10]]).astype("<i2").T, (frames, 2))
    lines = [f"day.dat 16 1000/mV 16 0 0 0 0 {name}" for name in ("II", "V5")]
    in_counts(tmp_path, "day", lines, day, f"128 {frames}")
    wfdb_record(tmp_path, "warm", ["I", "II"], x[:2])
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, check=True)
    memory, seconds = map(float, done.stdout.split())
    assert memory < 100
    assert seconds < 2


# Tables in text


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


WATCH = (
    'Name,Test Person\nDate of Birth,"Jan 1, 1980"\nRecorded Date,2026-01-02 03:04:05 +0000\n'
    'Classification,Sinus Rhythm\nSymptoms,\nSoftware Version,2.0\nDevice,"Watch9,9"\nSample Rate,512 hertz\n\n\n'
    "Lead,Lead I\nUnit,\N{MICRO SIGN}V\n\n"
)
UHR = (
    WATCH.replace("Name,", "Name,")
    .replace("Sample Rate,512 hertz", "Messrate,512 Hz")
    .replace("Lead,Lead I", "Ableitung,Ableitung I")
)
UHR = UHR.replace("Unit", "Einheit").replace("Device", "Ger\N{LATIN SMALL LETTER A WITH DIAERESIS}t")


@pytest.mark.parametrize(
    ("head", "form", "encoding"),
    [
        (WATCH, "{:.3f}", "utf-8"),
        (WATCH, "{:.3f}", "utf-16"),
        (UHR, '"{:.3f}"', "utf-8-sig"),
        (UHR, "{:.3f}", "latin-1"),
    ],
)
def test_the_export_of_a_smart_watch_is_lead_one_in_microvolts(tmp_path, x, head, form, encoding):
    """Twelve lines in front; decimal commas in quotes and without, in the German one."""
    numbers = [form.format(v) for v in 1000 * x[0]]
    comma = head is UHR
    text = head + "\n".join(n.replace(".", ",") if comma else n for n in numbers) + "\n"
    got = load_recording(written(tmp_path / "watch.csv", text, encoding))
    assert (got.leads, got.rate_hz, got.signal.shape) == (("I",), 512.0, (1, 1000))
    assert np.abs(got.signal[0].numpy() - x[0]).max() <= 0.5e-6 + 1e-12
    assert len(load_recording(tmp_path / "watch.csv", unit="uV", rate_hz=512).signal[0]) == 1000
    with pytest.raises(ConfigError, match="states its units"):
        load_recording(tmp_path / "watch.csv", unit="mV")
    with pytest.raises(DataError, match="says 512 samples per second, not 500"):
        load_recording(tmp_path / "watch.csv", rate_hz=500)
    assert {line.split(",")[0] for line in head.splitlines() if line} == set(got.stated)  # every line is handed on


@pytest.mark.parametrize(
    ("head", "join", "said"),
    [
        ("I,II", ",", {"rate_hz": 250}),
        ("# made by a program\nSampling rate: 250 Hz\n\nI;II", ";", {"rate_hz": 250}),
        ("fs,250\nI,II", ",", {}),
        ("time_ms\tECG I (mV)\tECG II [mV]", "\t", {}),
        ("Elapsed time,I,II\n'hh:mm:ss.mmm','mV','mV'", ",", {}),
        ("sample,D1,D2\n,mV,mV", ",", {"rate_hz": 250}),
        ("I II", " ", {"rate_hz": 250}),
    ],
)
@pytest.mark.parametrize("comma", [False, True])
def test_tables_are_read_whatever_stands_around_the_numbers(tmp_path, x, head, join, said, comma):
    first = head.splitlines()[-1].lower()
    lines = []
    for k, (a, b) in enumerate(x[:2].T):
        front = {"t": f"{4 * k}", "'": f"'0:0{4e-3 * k:.3f}'", "e": f"{4 * k}", ",": f"{k}"}.get(first[0])
        cells = [f"{a:.6f}", f"{b:.6f}"]
        cells = [c.replace(".", ",") for c in cells] if comma else cells
        cells = [f'"{c}"' for c in cells] if comma and join == "," else cells
        lines.append(join.join(([front] if front else []) + cells))
    got = load_recording(written(tmp_path / "x.csv", head + "\n" + "\n".join(lines)), **said)
    assert got.leads == ("I", "II")
    assert got.rate_hz == pytest.approx(250)
    assert np.abs(got.signal.numpy() - x[:2]).max() <= 0.5e-6 + 1e-12


def test_a_table_without_names_takes_an_order(tmp_path, x):
    np.savetxt(tmp_path / "x.txt", x[[6, 0, 3]].T)
    got = load_recording(tmp_path / "x.txt", rate_hz=RATE, leads=("V1", "I", "_"))
    assert np.abs(rows(got, "V1", "I") - x[[6, 0]]).max() < 1e-12
    with pytest.raises(DataError, match="--order I,II,V1"):
        load_recording(tmp_path / "x.txt", rate_hz=RATE)
    with pytest.raises(ConfigError, match="names its channels: II"):
        load_recording(written(tmp_path / "y.csv", "II\n1\n2\n"), rate_hz=RATE, leads=("V1",))


def test_a_cell_in_the_middle_that_is_no_number_loses_nothing_in_silence(tmp_path):
    rows_ = ["0.1,0.2"] * 4
    for place in (1, 3):
        text = "\n".join(["I,II", *rows_[:place], "broken,0.2", *rows_[place:]])
        with pytest.raises(DataError, match="not a table of numbers.*broken"):
            load_recording(written(tmp_path / "x.csv", text), rate_hz=RATE)
    text = "\n".join(["I,II", *rows_ * 100, "broken,0.2", *rows_])
    with pytest.raises(DataError, match="not a table of numbers.*broken"):
        load_recording(written(tmp_path / "x.csv", text), rate_hz=RATE)


# Arrays


def npz(path: Path, **arrays) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


def mat(path: Path, **arrays) -> Path:
    from scipy.io import savemat

    savemat(path, arrays)
    return path


def h5(path: Path, **arrays) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file["visit/" + name] = value if not isinstance(value, list) else [v.encode() for v in value]
    return path


WRITERS = {"x.npz": npz, "x.mat": mat, "x.h5": h5}


@pytest.mark.parametrize("file", WRITERS)
def test_arrays_of_a_file_say_leads_rate_and_unit_and_the_others_are_named(tmp_path, x, file):
    arrays = {"signal": 1000 * x[[7, 1]], "leads": ["V2", "II"], "fs": 250.0, "units": "uV", "age": 50.0}
    path = WRITERS[file](tmp_path / file, **arrays)
    got = load_recording(path)
    assert (got.leads, got.rate_hz) == (("V2", "II"), 250.0)
    assert np.allclose(got.signal.numpy(), x[[7, 1]])
    assert [told for told in got.remarks if "age" in told and "not used" in told]
    turned = WRITERS[file](tmp_path / f"t{file}", **arrays | {"signal": 1000 * x[[7, 1]].T})
    part = load_recording(turned, part=Part(start=1.0, seconds=1.0, rate_hz=250.0))
    assert torch.equal(part.signal, got.signal)


@pytest.mark.parametrize("file", WRITERS)
def test_an_array_is_found_by_its_shape_or_by_name(tmp_path, x, file):
    path = WRITERS[file](tmp_path / file, val=1000 * x)
    with pytest.raises(DataError, match="rate of .* is unknown"):
        load_recording(path)
    assert load_recording(path, rate_hz=RATE, unit="uV").leads == TWELVE
    two = WRITERS[file](tmp_path / f"two-{file}", a=x, b=2 * x)
    with pytest.raises(DataError, match=r"several arrays.*\nhint: say which with --variable"):
        load_recording(two, rate_hz=RATE)
    name = "visit/b" if file == "x.h5" else "b"
    assert np.allclose(load_recording(two, rate_hz=RATE, variable=name).signal.numpy(), 2 * x)


@pytest.mark.parametrize("file", WRITERS)
def test_one_array_for_each_lead_is_a_recording(tmp_path, x, file):
    got = load_recording(WRITERS[file](tmp_path / file, I=x[0], V5=x[10], rate=250.0))
    assert set(got.leads) == {"I", "V5"}
    assert np.allclose(rows(got, "I", "V5"), x[[0, 10]])


def test_structures_of_matlab_and_its_version_seven_three_are_read(tmp_path, x):
    from scipy.io import savemat

    savemat(tmp_path / "cpsc.mat", {"ECG": {"sex": "Male", "age": 40, "data": x}})
    got = load_recording(tmp_path / "cpsc.mat", rate_hz=500)
    assert got.leads == TWELVE
    assert got.stated == {"ECG.sex": "Male"}
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:  # columns first, text as numbers
        file["val"] = x.T
        file["fs"] = np.array([[500.0]])
        file["unit"] = np.array([[ord(c)] for c in "mV"], np.uint16)
        file["unit"].attrs["MATLAB_class"] = b"char"
    got = load_recording(tmp_path / "new.mat")
    assert (got.leads, got.rate_hz) == (TWELVE, 500.0)
    assert np.array_equal(got.signal.numpy(), x)


def test_a_mat_file_beside_a_header_is_a_record(tmp_path, x):
    """As the challenges of PhysioNet publish them: an offset of 24 bytes, and no sums."""
    counts = np.rint(1000 * x).astype("<i2")
    (tmp_path / "ch.mat").write_bytes(bytes(24) + counts.T.tobytes())
    lines = "".join(
        f"ch.mat 16+24 1000.0(0)/mV 16 0 {row[0]} 0 0 {name}\n" for name, row in zip(TWELVE, counts, strict=True)
    )
    (tmp_path / "ch.hea").write_text(f"ch 12 250 {x.shape[1]}\n{lines}#Age: 50\n")
    assert np.abs(load_recording(tmp_path / "ch.mat").signal.numpy() - x).max() <= STEP


def test_arrays_that_are_no_single_recording_say_so(tmp_path, x):
    np.save(tmp_path / "x.npy", np.stack([x] * 3))
    with pytest.raises(DataError, match="holds 3 recordings.*\nhint: write one of them"):
        load_recording(tmp_path / "x.npy", rate_hz=RATE)
    np.save(tmp_path / "x.npy", x.T)
    assert np.array_equal(load_recording(tmp_path / "x.npy", rate_hz=RATE).signal.numpy(), x)
    np.save(tmp_path / "x.npy", x.astype(complex))
    with pytest.raises(DataError, match="real numbers"):
        load_recording(tmp_path / "x.npy", rate_hz=RATE)


# EDF


def edf(path: Path, signals, **settings) -> Path:
    edfio = pytest.importorskip("edfio")
    made = [
        edfio.EdfSignal(values, rate, label=label, physical_dimension=unit, **more)
        for label, unit, rate, values, more in signals
    ]
    edfio.Edf(made, **settings).write(path)
    return path


def test_edf_signals_have_their_own_rates_units_and_names(tmp_path, x):
    edfio = pytest.importorskip("edfio")
    signals = [
        ("ECG I", "uV", 250, 1000 * x[0], {"prefiltering": "HP:0.05Hz", "transducer_type": "AgCl"}),
        ("ECG -AVR", "mV", 250, -x[3], {}),
        ("Resp", "Ohm", 25, np.sin(np.arange(100)), {}),
        ("Pleth", "", 50, np.cos(np.arange(200)), {}),
    ]
    notes = [edfio.EdfAnnotation(1.0, None, "beat")]
    got = load_recording(edf(tmp_path / "x.edf", signals, annotations=notes))
    assert (got.leads, got.rate_hz) == (("I", "aVR"), 250.0)
    assert np.abs(got.signal.numpy() - x[[0, 3]]).max() < 1e-3
    assert got.remarks == (
        "x.edf has 1 annotations: not used",
        "set aside, not taken as leads: Resp (in Ohm), Pleth",
        "times -1: aVR from ECG -AVR",
    )
    stated = {"prefiltering of ECG I": "HP:0.05Hz", "transducer of ECG I": "AgCl", "patient": "X X X X"}
    assert stated.items() <= got.stated.items()
    part = load_recording(tmp_path / "x.edf", part=Part(start=1.0, seconds=1.0, rate_hz=250.0))
    assert torch.equal(part.signal, got.signal)


def test_bdf_is_read_like_edf(tmp_path, x):
    edfio = pytest.importorskip("edfio")
    edfio.Bdf([edfio.BdfSignal(1000 * x[0], 250, label="ECG I", physical_dimension="uV")]).write(tmp_path / "x.bdf")
    got = load_recording(tmp_path / "x.bdf", part=Part(start=1.0, seconds=1.0, rate_hz=250.0))
    assert got.leads == ("I",)
    assert np.abs(got.signal.numpy() - x[:1]).max() < 1e-3


EDF_FIELDS = {
    "used": {"label", "physical_dimension", "physical_min", "physical_max", "digital_min", "digital_max"}
    | {"samples_per_data_record", "data_record_duration", "num_data_records", "num_signals", "reserved", "version"},
    "irrelevant": {"bytes_in_header_record", "startdate", "starttime"},
    "handed on": {"local_patient_identification", "local_recording_identification", "transducer_type", "prefiltering"},
}
"""`reserved` says whether there are gaps in time."""


def test_every_field_of_an_edf_header_is_used_irrelevant_or_handed_on(tmp_path, x):
    """The fields of the format, as the library names them."""
    edfio = pytest.importorskip("edfio")
    fields = {name for name, _ in (*edfio.Edf._header_fields, *edfio.EdfSignal._header_fields)}
    assert {name.lstrip("_") for name in fields} == set().union(*EDF_FIELDS.values())
    notes = [edfio.EdfAnnotation(1.0, None, "beat")]
    path = edf(tmp_path / "x.edf", [("ECG I", "mV", 250, x[0], {})], annotations=notes)
    data = path.read_bytes().replace(b"EDF+C", b"EDF+D").replace(b"+3\x14\x14", b"+7\x14\x14")
    path.write_bytes(data)
    with pytest.raises(DataError, match="gaps in time"):
        load_recording(path)


# The catalogue


@pytest.mark.parametrize(
    ("name", "start", "what", "reader"),
    [
        ("x.dcm", bytes(128) + b"DICM", "DICOM", "pydicom"),
        ("x", bytes(128) + b"DICM", "DICOM", "pydicom"),
        ("x.xml", b"<?xml version='1.0'?><AnnotatedECG/>", "XML", "ecgdatakit"),
        ("x.ecg", b"ISHNE1.0", "ISHNE", "ecgdatakit"),
        ("x.scp", b"??", "SCP-ECG", "ecgdatakit"),
        ("x.json", b"{}", "JSON", "json.load"),
        ("x.xlsx", b"PK", "Excel", "CSV"),
        ("x.pdf", b"%PDF-1.4", "PDF", "numbers"),
        ("x.pkl", b"\x80\x04", "pickle", "wrote it"),
        ("x.csv.gz", b"\x1f\x8b", "packed", "gunzip"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_reads_it(tmp_path, name, start, what, reader):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(DataError, match=f"is an? .*{what}.*not read here\nhint: it is read by .*{reader}"):
        load_recording(tmp_path / name)


def test_what_no_format_knows_and_what_is_not_there_are_told_apart(tmp_path):
    (tmp_path / "x.foo").write_bytes(b"foo")
    with pytest.raises(DataError, match="x.foo is not a recording of a known kind\nhint: known are wfdb"):
        load_recording(tmp_path / "x.foo")
    with pytest.raises(DataError, match="no recording .*none: it is not there"):
        load_recording(tmp_path / "none")
    with pytest.raises(DataError, match="it is a folder"):
        load_recording(tmp_path)
    with pytest.raises(DataError, match="but a device"):
        load_recording("/dev/zero")
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="but a pipe"):
        load_recording(tmp_path / "x.csv")


OWN = """
from contextlib import contextmanager
import numpy as np
from midguide.domains.ecg.formats.base import Channel, Contents, RecordingFormat

class Raw(RecordingFormat):
    "Two leads of shorts, one after the other."

    extensions = (".raw",)

    @contextmanager
    def open(self, file, said):
        values = np.fromfile(file.path, "<i2").reshape(-1, 2) / 1000
        channels = Channel(name="I", unit="mV"), Channel(name="V5", unit="mV")
        read = lambda rows, first, stop: [values[first:stop, row] for row in rows]
        yield Contents(channels=channels, frames=len(values), frame_rate=250.0, read=read)
"""


def test_a_user_adds_a_format_in_one_file(tmp_path, x):
    (tmp_path / "own.py").write_text(OWN)
    np.rint(1000 * x[[0, 10]]).T.astype("<i2").tofile(tmp_path / "x.raw")
    got = load_recording(tmp_path / "x.raw", form=f"{tmp_path}/own.py:Raw")
    assert np.abs(rows(got, "I", "V5") - x[[0, 10]]).max() <= STEP


def test_every_format_says_what_it_reads_and_none_raises_for_a_foreign_file(tmp_path):
    for content in (b"", b"\0" * 600, b"\xff" * 600, b"I,II\n1,2\n"):
        (tmp_path / "x").write_bytes(content)
        assert not any(entry.thing().recognizes(File(tmp_path / "x")) for entry in RECORDINGS.values())


@pytest.mark.parametrize("name", ["x.hea", "x.edf", "x.h5", "x.mat", "x.csv", "x.npy", "x.npz", "x.zip"])
def test_a_damaged_file_of_any_format_is_one_data_error(tmp_path, x, name):
    """Every twentieth of its bytes turned, and the file cut: a recording, or one line."""
    whole = {
        "x.edf": lambda: edf(tmp_path / name, [("ECG I", "mV", 250, x[0], {})]),
        "x.h5": lambda: h5(tmp_path / name, val=x[:, :50], fs=250.0),
        "x.mat": lambda: mat(tmp_path / name, val=x[:, :50], fs=250.0),
        "x.npz": lambda: npz(tmp_path / name, val=x[:, :50], fs=250.0),
        "x.npy": lambda: np.save(tmp_path / name, x[:, :50]),
        "x.csv": lambda: written(tmp_path / name, "time,I\n0,0.1\n0.004,0.2\n0.008,0.3\n"),
        "x.hea": lambda: wfdb_record(tmp_path, "x", ["I"], x[:1]),
    }
    if name == "x.zip":
        wfdb_record(tmp_path, "x", ["I"], x[:1])
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(tmp_path / "x.hea", "x.hea")
            archive.write(tmp_path / "x.dat", "x.dat")
    else:
        whole[name]()
    data = (tmp_path / name).read_bytes()
    places = np.unique(np.linspace(0, min(len(data), 1500) - 1, 30).astype(int))
    damaged = [data[:k] + bytes([data[k] ^ 0xFF]) + data[k + 1 :] for k in places]
    for content in (*damaged, b"", data[:10], data[: len(data) // 2]):
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(MidguideError):  # anything else fails the test
            load_recording(tmp_path / name, rate_hz=250.0)
