"""A metric: the error of the tidal range."""

from midguide.metrics.base import Answer, Target, known, metric


@metric("tide_range_error[unit=m]", exact=False, truth=True)
def tide_range_error(answer: Answer, target: Target) -> float:
    """Error of the mean range between high and low water, in meters."""
    signal = target.problem.denoiser.signal
    truth = known(target.problem.truth, "the truth")
    ranges = answer.draws.amax(-1) - answer.draws.amin(-1)
    return signal.unit_size * abs(float(ranges.mean() - (truth.amax() - truth.amin())))
