"""Baselines for missing blocks and leads: what they recover exactly, and what they leave alone."""

import pytest
import torch

from midguide.domains.ecg.fill import BlockRidge, LeadRidge, repeat_beats, zero_fill
from midguide.errors import ShapeError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(samples, hidden):
    mask = torch.ones(3, samples, dtype=torch.bool)
    mask[:, hidden] = False
    return mask


@pytest.mark.parametrize("hidden", [slice(128, None), slice(None, 128)])
@pytest.mark.parametrize("period", [40, 57, 80])
def test_a_periodic_signal_is_continued_exactly_in_both_directions(hidden, period):
    beat = noise(2, 3, period)
    signal = beat.repeat(1, 1, 8)[..., :256]
    observed = block(256, hidden)
    got = repeat_beats(torch.where(observed, signal, 99.0), observed, rate_hz=100.0)
    assert torch.equal(got, signal)


def test_what_was_measured_stays_and_zero_is_zero():
    signal, observed = noise(2, 3, 256), block(256, slice(0, 128))
    for filled in (zero_fill(signal, observed), repeat_beats(signal, observed, 100.0)):
        assert torch.equal(filled[:, observed], signal[:, observed])
    assert not bool(zero_fill(signal, observed)[:, ~observed].any())


def test_leads_that_are_linear_in_the_measured_ones_are_recovered():
    """A mixture of two leads now and one sample ago; the ridge of 1e-10 changes it by about that."""
    source = noise(5, 2, 60)
    delayed = torch.nn.functional.pad(source, (1, 0))[..., :-1]
    mixture = 0.3 * source[:, :1] - 0.7 * delayed[:, 1:]
    signals = torch.cat([source[:, :1], mixture, source[:, 1:]], dim=1)
    ridge = LeadRidge.fit(signals, (0, 2), lags=1, penalty=1e-10)
    hidden = signals.clone()
    hidden[:, 1] = 99.0
    assert torch.allclose(ridge(hidden), signals, atol=1e-7)
    assert float((LeadRidge.fit(signals, (0, 2), penalty=1e-10)(hidden) - signals).abs().max()) > 0.5


def test_the_block_ridge_is_the_conditional_mean_of_a_gaussian():
    """20,000 draws: weights err by about 1/sqrt(20,000) = 0.007; 5 std and some."""
    root = noise(6, 6) / 6**0.5
    signals = (noise(20_000, 6, seed=1) @ root.T).reshape(-1, 3, 2)
    observed = torch.tensor([[True, True], [False, True], [True, False]])
    covariance, seen = root @ root.T, observed.flatten()
    want = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, ~seen])
    got = BlockRidge.fit(signals, observed, penalty=1e-9)
    residual = signals[:, ~observed].std() * torch.linalg.inv(covariance[seen][:, seen]).diagonal().max().sqrt()
    assert float((got.weights - want).abs().max()) < 5 * 0.007 * float(residual)
    assert torch.equal(got(signals)[:, observed], signals[:, observed])


def test_other_masks_and_short_blocks_are_refused():
    signal = noise(1, 3, 100)
    with pytest.raises(ShapeError, match="one measured block"):
        repeat_beats(signal, block(100, slice(40, 60)), 100.0)
    ragged = block(100, slice(50, None))
    ragged[1] = True
    with pytest.raises(ShapeError, match="one measured block"):
        repeat_beats(signal, ragged, 100.0)
    with pytest.raises(ShapeError, match="too short"):
        repeat_beats(signal, block(100, slice(30, None)), 100.0)
