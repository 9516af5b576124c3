"""The signals and the budget recursion: the invariants that need no tensors."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.compress.prune.schedule import (
    MODES,
    BudgetController,
    BudgetRule,
    BudgetStep,
    cubic_target,
    update_steps,
)
from edgeprune.compress.prune.signals import Steadiness, momentum

norms = st.lists(st.floats(1e-3, 1e3), min_size=60, max_size=60)
shares = st.floats(0.01, 0.99)
modes = st.sampled_from(sorted(MODES))


def run(controller: BudgetController, sequence: list[float]) -> list[BudgetStep]:
    decided = []
    for step, norm in enumerate(sequence, start=1):
        controller.observe(norm)
        if controller.due(step):
            decided.append(controller.update())
    return decided


def rule(mode: str, **values: float) -> BudgetRule:
    return BudgetRule(**{**values, **MODES[mode]})


def test_trend_and_deviations_against_the_formulas_written_out() -> None:
    rng = np.random.default_rng(0)
    values, kappa = rng.gamma(2.0, size=40), 0.7
    values[20:25] *= 30
    found, squares = Steadiness(11, kappa), []
    for step, value in enumerate(values):
        assert found.observe(float(value))
        before = values[max(0, step - 11) : step]
        apart = value / np.median(before) - 1 if step else 0.0
        squares.append(apart**2)
        assert found.trend == pytest.approx(np.median(values[max(0, step - 10) : step + 1]))
        assert found.weight == pytest.approx(1 / (1 + (apart / kappa) ** 4), rel=1e-12)
    window = found.take()
    assert window.norm == pytest.approx(values.mean())
    assert window.deviation == pytest.approx(math.sqrt(np.mean(squares)))
    assert window.variance(kappa) == pytest.approx(np.mean(squares) / kappa**2)


def test_a_burst_leaves_the_trend_alone_and_a_jump_becomes_it() -> None:
    found = Steadiness(memory=21)
    for norm in [1.0] * 30 + [25.0] * 10:
        found.observe(norm)
    assert found.trend == 1.0
    for norm in [25.0] * 12:
        found.observe(norm)
    assert (found.trend, found.weight) == (25.0, 1.0)


def test_a_student_that_begins_as_its_original_is_soon_in_its_stride() -> None:
    """Norms as MiniLM's in distillation: 1e-7, then some 3 to 5."""
    found = Steadiness()
    weights = []
    for norm in [1e-7, 0.056, 3.3, 5.1, 4.9, 3.9, 2.7, 4.2, 3.1, 2.8]:
        found.observe(norm)
        weights.append(found.weight)
    assert max(weights[1:4]) < 1e-3
    assert min(weights[5:]) > 0.5


def test_weights_of_steps() -> None:
    """1 in calm, a half at kappa, and a burst moves no average by a thousandth of its size."""
    calm = Steadiness(kappa=0.5)
    for norm in (2.0, 2.0):
        calm.observe(norm)
    assert calm.weight == 1
    calm.observe(3.0)  # half above the trend
    assert calm.weight == pytest.approx(0.5)
    burst = Steadiness()
    burst.observe(1.0)
    burst.observe(25.0)
    # Of a mean of |g|, of g^2 and of the last effect: weight times share times what came.
    for share, size in ((0.1, 25), (0.01, 25**2), (1.0, 25)):
        assert burst.weight * share * size < 1e-3 * (25 if share == 1 else 1)


def test_a_window_without_a_finite_step_is_unknown() -> None:
    found = Steadiness()
    assert not found.observe(math.inf)
    window = found.take()
    assert (window.norm, window.deviation) == (None, None)
    assert window.variance(1.0) == math.inf
    assert momentum(math.inf, 0.0, 1.0) == 1.0


def test_norms_of_zero_begin_no_trend() -> None:
    found = Steadiness()
    for norm in (0.0, 0.0, 2.0):
        assert found.observe(norm)
    assert found.take().deviation == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_changes_nothing(bad: float) -> None:
    controller = BudgetController(rule("mv"), [3, 6], 0.5)
    for norm in (1.0, 2.0, 1.5, 4.0):
        controller.observe(norm)
    before = json.dumps(controller.state_dict())
    assert controller.observe(bad) is False
    assert json.dumps(controller.state_dict()) == before


def test_update_steps() -> None:
    assert update_steps(100, 0.1, 0.9, 4) == [10, 30, 50, 70, 90]
    assert update_steps(100, 0.0, 1.0, 1) == [1, 100]
    assert update_steps(5, 0.0, 1.0, 60) == [1, 2, 3, 4, 5]  # fewer steps than updates
    assert update_steps(1, 0.05, 0.7, 60) == [1]


def test_cubic_target() -> None:
    assert cubic_target(10, 10, 50, 0.8) == 0
    assert cubic_target(50, 10, 50, 0.8) == 0.8
    assert cubic_target(30, 10, 50, 0.8, initial=0.2) == pytest.approx(0.8 - 0.6 / 8)


@given(norms, shares, st.integers(1, 80), modes, st.lists(st.integers(0, 59), max_size=20))
def test_lands_exactly_never_goes_back_and_never_runs_ahead(
    sequence: list[float], final: float, updates: int, mode: str, lost: list[int]
) -> None:
    for place in lost:
        sequence = [*sequence[:place], math.inf, *sequence[place + 1 :]]
    controller = BudgetController(rule(mode), update_steps(60, 0.05, 0.9, updates), final)
    decided = run(controller, sequence)
    reached = [0.0, *(one.sparsity for one in decided)]
    assert reached[-1] == final
    assert all(before <= after for before, after in pairwise(reached))
    assert all(one.sparsity <= one.target for one in decided)
    for place, one in enumerate(decided):
        assert 0 <= one.beta <= 1 - 1 / (len(decided) - place)
    assert decided[-1].beta == 0


@given(norms, shares, st.integers(1, 80), modes)
def test_it_is_the_heavy_ball(sequence: list[float], final: float, updates: int, mode: str) -> None:
    """D <- beta D + the target's increment, (1 - beta) D is removed; what is left is pending."""
    steps = update_steps(60, 0.05, 0.9, updates)
    pending = target = removed = beta = 0.0
    for one in run(BudgetController(rule(mode), steps, final), sequence):
        pending = beta * pending + one.target - target
        removed += (1 - one.beta) * pending
        assert one.sparsity == pytest.approx(removed, abs=1e-9)
        assert one.sparsity + one.beta * pending == pytest.approx(one.target, abs=1e-9)
        beta, target = one.beta, one.target


@given(st.floats(0, 1e200), st.floats(1e-6, 1e3), shares, st.floats(0, 1))
def test_momentum_is_in_range_and_grows(
    variance: float, more: float, low: float, share: float
) -> None:
    high = low + share * (1 - low)
    found = [momentum(each, low, high) for each in (variance, variance + more)]
    assert low <= found[0] <= found[1] <= high + 1e-15
    assert momentum(1.0, 0.0, 1.0) == 0.5
    assert momentum(0.0, low, high) == low


@given(shares, st.integers(1, 80), st.floats(0, 0.9))
def test_constant_norms_have_the_smallest_momentum(
    final: float, updates: int, smallest: float
) -> None:
    steps = update_steps(60, 0.05, 0.9, updates)
    controller = BudgetController(rule("mv", beta_min=smallest), steps, final)
    decided = run(controller, [3.7] * 60)
    bounds = [1 - 1 / (len(decided) - place) for place in range(len(decided))]
    assert [one.beta for one in decided] == [min(smallest, bound) for bound in bounds]
    if smallest == 0:
        assert [one.sparsity for one in decided] == targets(steps, final)


def targets(steps: list[int], final: float) -> list[float]:
    return [cubic_target(step, steps[0], steps[-1], final) for step in steps]


@given(norms, st.integers(-40, 40), modes)
def test_scale_of_the_loss_does_not_matter(sequence: list[float], power: int, mode: str) -> None:
    steps = update_steps(60, 0.05, 0.9, 20)
    plain = run(BudgetController(rule(mode), steps, 0.9), sequence)
    scaled = run(BudgetController(rule(mode), steps, 0.9), [n * 2.0**power for n in sequence])
    for one, other in zip(plain, scaled, strict=True):
        assert (one.beta, one.deviation, one.budget) == (other.beta, other.deviation, other.budget)


def test_recursion_against_the_formulas_written_out() -> None:
    """The recursion line by line in numpy, on norms with a burst."""
    rng = np.random.default_rng(1)
    sequence = rng.gamma(9, size=200)
    sequence[90:120] *= 25
    steps, final = list(range(10, 181, 10)), 0.85
    s, window, expected = 0.0, [], []
    for t, n in enumerate(sequence, start=1):
        before = sequence[max(0, t - 62) : t - 1]
        window.append((n / np.median(before) - 1) ** 2 if t > 1 else 0.0)
        if t in steps:
            k, variance = steps.index(t), np.mean(window)
            coefficient = min(variance**2 / (1 + variance**2), 1 - 1 / (len(steps) - k))
            target = final - final * (1 - (t - 10) / 170) ** 3
            s += (1 - coefficient) * (target - s)
            expected.append((coefficient, s))
            window = []
    decided = run(BudgetController(rule("mv"), steps, final), [float(n) for n in sequence])
    got = [(one.beta, one.sparsity) for one in decided]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@given(norms, shares, st.integers(1, 80))
def test_cubic_is_zhu_and_gupta_to_the_bit(
    sequence: list[float], final: float, updates: int
) -> None:
    steps = update_steps(60, 0.05, 0.9, updates)
    reached = [one.sparsity for one in run(BudgetController(rule("cubic"), steps, final), sequence)]
    assert reached == targets(steps, final)


def pruned_inside(mode: str, total: int, updates: int, length: int, seeds: int = 20) -> float:
    """Mean share of the pruning that falls into windows in which norms stand 25-fold."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        sequence = np.exp(0.25 * rng.standard_normal(total))
        inside = np.zeros(total, bool)
        for share in (0.15, 0.3, 0.45, 0.6):
            inside[round(share * total) : round(share * total) + length] = True
        sequence[inside] *= 25
        steps = update_steps(total, 0.05, 0.7, updates)
        decided = run(BudgetController(rule(mode), steps, 0.95), sequence.tolist())
        found.append(sum(one.budget for one in decided if inside[one.step - 1]) / 0.95)
    return float(np.mean(found))


@pytest.mark.parametrize(("total", "updates", "length"), [(500, 40, 20), (120, 30, 8)])
def test_little_is_pruned_inside_bursts(total: int, updates: int, length: int) -> None:
    ours, cubic = (pruned_inside(mode, total, updates, length) for mode in ("mv", "cubic"))
    assert ours < cubic / 4
    assert cubic > 0.1


@pytest.mark.parametrize(
    "sequence",
    [
        [1.0 if step % 2 else 25.0 for step in range(500)],
        [math.inf] * 500,
        [1.0] * 260 + [25.0] * 240,
        [2.0 ** (step / 12) for step in range(500)],
    ],
)
def test_the_worst_training_ends_in_a_line_and_not_at_a_cliff(sequence: list[float]) -> None:
    steps = update_steps(500, 0.05, 0.7, 40)
    decided = run(BudgetController(rule("mv"), steps, 0.95), sequence)
    cubic = max(np.diff(targets(steps, 0.95)))
    assert max(one.budget for one in decided) <= max(1.5 * 0.95 / 40, cubic + 1e-12)


@given(norms)
def test_static_gradient_norm_against_its_formula(sequence: list[float]) -> None:
    steps, final = list(range(5, 56, 5)), 0.9
    decided = run(BudgetController(rule("static_gradnorm"), steps, final), sequence)
    means = [np.mean(sequence[(k * 5) : (k * 5 + 5)]) for k in range(len(steps))]
    s = 0.0
    for k, (one, target) in enumerate(zip(decided, targets(steps, final), strict=True)):
        a = 1.0 if k < 5 else min(1.0, np.mean(means[:5]) / means[k])
        s += max(a, 1 / (len(steps) - k)) * (target - s)
        assert one.sparsity == pytest.approx(s, abs=1e-9)
    assert decided[-1].sparsity == final


def test_fixed_momentum_is_a_constant_coefficient() -> None:
    decided = run(BudgetController(rule("fixed_mom"), [10, 20, 30, 40, 50], 0.5), [1.0, 5.0] * 30)
    assert [one.beta for one in decided] == [0.5, 0.5, 0.5, 0.5, 0.0]


@given(norms, st.integers(1, 59), modes)
def test_state_goes_through_json_to_the_bit(sequence: list[float], cut: int, mode: str) -> None:
    steps = update_steps(60, 0.05, 0.9, 25)
    whole = BudgetController(rule(mode), steps, 0.77)
    expected = run(whole, sequence)
    first, second = (BudgetController(rule(mode), steps, 0.77) for _ in range(2))
    before = run(first, sequence[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    after = []
    for step, norm in enumerate(sequence[cut:], start=cut + 1):
        second.observe(norm)
        if second.due(step):
            after.append(second.update())
    assert before + after == expected
