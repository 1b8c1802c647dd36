"""Crops of micrographs: exposure, content, and what a draw depends on."""

import pytest
import torch

from midguide.data.images import load_gray_images, save_png
from midguide.errors import ConfigError, DataError
from midguide.training.base import load_recipe
from midguide.training.crops import Crops, Pictures, prepared

FORM = Crops(size=8, white=100.0, content=0.05)


def spots(height=40, width=60, *, exposure=1.0):
    """A dark image with one bright block."""
    image = torch.full((height, width), 0.05)
    image[10:18, 20:30] = torch.linspace(0.4, 1.0, 10)
    return exposure * image


def test_exposure_cancels():
    """Images that differ by a factor give the same pictures, to rounding in float32."""
    torch.testing.assert_close(prepared(spots(exposure=0.1), FORM), prepared(spots(), FORM), atol=1e-6, rtol=0)


def test_shrinking_averages_blocks():
    image = torch.arange(16.0).view(4, 4) / 16
    expected = image.unfold(0, 2, 2).unfold(1, 2, 2).mean((2, 3))
    torch.testing.assert_close(prepared(image, Crops(shrink=2, white=100.0)), expected / expected.max())


def test_every_picture_has_content_and_lies_in_its_image():
    source = Pictures.cut([spots(), torch.zeros(16, 16), spots(30, 31)], FORM)
    pictures = source.draw(200, torch.Generator().manual_seed(0))
    assert pictures.shape == (200, 1, 8, 8)
    assert bool(((pictures + 1) / 2 >= FORM.bright).float().mean((1, 2, 3)).ge(FORM.content).all())
    assert float(pictures.min()) >= -1
    assert float(pictures.max()) <= 1
    assert set(source.places[:, 0].tolist()) == {0, 2}  # the second is dark


def test_a_gray_background_is_no_content():
    """The same spots on a background of half the white: pictures start at the same places."""
    gray = 0.5 + 0.5 * spots()
    assert torch.equal(Pictures.cut([gray], FORM).places, Pictures.cut([spots()], FORM).places)


def test_draws_depend_on_the_generator_alone_and_take_all_positions_of_a_square():
    image = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    source = Pictures.cut([image], FORM)
    drawn = source.draw(200, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, source.draw(200, torch.Generator().manual_seed(1)))
    turns = [source.events()[0].rot90(k, (1, 2)) for k in range(4)]
    positions = [*turns, *(turn.flip(2) for turn in turns)]
    counts = [int((drawn == position).flatten(1).all(1).sum()) for position in positions]
    # Each of eight counts is binomial(200, 1/8), 25 on average: outside 7..43 by chance less than once in 10,000.
    assert sum(counts) == 200
    assert all(7 <= count <= 43 for count in counts)


def test_events_do_not_overlap():
    source = Pictures.cut([torch.rand(33, 50, generator=torch.Generator().manual_seed(0))], FORM)
    assert len(source) == 4 * 6
    assert torch.equal(source.events()[1, 0], 2 * source.images[0][:8, 8:16] - 1)


@pytest.mark.parametrize("images", [[], [torch.zeros(20, 20)], [torch.ones(4, 50)]])
def test_images_without_content_are_refused(images):
    with pytest.raises(DataError, match="no picture of 8x8 in the data has content"):
        Pictures.cut(images, FORM)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[crops]\nsize = 0", "must be positive"),
        ("[crops]\nwhite = 101.0", "percentile"),
        ("[crops]\nsizes = 3", "sizes"),
    ],
)
def test_wrong_recipes_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(f'kind = "crops"\n{text}')
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "recipe.toml")


def test_the_recipe_of_nuclei_is_one_of_crops():
    recipe = load_recipe("nuclei-64")
    assert (recipe.crops.size, recipe.crops.shrink) == (64, 2)
    assert sum(value.numel() for value in recipe.network.build().parameters()) < 8e6


def test_gray_images_keep_their_sizes_and_values(tmp_path):
    for name, shape in (("a", (5, 7)), ("b", (6, 4))):
        save_png(tmp_path / f"{name}.png", torch.full((3, *shape), 0.2), (0.0, 1.0))
    found = load_gray_images(tmp_path)
    assert [tuple(image.shape) for image in found] == [(5, 7), (6, 4)]
    assert float(found[0][0, 0]) == pytest.approx(51 / 255, abs=1e-6)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_gray_images(tmp_path / "empty")
