"""Is a network used as it was trained? What its own draws tell, where there are no data of its kind.

Under the right reading a network draws what it was trained on, and denoises it better than a linear estimator does.
Under another it draws something else, and denoises that worse, or draws nothing finite. So every reading draws for
itself. Its figure is `-ln` of its error on its own draws over the error of the best linear estimator, averaged over
levels.

Draws are evidence of the network alone: what it would say of data that it has never seen does not show in them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.diagnostics.prior import (
    RANDOM,
    THRESHOLD,
    Finding,
    PriorReport,
    Reading,
    conventions,
    gain_of,
    levels_of,
    range_of,
    repeats,
    show,
    tried,
)
from midguide.errors import ConfigError, NumericalError
from midguide.inference.loop import sample
from midguide.priors.network import NetworkDenoiser
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional

DRAWS, STEPS = 8, 25
MARGINS = {"prediction": THRESHOLD, "schedule": 0.2}  # over the declared reading, from which on another is named
EXTREME = 0.01  # share of the values at either end that a sampler of few steps may overshoot to
NOT_TOLD = (
    "the value range of data (only that of the draws), the order of channels, the scale of latents and their "
    "autoencoder, a time index or label that is off, the other weights of the file, and schedules that differ little "
    "or belong to an x0-prediction"
)
"""What draws cannot tell: a network agrees with itself in these."""


def check_draws(denoiser: NetworkDenoiser, *, n: int = DRAWS, steps: int = STEPS, seed: int = 0) -> PriorReport:
    """Let a network draw under its declared reading and under others, and name the convention that is likely wrong.

    Ten readings at most, each drawn by ancestral sampling, then denoised at nine levels: `10 n (steps + 9)` forwards.

    Args:
        denoiser: the prior as declared; of a prior of latents its network.
        n: draws of each reading.
        steps: noise levels that the sampler visits.
        seed: seed of the draws and of the noise.

    Returns:
        Findings of the kinds `prediction`, `schedule`, `value range`, `random` or `untrained`, the likely one first;
        `levels` are those of the declared reading on its own draws, none where they are not finite.

    Raises:
        ConfigError: If `n` or `steps` is too small, or the network fails.
        ShapeError: If its output does not have the declared shape.

    Example:
        >>> from midguide.priors.gaussian import Gaussian
        >>> from midguide.diffusion.schedules import DiscreteVP
        >>> exact = Gaussian(torch.zeros(64), torch.linspace(0.01, 1.0, 64).double().diag())
        >>> network = lambda x, index: exact(x.double(), int(index[0]) + 1).to(x)  # predicts x0
        >>> wrong = NetworkDenoiser(network, DiscreteVP.linear(), "eps", (64,), value_range=None)
        >>> [finding.message for finding in check_draws(wrong).findings]
        ['errors fit an x0-prediction, not eps']
    """
    if n < 2:
        raise ConfigError(f"at least 2 draws are needed, got {n}", hint="8 are the default")
    declared = Reading(kind="", message="", denoiser=denoiser)
    with torch.no_grad():
        own = _drawn(denoiser, n, steps, seed)
        scores = {declared: _score(declared, own, seed)}
        for reading in conventions(denoiser):
            if _is_told(reading, declared, own if scores[declared] > THRESHOLD else None, seed):
                scores[reading] = _score(reading, _tried_drawing(reading.denoiser, n, steps, seed), seed)
        levels = () if own is None else tuple(levels_of(denoiser, own, seed))
        findings = []
        if own is not None and levels and not repeats(denoiser, own, levels[len(levels) // 2].time):
            findings.append(Finding("random", RANDOM))
    findings += _named(scores, declared, own)
    others = {reading: score for reading, score in scores.items() if reading is not declared}
    next_best = max(others, key=others.__getitem__)
    factor = math.exp(min(scores[declared] - others[next_best], 700.0)) if scores[declared] > -math.inf else 0.0
    return PriorReport(levels=levels, findings=tuple(findings), next_best=(next_best.kind, factor))


def _named(scores: dict[Reading, float], declared: Reading, own: Tensor | None) -> list[Finding]:
    """The finding that the scores lead to; where they are for the declared reading, one on the range of its draws."""
    best = max(scores, key=scores.__getitem__)
    if scores[best] <= THRESHOLD:
        message = "under no reading does the network denoise its draws better than a linear estimator: is it trained?"
        return [Finding("untrained", message)]
    gain = scores[best] - scores[declared]
    if best is not declared and gain > MARGINS[best.kind]:
        return [Finding(best.kind, best.message, math.exp(gain) if gain < math.inf else 1.0)]
    limits = declared.denoiser.value_range
    if own is not None and limits and (looks := range_of(_without_extremes(own), limits)):
        return [Finding("value range", f"the draws look like {show(looks)}, declared {show(limits)}")]
    return []


def _without_extremes(draws: Tensor) -> Tensor:
    """The values of draws in their order, but the smallest and the largest."""
    cut = int(EXTREME * draws.numel())
    return draws.flatten().sort().values[cut : draws.numel() - cut]


def _drawn(denoiser: NetworkDenoiser, n: int, steps: int, seed: int) -> Tensor | None:
    """Draws, shape (n, *event); None where they are not finite or all the same."""
    try:
        found = sample(Unconditional(steps=steps), Problem.unobserved(denoiser), n, seed=seed, progress=False).draws[0]
    except NumericalError:
        return None
    return found if 0 < float(found.std(correction=0)) < math.inf else None


def _tried_drawing(denoiser: NetworkDenoiser, n: int, steps: int, seed: int) -> Tensor | None:
    """Draws of a reading; None also where the network refuses what it is told under it."""
    try:
        return _drawn(denoiser, n, steps, seed)
    except Exception:  # whatever a network of the user's raises for a label that it does not know
        return None


def _score(reading: Reading, draws: Tensor | None, seed: int) -> float:
    """How much better than a linear estimator a reading is on its draws; levels that its schedule lacks count as 0."""
    if draws is None:
        return -math.inf
    errors = tried(reading, draws, seed)
    return gain_of(torch.ones_like(errors), errors)


def _is_told(reading: Reading, declared: Reading, draws: Tensor | None, seed: int) -> bool:
    """Whether draws of a reading can be evidence for it.

    On another schedule a network denoises at another noise level. What it draws there may be smoother, and so easier to
    denoise. So such a reading must also be better on the draws of the declared one, where those are any good. A network
    that predicts x0 draws smoothly on schedules of all kinds.
    """
    if reading.kind != "schedule":
        return reading.kind == "prediction"
    if reading.denoiser.prediction == "x0":
        return False
    return draws is None or gain_of(tried(declared, draws, seed), tried(reading, draws, seed)) > THRESHOLD
