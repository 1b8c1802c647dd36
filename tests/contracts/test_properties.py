"""The contracts at random shapes, settings and values: operators, schedules, weights, settings, names of files, cells.

The same examples are tried each time (`derandomize`), and few of them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from typing import Any

import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from midguide.cli.output import file_name
from midguide.diffusion.kernels import bridge, transition
from midguide.diffusion.schedules import CLEAN, EDM, DiscreteVP, RectifiedFlow, Schedule
from midguide.errors import ConfigError
from midguide.maths.weights import effective_size, log_mean_exp, normalized, systematic, weighted_quantile
from midguide.operators import compose, make_operator, stack
from midguide.samplers.base import SAMPLERS
from midguide.studies.report.layout import _cell as in_markdown
from midguide.studies.report.rows import _cell as in_csv
from midguide.testing import check_operator, check_schedule

settings.register_profile("quick", derandomize=True, deadline=None, database=None, max_examples=8)
settings.load_profile("quick")

SIDES = st.sampled_from([4, 6, 8, 12])
SHAPES = st.tuples(st.sampled_from([1, 2, 3]), SIDES, SIDES)
SHARES = st.floats(0.1, 1.0)

OPERATORS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "box-inpainting": {"box": st.floats(0.5, 4.0), "top": st.floats(0.0, 0.2), "left": st.floats(0.0, 0.2)},
    "half-mask": {"side": st.sampled_from(["left", "right", "top", "bottom"])},
    "random-inpainting": {"keep": SHARES},
    "super-resolution": {"factor": st.just(2)},
    "subsample": {"factor": st.integers(1, 5), "axes": st.sampled_from([None, 1, 2])},
    "compressed-sensing": {"fraction": SHARES},
    "fourier": {"acceleration": st.floats(1.0, 4.0), "axes": st.sampled_from([1, 2])},
    "gaussian-blur-circular": {"std": st.floats(0.2, 0.7)},
}
"""Linear operators and settings at which conjugate gradients reach their tolerance."""


@st.composite
def operators(draw: st.DrawFn, names: tuple[str, ...] = tuple(OPERATORS)) -> tuple[Any, tuple[int, ...]]:
    name, shape = draw(st.sampled_from(names)), draw(SHAPES)
    made = draw(st.fixed_dictionaries(OPERATORS[name]))
    try:
        return make_operator(name, shape, seed=draw(st.integers(0, 2**63 - 1)), **made), shape
    except ConfigError:  # a box outside of the image
        assume(False)
        raise


@settings(max_examples=16)
@given(operators())
def test_operators_keep_their_contract_at_any_shape_and_setting(made: tuple[Any, tuple[int, ...]]) -> None:
    """Linearity, the dot test, the four identities of Moore and Penrose, the SVD."""
    operator, shape = made
    check_operator(operator, shape, batch=2)


@settings(max_examples=6)
@given(operators(("box-inpainting", "super-resolution", "gaussian-blur-circular")), SHARES)
def test_stacked_operators_keep_it(made: tuple[Any, tuple[int, ...]], keep: float) -> None:
    operator, shape = made
    other = make_operator("random-inpainting", shape, keep=keep)
    check_operator(stack([operator, other], shape), shape, batch=2, pinv_tolerance=math.inf)


@given(SHAPES, st.sampled_from([0.3, 0.6]), st.integers(0, 99))
def test_composed_operators_apply_one_after_the_other(shape: tuple[int, ...], keep: float, seed: int) -> None:
    first = make_operator("gaussian-blur-circular", shape, std=0.5)
    second = make_operator("random-inpainting", shape, seed=seed, keep=keep)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    both = compose(second.to(torch.float64), first.to(torch.float64))
    assert torch.allclose(both(x), second.to(torch.float64)(first.to(torch.float64)(x)))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    match draw(st.sampled_from(["betas", "linear", "cosine", "edm", "flow"])):
        case "betas":
            return DiscreteVP.from_betas(draw(st.lists(st.floats(1e-4, 0.3), min_size=4, max_size=30)))
        case "linear":
            first, width = draw(st.floats(1e-5, 1e-3)), draw(st.floats(1e-4, 0.03))
            return DiscreteVP.linear(draw(st.integers(4, 400)), first, first + width)
        case "cosine":
            return DiscreteVP.cosine(draw(st.integers(4, 400)))
        case "edm":
            low = draw(st.floats(1e-4, 0.1))
            return EDM(low, low * draw(st.floats(10, 1e5)), draw(st.floats(1, 12)))
        case _:
            return RectifiedFlow(draw(st.floats(1e-4, 0.1)), draw(st.floats(0.2, 0.9999)))


@settings(max_examples=30)
@given(schedules(), st.integers(3, 4))
def test_schedules_keep_their_contract(schedule: Schedule, steps: int) -> None:
    """Noise rises, times are usable, and the kernels between levels reproduce the marginals."""
    check_schedule(schedule, steps=steps)


@settings(max_examples=30)
@given(schedules(), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_kernels_compose_and_the_bridge_is_bayes(schedule: Schedule, shares: list[float]) -> None:
    """q(t | s) is q(t | r) after q(r | s); the bridge times q(t | s) is q(r | s) times q(t | r), by its moments."""
    first, last = schedule.cleanest, schedule.noisiest
    times = sorted({schedule.snap(first + share * (last - first)) for share in shares})
    assume(len(times) == 3)
    s, r, t = (schedule.level(time) for time in times)
    assume(s.ratio < 0.999 * r.ratio < 0.998 * t.ratio)  # nearer ones cancel
    whole, low, high = transition(s, t), transition(s, r), transition(r, t)
    assert math.isclose(whole.scale, low.scale * high.scale, rel_tol=1e-9)
    assert math.isclose(whole.variance, high.scale**2 * low.variance + high.variance, rel_tol=1e-6)
    found = bridge(s, r, t)
    assert math.isclose(found.weight_s + found.weight_t * whole.scale, low.scale, rel_tol=1e-6)
    spread = found.weight_t**2 * whole.variance + found.std**2
    assert math.isclose(spread, low.variance, rel_tol=1e-6)
    clean = bridge(CLEAN, r, t)
    assert math.isclose(clean.weight_s + clean.weight_t * t.alpha, r.alpha, rel_tol=1e-6)


LOG_WEIGHTS = st.lists(st.floats(-800, 800) | st.just(-math.inf), min_size=1, max_size=40)


@settings(max_examples=60)
@given(LOG_WEIGHTS, st.floats(0, 1, exclude_max=True), st.integers(1, 60), st.floats(-500, 500))
def test_weights_sum_to_one_and_resampling_keeps_them(values: list[float], u: float, n: int, shift: float) -> None:
    log_weight = torch.tensor(values, dtype=torch.float64)
    assume(bool(log_weight.isfinite().any()))
    weights = normalized(log_weight)
    assert math.isclose(float(weights.sum()), 1.0, rel_tol=1e-12)
    assert torch.allclose(normalized(log_weight + shift), weights, atol=1e-9)
    assert math.isclose(
        float(log_mean_exp(log_weight + shift)), float(log_mean_exp(log_weight)) + shift, rel_tol=1e-9, abs_tol=1e-9
    )
    assert 1 - 1e-9 <= float(effective_size(weights)) <= len(values) * (1 + 1e-9)
    picked = systematic(weights[None], torch.tensor([u], dtype=torch.float64), n)[0]
    assert picked.tolist() == sorted(picked.tolist())
    counts = torch.bincount(picked, minlength=len(values)).double()
    assert counts.sum() == n
    assert bool((counts <= (n * weights + 1e-9).ceil()).all())
    assert bool((counts >= (n * weights - 1e-9).floor()).all())


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_lie_between_the_draws_and_rise(values: list[float], levels: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    equal = torch.full((len(values),), 1 / len(values), dtype=torch.float64)
    found = weighted_quantile(x[:, None], equal, sorted(levels))[:, 0]
    slack = 1e-9 * (1 + float(x.abs().max()))
    assert bool((found >= x.min() - slack).all())
    assert bool((found <= x.max() + slack).all())
    assert bool((found.diff() >= -slack).all())
    assert torch.allclose(found, torch.quantile(x, torch.tensor(sorted(levels), dtype=torch.float64)), atol=slack)


@st.composite
def changes(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Other values of some settings of a sampler."""
    found: dict[str, Any] = {}
    for key, value in SAMPLERS[name].defaults().items():
        match value:
            case bool():
                found[key] = draw(st.booleans())
            case int():
                found[key] = draw(st.integers(max(value // 2, 1), 2 * value + 1))
            case float():
                found[key] = value * draw(st.floats(0.5, 1.0))
    chosen = draw(st.sets(st.sampled_from(sorted(found)), max_size=3)) if found else ()
    return {key: found[key] for key in chosen}


@settings(max_examples=40)
@given(st.sampled_from(sorted(SAMPLERS)), st.data())
def test_samplers_are_what_their_records_say(name: str, data: st.DataObject) -> None:
    """With any preset and settings: record -> JSON -> from_record is the same."""
    preset = data.draw(st.sampled_from([None, *SAMPLERS.presets(name)]))
    try:
        made = SAMPLERS.make(f"{name}:{preset}" if preset else name, data.draw(changes(name)))
    except ConfigError:  # settings that do not go together
        return
    again = SAMPLERS.from_record(json.loads(json.dumps(SAMPLERS.record(made))))
    assert again == made
    assert SAMPLERS.record(again) == SAMPLERS.record(made)


ANY = st.text(st.characters(codec=None), max_size=300)


@settings(max_examples=40)
@given(ANY)
@example("..")
@example("a/../../b")
@example("\ud800")
def test_every_label_is_the_name_of_one_file(label: str) -> None:
    name = file_name(label)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)
    assert len(name) <= 200
    assert ".." not in name.split("-")[:1]


@given(st.lists(st.text("猫犬 ab/-.", min_size=1, max_size=6), min_size=2, max_size=5, unique=True))
def test_different_labels_that_are_not_plain_have_different_names(labels: list[str]) -> None:
    assert len({file_name(label) for label in labels if not label.isascii()}) == sum(
        not label.isascii() for label in labels
    )


@settings(max_examples=40)
@given(ANY)
@example("a\\|b")
@example("\\")
def test_a_cell_of_markdown_begins_no_column_line_or_tag(text: str) -> None:
    shown = in_markdown(text)
    assert shown.isprintable()
    assert "<" not in shown
    line = f"| {shown} | x |"
    # a row as GitHub's scanner reads it: a backslash takes the next sign along
    assert len(re.findall(r"(?:\\.|[^|\\])+", line.strip("|"))) == 2


@settings(max_examples=40)
@given(ANY)
def test_a_cell_of_csv_is_read_as_it_was_and_is_no_formula(text: str) -> None:
    assume("\0" not in text)  # which csv writers refuse, and labels cannot hold
    csv.writer(written := io.StringIO(newline=""), lineterminator="\n").writerow([in_csv(text), "x"])
    rows = list(csv.reader(io.StringIO(written.getvalue(), newline="")))
    assert rows == [[in_csv(text), "x"]]
    assert rows[0][0][:1] not in tuple("=+-@\t\r")
    printable = "".join(c if c.isprintable() else " " for c in text)
    assert rows[0][0] in (printable, f"'{printable}")
