"""What is shown of a measurement that is not an image."""

from __future__ import annotations

from dataclasses import replace

import torch

from midguide.likelihoods import observe, observe_counts
from midguide.operators.factory import make_operator
from midguide.plots.measurement import picture_of_measurement
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem

SHAPE = (3, 16, 16)


def problem(name: str, rate: float | None = None, **settings: object) -> Problem:
    operator = make_operator(name, SHAPE, **settings)
    truth = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    likelihood = observe(operator, truth, 0.05) if rate is None else observe_counts(operator, truth, rate)
    return Problem(Gaussian(torch.zeros(SHAPE), 1.0), likelihood, truth)


def test_image_is_shown_as_it_is_with_what_was_measured():
    made = problem("half-mask")
    shown = picture_of_measurement(made, 1)
    assert shown is not None
    assert torch.equal(shown.image, made.likelihood.y[1])
    assert int((~shown.measured).sum()) == 3 * 16 * 8
    assert shown.caption == ""


def test_counts_are_shown_in_the_range_of_the_image():
    made = problem("identity", rate=1e4)
    shown = picture_of_measurement(made)
    assert shown is not None
    assert made.truth is not None
    # a count of at most 1e4 has the standard deviation 1e2, 0.02 on the scale of the image; six of them over 768 pixels
    assert float((shown.image - made.truth[0]).abs().max()) < 6 * 0.02
    prior = Gaussian(torch.zeros(SHAPE), 1.0)
    prior.value_range = 0.0, 1.0
    unit = picture_of_measurement(Problem(prior, replace(made.likelihood, value_range=(0.0, 1.0))))
    assert unit is not None
    torch.testing.assert_close(unit.image, (shown.image + 1) / 2)


def test_modulus_of_a_fourier_transform_is_shown_by_its_logarithm():
    made = problem("phase-retrieval")
    shown = picture_of_measurement(made)
    assert shown is not None
    assert shown.caption == "log scale"
    assert (float(shown.image.min()), float(shown.image.max())) == (-1.0, 1.0)
    assert int(shown.image.flatten().argmax()) == int(made.likelihood.y[0].abs().flatten().argmax())


def test_other_linear_measurements_are_shown_by_their_adjoint():
    made = problem("compressed-sensing")
    shown = picture_of_measurement(made)
    assert shown is not None
    assert shown.image.shape == SHAPE
    assert shown.caption == "$A^T y$"
