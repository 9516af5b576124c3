"""Scores against autograd and plain numpy; choices against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.scores import (
    Fisher,
    Flap,
    Moments,
    ProbePruning,
    Taylor,
    allocate,
    magnitude,
    select,
)

UNITS, OUT, SAMPLES, TOKENS = 6, 5, 4, 7


def batch(columns: int = UNITS, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """h and g [samples, tokens, columns], weight [out, columns]."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(SAMPLES, TOKENS, columns, generator=generator) + 0.3
    g = torch.randn(SAMPLES, TOKENS, columns, generator=generator)
    return h, g, torch.randn(OUT, columns, generator=generator)


def all_scores(h: Tensor, g: Tensor, w: Tensor, size: int = 1) -> dict[str, Tensor]:
    """Every activation score, fed in two unequal batches."""
    units = h.shape[-1] // size
    fisher, taylor = Fisher(units, size), Taylor(units, size)
    flap, probe = Flap(units, size), ProbePruning(units, size)
    for part in (slice(0, 1), slice(1, None)):
        fisher.add(h[part], g[part])
        taylor.add(h[part], g[part])
        for score in (flap, probe):
            score.add(h[part])
    return {
        "fisher": fisher.finish(),
        "taylor": taylor.finish(),
        "flap": flap.finish(w),
        "probe_pruning": probe.finish(w),
    }


NAMES = ["fisher", "taylor", "flap", "probe_pruning"]


def test_scores_are_their_formulas():
    h, g, w = batch()
    got = all_scores(h, g, w)
    a, b, m = (t.double().numpy() for t in (h, g, w))
    flat = a.reshape(-1, UNITS)
    expected = {
        "fisher": ((a * b).sum(1) ** 2).sum(0),
        "taylor": np.abs(a * b).sum((0, 1)),
        "flap": flat.var(0) * (m**2).sum(0),
        "probe_pruning": np.linalg.norm((flat**2).mean(0) * m**2, axis=0),
    }
    for name in NAMES:
        np.testing.assert_allclose(got[name].numpy(), expected[name], rtol=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_fisher_is_the_squared_gradient_of_a_gate(size):
    """Autograd through a gate per unit, one sample at a time."""
    h, _, w = batch(UNITS)
    units = UNITS // size
    fisher, direct = Fisher(units, size), Fisher(units, size)
    expected = torch.zeros(units, dtype=torch.float64)
    for sample in h:
        gate = torch.ones(units, requires_grad=True)
        leaf = sample.clone().requires_grad_(True)
        loss = torch.tanh(leaf @ w.T).square().sum()
        (g,) = torch.autograd.grad(loss, leaf)
        fisher.add(sample, g)
        gated = torch.tanh((sample * gate.repeat_interleave(size)) @ w.T).square().sum()
        (slope,) = torch.autograd.grad(gated, gate)
        direct.add_gate_gradients(slope[None])
        expected += slope.double() ** 2
    torch.testing.assert_close(fisher.finish(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(direct.finish(), expected)


def test_magnitude_is_the_norm_of_all_weights_of_a_unit():
    generator = torch.Generator().manual_seed(0)
    up, bias, down = (
        torch.randn(*shape, generator=generator) for shape in ((6, 4), (6,), (OUT, 6))
    )
    rows = [torch.cat([up[i], bias[i : i + 1], down[:, i]]).norm() for i in range(6)]
    torch.testing.assert_close(magnitude([up, bias], [down]), torch.stack(rows).double())
    pairs = [torch.stack(rows[i : i + 2]).norm() for i in (0, 2, 4)]
    torch.testing.assert_close(magnitude([up, bias], [down], 2), torch.stack(pairs).double())


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_channel_scores_zero(name):
    h, g, w = batch()
    h[..., 2] = 0
    score = all_scores(h, g, w)[name]
    assert float(score[2]) == 0
    assert bool((score[[0, 1, 3, 4, 5]] > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_permuting_channels_permutes_scores(name):
    h, g, w = batch()
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(9))
    permuted = all_scores(h[..., order], g[..., order], w[:, order])[name]
    torch.testing.assert_close(permuted, all_scores(h, g, w)[name][order])


def test_heads_sum_their_columns():
    h, g, w = batch(6)
    flap, single = all_scores(h, g, w, 3)["flap"], all_scores(h, g, w)["flap"]
    torch.testing.assert_close(flap, single.reshape(2, 3).sum(1))


def test_moments_do_not_depend_on_the_batches():
    values = torch.randn(50, 3, dtype=torch.float64) * 0.01 + 1000
    moments = Moments(3)
    for part in values.split([1, 7, 0, 42]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean.numpy(), values.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), values.numpy().var(0), rtol=1e-8)


def test_flaps_score_is_what_a_units_mean_in_its_place_leaves():
    h, _, w = batch()
    flap = Flap(UNITS)
    flap.add(h)
    flat, weight = h.reshape(-1, UNITS).double(), w.double()
    constant = flat.clone()
    constant[:, 1] = flat[:, 1].mean()
    left = ((constant - flat) @ weight.T).square().sum(1).mean()
    assert float(left) == pytest.approx(float(flap.finish(w)[1]))


# choices ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=9), min_size=1, max_size=5),
    st.sampled_from(["global", "uniform", "coverage"]),
    st.data(),
)
def test_select_is_exact(rows, policy, data):
    scores = [torch.tensor(row, dtype=torch.float32) for row in rows]
    minimum = data.draw(st.integers(0, 2))
    total = data.draw(st.integers(minimum * len(rows), sum(map(len, rows))))
    masks = select(scores, total, minimum, policy)
    assert sum(int(mask.sum()) for mask in masks) == total
    for mask, score in zip(masks, scores, strict=True):
        assert int(mask.sum()) >= minimum
        if mask.any() and not mask.all():
            assert float(score[mask].min()) >= float(score[~mask].max())


@given(st.integers(0, 500), st.integers(3, 12))
@settings(deadline=None, max_examples=40)
def test_global_keeps_the_largest_sum_under_minimums(seed, total):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(4, generator=generator) * 4.0**i for i in range(3)]
    got = sum(float(s[m].sum()) for s, m in zip(scores, select(scores, total), strict=True))
    best = 0.0
    for counts in itertools.product(range(1, 5), repeat=3):
        if sum(counts) == total:
            best = max(best, sum(float(s.topk(c).values.sum()) for s, c in zip(scores, counts)))  # noqa: B905
    assert got == pytest.approx(best, rel=1e-6)


@given(st.integers(0, 500), st.integers(3, 12), st.booleans())
@settings(deadline=None, max_examples=200)
def test_coverage_makes_the_least_covered_layer_as_covered_as_can_be(seed, total, ties):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(4, generator=generator) ** (3 * i + 1) for i in range(3)]
    if ties:
        scores = [torch.randint(1, 4, (4,), generator=generator).double() for _ in range(3)]

    def least(counts) -> float:
        return min(
            float(s.topk(c).values.sum() / s.sum()) for s, c in zip(scores, counts, strict=True)
        )

    best = max(least(c) for c in itertools.product(range(1, 5), repeat=3) if sum(c) == total)
    assert least(allocate(scores, total, policy="coverage")) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("total", [30, 60, 75])
def test_equal_profiles_are_covered_uniformly(total):
    profile = torch.rand(40, generator=torch.Generator().manual_seed(0))
    scores = [profile, profile.flip(0) * 100, profile[torch.randperm(40)] * 1e-3]
    assert allocate(scores, total, policy="coverage") == [total // 3] * 3
    assert allocate(scores, total, policy="uniform") == [total // 3] * 3


def test_coverage_of_a_layer_without_scores_is_its_share_of_units():
    scores = [torch.zeros(20), torch.ones(20)]
    assert allocate(scores, 20, policy="coverage") == [10, 10]
    zeros = [torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0])]
    assert allocate(zeros, 6, policy="coverage") == [3, 3]


def test_uniform_is_the_same_share_of_each_layer():
    scores = [torch.rand(100), torch.rand(50), torch.rand(10)]
    assert allocate(scores, 80, policy="uniform") == [50, 25, 5]


def test_one_threshold_goes_by_the_scores_as_they_are():
    scores = [torch.rand(8), torch.rand(8) * 1000]
    assert allocate(scores, 8) == [1, 7]  # meant: the loss says so
    assert allocate(scores, 8, policy="uniform") == [4, 4]


def test_impossible_choices_are_refused():
    with pytest.raises(UserError, match="cannot keep 1 of 8"):
        select([torch.rand(4), torch.rand(4)], 1)
    with pytest.raises(UserError, match="cannot keep 9 of 8"):
        select([torch.rand(4), torch.rand(4)], 9)
    with pytest.raises(UserError, match="not all scores of layer 1 are finite"):
        select([torch.rand(4), torch.tensor([1.0, float("nan")])], 3)
    with pytest.raises(UserError, match="some are negative"):
        select([torch.rand(4), torch.tensor([1.0, -1.0])], 3, policy="coverage")
