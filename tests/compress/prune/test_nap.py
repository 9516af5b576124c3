"""One global ranking: curvature beside autograd, choices beside a sort, corrections by ridge."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.curvature import Factors, fisher, fisher_costs, kfac, kfac_costs
from edgeprune.compress.maths.obs import damped, remove_in_blocks
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.prune import nap
from edgeprune.compress.prune.nap import choose, goal, prune
from edgeprune.compress.prune.oneshot_settings import GlobalSettings
from edgeprune.compress.prune.patterns import weight_pattern
from edgeprune.model.forward import tensors
from edgeprune.model.model import Model
from edgeprune.model.store import load_masks, load_model
from edgeprune.text.batches import Batch

FAMILIES = ("bert", "llama", "classifier", "opt", "opt-norms-after")


def batches_of(count: int = 2, rows: int = 3) -> list[Batch]:
    made = [make_batch(rows=rows, tokens=9 + i, seed=i) for i in range(count)]
    return [Batch(b["input_ids"].numpy(), b["attention_mask"].numpy()) for b in made]


# curvature -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_fisher_is_the_square_of_each_sequences_gradient(family, tmp_path):
    """Batches of one sequence, whose weight gradients torch takes itself."""
    model, batches = make_model(family, tmp_path), batches_of(3, rows=1)
    found = fisher(model, batches, seed=4)
    names = list(model.anatomy.block_linears())
    generator = torch.Generator().manual_seed(4)
    expected = dict.fromkeys(names, 0)
    for batch in batches:
        weights = [model.linear(name).weight.requires_grad_() for name in names]
        loss = objective_of(model).probe(model.run(batch), batch, generator)
        for name, gradient in zip(names, torch.autograd.grad(loss, weights), strict=True):
            expected[name] = expected[name] + gradient.square()
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-7)


def test_sequences_of_a_batch_stand_by_themselves(tmp_path):
    """A batch of three sequences gives what three batches of one give; padding adds nothing."""
    model, (batch,) = make_model("llama", tmp_path), batches_of(1, rows=3)
    singles = []
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        real = mask.astype(bool)
        singles.append(Batch(ids[real][None], mask[real][None]))
    # The probe's loss of a decoder is a mean over tokens times sequences: equal lengths here.
    equal = [Batch(b.input_ids[:, :7], b.attention_mask[:, :7]) for b in singles]
    together = Batch(
        np.concatenate([b.input_ids for b in equal]),
        np.concatenate([b.attention_mask for b in equal]),
    )
    ours, theirs = fisher(model, [together], 0), fisher(model, equal, 0)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_of_inputs_and_gradients(family, tmp_path):
    """Beside inputs and gradients that torch itself kept in a plain run."""
    model = make_model(family, tmp_path)
    ids = np.array([[7, 9, 11, 6]])
    batch = Batch(ids, np.ones_like(ids))
    found = kfac(model, [batch], seed=1)
    reads: dict[str, torch.Tensor] = {}
    writes: dict[str, torch.Tensor] = {}
    for name in found:

        def keep(_m, args, out, name=name):
            reads[name] = args[0].detach()
            out.requires_grad_().retain_grad() if out.is_leaf else out.retain_grad()
            writes[name] = out

        model.linear(name).register_forward_hook(keep)
    word = model.module.get_submodule(model.anatomy.embeddings["word"])
    word.register_forward_hook(lambda _m, _a, out: out.detach().requires_grad_())
    generator = torch.Generator().manual_seed(1)
    objective_of(model).probe(model.run(batch), batch, generator).backward()
    for name, factors in found.items():
        a, g = reads[name].flatten(0, -2), writes[name].grad.flatten(0, -2)
        torch.testing.assert_close(factors.inputs, a.T @ a / 4, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(factors.outputs, g.T @ g, rtol=1e-3, atol=1e-7)


def test_the_model_is_left_as_it_was(tmp_path):
    model = make_model("bert", tmp_path)
    for parameter in model.module.parameters():
        parameter.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    kfac(model, batches_of(), 0)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    assert not any(m._forward_hooks for m in model.module.modules())


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_kfac_costs_are_optimal_brain_surgeons(seed, outputs, inputs):
    """1/2 w^2 / inv(H)_qq with H the whole Kronecker product, inverted at once."""
    rng = np.random.default_rng(seed)
    a, g = (rng.standard_normal((n, 3 * n)) for n in (inputs, outputs))
    weight = rng.standard_normal((outputs, inputs))
    factors = Factors(torch.from_numpy(a @ a.T), torch.from_numpy(g @ g.T))
    found = kfac_costs(torch.from_numpy(weight), factors, 0.05)
    ridge = [x @ x.T + 0.05 * np.diag(x @ x.T).mean() * np.eye(len(x)) for x in (g, a)]
    inverse = np.linalg.inv(np.kron(*ridge))
    expected = weight.ravel() ** 2 / np.diag(inverse) / 2
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=1e-7)


def test_fisher_costs_are_optimal_brain_damages():
    weight, information = torch.tensor([[2.0, -1.0]]), torch.tensor([[3.0, 0.5]])
    assert fisher_costs(weight, information).tolist() == [[6.0, 0.25]]


# the choice ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["weights", "4x1", "2:4"]), st.floats(0.1, 0.6))
def test_the_cheapest_go_within_their_limits(seed, pattern, share):
    rng = np.random.default_rng(seed)
    shapes = {"a": (6, 8), "b": (3, 16), "c": (10, 4)}
    patterns = {name: weight_pattern(pattern, shape) for name, shape in shapes.items()}
    costs = {
        name: torch.from_numpy(rng.exponential(10.0 ** rng.integers(-2, 3), units.units))
        for name, units in patterns.items()
    }
    none = {name: torch.zeros(units.units, dtype=torch.bool) for name, units in patterns.items()}
    limit = 0.8
    every = sum(units.units for units in patterns.values())
    total = round(share * every) if pattern != "2:4" else every // 2
    limits = {
        name: units.capacity if pattern == "2:4" else math.floor(limit * units.units)
        for name, units in patterns.items()
    }
    half = choose(costs, patterns, none, total // 2, limits)
    gone = choose(costs, patterns, half, total, limits)
    assert sum(int(mask.sum()) for mask in gone.values()) == total
    for name, mask in gone.items():
        assert bool((mask | ~half[name]).all())  # nothing comes back
        if pattern == "2:4":
            assert bool((mask.reshape(-1, 4).sum(1) == 2).all())
            continue
        assert int(mask.sum()) <= limits[name]
    if pattern != "2:4":
        kept_open = [
            float(costs[n][~gone[n]].min())
            for n in gone
            if int(gone[n].sum()) < math.floor(limit * gone[n].numel())
        ]
        dearest = max(float(costs[n][gone[n]].max()) for n in gone if gone[n].any())
        assert dearest <= min(kept_open)


@given(st.floats(0, 0.99), st.integers(1, 9))
def test_every_round_takes_the_same_share_of_what_is_left(sparsity, rounds):
    left = [1 - sparsity * nap.part_gone(sparsity, n, rounds) for n in range(rounds + 1)]
    assert left[0] == 1
    assert left[-1] == pytest.approx(1 - sparsity)
    kept = (1 - sparsity) ** (1 / rounds)
    for before, after in itertools.pairwise(left):
        assert after == pytest.approx(kept * before)


def test_no_linear_is_emptied_beyond_its_limit():
    patterns = {"a": weight_pattern("weights", (2, 5))}
    none = {"a": torch.zeros(10, dtype=torch.bool)}
    with pytest.raises(UserError, match="10 units should go and max_layer_sparsity lets 9"):
        choose({"a": torch.rand(10)}, patterns, none, 10, {"a": 9})


def test_a_linear_that_changes_nothing_costs_nothing():
    weight = torch.randn(4, 6)
    idle = Factors(torch.eye(6), torch.zeros(4, 4))
    assert not kfac_costs(weight, idle, 0.01).any()


def test_a_limit_that_is_the_share_leaves_room(tmp_path):
    """Floors of 95 % of each linear come to less than 95 % of all."""
    model = make_model("bert", tmp_path)
    chosen = GlobalSettings(sparsity=0.95, rounds=1)
    assert chosen.max_layer_sparsity == chosen.sparsity
    _, layers = prune(model, batches_of(), chosen, 0)
    weights = sum(layer.weights for layer in layers.values())
    assert sum(layer.removed for layer in layers.values()) == round(0.95 * weights)
    assert all(layer.removed <= math.ceil(0.95 * layer.weights) for layer in layers.values())


# correction and whole models -------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 12]))
@settings(max_examples=20)
def test_one_block_is_ridge_regression(seed, together):
    rng = np.random.default_rng(seed)
    weight, x = rng.standard_normal((8, 12)), rng.standard_normal((40, 12))
    gone = torch.from_numpy(np.repeat(rng.random((8 // together + 1, 12)) < 0.5, together, 0)[:8])
    hessian = damped(torch.from_numpy(x.T @ x), 0.02)
    found = remove_in_blocks(torch.from_numpy(weight), gone, hessian, 12, 1, together)
    more = np.vstack([x, math.sqrt(0.02 * (x**2).sum(0).mean()) * np.eye(12)])
    for row in range(8):
        keep = ~gone[row].numpy()
        expected = np.linalg.lstsq(more[:, keep], more @ weight[row], rcond=None)[0]
        np.testing.assert_allclose(found[row].numpy()[keep], expected, rtol=1e-6, atol=1e-8)
        assert not found[row].numpy()[~keep].any()


@pytest.mark.parametrize(
    ("family", "pattern", "curvature"),
    [
        ("bert", "weights", "fisher"),
        ("bert", "2:4", "kfac"),
        ("llama", "weights", "kfac"),
        ("llama", "4x1", "fisher"),
        ("opt", "weights", "kfac"),
    ],
)
def test_a_model_loses_exactly_its_share(family, pattern, curvature, tmp_path):
    model = make_model(family, tmp_path)
    chosen = GlobalSettings(pattern=pattern, curvature=curvature, rounds=2)
    patterns = {
        name: weight_pattern(pattern, model.anatomy.shape(name))
        for name in model.anatomy.block_linears()
    }
    gone, layers = prune(model, batches_of(), chosen, 0)
    units = {n: int(patterns[n].unit_scores(gone[n].double()).sum().round()) for n in gone}
    assert sum(units.values()) == goal(patterns, chosen)
    for name, mask in gone.items():
        assert not model.linear(name).weight[mask].any()
        assert layers[name].removed == int(mask.sum())
    if pattern == "weights":  # shares follow from the ranking
        assert len({round(int(m.sum()) / m.numel(), 3) for m in gone.values()}) > 3


def probe_distance(model: Model, original: Model, batches: list[Batch]) -> float:
    total = 0.0
    for batch in batches:
        with torch.no_grad():
            ours, its = (
                m.module(**tensors(batch)).logits.log_softmax(-1) for m in (model, original)
            )
        total += float((its.exp() * (its - ours)).sum())
    return total


def test_correction_and_rounds_help(tmp_path):
    """KL from the original of text that was not seen."""
    original = make_model("llama", tmp_path)
    text = [
        Batch(b["input_ids"].numpy(), b["attention_mask"].numpy())
        for b in (make_batch(rows=16, tokens=24, seed=seed) for seed in range(6))
    ]
    far = {}
    for name, values in {"plain": {"correct": False, "rounds": 1}, "whole": {}}.items():
        model = make_model("llama", tmp_path)
        prune(model, text[:4], GlobalSettings(**values), 0)
        far[name] = probe_distance(model, original, text[4:])
    assert far["whole"] < 0.9 * far["plain"]


def test_the_stage_writes_masks_that_hold(tmp_path):
    make_model("bert", tmp_path / "in", unequal=False)

    class FakeBuild:
        seed = 0

        def calibration(self, sequences: int, together: int | None = None) -> list[Batch]:
            assert sequences == 32
            return batches_of()

    result = nap.run(FakeBuild(), tmp_path / "in", tmp_path / "out", GlobalSettings(sparsity=0.6))
    model, masks = load_model(tmp_path / "out"), load_masks(tmp_path / "out")
    assert set(masks) == set(model.anatomy.block_linears())
    assert result["removed"] == sum(int((m == 0).sum()) for m in masks.values())
    assert result["removed"] == round(0.6 * result["weights"])
    for name, mask in masks.items():
        assert not model.linear(name).weight[mask == 0].any()
