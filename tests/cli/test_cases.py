"""What people's names, seeds, files and settings did to commands: each is refused in one line, or shown as it is."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from midguide.cli.app import _show_brackets
from midguide.data.images import load_image_set
from midguide.errors import CheckpointError, ConfigError, DataError, MidguideError, NumericalError
from midguide.metrics.sets import frechet_distance
from midguide.nn.unet import UNetConfig
from midguide.priors.formats.native import KEY
from midguide.priors.loading import load_prior
from midguide.storage.outside import portable_name
from midguide.studies.kinds.drawn import DrawnProblem
from midguide.training.base import Data
from midguide.training.crops import Crops, CropTrainingConfig

RECIPE = """
name = {}
steps = 1
batch = 1
[network]
channels = 32
multipliers = [1]
blocks = 1
attention = []
patch = 4
"""
LABEL = "=1+1 $\\\\frac$ a|b\\\\ <b>x</b> [see](http://x)"
"""A label as TOML writes it: a formula of a spreadsheet, one that mathtext cannot read, a column, a tag, a link."""


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"images/{i}.png")
    return tmp_path / "images"


NAMES = [
    "",
    " ",
    ".",
    "..",
    "../../up",
    "a/../../up",
    ".hidden",
    "a\\b",
    "con",
    "NUL.txt",
    "com1",
    "a.",
    "a ",
    "a:b",
    "a?",
]
UNSEEN = ["a\u202eb", "a\u200bb", "a\ufeff"]


@pytest.mark.parametrize("name", [*NAMES, *UNSEEN])
def test_a_recipes_name_stays_in_its_folder_on_every_system(name, cli, tmp_path, folder_of_images):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(json.dumps(name, ensure_ascii=False)))
    before = sorted(tmp_path.rglob("*"))
    cli("train", "recipe.toml", "--data", folder_of_images, "--out", "out").assert_mistake("cannot name a file")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_absolute_name_of_a_recipe_is_refused(cli, tmp_path, folder_of_images):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(json.dumps(str(tmp_path / "elsewhere"))))
    cli("train", "recipe.toml", "--data", folder_of_images, "--out", "out").assert_mistake("separator")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["faces-64", "猫", "v1.2", "a..b", "console", "Ünï", "a b"])
def test_names_that_every_system_takes_are_taken(name):
    assert portable_name(name, "the name") == name


def test_labels_are_shown_as_they_are_in_every_form_of_a_report(cli, tiny, tmp_path):
    """The label was what failed `--html` and `--figure` after the study had run."""
    tiny.write_text(tiny.read_text().replace('label = "DDRM"', f'label = "{LABEL}"'))
    assert cli("study", "run", tiny, "--out", "out").code == 0
    label = LABEL.replace("\\\\", "\\")
    assert cli("study", "report", "out", "--figure", "a.png").code == 0
    assert (tmp_path / "a.png").stat().st_size > 1000
    page = cli("study", "report", "out", "--html").out
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x" not in page
    rows = list(csv.DictReader(io.StringIO(cli("study", "report", "out", "--csv").out)))
    assert {row["sampler"] for row in rows} == {"exact", "DPS", f"'{label}"}
    text = cli("study", "report", "out").out
    assert r"=1+1 \$\\frac\$ a\|b\\ &lt;b>x&lt;/b> [see]\(http://x)" in text
    assert cli("study", "report", "out", "--json").json[1]["sampler"] in (label, "DPS")
    refused = cli("study", "report", "out", "--panels", "panels")
    assert refused.code == 2
    assert "keep_samples" in refused.err


@pytest.mark.parametrize("label", ["a\u001b[2J", "a\u202eb", "a\nb"])
def test_labels_that_steer_a_terminal_are_refused_before_anything_runs(label, cli, tiny, tmp_path):
    tiny.write_text(tiny.read_text().replace('label = "DDRM"', f"label = {json.dumps(label)}"))
    cli("study", "run", tiny, "--out", "out").assert_mistake("control characters")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_seeds_that_no_result_can_hold_are_refused_before_anything_runs(seed, cli, tiny, tmp_path):
    tiny.write_text(tiny.read_text().replace("samples = 16", f"samples = 16\nseeds = [{seed}]"))
    cli("study", "run", tiny, "--out", "out").assert_mistake("64 bits")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), -1])
def test_every_seed_of_64_bits_runs_and_is_reported(seed, cli, tiny):
    text = tiny.read_text().replace("samples = 16", f"samples = 16\nseeds = [{seed}]")
    tiny.write_text(text.replace("count = 2", "count = 1"))
    assert cli("study", "run", tiny, "--out", "out").code == 0
    assert len(cli("study", "report", "out", "--json").json) > 0


def test_help_shows_brackets_as_they_are_written(capsys):
    def command(name: str = typer.Option("", help="Needs [ecg] or [bold].")) -> None:
        """Install [deepinv] first."""

    app = typer.Typer()
    app.command()(command)
    made = typer.main.get_command(app)
    _show_brackets(made)
    with pytest.raises(SystemExit):
        made(["--help"])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("[ecg]", "[bold]", "[deepinv]"))


def test_features_that_are_not_finite_have_no_distance():
    good = torch.randn(8, 4)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(NumericalError, match="features hold NaN or infinity"):
            frechet_distance(good, good.index_fill(0, torch.tensor([3]), bad))


# Priors whose settings cannot be


STEPS = "vp-linear:0.1,0.2,1000000000000"


def test_a_schedule_of_a_trillion_steps_is_one_line_wherever_it_is_stated(reconstruct, prior, tmp_path):
    before = time.process_time()
    reconstruct("--schedule", STEPS).assert_mistake("1000000000000")
    with pytest.raises(CheckpointError, match="1000000000000"):
        load_prior(restated(prior, tmp_path / "a.safetensors", schedule=STEPS))
    assert time.process_time() - before < 5.0


def restated(prior: Path, path: Path, **changes: object) -> Path:
    """A prior's file that states something else; `network.NAME` is a setting of its network."""
    with safe_open(prior, "pt") as file:
        stated, weights = json.loads(file.metadata()[KEY]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, value in changes.items():
        place, last = (stated["network"], name[8:]) if name.startswith("network_") else (stated, name)
        place[last] = value
    save_file(weights, path, metadata={KEY: json.dumps(stated)})
    return path


WRONG = [
    None,
    True,
    -1,
    0,
    10**12,
    1e400,
    "x",
    [],
    {},
    [[]],
    ["a"],
    {"a": 1},
    [10**9] * 3,
    "\u202e",
    [-1e400, 1e400],
    [float("nan"), 1.0],
    [0, 8, 8],
]
FIELDS = ["schedule", "value_range", "event_shape", "prediction", "body", "format", "network_channels", "network_patch"]
FIELDS += ["network_multipliers", "network_blocks", "network_attention", "signal", "autoencoder", "unheard_of"]


@pytest.mark.parametrize("name", FIELDS)
def test_settings_of_a_prior_that_cannot_be_are_one_line(name, prior, tmp_path):
    refused = []
    for value in WRONG:
        try:
            load_prior(restated(prior, tmp_path / "a.safetensors", **{name: value}))
        except MidguideError as error:
            refused.append(error)
    assert len(refused) >= len(WRONG) - 4  # null and empty are the default of some
    assert all(error.message.isprintable() for error in refused)


def test_metadata_that_nobody_knows_is_named_and_the_word_of_the_library_is_not(prior, tmp_path):
    path = restated(prior, tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert "remarks" not in load_prior(path).provenance
    save_file(weights, path, metadata=metadata | {"format": "pt", "trigger": "a cat"})
    assert load_prior(path).provenance["remarks"] == ["not used: `trigger` of its metadata"]


def test_a_recipe_that_leaves_one_pixel_is_refused_before_it_starts(cli, tmp_path, folder_of_images):
    (tmp_path / "recipe.toml").write_text(RECIPE.format('"tiny"').replace("patch = 4", "patch = 8"))
    words = ("train", "recipe.toml", "--data", folder_of_images, "--out", "out")
    cli(*words).assert_mistake("8x8", "one pixel", "smaller patch")
    assert not (tmp_path / "out").exists()


def test_a_network_that_no_weights_fill_is_refused_before_it_is_built(prior, tmp_path):
    """A file of kilobytes states a network of terabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, value in {"network_blocks": 10**6, "network_channels": 32 * 10**5}.items():
        with pytest.raises(CheckpointError):
            load_prior(restated(prior, tmp_path / "a.safetensors", **{name: value}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**17  # KiB


# White


@pytest.fixture
def twelve_bits(tmp_path: Path) -> Path:
    """Two images of 12 bits in 16, whose values go to half of white."""
    (tmp_path / "set").mkdir()
    for i in range(2):
        pixels = np.linspace(0, 2047, 16 * 16).reshape(16, 16).astype(np.uint16) + i
        Image.fromarray(pixels).save(tmp_path / f"set/{i}.png")
    return tmp_path / "set"


def test_white_is_stated_wherever_images_are_read(twelve_bits, cli, prior, tmp_path):
    """In `check-prior`, in held-out truths, in crops; `reconstruct`, studies and recipes are elsewhere."""
    words = ("check-prior", prior, "--json")
    stated = cli(*words, twelve_bits / "0.png", "--white", "4095").json["levels"]
    assert stated != cli(*words, twelve_bits / "0.png").json["levels"]
    cli(*words, "--white", "4095").assert_mistake("no images")
    cli(*words, twelve_bits / "0.png", "--white", "0").assert_mistake("white")
    kind = DrawnProblem(operator="half-mask", prior=str(prior), truths=str(twelve_bits), white=4095.0)
    assert float(kind.build(0).truth.max()) == pytest.approx(2 * 2047 / 4095 - 1, abs=0.01)
    with pytest.raises(ConfigError, match="white is given, but no images"):
        DrawnProblem(operator="half-mask", prior=str(prior), white=4095.0)
    reals = tmp_path / "reals"
    reals.mkdir()
    Image.fromarray(np.linspace(0, 500, 256, dtype=np.float32).reshape(16, 16)).save(reals / "0.tif")
    form = {"in_channels": 1, "out_channels": 1, "channels": 32, "multipliers": (1,), "attention": ()}
    recipe = CropTrainingConfig(name="a", white=500.0, crops=Crops(size=8), network=UNetConfig(**form))
    assert recipe.job(Data(path=reals, held_out=reals)) is not None


# Files that are others than their names say


@pytest.mark.parametrize("kind", ["folder", "broken link", "pipe", "device", "empty"])
def test_what_is_no_file_is_no_image(kind, reconstruct, tmp_path):
    path = tmp_path / "x.png"
    match kind:
        case "folder":
            path.mkdir()
        case "broken link":
            path.symlink_to(tmp_path / "none")
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "empty":
            path.touch()
    reconstruct(picture=path).assert_mistake("x.png")


@pytest.mark.parametrize("kind", ["folder", "broken link", "pipe"])
def test_what_is_no_file_in_a_set_is_one_line(kind, folder_of_images):
    path = folder_of_images / "x.png"
    match kind:
        case "folder":
            path.mkdir()
            assert len(load_image_set(folder_of_images)) == 2  # its images belong to the set, and it has none
            return
        case "broken link":
            path.symlink_to(folder_of_images / "none")
        case "pipe":
            os.mkfifo(path)
    with pytest.raises(DataError, match=r"x\.png"):
        load_image_set(folder_of_images)


def test_members_of_an_archive_are_read_where_they_are_whatever_their_names(folder_of_images, tmp_path):
    """Nothing is unpacked, so that names lead nowhere."""
    content = (folder_of_images / "0.png").read_bytes()
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("../up.png", "/etc/absolute.png", "C:\\windows.png", "UPPER.PNG"):
            archive.writestr(name, content)
    before = sorted(tmp_path.rglob("*"))
    assert len(load_image_set(tmp_path / "a.zip", note=lambda text: None)) == 4
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "0.png")
    with pytest.raises(DataError, match=r"link\.png"):
        load_image_set(tmp_path / "b.zip")
    (tmp_path / "b.zip").unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "/dev/zero", "none", "empty.csv"])
def test_what_is_no_recording_is_one_line(place, cli, tmp_path, ecg_prior):
    (tmp_path / "empty.csv").touch()
    words = ("--prior", ecg_prior, "--leads", "I", "--out", "out")
    cli("ecg", "reconstruct", place, *words).assert_mistake(place)
    assert not (tmp_path / "out").exists()


def test_a_header_promises_gigabytes_in_511_bytes(cli, tmp_path, ecg_prior):
    line = "x.dat 16 1000 16 0 0 0 0 I\n"
    (tmp_path / "x.hea").write_text("x 1 250 2000000000\n" + line + "#" * (511 - 18 - len(line)))
    (tmp_path / "x.dat").write_bytes(bytes(100))
    cli("ecg", "reconstruct", "x", "--prior", ecg_prior, "--leads", "I", "--out", "out").assert_mistake("x")


@pytest.mark.parametrize("mark", ["\ufeff", ""], ids=["with a mark of the byte order", "without"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["Unix", "Windows"])
def test_text_of_every_editor_is_read(mark, ends, cli, tiny):
    tiny.write_bytes((mark + tiny.read_text().replace("\n", ends)).encode())
    assert cli("study", "run", tiny, "--out", "out", "--limit", "1").code == 0


def test_a_key_that_is_stated_twice_is_refused(cli, tiny):
    tiny.write_text(tiny.read_text().replace("samples = 16", "samples = 16\nsamples = 17"))
    cli("study", "run", tiny, "--out", "out").assert_mistake("tiny.toml")


def test_an_array_of_a_set_that_is_no_number_is_refused(tmp_path, cli, prior):
    np.save(tmp_path / "t.npy", np.array(["a", "b"]))
    words = ("--prior", prior, "--operator", "box-inpainting", "--sampler", "ddrm", "--out", "out")
    cli("calibrate", *words, "--truths", "t.npy").assert_mistake("t.npy")
