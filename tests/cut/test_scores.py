"""Scores against autograd and plain numpy; choices against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.cut.scores import (
    Fisher,
    Flap,
    Moments,
    ProbePruning,
    TaylorAbs,
    Tenp,
    WeightActivation,
    allocate,
    magnitude,
    select,
)
from edgeprune.errors import UserError

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
    fisher, taylor, tenp = Fisher(units, size), TaylorAbs(units, size), Tenp(w, size)
    flap, probe, wa = Flap(units, size), ProbePruning(units, size), WeightActivation(units, size)
    for part in (slice(0, 1), slice(1, None)):
        fisher.add(h[part], g[part])
        taylor.add((h[part], g[part]))
        for score in (flap, probe, wa, tenp):
            score.add(h[part])
    return {
        "fisher": fisher.finish(),
        "taylor_abs": taylor.finish(),
        "tenp": tenp.finish(),
        "flap": flap.finish(w),
        "pp": probe.finish(w),
        "wa": wa.finish(w),
    }


NAMES = ["fisher", "taylor_abs", "tenp", "flap", "pp", "wa"]


def test_scores_are_their_formulas():
    h, g, w = batch()
    got = all_scores(h, g, w)
    a, b, m = (t.double().numpy() for t in (h, g, w))
    flat = a.reshape(-1, UNITS)
    y = flat @ m.T
    share = np.abs(flat * (y @ m)) / (y**2).sum(1, keepdims=True)
    expected = {
        "fisher": ((a * b).sum(1) ** 2).sum(0),
        "taylor_abs": np.abs(a * b).mean((0, 1)),
        "tenp": share.mean(0),
        "flap": flat.var(0) * (m**2).sum(0),
        "pp": np.linalg.norm((flat**2).mean(0) * m**2, axis=0),
        "wa": np.linalg.norm(flat, axis=0) * np.abs(m).sum(0),
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


def test_taylor_averages_its_places():
    h, g, _ = batch()
    up, gate = batch(seed=1)[:2], batch(seed=2)[:2]
    score = TaylorAbs(UNITS)
    score.add((h, g), up, gate)
    expected = torch.stack([(a * b).abs().mean((0, 1)) for a, b in ((h, g), up, gate)]).mean(0)
    torch.testing.assert_close(score.finish(), expected.double())


def test_tenp_is_one_for_a_unit_that_makes_the_whole_output():
    """Orthogonal outputs: a unit's share is its part of the squared output norm; they sum to 1."""
    h, _, _ = batch(3)
    score = Tenp(torch.eye(3))
    score.add(h)
    flat = h.reshape(-1, 3).double()
    expected = (flat**2 / (flat**2).sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(score.finish(), expected)
    assert float(score.finish().sum()) == pytest.approx(1)
    single = Tenp(torch.randn(OUT, 1))
    single.add(h[..., :1])
    assert float(single.finish()) == pytest.approx(1)


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


def test_two_half_channels_have_half_the_wa_each():
    """Duplicating a channel with half its output weights keeps the output and halves `wa`."""
    h, g, w = batch()
    twice = torch.cat([h, h[..., :1]], dim=-1)
    halves = torch.cat([w, w[:, :1] / 2], dim=1)
    halves[:, 0] /= 2
    torch.testing.assert_close(twice @ halves.T, h @ w.T)
    before = all_scores(h, g, w)["wa"]
    after = all_scores(twice, torch.cat([g, g[..., :1]], dim=-1), halves)["wa"]
    torch.testing.assert_close(after[[0, -1]], before[[0, 0]] / 2)
    torch.testing.assert_close(after[1:-1], before[1:])


def test_heads_sum_their_columns():
    h, g, w = batch(6)
    flap, single = all_scores(h, g, w, 3)["flap"], all_scores(h, g, w)["flap"]
    torch.testing.assert_close(flap, single.reshape(2, 3).sum(1))
    tenp = all_scores(h, g, w, 6)["tenp"]  # one unit makes the whole output
    assert float(tenp) == pytest.approx(1)


def test_moments_do_not_depend_on_the_batches():
    values = torch.randn(50, 3, dtype=torch.float64) * 0.01 + 1000
    moments = Moments(3)
    for part in values.split([1, 7, 0, 42]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean.numpy(), values.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), values.numpy().var(0), rtol=1e-8)


def test_flap_keeps_the_mean_output_and_scores_what_is_left():
    h, _, w = batch()
    flap = Flap(UNITS)
    flap.add(h)
    kept = torch.tensor([True, False, True, True, False, True])
    flat, weight = h.reshape(-1, UNITS).double(), w.double()
    full = flat @ weight.T
    cut = flat[:, kept] @ weight[:, kept].T + flap.compensation(w, kept)
    torch.testing.assert_close(cut.mean(0), full.mean(0))
    alone = torch.ones(UNITS, dtype=torch.bool)
    alone[1] = False  # one channel gone: the squared error left is its score
    cut = flat[:, alone] @ weight[:, alone].T + flap.compensation(w, alone)
    left = (cut - full).square().sum(1).mean()
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


@settings(deadline=None)
@given(st.sampled_from(["global", "uniform", "coverage"]), st.integers(24, 192))
def test_select_in_multiples(policy, total):
    generator = torch.Generator().manual_seed(total)
    scores = [torch.rand(64, generator=generator) * (i + 1) for i in range(3)]
    counts = [int(mask.sum()) for mask in select(scores, total, 8, policy, 8)]
    assert sum(counts) == total // 8 * 8
    assert all(count % 8 == 0 and count >= 8 for count in counts)


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


def test_scores_of_different_scales_are_not_thresholded_together():
    scores = [torch.rand(8), torch.rand(8) * 1000]
    with pytest.raises(UserError, match="flap scores differ in scale"):
        select(scores, 8, score="flap")
    assert allocate(scores, 8, score="fisher") == [1, 7]  # meant: the loss says so
    small = allocate(scores, 8, score="flap", normalize=True)
    assert 2 <= small[0] <= 6
    assert allocate(scores, 8, policy="uniform", score="flap") == [4, 4]


def test_impossible_choices_are_refused():
    with pytest.raises(UserError, match="cannot keep 1 of 8"):
        select([torch.rand(4), torch.rand(4)], 1)
    with pytest.raises(UserError, match="cannot keep 9 of 8"):
        select([torch.rand(4), torch.rand(4)], 9)
    with pytest.raises(UserError, match="layer 1 are not all finite"):
        select([torch.rand(4), torch.tensor([1.0, float("nan")])], 3)
    with pytest.raises(UserError, match="must not be negative"):
        select([torch.rand(4), torch.tensor([1.0, -1.0])], 3, policy="coverage")
