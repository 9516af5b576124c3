"""One-shot solvers beside least squares, loops written from the papers, and each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.maths import obs
from edgeprune.compress.maths.obs import (
    damped,
    inverse_factor,
    joint_costs,
    least_squares,
    relative_error,
    remove_jointly,
)
from edgeprune.compress.prune.magnitude import magnitude
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.compress.prune.sparsegpt import sparsegpt
from edgeprune.compress.prune.thanos import thanos
from edgeprune.compress.prune.wanda import wanda

SOLVERS = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt, "thanos": thanos}
CORRECTING = {"sparsegpt": sparsegpt, "thanos": thanos}
PATTERNS = ("weights", "2:4", "4:8", "1:3", "4x1", "4x16", "1x16", "columns")


def layer(outputs: int, inputs: int, seed: int, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """A weight [outputs, inputs] and correlated inputs X [tokens, inputs], in float64."""
    rng = np.random.default_rng(seed)
    few = max(1, inputs // 3)
    x = rng.standard_normal((tokens, few)) @ rng.standard_normal((few, inputs)) / math.sqrt(few)
    x += 0.2 * rng.standard_normal((tokens, inputs))
    x *= np.exp(0.7 * rng.standard_normal(inputs))  # some inputs are much louder than others
    return torch.from_numpy(rng.standard_normal((outputs, inputs))), torch.from_numpy(x)


def refit(weight: Tensor, x: Tensor, kept: Tensor, damping: float) -> np.ndarray:
    """numpy's least squares, row after row, of W X on the inputs that the row keeps.

    Damping is ridge regression towards the weights as they were: sqrt(ridge) I more tokens.
    """
    w, data, support = weight.numpy(), x.numpy(), kept.numpy()
    ridge = damping * (data**2).sum(0).mean()
    more = np.vstack([data, math.sqrt(ridge) * np.eye(data.shape[1])])
    out = np.zeros_like(w)
    for row, keep in enumerate(support):
        out[row, keep] = np.linalg.lstsq(more[:, keep], more @ w[row], rcond=None)[0]
    return out


def lost(weight: Tensor, after: Tensor, x: Tensor) -> float:
    """Relative error of the outputs, from the outputs."""
    return float(torch.linalg.norm(x @ (after - weight).T) / torch.linalg.norm(x @ weight.T))


# the shared mathematics ------------------------------------------------------------------------


@given(st.integers(1, 24), st.integers(0, 10**6), st.sampled_from([1e-4, 0.01, 0.3]))
def test_the_factor_holds_the_inverse_of_every_corner(inputs, seed, damping):
    _, x = layer(1, inputs, seed)
    hessian = damped(x.T @ x, damping)
    expected = (x.T @ x).numpy() + damping * (x.numpy() ** 2).sum(0).mean() * np.eye(inputs)
    np.testing.assert_allclose(hessian.numpy(), expected, rtol=1e-12)
    upper = inverse_factor(hessian)
    assert torch.equal(upper, upper.triu())
    for start in range(inputs):
        corner = upper[start:, start:]
        np.testing.assert_allclose(
            (corner.T @ corner).numpy(), np.linalg.inv(expected[start:, start:]), rtol=1e-6
        )


def test_an_indefinite_gram_matrix_is_refused():
    with pytest.raises(UserError, match="cannot be inverted"):
        inverse_factor(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))


def test_inputs_without_any_text_still_have_an_inverse():
    assert torch.equal(damped(torch.zeros(3, 3), 0.01), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 3, 4])
def test_joint_costs_are_what_refitting_loses(width):
    """Removing a group when all columns before it stay fixed, by least squares."""
    weight, x = layer(5, 11, 1)
    upper = inverse_factor(damped(x.T @ x, 1e-9))
    costs = joint_costs(weight, upper, width)
    for start in range(0, 11, width):
        stop = min(start + width, 11)
        kept = torch.ones(5, 11 - start, dtype=torch.bool)
        kept[:, : stop - start] = False
        tail = x[:, start:]
        after = torch.from_numpy(refit(weight[:, start:], tail, kept, 0))
        expected = (tail @ (after - weight[:, start:]).T).square().sum(0)
        torch.testing.assert_close(costs[:, start:stop].sum(1), expected, rtol=1e-5, atol=1e-8)


@given(st.integers(1, 9), st.integers(2, 14), st.integers(1, 4), st.integers(0, 10**6))
def test_joint_removal_is_least_squares_on_what_is_kept(outputs, inputs, together, seed):
    """Any mask in the first columns, rows that share masks, small and large chunks."""
    rng = np.random.default_rng(seed)
    weight, x = layer(outputs, inputs, seed)
    first = int(rng.integers(1, inputs))
    shared = rng.random((-(-outputs // together), first)) < rng.random()
    gone = torch.from_numpy(shared.repeat(together, 0)[:outputs])
    work = weight.clone()
    chunk, obs._CHUNK = obs._CHUNK, int(rng.choice([1, 50, 1 << 24]))
    try:
        remove_jointly(work, gone, inverse_factor(damped(x.T @ x, 0.01)), together)
    finally:
        obs._CHUNK = chunk
    kept = torch.ones(outputs, inputs, dtype=torch.bool)
    kept[:, :first] = ~gone
    np.testing.assert_allclose(work.numpy(), refit(weight, x, kept, 0.01), rtol=1e-6, atol=1e-8)
    assert not work[~kept].any()


@given(st.integers(0, 10**6))
def test_least_squares_is_numpys(seed):
    weight, x = layer(6, 10, seed)
    keep = torch.from_numpy(np.random.default_rng(seed).permutation(10) < 6)
    found = least_squares(weight, damped(x.T @ x, 0.01), keep)
    expected = refit(weight, x, keep.expand(6, 10), 0.01)[:, keep.numpy()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_the_error_is_that_of_the_outputs():
    weight, x = layer(6, 10, 3)
    after = weight * (torch.rand(6, 10) < 0.7)
    found = relative_error(weight, after, x.T @ x)
    assert found == pytest.approx(lost(weight, after, x), rel=1e-9)
    assert relative_error(weight, weight, x.T @ x) == 0
    assert relative_error(weight, after, torch.zeros(10, 10, dtype=torch.float64)) == 0


# what every method keeps to --------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(SOLVERS)),
    st.sampled_from(PATTERNS),
    st.integers(1, 37),
    st.integers(2, 41),
    st.floats(0, 1),
    st.sampled_from([5, 16, 128]),
)
def test_counts_are_exact_and_patterns_whole(name, pattern, outputs, inputs, share, block_size):
    """Ragged shapes too; under n:m every group holds at most n, and exactly n at full count."""
    weight, x = layer(outputs, inputs, outputs * 100 + inputs)
    units = weight_pattern(pattern, (outputs, inputs))
    count = units.capacity if ":" in pattern else int(share * units.capacity)
    options = {"block_size": block_size} if name in CORRECTING else {}
    before = weight.clone()
    pruned = SOLVERS[name](weight, x.T @ x, pattern, count, **options)
    assert torch.equal(weight, before)
    assert pruned.weight.dtype == weight.dtype
    assert not pruned.weight[~pruned.kept].any()
    assert torch.isfinite(pruned.weight).all()
    if ":" in pattern:
        n, m = map(int, pattern.split(":"))
        for start in range(0, inputs, m):
            group = pruned.kept[:, start : start + m]
            assert (group.sum(1) == min(n, group.shape[1])).all()
        return
    height, width = units.outputs, units.inputs
    corners = list(itertools.product(range(0, outputs, height), range(0, inputs, width)))
    blocks = [pruned.kept[o : o + height, i : i + width] for o, i in corners]
    assert all(block.all() or not block.any() for block in blocks)
    assert sum(not block.any() for block in blocks) == count


@pytest.mark.parametrize("name", ["magnitude", "wanda"])
def test_two_methods_leave_the_kept_weights_as_they_were(name):
    weight, x = layer(8, 12, 0)
    pruned = SOLVERS[name](weight.float(), (x.T @ x).float(), "weights", 40)
    assert torch.equal(pruned.weight, weight.float() * pruned.kept)


@pytest.mark.parametrize("name", CORRECTING)
def test_nothing_is_made_up_for_by_an_input_that_no_text_excites(name):
    weight, x = layer(8, 12, 0)
    x[:, 5] = 0
    pruned = SOLVERS[name](weight, x.T @ x, "weights", 30)
    unseen = pruned.kept[:, 5]
    assert torch.equal(pruned.weight[unseen, 5], weight[unseen, 5])
    assert not torch.equal(pruned.weight[:, 6], weight[:, 6] * pruned.kept[:, 6])


@pytest.mark.parametrize("name", ["wanda", "thanos"])
def test_an_input_that_no_text_excites_goes_first(name):
    weight, x = layer(8, 12, 0)
    x[:, 5] = 0
    pruned = SOLVERS[name](weight, x.T @ x, "weights", 8)
    assert not pruned.kept[:, 5].any()
    np.testing.assert_allclose(pruned.weight[pruned.kept], weight[pruned.kept], atol=1e-12)


# each method by its definition -----------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.77]))
def test_magnitude_is_a_sort(seed, share):
    weight, x = layer(7, 9, seed)
    pruned = magnitude(weight, x.T @ x, "weights", round(share * 63))
    order = np.argsort(np.abs(weight.numpy()).ravel())[: round(share * 63)]
    assert set(np.flatnonzero(~pruned.kept.numpy())) == set(order)


@given(st.integers(0, 10**6), st.integers(0, 8))
def test_wanda_is_its_one_line(seed, each):
    """Of every row, the lowest |W| times the norm of X."""
    weight, x = layer(7, 9, seed)
    pruned = wanda(weight, x.T @ x, "weights", 7 * each)
    score = np.abs(weight.numpy()) * np.linalg.norm(x.numpy(), axis=0)
    expected = np.ones((7, 9), dtype=bool)
    np.put_along_axis(expected, np.argsort(score, axis=1, kind="stable")[:, :each], False, axis=1)
    assert (pruned.kept.numpy() == expected).all()


def test_wanda_shares_out_what_does_not_divide():
    weight, x = layer(7, 9, 0)
    gone = (~wanda(weight, x.T @ x, "weights", 7 * 4 + 3).kept).sum(1)
    assert sorted(gone.tolist()) == [4, 4, 4, 4, 5, 5, 5]


def test_wandas_columns_are_those_of_least_energy():
    weight, x = layer(7, 9, 0)
    kept = wanda(weight, x.T @ x, "columns", 4).kept
    energy = (weight.numpy() ** 2).sum(0) * (x.numpy() ** 2).sum(0)
    assert set(np.flatnonzero(~kept.numpy()[0])) == set(np.argsort(energy)[:4])


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["weights", "2:4"]))
def test_sparsegpt_is_its_loop(seed, pattern):
    """The published loop over dense inverses of the trailing corners, one entry at a time."""
    outputs, inputs, size, share = 6, 16, 8, 0.5
    weight, x = layer(outputs, inputs, seed)
    pruned = sparsegpt(weight, x.T @ x, pattern, 48, block_size=size)
    hessian = damped(x.T @ x, 0.01).numpy()
    w, kept = weight.numpy().copy(), np.ones((outputs, inputs), dtype=bool)

    def cost(row: int, column: int, values: np.ndarray) -> float:
        return values[row, column] ** 2 / np.linalg.inv(hessian[column:, column:])[0, 0]

    for column in range(inputs):
        if pattern == "weights" and column % size == 0:
            entries = list(itertools.product(range(outputs), range(column, column + size)))
            entries.sort(key=lambda at: cost(*at, w))
            for row, j in entries[: int(share * len(entries))]:
                kept[row, j] = False
        if pattern == "2:4" and column % 4 == 0:
            for row in range(outputs):
                four = sorted(range(column, column + 4), key=lambda j, r=row: cost(r, j, w))
                kept[row, four[:2]] = False
        inverse = np.linalg.inv(hessian[column:, column:])
        for row in np.flatnonzero(~kept[:, column]):
            w[row, column:] -= w[row, column] / inverse[0, 0] * inverse[0]
            w[row, column] = 0
    assert (pruned.kept.numpy() == kept).all()
    np.testing.assert_allclose(pruned.weight.numpy(), w, rtol=1e-6, atol=1e-9)


def test_sparsegpt_of_one_weight_is_its_closed_form():
    """[w1, w2] without w1 is [0, w2 + w1 h12 / h22]."""
    weight, x = layer(1, 2, 5)
    weight[0, 0] = 1e-3
    pruned = sparsegpt(weight, x.T @ x, "weights", 1)
    h = damped(x.T @ x, 0.01)
    assert float(pruned.weight[0, 0]) == 0
    expected = weight[0, 1] + weight[0, 0] * h[0, 1] / h[1, 1]
    assert float(pruned.weight[0, 1]) == pytest.approx(float(expected))


@given(st.integers(0, 10**6), st.sampled_from(PATTERNS))
def test_thanos_in_one_block_is_least_squares(seed, pattern):
    weight, x = layer(20, 18, seed)
    count = weight_pattern(pattern, (20, 18)).capacity
    pruned = thanos(
        weight, x.T @ x, pattern, count if ":" in pattern else count // 2, block_size=24
    )
    expected = refit(weight, x, pruned.kept, 0.01)
    np.testing.assert_allclose(pruned.weight.numpy(), expected, rtol=1e-5, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_thanos_is_its_loop(seed):
    """Masks chosen anew over all columns left, each block's rows refitted one by one."""
    outputs, inputs, size, count = 6, 16, 5, 50
    weight, x = layer(outputs, inputs, seed)
    pruned = thanos(weight, x.T @ x, "weights", count, block_size=size)
    hessian, norms = damped(x.T @ x, 0.01).numpy(), np.linalg.norm(x.numpy(), axis=0)
    w, kept, left = weight.numpy().copy(), np.ones((outputs, inputs), dtype=bool), count
    for start in range(0, inputs, size):
        score = (np.abs(w) * norms)[:, start:]
        lowest = np.argsort(score.ravel(), kind="stable")[:left]
        mask = np.zeros(score.size, dtype=bool)
        mask[lowest] = True
        mask = mask.reshape(score.shape)[:, :size]
        left -= int(mask.sum())
        inverse = np.linalg.inv(hessian[start:, start:])
        for row in range(outputs):
            q = np.flatnonzero(mask[row])
            w[row, start:] -= w[row, start + q] @ np.linalg.inv(inverse[np.ix_(q, q)]) @ inverse[q]
            w[row, start + q] = 0
            kept[row, start + q] = False
    assert (pruned.kept.numpy() == kept).all()
    np.testing.assert_allclose(pruned.weight.numpy(), w, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 10**6), st.sampled_from(PATTERNS[:-1]))
def test_joint_is_never_worse_than_column_after_column(seed, pattern):
    """On SparseGPT's own mask, in one block: the joint optimum."""
    weight, x = layer(16, 20, seed)
    count = weight_pattern(pattern, (16, 20)).capacity
    gram = x.T @ x
    found = sparsegpt(weight, gram, pattern, count if ":" in pattern else count // 2, 20, 1e-6)
    joint = weight.clone()
    remove_jointly(joint, ~found.kept, inverse_factor(damped(gram, 1e-6)))
    assert lost(weight, joint, x) <= lost(weight, found.weight, x) * (1 + 1e-6)


@pytest.mark.parametrize("pattern", ["weights", "2:4", "4x1", "4x16"])
def test_the_order_of_the_methods(pattern):
    """Mean over layers: correction beats none, looking at inputs beats not, jointly is best."""
    errors = dict.fromkeys(SOLVERS, 0.0)
    for seed in range(4):
        weight, x = layer(32, 64, seed)
        count = weight_pattern(pattern, (32, 64)).units // 2
        for name, solve in SOLVERS.items():
            options = {"block_size": 16} if name in CORRECTING else {}
            pruned = solve(weight, x.T @ x, pattern, count, **options)
            errors[name] += lost(weight, pruned.weight, x)
    assert errors["wanda"] < errors["magnitude"]
    assert errors["sparsegpt"] < 0.8 * errors["wanda"]
    assert errors["thanos"] < 0.8 * errors["wanda"]


# columns and rows that stay dense --------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.25]), st.sampled_from([2, 5]))
def test_columns_leave_but_for_outlier_rows(seed, alpha, count):
    """The published structured rule: rows by output energy, ceil(count / (1 - alpha)) columns."""
    weight, x = layer(20, 18, seed)
    weight[3] *= 10
    pruned = thanos(weight, x.T @ x, "columns", count, outlier_rows=alpha)
    energy = np.linalg.norm(x.numpy() @ weight.numpy().T, axis=0)
    dense = np.argsort(-energy)[: math.ceil(alpha * 20)]
    assert 3 in dense
    assert pruned.kept[dense].all()
    assert torch.equal(pruned.weight[dense], weight[dense])
    rest = np.setdiff1d(np.arange(20), dense)
    columns = (weight.numpy()[rest] ** 2).sum(0) * (x.numpy() ** 2).sum(0)
    gone = np.argsort(columns)[: math.ceil(count * 20 / len(rest))]
    assert set(np.flatnonzero(~pruned.kept[rest].all(0).numpy())) == set(gone)
    assert int((~pruned.kept).sum()) >= 20 * count
    np.testing.assert_allclose(pruned.weight, refit(weight, x, pruned.kept, 0.01), atol=1e-8)


def test_n_m_with_outlier_rows_keeps_them_whole():
    weight, x = layer(20, 16, 0)
    pruned = thanos(weight, x.T @ x, "2:4", 160, outlier_rows=0.25)
    assert sorted(pruned.kept.sum(1).tolist()) == [8] * 15 + [16] * 5


def test_too_many_outlier_rows_are_refused():
    weight, x = layer(10, 8, 0)
    with pytest.raises(UserError, match="columns cannot leave"):
        thanos(weight, x.T @ x, "columns", 6, outlier_rows=0.5)


@given(st.integers(0, 10**6))
def test_columns_do_not_depend_on_their_order(seed):
    weight, x = layer(9, 12, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(12))
    there = thanos(weight, x.T @ x, "columns", 5)
    moved = x[:, order]
    back = thanos(weight[:, order], moved.T @ moved, "columns", 5)
    assert torch.equal(there.kept[:, order], back.kept)
    torch.testing.assert_close(there.weight[:, order], back.weight)
