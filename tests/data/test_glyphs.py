"""Glyphs: what a picture depends on, what it shows, and how its parameters act."""

import pytest
import torch

from midguide.data.glyphs import CHARACTERS, FONTS, SIZE, GlyphVariation, _tables, glyph_classes, glyphs
from midguide.errors import ConfigError

STILL = {"stretch": (1.0, 1.0), "shear": (0.0, 0.0), "rotation": (0.0, 0.0), "shift": (0.0, 0.0), "weight": (0.0, 0.0)}
PLAIN = {"height": (20.0, 20.0), "ink": (1.0, 1.0), "background": (-1.0, -1.0)}


def test_a_picture_does_not_depend_on_its_batch():
    together, shuffled = glyphs(torch.arange(600)), torch.randperm(600, generator=torch.Generator().manual_seed(0))
    assert torch.equal(glyphs(shuffled), together[shuffled])
    assert torch.equal(glyphs(torch.tensor([599]))[0], together[599])
    assert torch.equal(glyph_classes(shuffled), glyph_classes(torch.arange(600))[shuffled])


def test_the_seed_and_the_index_decide_and_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    first = glyphs(torch.arange(8), seed=3)
    assert torch.equal(first, glyphs(torch.arange(8), seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    others = (glyphs(torch.arange(8), seed=0), glyphs(torch.arange(8), seed=4), glyphs(torch.arange(8, 16), seed=3))
    assert all(not torch.equal(first[k], other[k]) for other in others for k in range(8))


def test_values_lie_in_the_range_and_reach_both_gray_values():
    pictures = glyphs(torch.arange(500))
    assert pictures.dtype == torch.float32
    assert pictures.shape == (500, 1, SIZE, SIZE)
    assert float(pictures.min()) >= -1
    assert float(pictures.max()) <= 1
    darkest, brightest = pictures.flatten(1).amin(1), pictures.flatten(1).amax(1)
    assert bool((darkest <= -0.7).all())
    # The thinnest strokes are narrower than two pixels: some reach the ink only in part, all nearly.
    assert bool((brightest >= 0.3).all())


def test_every_class_occurs_as_often_as_every_other():
    """Multinomial counts: the chi-square statistic of 34 classes exceeds 62.5 with probability 0.0015."""
    counts = torch.bincount(glyph_classes(torch.arange(10_000)), minlength=len(CHARACTERS)).double()
    assert len(counts) == len(CHARACTERS) == len(set(CHARACTERS))
    expected = 10_000 / len(CHARACTERS)
    assert float(((counts - expected) ** 2 / expected).sum()) < 62.5


def test_numbers_of_a_picture_are_uncorrelated():
    """4,096 pictures: each of 176 correlations has a standard error of 1/64, and chance exceeds none of them by 5."""
    from midguide.data.glyphs import _uniforms

    drawn = _uniforms(torch.arange(4096), 0)
    correlation = torch.corrcoef(drawn.T) - torch.eye(drawn.shape[1], dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / 64
    neighbors = torch.corrcoef(torch.cat([drawn[:-1], drawn[1:]], 1).T)[: drawn.shape[1], drawn.shape[1] :]
    assert float(neighbors.abs().max()) < 5 / 64
    assert float((drawn.mean(0) - 0.5).abs().max()) < 5 * (1 / 12) ** 0.5 / 64


def test_the_ink_of_a_picture_is_the_area_of_its_outline():
    """Sum of coverage against the shoelace area of the outline, in pixels; edges one pixel wide round corners off."""
    from midguide.data.glyphs import _outlines, _render, _uniforms

    uniform, variation = _uniforms(torch.arange(1), 0), GlyphVariation(**STILL, **PLAIN)
    for name in "LTIHO8":
        picture = _render(torch.tensor([CHARACTERS.index(name)]), torch.tensor([0]), uniform, variation)
        area = sum(_shoelace(polygon) for polygon in list(_outlines(FONTS[0]))[CHARACTERS.index(name)])
        assert float((picture + 1).sum() / 2) == pytest.approx(400 * abs(area), rel=0.03)


def _shoelace(polygon):
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def test_a_shift_moves_the_picture_and_a_half_turn_reverses_it():
    moved = GlyphVariation(**{**STILL, **PLAIN, "shift": (2.0, 2.0)})
    turned = GlyphVariation(**{**STILL, **PLAIN, "rotation": (180.0, 180.0)})
    still, indices = glyphs(torch.arange(40), variation=GlyphVariation(**STILL, **PLAIN)), torch.arange(40)
    shifted = glyphs(indices, variation=moved)
    torch.testing.assert_close(shifted[:, :, 2:, 2:], still[:, :, :-2, :-2], atol=1e-4, rtol=0)  # float32 places
    torch.testing.assert_close(glyphs(indices, variation=turned), still.rot90(2, (2, 3)), atol=1e-4, rtol=0)


def test_more_weight_gives_more_ink_everywhere():
    thin = glyphs(torch.arange(60), variation=GlyphVariation(**STILL, **PLAIN))
    thick = glyphs(torch.arange(60), variation=GlyphVariation(**{**STILL, **PLAIN, "weight": (0.03, 0.03)}))
    assert bool((thick >= thin).all())
    assert bool((thick.flatten(1).sum(1) > thin.flatten(1).sum(1)).all())


def test_characters_stay_inside_the_picture():
    """Of 2,000 pictures, the outermost row and column together hold less than 2 % of the ink of any."""
    pictures = glyphs(torch.arange(2000))
    share = pictures - pictures.flatten(1).amin(1)[:, None, None, None]
    border = share.flatten(1).sum(1) - share[:, :, 1:-1, 1:-1].flatten(1).sum(1)
    assert float((border / share.flatten(1).sum(1)).max()) < 0.02


def test_the_left_half_of_a_picture_leaves_its_class_open():
    """An E and an F of one shape agree where the foot of the E is not."""
    variation, indices = GlyphVariation(**STILL, **PLAIN), torch.arange(4000)
    pictures, classes = glyphs(indices, variation=variation), glyph_classes(indices)
    e = pictures[classes == CHARACTERS.index("E")]
    f = pictures[classes == CHARACTERS.index("F")]
    upper = slice(0, SIZE // 2 - 1)
    gaps = torch.cdist(e[:, 0, upper].flatten(1), f[:, 0, upper].flatten(1)).amin()
    whole = torch.cdist(e.flatten(1), f.flatten(1)).amin()
    assert float(gaps) < 0.5 * float(whole)


def test_fonts_have_capitals_of_one_height():
    tables, widths = _tables()
    assert tables.shape[:2] == widths.shape == (len(FONTS), len(CHARACTERS))
    inside = (tables[:, CHARACTERS.index("H")] > 0).any(2).double().mean(1) * 1.5  # rows of a table span 1.5 heights
    torch.testing.assert_close(inside, torch.ones(3, dtype=torch.float64), atol=1.5 / 96 * 1.01, rtol=0)  # one cell


@pytest.mark.parametrize("indices", [torch.tensor([-1]), torch.tensor([0.5]), torch.zeros(2, 2, dtype=torch.int64)])
def test_indices_that_are_none_are_refused(indices):
    with pytest.raises(ConfigError, match="`indices` must be integers from 0"):
        glyphs(indices)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"height": (5.0, 4.0)}, "`height`"),
        ({"height": (0.0, 4.0)}, "must be positive"),
        ({"ink": (0.0, 1.5)}, r"must lie in \[-1, 1\]"),
        ({"shear": (0.0, float("nan"))}, "`shear`"),
    ],
)
def test_wrong_variations_are_refused_by_name(changes, says):
    with pytest.raises(ConfigError, match=says):
        GlyphVariation(**changes)


def test_no_pictures_are_an_empty_batch():
    assert glyphs(torch.arange(0)).shape == (0, 1, SIZE, SIZE)
