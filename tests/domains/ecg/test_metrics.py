"""Metrics of electrocardiograms: in millivolts, over the hidden part of twelve leads, as the functions behind them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from midguide.domains.ecg.leads import EcgFormat, with_einthoven
from midguide.domains.ecg.operators import missing_block, missing_leads
from midguide.domains.ecg.scores import ecg_scores, recorded
from midguide.errors import UnsupportedProblem
from midguide.likelihoods import GaussianLikelihood
from midguide.metrics.base import METRICS, Answer, Target
from midguide.operators.matrix import Identity
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.signals.base import Signal

FORM = EcgFormat(unit_mv=0.25)
SCORES = {
    "ecg_mae_sample[leads=12,unit=mV]": "mae_hidden_mv",
    "ecg_rmse_sample[leads=12,unit=mV]": "rmse_hidden_mv",
    "ecg_mae_sample[leads=9,unit=mV]": "mae_hidden_nine_mv",
    "ecg_rmse_sample[leads=9,unit=mV]": "rmse_hidden_nine_mv",
    "ecg_mae_mean[leads=12,unit=mV]": "mae_mean_mv",
    "ecg_rmse_mean[leads=12,unit=mV]": "rmse_mean_mv",
    "ecg_crps[leads=12,unit=mV]": "crps_mv",
    "ecg_coverage[level=0.9,leads=12]": "coverage90",
    "ecg_einthoven[unit=mV]": "einthoven_max_mv",
}
AMPLITUDE = "ecg_amplitude[leads=12]"


def problem(operator, length=8):
    prior = Gaussian(torch.zeros(9, length), 1.0)
    prior.signal = FORM.signal
    truth = with_einthoven(prior.sample(1, seed=1))
    return Problem(prior, GaussianLikelihood(operator, operator(truth), 0.1), truth)


@pytest.mark.parametrize(
    "operator", [missing_block((9, 8)), missing_leads((9, 8), observed="I,V2")], ids=["block", "leads"]
)
def test_each_metric_is_the_score_in_millivolts(operator):
    given = problem(operator)
    draws = given.denoiser.sample(12, seed=2)
    scores = ecg_scores(0.25 * draws, 0.25 * given.truth[0], operator.measured(draws)[0].expand(9, 8))
    assert {*SCORES, AMPLITUDE} == {name for name in METRICS if name.startswith("ecg_")}
    for name, score in SCORES.items():
        METRICS.make(name).check(given, 12)
        assert METRICS.make(name).compute(Answer(draws), Target(given)) == pytest.approx(scores[score], rel=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_the_amplitude_of_a_scaled_truth_is_its_scale(factor):
    given = problem(missing_leads((9, 8), observed="I,V2"))
    draws = factor * given.truth.expand(3, 9, 8)
    assert METRICS.make(AMPLITUDE).compute(Answer(draws), Target(given)) == pytest.approx(factor, abs=1e-12)


def test_zeros_after_the_end_of_a_recording_do_not_count():
    whole = problem(missing_leads((9, 8)))
    padded = torch.nn.functional.pad(whole.truth, (0, 4))
    operator = missing_leads((9, 12), recorded=8)
    longer = Problem(problem(operator, 12).denoiser, GaussianLikelihood(operator, operator(padded), 0.1), padded)
    draws = longer.denoiser.sample(3, seed=2)
    assert recorded(padded[0]) == 8
    for name in (*SCORES, AMPLITUDE):
        if name != "ecg_einthoven[unit=mV]":
            want = METRICS.make(name).compute(Answer(draws[..., :8]), Target(whole))
            assert METRICS.make(name).compute(Answer(draws), Target(longer)) == pytest.approx(want, rel=1e-6)


def test_problems_that_hide_nothing_or_are_no_electrocardiogram_are_refused():
    metric = METRICS.make("ecg_crps[leads=12,unit=mV]")
    with pytest.raises(UnsupportedProblem, match="hides entries"):
        metric.check(problem(Identity()))
    with pytest.raises(UnsupportedProblem, match="truth"):
        metric.check(replace(problem(missing_block((9, 8))), truth=None))
    plain = problem(missing_block((9, 8)))
    plain.denoiser.signal = Signal()
    with pytest.raises(UnsupportedProblem, match="this is a Gaussian"):
        metric.check(plain)
