"""What signals look like, in numbers: they find signals of another kind, and let others of the same pass."""

import pytest
import torch

from midguide.catalogue.settings import as_plain, build
from midguide.errors import DataError
from midguide.maths.chances import Band, chi_square_band, quantile_band, upper_limit
from midguide.priors.loading import load_prior
from midguide.priors.statistics import Statistics


def pictures(n, seed):
    """Smooth random pictures in [-1, 1], shape (n, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    return (1.5 * fine).tanh()


def distances(known, signals):
    return known.distances(torch.stack(list(known.measure(signals).values()), 1))


def test_signals_of_the_same_kind_are_beyond_a_limit_as_often_as_it_says():
    known = Statistics.of(pictures(4000, 0))
    far = (distances(known, pictures(4000, 1)) > known.limit(0.01)).sum()
    assert 10 <= far <= 70  # 40 less what the shortfall is above the quantile; each end has a chance below 1e-3
    assert list(known.limits) == ["0.1", "0.01", "0.001"]
    assert known.limit(0.001) < known.limit(0.0001)


def test_signals_of_another_range_or_kind_are_beyond_the_limits():
    known, others = Statistics.of(pictures(4000, 0)), pictures(100, 2)
    noisy = others + 0.3 * torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    for strange in (127.5 * (others + 1), (others + 1) / 2, noisy, torch.zeros_like(others)):
        assert float((distances(known, strange) > known.limit(0.001)).double().mean()) > 0.95


def test_statistics_of_records_and_of_pictures_survive_json():
    for signals in (pictures(700, 0), pictures(700, 0)[:, 0, :, 0]):
        known = Statistics.of(signals, source="pictures", value_range=(-1.0, 1.0))
        assert build(Statistics, as_plain(known, full=False), "a card") == known
        assert bool(known.layout[0]) == (signals.ndim == 4)


def test_too_few_signals_and_nan_are_refused():
    with pytest.raises(DataError, match="at least 50"):
        Statistics.of(pictures(49, 0))
    broken = pictures(60, 0)
    broken[3, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        Statistics.of(broken)


def test_constant_signals_have_statistics():
    known = Statistics.of(torch.ones(60, 1, 4, 4))
    assert (
        float(distances(known, torch.ones(1, 1, 4, 4))) < 1e-3 < 1e3 < float(distances(known, -torch.ones(1, 1, 4, 4)))
    )


def test_the_shipped_prior_knows_its_signals_in_its_own_range_only():
    known = load_prior("faces-64").statistics
    assert known is not None
    assert (known.count, known.value_range) == (21_534, (-1.0, 1.0))
    assert {"level", "layout", "roughness"} <= set(known.means)
    assert load_prior("faces-64", value_range=(0, 1)).statistics is None


def test_the_mean_of_dependent_draws_stays_in_the_band_of_shortfalls_whatever_their_dependence():
    """Means of chi-squares that share a part, at a level of 2 %: at most 57 of 2,000, which 40 exceed once in 200."""
    generator = torch.Generator().manual_seed(0)
    band = chi_square_band(8, 0.02)
    for share in (0.0, 0.3, 0.7, 1.0):
        common = torch.randn(2000, 1, 8, generator=generator)
        own = torch.randn(2000, 10, 8, generator=generator)
        values = (share**0.5 * common + (1 - share) ** 0.5 * own).square().mean(2).mean(1)
        assert sum(not band.holds(float(value)) for value in values) <= 57
    assert (chi_square_band(8, 0.02, averaged=False).high or 0.0) < (band.high or 0.0)


def test_limits_of_samples_are_those_of_ranks():
    values = torch.arange(999.0)
    assert upper_limit(values, 0.001) == 998.0
    assert upper_limit(values, 0.01) == 989.0
    assert upper_limit(values, 0.01, averaged=True) == pytest.approx(993.5)
    assert upper_limit(values, 0.0001) == float("inf")
    assert quantile_band(values, 0.02) == Band(4.5, 993.5)
