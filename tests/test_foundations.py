"""Random streams, derivatives, optimizers, rules, files and records."""

import math
import os

import numpy as np
import pytest
import torch
from scipy import stats

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import ConfigError, DataError, ShapeError, is_out_of_memory, reason, suggestion, unknown
from midguide.maths import autodiff
from midguide.maths.optim import SGD, Adam, NormalizedSGD
from midguide.maths.rng import Rng, global_seed, stream_seed
from midguide.storage.files import replacing, replacing_folder
from midguide.storage.record import describe, fingerprint


def test_a_row_is_drawn_from_its_own_stream():
    together = Rng([(0, 0, j) for j in range(4)]).normal(torch.zeros(4, 5))
    alone = Rng([(0, 0, 2)]).normal(torch.zeros(1, 5))
    assert torch.equal(together[2], alone[0])


def test_streams_are_standard_normal_and_uncorrelated():
    """200 streams of 500 draws: Kolmogorov-Smirnov, and the largest of 19,900 correlations, each at 1e-4."""
    x = Rng([(7, i, 0) for i in range(200)]).normal(torch.zeros(200, 500, dtype=torch.float64)).numpy()
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-4
    correlations = np.corrcoef(x)[np.triu_indices(200, 1)]
    assert np.abs(correlations).max() < stats.norm.isf(1e-4 / len(correlations) / 2) / math.sqrt(500)


def test_streams_go_on_from_their_state():
    rng = Rng([(1, "a"), (1, "b")], size=2)
    rng.normal(torch.zeros(4, 3))
    state, want = rng.state(), rng.normal(torch.zeros(4, 3))
    fresh = Rng([(1, "a"), (1, "b")], size=2)
    fresh.set_state(state)
    assert torch.equal(fresh.normal(torch.zeros(4, 3)), want)


def test_seed_zero_is_a_seed_and_addresses_differ():
    assert len({stream_seed(0, 0, 1), stream_seed(0, 1, 0), stream_seed(1, 0, 0), stream_seed(0, "0", 1)}) == 4


def test_streams_refuse_another_number_of_rows():
    with pytest.raises(ShapeError, match="serve 2 rows, the tensor has 3"):
        Rng([(0,), (1,)]).normal(torch.zeros(3, 1))


def test_global_seed_puts_the_state_back():
    before = torch.get_rng_state()
    with global_seed(3):
        first = torch.rand(1)
    with global_seed(3):
        assert torch.equal(torch.rand(1), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_value_and_grad_is_row_by_row_and_leaves_its_input():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    value, gradient, extra = autodiff.value_and_grad(lambda u: (u.square().sum(1), 3 * u), x)
    assert torch.equal(value, torch.tensor([5.0, 25.0]))
    assert torch.equal(gradient, 2 * x)
    assert torch.equal(extra, 3 * x)
    assert not any(t.requires_grad for t in (x, value, gradient, extra))


def test_vjp_and_jvp_are_transposed():
    matrix = torch.linspace(-1, 1, 6).reshape(2, 3)
    x, tangent, vector = torch.ones(1, 3), torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([[3.0, 4.0]])

    def f(u):
        return (u @ matrix.T).sin()

    out, pullback = autodiff.vjp(f, x)
    same, pushed = autodiff.jvp(f, x, tangent)
    assert torch.allclose(out, same)
    assert torch.allclose((pushed * vector).sum(), (tangent * pullback(vector)).sum())


def test_a_function_that_knows_its_derivative_has_it_in_both_modes():
    x, vector = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])

    def sine(u):
        return autodiff.with_pullback(lambda v: (v.sin(), lambda w: w * v.cos()), u)

    value, pullback = autodiff.vjp(sine, x)
    assert torch.equal(value, x.sin())
    assert torch.equal(pullback(vector), vector * x.cos())
    assert torch.allclose(autodiff.jvp(sine, x, vector)[1], vector * x.cos())
    assert torch.allclose(torch.func.vjp(sine, x)[1](vector)[0], vector * x.cos())


def test_adam_takes_the_steps_of_torch():
    rule, x = Adam(rate=0.1, beta_second=0.99), torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    theirs = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    state = rule.init(x)
    for _ in range(20):
        rule.update_(state, x, x.pow(3) - 0.3)
        theirs.grad = theirs.detach().pow(3) - 0.3
        optimizer.step()
    assert torch.allclose(x, theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)])
@pytest.mark.parametrize("of_parameter", [False, True])
def test_a_step_of_adam_does_not_depend_on_how_its_tensors_lie_in_memory(order, of_parameter):
    """A gradient that a network or a picture file left channels last, or in another order."""
    gradient = torch.linspace(-1, 2, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    back = [order.index(axis) for axis in range(4)]
    permuted = gradient.permute(order).contiguous().permute(back)
    rule, x = Adam(rate=0.1), torch.zeros_like(gradient)
    y = torch.zeros_like(permuted) if of_parameter else torch.zeros_like(gradient)
    states = rule.init(x), rule.init(y)
    for shift in (0.0, 0.7):
        rule.update_(states[0], x, gradient + shift)
        rule.update_(states[1], y, (gradient if of_parameter else permuted) + shift)
    assert torch.equal(y, x)
    assert len(set(x.flatten().tolist())) > 10  # entries differ, so that a mixed-up order would show


def test_normalized_descent_steps_have_the_length_of_the_rate_in_every_row():
    gradient = torch.tensor([[3.0, 4.0], [0.0, 1e-3], [0.0, 0.0]])
    rule, moved = NormalizedSGD(rate=0.5), torch.ones_like(gradient)
    rule.update_(rule.init(moved), moved, gradient)
    assert torch.allclose((moved - 1).norm(dim=1), torch.tensor([0.5, 0.5, 0.0]))


def test_gradient_descent_goes_down():
    rule, x, gradient = SGD(rate=0.5), torch.tensor([[3.0]]), torch.tensor([[2.0]])
    rule.update_(rule.init(x), x, gradient)
    assert x.item() == 2.0


@pytest.mark.parametrize("rule", [Adam, SGD, NormalizedSGD])
def test_a_learning_rate_is_positive(rule):
    with pytest.raises(ConfigError, match="must be positive"):
        rule(rate=0.0)


def test_first_matching_rule_wins():
    rule = StepRule(default=1, cleanest=(2, 5), noisiest=(3, 7), every=(4, 9))
    assert [rule.at(position, 12) for position in range(12, 0, -1)] == [7, 7, 7, 1, 9, 1, 1, 1, 9, 1, 5, 5]


@pytest.mark.parametrize(
    "settings", [{"default": 0}, {"default": 1, "every": (0, 2)}, {"default": 1, "cleanest": (1,)}]
)
def test_impossible_rules_are_refused(settings):
    with pytest.raises(ConfigError):
        StepRule(**settings)


def test_files_appear_complete_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_folders_appear_complete_or_not_at_all(tmp_path):
    with pytest.raises(DataError, match="No space left"), replacing_folder(tmp_path / "out") as temporary:  # noqa: PT012
        (temporary / "one").write_text("1")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with replacing_folder(tmp_path / "out") as temporary:
        (temporary / "one").write_text("1")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["one"]


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    left = tmp_path / f".out.{os.getpid()}.partial"
    left.mkdir()
    (left / "half").write_text("")
    with replacing_folder(tmp_path / "out") as temporary:
        (temporary / "one").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["one"]


def test_a_record_changes_with_whatever_a_result_depends_on():
    one, same = (describe({"rule": StepRule(default=2), "y": torch.arange(3.0)}) for _ in range(2))
    other = describe({"rule": StepRule(default=2), "y": torch.tensor([0.0, 1.0, 2.5])})
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    assert one["rule"] == {"type": "StepRule", "default": 2, "cleanest": None, "noisiest": None, "every": None}
    assert describe(DiscreteVP.linear())["alphas_cumprod"]["length"] == 1000
    assert describe(torch.tensor(0.5)) != describe(torch.tensor(0.25))  # no axis


def test_the_record_of_a_module_changes_with_its_weights():
    module, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    other.load_state_dict(module.state_dict())
    assert describe(module) == describe(other)
    assert describe(module)["type"] == "Linear"
    with torch.no_grad():
        other.weight += 1.0
    assert describe(module) != describe(other)


@pytest.mark.parametrize("text", ["", "first", "first\nsecond", "\n first\nsecond"])
def test_what_an_error_of_another_library_says_is_one_line(text):
    assert reason(EOFError(text)) == ("first" if text else "EOFError")


def test_torch_and_python_run_out_of_memory_in_their_own_words():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("mgsp", {"mgps", "dps"}, "did you mean `mgps`? known are dps, mgps"),
        ("zzz", {"mgps", "dps"}, "one of dps, mgps"),
        ("", {"mgps", "dps"}, "one of dps, mgps"),
        ("zzz", set(), "there are none"),
        ("metric_1", [f"metric_{i}[slices=100]" for i in range(20)], "did you mean `metric_1[slices=100]`?"),
    ],
)
def test_a_name_that_does_not_exist_has_the_nearest_one_as_hint(name, known, hint):
    assert suggestion(name, known) == hint
    assert str(unknown("thing", name, known)) == f"unknown thing `{name}`\nhint: {hint}"
