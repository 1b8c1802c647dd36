"""`midguide ecg`, with a tiny untrained prior: what is written holds together, and mistakes are one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midguide.domains.ecg.files import write_csv, write_wfdb
from midguide.domains.ecg.leads import TWELVE, EcgFormat, einthoven_error
from midguide.domains.ecg.ptbxl import DIAGNOSES
from midguide.domains.ecg.recordings import load_recording, nine_leads
from midguide.domains.ecg.simulator import CONDITIONS, simulate
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.priors.formats.native import save_prior
from midguide.priors.settings import PriorSettings

SAMPLES = 64


@pytest.fixture(scope="module")
def ecg_prior(tmp_path_factory):
    """The file of a prior of 0.64 s that has learned nothing."""
    config = SashimiConfig(channels=8, blocks=1, pools=(2,), states=8, features=8, embedding=16)
    path = tmp_path_factory.mktemp("prior") / "tiny-ecg.safetensors"
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        weights = Sashimi(config).state_dict()
    spec = PriorSettings(network=config, event_shape=(9, SAMPLES), value_range="unbounded", signal=EcgFormat().signal)
    save_prior(path, weights, spec)
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A simulated patient as a table of twelve leads at 250 Hz."""
    path = tmp_path_factory.mktemp("record") / "patient.csv"
    write_csv(path, simulate(1, seconds=3.0, rate_hz=250.0))
    return path


@pytest.fixture
def ecg(cli, ecg_prior):
    def run(command, *argv):
        return cli("ecg", command, *argv, "--prior", ecg_prior, "--steps", 3, "--samples", 3, "--out", "out")

    return run


def test_the_demo_needs_no_data_and_says_what_it_found(ecg):
    result = ecg("demo", "--hide", "0.32-0.64", "--json")
    assert result.code == 0
    assert {
        "mae_hidden_mv",
        "rmse_hidden_mv",
        "coverage90",
        "einthoven_max_mv",
        "seconds",
        "files",
    } <= result.json.keys()
    assert result.json["einthoven_max_mv"] <= 1e-6
    assert result.json["sampler"] == "mmps"
    assert "not a medical device" in result.err
    assert "not a medical device" in result.json["warning"]


def test_the_demo_hides_what_it_is_told_to_in_the_leads_that_are_given(ecg):
    assert ecg("demo", "--leads", "I", "--hide", "0.32-0.64", "--json").json["hide"] == "0.32-0.64"
    assert ecg("demo", "--leads", "I", "--json").json["hide"] is None


def test_a_recording_that_the_given_rate_makes_short_is_remarked_upon(ecg, tmp_path):
    np.save(tmp_path / "x.npy", simulate(1, seconds=4.0, rate_hz=100.0).signal.numpy())
    result = ecg("reconstruct", "x.npy", "--rate", 1000, "--leads", "I")
    assert result.code == 0
    assert "ends after 0.4 s, the prior sees 0.64 s: is the rate right?" in result.err


def test_what_was_given_is_in_every_file_and_einthoven_holds_in_each(ecg, record, tmp_path):
    files = ecg("reconstruct", record, "--leads", "I,V2", "--json").json["files"]
    tables = {name: load_recording(files[name]) for name in ("csv", "header")}
    arrays = np.load(files["samples"])
    assert arrays["samples_mv"].shape == (3, 12, SAMPLES)
    assert arrays["observed"].any(1).tolist() == [name in ("I", "V2") for name in TWELVE]
    samples = torch.from_numpy(arrays["samples_mv"])
    for signal in (samples, *(table.signal for table in tables.values())):
        assert float(einthoven_error(signal).max()) <= 1e-6
    given = [TWELVE.index(name) for name in ("I", "V2")]
    assert torch.equal(samples[0, given], samples[1, given])
    # 1e-9 in the table; counts of 0.001 mV for lead I in the WFDB file.
    assert torch.allclose(tables["csv"].signal[given], samples[0, given], atol=1e-9)
    assert torch.allclose(tables["header"].signal[given], samples[0, given], atol=0.0005 + 1e-9)
    assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in ("ecg-3x4.png", "ecg-12x1.png"))


def test_a_given_lead_is_the_recorded_one_whatever_the_hidden_leads_say(ecg, tmp_path):
    """Limb leads that disagree a little: the given one is not mixed with the hidden ones."""
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    other = whole.signal.clone()
    other[1:6] += 0.01 * torch.sin(torch.arange(300) / torch.arange(2, 7)[:, None])
    for name, signal in (("agree", whole.signal), ("contradict", other)):
        write_csv(tmp_path / f"{name}.csv", type(whole)(name, signal, TWELVE, 100.0))
    drawn = []
    for name in ("agree", "contradict"):
        result = ecg("reconstruct", f"{name}.csv", "--leads", "I", "--json").json
        assert result["mae_hidden_mv"] > 0
        drawn.append(np.load(result["files"]["samples"])["samples_mv"])
    # The hidden leads reach no sample; the table holds nine decimals.
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-8)


def test_flat_leads_are_refused_where_given_and_missing_elsewhere(ecg, tmp_path):
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    flat = whole.signal.clone()
    flat[[0, TWELVE.index("V3")]] = torch.tensor([[0.0], [0.7]]).double()
    write_csv(tmp_path / "flat.csv", type(whole)("flat", flat, TWELVE, 100.0))
    ecg("reconstruct", "flat.csv", "--leads", "I,V2").assert_mistake("lead I is flat", "II, III")
    result = ecg("reconstruct", "flat.csv", "--hide", "0.32-0.64", "--json")
    assert "lead I, V3 is flat: taken as missing" in result.err
    samples = np.load(result.json["files"]["samples"])
    assert samples["observed"].any(1).tolist() == [name != "V3" for name in TWELVE]
    # Lead I is that of the other limb leads, not zero.
    known = nine_leads(whole, EcgFormat())[0, :32]
    np.testing.assert_allclose(samples["samples_mv"][0, 0, :32], known, atol=1e-8)
    write_csv(tmp_path / "flat.csv", type(whole)("flat", 0 * flat, TWELVE, 100.0))
    ecg("reconstruct", "flat.csv").assert_mistake("every lead of flat.csv is flat")


def test_an_augmented_lead_alone_is_refused_as_by_the_operator(ecg, record, tmp_path):
    for leads in ("aVR", "aVR,V1"):
        ecg("reconstruct", record, "--leads", leads).assert_mistake(f"one augmented lead alone, as in {leads!r}")
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    write_csv(tmp_path / "two.csv", type(whole)("two", whole.signal[[3, 6]], ("aVR", "V1"), 100.0))
    ecg("reconstruct", "two.csv").assert_mistake("one augmented lead alone")
    assert ecg("reconstruct", "two.csv", "--leads", "V1").code == 0


def test_what_is_hidden_unasked_is_named(ecg, tmp_path):
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    signal = whole.signal[:10].clone()
    signal[8, 20:45] = torch.nan
    signal[1, 20:45] = torch.nan  # follows from the other limb leads
    signal[9] = torch.nan
    write_csv(tmp_path / "gaps.csv", type(whole)("gaps", signal, TWELVE[:10], 100.0))
    lines = ecg("reconstruct", "gaps.csv").err.splitlines()
    notes = [line for line in lines if line.startswith("lead ")]
    assert notes == [
        "lead V4, V5, V6 was not recorded: hidden",
        "lead V3: 25 missing values (0.25 s) are hidden",
    ]
    assert "lead " not in ecg("reconstruct", "gaps.csv", "--leads", "I,V1").err


def test_a_recording_without_a_truth_has_no_errors_but_a_reconstruction(ecg, tmp_path):
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    rows = [TWELVE.index(name) for name in ("II", "V5")]
    write_csv(tmp_path / "two.csv", type(whole)("two", whole.signal[rows], ("II", "V5"), 100.0))
    result = ecg("reconstruct", "two.csv", "--json").json
    assert result["mae_hidden_mv"] is None
    assert result["coverage90"] is None
    assert result["einthoven_max_mv"] <= 1e-6
    assert len(np.load(result["files"]["samples"])["samples_mv"][0]) == 12
    table = ecg("reconstruct", "two.csv")
    assert "chi-square" in table.out
    assert "absolute error" not in table.out


def test_a_recording_shorter_than_the_prior_is_drawn_as_long_as_it_is(ecg, tmp_path):
    whole = simulate(1, seconds=0.5, rate_hz=100.0)
    write_csv(tmp_path / "short.csv", whole)
    result = ecg("reconstruct", "short.csv", "--leads", "I", "--json").json
    assert result["mae_hidden_mv"] > 0
    assert np.load(result["files"]["samples"])["samples_mv"].shape == (3, 12, 50)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--leads", "V9"], "unknown lead `V9`"),
        (["--leads", "I", "--hide", "0-0.64"], "no lead is observed"),
        ([], "nothing is missing"),
        (["--hide", "0.5-0.9"], "not part of the window of 0.64 s"),
        (["--hide", "soon"], "takes FROM-TO"),
        (["--leads", "I", "--start", "2.5"], "lasts 3 s"),
        (["--leads", "I", "--start", "nan"], "--start nan is not a time"),
        (["--leads", "I", "--start", "-1"], "--start -1 is not a time"),
        (["--leads", "I", "--sigma", "0"], "positive"),
        (["--leads", "I", "--unit", "counts"], "unknown unit"),
        (["--leads", "I", "--unit", "V"], "no heart does"),
        (["--leads", "I", "--rate", "40"], "are those of 250 samples per second, not of 40"),
    ],
)
def test_mistakes_are_one_line(ecg, record, words, says):
    ecg("reconstruct", record, *words).assert_mistake(says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rate", "250"], "says 100 samples per second, not 250"),
        (["--rate", "nan"], "says 100 samples per second, not nan"),
        (["--unit", "uV"], "one states its units, I is in mV; got the unit uV"),
    ],
)
def test_a_wfdb_header_is_not_contradicted(ecg, tmp_path, words, says):
    write_wfdb(tmp_path, "one", simulate(1, seconds=3.0, rate_hz=100.0))
    ecg("reconstruct", "one", "--leads", "I", *words).assert_mistake(says)


def test_a_rate_may_repeat_what_a_wfdb_header_says(tmp_path):
    write_wfdb(tmp_path, "one", simulate(1, seconds=3.0, rate_hz=100.0))
    assert load_recording(tmp_path / "one", rate_hz=100.0).rate_hz == 100.0


def test_a_lead_that_was_not_recorded_cannot_be_given(ecg, tmp_path):
    whole = simulate(1, seconds=3.0, rate_hz=100.0)
    write_csv(tmp_path / "one.csv", type(whole)("one", whole.signal[:1], ("I",), 100.0))
    ecg("reconstruct", "one.csv", "--leads", "I,V1").assert_mistake("lead V1 was not recorded")


def test_a_prior_of_images_and_one_that_is_not_shipped_are_refused(cli, prior, record):
    cli("ecg", "demo", "--prior", prior).assert_mistake("not a prior of electrocardiograms")
    missing = cli("ecg", "reconstruct", record, "--leads", "I", "--prior", "ecg-4096")
    missing.assert_mistake("ecg-4096")


def test_the_recipe_of_an_unshipped_prior_is_named_as_the_way_to_train_it(monkeypatch, tmp_path):
    from midguide.errors import ConfigError
    from midguide.priors import cards, loading

    (tmp_path / "later.toml").write_text("")
    monkeypatch.setattr(cards, "folders", lambda: [tmp_path])
    with pytest.raises(ConfigError, match="not shipped.*\n.*midguide train .*later.toml --data"):
        loading.load_prior("later")


def test_a_ptb_xl_folder_trains_a_prior_that_the_ecg_commands_take(cli, tmp_path):
    for number in range(1, 4):
        write_wfdb(tmp_path / "data/records100", f"{number:05d}_lr", simulate(number, rate_hz=100.0))
    folds = ["ecg_id,scp_codes,strat_fold,filename_lr", "1,,1,records100/00001_lr", "2,,9,records100/00002_lr"]
    folds += ["3,,2,records100/00003_lr", "4,,3,records100/00004_lr"]
    (tmp_path / "data/ptbxl_database.csv").write_text("\n".join(folds) + "\n")
    recipe = "length = 32\nsteps = 2\nbatch = 2\nbfloat16 = false\nbody = 'sashimi'\n[ecg]\n[network]\nchannels = 8\n"
    (tmp_path / "tiny.toml").write_text(recipe + "blocks = 1\npools = [2]\nstates = 8\nembedding = 16\n")
    result = cli("train", "tiny.toml", "--data", "data", "--out", "trained")
    assert result.code == 0
    assert "left out record 4: there is no recording" in result.err
    assert "on 2 recordings of data, 1 held out" in result.err
    strict = cli("train", "tiny.toml", "--data", "data", "--strict", "--out", "strict")
    strict.assert_mistake("there is no recording data/records100/00004_lr")
    prior = tmp_path / "trained/prior.safetensors"
    words = ("--prior", prior, "--hide", "0-0.16", "--steps", 3, "--samples", 2, "--out", "out")
    assert cli("ecg", "demo", *words).code == 0
    cli("train", "tiny.toml", "--data", "data", "--held-out", "data", "--out", "o").assert_mistake(
        "`--held-out` is not for this kind of recipe"
    )
    (tmp_path / "images.toml").write_text("steps = 2\n")
    cli("train", "images.toml", "--data", "data", "--strict").assert_mistake(
        "`--strict` is not for this kind of recipe"
    )
    (tmp_path / "tiny.toml").write_text(recipe + "pools = [3]\n")
    cli("train", "tiny.toml", "--data", "data", "--out", "o").assert_mistake("takes multiples of 3")


def test_classifier_is_trained_and_asked_for_the_diagnoses_of_a_study(cli, ecg_prior, tmp_path, many_patients):
    recipe = "kind = 'ecg-classifier'\nname = 'c'\nsteps = 2\nbatch = 4\nflip = false\nbfloat16 = false\nema = 0.0\n"
    (tmp_path / "c.toml").write_text(recipe + "length = 60\n[network]\nblocks = [1]\nwidth = 4\nexpansion = 1\n")
    trained = cli("train", "c.toml", "--data", many_patients, "--out", "trained")
    assert trained.code == 0
    assert "left out 1 recordings whose diagnoses are unknown" in trained.err
    shared = f'kind = "ecg", prior = "{ecg_prior}", data = "{many_patients}", seeds = {{ first = 0, count = 10 }}'
    (tmp_path / "s.toml").write_text(f"""
study = {{ name = "s", samples = 2, keep_samples = true, metrics = ["chi_square"] }}
problems = [{{ label = "lead I", operator = "ecg-missing-leads", {shared} }}]
samplers = [{{ spec = "zero" }}]
""")
    assert cli("study", "run", "s.toml", "--out", "out").code == 0
    words = ("ecg", "diagnose", "out", "--classifier", "trained/c.safetensors")
    said = cli(*words, "--json")
    assert "not a medical device" in said.err
    assert "SIMULATED" not in said.err
    found = said.json["rows"]
    assert {(row["sampler"], row["diagnosis"]) for row in found} == {
        (sampler, name) for sampler in ("truth", "zero") for name in ("RBBB", "LBBB", "AF", "SB")
    }
    assert all((row["records"], row["positive"]) == (10, 2) for row in found)
    assert "balanced accuracy" in cli(*words, "--threshold", "0.5").out
    cli(*words, "--threshold", "7").assert_mistake("must be a probability")
    cli(*words[:-1], "s.toml").assert_mistake("classifier of electrocardiograms")
    cli("train", "c.toml", "--data", "out", "--out", "o").assert_mistake("ptbxl_database.csv")


@pytest.fixture(scope="module")
def many_patients(tmp_path_factory):
    """31 simulated patients as PTB-XL: ten of them to validate, ten to test, one without statements."""
    root = tmp_path_factory.mktemp("ptb-xl")
    lines = ["ecg_id,scp_codes,strat_fold,filename_lr"]
    for i in range(31):
        condition = list(CONDITIONS)[i % 5]
        write_wfdb(root / "records100", f"{i}_lr", simulate(i, condition, rate_hz=100.0))
        codes = "" if i == 30 else f"\"{{'{DIAGNOSES.get(condition, 'NORM')}': 0.0}}\""
        lines.append(f"{i},{codes},{1 if i < 10 or i == 30 else 9 if i < 20 else 10},records100/{i}_lr")
    (root / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    return root
