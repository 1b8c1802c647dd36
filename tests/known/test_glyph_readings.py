"""Known readings of a glyph of which something is measured."""

import pytest
import torch

from midguide.data.glyphs import CHARACTERS, glyph_classes, glyphs
from midguide.errors import ConfigError
from midguide.known.glyph_readings import FIRST, glyph_readings
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.operators.factory import make_operator
from midguide.operators.matrix import Identity


def test_readings_are_bayes_rule_over_the_pictures():
    operator = make_operator("super-resolution", (1, 32, 32), factor=8)
    truth = glyphs(torch.tensor([4]))
    likelihood = GaussianLikelihood(operator, operator(truth), 0.2)
    found = glyph_readings(likelihood, count=300)
    numbers = torch.arange(FIRST, FIRST + 300)
    misfit = (operator(glyphs(numbers)) - operator(truth)).double().flatten(1).square().sum(1)
    weights = (-misfit / (2 * 0.2**2)).softmax(0)
    for k in range(len(CHARACTERS)):
        assert float(found.probability[k]) == pytest.approx(float(weights[glyph_classes(numbers) == k].sum()), abs=1e-6)
    share = found.probability[9]
    inside = (glyph_classes(numbers) == 9).double()
    assert float(found.error[9]) == pytest.approx(
        float((weights.square() * (inside - share).square()).sum().sqrt()), abs=1e-6
    )
    assert found.pictures == pytest.approx(float(1 / weights.square().sum()), rel=1e-4)


def test_of_a_glyph_under_endless_noise_every_character_is_as_likely():
    """Shares of 4,000 draws with a probability of 1/34 each: one standard error is 0.0027; five of them."""
    likelihood = GaussianLikelihood(Identity(), glyphs(torch.tensor([4])), 1e6)
    found = glyph_readings(likelihood, count=4000)
    assert torch.allclose(found.probability, torch.full((34,), 1 / 34, dtype=torch.float64), atol=5 * 0.0027)
    assert found.pictures == pytest.approx(4000, rel=1e-3)


def test_no_pictures_are_refused():
    with pytest.raises(ConfigError, match="positive"):
        glyph_readings(GaussianLikelihood(Identity(), torch.zeros(1, 1, 32, 32), 1.0), count=0)
