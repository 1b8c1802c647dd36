"""Pictures of a study's electrocardiograms: one page of ECG paper for each recording and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from midguide.domains.ecg.leads import EcgFormat, twelve_leads
from midguide.domains.ecg.plots import ecg_paper
from midguide.domains.ecg.scores import expected_coverage, hidden_of_twelve, interval
from midguide.inference.samples import Samples
from midguide.plots.base import PLOTS
from midguide.problem import Problem
from midguide.signals.base import Signal
from midguide.studies.pictures.base import PICTURES, Case

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@PICTURES.register("ecg-paper")
def ecg_pages(label: str, cases: Sequence[Case]) -> dict[str, Figure]:
    """The median of the draws, their band and the truth on ECG paper."""
    form = EcgFormat.of(cases[0].probe.denoiser.signal)
    if form is None:
        return {}
    return {
        f"{label}, {name}, recording {case.seed}": _page(samples.resampled(), 0, case.probe, form, f"{name}: ")
        for case in cases
        for name, samples in case.samples.items()
        if samples is not None
    }


@PLOTS.register("ecg-paper", signals="ecg")
def ecg_page(samples: Samples, observation: int, signal: Signal) -> Figure:
    """The median of the draws, their band and the truth on ECG paper."""
    form = EcgFormat(**signal.settings)
    return _page(samples.resampled(), observation, samples.problem, form, "")


def _page(samples: Samples, observation: int, problem: Problem | None, form: EcgFormat, name: str) -> Figure:
    """One page of draws that count alike; hidden parts are gray where the problem is at hand."""
    nine = form.unit_mv * samples.draws[observation].double().cpu()
    known = samples.tensors.get("truth")
    truth = None if known is None else form.unit_mv * known[observation].double().cpu()
    twelve, observed = twelve_leads(nine), _observed(problem, observation, nine)
    return ecg_paper(
        twelve.quantile(0.5, dim=0),
        rate_hz=form.rate_hz,
        band=interval(twelve),
        truth=None if truth is None else twelve_leads(truth),
        observed=~hidden_of_twelve(observed),
        title=f"{name}median of {len(nine)} draws with their {100 * expected_coverage(len(nine)):.0f} % band",
        footer="no medical device: what is hidden (gray) is drawn, not observed",
    )


def _observed(problem: Problem | None, observation: int, nine: Tensor) -> Tensor:
    """Which values of the nine leads were measured; all where that is not known, or not one value for each."""
    everything = torch.ones(nine.shape[1:], dtype=torch.bool)
    if problem is None or problem.likelihood.y.shape[1:] != nine.shape[1:]:
        return everything
    likelihood = problem.signal_likelihood
    mask = likelihood.operator.measured(likelihood.y).expand_as(likelihood.y).cpu()
    return mask[min(observation, len(mask) - 1)]
