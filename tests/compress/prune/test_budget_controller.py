"""The signals and the budget recursion: the invariants that need no tensors."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.compress.prune.schedule import (
    MODES,
    BudgetController,
    BudgetRule,
    cubic_target,
    update_steps,
)
from edgeprune.compress.prune.signals import Trend, beta, gate, spike_factor

norms = st.lists(st.floats(1e-3, 1e3), min_size=60, max_size=60)
shares = st.floats(0.01, 0.99)


def run(controller: BudgetController, sequence: list[float]) -> list:
    decided = []
    for step, norm in enumerate(sequence, start=1):
        controller.observe(norm)
        if controller.due(step):
            decided.append(controller.update())
    return decided


def rule(mode: str, **values: float) -> BudgetRule:
    return BudgetRule(**{**values, **MODES[mode]})


def test_trend_is_the_weighted_mean_and_variance():
    """West's recursion against explicit exponential weights over the whole history."""
    rng = np.random.default_rng(0)
    values, rho = rng.gamma(2.0, size=40), 0.9
    trend = Trend(rho)
    for value in values:
        trend.observe(float(value))
    # The first value starts the mean, so it carries all the weight from before.
    weights = (1 - rho) * rho ** np.arange(len(values) - 1, -1, -1)
    weights[0] = rho ** (len(values) - 1)
    mean = (weights * values).sum()
    variance = (weights * (values - mean) ** 2).sum()
    assert trend.mean == pytest.approx(mean, rel=1e-12)
    assert trend.variance == pytest.approx(variance, rel=1e-12)
    assert trend.cv == pytest.approx(math.sqrt(variance) / mean, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_changes_nothing(bad):
    controller = BudgetController(rule("mv"), [3, 6], 0.5)
    for norm in (1.0, 2.0, 1.5, 4.0):
        controller.observe(norm)
    before = json.dumps(controller.state_dict())
    assert controller.observe(bad) is False
    assert json.dumps(controller.state_dict()) == before


def test_update_steps():
    assert update_steps(100, 0.1, 0.9, 4) == [10, 30, 50, 70, 90]
    assert update_steps(100, 0.0, 1.0, 1) == [1, 100]
    assert update_steps(5, 0.0, 1.0, 60) == [1, 2, 3, 4, 5]  # fewer steps than updates
    assert update_steps(1, 0.05, 0.7, 60) == [1]


def test_cubic_target():
    assert cubic_target(10, 10, 50, 0.8) == 0
    assert cubic_target(50, 10, 50, 0.8) == 0.8
    assert cubic_target(30, 10, 50, 0.8, initial=0.2) == pytest.approx(0.8 - 0.6 / 8)


@given(norms, shares, st.integers(1, 80), st.sampled_from(sorted(MODES)))
def test_lands_exactly_and_never_goes_back(sequence, final, updates, mode):
    controller = BudgetController(rule(mode), update_steps(60, 0.05, 0.9, updates), final)
    decided = run(controller, sequence)
    reached = [0.0, *(one.sparsity for one in decided)]
    assert reached[-1] == final
    assert all(before <= after <= final for before, after in zip(reached, reached[1:]))  # noqa: B905, RUF007
    assert all(one.budget >= 0 for one in decided)


@given(norms, shares, st.integers(1, 80), st.sampled_from(["mv", "fixed_mom", "cubic"]))
def test_stays_in_the_band_behind_the_target(sequence, final, updates, mode):
    steps = update_steps(60, 0.05, 0.9, updates)
    used = rule(mode, band=0.08)
    for one in run(BudgetController(used, steps, final), sequence):
        left = 1 - (one.step - steps[0]) / max(1, steps[-1] - steps[0])
        assert one.target - used.band * left - 1e-12 <= one.sparsity <= one.target + 1e-12


def test_momentum_would_leave_the_band_without_projection():
    """The test above has teeth: the smoothed request does overshoot and does lag."""
    decided = run(BudgetController(rule("mv"), update_steps(60, 0.05, 0.9, 30), 0.9), [1.0] * 60)
    assert any(one.smoothed > one.deficit for one in decided)
    slow = BudgetRule(beta_min=0.9, beta_max=0.9)
    decided = run(BudgetController(slow, update_steps(60, 0.05, 0.9, 30), 0.9), [1.0] * 60)
    assert any(one.budget > one.smoothed and one.step < 54 for one in decided)


@given(norms, st.floats(0.0, 5.0), st.floats(0.01, 5.0))
def test_variance_damps_the_budget(sequence, cv, more):
    """The same request with a larger cv moves the smoothed budget less, by (1 - beta)."""
    steps = update_steps(60, 0.05, 0.9, 20)
    base = BudgetController(rule("mv"), steps, 0.9)
    run(base, sequence[: steps[8] + 1])
    base.observe(1.0)
    moves = []
    for wanted in (cv, cv + more):
        twin = BudgetController(rule("mv"), steps, 0.9)
        twin.load_state_dict(base.state_dict())
        twin.trend.variance = (wanted * twin.trend.mean) ** 2
        past = twin.budget
        one = twin.update()
        moves.append(abs(one.smoothed - past))
        assert moves[-1] == pytest.approx((1 - one.beta) * abs(one.raw - past), abs=1e-12)
        gap = abs(one.raw - past)
    assert moves[1] <= moves[0] + 1e-15
    if gap > 1e-6:
        assert moves[1] < moves[0]


@given(st.floats(0, 1e6), st.floats(1e-6, 1e3))
def test_beta_is_in_range_and_grows(cv, more):
    low, high = beta(cv, 0.5, 0.95, 0.3), beta(cv + more, 0.5, 0.95, 0.3)
    assert 0.5 <= low <= high <= 0.95
    assert beta(0.3, 0.5, 0.95, 0.3) == pytest.approx(0.725)  # kappa is half way


def test_constant_norms_have_the_smallest_beta():
    decided = run(BudgetController(rule("mv"), update_steps(60, 0.05, 0.9, 20), 0.7), [3.7] * 60)
    assert all(one.cv == 0 and one.beta == 0.5 for one in decided)
    assert all(one.gate == pytest.approx(1) for one in decided)


@given(norms, st.integers(-40, 40), st.sampled_from(sorted(MODES)))
def test_scale_of_the_loss_does_not_matter(sequence, power, mode):
    steps = update_steps(60, 0.05, 0.9, 20)
    plain = run(BudgetController(rule(mode), steps, 0.9), sequence)
    scaled = run(BudgetController(rule(mode), steps, 0.9), [n * 2.0**power for n in sequence])
    for one, other in zip(plain, scaled, strict=True):
        assert (one.beta, one.gate, one.budget) == (other.beta, other.gate, other.budget)


def test_gate_and_spike_factor():
    assert gate(1.0, 3.0) == pytest.approx(1 / 3)
    assert gate(1.0, 1.0) == gate(1.0, 0.2) == 1
    assert gate(1.0, 0.25, limit=2) == 2
    assert gate(0.0, 0.0) == 1
    assert spike_factor(1.0, 1.9) == 1
    assert spike_factor(1.0, 8.0) == 0.25


def test_gate_closes_when_norms_stand_above_their_trend():
    controller = BudgetController(rule("mv"), [10, 20, 30], 0.9)
    for _ in range(10):
        controller.observe(1.0)
    controller.update()
    for _ in range(10):
        controller.observe(3.0)
    one = controller.update()
    trend = 3 - 2 * 0.95**10
    assert one.gate == pytest.approx(trend / 3)
    assert one.raw == pytest.approx(one.deficit * trend / 3)


def test_recursion_against_the_formulas_written_out():
    """The recursion line by line in numpy, on norms with a burst."""
    rng = np.random.default_rng(1)
    sequence = rng.gamma(9, size=200)
    sequence[90:120] *= 25
    steps, final = list(range(10, 181, 10)), 0.85
    mean, variance = sequence[0], 0.0
    s, b, window, expected = 0.0, None, [], []
    for t, n in enumerate(sequence, start=1):
        d = n - mean
        mean += 0.05 * d
        variance = 0.95 * (variance + 0.05 * d * d)
        window.append(n)
        if t in steps:
            cv = np.sqrt(variance) / mean
            x = (t - 10) / 170
            target = final - final * (1 - x) ** 3
            coefficient = 0.5 + 0.45 * cv / (0.3 + cv)
            deficit = max(0, target - s)
            q = min(1, mean / np.mean(window)) * deficit
            b = q if b is None else b
            b = coefficient * b + (1 - coefficient) * q
            b = min(deficit, max(b, max(0, target - 0.08 * (1 - x) - s)))
            if t == 180:
                b = final - s
            s += b
            window = []
            expected.append((coefficient, q, b, s))
    decided = run(BudgetController(rule("mv"), steps, final), [float(n) for n in sequence])
    got = [(one.beta, one.raw, one.budget, one.sparsity) for one in decided]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@given(norms, shares, st.integers(1, 80))
def test_cubic_is_zhu_and_gupta_to_the_bit(sequence, final, updates):
    steps = update_steps(60, 0.05, 0.9, updates)
    reached = [one.sparsity for one in run(BudgetController(rule("cubic"), steps, final), sequence)]
    assert reached == [cubic_target(step, steps[0], steps[-1], final) for step in steps]


@given(norms, st.floats(0, 0.9), st.floats(0, 0.09))
def test_without_a_band_momentum_variance_is_cubic_to_the_bit(sequence, low, more):
    steps = update_steps(60, 0.05, 0.9, 30)
    tight = BudgetRule(beta_min=low, beta_max=low + more, band=0.0)
    reached = [one.sparsity for one in run(BudgetController(tight, steps, 0.8), sequence)]
    cubic = [one.sparsity for one in run(BudgetController(rule("cubic"), steps, 0.8), sequence)]
    assert reached == cubic


@given(norms)
def test_static_gradient_norm_against_its_formula(sequence):
    steps, final = list(range(5, 56, 5)), 0.9
    decided = run(BudgetController(rule("static_gradnorm"), steps, final), sequence)
    means = [np.mean(sequence[(k * 5) : (k * 5 + 5)]) for k in range(len(steps))]
    s, last = 0.0, 0.0
    for k, one in enumerate(decided[:-1]):
        target = cubic_target(steps[k], steps[0], steps[-1], final)
        a = 1.0 if k < 5 else min(2.0, np.mean(means[:5]) / means[k])
        s = min(final, s + (target - last) * a)
        last = target
        assert one.sparsity == pytest.approx(s, abs=1e-9)
    assert decided[-1].sparsity == final


def test_fixed_momentum_is_a_constant_beta():
    fixed = rule("fixed_mom")
    assert (fixed.beta_min, fixed.beta_max, fixed.gate) == (0.8, 0.8, "trend")
    decided = run(BudgetController(fixed, [10, 30, 50], 0.5), [1.0, 5.0] * 30)
    assert {one.beta for one in decided} == {0.8}


@given(norms, st.integers(1, 59), st.sampled_from(sorted(MODES)))
def test_state_goes_through_json_to_the_bit(sequence, cut, mode):
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
