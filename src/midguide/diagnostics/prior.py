"""Is a network used as it was trained? Its denoising error under the declared conventions, and under others.

A trained denoiser is the least-squares estimate of clean data, so of all readings of one network the right one has the
smallest error. A reading is another prediction, schedule, value range, order of channels or label. Every reading is
measured at the same ratios of noise to the spread of the data: there, right readings have equal errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion.schedules import SCHEDULES, DiscreteVP, Schedule, Time, make_schedule
from midguide.errors import DataError, ShapeError, UnsupportedProblem
from midguide.priors.base import Denoiser
from midguide.priors.latent import LatentPrior
from midguide.priors.network import PREDICTIONS, NetworkDenoiser

THRESHOLD = 0.03  # natural logarithm of the ratio of errors, averaged over noise levels and images
SCHEDULE_THRESHOLD = 0.01  # the same for schedules that are better on average, and at no level worse by as much
OFFSET_THRESHOLD = 0.01  # the same at the cleanest times, where an offset of one index matters
RATIOS = tuple(0.04 * 100 ** (i / 8) for i in range(9))  # of noise to the spread of the data: 0.04 to 4
SCALE = 1.5  # a spread of unbounded data outside 1/SCALE to SCALE may be a scale that was forgotten
CLEANEST = 4  # times at which offsets are judged
RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
RANDOM = "the network gives two answers to one question: is it in training mode, with dropout?"
LATENT_DIFFUSION = ("vp-scaled-linear:0.00085,0.012",)


class LevelError(NamedTuple):
    """Denoising at one noise level.

    Args:
        time: time of the schedule.
        ratio: standard deviation of the noise over that of the data.
        error: `E|D(x_t, t) - x_0|^2` over the variance of the data.
        linear: the same of the best estimator that only knows mean and variance of a pixel.
        noise: `E|eps_hat|^2` per entry; about 1 where noise dominates.
    """

    time: Time
    ratio: float
    error: float
    linear: float
    noise: float


class Finding(NamedTuple):
    """A likely mistake.

    Args:
        kind: `images`, `prediction`, `schedule`, `value range`, `scale`, `channels`, `label`, `offset`, `weights`,
            `random`, `untrained`.
        message: one sentence.
        gain: factor by which errors are smaller under the other reading; 1 where there is none.
    """

    kind: str
    message: str
    gain: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PriorReport:
    """What `check_prior` found.

    Args:
        levels: the declared reading by noise level, cleanest first.
        findings: likely mistakes, the most likely first; none where the declared conventions fit best.
        next_best: the best of the other readings and the factor between its errors and the declared ones.
    """

    levels: tuple[LevelError, ...]
    findings: tuple[Finding, ...]
    next_best: tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to use the network.

    Args:
        kind, message: of the finding, should it fit best.
        denoiser: the network with these conventions.
        view: clean data as this reading sees them, from the declared ones; commutes with adding noise up to its scale.
    """

    kind: str
    message: str
    denoiser: NetworkDenoiser
    view: Callable[[Tensor], Tensor] = field(default=lambda x: x)


def check_prior(
    denoiser: NetworkDenoiser, images: Tensor, *, seed: int = 0, other: NetworkDenoiser | None = None
) -> PriorReport:
    """Measure a network prior on clean data, and name the convention that is likely wrong.

    Args:
        denoiser: the prior as declared.
        images: clean data in the declared value range, shape (N, *event); a handful suffices, best of the kind that it
            was trained on.
        seed: seed of the noise.
        other: the same prior with the other weights of its file, averaged (EMA) or last, where it holds both.

    Raises:
        ShapeError: If the data do not have the shape of the prior, or the network not the declared output, as one that
            also predicts a variance which is not split off.
        DataError: If all values are equal.

    Example:
        >>> from midguide.priors.gaussian import Gaussian
        >>> exact, schedule = Gaussian(torch.zeros(8), 1.0), DiscreteVP.linear()
        >>> network = lambda x, index: exact(x, int(index[0]) + 1)  # predicts x0
        >>> wrong = NetworkDenoiser(network, schedule, "eps", (8,), value_range=None)
        >>> [finding.message for finding in check_prior(wrong, exact.sample(64)).findings]
        ['errors fit an x0-prediction, not eps']
    """
    if images.shape[1:] != denoiser.event_shape or not len(images):
        raise ShapeError(f"the prior takes {denoiser.event_shape}, the data are {tuple(images.shape)}")
    if not bool(images.std(correction=0) > 0):
        raise DataError("the data are constant, nothing can be measured on them", hint="give photographs, or draws")
    findings = []
    if (looks := range_of(images, denoiser.value_range)) and denoiser.value_range:
        findings.append(Finding("images", f"values look like {show(looks)}, declared {show(denoiser.value_range)}"))
        images = moved(images, looks, denoiser.value_range)
    with torch.no_grad():
        levels = tuple(levels_of(denoiser, images, seed))
        if not repeats(denoiser, images, levels[len(levels) // 2].time):
            findings.append(Finding("random", RANDOM))
        declared = Reading(kind="", message="", denoiser=denoiser)
        base = _errors(declared, images, RATIOS, seed)
        errors = {reading: tried(reading, images, seed) for reading in _readings(denoiser, images, other)}
        gains = {reading: gain_of(base, error) for reading, error in errors.items()}
        best = max(gains, key=gains.__getitem__)
        fits_better = gains[best] > THRESHOLD or (best.kind == "schedule" and _everywhere(base, errors[best]))
        used = errors[best] if fits_better else base
        if gain_of(used, torch.ones_like(used)) > THRESHOLD:
            message = "the network denoises worse than the linear estimator, under any reading: is it trained?"
            findings.append(Finding("untrained", message))
        elif fits_better:
            findings.append(Finding(best.kind, best.message, math.exp(gains[best])))
        elif offset := _offset(denoiser, images, seed):
            findings.append(offset)
    return PriorReport(levels=levels, findings=tuple(findings), next_best=(best.kind, math.exp(-gains[best])))


def network_and_data(prior: Denoiser, signals: Tensor) -> tuple[NetworkDenoiser, Tensor]:
    """What `check_prior` takes: the network of a prior and, for a prior of latents, the latents of the signals.

    Raises:
        UnsupportedProblem: If the prior is not a network.
    """
    network = network_of(prior)
    if prior.autoencoder is None:
        return network, signals
    with torch.no_grad():
        return network, prior.autoencoder.encode(signals)


def network_of(prior: Denoiser) -> NetworkDenoiser:
    """The network of a prior, of latents or not.

    Raises:
        UnsupportedProblem: If the prior is not a network.
    """
    network = prior.denoiser if isinstance(prior, LatentPrior) else prior
    if not isinstance(network, NetworkDenoiser):
        raise UnsupportedProblem(
            f"nothing to check: the prior is a {type(network).__name__}, which computes `E[x_0 | x_t]` itself",
            hint="prediction, schedule, label and weights are conventions of networks",
        )
    return network


def _readings(denoiser: NetworkDenoiser, images: Tensor, other: NetworkDenoiser | None) -> Iterator[Reading]:
    """All single changes of the declared conventions but offsets of the label."""
    if other is not None:
        names = ("average (EMA) of the weights", "last weights")
        fits, used = names if denoiser.provenance.get("weights") == "last" else reversed(names)
        yield Reading(kind="weights", message=f"errors fit the {fits} in the file, not the {used}", denoiser=other)
    spread = float(images.std(correction=0))
    if denoiser.value_range is None and not 1 / SCALE < spread < SCALE:
        message = f"errors fit data times {1 / spread:.3g}, of unit variance: was the scale of latents forgotten?"
        yield Reading(kind="scale", message=message, denoiser=denoiser, view=lambda x: x / spread)
    yield from conventions(denoiser)
    for limits in RANGES:
        if denoiser.value_range and limits != denoiser.value_range:
            message = f"errors fit data in {show(limits)}, declared {show(denoiser.value_range)}"
            yield Reading(kind="value range", message=message, denoiser=denoiser, view=_mover(denoiser, limits))
    if len(denoiser.event_shape) == 3 and denoiser.event_shape[0] == 3:
        message = "errors fit the channels in reverse order: BGR, not RGB"
        yield Reading(kind="channels", message=message, denoiser=denoiser, view=lambda x: x.flip(1))
    for words, label in _labels(denoiser):
        message = f"errors fit a network that is told {words}"
        yield Reading(kind="label", message=message, denoiser=_changed(denoiser, label=label))


def conventions(denoiser: NetworkDenoiser) -> Iterator[Reading]:
    """The other predictions, and the other schedules."""
    for name in PREDICTIONS:
        if name != denoiser.prediction:
            message = f"errors fit {_article(name)}-prediction, not {denoiser.prediction}"
            yield Reading(kind="prediction", message=message, denoiser=_changed(denoiser, prediction=name))
    others = {name: entry.make() for name, entry in SCHEDULES.items() if not entry.required()}
    others |= {name: make_schedule(name) for name in LATENT_DIFFUSION}
    for name, schedule in others.items():
        if schedule != denoiser.schedule:
            message = f"errors fit the schedule {name}, not the one declared"
            changed = _changed(denoiser, schedule=schedule, label=_label_of(schedule, like=denoiser))
            yield Reading(kind="schedule", message=message, denoiser=changed)


def _label_of(schedule: Schedule, *, like: NetworkDenoiser) -> Callable[[Time], float]:
    """The labels of a schedule, as integers where those of another denoiser are and there are such."""
    integers = isinstance(like.label(like.schedule.noisiest), int) and isinstance(schedule, DiscreteVP)
    return (lambda t: int(schedule.label(t))) if integers else schedule.label


def _labels(denoiser: NetworkDenoiser) -> Iterator[tuple[str, Callable[[Time], float]]]:
    told, schedule = denoiser.label, denoiser.schedule
    yield "the time divided by 1000 (0..1, not 0..999)", lambda t: told(t) / 1000
    yield "the time multiplied by 1000 (0..999, not 0..1)", lambda t: 1000 * told(t)
    yield "ln(sigma) / 4, as EDM networks inside their preconditioning", lambda t: math.log(schedule.level(t).ratio) / 4


def _offset(denoiser: NetworkDenoiser, images: Tensor, seed: int) -> Finding | None:
    """An index that is off by one, judged at the cleanest times, where neighboring levels differ most.

    A network that denoises too little there also gains from a label that is larger by one. But it gains even more from
    a still larger one. The index is off only where the errors are least at exactly one.
    """
    if not isinstance(denoiser.schedule, DiscreteVP):
        return None
    spread = float(images.std(correction=0))
    ratios = tuple(denoiser.schedule.level(t).ratio / spread for t in range(3, 3 + CLEANEST))
    told = denoiser.label
    shifted = {by: _changed(denoiser, label=lambda t, by=by: told(t) + by) for by in (-2, -1, 0, 1, 2)}
    errors = {
        by: _errors(Reading(kind="", message="", denoiser=other), images, ratios, seed) for by, other in shifted.items()
    }
    gains = {by: gain_of(errors[0], error) for by, error in errors.items()}
    best = max(gains, key=gains.__getitem__)
    if abs(best) != 1 or gains[best] < OFFSET_THRESHOLD:
        return None
    message = f"errors fit an index that is {'larger' if best > 0 else 'smaller'} by one than the one it is told"
    return Finding("offset", message, math.exp(gains[best]))


def _errors(reading: Reading, images: Tensor, ratios: tuple[float, ...], seed: int) -> Tensor:
    """Denoising error over that of the linear estimator, shape (ratios, images); NaN at ratios the schedule has not.

    The times of a schedule have only nearly these ratios; compared with the linear estimator at the same time that does
    not matter.
    """
    x0, found, schedule = reading.view(images), [], reading.denoiser.schedule
    spread = float(x0.std(correction=0))
    for number, ratio in enumerate(ratios):
        t = _time(schedule, ratio * spread)
        noise = _noise(images, seed, number)
        # a reading that permutes entries permutes those of the noise as well
        noise = reading.view(noise) if reading.kind == "channels" else noise
        if t is None:
            found.append(x0.new_full((len(x0),), math.nan))
        else:
            found.append(_relative(reading.denoiser, x0, noise, t)[0] / _linear(schedule.level(t).ratio / spread))
    return torch.stack([row.double().cpu() for row in found])


def tried(reading: Reading, images: Tensor, seed: int) -> Tensor:
    """The errors of a reading, infinite where the network refuses what it is told under it."""
    try:
        return _errors(reading, images, RATIOS, seed)
    except Exception:  # whatever a network of the user's raises for a label that it does not know
        return torch.full((len(RATIOS), len(images)), torch.inf, dtype=torch.float64)


def levels_of(denoiser: NetworkDenoiser, images: Tensor, seed: int) -> Iterator[LevelError]:
    spread = float(images.std(correction=0))
    for number, ratio in enumerate(RATIOS):
        t = _time(denoiser.schedule, ratio * spread)
        if t is not None:
            error, noise = _relative(denoiser, images, _noise(images, seed, number), t)
            actual = denoiser.schedule.level(t).ratio / spread
            yield LevelError(t, actual, float(error.mean()), _linear(actual), noise)


def _relative(denoiser: NetworkDenoiser, x0: Tensor, noise: Tensor, t: Time) -> tuple[Tensor, float]:
    """Squared error of each image over the variance of the data, shape (N,), and the mean square of the noise seen."""
    level = denoiser.schedule.level(t)
    x_t = level.alpha * x0 + level.sigma * noise
    denoised = denoiser(x_t, t).double()
    eps = (x_t.double() - level.alpha * denoised) / level.sigma
    error = (denoised - x0).square().flatten(1).mean(1) / x0.double().var(correction=0)
    return error.nan_to_num(torch.inf), float(eps.square().mean())


def _linear(ratio: float) -> float:
    """The error, over the variance of the data, of the best estimator that only knows mean and variance."""
    return ratio**2 / (1 + ratio**2)


def gain_of(base: Tensor, other: Tensor) -> float:
    """Mean logarithm of the ratio of errors."""
    return float(_gains(base, other).mean())


def _everywhere(base: Tensor, other: Tensor) -> bool:
    """Whether small gains are trusted, because no level contradicts them: another schedule moves all levels."""
    gains = _gains(base, other)
    return float(gains.mean()) > SCHEDULE_THRESHOLD and float(gains.min()) > -SCHEDULE_THRESHOLD


def _gains(base: Tensor, other: Tensor) -> Tensor:
    """Logarithm of the ratio of errors, shape (ratios,); a level that one of them lacks counts as 0, no evidence."""
    bound = 1e12  # an error of zero or infinity counts as a very small or large one
    ratios = base.clamp(1 / bound, bound).log() - other.clamp(1 / bound, bound).log()
    return ratios.nan_to_num(0.0).mean(1)


def _time(schedule: Schedule, ratio: float) -> Time | None:
    """The time of a noise-to-signal ratio, None where the schedule has none within a fifth of it."""
    t = schedule.time_at(ratio)
    return t if abs(math.log(schedule.level(t).ratio / ratio)) < 0.2 else None


def _noise(images: Tensor, seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + number)
    return torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)


def _changed(
    denoiser: NetworkDenoiser,
    *,
    prediction: str | None = None,
    schedule: Schedule | None = None,
    label: Callable[[Time], float] | None = None,
) -> NetworkDenoiser:
    """The same network under another convention."""
    return NetworkDenoiser(
        denoiser.network,
        schedule or denoiser.schedule,
        prediction or denoiser.prediction,
        denoiser.event_shape,
        value_range=denoiser.value_range,
        learned_variance=denoiser.learned_variance,
        label=label or denoiser.label,
        dtype=denoiser.dtype,
        device=denoiser.device,
        channels_last=denoiser.channels_last,
        chunk=denoiser.chunk,
    )


def repeats(denoiser: NetworkDenoiser, images: Tensor, t: Time) -> bool:
    return torch.allclose(denoiser(images, t), denoiser(images, t), rtol=0.0, atol=0.0, equal_nan=True)


def range_of(images: Tensor, declared: tuple[float, float] | None) -> tuple[float, float] | None:
    """The usual range that data look like they are in, if it is not the declared one."""
    if declared is None:
        return None
    low, high, span = float(images.min()), float(images.max()), declared[1] - declared[0]
    slack = 0.05 * (high - low)
    fits = [r for r in RANGES if r[0] - slack <= low and high <= r[1] + slack and high - low > 0.25 * (r[1] - r[0])]
    narrowest = min(fits, key=lambda r: r[1] - r[0], default=declared)
    outside = low < declared[0] - 0.25 * span or high > declared[1] + 0.25 * span
    unused = narrowest[1] - narrowest[0] <= 0.5 * span  # in [-1, 1]: not one dark pixel
    return narrowest if narrowest != declared and (outside or unused) else None


def _mover(denoiser: NetworkDenoiser, to: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    declared = denoiser.value_range or to
    return lambda x: moved(x, declared, to)


def moved(x: Tensor, old: tuple[float, float], new: tuple[float, float]) -> Tensor:
    """Values of one range in another."""
    return new[0] + (x - old[0]) * ((new[1] - new[0]) / (old[1] - old[0]))


def show(value_range: tuple[float, float]) -> str:
    """A range, as messages show it."""
    return f"[{value_range[0]:g}, {value_range[1]:g}]"


def _article(name: str) -> str:
    return f"{'an' if name in ('eps', 'x0') else 'a'} {name}"
