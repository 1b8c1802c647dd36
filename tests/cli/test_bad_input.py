"""Bad input: one clear line with a hint and exit code 2, before anything is sampled, and nothing half-written."""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors
from PIL import Image

from midguide.operators.base import SVDOperator
from midguide.samplers.base import SAMPLERS, Needs
from midguide.samplers.mgps import MGPS


@pytest.fixture
def no_sampling(monkeypatch):
    """Fail where a run starts although its input is bad."""

    def step(*arguments):
        raise AssertionError("sampling has started")

    monkeypatch.setattr(MGPS, "step", step)


@pytest.fixture
def refused(reconstruct, no_sampling):
    """A reconstruction that must be refused, with these words on stderr, and leaves nothing behind."""

    def run(*argv, says: tuple[str, ...], **others) -> None:
        before = set(Path.cwd().iterdir())
        reconstruct(*argv, **others).assert_mistake(*says)
        assert set(Path.cwd().iterdir()) == before

    return run


def test_missing_file(refused):
    refused(picture="nowhere.png", says=("nowhere.png",))


def test_folder_in_place_of_an_image(refused, tmp_path):
    refused(picture=tmp_path, says=(tmp_path.name,))


def test_file_that_is_no_image(refused, tmp_path):
    (tmp_path / "text.png").write_text("this is not an image")
    refused(picture="text.png", says=("text.png",))


def test_truncated_image(refused, tmp_path, image):
    (tmp_path / "half.png").write_bytes(image.read_bytes()[:60])
    refused(picture="half.png", says=("half.png",))


def test_image_of_another_size(refused, tmp_path):
    Image.new("RGB", (23, 17)).save(tmp_path / "odd.png")
    refused(picture="odd.png", says=("17", "23"))


def test_image_modes_are_converted_or_refused_in_one_line(reconstruct, tmp_path, image):
    with Image.open(image) as picture:
        picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
        picture.quantize(8).save(tmp_path / "palette.png")
        picture.convert("RGBA").save(tmp_path / "opaque.png")
        picture.convert("L").save(tmp_path / "gray.png")
        clear = picture.convert("RGBA")
        clear.putalpha(120)
        clear.save(tmp_path / "clear.png")
        picture.convert("L").convert("I;16").save(tmp_path / "deep.png")
    for name in ("cmyk.jpg", "palette.png", "opaque.png", "gray.png", "clear.png", "deep.png"):
        result = reconstruct(picture=name)
        if result.code:
            result.assert_mistake(name)


@pytest.mark.parametrize("sigma", ["0", "-0.1", "nan", "inf"])
def test_noise_level_must_be_positive(refused, sigma):
    refused(f"--sigma={sigma}", says=("sigma", "must be"))


@pytest.mark.parametrize("option", ["--samples", "--steps", "--chunk"])
def test_counts_must_be_positive(refused, option):
    refused(option, 0, says=(option, "at least 1, got 0"))


@pytest.mark.parametrize("crop", ["1,2,3", "a,b,c,d", "-1,0,16,16", "0,0,0,16", "0,0,999,999"])
def test_crop_must_be_a_part_of_the_image(refused, crop):
    refused(f"--crop={crop}", says=("crop",))


def test_unknown_operator(refused):
    refused(operator="box-inpaintin", says=("box-inpaintin", "did you mean `box-inpainting`"))


def test_unknown_sampler(refused):
    refused("--sampler", "mgsp", says=("mgsp", "did you mean `mgps`"))


def test_unknown_preset(refused):
    refused("--sampler", "mgps:nothing", says=("nothing",))


def test_unknown_prior(refused):
    refused("--prior", "faces-46", says=("faces-46",))


def test_unknown_setting_of_the_sampler(refused):
    refused("--sampler", "mgps", "--set", "midpint=0.5", says=("midpint", "midpoint"))


def test_impossible_setting_of_the_sampler(refused):
    refused("--sampler", "mgps", "--set", "midpoint=7", says=("midpoint", "7"))


def test_malformed_setting(refused):
    refused("--set", "midpoint", says=("midpoint",))


def test_unknown_setting_of_the_operator(refused):
    refused("--operator-set", "bax=3", says=("bax", "box"))


def test_unknown_preset_of_the_operator(refused):
    refused(operator="half-mask:diagonal", says=("diagonal", "right, top"))


def test_impossible_quality_of_a_jpeg(refused):
    refused("--operator-set", "quality=0", operator="jpeg", says=("from 1 to 100, got 0",))


@pytest.mark.parametrize(
    ("operator", "setting", "message", "hint"),
    [
        ("super-resolution", "factor=0", "positive integer", "factor=4"),
        ("super-resolution", "factor=5", "5x5 do not tile", "divides both sides"),
        ("bicubic", "factor=0", "positive integer", "factor=4"),
        ("bicubic", "factor=7", "cannot be shrunk by 7", "divides both sides"),
        ("gaussian-blur", "std=0", "std and truncate must be positive", "256x256 image: std=3"),
        ("gaussian-blur", "std=300", "larger than the image of 16x16", "those of a 256x256 image"),
        ("gaussian-blur-separable", "cut=2", "[0, 1), got 2", "0.03"),
        ("box-inpainting", "box=400", "does not fit a 16x16 image", "256x256 image: box=150"),
        ("box-inpainting", "box=256", "hides all of a 16x16 image", "smaller"),
        ("half-mask", "side=middle", "unknown side", "left, right, top, bottom"),
        ("random-inpainting", "keep=0", "(0, 1], got 0", "fraction that is measured"),
        ("random-inpainting", "count=5", "a problem has one", "leave out `count`"),
        ("motion-blur", "count=5", "a problem has one", "leave out `count`"),
        ("motion-blur", "size=0", "size must be positive", "256x256 image: 61"),
        ("motion-blur", "size=999", "larger than the image of 16x16", "those of a 256x256 image"),
        ("motion-blur", "intensity=2", "[0, 1], got 2", "1 very shaky"),
        ("jpeg", "quality=101", "from 1 to 100, got 101", "1 is the worst"),
        ("jpeg", "quality=2.5", "must be an integer, got 2.5", "hint"),
        ("phase-retrieval", "oversampling=-1", "from 0 to 64, got -1", "papers take 2"),
        ("nonlinear-blur", "strength=-1", "must not be negative", "1.2"),
        ("high-dynamic-range", "scale=0", "positive and finite", "takes 2"),
        ("colorization", "weights=red", "unknown weights", "mean, luma"),
        ("compressed-sensing", "fraction=0", "(0, 1], got 0", "measured values for each pixel"),
        ("compressed-sensing", "kind=x", "unknown kind", "hartley"),
    ],
)
def test_impossible_setting_of_an_operator_has_a_hint_of_its_own(refused, operator, setting, message, hint):
    refused("--operator-set", setting, operator=operator, says=(message, hint))


def test_operator_that_the_sampler_cannot_use(refused, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class NeedsSVD(MGPS):
        needs: ClassVar[Needs] = Needs(operator=SVDOperator)

    entry = replace(SAMPLERS["mgps"], name="svd-only", thing=NeedsSVD, settings=NeedsSVD)
    monkeypatch.setitem(SAMPLERS._entries, "svd-only", entry)
    refused("--sampler", "svd-only", operator="motion-blur", says=("`svd-only`", "SVD", "mgps"))


@pytest.mark.parametrize("operator", ["compressed-sensing", "phase-retrieval"])
def test_measured_needs_measurements_that_are_images(refused, operator):
    refused("--measured", operator=operator, says=("--measured", "are images", "Python interface"))


def test_damaged_prior(refused, tmp_path, prior):
    (tmp_path / "half.safetensors").write_bytes(prior.read_bytes()[:-100])
    refused("--prior", "half.safetensors", says=("half.safetensors",))


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors", "evil.ckpt"])
def test_malicious_prior_is_refused_and_not_run(refused, tmp_path, name):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    refused("--prior", name, says=(name,))


def test_out_folder_that_is_a_file(refused, tmp_path):
    (tmp_path / "taken").write_text("")
    refused("--out", "taken", says=("taken",))


def test_out_folder_below_a_file(refused, tmp_path):
    (tmp_path / "taken").write_text("")
    refused("--out", "taken/out", says=("taken",))


def test_out_folder_that_cannot_be_written(refused, monkeypatch):
    def full(dir):  # noqa: A002
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("midguide.cli.output.tempfile.TemporaryFile", full)
    refused(says=("cannot write", "Permission denied"))


def test_progress_file_of_another_run(refused, tmp_path):
    (tmp_path / "out.progress").write_bytes(b"something else")
    refused(says=("out.progress",))


def test_too_little_memory(refused, monkeypatch):
    refused("--samples", 10**12, says=("1,000,000,000,000 samples", "GiB"))
    monkeypatch.setattr("midguide.inference.cost.memory", lambda: None)  # a system that does not say how much it has
    refused("--samples", 10**12, says=("out of memory", "--chunk"))


@pytest.mark.usefixtures("same_code")
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), safetensors.SafetensorError("No space left on device")]
)
@pytest.mark.parametrize("place", ["midguide.inference.samples.save_file", "matplotlib.figure.Figure.savefig"])
def test_full_disk_leaves_nothing_half_written(reconstruct, monkeypatch, place, error):
    def full(*arguments, **settings):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        reconstruct().assert_mistake("No space left on device")
    assert [path.name for path in Path.cwd().iterdir()] == ["out.progress"]  # the finished draws are not lost
    assert reconstruct().code == 0
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]


def test_full_disk_keeps_the_results_of_an_earlier_run(reconstruct, monkeypatch):
    reconstruct()
    before = {path: path.read_bytes() for path in Path("out").iterdir()}

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("midguide.inference.samples.save_file", full)
    reconstruct("--seed", 1).assert_mistake("No space left on device")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["reconstrct"], "did you mean 'reconstruct'"),
        (["reconstruct"], "missing argument"),
        (["reconstruct", "a.png"], "missing option"),
        (["reconstruct", "a.png", "--opertor", "x"], "did you mean --operator"),
        (["reconstruct", "a.png", "--operator", "x", "--sigma", "much"], "--sigma"),
        (["list", "sampler"], "did you mean `samplers`"),
        (["list"], "missing argument"),
        (["sample", "--n", "0"], "--n must be at least 1"),
        (["sample", "--eta", "2"], "--eta must be in [0, 1]"),
        (["demo", "--samples", "0"], "--samples must be at least 1"),
        (["--threads", "0", "demo"], "--threads must be at least 1"),
        (["train", "missing.toml", "--data", "x"], "missing.toml"),
    ],
)
def test_usage_errors_are_one_line_with_a_hint(cli, words, says):
    cli(*words).assert_mistake(says)
