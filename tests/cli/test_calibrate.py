"""`midguide calibrate` and `midguide tune`: what they print and write, and one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

OWN = """
import torch
from midguide.calibration import quantity
from midguide.priors import Gaussian

def simple():
    return Gaussian(torch.zeros(1, 4, 4), 1.0)

def lost():
    from midguide.priors.base import Denoiser
    known = simple()

    class Nan(Denoiser):
        def __init__(self):
            self.schedule, self.event_shape = known.schedule, known.event_shape

        def __call__(self, x, t):
            return x * torch.nan

    return Nan()

@quantity
def none(problem, x):
    return x

@quantity
def brightness(problem, x):
    return x.flatten(1).mean(1)

def plain(problem, x):
    return x.flatten(1).mean(1)
"""


@pytest.fixture
def calibrate(cli):
    Path("own.py").write_text(OWN)

    def run(*argv: object, prior: str = "own.py:simple", n: int = 20):
        words = ("--prior", prior, "--operator", "identity", "--sigma", 0.3, "--n", n, "--draws", 7, "--out", "out")
        return cli("calibrate", *words, *argv)

    return run


def test_a_table_a_page_and_json_are_made(calibrate) -> None:
    result = calibrate("--sampler", "exact", "--sampler", "prior", "--quantity", "own.py:brightness")
    assert result.code == 0
    assert "exact: nothing found by 17 test quantities" in result.out
    assert "prior: rejected by" in result.out
    assert {path.name for path in Path("out").iterdir()} >= {"calibration.html", "calibration.json", "study.json"}
    stored = json.loads(Path("out/calibration.json").read_text())
    assert [each["rejected"] for each in stored["samplers"]] == [False, True]


def test_json_is_one_object_and_a_second_run_draws_nothing(calibrate) -> None:
    first = calibrate("--sampler", "exact", "--json").json
    before = {path: path.stat().st_mtime_ns for path in Path("out/units").iterdir()}
    assert calibrate("--sampler", "exact", "--json").json == first
    assert {path: path.stat().st_mtime_ns for path in Path("out/units").iterdir()} == before


def test_tune_writes_a_preset_that_the_sampler_takes(calibrate, cli) -> None:
    words = ("--prior", "own.py:simple", "--operator", "identity", "--sigma", 0.3, "--sampler", "pgdm", "--draws", 7)
    result = cli("tune", *words, "--calls", 20, "--budget", 20_000, "--n", 20, "--first", 2, "--out", "tuned", "--json")
    assert result.code == 0
    assert result.json["sampler"] == "pgdm"
    again = calibrate("--sampler", f"pgdm:{result.json['preset']}", "--json")
    assert again.json["samplers"][0]["cost"]["network_forwards"] <= 20


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--sampler", "exact", "--n", 5), "5 problems are too few for a claim"),
        (("--sampler", "exact", "--draws", 2), "2 draws of each problem are too few for a claim"),
        (("--sampler", "exact", "--level", 2), "level must be in (0, 1)"),
        (("--sampler", "mpgs"), "unknown sampler `mpgs`"),
        (("--sampler", "exact", "--quantity", "own.py:plain"), "it is not a test quantity"),
        (("--sampler", "exact", "--quantity", "own.py:none"), "one number for each of 3 rows"),
        (("--sampler", "exact", "--truths", "nowhere"), "there is no nowhere"),
        (("--sampler", "exact", "--sigma", -1), "sigma"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(calibrate, argv, words: str) -> None:
    result = calibrate(*argv)
    lines = [line for line in result.err.splitlines() if not line.startswith("runs the code")]
    assert (result.code, [line.split(":")[0] for line in lines]) == (2, ["error", "hint"])
    assert words in result.err
    assert not Path("out").exists()


def test_a_folder_with_two_images_is_too_few_truths(calibrate) -> None:
    Path("two").mkdir()
    for level, name in ((100, "a.png"), (200, "b.png")):
        Image.new("L", (4, 4), level).save(Path("two") / name)
    result = calibrate("--sampler", "exact", "--truths", "two")
    assert result.code == 2
    assert "20 problems need as many truths, there are 2" in result.err
    assert not Path("out").exists()


def test_a_prior_that_cannot_be_sampled_is_one_line(calibrate) -> None:
    result = calibrate("--sampler", "dps", "--set", "steps=5", prior="own.py:lost")
    assert result.code == 2
    assert result.err.count("cannot be sampled") == 1
    assert not Path("out").exists()
