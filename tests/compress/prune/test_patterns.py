import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.base.errors import UserError
from edgeprune.compress.maths.ranking import highest, lowest
from edgeprune.compress.prune.patterns import NM, Blocks, Gates, weight_pattern

side = st.integers(1, 13)


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


@given(side, side, st.integers(1, 5), st.integers(1, 5))
def test_blocks_against_a_loop(outputs, inputs, k, n):
    """4x16 is k = 4 inputs by n = 16 outputs; ragged edges are units of their own size."""
    pattern = Blocks((outputs, inputs), k, n)
    scores = torch.rand(outputs, inputs, dtype=torch.float64)
    corners = list(itertools.product(range(0, outputs, n), range(0, inputs, k)))
    assert pattern.units == len(corners)
    means = [scores[o : o + n, i : i + k].mean() for o, i in corners]
    torch.testing.assert_close(pattern.unit_scores(scores), torch.stack(means))
    kept = torch.rand(len(corners)) < 0.5
    expected = torch.zeros(outputs, inputs, dtype=torch.bool)
    for keep, (o, i) in zip(kept, corners, strict=True):
        expected[o : o + n, i : i + k] = keep
    assert torch.equal(pattern.element_mask(kept), expected)


def test_blocks_named_by_the_recipe():
    pattern = weight_pattern("4x16", (32, 8))
    mask = pattern.element_mask(torch.tensor([True, False, False, False]))
    assert torch.equal(mask.nonzero().amax(0), torch.tensor([15, 3]))
    assert int(mask.sum()) == 64


@given(side, st.integers(1, 14), st.integers(1, 4), st.integers(1, 4), st.data())
def test_n_m_against_a_loop(outputs, inputs, n, spare, data):
    """What may go at once: in each group the lowest candidates, until n of the group are left."""
    m = n + spare
    pattern = NM((outputs, inputs), n, m)
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(outputs * inputs, generator=generator)
    kept = torch.ones(outputs, inputs, dtype=torch.bool)
    expected = torch.zeros(outputs, inputs, dtype=torch.bool)
    candidates = torch.rand(outputs, inputs, generator=generator) < 0.7
    capacity = 0
    for o, i in itertools.product(range(outputs), range(0, inputs, m)):
        width = min(m, inputs - i)
        spare_here = max(0, width - n)
        capacity += spare_here
        gone = int(torch.randint(0, spare_here + 1, (), generator=generator))
        kept[o, i : i + gone] = False
        able = [j for j in range(i, i + width) if kept[o, j] and candidates[o, j]]
        able.sort(key=lambda j, o=o: float(scores[o * inputs + j]))
        expected[o, able[: spare_here - gone]] = True
    assert pattern.capacity == capacity
    got = pattern.removable(scores, kept.reshape(-1), (candidates & kept).reshape(-1))
    assert torch.equal(got.reshape(outputs, inputs), expected)


def test_gates_share_a_fate():
    pattern = Gates(6, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert pattern.units == 3
    gradient = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert pattern.unit_gradient(gradient).tolist() == [11, 22, 33]
    mask = pattern.element_mask(torch.tensor([True, False, True]))
    assert mask.tolist() == [True, False, True, True, False, True]
    assert Gates(4).element_mask(torch.tensor([True, False, True, True])).sum() == 3


def test_wrong_patterns_are_refused():
    with pytest.raises(ValueError, match="without a gap"):
        Gates(3, torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match="one unit for each"):
        Gates(3, torch.tensor([0, 1]))
    with pytest.raises(UserError, match="needs a matrix"):
        weight_pattern("2:4", (8,), "bias")
    with pytest.raises(UserError, match="no such pattern"):
        weight_pattern("channels", (8, 8))
