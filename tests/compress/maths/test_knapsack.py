"""The knapsack against every choice; its bounds against linear programming."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from edgeprune.compress.maths import knapsack
from edgeprune.compress.maths.knapsack import Option, choose

SIZES = st.integers(0, 30) | st.integers(10**6, 10**6 + 30)
COSTS = st.integers(0, 20).map(float) | st.floats(1e-9, 1e3)
THINGS = st.lists(
    st.lists(st.builds(Option, SIZES, COSTS), min_size=1, max_size=4), min_size=0, max_size=6
)


@settings(max_examples=120, deadline=None)
@given(things=THINGS, share=st.floats(0, 1))
def test_the_choice_is_the_best_of_all(things, share):
    least = sum(min(option.size for option in options) for options in things)
    most = sum(max(option.size for option in options) for options in things)
    budget = least + int(share * (most - least))
    chosen = choose(things, budget)
    picked = [options[index] for options, index in zip(things, chosen, strict=True)]
    assert sum(option.size for option in picked) <= budget
    best = min(
        sum(option.cost for option in combination)
        for combination in itertools.product(*things)
        if sum(option.size for option in combination) <= budget
    )
    assert sum(option.cost for option in picked) == pytest.approx(best, rel=1e-8, abs=1e-12)


def test_a_budget_that_cannot_be_met_is_refused():
    with pytest.raises(ValueError, match="take 7"):
        choose([[Option(3, 0.0), Option(9, 0.0)], [Option(4, 1.0)]], 6)


def test_everything_free_is_chosen_though_the_bound_is_rounded():
    # The relaxation adds up what steps save: rounded, that is not quite what nothing costs.
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        things = []
        for _ in range(8):
            costs = torch.rand(40, generator=generator, dtype=torch.float64).tolist()
            ordered = [*sorted(costs, reverse=True), 0.0]
            things.append([Option(10 * (n + 1), cost) for n, cost in enumerate(ordered)])
        assert choose(things, 8 * 410) == [40] * 8


def test_hundreds_of_tensors_of_odd_sizes_are_chosen_at_once():
    generator = torch.Generator().manual_seed(0)
    things = []
    for _ in range(300):
        size = int(torch.randint(10**5, 10**6, (), generator=generator))
        cost = float(torch.rand((), generator=generator)) ** 4
        things.append([Option(size, cost), Option(2 * size, cost * 0.01)])
    budget = int(1.3 * sum(options[0].size for options in things))
    chosen = choose(things, budget)
    taken = sum(options[index].size for options, index in zip(things, chosen, strict=True))
    # So many items fill a budget nearly to the byte when nothing is left to gain.
    assert 0.9999 * budget < taken <= budget


def relaxed_cost(things: list[list[Option]], budget: int) -> float:
    """The least cost with fractions of options, by linear programming; infinite if none fits."""
    flat = [(place, option) for place, options in enumerate(things) for option in options]
    if not flat:
        return 0.0 if budget >= 0 else math.inf
    whole = np.zeros((len(things), len(flat)))
    for column, (place, _) in enumerate(flat):
        whole[place, column] = 1
    found = linprog(
        [option.cost for _, option in flat],
        A_ub=[[option.size for _, option in flat]],
        b_ub=[budget],
        A_eq=whole,
        b_eq=np.ones(len(things)),
    )
    return found.fun if found.status == 0 else math.inf


OPTIONS = st.lists(
    st.builds(Option, st.integers(0, 9), st.integers(0, 9).map(float)), min_size=1, max_size=6
)
SMALL = st.lists(OPTIONS, max_size=4)


@settings(max_examples=60)
@given(things=SMALL, budgets=st.lists(st.integers(-2, 45), min_size=1, max_size=4))
def test_the_bound_is_the_linear_programs(things, budgets):
    """Of all things, and of those from each place on."""
    found = knapsack._relaxations(things)
    assert len(found) == len(things) + 1
    for place, bound in enumerate(found):
        expected = [relaxed_cost(things[place:], budget) for budget in budgets]
        np.testing.assert_allclose(bound(np.array(budgets)), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(options=OPTIONS)
def test_the_hull_is_of_the_options_that_no_mixture_beats(options):
    """By its definition: no other two options, mixed at the same size, cost as little."""
    hull = knapsack._hull(options)
    assert set(hull) <= set(options)
    sizes, costs = zip(*((option.size, option.cost) for option in hull), strict=True)
    assert list(sizes) == sorted(set(sizes))
    assert list(costs) == sorted(set(costs), reverse=True)
    assert costs[-1] == min(option.cost for option in options)
    assert hull[0] == min(options, key=lambda option: (option.size, option.cost))
    for option in options:  # all lie on the hull or above it
        if option.size <= sizes[-1]:
            assert option.cost >= np.interp(option.size, sizes, costs) - 1e-12
    slopes = np.diff(costs) / np.diff(sizes)
    assert (np.diff(slopes) > 0).all()  # each is a corner


@settings(max_examples=60)
@given(things=SMALL, share=st.floats(0, 1))
def test_the_first_guess_costs_what_a_whole_choice_costs(things, share):
    """And as little as buying steps of best return costs, written as a loop."""
    least = sum(min(option.size for option in options) for options in things)
    most = sum(max(option.size for option in options) for options in things)
    budget = least + int(share * (most - least))
    hulls = [knapsack._hull(options) for options in things]
    at, stuck, left = [0] * len(hulls), set(), budget - least
    while True:
        steps = []
        for place, hull in enumerate(hulls):
            if place not in stuck and at[place] + 1 < len(hull):
                here, there = hull[at[place]], hull[at[place] + 1]
                size = there.size - here.size
                steps.append(((here.cost - there.cost) / size, -place, size))
        if not steps:
            break
        _, place, size = max(steps)
        if size <= left:
            at[-place], left = at[-place] + 1, left - size
        else:
            stuck.add(-place)
    expected = sum(hull[each].cost for hull, each in zip(hulls, at, strict=True))
    assert knapsack._greedy(things, budget) == pytest.approx(expected)


def test_few_states_live(monkeypatch):
    """Of 4^60 choices some hundred are looked at: what the bound is for."""
    looked = []
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: looked.append(len(keys[0])) or lexsort(keys))
    rng = np.random.default_rng(0)
    things = [
        [Option(int(size), float(cost)) for size, cost in zip(sizes, costs, strict=True)]
        for sizes, costs in zip(
            np.sort(rng.integers(10**5, 10**6, (60, 4)), axis=1),
            -np.sort(-rng.random((60, 4)), axis=1),
            strict=True,
        )
    ]
    budget = int(1.5 * sum(options[0].size for options in things))
    chosen = choose(things, budget)
    assert sum(o[c].size for o, c in zip(things, chosen, strict=True)) <= budget
    assert max(looked) < 300


def test_choices_alike_are_one_state(monkeypatch):
    """Of things of a kind only how many take the larger option matters."""
    looked = []
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: looked.append(len(keys[0])) or lexsort(keys))
    chosen = choose([[Option(2, 1.0), Option(3, 0.5)]] * 12, 24 + 6)
    assert sum(chosen) == 6
    assert max(looked) <= 2 * 13


def test_options_on_a_line_are_no_corners():
    line = [Option(0, 4.0), Option(1, 2.0), Option(2, 0.0)]
    assert knapsack._hull(line) == [line[0], line[2]]
