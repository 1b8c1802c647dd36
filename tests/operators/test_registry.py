from __future__ import annotations

import math
import resource
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image

from midguide.errors import ConfigError, DataError, ShapeError
from midguide.operators import JPEG, BlockMean, Mask, make_operator
from midguide.operators.base import OPERATORS, operator_class

SIGNALS = {"nine leads": (9, 32), "one channel, or with complex_signal two": (1, 32, 32)}
"""Signals that fit, by what an operator needs, where an image of 32x32 does not."""
PRESETS = {f"{name}:{key}": preset for name in OPERATORS for key, preset in OPERATORS.presets(name).items()}


@pytest.mark.parametrize("name", OPERATORS)
def test_entries_say_what_their_factory_makes(name: str, tmp_path: Path) -> None:
    entry = OPERATORS[name]
    assert entry.summary
    shape = SIGNALS.get(entry.facts["needs"], (3, 32, 32))
    settings = {}
    if "path" in entry.required():
        settings["path"] = str(tmp_path / "mask.png")
        Image.new("L", (32, 32), 255).save(settings["path"])
    assert type(make_operator(name, shape, **settings)) is operator_class(entry)
    if entry.facts["needs"] == "nothing":
        assert type(make_operator(name, (5,))) is operator_class(entry)


UNFIT: list[tuple[str, tuple[int, ...], dict[str, Any], str]] = [
    ("bicubic", (3, 8, 9), {}, "8x9 cannot be shrunk by 4"),
    ("box-inpainting", (3, 8, 8), {"top": 200.0}, "5x5 box at row 6, column 1 does not fit a 8x8 image"),
    ("colorization", (8, 8), {}, r"shape \(C, H, W\), got \(8, 8\)"),
    ("colorization", (4, 8, 8), {"weights": "luma"}, "luma is that of 3 channels, got 4"),
    ("compressed-sensing", (3, 8, 9), {"kind": "hadamard"}, "power of two of pixels, got 72"),
    ("compressed-sensing", (1, 64, 65), {"kind": "gaussian"}, "at most 4,096 pixels"),
    ("ecg-missing-block", (12, 32), {}, r"shape \(9, time\)"),
    ("ecg-missing-leads", (3, 8, 8), {}, r"shape \(9, time\)"),
    ("gaussian-blur", (1, 16, 16), {"std": 30.0}, "kernel of 17x17 is larger than the image of 16x16"),
    ("gaussian-blur-circular", (1, 16, 16), {"std": 30.0}, "kernel of 17x17 is larger than the image of 16x16"),
    ("gaussian-blur-separable", (1, 16, 16), {"std": 30.0}, "kernel of 17x17 is larger than the image of 16x16"),
    ("half-mask", (3, 8, 1), {}, "8x1 has no right half"),
    ("jpeg", (8, 8), {}, r"events of shape \(channels, H, W\), got \(8, 8\)"),
    ("mask-file", (3, 8, 9), {}, r"is 8x8 \(height x width\), the images are 8x9"),
    ("motion-blur", (1, 16, 16), {"size": 272.0}, "kernel of 17x17 is larger than the image of 16x16"),
    ("motion-blur-decomposed", (1, 64, 65), {}, "up to 4,096 pixels, got 64x65"),
    ("nonlinear-blur", (16, 16), {}, r"shape \(channels, H, W\), got \(16, 16\)"),
    ("phase-retrieval", (16,), {}, r"shape \(..., H, W\), got \(16,\)"),
    ("phase-retrieval", (1, 8, 8), {"oversampling": 1e6}, "oversampling must be from 0 to 64"),
    ("convolution", (3, 8, 7), {}, "kernel of 8x8 is larger than the image of 8x7"),
    ("convolution-circular", (8,), {}, r"does not fit events of shape \(8,\)"),
    ("convolution-reflect", (3, 7, 8), {}, "kernel of 8x8 is larger than the image of 7x8"),
    ("fourier-coils", (3, 8, 8), {}, r"real signals of space \(8, 8\) do not have the shape \(3, 8, 8\)"),
    ("radon", (8,), {}, r"shape \(..., H, W\), got \(8,\)"),
    ("transmission", (8,), {}, r"shape \(..., H, W\), got \(8,\)"),
    ("subsample", (3, 8, 9), {}, r"blocks of 4x4 do not tile events of shape \(3, 8, 9\)"),
    ("super-resolution", (3, 8, 9), {}, r"blocks of 4x4 do not tile events of shape \(3, 8, 9\)"),
]


@pytest.mark.parametrize(("name", "shape", "settings", "said"), UNFIT)
def test_a_signal_without_what_the_operator_needs_is_refused(
    name: str, shape: tuple[int, ...], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if "path" in OPERATORS[name].required():
        Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
        settings = {"path": str(tmp_path / "mask.png")}
    with pytest.raises((ConfigError, DataError, ShapeError), match=said) as refusal:
        make_operator(name, shape, **settings)
    assert str(refusal.value).count("\n") <= 1  # one line and a hint


def test_a_mask_that_hides_everything_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="hides every pixel"):
        make_operator("mask-file", (3, 8, 8), path=str(tmp_path / "mask.png"))


ODD = [(5,), (8, 8), (1, 1), (3, 8, 9), (2, 7, 5), (3, 8, 1), (1, 64, 65), (1, 16, 16), (4, 128, 130)]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_a_signal_or_says_in_one_line_what_it_needs(name: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    settings = {"path": str(tmp_path / "mask.png")} if "path" in OPERATORS[name].required() else {}
    refused = 0
    for shape in ODD:
        try:
            operator = make_operator(name, shape, **settings)
        except (ConfigError, DataError, ShapeError) as error:
            refused += 1
            said = str(error)
        else:
            assert bool(operator(torch.zeros(1, *shape)).isfinite().all())
            continue
        assert said.count("\n") == 1  # one line and a hint
    assert refused or OPERATORS[name].facts["needs"] == "nothing"


def test_seed_decides_what_is_drawn() -> None:
    masks = [make_operator("random-inpainting", (3, 16, 16), seed=seed) for seed in (0, 0, 1)]
    x = torch.ones(1, 3, 16, 16)
    assert torch.equal(masks[0](x), masks[1](x))
    assert not torch.equal(masks[0](x), masks[2](x))


def test_channels_of_an_image_share_a_random_mask_and_signals_have_one() -> None:
    image = make_operator("random-inpainting", (3, 16, 16), count=2)
    signal = make_operator("random-inpainting", (50,))
    assert isinstance(image, Mask)
    assert isinstance(signal, Mask)
    assert image.mask.shape == (2, 16, 16)
    assert signal.mask.shape == (50,)


def test_an_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean `super-resolution`"):
        make_operator("superresolution", (3, 16, 16))
    with pytest.raises(ConfigError, match="one of bicubic, box-inpainting"):
        make_operator("xyz", (3, 16, 16))


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no setting `sdt`\nhint: did you mean `std`.* known are std, truncate"):
        make_operator("gaussian-blur", (3, 16, 16), sdt=1.0)
    with pytest.raises(ConfigError, match="`identity` has no settings|identity has no setting `std`"):
        make_operator("identity", (3, 16, 16), std=1.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gaussian-blur", {"std": "wide"}),
        ("gaussian-blur", {"std": True}),
        ("super-resolution", {"factor": 2.0}),
        ("super-resolution", {"factor": True}),
        ("half-mask", {"side": 1}),
        ("random-inpainting", {"count": "many"}),
        ("random-inpainting", {"keep": None}),
    ],
)
def test_settings_of_the_wrong_type_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\.\w+ must be"):
        make_operator(name, (3, 16, 16), **settings)


FLOATS = [
    (name, field.name)
    for name, entry in OPERATORS.items()
    for field in fields(entry.settings)
    if field.type is float or float in get_args(field.type)
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "key"), FLOATS)
def test_a_setting_that_is_no_finite_number_is_refused_by_name(name: str, key: str, value: float) -> None:
    shape = SIGNALS.get(OPERATORS[name].facts["needs"], (3, 16, 16))
    with pytest.raises(ConfigError, match=f"{name}.{key} must be a finite number"):
        make_operator(name, shape, **{key: value})


def test_integers_serve_as_floats_and_none_where_it_is_allowed() -> None:
    make_operator("gaussian-blur", (3, 16, 16), std=3)
    make_operator("box-inpainting", (3, 16, 16), top=None, left=10)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks the setting `path`"):
        make_operator("mask-file", (3, 16, 16))
    with pytest.raises(DataError, match="does not exist"):
        make_operator("mask-file", (3, 16, 16), path=str(tmp_path / "missing.png"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("super-resolution", (3, 18, 16)),
        ("gaussian-blur", (16,)),
        ("identity", ()),
        ("identity", (3, 0)),
        ("half-mask", (8,)),
    ],
)
def test_events_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        make_operator(name, shape)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        make_operator("gaussian-blur", (3, 16, 16), std=-1.0)
    with pytest.raises(ConfigError, match="does not fit"):
        make_operator("box-inpainting", (3, 16, 16), box=300.0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_of_their_operator(name: str) -> None:
    operator, preset = name.split(":")[0], PRESETS[name]
    shape = (2 if preset.settings.get("complex_signal") else 3, 64, 64)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    want = make_operator(operator, shape, **preset.settings)
    assert torch.equal(make_operator(name, shape)(x), want(x))
    assert preset.source


def test_the_papers_box_lies_at_rows_and_columns_50_to_199_and_scales() -> None:
    full, small = (make_operator("box-inpainting:paper", (3, size, size)) for size in (256, 64))
    assert isinstance(full, Mask)
    assert isinstance(small, Mask)
    hidden = torch.zeros(256, 256, dtype=torch.bool)
    hidden[50:200, 50:200] = True
    assert torch.equal(~full.mask, hidden)
    assert int((~small.mask).sum()) == 38**2
    assert not small.mask[12, 12]  # 12.5, rounded to even


def test_settings_go_on_top_of_a_preset() -> None:
    operator = make_operator("jpeg:paper", (3, 16, 16), quality=10)
    assert isinstance(operator, JPEG)
    assert (operator.quality, operator.tables) == (10, "unclamped")
    reduced = make_operator("super-resolution:x16", (3, 64, 64))
    assert isinstance(reduced, BlockMean)
    assert reduced.factor == 16


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="has no preset `x2`\nhint: did you mean `x16|hint: one of x16, x4"):
        make_operator("super-resolution:x2", (3, 16, 16))
    with pytest.raises(ConfigError, match="has no preset `x`\nhint: there are none"):
        make_operator("identity:x", (3, 16, 16))
    with pytest.raises(ConfigError, match="unknown operator `jpg`\nhint: did you mean `jpeg`"):
        make_operator("jpg:paper", (3, 16, 16))


HUGE: list[tuple[str, dict[str, Any]]] = [
    ("gaussian-blur", {"std": 1e9}),
    ("gaussian-blur-circular", {"truncate": 1e9}),
    ("gaussian-blur-separable", {"std": 1e9}),
    ("motion-blur", {"size": 1e9}),
    ("motion-blur", {"count": 10**9}),
    ("random-inpainting", {"count": 10**9}),
    ("fourier", {"count": 10**9}),
    ("fourier-coils", {"coils": 10**7}),
    ("radon", {"views": 10**9}),
    ("radon", {"detectors": 10**9}),
    ("radon", {"spacing": 1e-9}),
]


@pytest.mark.parametrize(("name", "settings"), HUGE)
def test_what_would_fill_the_memory_is_refused_before_it_is_made(name: str, settings: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ConfigError, ShapeError), match=r"would hold|is larger than"):
        make_operator(name, (1, 64, 64), **settings)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # KiB
