"""One-shot scores beside brute force: gates by autograd text by text, numpy on what was run."""

import itertools

import numpy as np
import pytest
import torch
from calibration_batches import make_batches
from prospects import facts_of
from tiny_models import make_model
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.calibrate.gates import CHANNELS, HEADS, applied, make_gates
from edgeprune.compress.cut.collect import unit_scores
from edgeprune.compress.cut.row import CUT
from edgeprune.compress.cut.scores import select
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.stage import cut
from edgeprune.model.model import Model
from edgeprune.pipeline.recipe import Recipe
from edgeprune.text.batches import Batch

KINDS = (CHANNELS, HEADS)
# A task each; electra and mpnet add a narrow embedding and a shared position bias, albert layers
# that run again.
# gpt2's linears were taken apart when it was loaded; opt lays texts and tokens into one axis.
MODELS = ("bert", "electra", "mpnet", "albert", "classifier", "llama", "qwen3", "gpt2", "opt")


def model_and_batches(name: str, folder) -> tuple[Model, list[Batch]]:
    model = make_model(name, folder)  # layers already differ in size
    return model, make_batches(model.anatomy.causal)


def own_probe(model: Model, output, batch: Batch, row: int, drawn: Tensor) -> Tensor:
    """The probe of one text alone, written from its definition."""
    if model.task == "feature-extraction":
        hidden = output.last_hidden_state[0][torch.from_numpy(batch.attention_mask[row]) == 1]
        mean = hidden.mean(0)
        return (drawn[row] * mean / mean.norm()).sum()
    if model.task == "text-classification":
        return -output.logits[0].log_softmax(-1)[drawn[row]]
    target = torch.from_numpy(batch.input_ids[row])
    return functional.cross_entropy(output.logits[0, :-1], target[1:])


def draw(model: Model, batch: Batch, generator: torch.Generator) -> Tensor:
    """The random numbers that the batch as a whole draws."""
    rows = len(batch.input_ids)
    if model.task == "feature-extraction":
        return torch.randn(rows, 32, generator=generator)
    if model.task == "text-classification":
        with torch.no_grad():
            logits = model.module(**inputs(batch)).logits
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return torch.zeros(rows)


def inputs(batch: Batch, row: int | None = None) -> dict[str, Tensor]:
    rows = slice(None) if row is None else slice(row, row + 1)
    return {
        "input_ids": torch.from_numpy(batch.input_ids[rows]),
        "attention_mask": torch.from_numpy(batch.attention_mask[rows]),
    }


@pytest.mark.parametrize("name", MODELS)
def test_fisher_is_the_squared_gradient_of_explicit_gates(name, tmp_path):
    model, batches = model_and_batches(name, tmp_path)
    gates = [gate for kind in KINDS for gate in make_gates(model, kind)]
    units = [
        torch.arange(len(gate.value)) if gate.groups is None else gate.groups for gate in gates
    ]
    expected = [torch.zeros(int(of.max()) + 1, dtype=torch.float64) for of in units]
    generator = torch.Generator().manual_seed(5)
    for batch in batches:
        drawn = draw(model, batch, generator)
        for row in range(len(batch.input_ids)):
            with applied(model, gates):
                loss = own_probe(model, model.module(**inputs(batch, row)), batch, row, drawn)
            slopes = torch.autograd.grad(loss, [gate.value for gate in gates])
            for total, slope, of in zip(expected, slopes, units, strict=True):
                # One gate per place, as Fisher counts them; places that share a fate are added.
                total.index_add_(0, of, slope.double().square())
    found = unit_scores(model, batches, KINDS, "fisher", seed=5)
    got = [score for kind in KINDS for score in found[kind]]
    for mine, its in zip(got, expected, strict=True):
        assert float(its.max()) > 0
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5 * float(its.max()))


def captured_inputs(model: Model, batches: list[Batch]) -> dict[str, np.ndarray]:
    """What enters the linears that read the units, at real tokens only [tokens, columns]."""
    seen: dict[str, list[np.ndarray]] = {}
    for gate in (gate for kind in KINDS for gate in make_gates(model, kind)):
        linear = model.linear(gate.name)
        linear.register_forward_hook(
            lambda _m, args, _o, key=gate.name: seen.setdefault(key, []).append(
                args[0].detach().numpy()
            )
        )
    with torch.no_grad():
        for batch in batches:
            model.module(**inputs(batch))
    return {
        name: np.concatenate(
            [h[b.attention_mask == 1] for h, b in zip(parts, batches, strict=True)]
        ).astype(np.float64)
        for name, parts in seen.items()
    }


@pytest.mark.parametrize("score", ["flap", "probe_pruning"])
@pytest.mark.parametrize("name", ["bert", "llama", "llama-biased"])
def test_activation_scores_are_their_formulas(name, score, tmp_path):
    model, batches = model_and_batches(name, tmp_path)
    found = unit_scores(model, batches, KINDS, score, seed=0)
    seen = captured_inputs(model, batches)
    for kind in KINDS:
        for gate, got in zip(make_gates(model, kind), found[kind], strict=True):
            h, w = seen[gate.name], model.linear(gate.name).weight.detach().double().numpy()
            if score == "flap":  # about the mean where a bias can hold it, else about zero
                biased = model.linear(gate.name).bias is not None
                spread = h.var(0) if biased else (h**2).mean(0)
                columns = (spread * (w**2).sum(0)).reshape(-1, gate.unit_size).sum(1)
            else:
                energy = ((h**2).mean(0) * w**2) ** 2
                columns = np.sqrt(energy.sum(0).reshape(-1, gate.unit_size).sum(1))
            units = gate.groups.numpy() if gate.groups is not None else np.arange(len(columns))
            expected = np.zeros(units.max() + 1)
            np.add.at(expected, units, columns)
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_taylor_is_the_summed_effect_of_a_place(tmp_path):
    """One text without padding: |h g| by autograd at the gate's own place."""
    model, _ = model_and_batches("bert", tmp_path)
    batch = make_batches(windows=True)[1]
    found = unit_scores(model, [batch], [CHANNELS], "taylor", seed=2)[CHANNELS]
    drawn = draw(model, batch, torch.Generator().manual_seed(2))
    places: dict[str, Tensor] = {}
    gates = make_gates(model, CHANNELS)
    for gate in gates:
        model.linear(gate.name).register_forward_pre_hook(
            lambda _m, args, key=gate.name: places.__setitem__(key, args[0].requires_grad_())
        )
    output = model.module(**inputs(batch))
    hidden = output.last_hidden_state.mean(1)
    loss = (drawn * hidden / hidden.norm(dim=-1, keepdim=True)).sum()
    slopes = torch.autograd.grad(loss, [places[gate.name] for gate in gates])
    for gate, slope, got in zip(gates, slopes, found, strict=True):
        expected = (places[gate.name] * slope).abs().sum((0, 1)).double()
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_magnitude_is_the_norm_of_a_units_weights(name, tmp_path):
    model, _ = model_and_batches(name, tmp_path)
    found = unit_scores(model, [], KINDS, "magnitude", seed=0)
    block = model.anatomy.blocks[1]
    part, attention = block.feed_forward, block.attention
    rows = [model.linear(n).weight.detach().double() for n in (part.gate, part.up) if n]
    expected = sum(w.square().sum(1) for w in rows)
    expected = (expected + model.linear(part.down).weight.double().square().sum(0)).sqrt()
    torch.testing.assert_close(found[CHANNELS][1], expected.detach())
    own = [attention.query]
    if not model.anatomy.causal:
        own += [attention.key, attention.value]
    heads = []
    for head in range(attention.num_heads):
        span = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        squares = [model.linear(n).weight[span].double().square().sum() for n in own]
        squares.append(model.linear(attention.output).weight[:, span].double().square().sum())
        heads.append(torch.stack(squares).sum().sqrt())
    if model.anatomy.causal:  # two slots of two groups
        heads = [heads[0] + heads[2], heads[1] + heads[3]]
    torch.testing.assert_close(found[HEADS][1], torch.stack(heads).detach())


@pytest.mark.parametrize("score", ["fisher", "taylor", "flap", "probe_pruning"])
@pytest.mark.parametrize("name", ["bert", "llama", "opt"])
def test_a_silent_channel_scores_zero(name, score, tmp_path):
    model, batches = model_and_batches(name, tmp_path)
    part = model.anatomy.blocks[0].feed_forward
    with torch.no_grad():
        model.linear(part.up).weight[7] = 0
        if model.linear(part.up).bias is not None:
            model.linear(part.up).bias[7] = 0
    scores = unit_scores(model, batches, [CHANNELS], score, seed=0)[CHANNELS][0]
    assert float(scores[7]) == 0
    assert int((scores == 0).sum()) == 1


def test_the_same_seed_gives_the_same_scores(tmp_path):
    model, batches = model_and_batches("bert", tmp_path)
    first, again, other = (
        unit_scores(model, batches, [HEADS], "fisher", seed)[HEADS] for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


# cuts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["global", "uniform", "coverage"])
@pytest.mark.parametrize(("kind", "share", "left"), [(CHANNELS, 0.37, 40), (HEADS, 0.5, 3)])
def test_a_cut_removes_exactly_its_share(kind, share, left, policy, tmp_path):
    model, _ = model_and_batches("bert", tmp_path)  # 63 channels and 6 heads
    sizes = [[40, 23], [2, 4]][kind == HEADS]
    scores = [torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in sizes]
    before = [list(units) for units in (model.heads if kind == HEADS else model.channels)]
    cut(model, kind, scores, share, CutSettings(policy=policy))
    after = model.heads if kind == HEADS else model.channels
    blocks = model.anatomy.blocks
    shapes = [b.attention.num_heads if kind == HEADS else b.feed_forward.channels for b in blocks]
    assert shapes == [len(units) for units in after]
    assert sum(shapes) == sum(sizes) - round(share * sum(sizes)) == left
    for score, kept, old in zip(scores, after, before, strict=True):
        best = sorted(score.argsort(descending=True)[: len(kept)].tolist())
        assert kept == [old[position] for position in best]


def test_every_layer_keeps_a_head(tmp_path):
    model, _ = model_and_batches("bert", tmp_path)
    cut(model, HEADS, [torch.zeros(2), torch.ones(4)], 0.6, CutSettings())  # 4 of 6 go
    assert [len(heads) for heads in model.heads] == [1, 1]
    model, _ = model_and_batches("bert", tmp_path)
    with pytest.raises(UserError, match="cannot keep 3 of 6"):  # refused, not rounded
        cut(model, HEADS, [torch.zeros(2), torch.ones(4)], 0.5, CutSettings(minimum_heads=2))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_cut_that_would_empty_a_layer_is_refused(name, tmp_path):
    model, _ = model_and_batches(name, tmp_path)
    with pytest.raises(UserError, match="cannot keep 1 of 63 units with at least 1 in each"):
        cut(model, CHANNELS, [torch.rand(40), torch.rand(23)], 0.98, CutSettings())


def held_at(values: Tensor, gone: Tensor):
    """A pre-hook that lets a linear read `values` [columns] in the columns `gone`."""
    return lambda _m, args: torch.where(gone, values, args[0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("bert", "mpnet", "llama", "llama-biased"), KINDS),
        ("gpt2", CHANNELS),  # its heads stay: each has key-value heads of its own
    ],
)
def test_flap_leaves_the_means_of_what_it_cuts(name, kind, tmp_path):
    """The cut model answers as the whole one whose units that left are held at their means on the
    text, or at zero where the linear that reads them has no bias."""
    model, whole = (make_model(name, tmp_path / part, unequal=False) for part in ("cut", "whole"))
    batches = make_batches(model.anatomy.causal)
    gates, seen = make_gates(whole, kind), captured_inputs(whole, batches)
    scores = unit_scores(model, batches, [kind], "flap", seed=0)[kind]
    units = sum(len(layer) for layer in scores)
    kept = select(scores, units - units // 4, 1, "coverage")
    cut(model, kind, scores, 0.25, CutSettings(score="flap", policy="coverage"), batches)
    for gate, mask in zip(gates, kept, strict=True):
        gone = ~(mask if gate.groups is None else mask[gate.groups])
        linear = whole.linear(gate.name)
        held = torch.from_numpy(seen[gate.name].mean(0)).float()
        held = held if linear.bias is not None else torch.zeros_like(held)
        linear.register_forward_pre_hook(held_at(held, gone.repeat_interleave(gate.unit_size)))
    batch = make_batches(model.anatomy.causal, seed=8)[0]  # text that it did not see
    with torch.no_grad():
        ours, its = (m.module(**inputs(batch))[0] for m in (model, whole))
    size = float(its.abs().max())
    torch.testing.assert_close(ours, its, rtol=0, atol=1e-5 * size)


def test_a_dry_run_says_what_takes_the_place_of_what_flap_cuts(tmp_path):
    model, _ = model_and_batches("bert", tmp_path)
    said = CUT.would(CutSettings(score="flap", heads=0.5), facts_of(Recipe(), model))
    assert said == [
        "3 of 6 heads leave in one shot by flap, uniform",
        "biases take over the means of what leaves; where there is none, zero does",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_cut_keeps_groups_equal(kind, tmp_path):
    model = make_model("llama", tmp_path, unequal=False)
    batches = make_batches(windows=True)
    scores = unit_scores(model, batches, [kind], "fisher", 0)[kind]
    cut(model, kind, scores, 0.25, CutSettings())
    kept = [b.attention.num_heads for b in model.anatomy.blocks]
    if kind == HEADS:  # one of four slots, two heads each
        assert sum(kept) == 6
        assert all(b.attention.num_key_value_heads == 2 for b in model.anatomy.blocks)
    else:
        assert kept == [4, 4]
        assert sum(b.feed_forward.channels for b in model.anatomy.blocks) == 60
