"""What the commands take for a prior of one's own: the same options, with the same words, as `load_prior` takes."""

from __future__ import annotations

import pytest
import torch

from midguide.diffusion.schedules import make_schedule
from midguide.inference.samples import Samples
from midguide.priors import loading
from midguide.storage.record import describe

WORDS = ("--prediction", "eps", "--schedule", "vp-linear:0.001,0.02,500", "--value-range", "0,1", "--device", "cpu")


@pytest.fixture(params=["sample", "reconstruct", "check-prior"])
def command(request, cli, prior, image):
    """A command with the tiny prior; further words are added."""
    words = {
        "sample": ("sample", "--prior", prior, "--n", 2, "--steps", 2, "--out", "out"),
        "reconstruct": ("reconstruct", image, "--operator", "identity", "--prior", prior, "--steps", 5, "--out", "out"),
        "check-prior": ("check-prior", prior, image, "--json"),
    }
    return lambda *more: cli(*words[request.param], *more)


def test_every_command_hands_them_to_the_prior(command, monkeypatch):
    loaded, load = [], loading.load_prior
    monkeypatch.setattr(loading, "load_prior", lambda *a, **settings: loaded.append(load(*a, **settings)) or loaded[-1])
    assert command(*WORDS).code in (0, 1)  # 1 from check-prior, which finds that it has learned nothing
    (used,) = loaded
    assert (used.prediction, used.schedule.noisiest, used.value_range) == ("eps", 500, (0.0, 1.0))
    assert used.device == "cpu"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prediction", "noise"), ("unknown prediction `noise`", "eps, v, x0, flow")),
        (("--schedule", "linear"), ("unknown schedule `linear`", "vp-linear")),
        (("--schedule", "vp-linear:2,3"), ("`2,3`", "vp-linear:0.0001,0.02")),
        (("--value-range", "1"), ("--value-range takes two numbers LOW,HIGH, got '1'", "-1,1")),
        (("--value-range", "1,-1"), ("'1,-1'",)),
        (("--value-range", "0,inf"), ("'0,inf'",)),
        (("--device", "nowhere"), ("the device nowhere", "available here: cpu")),
    ],
    ids=str,
)
def test_bad_values_are_one_line(command, words, says):
    command(*words).assert_mistake(*says)


def test_what_replaces_the_words_of_a_file_is_recorded_and_matters(cli, prior):
    words = ("sample", "--prior", prior, "--n", 2, "--steps", 2, "--out")
    for name, more in (("plain", ()), ("changed", WORDS)):
        assert cli(*words, name, *more).code == 0
    plain, changed = Samples.load("plain"), Samples.load("changed")
    for samples, prediction, schedule, value_range in (
        (plain, "v", "vp-linear", [-1.0, 1.0]),
        (changed, "eps", "vp-linear:0.001,0.02,500", [0.0, 1.0]),
    ):
        stated = [samples.record["prior"][key] for key in ("prediction", "schedule", "value_range")]
        assert stated == [prediction, describe(make_schedule(schedule)), value_range]
    assert not torch.allclose(plain.draws, changed.draws, atol=0.1)
