"""What the solvers stand on, small, against explicit inverses and exhaustive removal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.base.errors import UserError
from edgeprune.compress.maths import obs
from edgeprune.compress.maths.obs import (
    Pruned,
    column_blocks,
    damped,
    inverse_factor,
    joint_costs,
    least_squares,
    relative_error,
    remove_in_blocks,
    remove_jointly,
    settle_columns,
)


def layer(outputs: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a positive definite Gram matrix of inputs that mix, in float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((inputs, inputs)) @ rng.standard_normal((inputs, 40))
    return torch.from_numpy(rng.standard_normal((outputs, inputs))), torch.from_numpy(x @ x.T)


def removed(weight: np.ndarray, gone: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Hassibi and Stork's formula, row after row."""
    out, inverse = weight.copy(), np.linalg.inv(hessian)
    for row, leaves in enumerate(gone):
        q = np.flatnonzero(leaves)
        out[row] -= weight[row, q] @ np.linalg.inv(inverse[np.ix_(q, q)]) @ inverse[q]
        out[row, q] = 0
    return out


def test_a_pruned_weight_has_the_dtype_that_it_had():
    gone = torch.tensor([[True, False], [False, False]])
    weight, values = torch.ones(2, 2, dtype=torch.float16), torch.full((2, 2), 3.0)
    pruned = Pruned.of(weight, values.double(), gone)
    assert pruned.weight.dtype == torch.float16
    assert pruned.weight.tolist() == [[0, 3], [3, 3]]
    assert torch.equal(pruned.kept, ~gone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_damping_adds_a_share_of_the_mean_energy(dtype):
    gram = torch.tensor([[2.0, 1.0], [1.0, 6.0]], dtype=dtype)
    assert damped(gram, 0.5).tolist() == [[4, 1], [1, 8]]
    assert gram.tolist() == [[2, 1], [1, 6]]  # a copy, whatever it came in
    assert damped(gram * 0, 0.5).tolist() == [[1, 0], [0, 1]]
    quiet = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=dtype)
    assert damped(quiet, 2).tolist() == [[1, 0], [0, 0.5]]


def test_what_cannot_be_inverted_says_what_to_do():
    weight, indefinite = torch.ones(1, 2).double(), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
    for refuses in (
        lambda: inverse_factor(indefinite),
        lambda: least_squares(weight, indefinite, torch.tensor([True, True])),
    ):
        with pytest.raises(UserError, match="raise damping, or give more samples"):
            refuses()


def test_one_columns_cost_is_its_square_over_the_inverses_corner():
    weight, gram = layer(3, 5)
    costs = joint_costs(weight, inverse_factor(gram), 1)
    for column in range(5):
        corner = np.linalg.inv(gram.numpy()[column:, column:])[0, 0]
        np.testing.assert_allclose(costs[:, column], weight[:, column] ** 2 / corner, rtol=1e-9)


@pytest.mark.parametrize("width", [2, 3])
def test_a_groups_cost_is_that_of_its_corner(width):
    """w (inv(H)_SS)^-1 w^T, the columns before it settled; a last group may be narrower."""
    weight, gram = layer(3, 7)
    costs = joint_costs(weight, inverse_factor(gram), width)
    for start in range(0, 7, width):
        stop = min(start + width, 7)
        inverse = np.linalg.inv(gram.numpy()[start:, start:])[: stop - start, : stop - start]
        group = weight[:, start:stop].numpy()
        expected = (group @ np.linalg.inv(inverse) * group).sum(1)
        np.testing.assert_allclose(costs[:, start:stop].sum(1), expected, rtol=1e-7)


@settings(max_examples=50)
@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([1, 4, 20, 1 << 18]),
    st.integers(0, 999),
)
def test_what_leaves_at_once_is_the_closed_form(outputs, inputs, together, chunk, seed):
    """Whatever is solved together, in a first part of the columns or in all."""
    rng = np.random.default_rng(seed)
    weight, gram = layer(outputs, inputs, seed)
    first = int(rng.integers(1, inputs + 1))
    shared = rng.random((-(-outputs // together), first)) < rng.random()
    gone = torch.from_numpy(shared.repeat(together, 0)[:outputs])
    whole = np.zeros((outputs, inputs), dtype=bool)
    whole[:, :first] = gone.numpy()
    work = weight.clone()
    was, obs._CHUNK = obs._CHUNK, chunk
    try:
        remove_jointly(work, gone, inverse_factor(gram), together)
    finally:
        obs._CHUNK = was
    expected = removed(weight.numpy(), whole, gram.numpy())
    np.testing.assert_allclose(work.numpy(), expected, rtol=1e-6, atol=1e-8)
    assert not work[torch.from_numpy(whole)].any()


def test_systems_are_solved_in_chunks(monkeypatch):
    """As many at a time as a chunk holds, and never none."""
    solved = []
    cholesky = torch.linalg.cholesky

    def note(system: torch.Tensor) -> torch.Tensor:
        solved.append(tuple(system.shape))
        return cholesky(system)

    monkeypatch.setattr(torch.linalg, "cholesky", note)
    weight, gram = layer(6, 8)
    gone = torch.zeros(6, 8, dtype=torch.bool)
    for row, count in enumerate([0, 2, 2, 3, 5, 5]):
        gone[row, :count] = True
    monkeypatch.setattr(obs, "_CHUNK", 50)
    remove_jointly(weight.clone(), gone, inverse_factor(gram))
    assert solved == [(2, 5, 5), (3, 3, 3)]
    solved.clear()
    monkeypatch.setattr(obs, "_CHUNK", 1)
    remove_jointly(weight.clone(), gone, inverse_factor(gram))
    assert [shape[0] for shape in solved] == [1] * 5
    assert obs._CHUNK == 1


@pytest.mark.parametrize(
    ("columns", "block_size", "span", "expected"),
    [
        (10, 4, 1, [(0, 4), (4, 8), (8, 10)]),
        (10, 6, 4, [(0, 4), (4, 8), (8, 10)]),
        (10, 8, 4, [(0, 8), (8, 10)]),
        (10, 2, 4, [(0, 4), (4, 8), (8, 10)]),  # one whole span at least
        (4, 1, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (3, 9, 1, [(0, 3)]),
        (0, 4, 1, []),
    ],
)
def test_blocks_of_columns(columns, block_size, span, expected):
    assert column_blocks(columns, block_size, span) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("block_size", "span", "together"), [(8, 1, 1), (3, 1, 2), (3, 2, 1)])
def test_blocks_leave_one_after_another(block_size, span, together, dtype):
    """Each by the closed form on what is left of the columns."""
    weight, gram = layer(4, 8)
    weight = weight.to(dtype)
    rng = np.random.default_rng(1)
    gone = torch.from_numpy((rng.random((4 // together, 8)) < 0.5).repeat(together, 0))
    before, expected = weight.clone(), weight.double().numpy().copy()
    for start, stop in column_blocks(8, block_size, span):
        part = np.zeros((4, 8 - start), dtype=bool)
        part[:, : stop - start] = gone.numpy()[:, start:stop]
        corner = gram.numpy()[start:, start:]
        expected[:, start:] = removed(expected[:, start:], part, corner)
    options = (block_size, span, together) if span > 1 or together > 1 else (block_size,)
    found = remove_in_blocks(weight, gone, gram, *options)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert found.dtype == torch.float64
    assert torch.equal(weight, before)


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_settling_to_nothing_is_removing_column_after_column(block_size):
    weight, gram = layer(3, 8)
    work, upper = weight.clone(), inverse_factor(gram)
    asked = []

    def settle(column: int) -> torch.Tensor:
        asked.append((column, work[:, column].clone()))
        return torch.full((3,), 0.5, dtype=torch.float64) if column == 2 else work[:, column] * 0

    settle_columns(work, upper, column_blocks(8, block_size, 1), settle)
    expected = weight.numpy().copy()
    for column in range(8):
        inverse = np.linalg.inv(gram.numpy()[column:, column:])
        wanted = 0.5 if column == 2 else 0.0
        np.testing.assert_allclose(asked[column][1], expected[:, column], rtol=1e-6)
        change = (expected[:, column] - wanted) / inverse[0, 0]
        expected[:, column:] -= np.outer(change, inverse[0])
        expected[:, column] = wanted
    assert [column for column, _ in asked] == list(range(8))
    np.testing.assert_allclose(work.numpy(), expected, atol=1e-9)


def test_least_squares_is_the_normal_equation():
    weight, gram = layer(3, 6)
    kept = torch.tensor([True, False, True, True, False, True])
    found = least_squares(weight.float(), gram, kept)
    h, k = gram.numpy(), kept.numpy()
    expected = weight.float().double().numpy() @ h[:, k] @ np.linalg.inv(h[np.ix_(k, k)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7)
    assert found.dtype == torch.float64


def test_the_relative_error_is_a_ratio_of_norms():
    before, after = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 1.0]])
    gram = torch.eye(2)
    assert relative_error(before, after, gram) == pytest.approx(3 / 5)
    assert relative_error(before, before, gram) == 0
    assert relative_error(before, before * 0, gram) == pytest.approx(1)
    assert relative_error(before * 0, after, gram) == 0
    weak = torch.tensor([[0.2, 0.0]])
    assert relative_error(weak, weak * 0.5, gram) == pytest.approx(0.5)
    assert relative_error(before, after, -1e-9 * gram) == 0  # rounding may leave less than nothing
    # Less than nothing lost, by rounding, of something that is there.
    skewed = torch.tensor([[1.0, 0.0], [0.0, -1e-9]])
    assert relative_error(before, after, skewed) == 0
