from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.errors import ConfigError, DataError, ShapeError
from midguide.operators import Mask, box_mask, half_mask, make_operator, mask_from_file, random_mask


def test_hidden_entries_are_exactly_zero_even_where_x_is_nan() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    x = torch.tensor([[[[1.0, float("nan")], [float("inf"), 2.0]]]])
    assert torch.equal(Mask(mask)(x), torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]]))


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5), (3, 1, 5)])
def test_masks_broadcast_to_the_event_as_numpy_does(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    mask, x = rng.random(shape) > 0.5, rng.normal(size=(2, 3, 4, 5))
    operator = Mask(torch.from_numpy(mask))
    y = operator(torch.from_numpy(x))
    np.testing.assert_array_equal(y.numpy(), np.where(mask, x, 0.0))
    np.testing.assert_array_equal(operator.measured(y).expand(y.shape)[0].numpy(), np.broadcast_to(mask, (3, 4, 5)))


def test_masks_per_observation_hide_in_their_own_row(rng: np.random.Generator) -> None:
    masks, x = rng.random((4, 6, 7)) > 0.5, rng.normal(size=(4, 3, 6, 7))
    operator = Mask(torch.from_numpy(masks), per_observation=True)
    want = np.where(masks[:, None], x, 0.0)
    np.testing.assert_array_equal(operator(torch.from_numpy(x)).numpy(), want)
    rows = torch.tensor([3, 0, 3])
    np.testing.assert_array_equal(operator.select(rows)(torch.from_numpy(x)[rows]).numpy(), want[[3, 0, 3]])


def test_prox_keeps_x_where_hidden_and_averages_where_measured() -> None:
    operator = Mask(torch.tensor([True, False]))
    x, y = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    torch.testing.assert_close(operator.prox(x, y, 1.0), torch.tensor([[2.0, 5.0]]))


def test_box_is_centered_by_default() -> None:
    hidden = ~box_mask(8, 10, 4, 2).mask
    assert torch.equal(hidden, hidden.flip(0))
    assert torch.equal(hidden, hidden.flip(1))
    assert int(hidden.sum()) == 8


def test_box_of_the_reference_leaves_129108_values_at_256() -> None:
    operator = make_operator("box-inpainting", (3, 256, 256), top=50, left=50)
    assert isinstance(operator, Mask)
    hidden = ~operator.mask
    assert 3 * int(operator.mask.sum()) == 129_108
    assert bool(hidden[50:200, 50:200].all())


def test_registered_box_scales_with_the_image() -> None:
    operator = make_operator("box-inpainting", (3, 64, 64))
    assert isinstance(operator, Mask)
    assert int((~operator.mask).sum()) == 38**2


@pytest.mark.parametrize(
    ("side", "hidden"),
    [("left", np.s_[:, :2]), ("right", np.s_[:, 3:]), ("top", np.s_[:3]), ("bottom", np.s_[3:])],
)
def test_half_mask_hides_the_named_side(side: str, hidden: tuple[slice, ...] | slice) -> None:
    want = np.ones((6, 5), dtype=bool)
    want[hidden] = False
    np.testing.assert_array_equal(half_mask(6, 5, side).mask.numpy(), want)


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 1.0])
def test_random_mask_keeps_exactly_the_fraction(keep: float) -> None:
    masks = random_mask((9, 7), keep, seed=3, count=5).mask
    assert masks.flatten(1).sum(1).tolist() == [round(keep * 63)] * 5


def test_random_masks_depend_on_seed_and_observation_only() -> None:
    masks = random_mask((16, 16), 0.5, seed=0, count=3).mask
    assert torch.equal(masks[0], random_mask((16, 16), 0.5, seed=0).mask)
    assert torch.equal(masks[:2], random_mask((16, 16), 0.5, seed=0, count=2).mask)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], random_mask((16, 16), 0.5, seed=1).mask)


def test_drawing_a_mask_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    random_mask((16, 16), 0.5, seed=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_random_mask_is_uniform_over_entries() -> None:
    masks = random_mask((20,), 0.5, seed=0, count=4000).mask.double()
    # The mean of 4000 draws of probability 1/2 has std 0.0079; 5 std on 20 entries: one false alarm in 9e4 seeds.
    assert float((masks.mean(0) - 0.5).abs().max()) < 5 * 0.0079


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_white_in_a_file_is_measured(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    gray = rng.choice([0, 127, 128, 255], size=(6, 9)).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(mask_from_file(tmp_path / f"mask{suffix}", 6, 9).mask.numpy(), gray > 127)


def test_wrong_mask_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        mask_from_file(tmp_path / "missing.png", 4, 4)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="no image of a known kind"):
        mask_from_file(tmp_path / "text.png", 4, 4)
    Image.new("L", (5, 4)).save(tmp_path / "size.png")
    with pytest.raises(DataError, match="4x5 .* 4x4"):
        mask_from_file(tmp_path / "size.png", 4, 4)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="boolean"):
        Mask(torch.ones(3))
    mask = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ShapeError, match="does not broadcast"):
        Mask(mask)(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="does not broadcast"):
        Mask(mask)(torch.zeros(1, 2, 5))
    with pytest.raises(ShapeError, match="2 observations"):
        Mask(mask, per_observation=True)(torch.zeros(3, 4))


def test_impossible_boxes_sides_and_fractions_are_refused() -> None:
    for box in [(9, 2), (0, 2), (2, 2, 7), (2, 2, 0, -1)]:
        with pytest.raises(ConfigError, match="does not fit"):
            box_mask(8, 8, *box)
    with pytest.raises(ConfigError, match="unknown side"):
        half_mask(8, 8, "up")
    for keep in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="keep"):
            random_mask((8,), keep, seed=0)
    with pytest.raises(ConfigError, match="count"):
        random_mask((8,), 0.5, seed=0, count=0)
