"""Simulated recordings: seeds, relations between leads, rhythms."""

import numpy as np
import pytest
import torch

from midguide.domains.ecg.leads import einthoven_error
from midguide.domains.ecg.recordings import check_complete, high_passed
from midguide.domains.ecg.simulator import CONDITIONS, DOWER, simulate
from midguide.errors import ConfigError


def beats(recording):
    """Times of R peaks: local maxima, over the leads, of the steepest changes; at least 0.25 s apart."""
    slope = high_passed(recording.signal.numpy(), recording.rate_hz, 0.6)
    energy = np.square(np.diff(slope)).sum(0)
    found, order = [], np.argsort(energy)[::-1]
    for i in order[energy[order] > 0.3 * energy.max()]:
        if all(abs(i - j) > 0.25 * recording.rate_hz for j in found):
            found.append(i)
    return np.sort(found) / recording.rate_hz


@pytest.mark.parametrize("condition", CONDITIONS)
def test_recordings_are_whole_and_satisfy_einthoven(condition):
    recording = simulate(1, condition)
    check_complete(recording, seconds=10.0)
    assert float(einthoven_error(recording.signal)) < 1e-12
    assert float(recording.signal.abs().max()) < 5.0


def test_a_seed_is_a_patient():
    assert torch.equal(simulate(3, "AF").signal, simulate(3, "AF").signal)
    assert not torch.equal(simulate(3, "AF").signal, simulate(4, "AF").signal)


def test_simulating_leaves_the_global_state_alone():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    simulate(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_a_patient_is_the_same_at_every_rate_up_to_noise():
    slow, fast = simulate(5, rate_hz=100.0).signal, simulate(5, rate_hz=500.0).signal[:, ::5]
    # Noise of 0.008 mV in each, 12,000 values: 6.5 times its root-two is passed for less than one seed in 1e5.
    assert float((slow - fast).abs().max()) < 6.5 * 2**0.5 * 0.008 * 1.5  # 1.5: aVL and aVF combine two leads


def test_rhythms_are_those_of_their_names():
    intervals = {name: [np.diff(beats(simulate(seed, name))) for seed in range(6)] for name in ("NORM", "SB", "AF")}
    means = {name: np.mean([row.mean() for row in rows]) for name, rows in intervals.items()}
    spreads = {name: np.mean([row.std() / row.mean() for row in rows]) for name, rows in intervals.items()}
    assert means["SB"] > 1.0 > means["NORM"] > 0.6
    # Gamma intervals of shape 20 vary by 22 %, sinus rhythm by 3 %.
    assert spreads["AF"] > 0.12
    assert max(spreads["NORM"], spreads["SB"]) < 0.06


def test_bundle_branch_blocks_widen_the_activation():
    def width(condition):
        """Mean time per beat in which some lead changes by more than a fifth of its fastest change."""
        times = []
        for seed in range(8):
            recording = simulate(seed, condition, rate_hz=100.0)
            slope = np.abs(np.diff(recording.signal.numpy())).max(0)
            times.append((slope > 0.2 * slope.max()).sum() / len(beats(recording)))
        return np.mean(times)

    assert width("LBBB") > 1.3 * width("NORM")
    assert width("RBBB") > 1.1 * width("NORM")


def test_dowers_matrix_has_the_published_inverse():
    """First row (X from V1 to V6, I, II) of the inverse Dower matrix, Edenbrandt and Pahlm 1988."""
    published = [-0.172, -0.074, 0.122, 0.231, 0.239, 0.194, 0.156, -0.010]
    assert np.linalg.pinv(DOWER)[0] == pytest.approx(published, abs=1e-3)


def test_impossible_patients_are_refused():
    with pytest.raises(ConfigError, match="unknown condition"):
        simulate(0, "STEMI")
    with pytest.raises(ConfigError, match="not a recording"):
        simulate(0, seconds=0.0)
