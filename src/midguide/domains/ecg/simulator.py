"""SIMULATED twelve-lead electrocardiograms, for tests and demonstrations without data. Never for claims.

Every beat moves the heart's dipole by a sum of Gaussian waves. This is the closed solution of the dynamical model of
McSharry et al. (for one lead) and of Sameni et al. (for the dipole). Dower's matrix projects the dipole onto the leads.
Patients differ in heart rate, amplitudes, widths, heart axis and torso; there are respiration, noise and, in atrial
fibrillation, irregular beats and f-waves.

Not simulated: ischaemia, ST changes, ectopic beats, pacing, flutter, misplaced electrodes. A few dozen numbers describe
a patient, and random matrices set which chest leads go with which limb leads. So reconstruction is far easier than on
real patients, and diagnoses from few leads mean nothing clinically.

References: McSharry, Clifford, Tarassenko, Smith 2003, "A dynamical model for generating synthetic electrocardiogram
signals", IEEE TBME 50(3); Sameni, Clifford, Jutten, Shamsollahi 2007, "Multichannel ECG and noise modeling"; Dower,
Machado, Osborne 1980, "On deriving the electrocardiogram from vectorcardiographic leads".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from midguide.domains.ecg.leads import TWELVE, twelve_leads
from midguide.domains.ecg.recordings import Recording
from midguide.errors import ConfigError, unknown
from midguide.maths.rng import stream_seed

# Rows V1 to V6, I, II; columns left, down, back.
DOWER = np.array(
    [
        (-0.515, 0.157, -0.917),
        (0.044, 0.164, -1.387),
        (0.882, 0.098, -1.277),
        (1.213, 0.127, -0.601),
        (1.125, 0.127, -0.086),
        (0.831, 0.076, 0.230),
        (0.632, -0.235, 0.059),
        (0.235, 1.066, -0.132),
    ]
)


class Wave(NamedTuple):
    """One wave of a beat: seconds after the R peak (for T at one beat per second), width, dipole in mV."""

    time: float
    width: float
    left: float
    down: float
    back: float


P_WAVES = (Wave(-0.170, 0.022, 0.04, 0.10, -0.05), Wave(-0.140, 0.025, 0.06, 0.06, 0.03))
QRS = (
    Wave(-0.024, 0.008, -0.12, -0.05, -0.15),
    Wave(0.000, 0.012, 0.85, 0.75, 0.25),
    Wave(0.010, 0.011, 0.40, 0.20, 0.35),
    Wave(0.026, 0.011, -0.05, -0.15, 0.35),
)
RIGHT_BLOCK = (*QRS, Wave(0.065, 0.018, -0.45, 0.00, -0.45))
LEFT_BLOCK = (
    Wave(-0.030, 0.020, 0.30, 0.20, 0.30),
    Wave(0.000, 0.026, 0.60, 0.30, 0.55),
    Wave(0.045, 0.024, 0.65, 0.15, 0.60),
    Wave(0.078, 0.020, 0.25, 0.00, 0.35),
)
T_WAVES = (Wave(0.270, 0.055, 0.16, 0.12, -0.12), Wave(0.310, 0.035, 0.12, 0.10, -0.06))
DISCORDANT_T = (Wave(0.300, 0.055, -0.15, -0.04, -0.16), Wave(0.340, 0.035, -0.10, -0.04, -0.10))


class Condition(NamedTuple):
    """Waves before, in and after the ventricles' activation, and the range of seconds between beats."""

    atria: tuple[Wave, ...]
    ventricles: tuple[Wave, ...]
    recovery: tuple[Wave, ...]
    intervals: tuple[float, float]


CONDITIONS = {
    "NORM": Condition(P_WAVES, QRS, T_WAVES, (0.65, 1.0)),
    "RBBB": Condition(P_WAVES, RIGHT_BLOCK, T_WAVES, (0.65, 1.0)),
    "LBBB": Condition(P_WAVES, LEFT_BLOCK, DISCORDANT_T, (0.65, 1.0)),
    "AF": Condition((), QRS, T_WAVES, (0.5, 0.9)),
    "SB": Condition(P_WAVES, QRS, T_WAVES, (1.1, 1.45)),
}
"""The classes of the MGPS paper: normal, right and left bundle branch block, atrial fibrillation, bradycardia."""


def simulate(seed: int, condition: str = "NORM", *, seconds: float = 10.0, rate_hz: float = 500.0) -> Recording:
    """One SIMULATED patient.

    Args:
        seed: of everything; equal seeds give the same patient at every rate, up to the noise.
        condition: one of `CONDITIONS`.
        seconds: duration.
        rate_hz: samples per second.

    Returns:
        Twelve leads in mV that satisfy the relations between limb leads to rounding.

    Raises:
        ConfigError: If the condition is unknown, or there is less than one sample.

    Example:
        >>> simulate(0, "AF").signal.shape
        torch.Size([12, 5000])
    """
    if condition not in CONDITIONS:
        raise unknown("condition", condition, CONDITIONS)
    count = round(seconds * rate_hz)
    if count < 1:
        raise ConfigError(f"{seconds:g} s at {rate_hz:g} samples per second are not a recording")
    rng = np.random.default_rng(stream_seed(seed, "ecg", condition))
    shape = CONDITIONS[condition]
    times = np.arange(count) / rate_hz
    beats = _beats(shape, condition == "AF", seconds, rng)
    waves = np.array(shape.atria + shape.ventricles + shape.recovery)
    waves[:, 1] *= np.exp(0.08 * rng.standard_normal(len(waves)))
    dipoles = waves[:, 2:] * np.exp(0.2 * rng.standard_normal((len(waves), 1)))
    dipoles += 0.12 * np.linalg.norm(dipoles, axis=1, keepdims=True) * rng.standard_normal(dipoles.shape)
    torso = DOWER * np.exp(0.12 * rng.standard_normal(DOWER.shape)) @ _rotation(0.25 * rng.standard_normal(3))
    weights = torso @ dipoles.T * np.exp(0.15 * rng.standard_normal())
    weights += 0.04 * np.abs(weights).max(0) * rng.standard_normal(weights.shape)  # what no dipole explains
    eight = weights @ _activity(waves, len(shape.recovery), beats, times)
    if condition == "AF":
        eight += torso @ _f_waves(times, rng)
    eight = _with_respiration(eight, times, rng)
    eight += 0.008 * rng.standard_normal(eight.shape)
    one, two, chest = eight[6], eight[7], eight[:6]
    nine = torch.from_numpy(np.concatenate([[one, two, two - one], chest]))
    return Recording(f"SIMULATED-{condition}-{seed}", twelve_leads(nine), TWELVE, rate_hz)


def _beats(shape: Condition, irregular: bool, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Times of R peaks, and the interval before each, shape (2, beats); also a beat before and after the recording.

    Sinus rhythm follows respiration (0.25 Hz) and blood pressure (0.1 Hz), the two peaks of McSharry's spectrum.
    """
    mean, phases = rng.uniform(*shape.intervals), rng.uniform(0, 2 * np.pi, 2)
    now, beats = -mean * rng.uniform(1, 2), []
    while now < seconds + 1:
        rhythm = 0.04 * np.sin(2 * np.pi * 0.25 * now + phases[0]) + 0.02 * np.sin(2 * np.pi * 0.1 * now + phases[1])
        interval = mean * (rng.gamma(20.0, 1 / 20.0) if irregular else 1 + rhythm + 0.005 * rng.standard_normal())
        interval = max(interval, 0.35)  # the ventricles' refractory time
        now += interval
        beats.append((now, interval))
    return np.array(beats).T


def _activity(waves: np.ndarray, recovery: int, beats: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How strong each wave is, shape (waves, time); recovery comes later and lasts longer at slow rates."""
    stretch = np.ones((len(waves), beats.shape[1]))
    stretch[len(waves) - recovery :] = beats[1] ** 0.4
    peaks = beats[0] + waves[:, :1] * stretch
    widths = waves[:, 1:2] * stretch
    return np.exp(-0.5 * ((times[:, None] - peaks[:, None, :]) / widths[:, None, :]) ** 2).sum(-1)


def _f_waves(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The dipole of fibrillating atria, strongest towards V1, shape (3, time)."""
    rates, phases = rng.uniform(4.5, 8.0, 2), rng.uniform(0, 2 * np.pi, 4)
    wobble = 0.8 * np.sin(2 * np.pi * 0.3 * times + phases[2])
    wave = np.sin(2 * np.pi * rates[0] * times + phases[0] + wobble)
    wave += 0.5 * np.sin(2 * np.pi * rates[1] * times + phases[1] - wobble)
    return rng.uniform(0.03, 0.07) * np.array([[-0.4], [0.4], [-0.8]]) * wave


def _with_respiration(leads: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Amplitudes and baseline that follow the breath."""
    breath = np.sin(2 * np.pi * rng.uniform(0.2, 0.3) * times + rng.uniform(0, 2 * np.pi))
    return leads * (1 + 0.05 * breath) + 0.04 * rng.standard_normal((len(leads), 1)) * breath


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation about a vector by its length, in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
