"""Pictures: every pixel where it belongs, no global state."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from midguide.errors import ShapeError
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.plots.grid import grid
from midguide.plots.panel import panel
from midguide.plots.reconstructions import Reconstructed, reconstructions


def made(n: int = 4, shape: tuple[int, ...] = (3, 8, 8), **tensors: torch.Tensor) -> Samples:
    draws = torch.rand(2, n, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Samples(draws, Cost(0, 0, 0, 0), {}, tensors)


def titles(figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_fontweight() == "bold"]


def test_panel_shows_truth_measurement_mean_std_and_samples():
    samples = made(truth=torch.zeros(2, 3, 8, 8), y=torch.zeros(2, 3, 8, 8))
    first = ["truth", "measurement", "posterior mean", "standard deviation"]
    assert titles(panel(samples)) == first + [f"sample {i}" for i in range(1, 5)]
    assert titles(panel(made()))[:2] == first[2:]


def test_panel_shows_the_pixels_of_its_observation():
    samples = made()
    images = [axes.images[0].get_array() for axes in panel(samples, observation=1).axes if axes.images]
    expected = (samples.draws[1, 2].permute(1, 2, 0) + 1) / 2
    assert np.allclose(images[4], expected, atol=1e-6)  # float32


def test_panel_of_weighted_samples_shows_them_by_weight_under_their_numbers():
    log_weight = torch.tensor([[0.0, 0.0, 0.0, 0.0], [-99.0, 0.0, -99.0, -99.0]])
    samples = replace(made(), log_weight=log_weight)
    figure = panel(samples, observation=1, sample_captions=["a", "b", "c", "d"])
    assert titles(figure)[2:] == ["sample 2"] * 4
    words = [text.get_text() for text in figure.texts]
    assert "ESS 1.0" in words
    assert words.count("b") == 4
    assert sorted(titles(panel(samples))[2:]) == [f"sample {i}" for i in range(1, 5)]
    expected = (samples.draws[1, 1].permute(1, 2, 0) + 1) / 2
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.allclose(images[0], expected, atol=1e-6)  # the mean, float32
    assert np.allclose(images[2], expected, atol=1e-6)


def test_panel_draws_hidden_pixels_gray():
    measured = torch.ones(8, 8, dtype=torch.bool)
    measured[2:4, 2:4] = False
    figure = panel(made(y=torch.ones(2, 3, 8, 8)), measured=measured)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(image[~measured.numpy()], 0.9)
    assert np.allclose(image[measured.numpy()], 1.0)


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 8, 8)), (9, (3, 8, 16)), (3, (4, 8, 8)), (2, (2, 24, 8))])
def test_panel_takes_any_number_of_samples_and_channels(n, shape, tmp_path):
    panel(made(n, shape, y=torch.zeros(2, *shape))).savefig(tmp_path / "panel.png")
    assert (tmp_path / "panel.png").stat().st_size > 1000


def test_color_bar_is_as_high_as_the_image_beside_it():
    figure = panel(made())
    bar, std = figure.axes[-1].get_position(), figure.axes[1].get_position()
    assert bar.y0 == pytest.approx(std.y0)
    assert bar.height == pytest.approx(std.height)


def test_panel_refuses_what_is_no_image():
    with pytest.raises(ShapeError, match="images"):
        panel(made(shape=(5,)))


def test_a_single_draw_has_no_mean_and_no_spread():
    truth, two = torch.zeros(1, 4, 4), torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    figure = reconstructions([Reconstructed(truth, None, {"one": two[:1], "two": two})])
    drawn = [len(axes.images) for axes in figure.axes]
    assert drawn == [1, 0, 0, 1, 0, 0, 1, 1, 1]  # three rows of the truth, of one draw, and of two
    assert [text.get_text() for text in figure.axes[4].texts] == ["one draw:\nno mean, no std"]


def test_plots_leave_pyplot_alone():
    before = "matplotlib.pyplot" in sys.modules
    panel(made())
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_grid_puts_each_image_in_its_place():
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 4, 4)
    tiled = grid(images, columns=3, gap=1, background=-1.0)
    assert tiled.shape == (1, 9, 14)
    assert [float(tiled[0, top, left]) for top, left in ((0, 0), (0, 5), (0, 10), (5, 0), (5, 5))] == [0, 1, 2, 3, 4]
    assert float(tiled[0, 8, 13]) == float(tiled[0, 4, 0]) == -1.0


def test_grid_refuses_an_empty_batch():
    with pytest.raises(ShapeError, match="images"):
        grid(torch.zeros(0, 3, 8, 8))
