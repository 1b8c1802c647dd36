"""Metrics by name. A name holds the protocol, so that equal names are comparable numbers.

CRPS, energy score and `truth_rmse` are in the value range of the prior: comparable between priors of one range.
"""

from __future__ import annotations

from functools import partial

from midguide.domains.ecg.metrics import ECG_METRICS
from midguide.errors import UnsupportedProblem
from midguide.maths.linalg import gaussian_w2
from midguide.metrics import distribution
from midguide.metrics.base import Answer, Metric, Target, known
from midguide.metrics.c2st import FOLDS, c2st
from midguide.metrics.pictures import IMAGE_METRICS
from midguide.metrics.scores import crps, energy_score, truth_coverage
from midguide.metrics.sets import SET_METRICS
from midguide.priors.mixture import GaussianMixture

__all__ = ["METRICS", "SET_METRICS", "Answer", "Metric", "Target"]


def _sliced(order: int, answer: Answer, target: Target) -> float:
    exact = known(target.draws, "exact draws").to(answer.draws.device)
    return distribution.sliced_wasserstein(answer.draws, exact, order=order, slices=100)


def _gaussian_w2(answer: Answer, target: Target) -> float:
    return gaussian_w2(*answer.moments, *target.moments)


def _mean_error(answer: Answer, target: Target) -> float:
    return distribution.mean_error(answer.moments[0], *target.moments)


def _covariance_error(answer: Answer, target: Target) -> float:
    return distribution.covariance_error(answer.moments[1], target.moments[1])


def _variance_ratio(answer: Answer, target: Target) -> float:
    return float(answer.moments[1].trace() / target.moments[1].trace())


def _coverage(level: float, answer: Answer, target: Target) -> float:
    return distribution.coverage(answer.draws, known(target.draws, "exact draws"), level)


def _mode_weight_tv(answer: Answer, target: Target) -> float:
    if not isinstance(target.posterior, GaussianMixture):
        raise UnsupportedProblem("mode weights are those of a mixture")
    return distribution.mode_weight_tv(answer.draws, target.posterior)


def _c2st(answer: Answer, target: Target) -> float:
    return c2st(answer.draws, known(target.draws, "exact draws"))


def _chi_square(answer: Answer, target: Target) -> float:
    return float(target.problem.expand(len(answer.draws)).likelihood.chi_square(answer.draws).mean())


def _truth_rmse(answer: Answer, target: Target) -> float:
    truth = known(target.problem.truth, "the truth")
    return float((answer.moments[0] - truth.double().flatten()).square().mean().sqrt())


def _crps(answer: Answer, target: Target) -> float:
    return float(crps(answer.draws, known(target.problem.truth, "the truth")[0]).mean())


def _energy_score(answer: Answer, target: Target) -> float:
    return energy_score(answer.draws, known(target.problem.truth, "the truth")[0])


def _truth_coverage(level: float, answer: Answer, target: Target) -> float:
    return float(truth_coverage(answer.draws, known(target.problem.truth, "the truth")[0], level).mean())


METRICS: dict[str, Metric] = {
    **ECG_METRICS,
    **IMAGE_METRICS,
    "c2st[mlp=64,folds=4]": Metric(compute=_c2st, draws=2 * FOLDS),
    "chi_square": Metric(compute=_chi_square, exact=False),
    "covariance_error": Metric(compute=_covariance_error),
    "coverage[level=0.5]": Metric(compute=partial(_coverage, 0.5)),
    "coverage[level=0.9]": Metric(compute=partial(_coverage, 0.9)),
    "crps[estimator=fair]": Metric(compute=_crps, exact=False, truth=True, draws=2),
    "energy_score[estimator=fair]": Metric(compute=_energy_score, exact=False, truth=True, draws=2),
    "gaussian_w2": Metric(compute=_gaussian_w2),
    "mean_error": Metric(compute=_mean_error),
    "mode_weight_tv": Metric(compute=_mode_weight_tv, prior=GaussianMixture),
    "sliced_wasserstein_1[slices=100]": Metric(compute=partial(_sliced, 1)),
    "sliced_wasserstein_2[slices=100]": Metric(compute=partial(_sliced, 2)),
    "truth_coverage[level=0.5,by=rank]": Metric(compute=partial(_truth_coverage, 0.5), exact=False, truth=True),
    "truth_coverage[level=0.9,by=rank]": Metric(compute=partial(_truth_coverage, 0.9), exact=False, truth=True),
    "truth_rmse": Metric(compute=_truth_rmse, exact=False, truth=True),
    "variance_ratio": Metric(compute=_variance_ratio),
}
"""`name` or `name[protocol]` -> metric. All need one observation."""
