"""What is replaced in memory is other code, wherever it is and whatever stands there; what nobody touched is none."""

from __future__ import annotations

import functools
import sys
from unittest import mock

import pytest
import torch

from midguide.catalogue.directory import catalogues
from midguide.maths import rng
from midguide.samplers import ddrm
from midguide.samplers.base import make_sampler
from midguide.samplers.ddnm import DDNM
from midguide.samplers.ddrm import DDRM
from midguide.storage import code
from midguide.storage.code import code_of
from midguide.storage.in_memory import changes


def zero(*args: object) -> int:
    return 0


@functools.wraps(DDRM.step)
def wrapped(*args: object) -> int:
    return 0


REPLACED = {
    "a function": zero,
    "a lambda": lambda *args: 0,
    "a function that says it is the one that it replaces": wrapped,
    "a method of another class": DDNM.step,
    "a property": property(zero),
    "a function of a library": torch.zeros_like,
    "a mock": mock.MagicMock(return_value=0),
    "a partial function": functools.partial(zero, 1),
}


@pytest.mark.parametrize("value", REPLACED.values(), ids=REPLACED)
def test_a_replaced_method_is_other_code_until_it_is_put_back(value, monkeypatch):
    before, other = code_of(make_sampler("ddrm")), code_of(make_sampler("dps"))
    with monkeypatch.context() as patch:
        patch.setattr(DDRM, "finish", value)
        assert code_of(make_sampler("ddrm")) != before
        assert code_of(make_sampler("dps")) == other
    assert code_of(make_sampler("ddrm")) == before


def test_replaced_functions_and_constants_of_modules_are_other_code(monkeypatch):
    before = code_of(make_sampler("ddrm"))
    for module, attribute, value in ((ddrm, "finish_denoised", zero), (rng, "stream_seed", zero)):
        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, value)
            assert code_of(make_sampler("ddrm")) != before, attribute
    constants = code._read(code._file_of("midguide.storage.record")).constants
    assert constants["LONG"] == 64
    assert changes({"midguide.storage.record": {"LONG": 65}}) == {"midguide.storage.record.LONG": 64}


def test_nothing_is_taken_for_replaced_where_nobody_touched_it():
    for catalogue in catalogues().values():
        catalogue.listed()
    own = [name for name in sys.modules if name.partition(".")[0] == "midguide" and code._file_of(name)]
    assert changes({name: code._read(code._file_of(name)).constants for name in own}) == {}
