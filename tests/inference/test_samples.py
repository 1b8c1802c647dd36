"""Weighted samples: every statistic uses the weights, resampling and saving keep them, equal weights change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples


def made(**fields) -> Samples:
    """Two observations, six samples in groups of three."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, 6, 3, generator=generator)
    log_weight = torch.randn(2, 6, generator=generator).double()
    evidence = log_weight.reshape(2, 2, 3).logsumexp(2) - np.log(3)
    whole = Samples(draws, Cost(1, 2, 3, 4), {"seed": 0}, {"y": torch.ones(2, 1)}, log_weight, evidence, 3)
    return replace(whole, **fields)


def test_without_weights_statistics_are_the_usual_ones_to_the_bit():
    samples = made(log_weight=None)
    assert torch.equal(samples.mean(), samples.draws.mean(1))
    assert torch.equal(samples.std(), samples.draws.std(1))
    assert torch.equal(samples.quantiles([0.1, 0.7]), torch.quantile(samples.draws, torch.tensor([0.1, 0.7]), dim=1))
    assert samples.weights() is None
    assert torch.allclose(samples.effective_sample_size(), torch.full((2,), 6.0).double())
    assert torch.allclose(samples.effective_sample_size(of_groups=True), torch.full((2, 2), 3.0).double())


def test_statistics_use_the_weights_of_each_observation():
    samples, levels = made(), [0.2, 0.5]
    assert torch.allclose(samples.weights().sum(1), torch.ones(2).double())
    for i, (x, w) in enumerate(zip(samples.draws.numpy(), samples.weights().numpy(), strict=True)):
        mean = np.average(x, axis=0, weights=w)
        assert np.allclose(samples.mean()[i], mean, atol=1e-6)  # float32
        assert np.allclose(samples.std()[i], np.sqrt(np.diag(np.cov(x.T, aweights=w))), atol=1e-6)
        assert samples.effective_sample_size()[i] == pytest.approx(1 / np.square(w).sum())
        for g in (0, 1):
            part = w[3 * g : 3 * g + 3] / w[3 * g : 3 * g + 3].sum()
            assert samples.effective_sample_size(of_groups=True)[i, g] == pytest.approx(1 / np.square(part).sum())
    assert samples.quantiles(levels).shape == (2, 2, 3)
    assert samples.mean().dtype == samples.quantiles(levels).dtype == torch.float32


def test_equal_weights_give_the_statistics_without_weights():
    weighted, plain = made(log_weight=torch.full((2, 6), -7.0)), made(log_weight=None)
    assert torch.allclose(weighted.mean(), plain.mean(), atol=1e-6)
    assert torch.allclose(weighted.std(), plain.std(), atol=1e-6)
    assert torch.allclose(weighted.quantiles([0.05, 0.5]), plain.quantiles([0.05, 0.5]), atol=1e-6)


def test_each_observation_keeps_its_weights_and_evidence():
    whole = made()
    parts = whole.each()
    for i, part in enumerate(parts):
        assert torch.equal(part.log_weight, whole.log_weight[i : i + 1])
        assert torch.equal(part.log_evidence, whole.log_evidence[i : i + 1])
        assert part.group == 3
        assert torch.equal(part.mean()[0], whole.mean()[i])
    assert torch.equal(parts[0].each()[0].log_weight, parts[0].log_weight)


def test_weights_survive_saving(tmp_path):
    made().save(tmp_path)
    loaded = Samples.load(tmp_path)
    assert torch.equal(loaded.log_weight, made().log_weight)
    assert torch.equal(loaded.log_evidence, made().log_evidence)
    assert loaded.group == 3
    assert set(loaded.tensors) == {"y"}
    assert torch.equal(loaded.std(), made().std())


def test_samples_without_weights_are_saved_as_before(tmp_path):
    made(log_weight=None, log_evidence=None, group=1).save(tmp_path)
    loaded = Samples.load(tmp_path)
    assert loaded.log_weight is None
    assert loaded.log_evidence is None
    assert loaded.group == 1
    assert '"group"' not in (tmp_path / "samples.json").read_text()


def test_resampled_draws_count_alike_and_have_the_shares_of_their_weights():
    samples = made()
    equal = samples.resampled(600, seed=1)
    assert equal.log_weight is None
    assert equal.draws.shape == (2, 600, 3)
    for i in range(2):
        counts = torch.stack([(equal.draws[i] == x).all(1).sum() for x in samples.draws[i]])
        assert ((counts - 600 * samples.weights()[i]).abs() <= 1).all()
    assert torch.equal(equal.draws, samples.resampled(600, seed=1).draws)
    assert not torch.equal(equal.draws, samples.resampled(600, seed=2).draws)
    assert torch.equal(samples.resampled().draws[1], samples.each()[1].resampled().draws[0])


def test_resampled_draws_know_what_they_were_drawn_from(tmp_path):
    samples = made(tensors={"latents": torch.arange(12.0).reshape(2, 6, 1)})
    equal = samples.resampled(4)
    assert torch.equal(equal.effective_sample_size(), samples.effective_sample_size())
    assert equal.record["resampled"] == {"n": 4, "seed": 0}
    picked = equal.tensors["latents"][1, :, 0].long() - 6
    assert torch.equal(samples.draws[1][picked], equal.draws[1])
    equal.save(tmp_path)
    assert torch.equal(Samples.load(tmp_path).effective_sample_size(), samples.effective_sample_size())


def test_draws_without_weights_are_resampled_by_taking_the_first():
    samples = made(log_weight=None)
    assert samples.resampled() is samples
    assert torch.equal(samples.resampled(2).draws, samples.draws[:, :2])
    assert "resampled" not in samples.resampled(2).record
    assert samples.resampled(9).draws.shape == (2, 9, 3)
    with pytest.raises(ConfigError, match="n must be positive"):
        samples.resampled(0)
