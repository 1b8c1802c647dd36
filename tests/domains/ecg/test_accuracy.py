"""Thresholds, balanced accuracy, its interval, and the area under the curve."""

import math

import pytest
import torch

from midguide.domains.ecg.accuracy import accuracy_interval, area_under_curve, balanced_accuracy, choose_threshold
from midguide.errors import ConfigError, DataError

SCORES = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
LABELS = torch.tensor([False, False, True, False, True, True])


def test_balanced_accuracy_weighs_both_classes_alike():
    assert balanced_accuracy(SCORES, LABELS, 0.5) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(SCORES, LABELS, 1.0) == 0.5
    rare = torch.tensor([True] + [False] * 99)
    assert balanced_accuracy(torch.zeros(100), rare, 0.5) == 0.5  # right in 99 of 100 and yet worthless


def test_area_is_the_share_of_pairs_in_the_right_order():
    assert area_under_curve(SCORES, LABELS) == pytest.approx(8 / 9)
    assert area_under_curve(torch.zeros(6), LABELS) == 0.5


def test_chosen_threshold_is_best_on_the_records_that_it_is_chosen_on():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(200, generator=generator) < 0.1
    scores = torch.randn(200, generator=generator) + labels.float()
    best = balanced_accuracy(scores, labels, choose_threshold(scores, labels))
    assert best >= max(balanced_accuracy(scores, labels, float(place)) for place in torch.linspace(-4, 4, 801))

    def f1(place):
        positive = scores > place
        return 2 * int((positive & labels).sum()) / max(int(positive.sum()) + int(labels.sum()), 1)

    assert f1(choose_threshold(scores, labels, "f1")) >= max(f1(float(place)) for place in torch.linspace(-4, 4, 801))
    assert choose_threshold(scores, labels, 0.25) == 0.25


def test_interval_covers_the_accuracy_of_the_law_as_often_as_it_says():
    """100 data sets of 60 sick and 60 healthy, each called rightly with 0.8: 95 % coverage, less a little for few
    records; 84 or fewer of 100 have a probability below 1e-4 even at a true coverage of 0.94."""
    inside, generator = 0, torch.Generator().manual_seed(1)
    labels = torch.arange(120) < 60
    for seed in range(100):
        right = torch.rand(120, generator=generator) < 0.8
        low, high = accuracy_interval(torch.where(right, labels, ~labels).float(), labels, 0.5, seed=seed)
        inside += low <= 0.8 <= high
    assert inside > 84
    # the standard error is sqrt(0.8 0.2 / 120) = 0.037
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.16 / 120), rel=0.3)


@pytest.mark.parametrize("labels", [torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)])
def test_one_class_alone_is_refused(labels):
    for measure in (area_under_curve, choose_threshold):
        with pytest.raises(DataError, match="of 6 records have the diagnosis"):
            measure(SCORES, labels)


def test_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="youden"):
        choose_threshold(SCORES, LABELS, "youden")
