"""Names and relations of the twelve leads."""

import itertools

import pytest
import torch

from midguide.domains.ecg.leads import (
    LIMB,
    MODELED,
    TWELVE,
    EcgFormat,
    determined,
    einthoven_error,
    lead_name,
    limb_leads,
    parse_leads,
    twelve_leads,
    with_einthoven,
)
from midguide.errors import ConfigError, ShapeError


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_augmented_leads_satisfy_goldberger_and_sum_to_zero():
    twelve = twelve_leads(with_einthoven(noise(4, 9, 50)))
    one, two, three, right, left, foot = twelve[:, :6].unbind(1)
    assert torch.allclose(three, two - one)
    assert torch.allclose(right, -(one + two) / 2)
    assert torch.allclose(left, (one - three) / 2)
    assert torch.allclose(foot, (two + three) / 2)
    assert torch.allclose(right + left + foot, torch.zeros(()).double(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_satisfy_einthoven_to_a_nanovolt(dtype):
    """1e-6 mV at amplitudes of 3 mV is what single precision can do."""
    nine = with_einthoven(noise(4, 9, 500).to(dtype))
    assert float(einthoven_error(twelve_leads(nine)).max()) < 1e-6


def test_the_error_sees_a_violation():
    twelve = twelve_leads(with_einthoven(noise(2, 9, 5)))
    twelve[1, 4, 3] += 0.25
    assert einthoven_error(twelve).tolist() == pytest.approx([0.0, 0.25], abs=1e-12)


def test_the_projection_is_orthogonal_and_keeps_what_was_observed():
    nine = noise(3, 9, 20)
    residual = (nine[:, 0] + nine[:, 2] - nine[:, 1]) / 3
    want = nine[:, :3] - torch.stack([residual, -residual, residual], dim=1)
    assert torch.allclose(with_einthoven(nine)[:, :3], want)
    for count in (1, 2):
        for observed in itertools.combinations(LIMB[:3], count):
            kept = [MODELED.index(name) for name in observed]
            got = with_einthoven(nine, observed)
            assert torch.allclose(got[:, kept], nine[:, kept], atol=1e-12)
            assert float(einthoven_error(got).max()) == 0
    assert torch.equal(with_einthoven(nine)[:, 3:], nine[:, 3:])


def test_the_projection_keeps_what_was_observed_at_each_time():
    nine, kept = noise(9, 40), noise(9, 40) > 0
    kept[1] &= ~(kept[0] & kept[2])  # with all three observed, none could stay
    got = with_einthoven(nine, kept)
    assert torch.allclose(got[kept], nine[kept], atol=1e-12)
    for time in range(40):
        names = [name for name, row in zip(MODELED, kept[:, time], strict=True) if row]
        assert torch.equal(got[:, time], with_einthoven(nine[:, time : time + 1], names)[:, 0])


@pytest.mark.parametrize("pair", list(itertools.combinations(LIMB, 2)))
def test_any_two_limb_leads_determine_all_six(pair):
    twelve = twelve_leads(with_einthoven(noise(9, 30)))
    known = torch.stack([twelve[TWELVE.index(name)] for name in pair])
    assert torch.allclose(limb_leads(known, pair), twelve[:2])
    assert determined(pair) == LIMB


def test_one_limb_lead_determines_no_other():
    assert determined(["I", "V3"]) == ("I", "V3")
    with pytest.raises(ShapeError, match="two limb leads"):
        limb_leads(noise(2, 5), ("I", "V3"))


def test_names_are_read_in_any_case_and_order():
    assert [lead_name(text) for text in ("avr", "AVL", "Lead II", "v6", " i ")] == ["aVR", "aVL", "II", "V6", "I"]
    assert parse_leads("V5,i") == ("I", "V5")
    assert parse_leads("holter") == ("II", "V1", "V5")


@pytest.mark.parametrize("text", ["V7", "I,X", "", " , "])
def test_unknown_and_missing_leads_are_refused(text):
    with pytest.raises(ConfigError, match="lead"):
        parse_leads(text)


def test_other_numbers_of_leads_are_refused():
    for function in (twelve_leads, with_einthoven, einthoven_error):
        with pytest.raises(ShapeError):
            function(noise(8, 5))


@pytest.mark.parametrize("change", [{"rate_hz": 0.0}, {"unit_mv": -1.0}, {"high_pass_hz": 60.0}, {"leads": ("I",)}])
def test_impossible_formats_are_refused(change):
    with pytest.raises(ConfigError):
        EcgFormat(**change)
