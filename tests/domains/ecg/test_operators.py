"""Missing blocks and missing leads."""

from __future__ import annotations

import pytest
import torch

from midguide.domains.ecg.leads import MODELED
from midguide.domains.ecg.operators import missing_block, missing_leads
from midguide.errors import ConfigError, ShapeError
from midguide.operators import make_operator


def leads(mask: torch.Tensor) -> list[str]:
    """Leads that are measured somewhere."""
    return [name for name, row in zip(MODELED, mask, strict=True) if bool(row.any())]


@pytest.mark.parametrize("samples", [256, 7])
def test_the_two_blocks_hide_half_of_every_lead_and_together_measure_all(samples: int) -> None:
    first = missing_block((9, samples), hidden="first").mask
    second = missing_block((9, samples), hidden="second").mask
    for mask in (first, second):
        assert (~mask).sum(1).tolist() == [samples // 2] * 9
    assert bool((first | second).all())
    assert not bool(first[:, 0].any() or second[:, -1].any())


def test_random_blocks_come_from_the_seed_and_both_occur() -> None:
    masks = [missing_block((9, 8), seed=seed, hidden="random", count=64).mask for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    share = float(masks[0][:, 0, 0].float().mean())
    assert 0.25 <= share <= 0.75  # 64 coins: outside for one seed in 3e4
    assert torch.equal(missing_block((9, 8), seed=0, hidden="random").mask, masks[0][0])


@pytest.mark.parametrize(
    ("observed", "measured"),
    [
        ("I", ["I"]),
        ("smartwatch", ["I"]),
        ("six-lead", ["I", "II", "III"]),
        ("holter", ["II", "V1", "V5"]),
        ("avf, aVL, v3", ["I", "II", "III", "V3"]),
        ("V1,V2,V3,V4,V5,V6", ["V1", "V2", "V3", "V4", "V5", "V6"]),
    ],
)
def test_observed_leads_and_what_follows_from_them_are_measured(observed: str, measured: list[str]) -> None:
    mask = missing_leads((9, 20), observed=observed).mask
    assert leads(mask) == measured
    assert bool((mask.all(1) == mask.any(1)).all())


def test_padding_is_measured_only_as_long_as_nothing_else_is_said() -> None:
    """The reference measures lead I at all 1,024 positions, also the 24 zeros that pad ten seconds."""
    assert int(missing_leads((9, 1024)).mask.sum()) == 1024
    mask = missing_leads((9, 1024), recorded=1000).mask
    assert int(mask.sum()) == 1000
    assert not bool(mask[:, 1000:].any())


def test_other_events_halves_and_leads_are_refused() -> None:
    for name in ("ecg-missing-block", "ecg-missing-leads"):
        for shape in ((12, 256), (3, 64, 64), (9,)):
            with pytest.raises(ShapeError, match="shape .9, time"):
                make_operator(name, shape)
    with pytest.raises(ConfigError, match="unknown half"):
        missing_block((9, 8), hidden="left")
    for settings in ({"hidden": "first", "count": 2}, {"hidden": "random", "count": 0}):
        with pytest.raises(ConfigError, match="count"):
            missing_block((9, 8), **settings)
    for observed, says in (("V7", "unknown lead"), ("", "no lead is observed"), ("aVR", "augmented lead alone")):
        with pytest.raises(ConfigError, match=says):
            missing_leads((9, 8), observed=observed)
    for recorded in (0, 9):
        with pytest.raises(ConfigError, match="recorded"):
            missing_leads((9, 8), recorded=recorded)
