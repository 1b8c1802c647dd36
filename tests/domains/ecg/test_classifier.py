"""Classifiers of electrocardiograms as files: what was written is read, windows are aggregated as stated."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from midguide.domains.ecg.classifier import (
    EcgClassifier,
    EcgClassifierSpec,
    load_ecg_classifier,
    save_ecg_classifier,
)
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.xresnet1d import XResNet1d, XResNet1dConfig
from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.maths.rng import global_seed

SHAPE = XResNet1dConfig(blocks=(1,), width=4, expansion=1, hidden=4)
SPEC = EcgClassifierSpec(
    network=SHAPE,
    classes=("RBBB", "LBBB", "AF", "SB"),
    targets="diagnoses",
    ecg=EcgFormat(),
    length=40,
    mean_mv=0.1,
    std_mv=0.2,
    thresholds=(0.1, 0.2, 0.3, 0.4),
)


def classifier(**changes):
    with global_seed(0):
        return EcgClassifier(replace(SPEC, **changes), XResNet1d(SHAPE).eval())


def signals(length):
    return torch.randn(3, 12, length, generator=torch.Generator().manual_seed(0))


def test_file_gives_the_same_probabilities(tmp_path):
    ours = classifier()
    save_ecg_classifier(tmp_path / "c.safetensors", ours.network.state_dict(), SPEC)
    theirs = load_ecg_classifier(tmp_path / "c.safetensors")
    assert theirs.spec == SPEC
    assert torch.equal(theirs.probabilities(signals(100)), ours.probabilities(signals(100)))
    assert len(theirs.sha256) == 64


@pytest.mark.parametrize(("aggregation", "reduce"), [("max", torch.amax), ("mean", torch.mean)])
def test_windows_overlap_by_half_and_are_aggregated(aggregation, reduce):
    x, ours = signals(95), classifier(aggregation=aggregation)
    with torch.no_grad():
        parts = [ours.network((x[..., start : start + 40] - 0.1) / 0.2).sigmoid() for start in (0, 20, 40)]
    assert torch.allclose(ours.probabilities(x), reduce(torch.stack(parts), dim=0), atol=1e-6)


def test_short_signals_and_other_files_are_refused(tmp_path):
    with pytest.raises(ShapeError, match="12 leads of 40 or more"):
        classifier().probabilities(signals(39))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("other", "text", "nothing"):
        with pytest.raises(CheckpointError) as caught:
            load_ecg_classifier(tmp_path / f"{name}.safetensors")
        assert caught.value.hint
    with pytest.raises(ConfigError, match="3 classes"):
        replace(SPEC, classes=("a", "b", "c"))
