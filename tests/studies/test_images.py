"""Image problems: addressed by content, drawn in batches, refused before anything runs where they do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from midguide.errors import ConfigError, DataError, MidguideError, NumericalError, ShapeError
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.likelihoods import PoissonLikelihood
from midguide.maths.rng import global_seed
from midguide.nn.unet import UNet, UNetConfig
from midguide.priors.formats.native import save_prior
from midguide.priors.loading import load_prior
from midguide.priors.settings import PriorSettings
from midguide.problem import Problem
from midguide.storage.record import fingerprint
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import batches, run_batch, stored
from midguide.studies.kinds.images import ImageProblem
from midguide.studies.sources.sampled import Sampled
from midguide.studies.spec.study import load_study

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def units_of(study, problem, sampler="DPS"):
    return [u for u in study.units if (u.problem_label, u.sampler_label) == (problem, sampler)]


@pytest.mark.parametrize("problem", ["box", "phase"])
def test_units_drawn_together_have_the_draws_and_rows_of_each_alone(faces, tmp_path, problem):
    units = units_of(load_study(faces), problem)
    together = run_batch(units, tmp_path / "together")
    alone = [run_batch([unit], tmp_path / "alone")[0] for unit in units]
    for unit, ours, theirs in zip(units, together, alone, strict=True):
        one, other = stored(unit, tmp_path / "together"), stored(unit, tmp_path / "alone")
        assert one is not None
        assert other is not None
        # float32; batched convolutions add in another order. Other noise would differ by about 1.
        assert torch.allclose(one.draws, other.draws, atol=1e-4)
        assert torch.equal(one.tensors["y"], other.tensors["y"])
        assert [row["address"] for row in ours] == [unit.address] * 2
        for row, same in zip(ours, theirs, strict=True):
            assert row["value"] == pytest.approx(same["value"], rel=1e-3)
            assert row["network_forwards"] == same["network_forwards"]


def test_units_of_a_batch_are_of_one_cell_and_at_most_so_many(faces, tiny):
    study = load_study(faces)
    made = batches(study.units, 3)
    assert sorted(len(batch) for batch in made) == [1] * 5 + [3] * 5
    assert {unit for batch in made for unit in map(id, batch)} == set(map(id, study.units))
    for batch in made:
        assert len({(unit.problem_label, unit.sampler_label) for unit in batch}) == 1
    assert all(len(batch) == 1 for batch in batches(load_study(tiny).units, 3))  # whose problems have their own priors


def test_seconds_of_a_unit_are_its_share_of_the_batch():
    draws = torch.zeros(4, 2, 3)
    parts = Samples(draws, Cost(5, 4, 8.0, 100.0), {}, {"y": torch.arange(4.0)[:, None]}).each()
    assert [part.cost.seconds for part in parts] == [2.0] * 4
    assert [float(part.tensors["y"]) for part in parts] == [0, 1, 2, 3]
    assert parts[0].draws.shape == (1, 2, 3)


@dataclass(frozen=True)
class FailsOn:
    """Draws zeros; fails wherever one of the random seeds is this one."""

    seed: int

    def check(self, problem: Problem) -> None:
        """It accepts everything."""

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        if self.seed in seeds:
            raise NumericalError("it cannot be")
        return Samples(torch.zeros(len(seeds), n, *problem.event_shape), Cost(1, 0, 1.0, 1.0), {})


def test_failure_of_one_image_is_not_that_of_the_others_in_its_batch(faces):
    from midguide.maths.rng import stream_seed

    units = units_of(load_study(faces), "box")
    source = FailsOn(stream_seed(units[1].seed, units[1].problem_seed))
    rows = run_batch([replace(unit, source=source) for unit in units])
    assert [own[0]["failure"] is None for own in rows] == [True, False, True, True]


def addresses(path, *changes):
    return [unit.address for unit in load_study(path, changes).units if unit.problem_label == "box"]


def test_address_holds_the_content_of_images_and_prior_and_not_their_paths(faces, prior, photographs, tmp_path):
    before = addresses(faces)
    shutil.copytree(photographs, tmp_path / "moved")
    shutil.copy(prior, tmp_path / "renamed.safetensors")
    moved = [("problems.data", str(tmp_path / "moved")), ("problems.prior", str(tmp_path / "renamed.safetensors"))]
    assert addresses(faces, *moved) == before
    shutil.copytree(photographs, tmp_path / "changed")
    with Image.open(tmp_path / "changed" / "2.png") as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(tmp_path / "changed" / "2.png")
    after = addresses(faces, ("problems.data", str(tmp_path / "changed")))
    same = [a == b for a, b in zip(before, after, strict=True)]
    assert same == [True, True] * 2 + [False, False] + [True, True]  # two samplers, image by image


@pytest.mark.parametrize(
    "change",
    [
        ("sigma_y", 0.1),
        ("operator", "half-mask"),
        ("dtype", "bfloat16"),
        ("dtype", "float16"),
        ("operator_settings", {"box": 32}),
        ("prior_settings", {"prediction": "eps"}),
        ("prior_settings", {"schedule": "vp-cosine"}),
        ("prior_settings", {"value_range": [0.0, 1.0]}),
    ],
)
def test_address_changes_with_every_setting_that_a_number_depends_on(faces, change):
    load = (
        faces.read_text().replace("super-resolution:x4", "box-inpainting").replace("phase-retrieval", "box-inpainting")
    )
    faces.write_text(load.replace(', problems = ["box", "x*"]', ""))
    assert not set(addresses(faces)) & set(addresses(faces, (f"problems.{change[0]}", change[1])))


@pytest.mark.parametrize("operator", ["motion-blur", "random-inpainting", "nonlinear-blur"])
def test_each_image_can_have_an_operator_of_its_own_that_its_address_holds(faces, tmp_path, operator):
    faces.write_text(faces.read_text().replace("super-resolution:x4", operator).replace('"box", "x*"', '"box"'))
    shared = units_of(load_study(faces), "x4")
    study = load_study(faces, [("problems.operator_per_image", True)])
    own = units_of(study, "x4")
    assert not {unit.address for unit in shared} & {unit.address for unit in own}
    other = units_of(load_study(faces, [("problems.operator_per_image", True), ("problems.operator_seed", 1)]), "x4")
    assert not {unit.address for unit in other} & {unit.address for unit in own}
    built = [unit.problem.build(unit.problem_seed).likelihood.operator for unit in own]
    assert len({fingerprint(operator) for operator in built}) == len(own)
    # drawn in one batch, each with the operator and the draws that it has alone
    together = Problem.stack([unit.problem.build(unit.problem_seed) for unit in own])
    assert together.likelihood.operator.observations == len(own)
    run_batch(own, tmp_path / "together")
    run_batch(own[1:2], tmp_path / "alone")
    one, alone = stored(own[1], tmp_path / "together"), stored(own[1], tmp_path / "alone")
    assert one is not None
    assert alone is not None
    assert torch.equal(one.tensors["y"], alone.tensors["y"])
    assert torch.allclose(one.draws, alone.draws, atol=1e-4)  # as above


def test_addresses_of_shared_operators_are_those_of_the_records_before_there_were_others(prior):
    kind = ImageProblem(operator="motion-blur", prior=str(prior))
    assert set(kind.record()) == {"type", "operator", "instrument", "noise", "dtype", "sigma_y", "data", "steps"}
    assert kind.data_digest(0) == ""


def test_an_operator_to_decompose_is_not_one_for_each_image(prior):
    kind = ImageProblem(operator="motion-blur-decomposed", prior=str(prior), operator_per_image=True)
    with pytest.raises(ConfigError, match=r"half a minute each\nhint: .*motion-blur"):
        kind.build(0)


def test_prior_settings_are_those_of_the_command_line_and_no_part_of_an_address_where_there_are_none(faces, prior):
    assert addresses(faces) == addresses(faces, ("problems.prior_settings", {}))
    assert "prior_settings" not in load_study(faces).units[0].configuration["problem"]
    asked = {"prediction": "eps", "schedule": "vp-linear:0.001,0.02,500", "value_range": (0.0, 1.0)}
    unit = units_of(load_study(faces, [("problems.prior_settings", {**asked, "value_range": [0, 1]})]), "box")[0]
    assert unit.configuration["problem"]["prior_settings"] == {**asked, "value_range": [0.0, 1.0]}
    used, same = unit.problem.build(0).denoiser, load_prior(prior, **asked)
    x = torch.linspace(0, 1, 768).reshape(1, 3, 16, 16)
    assert torch.equal(used(x, 300), same(x, 300))
    assert used.value_range == (0.0, 1.0)


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt", "own.ckpt", "own.py:prior"])
def test_the_file_of_a_prior_is_known_by_its_absolute_path(faces, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"prior: .*{tmp_path}/own"):  # which is not there
        load_study(faces, [("problems.prior", name)])


def test_truths_drawn_from_a_prior_are_those_of_its_settings(prior):
    plain, changed = (
        ImageProblem(operator="identity", prior=str(prior), prior_settings=settings).build(0).truth
        for settings in (PriorSettings(), PriorSettings(value_range=(0.0, 1.0)))
    )
    assert float(plain.min()) < 0.0
    assert torch.equal(changed, plain.clamp(0.0, 1.0))  # the network is the same, and so is its draw


def test_image_is_the_one_of_the_file_in_the_range_of_the_prior(faces, photographs):
    problem = units_of(load_study(faces), "box")[3].problem.build(3)
    with Image.open(photographs / "3.png") as image:
        assert problem.truth is not None
        assert float(problem.truth[0, 1, 4, 5]) == pytest.approx(image.getpixel((5, 4))[1] / 127.5 - 1, abs=1e-6)


def test_truths_drawn_from_the_prior_do_not_depend_on_what_the_network_computes_in(prior):
    kinds = [ImageProblem(operator="identity", prior=str(prior), dtype=dtype) for dtype in ("float32", "bfloat16")]
    one, other = (kind.build(5).truth for kind in kinds)
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.zeros_like(one))


def test_noise_differs_from_image_to_image_and_not_from_run_to_run(prior):
    kind = ImageProblem(operator="identity", prior=str(prior), data="astronaut")
    assert torch.equal(kind.build(0).likelihood.y, kind.build(0).likelihood.y)
    drawn = ImageProblem(operator="identity", prior=str(prior))
    noises = [(p := drawn.probe(seed)).likelihood.y - p.truth for seed in (0, 1)]
    assert float((noises[0] - noises[1]).abs().max()) > 0.05


def test_photon_counts_are_whole_numbers_of_the_expected_mean(prior):
    kind = ImageProblem(operator="identity", prior=str(prior), data="astronaut", noise="poisson", rate=1000.0)
    problem = kind.build(0)
    assert isinstance(problem.likelihood, PoissonLikelihood)
    assert problem.truth is not None
    y, expected = problem.likelihood.y, 500 * (problem.truth + 1)
    assert torch.equal(y, y.round())
    # the mean of 768 counts of at most 1000: standard deviation at most 1.2; five of them, 6e-7 false alarms
    assert float((y - expected).mean().abs()) < 5 * 1.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("problems.seeds", [0, 7]), ("no image 7", "0 to 3")),
        (("problems.data", "nowhere"), ("there is no", "nowhere", "--set problems.data=PATH")),
        (("problems.data", __file__), ("neither a folder nor a zip file",)),
        (("problems.prior", "faces-64"), ("16x16", "64x64")),
        (("problems.dtype", "int8"), ("dtype", "bfloat16")),
        (("problems.prior_settings", {"predictoin": "eps"}), ("no setting `predictoin`", "did you mean `prediction`")),
        (("problems.prior_settings", {"prediction": "noise"}), ("unknown prediction `noise`", "eps, v, x0, flow")),
        (("problems.prior_settings", {"schedule": "linear"}), ("unknown schedule `linear`", "vp-linear")),
        (("problems.prior_settings", {"value_range": [1.0, 0.0]}), ("is not a range", "[-1.0, 1.0]")),
        (("problems.prior_settings", "eps"), ("prior_settings", "table")),
        (("problems.noise", "poisson"), ("rate",)),
        (("problems.rate", 3.0), ("rate",)),
        (("problems.sigma_y", 0.0), ("sigma_y must be positive",)),
        (("problems.operator", "blurr"), ("blurr",)),
        (("problems.operator_settings", {"boxx": 3}), ("boxx",)),
        (("problems.operator_settings", 3), ("operator_settings", "table")),
        (("batch", 0), ("batch must be at least 1",)),
        (("set_metrics", ["fid"]), ("unknown metric of sets `fid`",)),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(faces, change, words):
    with pytest.raises(MidguideError) as caught:
        load_study(faces, [change])
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def test_sets_need_stored_draws(faces):
    with pytest.raises(ConfigError, match="keep_samples"):
        load_study(faces, [("set_metrics", ["fid[features=faces-64-classifier,draws=1]"]), ("keep_samples", False)])


def test_portrait_is_one_image(prior):
    with pytest.raises(DataError, match="no image 1"):
        ImageProblem(operator="identity", prior=str(prior), data="astronaut").build(1)


def test_override_names_a_preset_which_the_results_are_labeled_with(faces):
    study = load_study(faces)
    for problem, preset, guidance in (("x4", "super-resolution", 1.0), ("box", "linear", 0.1)):
        unit = units_of(study, problem)[0]
        assert unit.preset == preset
        assert isinstance(unit.source, Sampled)
        assert (unit.source.sampler.guidance, unit.source.sampler.steps) == (guidance, 3)


def test_cells_that_the_file_leaves_out_are_named_with_the_reason(faces):
    (cell,) = load_study(faces).left_out
    assert (cell.problem, cell.sampler) == ("phase", "DDNM")
    assert "needs a linear operator" in cell.reason
    faces.write_text(faces.read_text().replace('["box", "x*"]', '["box"]'))
    assert {c.problem: bool(c.reason) for c in load_study(faces).left_out} == {"x4": False, "phase": True}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('["box", "x*"]', '["box", "y*"]', ("'y*' matches no problem", "'x4'")),
        ('["box", "x*"]', '["*"]', ("DDNM", "phase", "linear")),
        ('preset = "super-resolution"', 'preset = "x5"', ("no preset `x5`",)),
        ('problem = "x4"', 'problem = "y4"', ("matches no cell",)),
    ],
)
def test_sampler_that_cannot_take_a_problem_and_patterns_that_match_nothing_are_refused(faces, old, new, words):
    faces.write_text(faces.read_text().replace(old, new))
    with pytest.raises(MidguideError) as caught:
        load_study(faces)
    for word in words:
        assert word in str(caught.value)


def test_problems_of_different_instruments_are_not_stacked(faces):
    study = load_study(faces)
    one, other = units_of(study, "box")[0].problem, units_of(study, "x4")[0].problem
    with pytest.raises(ShapeError, match="cannot be stacked"):
        Problem.stack([one.build(0), other.build(0)])
    stacked = Problem.stack([one.build(0), one.build(1)])
    assert stacked.observations == 2


def test_killed_batch_leaves_no_rows_and_finished_ones_stay(faces, tmp_path, monkeypatch):
    study = load_study(faces)
    store = Store.create(tmp_path / "out", study.plain, [])
    from midguide.samplers.ddnm import DDNM

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(DDNM, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run_units(study, store, list(study.units))
    progress = store.progress(study.units)
    assert [unit.sampler_label for unit in progress.done] == ["DPS"] * 3
    assert len(progress.missing) == len(study.units) - 3


@pytest.mark.parametrize("operator", ["high-dynamic-range", "jpeg", "nonlinear-blur", "identity"])
def test_tasks_on_a_prior_of_another_range_are_the_same_tasks(prior, photographs, operator):
    def problem(value_range, **noise):
        own = {"prior_settings": PriorSettings(value_range=value_range), "data": str(photographs), "operator": operator}
        return ImageProblem(prior=str(prior), **own, **noise).build(0)

    unit, plain = problem((0.0, 1.0), sigma_y=0.025), problem((-1.0, 1.0), sigma_y=0.05)
    torch.testing.assert_close(unit.likelihood.y, (plain.likelihood.y + 1) / 2)
    unit, plain = (problem(limits, noise="poisson", rate=50.0) for limits in ((0.0, 1.0), (-1.0, 1.0)))
    torch.testing.assert_close(unit.likelihood.intensity(unit.truth), plain.likelihood.intensity(plain.truth))


@pytest.mark.parametrize("profile", ["quick", "cpu", "full"])
def test_the_face_studies_take_a_prior_of_another_size(profile, tmp_path):
    """One whose motion blur is too large to be decomposed: samplers that need it are left out of that task only."""
    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    path = tmp_path / "large.safetensors"
    with global_seed(0):
        save_prior(path, UNet(config).state_dict(), PriorSettings(network=config, event_shape=(3, 96, 80)))
    changes = [("problems.prior", str(path)), ("problems.seeds", [0])]
    if profile != "quick":
        with pytest.raises(ShapeError, match="motion-blur instead of motion-blur-decomposed"):
            load_study(EXPERIMENTS / f"faces-{profile}.toml", changes)
        changes.append(("problems[motion-blur].operator", "motion-blur:paper"))
    known = load_study(EXPERIMENTS / f"faces-{profile}.toml")
    study = load_study(EXPERIMENTS / f"faces-{profile}.toml", changes)
    cells, others = ({(u.problem_label, u.sampler_label) for u in some.units} for some in (known, study))
    assert cells - others == (set() if profile == "quick" else {("motion-blur", "DDNM+"), ("motion-blur", "DDRM")})
