"""Metrics of electrocardiograms by name: the paper's errors over the hidden part, and how honest the spread is.

All are in millivolts and count the hidden part only. With twelve leads they first derive the augmented ones from each
draw, as in the MGPS paper. They take draws as a sampler gives them: they put back nothing known, and enforce no
relation. Zeros that end a recording which is shorter than the prior do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from midguide.domains.ecg import scores as signal
from midguide.domains.ecg.leads import EcgFormat, einthoven_error, twelve_leads
from midguide.errors import UnsupportedProblem
from midguide.metrics.base import Answer, Metric, Target, enter_metric, known
from midguide.operators.mask import Mask
from midguide.problem import Problem


@dataclass(frozen=True, kw_only=True)
class EcgMetric(Metric):
    """A metric of draws of a prior of electrocardiograms; it needs the truth and a mask as the operator."""

    exact: bool = False
    truth: bool = True

    def check(self, problem: Problem, n: int | None = None) -> None:
        Metric.check(self, problem, n)
        _form(problem)
        if not isinstance(problem.likelihood.operator, Mask):
            name = type(problem.likelihood.operator).__name__
            raise UnsupportedProblem(f"it needs an operator that hides entries, this is a {name}")


Parts = tuple[Tensor, Tensor, Tensor]
"""Draws in mV, shape (n, leads, time), the truth, and which entries are hidden, shape (leads, time)."""


def _parts(leads: int, answer: Answer, target: Target) -> Parts:
    problem, form = target.problem, _form(target.problem)
    draws = form.unit_mv * answer.draws.double()
    truth = form.unit_mv * known(problem.truth, "the truth")[0].double().to(draws.device)
    observed = problem.likelihood.operator.measured(problem.likelihood.y)[0].expand(truth.shape).to(draws.device)
    hidden = ~observed if leads == 9 else signal.hidden_of_twelve(observed)
    if leads == 12:
        draws, truth = twelve_leads(draws), twelve_leads(truth)
    return draws, truth, hidden & (torch.arange(truth.shape[1], device=draws.device) < signal.recorded(truth))


def _error(score: Callable[..., Tensor], leads: int, answer: Answer, target: Target, *, of_mean: bool = False) -> float:
    """Error over the hidden part of each draw, or of the mean of the draws."""
    draws, truth, hidden = _parts(leads, answer, target)
    if of_mean:
        return float(score(answer.average(draws)[None], truth, hidden))
    return float(answer.average(score(draws, truth, hidden)))


def _crps(answer: Answer, target: Target) -> float:
    """Continuous ranked probability score over the hidden part."""
    return signal.crps(*_parts(12, answer.equal, target))


def _coverage(level: float, answer: Answer, target: Target) -> float:
    """Share of hidden entries inside the central interval of the draws."""
    return signal.coverage(*_parts(12, answer.equal, target), level=level)


def _einthoven(answer: Answer, target: Target) -> float:
    """Largest |I + III - II| over draws and times."""
    return float(einthoven_error(_form(target.problem).unit_mv * answer.draws.double()).max())


def _form(problem: Problem) -> EcgFormat:
    form = EcgFormat.of(problem.denoiser.signal)
    if form is None:
        name = type(problem.denoiser).__name__
        raise UnsupportedProblem(f"it needs a prior of electrocardiograms, this is a {name}")
    return form


for _name, _score in (("mae", signal.mae), ("rmse", signal.rmse)):
    for _leads in (9, 12):  # of each draw, then averaged over the draws, as in the paper
        _made = EcgMetric(compute=partial(_error, _score, _leads))
        enter_metric(f"ecg_{_name}_sample[leads={_leads},unit=mV]", _made, f"{_name.upper()} of a draw, averaged")
    _made = EcgMetric(compute=partial(_error, _score, 12, of_mean=True))
    enter_metric(f"ecg_{_name}_mean[leads=12,unit=mV]", _made, f"{_name.upper()} of the mean of the draws")
enter_metric("ecg_crps[leads=12,unit=mV]", EcgMetric(compute=_crps, draws=2))
enter_metric("ecg_coverage[level=0.9,leads=12]", EcgMetric(compute=partial(_coverage, 0.9)))
enter_metric("ecg_amplitude[leads=12]", EcgMetric(compute=partial(_error, signal.amplitude_ratio, 12)))
enter_metric("ecg_einthoven[unit=mV]", EcgMetric(compute=_einthoven))
