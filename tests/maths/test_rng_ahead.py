"""Noise that is drawn ahead, on another thread: the same numbers, whatever is asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midguide import sample
from midguide.maths.rng import Rng
from midguide.samplers.base import SAMPLERS, check_needs
from midguide.testing.pieces import latents, vectors

ADDRESSES = [(0, 0, 0), (0, 0, 1)]
REQUESTS = ("normal 3", "normal 3", "normal 3", "uniform 3", "normal double", "poisson", "groups", "state", "restore")


def answers(rng: Rng, requests: list[str]) -> list[torch.Tensor]:
    """What the streams answer to requests, one after the other."""
    found, state = [], rng.state()
    for request in requests:
        match request:
            case "normal 3":
                found.append(rng.normal(torch.empty(2, 3)))
            case "uniform 3":
                found.append(rng.uniform(torch.empty(2, 3)))
            case "normal double":
                found.append(rng.normal(torch.empty(2, 40, dtype=torch.float64)))
            case "poisson":
                found.append(rng.poisson(torch.full((2, 2), 5.0)))
            case "groups":
                found.append(rng.groups.uniform(torch.empty(2)))
            case "state":
                state = rng.state()
                found.append(state)
            case "restore":
                rng.set_state(state)
    return found


@given(st.lists(st.sampled_from(REQUESTS), max_size=12))
def test_the_numbers_drawn_ahead_are_those_drawn_when_asked(requests):
    want, found = answers(Rng(ADDRESSES), requests), answers(Rng(ADDRESSES, ahead=True), requests)
    assert all(torch.equal(a, b) for a, b in zip(want, found, strict=True))


def test_what_is_asked_again_was_drawn_before():
    rng = Rng(ADDRESSES, ahead=True)
    rng.normal(torch.empty(2, 3))
    guess = rng._guess
    assert guess is not None
    drawn = guess.drawn.result()
    assert rng.normal(torch.empty(2, 3)).data_ptr() == drawn.data_ptr()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_gives_the_same_draws_with_noise_drawn_ahead(name, monkeypatch):
    sampler = SAMPLERS.make(name, {"steps": 4})
    problem = latents() if sampler.needs.autoencoder else vectors()
    n = sampler.needs.group
    check_needs(sampler, problem)  # every sampler takes one of the two
    want = sample(sampler, problem, n)
    made = Rng.__init__

    def ahead(self, *arguments, **settings):
        made(self, *arguments, **(settings | {"ahead": True}))

    monkeypatch.setattr(Rng, "__init__", ahead)
    found = sample(sampler, problem, n)
    assert torch.equal(found.draws, want.draws)
    assert want.log_weight is None or (found.log_weight is not None and torch.equal(found.log_weight, want.log_weight))
