"""The metrics of images by name: PSNR, SSIM and LPIPS of the posterior mean, of a sample, and of the best of four."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from midguide.errors import UnsupportedProblem
from midguide.metrics.base import Answer, Metric, Target, enter_metric, known
from midguide.metrics.image import WINDOW, psnr, ssim
from midguide.metrics.lpips import PUBLISHED, load_lpips
from midguide.nn.perceptual_features import BODIES

BEST_OF = 4
"""The number that the MGPS paper and others take for phase retrieval."""

Score = Callable[[Tensor, Tensor, tuple[float, float]], Tensor]
"""Of images (B, C, H, W), one truth (1, C, H, W) and their value range; shape (B,)."""


def of_mean(score: Score, answer: Answer, target: Target) -> float:
    """The score of the posterior mean, estimated by the mean of the draws."""
    return float(_scores(score, answer.average(answer.draws)[None], target))


def of_samples(score: Score, answer: Answer, target: Target) -> float:
    """The mean score of a draw."""
    return float(answer.average(_scores(score, answer.draws, target)))


def of_best(score: Score, criterion: Callable[[Tensor, Target], Tensor], answer: Answer, target: Target) -> float:
    """The mean score of the best of four draws: draws are taken four by four in their order, a rest is left out.

    Draws with weights are resampled first, with seed 0 (`Answer.equal`).

    Args:
        score: what is reported.
        criterion: what chooses, smallest first: `misfit` can be known without the truth, `distance` cannot.
        answer: at least four draws.
        target: what they are compared with.
    """
    equal = answer.equal.draws
    groups = len(equal) // BEST_OF
    if groups == 0:
        raise UnsupportedProblem(f"the best of {BEST_OF} needs at least {BEST_OF} draws, got {len(equal)}")
    draws = equal[: groups * BEST_OF]
    best = criterion(draws, target).reshape(groups, BEST_OF).argmin(1)
    chosen = draws.unflatten(0, (groups, BEST_OF))[torch.arange(groups), best]
    return float(_scores(score, chosen, target).mean())


def misfit(draws: Tensor, target: Target) -> Tensor:
    """Chi-square of each draw, shape (n,): how well it explains the observation."""
    return target.problem.expand(len(draws)).signal_likelihood.chi_square(draws)


def distance(draws: Tensor, target: Target) -> Tensor:
    """Mean squared error of each draw, shape (n,)."""
    truth = known(target.problem.truth, "the truth")
    return (draws - truth).double().square().flatten(1).mean(1)


def _scores(score: Score, images: Tensor, target: Target) -> Tensor:
    value_range = known(target.problem.denoiser.signal_range, "the value range of the images")
    truth = known(target.problem.truth, "the truth")
    return score(images, truth.to(images.device), value_range)


CRITERIA = {"misfit": misfit, "truth": distance}
TITLES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "lpips_like": "like LPIPS, with other weights:"}


def _perceptual(weights: str, x: Tensor, truth: Tensor, value_range: tuple[float, float]) -> Tensor:
    return load_lpips(weights)(x, truth, value_range)


def _files(weights: str) -> dict[str, str]:
    return load_lpips(weights).files


def _enter_of_a_draw(name: str, protocol: str, score: Score, model: Metric) -> None:
    """Register the metrics of one score: of a draw, and of the best of four, with the needs of `model`."""
    title, place = TITLES[name], f"{name}_sample[{protocol}"
    enter_metric(f"{place}]", replace(model, compute=partial(of_samples, score)), f"{title} of a draw, averaged")
    for by, criterion in CRITERIA.items():
        best = replace(model, compute=partial(of_best, score, criterion), draws=BEST_OF)
        enter_metric(f"{place},best_of={BEST_OF},by={by}]", best, f"{title} of the best of {BEST_OF} draws by {by}")


def _enter_pixelwise(name: str, protocol: str, score: Score, smallest: int) -> None:
    model = Metric(compute=partial(of_mean, score), exact=False, truth=True, image=smallest)
    enter_metric(f"{name}_mean[{protocol}]", model, f"{TITLES[name]} of the mean of the draws")
    _enter_of_a_draw(name, protocol, score, model)


def _enter_learned(name: str, protocol: str, weights: str) -> None:
    score, body = partial(_perceptual, weights), BODIES[PUBLISHED[weights].network]
    files = partial(_files, weights)
    model = Metric(
        compute=partial(of_samples, score), exact=False, truth=True, image=body.smallest, channels=3, files=files
    )
    _enter_of_a_draw(name, protocol, score, model)


_enter_pixelwise("psnr", "range=1", psnr, 1)
_enter_pixelwise("ssim", f"range=1,window={WINDOW},borders=valid", ssim, WINDOW)
_enter_learned("lpips", "net=alexnet,v=0.1,resize=none", "alexnet")
_enter_learned("lpips", "net=vgg16,v=0.1,resize=none", "vgg16")
_enter_learned("lpips", "net=squeezenet1.1,v=0.1,resize=none", "squeezenet1.1")
_enter_learned("lpips_like", "net=squeezenet1.1,weights=caffe,v=0.1,resize=none", "squeezenet1.1-caffe")
