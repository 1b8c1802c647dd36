"""Draws against recordings: equal laws agree, another scale, another spectrum and another lead do not."""

import math

import pytest
import torch

from midguide.domains.ecg.checks import BANDS_HZ, LEVELS, amplitude_quantiles, band_power, likeness
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import simulate
from midguide.errors import ShapeError


@pytest.fixture(scope="module")
def patients():
    """Two sets of 150 simulated patients; six such pairs differed by at most 1.0 dB and 0.2."""

    def some(first):
        recordings = [
            nine_leads(simulate(i, seconds=2.56, rate_hz=100.0), EcgFormat()) for i in range(first, first + 150)
        ]
        return torch.stack(recordings)

    return some(0), some(150)


def test_other_patients_of_the_same_law_agree(patients):
    found = likeness(*patients, 100.0)
    assert found.agrees
    assert found.power_db.shape == (9, len(BANDS_HZ))
    assert found.amplitude.shape == (9, len(LEVELS))


def test_scale_shows_in_decibels_and_in_quantiles(patients):
    found = likeness(2 * patients[0], patients[0], 100.0)
    assert torch.allclose(found.power_db, torch.full((9, 4), 20 * math.log10(2), dtype=torch.float64), atol=1e-9)
    assert not found.agrees


@pytest.mark.parametrize("change", ["smooth", "other lead", "flat"])
def test_wrong_draws_do_not_agree(patients, change):
    wrong = {
        "smooth": torch.nn.functional.avg_pool1d(patients[0], 7, stride=1, padding=3),  # no QRS edges
        "other lead": patients[0].roll(1, dims=1),
        "flat": 0.01 * patients[0],
    }[change]
    assert not likeness(wrong, patients[1], 100.0).agrees


def test_power_of_a_sine_is_in_its_band_and_that_of_white_noise_is_spread_by_width():
    times = torch.arange(256) / 100
    sine = torch.sin(2 * math.pi * 12.5 * times).expand(1, 9, 256)
    power = band_power(sine, 100.0)[0]
    assert float(power[2] / power.sum()) > 0.999
    noise = torch.randn(400, 9, 256, generator=torch.Generator().manual_seed(0))
    per_hertz = band_power(noise, 100.0) / torch.tensor([high - low for low, high in BANDS_HZ])
    # 3,600 spectra of 8 or more bins: relative standard deviation below 1 %; bins at the ends of a band add 10 %
    assert torch.allclose(per_hertz / per_hertz.mean(), torch.ones(9, 4, dtype=torch.float64), atol=0.25)


def test_quantiles_are_those_of_numpy_up_to_one_place():
    values = torch.arange(1001.0).expand(1, 9, 1001)
    assert amplitude_quantiles(values)[0].tolist() == [20, 100, 250, 500, 750, 900, 980]


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError):
        likeness(torch.zeros(3, 9, 10), torch.zeros(3, 9, 12), 100.0)
    with pytest.raises(ShapeError):
        likeness(torch.zeros(3, 12, 10), torch.zeros(3, 12, 10), 100.0)
