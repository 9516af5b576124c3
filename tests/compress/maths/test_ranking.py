"""Exact selection under patterns, against loops."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.compress.maths.ranking import highest, lowest
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.ranking import cheapest, cheapest_by_row

PATTERNS = ("weights", "2:4", "1:3", "2x3", "columns")


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_lowest_is_a_stable_sort(values, data):
    """Many ties: the choice is that of a stable sort, the count exact."""
    count = data.draw(st.integers(0, len(values)))
    expected = np.zeros(len(values), dtype=bool)
    expected[np.argsort(values, kind="stable")[:count]] = True
    scores = torch.tensor(values, dtype=torch.float32)
    assert lowest(scores, count).tolist() == expected.tolist()
    expected[:] = False
    expected[np.argsort([-v for v in values], kind="stable")[:count]] = True
    assert highest(scores, count).tolist() == expected.tolist()
    assert lowest(scores, count).dtype == torch.bool


@pytest.mark.parametrize("count", [-1, 4])
def test_a_count_that_there_is_not_is_refused(count):
    with pytest.raises(ValueError, match=f"cannot choose {count} of 3"):
        lowest(torch.ones(3), count)


def free(pattern: str, costs: np.ndarray) -> np.ndarray:
    """Units that may all leave together, by a loop: of each n:m group the lowest."""
    if ":" not in pattern:
        return np.ones(costs.size, dtype=bool)
    n, m = map(int, pattern.split(":"))
    outputs, inputs = costs.shape
    able = np.zeros(costs.shape, dtype=bool)
    for row, start in itertools.product(range(outputs), range(0, inputs, m)):
        group = list(range(start, min(start + m, inputs)))
        group.sort(key=lambda column, row=row: costs[row, column])
        able[row, group[: max(0, len(group) - n)]] = True
    return able.ravel()


@given(
    st.sampled_from(PATTERNS), st.integers(1, 7), st.integers(1, 9), st.integers(0, 999), st.data()
)
def test_the_cheapest_units_leave_that_the_pattern_lets_go(pattern, outputs, inputs, seed, data):
    units = weight_pattern(pattern, (outputs, inputs))
    costs = np.random.default_rng(seed).integers(0, 6, units.units).astype(np.float32)
    able = free(pattern, costs.reshape(units.grid))
    count = data.draw(st.integers(0, int(able.sum())))
    gone = cheapest(units, torch.from_numpy(costs), count)
    order = [unit for unit in np.argsort(costs, kind="stable") if able[unit]]
    assert np.flatnonzero(gone.numpy()).tolist() == sorted(order[:count])


@given(
    st.sampled_from(PATTERNS), st.integers(1, 7), st.integers(1, 9), st.integers(0, 999), st.data()
)
def test_every_row_gives_as_many_as_it_can_but_for_one(pattern, outputs, inputs, seed, data):
    """Earlier rows give the rest; of each row its cheapest leave."""
    units = weight_pattern(pattern, (outputs, inputs))
    costs = np.random.default_rng(seed).integers(0, 6, units.units).astype(np.float32)
    able = free(pattern, costs.reshape(units.grid)).reshape(units.grid)
    count = data.draw(st.integers(0, int(able.sum())))
    gone = cheapest_by_row(units, torch.from_numpy(costs), count).reshape(units.grid).numpy()
    shares, left = [0] * len(able), count
    while left:  # one from each row that has one left, in turns
        for row, room in enumerate(able.sum(1)):
            if left and shares[row] < room:
                shares[row], left = shares[row] + 1, left - 1
    table = costs.reshape(units.grid)
    for row, share in enumerate(shares):
        order = [each for each in np.argsort(table[row], kind="stable") if able[row, each]]
        assert np.flatnonzero(gone[row]).tolist() == sorted(order[:share])


def test_of_equal_costs_in_a_long_row_the_earlier_leave():
    """A sort of so many would not keep their order by itself."""
    costs = torch.zeros(2, 500)
    gone = cheapest_by_row(weight_pattern("weights", (2, 500)), costs.reshape(-1), 400)
    assert torch.equal(gone.reshape(2, 500), (torch.arange(500) < 200).expand(2, 500))
