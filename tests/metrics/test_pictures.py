"""The metrics of images by name: of the mean, of a draw, of the best of four, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from midguide.errors import CheckpointError, UnsupportedProblem
from midguide.likelihoods import observe
from midguide.metrics.base import METRICS, Answer, Target
from midguide.metrics.image import psnr, ssim
from midguide.operators.mask import Mask
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem

PSNR, SSIM = "range=1", "range=1,window=11,borders=valid"
PICTURES = {name: METRICS.make(name) for name in METRICS if name.startswith(("psnr", "ssim", "lpips"))}


class Prior(Gaussian):
    """Images in [0, 1], of which the metrics ask no more."""

    value_range = (0.0, 1.0)


def target(*shape):
    """A picture whose left half is measured."""
    prior = Prior(torch.zeros(shape), 1.0)
    truth = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    left = torch.zeros(shape, dtype=torch.bool)
    left[..., : shape[-1] // 2] = True
    return Target(Problem(prior, observe(Mask(left), truth, 0.1), truth))


def answer(where, n=8, noise=0.2):
    """The truth with noise."""
    truth = where.problem.truth
    return Answer(truth + noise * torch.randn(n, *truth.shape[1:], generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("name", "protocol", "score"), [("psnr", PSNR, psnr), ("ssim", SSIM, ssim)])
def test_mean_is_scored_once_and_samples_one_by_one(name, protocol, score):
    where = target(3, 16, 16)
    found = answer(where)
    of_mean = score(found.draws.mean(0, keepdim=True), where.problem.truth, (0.0, 1.0))
    of_samples = score(found.draws, where.problem.truth, (0.0, 1.0))
    assert METRICS.make(f"{name}_mean[{protocol}]").compute(found, where) == pytest.approx(float(of_mean))
    assert METRICS.make(f"{name}_sample[{protocol}]").compute(found, where) == pytest.approx(float(of_samples.mean()))
    assert float(of_mean) > float(of_samples.mean())  # averaging removes noise


def test_best_of_four_by_the_truth_is_the_best_of_each_four():
    where = target(3, 16, 16)
    found = answer(where, n=11)
    errors = (found.draws[:8] - where.problem.truth).square().flatten(1).mean(1).tolist()
    chosen = [min(group, key=errors.__getitem__) for group in (range(4), range(4, 8))]  # of the last three: none
    want = psnr(found.draws[chosen], where.problem.truth, (0.0, 1.0)).mean()
    got = METRICS.make(f"psnr_sample[{PSNR},best_of=4,by=truth]").compute(found, where)
    assert got == pytest.approx(float(want))
    assert got > METRICS.make(f"psnr_sample[{PSNR}]").compute(found, where)


def test_best_by_misfit_explains_the_observation_and_may_be_wrong_elsewhere():
    """Of four draws the third has the measured half right and the other half black."""
    where = target(1, 16, 16)
    truth = where.problem.truth
    draws = truth + 0.15 * torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    draws[2] = torch.where(where.problem.likelihood.operator.measured(truth)[0], truth[0], 0.0)
    chosen = METRICS.make(f"psnr_sample[{PSNR},best_of=4,by=misfit]").compute(Answer(draws), where)
    assert chosen == pytest.approx(float(psnr(draws[2:3], truth, (0.0, 1.0))))
    assert chosen < METRICS.make(f"psnr_sample[{PSNR},best_of=4,by=truth]").compute(Answer(draws), where)


def test_only_names_that_say_so_pick_the_best():
    """The others do not depend on the order of the draws, by which fours are made (float32 means: 1e-5)."""
    where = target(3, 16, 16)
    found = answer(where)
    turned = Answer(found.draws.flip(0))
    for name, metric in PICTURES.items():
        if "lpips" in name or "best_of" in name:
            continue
        assert metric.compute(found, where) == pytest.approx(metric.compute(turned, where), rel=1e-5)


def test_names_of_learned_metrics_say_which_weights():
    learned = [name for name, metric in PICTURES.items() if metric.files]
    assert all("net=" in name and "v=0.1" in name and "resize=none" in name for name in learned)
    assert all(name.startswith("lpips_like") == ("weights=caffe" in name) for name in learned)
    assert len(learned) == 4 * 3


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (f"ssim_mean[{SSIM}]", (1, 10, 16), "images of at least 11x11"),
        (f"psnr_mean[{PSNR}]", (12,), "images of at least 1x1"),
        ("lpips_sample[net=alexnet,v=0.1,resize=none]", (1, 64, 64), "31x31 with 3 channels"),
    ],
)
def test_events_that_are_no_such_images_are_refused(name, shape, reason):
    prior = Prior(torch.zeros(shape), 1.0)
    truth = torch.zeros(1, *shape)
    with pytest.raises(UnsupportedProblem, match=reason):
        METRICS.make(name).check(Problem(prior, observe(Mask(torch.ones(shape, dtype=torch.bool)), truth, 0.1), truth))


def test_unknown_truth_unknown_range_and_too_few_draws_are_refused():
    metric, problem = METRICS.make(f"psnr_sample[{PSNR},best_of=4,by=misfit]"), target(1, 16, 16).problem
    metric.check(problem, 4)
    with pytest.raises(UnsupportedProblem, match="at least 4 draws, there are 3"):
        metric.check(problem, 3)
    with pytest.raises(UnsupportedProblem, match="at least 4 draws"):
        metric.compute(answer(target(1, 16, 16), n=3), target(1, 16, 16))
    with pytest.raises(UnsupportedProblem, match="truth"):
        metric.check(replace(problem, truth=None))
    with pytest.raises(UnsupportedProblem, match="value range"):
        metric.check(replace(problem, denoiser=Gaussian(torch.zeros(1, 16, 16), 1.0)))


def test_weights_are_asked_for_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    metric = METRICS.make("lpips_sample[net=vgg16,v=0.1,resize=none]")
    metric.check(target(3, 64, 64).problem)  # a report needs no weights
    with pytest.raises(CheckpointError, match="vgg16-397923af.pth"):
        metric.ready()
    METRICS.make(f"psnr_mean[{PSNR}]").ready()
    assert METRICS.make(f"psnr_mean[{PSNR}]").record() == {}
