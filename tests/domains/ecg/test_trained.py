"""Networks that are trained to draw hidden parts: they learn them, are not priors, and stand beside samplers."""

from __future__ import annotations

import json
import math

import pytest
import torch

from midguide.domains.ecg.conditional import conditioned, half_masks, load_conditional
from midguide.domains.ecg.conditional_training import export_conditional, train_conditional
from midguide.domains.ecg.leads import EcgFormat, einthoven_error
from midguide.domains.ecg.problems import EcgProblem
from midguide.domains.ecg.recipes import EcgTrainingConfig
from midguide.domains.ecg.trained import TrainedDiff
from midguide.errors import CheckpointError, ConfigError, MidguideError
from midguide.nn.base import check_fits
from midguide.nn.sashimi import SashimiConfig
from midguide.priors.cards import recipe
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.studies.spec.study import load_study
from midguide.training.base import Run, load_recipe
from midguide.training.report import Origin
from midguide.training.sources import Signals

TINY = SashimiConfig(in_channels=27, channels=8, blocks=1, pools=(4,), states=8, features=8, embedding=16)
CONFIG = EcgTrainingConfig(
    name="tiny", network=TINY, ecg=EcgFormat(), length=256, condition="half", steps=150, batch=16, warmup=10,
    learning_rate=1e-2, ema=0.9, flip=False, bfloat16=False,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(count, seed=0):
    """Recordings that are constant in time and the same in all leads: what is hidden follows from what is known."""
    return torch.randn(count, 1, 1, generator=generator(seed)).expand(count, 9, 256).contiguous()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """File and card of a network for recordings that are constant."""
    out = tmp_path_factory.mktemp("trained")
    network = train_conditional(CONFIG, Signals(levels(256), 256), Run(out))
    return export_conditional(CONFIG, network, Signals(levels(32, 1), 256), out, origin=Origin(command="x", log=[]))


@pytest.mark.parametrize(("condition", "rows"), [("half", 1), ("half-of-each-lead", 9)])
def test_a_random_half_is_known_of_all_leads_together_or_of_each(condition, rows):
    masks = half_masks(condition, torch.zeros(200, 9, 10), generator())
    assert masks.float().mean((1, 2)).unique().tolist() == [0.5]
    firsts = masks[:, :, 0]
    assert bool((firsts == masks[:, :, 4]).all())
    assert not bool((firsts & masks[:, :, 5]).any())
    assert (len(firsts.unique(dim=0)) == 2) is (rows == 1)
    # 200 or 1,800 fair coins: five standard deviations, a false alarm in a million
    assert float(firsts.float().mean()) == pytest.approx(0.5, abs=2.5 / math.sqrt(200 * rows))


def test_network_does_not_see_the_noisy_known_part_nor_the_clean_hidden_one():
    observed = half_masks("half", torch.zeros(2, 9, 10), generator())
    x_t, known = torch.full((2, 9, 10), 5.0), torch.where(observed, 7.0, 0.0)
    noisy, clean, mask = conditioned(x_t, known, observed).split(9, dim=1)
    assert torch.equal(noisy, torch.where(observed, 0.0, 5.0))
    assert torch.equal(clean, known)
    assert torch.equal(mask.bool(), observed)


def test_it_draws_what_follows_from_the_known_part(trained, ecg_prior):
    """The prior of the problem has learned nothing; the network continues the level to 0.25 of its spread."""
    problem = EcgProblem(operator="ecg-missing-block", prior=str(ecg_prior)).build(0)
    problems = []
    for level in (-1.0, 0.5, 1.0):
        truth = torch.full((1, 9, 256), level)
        operator = problem.likelihood.operator
        problems.append(Problem.simulate(problem.denoiser, operator, truth, sigma_y=1e-3))
    drawn = TrainedDiff(network=str(trained[0]), steps=30).draw(Problem.stack(problems), 4, [0, 1, 2])
    assert drawn.draws.shape == (3, 4, 9, 256)
    hidden = drawn.draws[:, :, 3:, 128:]  # of the chest: limb leads of one level contradict each other
    assert float((hidden.mean((1, 2, 3)) - torch.tensor([-1.0, 0.5, 1.0])).abs().max()) < 0.25
    y = drawn.tensors["y"]
    assert torch.equal(drawn.draws[:, 0, 3:, :128], y[:, 3:, :128])
    assert (drawn.cost.network_forwards, drawn.cost.network_vjps) == (30, 0)
    assert float(einthoven_error(drawn.draws).max()) < 1e-6


def test_known_leads_stay_and_the_others_agree_with_them(trained, ecg_prior):
    problem = EcgProblem(operator="ecg-missing-leads", prior=str(ecg_prior)).build(0)
    drawn = TrainedDiff(network=str(trained[0]), steps=3).draw(problem, 2, [0])
    assert torch.equal(drawn.draws[:, :, 0], drawn.tensors["y"][:, None, 0].expand(-1, 2, -1))
    assert float(einthoven_error(drawn.draws).max()) < 1e-6


def test_each_recording_has_the_draws_of_a_run_of_its_own(trained, ecg_prior):
    kind = EcgProblem(operator="ecg-missing-block", operator_settings={"hidden": "random"}, prior=str(ecg_prior))
    problems, source = [kind.build(seed) for seed in range(4)], TrainedDiff(network=str(trained[0]), steps=5)
    together = source.draw(Problem.stack(problems), 2, [0, 1, 2, 3]).draws
    for seed, problem in enumerate(problems):
        alone = source.draw(problem, 2, [seed]).draws
        assert torch.allclose(together[seed], alone[0], atol=1e-4)  # float32; other streams would differ by about 1


def test_card_says_how_well_it_does_what_it_is_for(trained):
    card = json.loads(trained[1].read_text())
    assert card["condition"] == "half"
    assert card["held_out"] == 32
    assert 0 < card["held_out_loss"] < 0.8  # of v, which a new network misses by its variance, about 1


def test_it_is_no_prior_and_a_prior_is_not_such_a_network(trained, ecg_prior):
    with pytest.raises(CheckpointError, match=r"not a prior.*\(half\)"):
        load_prior(trained[0])
    with pytest.raises(CheckpointError, match="is a prior"):
        load_conditional(ecg_prior)
    with pytest.raises(ConfigError, match="no network nowhere"):
        load_conditional("nowhere")


def study(tmp_path, network, prior):
    path = tmp_path / "s.toml"
    path.write_text(f"""
study = {{ name = "s", samples = 2, metrics = ["chi_square"] }}
problems = [{{ label = "block", kind = "ecg", operator = "ecg-missing-block", prior = "{prior}", seeds = [0] }}]
samplers = [{{ label = "TrainedDiff", spec = "trained-diff", settings = {{ network = "{network}", steps = 3 }} }}]
""")
    return path


def test_study_addresses_it_by_content_and_needs_its_file(trained, ecg_prior, tmp_path):
    (unit,) = load_study(study(tmp_path, trained[0], ecg_prior)).units
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(trained[0].read_bytes())
    (same,) = load_study(study(tmp_path, moved, ecg_prior)).units
    assert same.address == unit.address
    (other,) = load_study(study(tmp_path, moved, ecg_prior), [("samplers.steps", 4)]).units
    assert other.address != unit.address
    for wrong, words in (("nowhere", "there is no network"), (str(ecg_prior), "is a prior")):
        with pytest.raises(MidguideError, match=words):
            load_study(study(tmp_path, wrong, ecg_prior))


@pytest.mark.parametrize("name", ["ecg-256-half", "ecg-256-half-of-each-lead"])
def test_recipes_differ_from_the_priors_by_their_condition(name):
    path, prior = recipe(name), recipe("ecg-256")
    assert path is not None
    assert prior is not None
    ours, theirs = load_recipe(path), load_recipe(prior)
    assert isinstance(ours, EcgTrainingConfig)
    assert isinstance(theirs, EcgTrainingConfig)
    assert ours.condition is not None
    assert ours.network.in_channels == 3 * theirs.network.in_channels
    assert (ours.steps, ours.batch, ours.length, ours.ecg) == (theirs.steps, theirs.batch, theirs.length, theirs.ecg)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("condition = 'half'\nbody = 'sashimi'", "takes 9 channels and returns 9"),
        ("body = 'sashimi'\n[network]\nin_channels = 27", "takes 27 channels and returns 9"),
        ("body = 'sashimi'\nlength = 0", "length must be positive"),
        ("body = 'sashimi'\n[ecg]\nrate_hz = 0.0", "not a format"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(f"kind = 'ecg-prior'\n{text}")
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "recipe.toml")


def test_a_recipe_with_the_table_of_the_domain_is_one_of_its_priors(tmp_path):
    (tmp_path / "recipe.toml").write_text("body = 'sashimi'\n[ecg]\nunit_mv = 0.5")
    assert load_recipe(tmp_path / "recipe.toml") == EcgTrainingConfig(
        network=SashimiConfig(), ecg=EcgFormat(unit_mv=0.5)
    )


@pytest.mark.parametrize(("name", "like"), [("ecg-1024", "ecg-256"), ("ecg-1024-l", "ecg-256-l")])
def test_recipes_of_whole_recordings_have_the_networks_of_windows_and_take_ten_seconds_with_zeros_after_them(
    name, like
):
    config = load_recipe(name)
    assert isinstance(config, EcgTrainingConfig)
    assert config.network == load_recipe(like).network
    check_fits(config.network, (9, config.length))
    windows = Signals(torch.ones(2, 9, 1000), config.length).events()
    assert windows.shape == (2, 9, 1024)
    assert not bool(windows[..., 1000:].any())
