"""Pictures of images: the truth, what was measured, and what each sampler drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from midguide.plots.measurement import picture_of_measurement
from midguide.plots.reconstructions import Reconstructed, reconstructions
from midguide.studies.pictures.base import PICTURES, Case

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@PICTURES.register("reconstructions")
def image_reconstructions(label: str, cases: Sequence[Case]) -> dict[str, Figure]:
    """One figure for each problem of images: a row for each image."""
    probe = cases[0].probe
    if len(probe.signal_shape) != 3:
        return {}
    shown = [image for case in cases if (image := _reconstructed(case)) is not None]
    value_range = probe.denoiser.signal_range or (-1.0, 1.0)
    return {label: reconstructions(shown, value_range=value_range, title=label)} if shown else {}


def _reconstructed(case: Case) -> Reconstructed | None:
    """One image with its draws; None where none is stored."""
    if case.problem is None:
        return None
    truth = None if case.problem.truth is None else case.problem.truth[0]
    draws = {label: None if samples is None else samples.draws[0] for label, samples in case.samples.items()}
    return Reconstructed(truth, picture_of_measurement(case.problem), draws)
