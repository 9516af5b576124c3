"""Allocators: signals beside closed forms, exact budgets, and what each does to whole models."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.walk import Walk, input_groups
from edgeprune.compress.prune import absorption
from edgeprune.compress.prune.absorption import amplification, corrected
from edgeprune.compress.prune.allocate import Dense, allocate, ratios, uniform_counts
from edgeprune.compress.prune.allocate_settings import (
    ALLOCATORS,
    Absorption,
    Depth,
    MarchenkoPastur,
    Owl,
)
from edgeprune.compress.prune.marchenko_pastur import _interpolate, _law, fit_bulk
from edgeprune.compress.prune.methods import METHODS
from edgeprune.compress.prune.outliers import (
    coverage_curve,
    equal_coverage,
    outlier_share,
    spread_out,
)
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.model.model import Model
from edgeprune.pipeline.recipe import validate
from edgeprune.text.batches import Batch


def batches_of(count: int = 3) -> list[Batch]:
    made = [make_batch(rows=3 + i, tokens=9 + i, seed=i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


def energies(model: Model) -> dict[str, torch.Tensor]:
    """Squared input norms in plain runs of the whole model."""
    found: dict[str, torch.Tensor] = {}
    for name in model.anatomy.block_linears():
        total = 0
        for batch in batches_of():
            mask = torch.from_numpy(batch.attention_mask)
            seen = []
            handle = model.linear(name).register_forward_pre_hook(
                lambda _m, args, seen=seen: seen.append(args[0])
            )
            with torch.no_grad():
                model.module(input_ids=torch.from_numpy(batch.input_ids), attention_mask=mask)
            handle.remove()
            total = total + seen[0][mask.bool()].double().square().sum(0)
        found[name] = total
    return found


# every allocator -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ALLOCATORS)
@pytest.mark.parametrize(("family", "pattern"), [("bert", "4x16"), ("llama", "weights")])
def test_the_budget_is_exact_and_the_model_as_it_was(family, pattern, by, tmp_path):
    model = make_model(family, tmp_path)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    walk = Walk(model, batches_of())
    entered = [hidden.clone() for hidden in walk.hidden]
    counts = allocate(model, walk, pattern, 0.6, ALLOCATORS[by]())
    units = {
        name: weight_pattern(pattern, model.anatomy.shape(name)).units
        for name in model.anatomy.block_linears()
    }
    assert list(counts) == list(units)
    assert sum(counts.values()) == round(0.6 * sum(units.values()))
    assert all(0 <= counts[name] <= units[name] for name in units)
    if by not in ("uniform", "marchenko-pastur") and pattern == "weights":
        assert counts != uniform_counts(model, pattern, 0.6)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    for hidden, known in zip(walk.hidden, entered, strict=True):
        assert torch.equal(hidden, known)


def test_pruning_follows_the_allocation(tmp_path):
    from edgeprune.compress.prune.oneshot import run

    make_model("llama", tmp_path / "in", unequal=False)

    class FakeBuild:
        def calibration(self, sequences: int, together: int | None = None) -> list[Batch]:
            return batches_of()

    chosen = {"by": "depth", "slope": 0.2}
    result = run(
        FakeBuild(),
        tmp_path / "in",
        tmp_path / "out",
        METHODS["wanda"].settings(allocate=chosen, sparsity=0.5),
    )
    shares: dict[str, list[int]] = {"0": [0, 0], "1": [0, 0]}
    for name, layer in result["layers"].items():
        block = name.split("layers.")[1][0]
        shares[block][0] += layer["removed"]
        shares[block][1] += layer["weights"]
    first, second = (removed / weights for removed, weights in shares.values())
    assert first == pytest.approx(0.7, abs=1e-3)
    assert second == pytest.approx(0.3, abs=1e-3)


# OWL and its version by projection -------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(0.01, 0.4))
def test_keep_ratios_span_twice_the_spread(values, spread):
    found = np.array(spread_out(values, spread))
    assert found.mean() == pytest.approx(0, abs=1e-9)
    if max(values) - min(values) > 1e-6:
        assert found.max() - found.min() == pytest.approx(2 * spread)
        assert (np.diff(found[np.argsort(values)]) >= 0).all()


def test_outliers_are_counted_against_the_mean():
    scores = torch.tensor([1.0] * 98 + [50.0, 60.0])  # mean 2.08
    assert outlier_share(lambda: [scores], 5.0) == 0.02
    assert outlier_share(lambda: [scores], 25.0) == 0.01
    assert outlier_share(lambda: [torch.zeros(5)], 5.0) == 0
    # Two tensors have one mean, here 20.6: by their own, 2.08 and 50, none of the fifties is large.
    both = [scores, torch.full((50,), 50.0), scores]
    assert outlier_share(lambda: iter(both), 2.0) == 54 / 250


@pytest.mark.parametrize("by", ["owl", "projection"])
def test_owl_is_its_formula(by, tmp_path):
    """Shares of |W| ||X|| beyond M times the mean of the block or linear, scaled to the spread."""
    model = make_model("llama", tmp_path)
    how = ALLOCATORS[by](factor=2.0)
    dense = Dense(model, Walk(model, batches_of()), "weights", 0.5)
    found = ratios(dense, how)
    energy = energies(model)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name in dense.names:
        score = model.linear(name).weight.detach().abs().double() * energy[name].sqrt()
        group = name if by == "projection" else name.split("layers.")[1][0]
        groups.setdefault(group, {})[name] = score.flatten()
    pooled = {group: torch.cat(list(scores.values())) for group, scores in groups.items()}
    shares = {g: float((s > 2 * s.mean()).double().mean()) for g, s in pooled.items()}
    low, high = min(shares.values()), max(shares.values())
    wished = {g: (share - low) / (high - low) * 0.16 for g, share in shares.items()}
    mean = np.mean(list(wished.values()))
    expected = {name: wished[g] - mean for g, members in groups.items() for name in members}
    np.testing.assert_allclose(found, [expected[name] for name in dense.names], atol=1e-6)


def test_a_block_of_outliers_keeps_more(tmp_path):
    model = make_model("llama", tmp_path, unequal=False)
    last = model.anatomy.blocks[1]
    for group in input_groups(last):
        for name in group:
            model.linear(name).weight.data[::7, ::5] *= 30
    counts = allocate(model, Walk(model, batches_of()), "weights", 0.5, Owl())
    first = model.anatomy.blocks[0]
    for ours, theirs in zip(input_groups(last), input_groups(first), strict=True):
        assert counts[ours[0]] < counts[theirs[0]]


# coverage --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 3000))
def test_a_coverage_curve_is_a_sorted_sum(seed, units):
    scores = torch.from_numpy(np.random.default_rng(seed).pareto(2, units))
    curve = coverage_curve(scores).numpy()
    exact = np.concatenate([[0], np.cumsum(np.sort(scores.numpy())[::-1])]) / float(scores.sum())
    grid = np.linspace(0, units, 1001)
    np.testing.assert_allclose(curve, np.interp(grid, np.arange(units + 1), exact), atol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_every_layer_keeps_the_same_share_of_its_scores(seed, keep):
    rng = np.random.default_rng(seed)
    layers = [torch.from_numpy(rng.pareto(rng.uniform(1, 5), n)) for n in (500, 1200, 300)]
    sizes = [len(layer) for layer in layers]
    found = equal_coverage([coverage_curve(layer) for layer in layers], sizes, keep)
    kept = sum(r * n for r, n in zip(found, sizes, strict=True))
    assert kept == pytest.approx(keep * sum(sizes), rel=1e-3)
    covered = [share_of(layer.numpy(), r) for layer, r in zip(layers, found, strict=True)]
    # The curves have 1,000 straight pieces, and where one holds several units it errs by one.
    largest = max(float(layer.max() / layer.sum()) for layer in layers)
    assert max(covered) - min(covered) < 0.002 + largest


def share_of(scores, kept):
    """The largest scores' share of the sum; of a unit that is kept in part, that part of it."""
    sums = np.concatenate([[0], np.cumsum(np.sort(scores)[::-1])])
    return np.interp(kept * len(scores), np.arange(len(sums)), sums) / sums[-1]


def test_equal_profiles_are_uniform():
    curve = coverage_curve(torch.rand(400, generator=torch.Generator().manual_seed(0)))
    found = equal_coverage(
        [curve, coverage_curve(torch.rand(400, generator=torch.Generator().manual_seed(0)) * 7)],
        [400, 400],
        0.3,
    )
    assert found == pytest.approx([0.3, 0.3], abs=1e-3)


def test_a_layer_without_scores_counts_its_units():
    assert coverage_curve(torch.zeros(10))[500] == pytest.approx(0.5)


# Marchenko-Pastur ------------------------------------------------------------------------------


def test_the_law_has_its_moments():
    """Of variance 1: mean 1, variance g, support between the edges."""
    for aspect in (0.05, 0.3, 1.0):
        points, cdf = _law(aspect)
        middle, weight = (points[1:] + points[:-1]) / 2, cdf.diff()
        mean = float((middle * weight).sum())
        assert mean == pytest.approx(1, abs=2e-3)
        assert float(((middle - mean) ** 2 * weight).sum()) == pytest.approx(aspect, abs=5e-3)
        assert float(points[0]) == pytest.approx((1 - math.sqrt(aspect)) ** 2, abs=1e-9)
        assert float(points[-1]) == pytest.approx((1 + math.sqrt(aspect)) ** 2)


@given(st.integers(0, 10**6), st.sampled_from([(120, 200), (200, 120), (150, 150)]))
@settings(max_examples=15)
def test_noise_is_found_to_be_noise(seed, shape):
    weight = 0.3 * torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    fit = fit_bulk(weight)
    assert math.sqrt(fit.variance) == pytest.approx(0.3, rel=0.02)
    assert fit.spikes <= 1  # the margin lets one in ten through
    assert fit.energy > 0.95
    assert fit.distance < 0.05


def test_planted_directions_are_found():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((120, 200))
    left = np.linalg.qr(rng.standard_normal((120, 5)))[0]
    right = np.linalg.qr(rng.standard_normal((200, 5)))[0]
    strength = 3 * (120 / 200) ** 0.25 * math.sqrt(200)  # three times the threshold of detection
    weight = torch.from_numpy(noise + strength * left @ right.T)
    fit = fit_bulk(weight)
    assert fit.spikes == 5
    assert math.sqrt(fit.variance) == pytest.approx(1, rel=0.03)
    values = np.linalg.svd(weight.numpy(), compute_uv=False) ** 2
    assert fit.energy == pytest.approx(1 - values[:5].sum() / values.sum())


@given(st.floats(1e-3, 1e3))
@settings(max_examples=10)
def test_a_fit_knows_neither_scale_nor_side(scale):
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 70)) ** 3)
    ours, theirs = fit_bulk(weight), fit_bulk((scale * weight).T)
    assert (ours.spikes, ours.energy) == (theirs.spikes, pytest.approx(theirs.energy))
    assert theirs.variance == pytest.approx(scale**2 * ours.variance)


def test_interpolation_is_numpys():
    xs, ys = torch.linspace(0, 1, 7).double() ** 2, torch.randn(7).double()
    x = torch.linspace(-0.5, 1.5, 41).double()
    np.testing.assert_allclose(_interpolate(x, xs, ys), np.interp(x, xs, ys), atol=1e-12)


def test_structure_keeps_more_than_noise(tmp_path):
    model = make_model("llama", tmp_path, unequal=False)
    names = list(model.anatomy.block_linears())
    special = names[3]
    weight = model.linear(special).weight.data
    weight += 3 * torch.outer(torch.randn(len(weight)), torch.randn(weight.shape[1]))
    counts = allocate(model, Walk(model, []), "weights", 0.5, MarchenkoPastur())
    shares = {name: counts[name] / model.linear(name).weight.numel() for name in names}
    assert shares[special] == min(shares.values())


# depth -----------------------------------------------------------------------------------------


def test_depth_is_a_line(tmp_path):
    model = make_model("bert", tmp_path, unequal=False)
    for slope in (0.1, -0.1):
        counts = allocate(model, Walk(model, []), "weights", 0.5, Depth(slope=slope))
        sums = [0, 0]
        for name, count in counts.items():
            sums[int(name.split("layer.")[1][0])] += count
        total = sum(model.linear(name).weight.numel() for name in counts) / 2
        assert sums[0] / total == pytest.approx(0.5 + slope, abs=1e-3)
        assert sums[1] / total == pytest.approx(0.5 - slope, abs=1e-3)


# absorption ------------------------------------------------------------------------------------


def test_strength_zero_is_the_base(tmp_path):
    model = make_model("llama", tmp_path)
    for base in ("owl", "coverage"):
        walk = Walk(model, batches_of())
        dense = Dense(model, walk, "weights", 0.5)
        assert ratios(dense, Absorption(base=base, strength=0)) == ratios(dense, ALLOCATORS[base]())


def test_equal_logs_change_nothing():
    assert corrected([0.1, 0.2, 0.3], [0.7, 0.7, 0.7], 0.05) == [0.1, 0.2, 0.3]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=9), st.floats(0.01, 0.1))
def test_a_correction_is_a_standardized_shift(logs, strength):
    found = np.array(corrected([0.5] * len(logs), logs, strength)) - 0.5
    if np.std(logs) > 1e-3:
        np.testing.assert_allclose(
            found, strength * (logs - np.mean(logs)) / np.std(logs), atol=1e-9
        )


def test_an_error_is_followed_to_the_end(tmp_path):
    """Beside whole runs with one block's weights pruned by hand."""
    model, batches = make_model("llama", tmp_path), batches_of()
    counts = uniform_counts(model, "weights", 0.5)
    found = amplification(model, Walk(model, batches), counts, "weights")
    blocks = model.anatomy.blocks

    def run() -> list[list[torch.Tensor]]:
        outputs: list[list[torch.Tensor]] = []
        for batch in batches:
            seen: list[torch.Tensor] = []
            handles = [
                model.module.get_submodule(b.name).register_forward_hook(
                    lambda _m, _a, out, seen=seen: seen.append(
                        (out[0] if isinstance(out, tuple) else out).detach()
                    )
                )
                for b in blocks
            ]
            with torch.no_grad():
                model.module(
                    input_ids=torch.from_numpy(batch.input_ids),
                    attention_mask=torch.from_numpy(batch.attention_mask),
                )
            for handle in handles:
                handle.remove()
            outputs.append(seen)
        return outputs

    def relative(ours: list[list[torch.Tensor]], its: list[list[torch.Tensor]], at: int) -> float:
        values: list[float] = []
        for a, b, batch in zip(ours, its, batches, strict=True):
            for row, column in zip(*np.nonzero(batch.attention_mask), strict=True):
                if column:
                    change = (a[at] - b[at])[row, column].norm()
                    values.append(float(change / b[at][row, column].norm()))
        return float(np.mean(values))

    dense = run()
    for block in blocks:
        before = {n: model.linear(n).weight.detach().clone() for n in counts}
        walk = Walk(model, batches)
        for earlier in blocks[: block.index]:
            walk.advance(earlier)
        for group in input_groups(block):
            energy = walk.energy(block, group[0])
            for name in group:
                weight = model.linear(name).weight.data
                pruned = absorption.wanda(weight, energy.diag(), "weights", counts[name])
                weight.copy_(pruned.weight)
        spoiled = run()
        for name, weight in before.items():
            model.linear(name).weight.data.copy_(weight)
        expected = math.log(relative(spoiled, dense, -1) / relative(spoiled, dense, block.index))
        assert found[block.index] == pytest.approx(expected, abs=1e-4)
    assert found[-1] == 0


# settings --------------------------------------------------------------------------------------


def test_an_allocator_has_a_name_or_settings():
    wanda = METHODS["wanda"].settings
    assert wanda(allocate="owl").allocate == Owl()
    assert wanda(allocate={"by": "owl", "spread": 0.2}).allocate == Owl(spread=0.2)
    assert wanda().allocate.by == "uniform"
    content = {"prune": {"method": "wanda", "allocate": {"by": "depth", "slope": 0.2}}}
    recipe = validate(content, "here")
    import yaml

    assert validate(yaml.safe_load(recipe.to_yaml()), "there") == recipe


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        (
            {"allocate": "owls"},
            r"prune\.allocate\.by: there is no allocator 'owls'; did you mean 'owl'",
        ),
        (
            {"allocate": {"by": "owl", "spred": 1}},
            r"'prune\.allocate\.spred'; did you mean 'spread'",
        ),
        ({"allocate": {"by": "owl", "spread": 2}}, r"prune\.allocate\.spread: .*less than 0\.5"),
        ({"allocate": "owl", "pattern": "2:4"}, "2:4 asks the same of every group"),
        ({"allocate": 7}, "there is no allocator '7'"),
    ],
)
def test_wrong_allocators_are_refused(prune, message):
    with pytest.raises(UserError, match=message):
        validate({"prune": {"method": "wanda", **prune}}, "here")
