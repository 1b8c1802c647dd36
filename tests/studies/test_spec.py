"""Studies expand to addressed units, and what is wrong with a file is named before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from midguide.catalogue.settings import parse_override
from midguide.domains.ecg.ptbxl import DIAGNOSES
from midguide.errors import ConfigError, MidguideError, UnsupportedProblem
from midguide.samplers.ddrm import DDRM
from midguide.studies.kinds.closed_form import MixtureProblem
from midguide.studies.report.expected import load_expected
from midguide.studies.sources.base import is_reference
from midguide.studies.sources.sampled import Sampled
from midguide.studies.spec.study import load_study

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))


def addresses(path, *changes):
    return {unit.address for unit in load_study(path, changes).units}


def test_grid_is_problems_times_samplers_times_seeds(tiny):
    study = load_study(tiny, [("seeds", [0, 1, 2])])
    assert len(study.units) == len({unit.address for unit in study.units}) == 2 * 3 * 3


def test_address_changes_with_everything_that_a_number_depends_on(tiny):
    before = addresses(tiny)
    changes = [("samples", 8), ("seeds", [5]), ("metrics", ["mean_error"]), ("problems.dimension", 3)]
    changes += [("problems.sigma_y", 0.1), ("problems.seeds", [7, 8])]
    for change in changes:
        assert not before & addresses(tiny, change), change
    assert len(before & addresses(tiny, ("samplers.steps", 6))) == 2  # those of "exact"


def test_address_does_not_depend_on_names(tiny):
    before = addresses(tiny)
    tiny.write_text(tiny.read_text().replace('label = "DDRM"', 'label = "another"').replace('"tiny"', '"other"'))
    assert addresses(tiny) == before


def test_units_that_differ_in_metrics_share_their_draws(tiny):
    one, other = load_study(tiny).units, load_study(tiny, [("metrics", ["mean_error"])]).units
    assert [u.draws_address for u in one] == [u.draws_address for u in other]


def test_override_changes_the_cells_that_its_labels_name_and_no_others(tiny):
    tiny.write_text(tiny.read_text() + '[[overrides]]\nsampler = "DD*"\nsamples = 4\nsettings = { steps = 9 }\n')
    for unit in load_study(tiny).units:
        assert unit.n == (4 if unit.sampler_label == "DDRM" else 16)
        if isinstance(unit.source, Sampled):
            assert unit.source.sampler.steps == (9 if isinstance(unit.source.sampler, DDRM) else 5)


def test_sweep_makes_one_sampler_for_each_combination(tiny):
    tiny.write_text(
        tiny.read_text() + '[[samplers]]\nspec = "mgps"\nsweep = { midpoint = [0.5, 1.0], steps = [4, 5] }\n'
    )
    swept = {unit.sampler_label: dict(unit.swept) for unit in load_study(tiny).units if unit.swept}
    assert len(swept) == 4
    assert swept["mgps, midpoint 0.5, steps 4"] == {"midpoint": 0.5, "steps": 4}


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("[stuff]\na = 1\n", ("stuff", "overrides")),
        ('[[overrides]]\nsampler = "nothing"\nsamples = 4\n', ("matches no cell", "DDRM")),
        ('[[overrides]]\nsampler = "DDRM"\n', ("changes nothing",)),
        ('[[overrides]]\nsampler = "exact"\nsettings = { steps = 3 }\n', ("exact", "no setting", "steps")),
        ('[[overrides]]\nsampler = "DDRM"\nsettings = { stepz = 3 }\n', ("stepz", "steps")),
        ('[[overrides]]\nsamplerz = "DDRM"\nsamples = 3\n', ("samplerz", "sampler")),
        ('[[samplers]]\nspec = "mgsp"\n', ("mgsp", "did you mean `mgps`")),
        ('[[samplers]]\nspec = "mgps:paper"\nsource = "lwa"\n', ("lwa", "law")),
        ('[[samplers]]\nspec = "prior"\nsource = "lwa"\n', ("lwa", "law")),
        ('[[samplers]]\nspec = "prior"\nsource = "law"\n', ("`prior` is not a sampler", "law")),
        ('[[samplers]]\nspec = "mgps"\nproblems = []\n', ("on no problem", "leave problems out")),
        (
            '[[samplers]]\nspec = "mgps"\nsettings = { midpoint = 0.9 }\nsweep = { midpoint = [0.5] }\n',
            ("set and swept",),
        ),
        (
            '[[samplers]]\nspec = "mgps"\nsweep = { midpoint = [0.5] }\n'
            '[[overrides]]\nsampler = "mgps*"\nsettings = { midpoint = 0.9 }\n',
            ("'midpoint' is swept", "midpoint 0.5"),
        ),
        ('[[overrides]]\nsampler = "DDRM"\nsamples = 0\n', ("samples must be at least 1, got 0",)),
        ('[[samplers]]\nspec = "mgps"\nsettings = { midpoint = 7 }\n', ("midpoint", "7")),
        ('[[samplers]]\nspec = "mgps"\nsweep = { midpoint = 0.5 }\n', ("sweep.midpoint", "list")),
        ('[[samplers]]\nspec = "ddrm"\nlabel = "DDRM"\n', ("label occurs twice",)),
        ('[[problems]]\nkind = "mixtur"\nseeds = [0]\n', ("mixtur", "did you mean `mixture`")),
        ('[[problems]]\nkind = "mixture"\nseeds = [0]\ndimenson = 3\n', ("dimenson", "dimension")),
        ('[[problems]]\nkind = "mixture"\nseeds = [0]\ndimension = 0\n', ("dimension", "at least 1")),
        ('[[problems]]\nkind = "mixture"\nseeds = 3\ndimension = 2\n', ("seeds must be a list", "count")),
        ('[[problems]]\nkind = "mixture"\nseeds = [1, 1]\ndimension = 2\n', ("seed occurs twice",)),
        ('[[problems]]\nkind = "mixture"\nseeds.first = 0\nseeds.count = 9999999\ndimension = 2\n', ("1,000,000",)),
        ('[[problems]]\nkind = "mixture"\nseeds = [0]\ndimension = 999999999999\n', ("number 2", "into memory")),
    ],
)
def test_file_with_a_mistake_is_refused_by_name_and_with_a_hint(tiny, added, words):
    tiny.write_text(tiny.read_text() + added)
    with pytest.raises(MidguideError) as caught:
        load_study(tiny)
    assert str(tiny) in caught.value.message
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('kind = "images"\noperator = "blurr"\nseeds = [0]', ("operator `blurr`",)),
        ('kind = "images"\noperator = "super-resolution:x5"\nseeds = [0]', ("`x5`", "x16, x4")),
        ('kind = "images"\noperator = "identity"\nprior = "fases-64"\nseeds = [0]', ("prior: ", "fases-64")),
        ('kind = "images"\noperator = "identity"\ndata = "nowhere"\nseeds = [0]', ("data: ", "nowhere")),
        ('kind = "images"\noperator = "identity"\ndata = "astronaut"\nseeds = [0, 7]', ("image 7", "seeds")),
        ('kind = "ecg"\noperator = "ecg-missing-block"\ndata = "nowhere"\nseeds = [0]', ("data: ", "nowhere")),
        ('kind = "ecg"\noperator = "ecg-missing-block"\nprior = "faces-64"\nseeds = [0]', ("not a prior of electro",)),
        ('kind = "mixture"\ndimension = 2\nsigma_y = 0.0\nseeds = [0]', ("sigma_y", "0.0")),
        ('kind = "mixture"\ndimension = 2\nseeds = [0]\nmetrics = ["mean_eror"]', ("mean_eror", "mean_error")),
    ],
)
def test_mistake_in_a_problem_is_that_of_its_table_and_not_of_a_sampler(tiny, table, words):
    tiny.write_text(f'{tiny.read_text()}\n[[problems]]\nlabel = "bad"\n{table}\n')
    with pytest.raises(MidguideError) as caught:
        load_study(tiny)
    assert caught.value.message.startswith(f"{tiny}: [[problems]] number 2")
    assert "sampler" not in caught.value.message
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def test_problem_is_made_once_to_check_all_samplers(tiny, monkeypatch):
    made = []
    probe = MixtureProblem.probe
    monkeypatch.setattr(MixtureProblem, "probe", lambda self, seed: made.append(seed) or probe(self, seed))
    load_study(tiny)
    assert made == [0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("metrics", ["sliced_wasserstein_1"]), ("did you mean `sliced_wasserstein_1[slices=100]`?",)),
        (("metrics", []), ("empty",)),
        (("samples", 0), ("samples",)),
        (("samples", 10**12), ("1,000,000,000,000 samples", "GiB")),
        (("sampels", 10), ("sampels", "samples")),
    ],
)
def test_key_of_the_study_with_a_mistake_is_refused(tiny, change, words):
    with pytest.raises(ConfigError) as caught:
        load_study(tiny, [change])
    for word in words:
        assert word in str(caught.value)


def test_a_setting_of_the_command_line_that_no_sampler_takes_is_refused(tiny):
    sweep = '[[samplers]]\nspec = "mgps"\nsweep = { midpoint = [0.5] }\n'
    text = tiny.read_text()
    tiny.write_text(text + sweep)
    with pytest.raises(ConfigError, match="set and swept"):
        load_study(tiny, [("samplers.midpoint", 0.9)])
    tiny.write_text(text[: text.index('[[samplers]]\nspec = "ddrm')])
    with pytest.raises(ConfigError, match="samplers.steps matches no sampler"):
        load_study(tiny, [("samplers.steps", 7)])


def test_one_row_of_the_grid_is_changed_from_the_command_line(tiny):
    tiny.write_text(tiny.read_text() + '[[problems]]\nkind = "mixture"\nlabel = "dx = 3"\nseeds = [0]\ndimension = 3\n')
    changes = [parse_override(text) for text in ("problems[dx = 3].dimension=4", "samplers[DD*].steps=7")]
    study = load_study(tiny, changes)
    dimensions = {(unit.problem_label, unit.problem.dimension) for unit in study.units}
    assert dimensions == {("dx = 2", 2), ("dx = 3", 4)}
    steps = {unit.sampler_label: unit.source.sampler.steps for unit in study.units if unit.sampler_label != "exact"}
    assert steps == {"DDRM": 7, "DPS": 5}
    with pytest.raises(ConfigError, match=r"(?s)problems\[dx\]\.dimension matches no problem.*'dx = 3'"):
        load_study(tiny, [("problems[dx].dimension", 4)])


def test_sampler_that_runs_where_possible_is_left_out_with_the_reason(tiny):
    tiny.write_text(tiny.read_text() + '[[samplers]]\nspec = "psld"\n')
    with pytest.raises(UnsupportedProblem, match="`psld` needs"):
        load_study(tiny)
    tiny.write_text(tiny.read_text() + "where_possible = true\n")
    study = load_study(tiny)
    assert {unit.sampler_label for unit in study.units} == {"exact", "DDRM", "DPS"}
    assert [(cell.sampler, cell.reason.startswith("`psld` needs")) for cell in study.left_out] == [("psld", True)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("samplers.steps", 5000), r"sampler 'DDRM' on problem 'dx = 2': steps must be at least 1 and at most 1000"),
        (("metrics", ["c2st[mlp=64,folds=4]"]), "needs at least 8 draws, there are 4"),
    ],
)
def test_value_that_only_the_problem_shows_to_be_out_of_range_is_refused_before_anything_runs(tiny, change, says):
    with pytest.raises(MidguideError, match=says):
        load_study(tiny, [("samples", 4), change])


def test_metric_that_does_not_fit_a_problem_is_refused_before_anything_runs(tiny):
    table = '[[problems]]\nkind = "gaussian"\nseeds = [0]\ndimension = 3\nmeasurements = 1\nsigma_y = 0.1\n'
    tiny.write_text(tiny.read_text() + table)
    with pytest.raises(UnsupportedProblem, match=r"mode_weight_tv.*GaussianMixture"):
        load_study(tiny)


@pytest.mark.parametrize("row", ['spec = "mgps:paper"\nsource = "law"\n', 'spec = "exact-law"\n'])
def test_law_of_a_mixture_is_refused(tiny, row):
    tiny.write_text(f"{tiny.read_text()}[[samplers]]\n{row}")
    with pytest.raises(UnsupportedProblem, match="Gaussian problems"):
        load_study(tiny)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_are_complete_and_have_their_floor(path, ecg_prior):
    study = load_study(path, [("problems.prior", str(ecg_prior))] if path.stem.startswith("ecg") else ())
    assert study.head.name == path.stem
    if path.stem != "faces-panels":  # pictures
        assert any(is_reference(unit.spec) or unit.spec == "unconditional" for unit in study.units)


def test_expected_numbers_of_diagnoses_belong_to_cells_of_their_study(ecg_prior):
    folder = EXPERIMENTS[0].parent
    study = load_study(folder / "ecg-missing-leads-full.toml", [("problems.prior", str(ecg_prior))])
    cells = {(unit.problem_label, unit.sampler_label) for unit in study.units} | {("lead I", "truth")}
    found = load_expected(folder / "expected", "ecg")
    assert len(found) == 8 * 4
    assert {(e.problem, e.sampler) for e in found} <= cells
    assert {e.metric for e in found} == {f"balanced_accuracy[class={name}]" for name in DIAGNOSES}


@pytest.mark.parametrize(("name", "least"), [("faces", 200), ("faces-latent", 80)])
def test_expected_numbers_of_the_faces_belong_to_cells_of_their_studies(name, least):
    folder = EXPERIMENTS[0].parent
    study = load_study(folder / f"{name}-cpu.toml")
    cells = {(unit.problem_label, unit.sampler_label) for unit in study.units}
    found = load_expected(folder / "expected", name)
    assert len(found) > least
    assert {(e.problem, e.sampler) for e in found} <= cells
    assert all(e.source.startswith("paper, FFHQ 256, other prior") for e in found)
    assert len({(e.problem, e.sampler, e.metric) for e in found}) == len(found)


@pytest.mark.parametrize("profile", ["full", "fid"])
def test_the_papers_numbers_have_their_cells_in_the_long_studies_of_faces(profile):
    folder = EXPERIMENTS[0].parent
    cells = {(unit.problem_label, unit.sampler_label) for unit in load_study(folder / f"faces-{profile}.toml").units}
    found = load_expected(folder / "expected", "faces")
    asked = {(e.problem, e.sampler) for e in found if e.metric.startswith("fid") or profile == "full"}
    assert len(asked) >= 7
    assert asked <= cells


@pytest.mark.parametrize("profile", ["quick", "cpu", "full"])
def test_latent_studies_have_the_tasks_of_the_pixel_studies_and_psld_where_it_applies(profile):
    folder = EXPERIMENTS[0].parent
    latent, pixels = (load_study(folder / f"{name}-{profile}.toml") for name in ("faces-latent", "faces"))

    def tasks(study):
        """A decomposed operator measures the same."""
        operators = {unit.problem.operator: unit.problem.operator.replace("-decomposed", "") for unit in study.units}
        return {(unit.problem_label, unit.problem_seed, operators[unit.problem.operator]) for unit in study.units}

    assert tasks(latent) == tasks(pixels)
    assert latent.left_out
    for cell in latent.left_out:
        assert cell.sampler == "PSLD"
        assert cell.reason.startswith("`psld` needs a linear operator")
    for unit in latent.units:
        sampler, preset = unit.spec.partition(":")[::2]
        task = unit.problem_label.replace(" ", "-")
        linear = "super-resolution" if task.startswith("super-resolution") else "linear"
        assert preset == {"resample": task, "mgps": "ffhq-latent", "unconditional": "", "psld": linear}[sampler]
