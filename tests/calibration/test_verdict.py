"""Verdicts on ranks: levels of the family, words, and refusals where nothing could be claimed."""

from __future__ import annotations

import numpy as np
import pytest

from midguide.calibration import check_counts, judge, resolution
from midguide.errors import ConfigError, DataError, NumericalError


def ranks(n: int, seed: int, power: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=n) ** power


def test_uniform_ranks_are_rejected_by_the_family_as_rarely_as_its_level() -> None:
    """400 families of eight quantities: rejections within four standard errors of at most 5 % (false alarm 3e-5)."""
    hits = 0
    for seed in range(400):
        found = judge({f"q{i}": ranks(50, 1000 * seed + i) for i in range(8)}, 31)
        hits += any(judged.verdict == "rejected" for judged in found)
    assert hits / 400 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda u: u**3, "too low"),
        (lambda u: 1 - u**3, "too high"),
        (lambda u: 0.5 + 0.5 * np.sign(u - 0.5) * np.abs(2 * u - 1) ** 0.3, "draws vary too little"),
        (lambda u: 0.5 + 0.2 * (u - 0.5), "draws vary too much"),
    ],
)
def test_the_meaning_says_how_ranks_deviate(made, words: str) -> None:
    (judged,) = judge({"q": made(ranks(200, 0))}, 31, meanings={"q": ("too low", "too high")})
    assert (judged.verdict, judged.meaning) == ("rejected", words)


def test_more_problems_see_smaller_deviations() -> None:
    assert resolution(800, 31) < 0.6 * resolution(200, 31)


@pytest.mark.parametrize(
    ("given", "draws", "error", "words"),
    [
        ({"q": ranks(10, 0)}, 31, ConfigError, "10 problems are too few for a claim"),
        ({"q": ranks(100, 0)}, 3, ConfigError, "3 draws of each problem are too few for a claim"),
        ({}, 31, ConfigError, "no test quantity to judge by"),
        ({"q": [0.5] * 40}, 31, DataError, "all ranks by `q` are 0.5: the test quantity is constant"),
        ({"q": [0.5] * 39 + [float("nan")]}, 31, NumericalError, "1 of 40 ranks are NaN"),
    ],
)
def test_what_cannot_be_judged_is_one_line(given, draws: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        judge(given, draws)


def test_a_level_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match="level must be in"):
        judge({"q": ranks(100, 0)}, 31, level=5)
    check_counts(20, 7)
