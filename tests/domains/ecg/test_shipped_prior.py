"""The prior that the domain ships, and what files of priors of electrocardiograms say of their signals."""

import json

import pytest
import torch
from safetensors import safe_open

from midguide.domains.ecg.leads import EINTHOVEN, MODELED, EcgFormat, einthoven_error
from midguide.domains.ecg.problems import middle
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import simulate
from midguide.errors import CheckpointError, ConfigError
from midguide.inference.loop import sample
from midguide.nn.sashimi import SashimiConfig
from midguide.priors.cards import recipe, shipped, weights_of
from midguide.priors.formats.native import from_metadata, to_metadata
from midguide.priors.loading import load_prior
from midguide.priors.settings import PriorSettings
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS
from midguide.samplers.unconditional import Unconditional
from midguide.signals.base import SIGNALS, Signal

SPEC = PriorSettings(
    network=SashimiConfig(in_channels=9, out_channels=9), event_shape=(9, 256), value_range="unbounded",
    prediction="v", schedule="vp-linear", signal=EcgFormat(unit_mv=0.25).signal,
)  # fmt: skip


@pytest.mark.parametrize("name", ["ecg-256", "ecg-1024"])
def test_the_shipped_priors_are_found_through_their_domain(name):
    assert name in shipped()
    assert weights_of(name).parent.parent.name == "ecg"
    assert recipe(name).parent == weights_of(name).parent


@pytest.mark.parametrize("name", ["ecg-256", "ecg-1024"])
def test_the_shipped_priors_of_electrocardiograms_denoise_a_simulated_one(name):
    """A tenth of the variance is left at noise of the size of the signal's spread: 0.06 on held-out recordings."""
    denoiser = load_prior(name)
    form = EcgFormat.of(denoiser.signal)
    assert form is not None
    recordings = [nine_leads(simulate(seed, seconds=10.0, rate_hz=100.0), form) for seed in range(4)]
    x0 = middle(torch.stack(recordings).float(), denoiser.event_shape[1]) / form.unit_mv
    t = denoiser.schedule.time_at(1.0)
    level = denoiser.schedule.level(t)
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    error = (denoiser(level.alpha * x0 + level.sigma * z, t) - x0).square().mean() / x0.var()
    assert float(error) < 0.1


def test_the_signal_of_the_shipped_prior_has_unit_axes_and_space():
    signal = load_prior("ecg-256").signal
    assert (signal.shape, signal.value_range, signal.unit, signal.unit_size) == ((9, 256), None, "mV", 0.22)
    leads, time = signal.axes
    assert (leads.labels, time.name, time.unit, time.rate) == (MODELED, "time", "s", 100.0)
    assert signal.space == EINTHOVEN


def test_draws_lie_in_the_space_of_the_signal():
    draws = sample(Unconditional(steps=2), Problem.unobserved(load_prior("ecg-256")), 2).draws
    assert float(einthoven_error(draws).max()) == 0.0


def test_a_form_is_read_from_its_signal():
    form = EcgFormat(rate_hz=500.0, high_pass_hz=0.0)
    assert EcgFormat.of(form.signal) == form
    assert SIGNALS.make("ecg", {"rate_hz": 500.0, "high_pass_hz": 0.0}) == form.signal
    assert EcgFormat.of(Signal(unit="mV")) is None


def test_a_file_says_what_its_signals_are():
    assert from_metadata(to_metadata(SPEC)) == SPEC
    stored = json.loads(to_metadata(SPEC))["signal"]
    assert (stored["unit"], stored["unit_size"], stored["space"]) == ("mV", 0.25, "einthoven")


def test_a_file_of_the_first_version_says_it_in_the_words_of_the_domain():
    stored = json.loads(to_metadata(SPEC))
    del stored["signal"]
    form = {"leads": list(MODELED), "rate_hz": 100.0, "unit_mv": 0.25, "high_pass_hz": 0.6}
    assert from_metadata(json.dumps(stored | {"ecg": form})) == SPEC
    assert from_metadata(json.dumps(stored | {"ecg": None})).signals == Signal()


def test_the_shipped_file_is_one_of_the_first_version():
    with safe_open(weights_of("ecg-256"), "pt") as file:
        assert "ecg" in json.loads(file.metadata()["midguide"])


def test_signals_of_another_version_of_the_domain_are_refused():
    record = SPEC.signal.record()
    with pytest.raises(CheckpointError, match="another version of the kind `ecg`"):
        Signal.from_record(record | {"unit": "uV"})
    with pytest.raises(ConfigError, match="unknown kind of signal `eeg`"):
        Signal.from_record(record | {"kind": "eeg"})


@pytest.mark.parametrize("name", ["mgps", "dps", "pgdm", "ddnm-plus", "diffpir", "red-diff"])
def test_the_domain_brings_a_preset_for_samplers(name):
    assert SAMPLERS.make(f"{name}:ecg").steps >= 200
