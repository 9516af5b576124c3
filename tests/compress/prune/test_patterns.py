"""Patterns of weights and gates, against loops over their units."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.base.errors import UserError
from edgeprune.compress.prune.patterns import NM, Blocks, Gates, Singles, weight_pattern

side = st.integers(1, 13)


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
    with pytest.raises(UserError, match="There is no pattern of weights"):
        weight_pattern("channels", (8, 8))


@pytest.mark.parametrize(
    ("text", "kind", "grid", "inputs", "outputs", "span", "units", "capacity"),
    [
        ("weights", Singles, (6, 10), 1, 1, 1, 60, 60),
        ("2:4", NM, (6, 10), 1, 1, 4, 60, 6 * (2 + 2 + 0)),
        ("1:3", NM, (6, 10), 1, 1, 3, 60, 6 * (2 + 2 + 2 + 0)),
        ("4x1", Blocks, (6, 3), 4, 1, 4, 18, 18),
        ("1x4", Blocks, (2, 10), 1, 4, 1, 20, 20),
        ("4x16", Blocks, (1, 3), 4, 16, 4, 3, 3),
        ("columns", Blocks, (1, 10), 1, 6, 1, 10, 10),
    ],
)
def test_what_a_pattern_says_of_itself(text, kind, grid, inputs, outputs, span, units, capacity):
    pattern = weight_pattern(text, (6, 10))
    assert type(pattern) is kind
    assert pattern.shape == (6, 10)
    assert (pattern.grid, pattern.span) == (grid, span)
    assert (pattern.inputs, pattern.outputs) == (inputs, outputs)
    assert (pattern.units, pattern.capacity) == (units, capacity)


@pytest.mark.parametrize("text", ["weights", "2:4", "2x3"])
def test_units_keep_their_places(text):
    """What a unit's score is made of is what its mask covers."""
    pattern = weight_pattern(text, (5, 7))
    for unit in range(pattern.units):
        alone = torch.zeros(pattern.units)
        alone[unit] = 1
        mask = pattern.element_mask(alone)
        assert mask.shape == (5, 7)
        assert mask.is_contiguous()
        scores = pattern.unit_scores(mask)
        assert torch.equal(scores, alone)


@pytest.mark.parametrize("text", ["weights", "4x16", "columns"])
def test_units_that_do_not_bind_each_other_may_all_go(text):
    pattern = weight_pattern(text, (5, 7))
    candidates = torch.arange(pattern.units) % 2 == 0
    everything = torch.ones(pattern.units, dtype=torch.bool)
    found = pattern.removable(torch.rand(pattern.units), everything, candidates)
    assert torch.equal(found, candidates)


def test_of_equal_scores_the_earlier_goes():
    """In long groups too, whose sort would not keep the order by itself."""
    pattern = NM((1, 200), 50, 100)
    everything = torch.ones(200, dtype=torch.bool)
    gone = pattern.removable(torch.zeros(200), everything, everything)
    assert gone.tolist() == ([True] * 50 + [False] * 50) * 2


def test_a_padded_group_gives_up_no_more_than_it_has():
    """Neither what is padded, nor units that are gone already, count as kept."""
    pattern = NM((1, 5), 2, 4)
    everything = torch.ones(5, dtype=torch.bool)
    assert pattern.removable(torch.arange(5.0), everything, everything).tolist() == (
        [True, True, False, False, False]
    )
    kept = torch.tensor([True, True, False, True, True])
    assert pattern.removable(torch.arange(5.0), kept, kept).tolist() == (
        [True, False, False, False, False]
    )
    one = NM((1, 3), 1, 4)  # a single ragged group: two of its three may go
    whole = torch.ones(3, dtype=torch.bool)
    assert one.removable(torch.arange(3.0), whole, whole).tolist() == [True, True, False]


def test_gates_by_themselves():
    pattern = Gates(3)
    assert (pattern.units, pattern.capacity, pattern.grid) == (3, 3, (3,))
    assert pattern.unit_scores(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 2, 3]
    assert Gates(2, torch.tensor([0, 1], dtype=torch.int8)).element_mask(
        torch.tensor([5, 6])
    ).tolist() == [5, 6]
    gradient = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert pattern.unit_gradient(gradient).dtype == torch.float64


def test_a_pattern_s_name_needs_a_matrix():
    assert weight_pattern("weights", (3, 4, 5)).units == 60
    with pytest.raises(UserError, match=r"pattern 4x1 needs a matrix, and weight has the shape"):
        weight_pattern("4x1", (3, 4, 5))
    with pytest.raises(UserError, match="needs a matrix"):
        weight_pattern("columns", (8,))
