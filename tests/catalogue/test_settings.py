"""The one settings engine: plain values and back, and every mistake named in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midguide.catalogue.settings import as_plain, build, override, parse_override
from midguide.diffusion.rules import StepRule
from midguide.errors import ConfigError
from midguide.maths.optim import Adam, NormalizedSGD, Optimizer


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 2
    name: str = "inner"


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    rule: StepRule = StepRule(default=3)
    optimizer: Optimizer = Adam(rate=0.1)
    inner: Inner = Inner()
    maybe: float | None = None
    pair: tuple[int, int] = (1, 2)
    numbers: tuple[float, ...] = ()
    kind: Literal["a", "b"] = "a"
    table: Mapping[str, object] = field(default_factory=dict)
    on: bool = False


COUNTS = st.integers(1, 10**6)
PAIRS = st.none() | st.tuples(COUNTS, COUNTS)
RATES = st.floats(1e-300, 1e300)
RULES = st.builds(StepRule, default=COUNTS, cleanest=PAIRS, noisiest=PAIRS, every=PAIRS)
OUTERS = st.builds(
    Outer,
    rate=RATES,
    rule=RULES,
    optimizer=st.builds(Adam, rate=RATES) | st.builds(NormalizedSGD, rate=RATES),
    inner=st.builds(Inner, size=st.integers(), name=st.text()),
    maybe=st.none() | RATES,
    pair=st.tuples(st.integers(), st.integers()),
    numbers=st.lists(RATES).map(tuple),
    kind=st.sampled_from(["a", "b"]),
    table=st.dictionaries(st.text(), st.integers() | st.text()),
    on=st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(OUTERS)
def test_plain_values_read_back_also_through_json(value: Outer) -> None:
    complete = json.loads(json.dumps(as_plain(value, deep=True)))
    assert build(Outer, complete, "outer") == value
    assert build(Outer, as_plain(value, full=False) | {"rate": value.rate}, "outer") == value


def test_an_integer_is_short_for_a_table_with_only_a_default() -> None:
    assert build(Outer, {"rate": 1, "rule": 7}, "outer").rule == StepRule(default=7)
    table: dict[str, object] = {"rule": 7}
    override(table, "rule.every", [2, 3])
    assert table == {"rule": {"default": 7, "every": [2, 3]}}


@pytest.mark.parametrize("word", ["off", "none"])
def test_off_is_none_where_none_is_allowed(word: str) -> None:
    assert build(Outer, {"rate": 1, "maybe": word, "rule": {"default": 1, "every": word}}, "outer") == Outer(
        rate=1.0, rule=StepRule(default=1)
    )
    assert build(Inner, {"name": word}, "inner").name == word  # text stays text


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "outer lacks the setting `rate`\nhint: known are rate, rule"),
        ({"rate": 1, "rat": 2}, "outer has no setting `rat`\nhint: did you mean `rate`"),
        ({"rate": "1"}, "outer.rate must be a number, got '1'"),
        ({"rate": True}, "outer.rate must be a number, got True"),
        ({"rate": math.inf}, "outer.rate must be a finite number, got inf"),
        ({"rate": 1, "numbers": [1.0, math.nan]}, r"outer.numbers\[1\] must be a finite number"),
        ({"rate": 1, "numbers": [1, "x"]}, r"outer.numbers\[1\] must be a number, got 'x'"),
        ({"rate": 1, "pair": [1]}, r"outer.pair is too short, got \[1\]"),
        ({"rate": 1, "pair": [1, 2, 3]}, r"outer.pair must be a list of 2, got \[1, 2, 3\]"),
        ({"rate": 1, "kind": "c"}, "outer.kind must be one of `a`, `b`, got 'c'"),
        ({"rate": 1, "inner": {"size": 1.5}}, "outer.inner.size must be an integer, got 1.5"),
        ({"rate": 1, "inner": {"sze": 1}}, "outer.inner has no setting `sze`\nhint: did you mean `size`"),
        ({"rate": 1, "inner": 3}, "outer.inner must be a table, got 3"),
        ({"rate": 1, "table": 3}, "outer.table must be a table, got 3"),
        ({"rate": 1, "on": 1}, "outer.on must be true or false, got 1"),
        ({"rate": 1, "optimizer": {"rule": "adam"}}, r"outer.optimizer \(adam\) lacks the setting `rate`"),
        ({"rate": 1, "maybe": "half"}, "outer.maybe must be a number, got 'half'\nhint: \"off\" switches it off"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(plain: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(Outer, plain, "outer")
    assert str(caught.value).count("\n") <= 1


def test_a_class_that_plain_values_cannot_describe_is_refused_in_one_line() -> None:
    @dataclass(frozen=True)
    class Odd:
        thing: type[object] | object = object
        other: "Outside" = None  # noqa: F821, UP037  # pyright: ignore

    with pytest.raises((ConfigError, NameError)):
        build(Odd, {"other": 1}, "odd")


@given(st.text())
def test_any_text_is_an_override_or_is_refused_by_name(text: str) -> None:
    try:
        key, _ = parse_override(text)
    except ConfigError as error:
        said = str(error)
    else:
        said = f"{key}\n"
    assert said.count("\n") == 1  # one line and its hint, or a key
    assert said.strip()
