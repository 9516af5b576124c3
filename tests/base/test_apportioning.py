import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.base.budget import apportion, project
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
