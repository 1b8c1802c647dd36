"""Every kind of body has a plot, and domains have their own."""

from __future__ import annotations

import pytest
import torch

from midguide import Samples
from midguide.catalogue.directory import catalogue
from midguide.errors import ConfigError, ShapeError
from midguide.inference.cost import Cost
from midguide.plots.base import BODIES, PLOTS, as_frames, body_of
from midguide.plots.study import Mark, bars
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
    assert draws(shape).plot(1).axes


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
    with pytest.raises(ConfigError, match="it is no plot"):
        catalogue("plots").register("mine")(lambda x: x)


@pytest.mark.parametrize(("most", "scale"), [(0.5, "linear"), (50.0, "log")])
def test_a_sampler_that_diverges_does_not_hide_the_others(most: float, scale: str) -> None:
    from matplotlib.figure import Figure

    marks = [Mark("a", 0.1, 0.02), Mark("b", 0.2, 0.02), Mark("c", most, 0.1)]
    assert bars(Figure().subplots(), marks, "error").get_xscale() == scale
