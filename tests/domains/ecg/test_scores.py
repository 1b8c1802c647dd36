"""Scores of drawn signals against a truth that was hidden in part."""

import pytest
import scoringrules
import torch

from midguide.domains.ecg.leads import with_einthoven
from midguide.domains.ecg.scores import (
    amplitude_ratio,
    coverage,
    crps,
    ecg_scores,
    expected_coverage,
    hidden_of_twelve,
    interval,
    mae,
    rmse,
)
from midguide.errors import NumericalError, ShapeError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_errors_are_those_of_each_sample_over_hidden_entries_only():
    truth, hidden = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    hidden[0, :2] = True
    draws = torch.tensor([3.0, -4.0, 100.0, 100.0]).expand(2, 4)[None].clone()
    assert mae(draws, truth, hidden).tolist() == [3.5]
    assert rmse(draws, truth, hidden).tolist() == [pytest.approx(12.5**0.5)]


def test_amplitudes_compare_peaks_of_hidden_entries_and_not_their_places():
    truth = torch.tensor([[0.0, 2.0, -1.0, 0.0], [0.0, 0.0, 1.0, 9.0]])
    hidden = torch.tensor([[True, True, True, True], [True, True, True, False]])
    moved = torch.tensor([[2.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 50.0]])
    assert amplitude_ratio(torch.stack([moved, moved / 4]), truth, hidden).tolist() == [1.0, 0.25]
    with pytest.raises(NumericalError, match="flat where it is hidden"):
        amplitude_ratio(moved[None], torch.zeros(2, 4), hidden)


def test_crps_agrees_with_a_library_and_is_the_error_of_a_certain_guess():
    draws, truth = noise(7, 3, 5), noise(3, 5, seed=1)
    hidden = truth > -0.5
    want = scoringrules.crps_ensemble(truth[hidden].numpy(), draws[:, hidden].numpy().T, estimator="fair").mean()
    assert crps(draws, truth, hidden) == pytest.approx(want)
    sure = truth.expand(4, 3, 5) + 0.25
    assert crps(sure, truth, hidden) == pytest.approx(0.25)


@pytest.mark.parametrize("n", [5, 10, 19, 50])
def test_a_truth_of_the_samples_law_is_covered_as_often_as_expected(n):
    """20,000 independent entries: the share errs by 0.003 (one std); 5 std, one false alarm in 2e6.

    Between ranks the interval is linear, the normal law is not: at most 0.005 for these n.
    """
    draws, truth = noise(n, 20_000, seed=n), noise(20_000, seed=99)
    got = coverage(draws, truth, torch.ones(20_000, dtype=torch.bool))
    assert got == pytest.approx(expected_coverage(n), abs=0.005 + 5 * 0.003)


def test_intervals_of_many_samples_are_those_of_the_law():
    low, high = interval(noise(40_000, 3))
    # Normal quantiles; the std of an empirical one is 2.1 / sqrt(n) = 0.0105; 5 std.
    assert torch.allclose(low, torch.full((3,), -1.6449).double(), atol=0.053)
    assert torch.allclose(high, torch.full((3,), 1.6449).double(), atol=0.053)
    assert [float(end) for end in interval(torch.tensor([[2.0]]))] == [2.0, 2.0]


def test_augmented_leads_are_hidden_unless_both_i_and_ii_are_known():
    observed = torch.zeros(9, 3, dtype=torch.bool)
    observed[0] = True
    observed[1, 1] = True
    observed[4, 2] = True
    hidden = hidden_of_twelve(observed)
    assert hidden.sum(0).tolist() == [11, 7, 10]
    assert not bool(hidden[3:6, 1].any())


def test_scores_of_a_perfect_answer_are_zero_and_its_coverage_one():
    truth = with_einthoven(noise(9, 30))
    observed = torch.zeros(9, 30, dtype=torch.bool)
    observed[0] = True
    scores = ecg_scores(truth.expand(3, 9, 30), truth, observed)
    assert {name for name, value in scores.items() if abs(value) > 1e-12} == {"coverage90", "coverage90_expected"}
    assert scores["coverage90"] == 1.0


def test_derived_leads_count_in_the_papers_scores():
    """An error of e in II alone is e in II and III, e/2 in aVR and aVL, e in aVF: 4 e over the 11 leads but I."""
    truth = with_einthoven(noise(9, 30))
    wrong = truth.clone()
    wrong[1] += 0.4
    wrong[2] += 0.4
    observed = torch.zeros(9, 30, dtype=torch.bool)
    observed[0] = True
    scores = ecg_scores(wrong.expand(2, 9, 30), truth, observed)
    assert scores["mae_hidden_mv"] == pytest.approx(4 * 0.4 / 11)
    assert scores["mae_hidden_nine_mv"] == pytest.approx(2 * 0.4 / 8)


def test_signals_that_do_not_fit_are_refused():
    draws, truth, hidden = noise(3, 2, 4), noise(2, 4), torch.ones(2, 4, dtype=torch.bool)
    for wrong in ((draws, truth[:1], hidden), (draws, truth, hidden[:1]), (draws, truth, hidden.double())):
        with pytest.raises(ShapeError):
            mae(*wrong)
    with pytest.raises(ShapeError, match="too few"):
        mae(draws, truth, ~hidden)
    with pytest.raises(ShapeError, match="too few"):
        crps(draws[:1], truth, hidden)
    with pytest.raises(NumericalError):
        rmse(draws / 0, truth, hidden)
