"""Every kind of body has a plot, and domains have their own."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure

from midguide import Samples
from midguide.catalogue.directory import catalogue
from midguide.errors import ConfigError, ShapeError
from midguide.inference.cost import Cost
from midguide.plots.base import BODIES, PLOTS, as_frames, body_of
from midguide.plots.study import Mark, Point, Quartiles, bars, curves
from midguide.signals.base import SIGNALS, Axis, Signal

SHAPES = {
    "vector": [(2,), (20,)],
    "signal": [(100,), (3, 40)],
    "image": [(1, 8, 8), (3, 8, 8)],
    "volume": [(9, 8, 8), (1, 9, 8, 8)],
    "video": [(5, 3, 8, 8)],
}


def draws(shape: tuple[int, ...]) -> Samples:
    values = torch.randn(2, 5, *shape, generator=torch.Generator().manual_seed(0))
    return Samples(values, Cost(0, 0, 0, 0), {}, {"truth": values[:, 0]})


@pytest.mark.parametrize(("body", "shape"), [(body, shape) for body, shapes in SHAPES.items() for shape in shapes])
def test_draws_of_every_body_have_a_plot(body: str, shape: tuple[int, ...]) -> None:
    assert body_of(Signal(shape=shape)) == body
    figure = draws(shape).plot(1)
    assert figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


def test_there_is_one_plot_for_each_body() -> None:
    assert set(BODIES) <= set(PLOTS)
    assert set(BODIES) == set(SHAPES)


def test_draws_with_weights_have_a_plot() -> None:
    weighted = Samples(torch.randn(1, 9, 3), Cost(0, 0, 0, 0), {}, log_weight=torch.randn(1, 9).double())
    assert weighted.plot().axes


def test_axes_tell_a_video_from_a_volume() -> None:
    assert body_of(Signal(shape=(9, 8, 8), axes=(Axis(name="time"), Axis(name="row"), Axis(name="column")))) == "video"


@pytest.mark.parametrize("shape", [(3, 8, 8), (9, 8, 8), (2, 9, 8, 8), (9, 2, 8, 8)])
def test_frames_are_pictures_of_few_channels(shape: tuple[int, ...]) -> None:
    frames = as_frames(torch.zeros(5, *shape), Signal(shape=shape))
    assert frames.ndim == 5
    assert frames.shape[2] <= 4


def test_a_plot_of_a_domain_goes_before_that_of_the_body() -> None:
    signal = SIGNALS.make("ecg")
    record = {"signal": {**signal.record(), "value_range": None}}
    samples = Samples(torch.zeros(1, 3, 9, 128), Cost(0, 0, 0, 0), record)
    legend = samples.plot().legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["median", "band of the draws", "hidden"]


def test_signals_of_too_many_axes_have_no_plot() -> None:
    with pytest.raises(ShapeError, match="no plot of signals"):
        draws((2, 2, 2, 2, 2)).plot()


def test_what_is_no_plot_is_refused() -> None:
    with pytest.raises(ConfigError, match="it is not a plot"):
        catalogue("plots").register("mine")(lambda x: x)


def drawn(axes) -> tuple[list[float], list[float], list[float]]:
    """Where marks stand along x, and both ends of their bars."""
    line, _, (bar,) = axes.containers[0].lines
    ends = [segment[:, 0] for segment in bar.get_segments()]
    return list(line.get_xdata()), [end.min() for end in ends], [end.max() for end in ends]


@pytest.mark.parametrize("most", [50.0, 1e6])
def test_where_a_sampler_diverges_a_picture_shows_medians_and_quartiles_on_a_log_axis(most: float) -> None:
    quartiles = [Quartiles(0.08, 0.1, 0.13), Quartiles(0.15, 0.2, 0.3), Quartiles(1.0, 40.0, 3 * most)]
    means = [0.1, 0.2, most]
    marks = [Mark(name, mean, mean, None, of) for name, mean, of in zip("abc", means, quartiles, strict=True)]
    axes = bars(Figure().subplots(), marks, "error")
    places, low, high = drawn(axes)
    assert axes.get_xscale() == "log"
    assert places == pytest.approx([0.1, 0.2, 40.0])
    assert low == pytest.approx([0.08, 0.15, 1.0])
    assert high == pytest.approx([0.13, 0.3, 3 * most])
    assert "median" in axes.get_xlabel()


def test_where_none_diverges_a_picture_shows_means_and_intervals_from_zero() -> None:
    marks = [Mark(name, mean, 0.02, None, Quartiles(0.0, 9.0, 9.0)) for name, mean in (("a", 0.1), ("b", 0.2))]
    axes = bars(Figure().subplots(), [*marks, Mark("floor", 1e-9, 0.0)], "error")
    places, low, high = drawn(axes)
    assert (axes.get_xscale(), axes.get_xlim()[0]) == ("linear", 0)
    assert places == pytest.approx([0.1, 0.2, 1e-9])
    assert low == pytest.approx([0.08, 0.18, 1e-9])
    assert high == pytest.approx([0.12, 0.22, 1e-9])


@pytest.mark.parametrize(("means", "log"), [((0.1, 1.0, 9.0), False), ((0.1, 5.0, 11.0), True), ((-0.1, 1, 40), False)])
def test_curves_of_more_than_two_decades_are_logarithmic(means: tuple[float, ...], log: bool) -> None:
    points = [Point("a", i, mean, None, Quartiles(mean / 2, mean, 2 * mean)) for i, mean in enumerate(means)]
    axes = curves(Figure().subplots(), points, "error", "steps")
    assert axes.get_yscale() == ("log" if log else "linear")
    assert list(axes.containers[0].lines[0].get_ydata()) == pytest.approx(list(means))
