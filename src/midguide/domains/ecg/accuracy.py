"""How well scores tell two classes apart: thresholds, balanced accuracy and its interval, area under the curve.

Scores of shape (N,), labels boolean of shape (N,); a record is positive where its score exceeds the threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.errors import ConfigError, DataError
from midguide.maths.rng import Rng

RULES = ("balanced", "f1")
RESAMPLES = 2000


def sensitivity_and_specificity(positive: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the two classes that are called rightly; `positive` of shape (..., N) -> (...)."""
    _check_both(labels)
    return positive[..., labels].double().mean(-1), (~positive)[..., ~labels].double().mean(-1)


def balanced_accuracy(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """Mean of sensitivity and specificity; a guess without knowledge has 0.5."""
    sensitivity, specificity = sensitivity_and_specificity(scores > threshold, labels)
    return float((sensitivity + specificity) / 2)


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """The probability that a record of the class has a higher score than one of the others; ties count half."""
    _check_both(labels)
    first, second = scores[labels].double()[:, None], scores[~labels].double()[None]
    return float(((first > second).double() + 0.5 * (first == second)).mean())


def choose_threshold(scores: Tensor, labels: Tensor, rule: str | float = "balanced") -> float:
    """A threshold from records that are not those to be judged.

    Args:
        scores: shape (N,).
        labels: boolean, shape (N,).
        rule: `balanced`, the largest balanced accuracy (Youden's index); `f1`, the largest F1; or a threshold itself.

    Returns:
        Halfway between two neighboring scores; of several equally good places the lowest.

    Raises:
        ConfigError: If there is no such rule.
        DataError: If one of the classes has no record.
    """
    if not isinstance(rule, str):
        return float(rule)
    if rule not in RULES:
        raise ConfigError(f"unknown rule `{rule}` for thresholds", hint=f"{', '.join(RULES)}, or a number")
    _check_both(labels)
    values = scores.double().unique()
    places = torch.cat([values[:1] - 1e-6, (values[:-1] + values[1:]) / 2])
    positive = scores.double() > places[:, None]
    sensitivity, specificity = sensitivity_and_specificity(positive, labels)
    if rule == "balanced":
        quality = sensitivity + specificity
    else:
        right = (positive & labels).sum(1).double()
        quality = 2 * right / (positive.sum(1) + labels.sum())
    return float(places[quality.argmax()])


def accuracy_interval(
    scores: Tensor, labels: Tensor, threshold: float, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of the balanced accuracy by the bootstrap, records of each class resampled on their own.

    It covers the judged records at a fixed threshold. With a handful of records of a class it is wide. Where every
    record is called rightly it has no width: it does not know of cases that did not occur.
    """
    right = (scores > threshold) == labels
    _check_both(labels)
    rng, means = Rng([(seed, "bootstrap")]), []
    for own in (right[labels], right[~labels]):
        places = (rng.uniform(torch.empty(1, RESAMPLES, len(own), dtype=torch.float64))[0] * len(own)).long()
        means.append(own.double()[places].mean(1))
    accuracy = (means[0] + means[1]) / 2
    low, high = torch.quantile(accuracy, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


def _check_both(labels: Tensor) -> None:
    if labels.dtype != torch.bool or not bool(labels.any()) or bool(labels.all()):
        count = int(labels.sum())
        raise DataError(
            f"{count} of {len(labels)} records have the diagnosis", hint="both kinds of records are needed to judge by"
        )
