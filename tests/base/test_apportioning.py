"""Exact budgets against sorted units, linear scans and known cases."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.base.budget import apportion, most_removable, project
from edgeprune.base.errors import UserError

weight = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(weight, st.integers(0, 20), st.integers(0, 30)), min_size=1), st.data())
def test_apportion_is_exact_and_within_bounds(rows, data):
    weights = [w for w, _, _ in rows]
    lower = [low for _, low, _ in rows]
    upper = [low + more for _, low, more in rows]
    total = data.draw(st.integers(sum(lower), sum(upper)))
    counts = apportion(total, weights, upper, lower)
    assert sum(counts) == total
    assert all(low <= c <= up for low, c, up in zip(lower, counts, upper, strict=True))
    assert counts == apportion(total, weights, upper, lower)
    free = [
        (w, c) for w, c, low, up in zip(weights, counts, lower, upper, strict=True) if low < c < up
    ]
    for (w, c), (v, d) in itertools.combinations(free, 2):  # a larger weight never gets less
        assert (w - v) * (c - d) >= 0 or abs(c - d) <= 1


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.integers(0, 10_000))
def test_unbounded_apportion_stays_within_one_of_the_quota(weights, total):
    exact = [Fraction(w) for w in weights]
    for count, w in zip(apportion(total, weights), exact, strict=True):
        assert abs(count - total * w / sum(exact)) < 1


def test_apportion_known_cases():
    # Hamilton's method on the textbook example (populations, 25 seats).
    assert apportion(25, [1429, 8941, 4256, 3458, 1916]) == [2, 11, 5, 4, 3]
    assert apportion(3, [1, 1]) == [2, 1]  # a tie goes to the earlier
    assert apportion(10, [8, 1, 1], upper=[4, 9, 9]) == [4, 3, 3]  # what is cut off spills over
    assert apportion(7, [1, 0, 0], upper=[3, 9, 9]) == [3, 2, 2]  # and past the weighted ones
    assert apportion(5, [0, 0]) == [3, 2]
    assert apportion(0, []) == []


def test_apportion_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="5 units does not fit"):
        apportion(5, [1, 1], upper=[2, 2])
    with pytest.raises(UserError):
        apportion(1, [1, 1], lower=[1, 1])


@given(
    st.lists(st.tuples(st.floats(-0.5, 1.5), st.integers(1, 400)), min_size=1, max_size=10),
    st.data(),
)
def test_project_is_exact_and_within_bounds(rows, data):
    ratios, sizes = [r for r, _ in rows], [n for _, n in rows]
    minimum = data.draw(st.integers(0, min(sizes)))
    total = data.draw(st.integers(minimum * len(sizes), sum(sizes)))
    counts = project(ratios, sizes, total, minimum=minimum)
    assert sum(counts) == total
    assert all(minimum <= c <= n for c, n in zip(counts, sizes, strict=True))


@given(st.lists(st.floats(0.2, 0.8), min_size=2, max_size=8), st.floats(-0.1, 0.1))
def test_project_moves_all_ratios_by_one_constant(ratios, shift):
    size = 10_000
    total = round(sum((r + shift) * size for r in ratios))
    for count, ratio in zip(project(ratios, [size] * len(ratios), total), ratios, strict=True):
        assert abs(count / size - (ratio + shift)) <= 1.5 / size


def test_project_known_cases():
    assert project([0.5, 0.75, 0.25], [100, 100, 100], 120) == [40, 65, 15]
    assert project([0.5, 0.5, 0.5], [10, 10, 10], 16) == [6, 5, 5]
    assert project([0.0, 1.0], [100, 100], 100) == [1, 99]  # the minimum holds, mu gives back


def test_project_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="does not fit"):
        project([0.5], [10], 11)
    with pytest.raises(UserError, match="at least 9 units and at most 8"):
        project([0.5], [8], 8, minimum=9)


# against slow ways of their definitions --------------------------------------------------------


def shares(total: int, weights: list[Fraction], lower: list[int], upper: list[int]):
    """clip(theta * weight) that sum to `total`: theta between two neighbouring corners."""

    def at(theta: Fraction) -> list[Fraction]:
        return [
            min(max(theta * w, Fraction(low)), Fraction(up))
            for w, low, up in zip(weights, lower, upper, strict=True)
        ]

    rows = zip(weights, lower, upper, strict=True)
    corners = {Fraction(bound) / w for w, *bounds in rows if w for bound in bounds}
    for one, two in itertools.pairwise(sorted({Fraction(0), *corners})):
        here, there = sum(at(one)), sum(at(two))
        if here < total <= there:
            return at(one + (total - here) * (two - one) / (there - here))
    assert sum(at(Fraction(0))) == total
    return at(Fraction(0))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=6
    ),
    st.data(),
)
def test_apportion_is_its_definition(rows, data):
    """Shares of one theta, rounded down, and the rest to the largest remainders in order."""
    weights = [w for w, _, _ in rows]
    lower = [low for _, low, _ in rows]
    upper = [low + more for _, low, more in rows]
    total = data.draw(st.integers(sum(lower), sum(upper)))
    exact = [Fraction(w) for w in weights] if any(weights) else [Fraction(1)] * len(rows)
    full = [up if w else low for w, low, up in zip(exact, lower, upper, strict=True)]
    if total > sum(full):  # those without a weight share equally what is left
        exact, least = [Fraction(int(w == 0)) for w in exact], full
    else:
        least = lower
    wanted = shares(total, exact, least, upper)
    counts = [math.floor(share) for share in wanted]
    order = sorted(range(len(rows)), key=lambda i: (counts[i] - wanted[i], i))
    for place in order[: total - sum(counts)]:
        counts[place] += 1
    assert apportion(total, weights, upper, lower) == counts


@given(
    st.lists(st.tuples(st.integers(-40, 100), st.integers(1, 30)), min_size=1, max_size=6),
    st.data(),
)
def test_project_keeps_the_units_that_the_least_constant_brings(rows, data):
    """A layer holds k units from mu = k / size - ratio on. The units that come first are kept;
    of those that come at once, by rounding, any."""
    ratios, sizes = [r / 64 for r, _ in rows], [n for _, n in rows]
    minimum = data.draw(st.integers(0, min(sizes)))
    total = data.draw(st.integers(minimum * len(sizes), sum(sizes)))
    counts = project(ratios, sizes, total, minimum=minimum)

    def comes(layer: int, unit: int) -> Fraction:
        return Fraction(unit, sizes[layer]) - Fraction(ratios[layer])

    layers = range(len(sizes))
    last = [comes(i, counts[i]) for i in layers if counts[i] > minimum]
    following = [comes(i, counts[i] + 1) for i in layers if counts[i] < sizes[i]]
    if last and following:
        assert max(last) <= min(following) + Fraction(1, 10**12)


def test_project_gives_what_comes_at_once_to_the_earlier_layers():
    for total in range(4, 17):
        counts = project([0.25, 0.25, 0.5, 0.25], [4, 4, 4, 4], total, minimum=1)
        assert sum(counts) == total
        assert counts[0] >= counts[1] >= counts[3]
        assert counts[0] - counts[3] <= 1
    assert project([0.5, 0.5], [1, 1], 1, minimum=0) == [1, 0]
    assert project([0.5], [7], 7) == [7]
    assert project([0.5, 0.5], [7, 7], 2) == [1, 1]
    assert project([], [], 0) == []
    assert project([0.5, 0.5], [10, 10], 19) == [10, 9]
    assert project([-5.0, 3.0], [10, 10], 11) == [1, 10]  # wishes far outside
    assert project([-5.0, 3.0], [10, 10], 15) == [5, 10]
    assert project([9.0, 9.0], [10, 10], 5) == [3, 2]


def test_bounds_that_are_not_given():
    assert apportion(10, [1, 3], lower=[6, 0]) == [6, 4]
    assert apportion(10, [1, 3], lower=[0, 6]) == [3, 7]  # 2.5 and 7.5: a tie
    assert apportion(3, [0, 1], lower=[1, 1]) == [1, 2]
    assert apportion(9, [1, 1, 1], upper=[9, 1, 1]) == [7, 1, 1]
    # A lower bound above the total is a bound that cannot be held, not one that is cut off.
    with pytest.raises(UserError, match="A total of 3 units does not fit bounds that allow 5 to"):
        apportion(3, [1, 1], lower=[5, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apportion(1, [1, 1], upper=[1]), "one entry each"),
        (lambda: apportion(1, [1, 1], lower=[1]), "one entry each"),
        (lambda: apportion(1, [1], upper=[1, 1], lower=[0]), "one entry each"),
        (lambda: apportion(1, [1, -1]), "finite and not negative"),
        (lambda: apportion(1, [1, math.inf]), "finite and not negative"),
        (lambda: apportion(1, [math.nan]), "finite and not negative"),
        (lambda: project([0.5], [1, 1], 1), "one entry each"),
        (lambda: project([math.nan], [1], 1), "must be finite"),
    ],
    ids=range(8),
)
def test_callers_that_are_wrong_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_first_layer_whose_bounds_cross_is_named():
    with pytest.raises(UserError, match="Layer 1 must hold at least 3 units and at most 2"):
        apportion(5, [1, 1], upper=[2, 2], lower=[2, 3])
    assert apportion(4, [1, 1], upper=[2, 2], lower=[2, 2]) == [2, 2]


@pytest.mark.parametrize(
    ("units", "limit", "sparsity", "expected"),
    [
        (10, 0.55, 0.5, 5),
        (10, 0.55, 0.6, 6),  # the whole is asked more of than the limit lets go
        (10, 0.55, 0.51, 6),
        (10, 0.3, 0.0, 3),
        (10, 0.7, 0.1, 7),  # 0.7 * 10 is a little under 7 in floats, 0.1 * 3 a little over 0.3
        (100, 0.29, 0.0, 29),
        (3, 0.0, 0.1, 1),
        (30, 0.0, 0.1, 3),
        (7, 1.0, 1.0, 7),
        (0, 0.5, 0.5, 0),
    ],
)
def test_what_may_leave_a_layer(units, limit, sparsity, expected):
    assert most_removable(units, limit, sparsity) == expected
