"""Pictures of a study's electrocardiograms: one page of ECG paper for each recording and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from midguide.domains.ecg.leads import EcgFormat, twelve_leads
from midguide.domains.ecg.plots import ecg_paper
from midguide.domains.ecg.scores import expected_coverage, hidden_of_twelve, interval
from midguide.inference.samples import Samples
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
        f"{label}, {name}, recording {case.seed}": _page(name, case, samples, form)
        for case in cases
        for name, samples in case.samples.items()
        if samples is not None
    }


def _page(name: str, case: Case, samples: Samples, form: EcgFormat) -> Figure:
    nine = form.unit_mv * samples.draws[0].double()
    truth = form.unit_mv * samples.tensors["truth"][0].double() if "truth" in samples.tensors else None
    likelihood = case.probe.likelihood
    observed = likelihood.operator.measured(likelihood.y)[0].expand(nine.shape[1:])
    twelve = twelve_leads(nine)
    return ecg_paper(
        twelve.quantile(0.5, dim=0),
        rate_hz=form.rate_hz,
        band=interval(twelve),
        truth=None if truth is None else twelve_leads(truth),
        observed=~hidden_of_twelve(observed),
        title=f"{name}: median of {len(nine)} draws with their {100 * expected_coverage(len(nine)):.0f} % band",
        footer="no medical device: what is hidden (gray) is drawn, not observed",
    )
