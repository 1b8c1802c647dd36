"""Problems of electrocardiograms: which recording, what is known of it, and baselines beside samplers."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch

from midguide.domains.ecg.files import write_wfdb
from midguide.domains.ecg.fill import BlockRidge, LeadRidge
from midguide.domains.ecg.guesses import LAGS, ridge
from midguide.domains.ecg.leads import EcgFormat, einthoven_error, with_einthoven
from midguide.domains.ecg.problems import EcgProblem, middle, recordings_to_train
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import simulate
from midguide.errors import MidguideError
from midguide.inference.loop import sample
from midguide.operators.mask import Mask
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import run_batch, stored
from midguide.studies.report.pictures import panels
from midguide.studies.report.rows import make_report
from midguide.studies.spec.study import load_study

FORM = EcgFormat()
MAE = "ecg_mae_sample[leads=12,unit=mV]"
STUDY = """
study.name = "hearts"
study.samples = 3
study.batch = 4
study.keep_samples = true
study.metrics = ["{mae}", "ecg_coverage[level=0.9,leads=12]", "chi_square"]
problems = [
    {{ label = "block", operator = "ecg-missing-block", operator_settings = {{ hidden = "random" }}, {shared} }},
    {{ label = "leads", operator = "ecg-missing-leads", {shared} }},
]
samplers = [
    {{ label = "DDNM+", spec = "ddnm-plus:ecg", settings = {{ steps = 3 }} }},
    {{ spec = "zero" }},
    {{ spec = "ridge" }},
    {{ spec = "repeated-beats", problems = ["block"] }},
]
"""


@pytest.fixture(scope="module")
def ptb_xl(tmp_path_factory):
    """Twelve simulated patients to train, two to test; the second recording to test is broken."""
    root = tmp_path_factory.mktemp("ptb-xl")
    rows = []
    for number in range(1, 15):
        name = f"records100/00000/{number:05d}_lr"
        write_wfdb(root / "records100/00000", f"{number:05d}_lr", simulate(number, rate_hz=100.0))
        rows.append({"ecg_id": number, "scp_codes": "", "strat_fold": 1 if number < 13 else 10, "filename_lr": name})
    (root / "records100/00000/00014_lr.dat").write_bytes(b"")
    with (root / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def hearts(tmp_path, ecg_prior):
    """The file of a study of four simulated patients, two problems, a sampler and the baselines."""
    path = tmp_path / "hearts.toml"
    shared = f'kind = "ecg", seeds = [0, 1, 2, 3], prior = "{ecg_prior}"'
    path.write_text(STUDY.format(mae=MAE, shared=shared))
    return path


def kind(ecg_prior, **settings) -> EcgProblem:
    return EcgProblem(**{"operator": "ecg-missing-block", "prior": str(ecg_prior), **settings})


def truth_of(problem: Problem) -> torch.Tensor:
    assert problem.truth is not None
    return problem.truth


def test_truth_is_the_middle_of_the_recording_in_units_of_the_prior(ecg_prior, ptb_xl):
    truth = FORM.unit_mv * truth_of(kind(ecg_prior, data=str(ptb_xl)).build(0))
    want = nine_leads(simulate(13, rate_hz=100.0), FORM)[:, 372 : 372 + 256]
    assert truth.shape == (1, 9, 256)
    assert torch.allclose(truth[0].double(), want, atol=0.0011)  # counts of 0.001 mV, of which III has two
    assert middle(torch.ones(9, 5), 8)[0].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_known_part_is_exact_or_has_noise_of_the_stated_size(ecg_prior):
    for noise, low, high in (("none", 0.0, 0.0), ("gaussian", 0.045, 0.055)):
        problem = kind(ecg_prior, noise=noise).build(0)
        operator = problem.likelihood.operator
        errors = FORM.unit_mv * (problem.likelihood.y - operator(truth_of(problem)))
        known = errors[operator.measured(errors).expand_as(errors)]
        # 1,152 values: the standard deviation is 0.05 mV to 2 %; five times that, a false alarm in a million
        assert low <= float(known.std()) <= high


def test_random_half_is_one_of_its_own_for_each_recording_and_the_same_in_every_run(ecg_prior):
    drawn = kind(ecg_prior, operator_settings={"hidden": "random"})
    masks = [drawn.build(seed).likelihood.operator for seed in range(12)]
    firsts = [bool(mask.mask[0, 0]) for mask in masks if isinstance(mask, Mask)]
    assert 0 < sum(firsts) < 12  # all the same: 1 in 2,048
    again = [drawn.build(seed).likelihood.operator for seed in range(12)]
    assert [bool(mask.mask[0, 0]) for mask in again if isinstance(mask, Mask)] == firsts


def test_recordings_drawn_together_have_the_draws_of_each_alone(hearts, tmp_path):
    """Also where each hides a half of its own."""
    units = [u for u in load_study(hearts).units if (u.problem_label, u.sampler_label) == ("block", "DDNM+")]
    run_batch(units, tmp_path / "together")
    for unit in units:
        run_batch([unit], tmp_path / "alone")
        one, other = stored(unit, tmp_path / "together"), stored(unit, tmp_path / "alone")
        assert one is not None
        assert other is not None
        assert torch.allclose(one.draws, other.draws, atol=1e-4)  # float32; other streams would differ by about 1
        assert torch.equal(one.tensors["y"], other.tensors["y"])


@pytest.mark.parametrize("operator", ["ecg-missing-block", "ecg-missing-leads"])
@pytest.mark.parametrize("name", ["mgps", "dps", "pgdm", "ddnm-plus", "ddrm", "diffpir", "red-diff", "unconditional"])
def test_draws_satisfy_einthoven_though_the_network_has_learned_nothing(ecg_prior, operator, name):
    """Measured with noise, so that the known leads contradict each other by 0.1 mV."""
    problem = kind(ecg_prior, operator=operator, noise="gaussian").build(0)
    sampler = make_sampler(name if name in ("unconditional", "ddrm") else f"{name}:ecg", {"steps": 4})
    draws = FORM.unit_mv * sample(sampler, problem, 2).draws.double()
    assert float(einthoven_error(draws).max()) < 1e-6


def test_denoiser_of_recordings_answers_in_their_space_and_no_further_from_them(ecg_prior):
    """The projection takes from the network's answer only what contradicts every recording."""
    prior, z = load_prior(str(ecg_prior)), torch.randn(2, 3, 9, 256, generator=torch.Generator().manual_seed(0))
    recordings = with_einthoven(z[0])
    noisy = prior.schedule.level(400).alpha * recordings + 0.5 * z[1]
    inside = prior(noisy, 400)
    prior.projection = None
    anywhere = prior(noisy, 400)
    assert float(einthoven_error(anywhere).min()) > 0.1
    assert torch.allclose(inside, with_einthoven(anywhere))
    assert bool(((inside - recordings).square().sum((1, 2)) < (anywhere - recordings).square().sum((1, 2))).all())


def test_study_has_baselines_beside_samplers_and_pages_of_paper(hearts, tmp_path):
    study = load_study(hearts)
    store = Store.create(tmp_path / "out", study.plain, [])
    assert run_units(study, store, list(study.units)) == 0
    report = make_report(study, store)
    assert report.baseline == "DDNM+"
    assert report.title == "hearts (SIMULATED)"
    block = {row.sampler: row for row in report.cell("block", MAE)}
    assert block.keys() == {"DDNM+", "zero", "ridge", "repeated-beats"}
    assert all(row.n == 4 for row in block.values())
    leads = {row.sampler: row.mean for row in report.cell("leads", MAE)}
    assert leads["ridge"] < leads["zero"] < leads["DDNM+"]  # a network that has learned nothing
    (left,) = report.left_out
    assert "one measured block" in left.reason
    covered = {row.sampler: row.mean for row in report.cell("leads", "ecg_coverage[level=0.9,leads=12]")}
    assert covered["zero"] == covered["ridge"] == 0.0
    pages = panels(study, store, 1)
    assert set(pages) >= {"block, DDNM+, recording 0", "leads, ridge, recording 0"}


@pytest.mark.parametrize("operator", ["ecg-missing-block", "ecg-missing-leads"])
def test_ridge_is_fitted_to_the_recordings_to_train(ecg_prior, ptb_xl, operator):
    given = kind(ecg_prior, operator=operator, data=str(ptb_xl))
    problem = given.build(0)
    recordings = recordings_to_train(given.data, 100, FORM) / FORM.unit_mv
    assert recordings.shape == (12, 9, 1000)
    y, observed = problem.likelihood.y, problem.likelihood.operator.measured(problem.likelihood.y)[0].expand(9, 256)
    if operator == "ecg-missing-leads":
        want = LeadRidge.fit(recordings, (0,), lags=LAGS)(y)
    else:
        windows = torch.cat([recordings[..., start : start + 256] for start in range(0, 745, 128)])
        want = BlockRidge.fit(windows, observed)(y)
    drawn = ridge(given).draw(problem, 2, [0])
    assert drawn.draws.shape == (1, 2, 9, 256)
    assert torch.allclose(drawn.draws[0, 1], want[0], atol=1e-4)


def addresses(path, sampler, *changes):
    return [unit.address for unit in load_study(path, changes).units if unit.sampler_label == sampler]


def test_address_holds_the_content_of_the_recordings_and_for_a_ridge_of_those_it_learns_from(hearts, ptb_xl, tmp_path):
    own = [("problems.seeds", [0])]
    before = {name: addresses(hearts, name, *own, ("problems.data", str(ptb_xl))) for name in ("zero", "ridge")}
    moved = tmp_path / "moved"
    shutil.copytree(ptb_xl, moved)
    for name in ("zero", "ridge"):
        assert addresses(hearts, name, *own, ("problems.data", str(moved))) == before[name]
    shutil.copy(moved / "records100/00000/00002_lr.dat", moved / "records100/00000/00001_lr.dat")
    assert addresses(hearts, "zero", *own, ("problems.data", str(moved))) == before["zero"]
    assert not set(addresses(hearts, "ridge", *own, ("problems.data", str(moved)))) & set(before["ridge"])


@pytest.mark.parametrize(
    "change", [("sigma_mv", 0.1), ("noise", "gaussian"), ("operator_seed", 3), ("prior_settings", {"prediction": "x0"})]
)
def test_address_changes_with_the_settings(hearts, change):
    """Of the seeds of the halves it is enough that one recording in four hides another half."""
    before, after = addresses(hearts, "zero"), addresses(hearts, "zero", (f"problems.{change[0]}", change[1]))
    assert len(set(before) & set(after)) < len(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("problems.data", "nowhere"), ("ptbxl_database.csv", "unzip PTB-XL")),
        (("problems.seeds", [-1]), ("no simulated patient -1",)),
        (("problems.sigma_mv", 0.0), ("must be positive",)),
        (("problems.prior", "faces-64"), ("not a prior of electrocardiograms",)),
        (("problems.prior", "ecg-257"), ("ecg-257",)),
        (("problems.data", "prior"), ("nothing to learn from", "leave out")),
        (("problems.operator_settings", {"observd": "I"}), ("observd",)),
        (("problems.split", "fold 10"), ("split", "`test`")),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(hearts, change, words):
    with pytest.raises(MidguideError) as caught:
        load_study(hearts, [change])
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def test_broken_recording_is_named_with_its_seed(hearts, ptb_xl):
    for seed, words in ((1, ("leave out seed 1", "record 14")), (2, ("no recording 2", "0 to 1"))):
        with pytest.raises(MidguideError) as caught:
            load_study(hearts, [("problems.data", str(ptb_xl)), ("problems.seeds", [seed])])
        for word in words:
            assert word in str(caught.value)
