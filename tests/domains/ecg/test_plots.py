"""ECG paper: true to scale, every lead at its time, what is refused."""

import numpy as np
import pytest
import torch

from midguide.domains.ecg.leads import TWELVE
from midguide.domains.ecg.plots import ecg_paper, ecg_strips
from midguide.errors import ConfigError, ShapeError


def ramps(count, slope=0.0):
    """Twelve leads at 0, 0.01, ... mV, so that a curve on the page can be told by its height, with a slope in time."""
    return 0.01 * torch.arange(12.0)[:, None] + slope * torch.arange(count) / count


def curves(figure):
    """Drawn lead lines in millimeters: all but the calibration pulses, which have six points."""
    (axes,) = figure.axes
    return [line.get_xydata() for line in axes.lines if len(line.get_xdata()) != 6]


def test_a_millimeter_is_a_millimeter():
    figure = ecg_paper(ramps(1000), rate_hz=100)
    (axes,) = figure.axes
    width, height = 25.4 * figure.get_size_inches()
    box = axes.get_position()
    assert axes.get_xlim()[1] == pytest.approx(width * box.width)
    assert axes.get_ylim()[1] == pytest.approx(height * box.height)


@pytest.mark.parametrize("layout", ["3x4", "12x1"])
def test_25_mm_are_a_second_and_10_mm_a_millivolt(layout):
    for curve in curves(ecg_paper(ramps(1000, slope=1.0), rate_hz=100, layout=layout)):
        seconds = (len(curve) - 1) / 100
        assert np.ptp(curve[:, 0]) == pytest.approx(25 * seconds)
        assert np.ptp(curve[:, 1]) == pytest.approx(10 * (len(curve) - 1) / 1000)


def test_a_page_of_three_rows_shows_consecutive_quarters_and_lead_two_below():
    lines = curves(ecg_paper(ramps(1000), rate_hz=100))
    assert [len(line) for line in lines] == [250] * 12 + [1000]
    assert np.all(np.diff([line[0, 0] for line in lines[:4]]) > 62)


@pytest.mark.parametrize("layout", ["3x4", "12x1"])
@pytest.mark.parametrize("count", [256, 1000])
def test_title_scale_and_footer_stand_on_the_page_and_clear_of_each_other_and_of_the_paper(layout, count):
    footer = "Red: the median of 10 samples. Green: the band of 82 %. Black: the truth. Gray: nothing was given. " * 3
    figure = ecg_paper(ramps(count), rate_hz=100, layout=layout, title="A RECORD: its median " * 5, footer=footer)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts] + [axes.get_window_extent() for axes in figure.axes]
    assert len(boxes) == 4
    for i, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0 + 1)
        assert figure.bbox.containsx(box.x1 - 1)
        assert figure.bbox.containsy(box.y0 + 1)
        assert figure.bbox.containsy(box.y1 - 1)
        assert box.count_overlaps(boxes[i + 1 :]) == 0


def test_short_recordings_are_shown_whole():
    assert [len(line) for line in curves(ecg_paper(ramps(256), rate_hz=100))] == [256] * 12


def test_every_lead_is_named_once_and_bands_truth_and_gray_are_drawn():
    x, observed = ramps(256), torch.zeros(12, 256, dtype=torch.bool)
    observed[0] = True
    figure = ecg_paper(
        x, rate_hz=100, layout="12x1", band=(x - 1, x + 1), truth=x, observed=observed, title="t", footer="f"
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list(TWELVE)
    assert len(curves(figure)) == 24
    assert {text.get_text() for text in figure.texts} >= {"t", "f"}
    shaded = [len(part.get_paths()) for part in axes.collections[4:]]
    assert shaded == [0, 1] + [1, 1] * 11  # no gray behind the lead that was observed


def test_gaps_are_no_lines():
    x = ramps(256)
    x[3, 100:120] = torch.nan
    figure = ecg_paper(x, rate_hz=100, layout="12x1")
    assert int(np.isnan(curves(figure)[3][:, 1]).sum()) == 20


def test_strips_show_nine_leads_for_each_recording():
    assert len(curves(ecg_strips(torch.zeros(4, 9, 50), rate_hz=100))) == 36


def test_other_shapes_and_layouts_are_refused():
    with pytest.raises(ConfigError, match="unknown layout"):
        ecg_paper(ramps(10), rate_hz=100, layout="6x2")
    with pytest.raises(ShapeError, match="twelve leads"):
        ecg_paper(ramps(10)[:9], rate_hz=100)
    with pytest.raises(ShapeError, match="twelve leads"):
        ecg_paper(ramps(10), rate_hz=100, truth=ramps(9))
    with pytest.raises(ShapeError, match="recordings of shape"):
        ecg_strips(torch.zeros(9, 50), rate_hz=100)
