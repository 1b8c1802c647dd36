"""A reconstruction from the command line: what is printed, what is written, and that it goes on after an interrupt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.inference.samples import Samples
from midguide.operators.base import OPERATORS
from midguide.samplers.mgps import MGPS

FILES = ["mean.png", "metrics.json", "panel.png", "samples.json", "samples.safetensors"]
KEYS = {
    *("psnr_mean", "psnr_samples", "ssim_mean", "chi2", "network_forwards", "network_vjps", "seconds", "sampler"),
    *("prior", "operator", "seed", "files"),
}


def test_json_is_one_object_with_the_documented_keys(reconstruct):
    result = reconstruct("--json", "--seed", 3)
    assert result.code == 0
    assert result.json.keys() >= KEYS
    assert (result.json["sampler"], result.json["prior"], result.json["seed"]) == ("matheron", "tiny", 3)


def test_all_files_are_written_and_named_in_the_result(reconstruct):
    files = reconstruct("--json").json["files"]
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    assert all(Path(path).is_file() for path in files.values())
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]


def test_metrics_file_holds_what_json_prints(reconstruct):
    assert reconstruct("--json").json == json.loads(Path("out/metrics.json").read_text())


def test_table_shows_the_numbers(reconstruct):
    result = reconstruct()
    assert "PSNR of the posterior mean" in result.out
    assert "chi-square" in result.out
    assert "panel.png" in result.err


def test_verdict_is_in_the_table_in_json_and_in_the_file(reconstruct):
    found = reconstruct("--sampler", "mgps", "--json").json
    assert {row["check"] for row in found["verdict"]} >= {"misfit", "structure"}
    assert all(list(row) == ["check", "value", "low", "high", "advice"] for row in found["verdict"])
    misfit = next(row for row in found["verdict"] if row["check"] == "misfit")
    assert misfit["value"] == pytest.approx(found["chi2"], rel=1e-5)
    assert found["verdict_left_out"].keys() >= {"measurement", "spread"}  # of a network, and of two draws
    loose = reconstruct("--sampler", "unconditional", "--steps", 5)  # which asks for no agreement with the data
    assert [line for line in loose.out.splitlines() if line.startswith("verdict") and "expected" in line]
    assert [line for line in loose.err.splitlines() if line.startswith("verdict: ")]
    every = reconstruct("--sampler", "unconditional", "--steps", 5, "--verbose").err
    assert "left out: " in every
    assert "not seen by any check: " in every


def test_chi2_is_that_of_the_written_samples(reconstruct):
    chi2 = reconstruct("--json", "--sigma", 0.1).json["chi2"]
    samples = Samples.load("out")
    y, draws = samples.tensors["y"], samples.draws[0]
    seen = (y != 0).any(1, keepdim=True).expand_as(draws)  # noise makes a measured value exactly zero never
    assert chi2 == pytest.approx(float(((draws - y)[seen] / 0.1).square().mean()), rel=1e-5)


def test_cost_counts_one_forward_per_step_without_guidance(reconstruct):
    result = reconstruct("--json", "--sampler", "unconditional", "--steps", 5)
    assert (result.json["network_forwards"], result.json["network_vjps"]) == (5, 0)


def test_same_seed_gives_the_same_samples_and_another_seed_others(reconstruct):
    draws = []
    for seed in (1, 1, 2):
        assert reconstruct("--seed", seed).code == 0
        draws.append(Samples.load("out").draws)
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2], atol=0.1)


def test_overrides_reach_sampler_and_operator(reconstruct):
    assert reconstruct("--sampler", "mgps", "--set", "midpoint=0.9", "--operator-set", "box=64").code == 0
    record = Samples.load("out").record
    assert record["sampler"]["settings"]["midpoint"] == 0.9
    hidden = (Samples.load("out").tensors["y"] == 0).all(1).sum()
    assert int(hidden) == 16  # 64 of 256 pixels: a quarter of each side, 4x4


def test_measured_image_has_no_truth_and_no_scores(reconstruct):
    result = reconstruct("--measured", "--json")
    assert result.code == 0
    assert result.json["psnr_mean"] is result.json["psnr_samples"] is result.json["ssim_mean"] is None
    assert "truth" not in Samples.load("out").tensors


@pytest.mark.parametrize(("operator", "size"), [("super-resolution", 4), ("bicubic", 4), ("colorization", 16)])
def test_a_smaller_measurement_is_given_as_the_image_that_it_is(cli, tmp_path, prior, operator, size):
    small = tmp_path / "small.png"
    Image.fromarray(np.full((size, size, 3), 200, np.uint8)).save(small)
    words = ("--measured", "--operator", operator, "--prior", prior, "--samples", 1, "--steps", 2, "--out", "out")
    assert cli("reconstruct", small, *words).code == 0
    y = Samples.load("out").tensors["y"]
    assert y.shape == (1, 1 if operator == "colorization" else 3, size, size)
    assert torch.allclose(y, torch.tensor(2 * 200 / 255 - 1))


def test_other_operators_write_a_panel(reconstruct):
    for operator in (
        "super-resolution:x16",
        "random-inpainting",
        "identity",
        "jpeg",
        "compressed-sensing",
        "colorization",
    ):
        assert reconstruct(operator=operator).code == 0
        with Image.open("out/panel.png") as picture:
            assert picture.width > 1000


def test_crop_and_resize_make_an_image_fit(reconstruct, tmp_path):
    Image.new("RGB", (50, 40), (90, 120, 200)).save(tmp_path / "large.png")
    picture = tmp_path / "large.png"
    assert reconstruct("--crop", "2,3,16,16", picture=picture).code == 0
    assert reconstruct("--crop", "2,3,32,32", "--resize", picture=picture).code == 0


def test_results_are_named_after_image_operator_and_sampler_by_default(cli, prior, image):
    words = ("--operator", "box-inpainting", "--prior", prior, "--samples", 1, "--steps", 2)
    assert cli("reconstruct", image, *words).code == 0
    (folder,) = Path("midguide-out").iterdir()
    assert folder.name.startswith("ramp-box-inpainting-auto-")
    assert sorted(path.name for path in folder.iterdir()) == FILES


@pytest.mark.usefixtures("same_code")
def test_interrupted_run_goes_on_with_the_same_command_to_the_same_samples(reconstruct, monkeypatch):
    reconstruct("--sampler", "mgps", "--json")
    expected = Samples.load("out").draws
    step, calls = MGPS.step, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MGPS, "step", interrupted)
        result = reconstruct("--sampler", "mgps", "--json", "--out", "second")
    assert result.code == 130
    assert result.out == ""
    assert "repeat the same command" in result.err.splitlines()[-1]
    assert not Path("second").exists()
    assert Path("second.progress").is_file()

    result = reconstruct("--sampler", "mgps", "--json", "--out", "second")
    assert result.code == 0
    assert "going on after step 2 of 4" in result.err
    assert torch.equal(Samples.load("second").draws, expected)
    assert not Path("second.progress").exists()


@pytest.mark.usefixtures("same_code")
def test_a_stream_holds_the_draws_of_the_results_and_goes_on_where_it_was_interrupted(reconstruct, monkeypatch):
    words, step, calls = ("--sampler", "mgps", "--chunk", 1), MGPS.step, []
    in_memory = reconstruct(*words, "--json").json
    expected = Samples.load("out").draws

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, *arguments)

    words += ("--stream", "draws.zarr", "--out", "second")
    with monkeypatch.context() as patch:
        patch.setattr(MGPS, "step", interrupted)
        result = reconstruct(*words)
    assert result.code == 130
    assert "repeat the same command to go on from" in result.err
    result = reconstruct(*words, "--devices", "cpu", "--json")
    assert result.code == 0
    assert "going on after step 6 of" in result.err
    assert torch.equal(Samples.open("draws.zarr").draws[:], expected)
    assert not Path("draws.zarr.progress").exists()
    assert sorted(path.name for path in Path("second").iterdir()) == ["mean.png", "metrics.json", "panel.png"]
    assert result.json["files"]["samples"] == str(Path("draws.zarr").absolute())
    assert Path("second/panel.png").read_bytes() == Path("out/panel.png").read_bytes()
    for name in {*in_memory} - {"files", "seconds", "peak_memory_mib"}:
        assert result.json[name] == in_memory[name] or result.json[name] == pytest.approx(in_memory[name])


MEMORY = """
import sys, torch
from pathlib import Path
from midguide import Problem, make_sampler
from midguide.cli import runs
from midguide.inference import stored
from midguide.inference.cost import used_memory
from midguide.operators import Identity
from midguide.priors import Gaussian

stored.BLOCK, stored.JUDGED = 2**20, 2**22
prior = Gaussian(torch.zeros(3, 32, 32), 0.3)
problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.3)
peaks, folder = [], Path(sys.argv[1])
for n in map(int, sys.argv[2:]):
    labels = {"sampler": "ddnm", "prior": "gaussian", "operator": "identity", "noise": "gaussian", "sigma": 0.3}
    stream = folder / f"{n}.zarr"
    sampler = make_sampler("ddnm", {"steps": 2})
    run = runs.Run(
        problem=problem, sampler=sampler, n=n, seed=0, out=folder / str(n), labels=labels, chunk=100, stream=stream
    )
    result = runs.draw(run)
    runs.write(run, result, runs.measure(run, result, result.check()))
    peaks.append(used_memory(torch.device("cpu")).peak / 2**20)
print(*peaks)
"""


@pytest.mark.slow
def test_memory_of_a_streamed_reconstruction_does_not_grow_with_its_draws(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path), "6000", "12000"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MALLOC_ARENA_MAX": "2"})
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.split())
    assert many - few < 40  # the draws are 74 and 147 MB; SSIM and the allocator take what they take by then


def test_a_stream_of_another_kind_of_file_is_refused_in_one_line(reconstruct):
    result = reconstruct("--stream", "draws.csv")
    assert (result.code, result.out) == (2, "")
    assert "NAME.zarr" in result.err
    assert not Path("out").exists()


NEEDS_A_FILE = {name for name, entry in OPERATORS.items() if "path" in entry.required()}
REFUSED = {"ecg-": "an electrocardiogram has shape (9, time)", "fourier-coils": "do not have the shape (3, 16, 16)"}


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_registered_operator_is_accepted_and_those_of_other_signals_refused(reconstruct, operator):
    Image.new("L", (16, 16), 255).save("mask.png")
    own = ("--operator-set", "path=mask.png") if operator in NEEDS_A_FILE else ()
    result = reconstruct("--steps", 2, *own, operator=operator)
    for name, said in REFUSED.items():
        if operator.startswith(name):
            return result.assert_mistake(said)
    assert result.code == 0, result.err
    assert Path("out/panel.png").is_file()


def test_image_that_is_too_large_says_what_to_do_with_its_numbers(reconstruct, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "large.png")
    result = reconstruct(picture=tmp_path / "large.png")
    result.assert_mistake("is 50x40, expected 16x16", "--resize takes its largest centered part, 40x40, to 16x16")
    assert "--crop TOP,LEFT,16,16" in result.err
    assert "--tile covers all of it with tiles, for priors of patches" in result.err


def test_large_image_is_covered_with_tiles(reconstruct, tmp_path):
    Image.effect_noise((37, 40), 50).convert("RGB").save(tmp_path / "large.png")
    result = reconstruct("--tile", "--overlap", 3, "--json", picture=tmp_path / "large.png")
    assert result.code == 0, result.err
    assert "9 tiles of 16x16, each a call of the prior, cover 37x40: made for priors of patches" in result.err
    assert Samples.load("out").draws.shape == (1, 2, 3, 40, 37)
    with Image.open("out/mean.png") as mean:
        assert mean.size == (37, 40)
    again = reconstruct("--tile", "--crop", "0,0,20,30", operator="identity", picture=tmp_path / "large.png")
    assert "cover 30x20" in again.err


def test_small_measurement_is_taken_for_one_of_a_larger_image(reconstruct, tmp_path):
    Image.effect_noise((10, 8), 50).convert("RGB").save(tmp_path / "small.png")
    words = ("--measured", "--tile", "--operator-set", "factor=4")
    result = reconstruct(*words, operator="super-resolution", picture=tmp_path / "small.png")
    assert result.code == 0, result.err
    assert Samples.load("out").draws.shape == (1, 2, 3, 32, 40)


def test_tiles_that_cannot_be_are_refused_in_one_line(reconstruct, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "large.png")
    Image.new("RGB", (50, 10)).save(tmp_path / "flat.png")
    reconstruct("--tile", "--resize", picture=tmp_path / "large.png").assert_mistake("--tile keeps the size")
    reconstruct("--overlap", 3, picture=tmp_path / "large.png").assert_mistake("--overlap is one of tiles")
    reconstruct("--tile", "--overlap", 16, picture=tmp_path / "large.png").assert_mistake("overlap 16")
    reconstruct("--tile", picture=tmp_path / "flat.png").assert_mistake(
        "(10, 50) are not larger than tiles of (16, 16)"
    )


def test_photon_counts_are_reconstructed_and_the_rate_is_recorded(reconstruct):
    result = reconstruct("--noise", "poisson", "--rate", 30, "--json")
    assert result.code == 0
    assert result.json["rate"] == 30
    y = Samples.load("out").tensors["y"]
    assert torch.equal(y, y.round())
    reconstruct("--noise", "poisson", "--rate", 30, "--sampler", "ddnm").assert_mistake("`ddnm`", "mgps")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--noise", "poisson"), ("--rate",)),
        (("--rate", 3), ("--noise gaussian", "no setting `rate`")),
        (("--noise", "poisson", "--rate", 0), ("--noise poisson", "rate must be positive")),
        (("--noise", "salt"), ("salt", "poisson")),
        (("--noise", "poisson", "--rate", 3, "--measured"), ("--measured", "counts")),
        (("--dtype", "int8"), ("dtype must be one of", "bfloat16", "float16")),
    ],
)
def test_noise_and_precision_that_do_not_exist_are_refused(reconstruct, words, message):
    reconstruct(*words).assert_mistake(*message)


def test_precision_of_the_network_is_recorded_and_the_samples_stay_in_float32(reconstruct):
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        assert reconstruct("--dtype", dtype).code == 0
        samples = Samples.load("out")
        assert samples.record["prior"]["dtype"] == f"torch.{dtype}"
        assert samples.draws.dtype == torch.float32


PARTICLES = f"{Path(__file__).parents[1] / 'accuracy' / 'particles.py'}:TwistedFilter"


def test_weighted_samples_of_ones_own_filter_are_measured_by_their_weights(reconstruct):
    result = reconstruct(
        "--json", "--sampler", PARTICLES, "--set", "particles=2", "--samples", 4, "--sigma", 20, "--steps", 5
    )
    assert result.code == 0
    samples = Samples.load("out")
    assert samples.group == 2
    assert samples.log_evidence.shape == (1, 2)
    assert result.json["effective_sample_size"] == pytest.approx(float(samples.effective_sample_size()[0]))
    weighted = (samples.weights()[0] * torch.tensor(result.json["chi2_samples"])).sum()
    assert result.json["chi2"] == pytest.approx(float(weighted))


def test_collapsed_weights_and_samples_that_make_no_whole_groups_are_said_in_one_line(reconstruct):
    result = reconstruct("--sampler", PARTICLES, "--set", "particles=2", "--samples", 4, "--sigma", 0.001, "--steps", 5)
    assert "warning: the weights of observation 0 collapsed: 4 draws count as 1.0" in result.err
    assert "effective sample size of the weighted samples" in result.out
    reconstruct("--sampler", PARTICLES, "--samples", 6, "--steps", 5).assert_mistake(
        "groups of 4", "take 4 or 8 samples"
    )


def test_a_budget_sets_the_steps(cli, prior, image):
    words = ("reconstruct", image, "--operator", "box-inpainting", "--prior", prior, "--samples", 1, "--json")
    result = cli(*words, "--budget", 9)
    assert result.json["network_forwards"] + result.json["network_vjps"] == 8
    assert cli(*words, "--budget", 9, "--sampler", "ddrm").json["network_forwards"] == 9
    cli(*words, "--budget", 9, "--steps", 3).assert_mistake("a budget sets the steps")
    cli(*words, "--budget", 0).assert_mistake("--budget must be at least 1")
    cli(*words, "--budget", 1).assert_mistake("`matheron` takes at least 5 network calls, the budget is 1")


def test_a_run_that_names_no_sampler_says_what_was_chosen_and_records_it(reconstruct):
    result = reconstruct()
    assert "sampler: matheron, 5 steps, 14 network calls a sample; for a linear operator" in " ".join(
        result.err.split()
    )
    record = Samples.load("out").record
    assert (record["sampler"]["name"], record["sampler"]["settings"]["steps"]) == ("matheron", 5)
    assert record["auto"].startswith("a linear operator: ")
    assert reconstruct("--sampler", "matheron:fast", "--out", "named").code == 0
    named = Samples.load("named")
    assert torch.equal(Samples.load("out").draws, named.draws)
    assert "auto" not in named.record
