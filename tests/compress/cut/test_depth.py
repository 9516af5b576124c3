"""Whole layers leave: equal to passing them by, exported, scored beside brute force."""

import numpy as np
import pytest
import torch
import transformers
from calibration_batches import make_batches
from hypothesis import given
from hypothesis import strategies as st
from passing_blocks import passing_by
from pydantic import ValidationError
from tiny_models import DECODERS, ENCODERS, POST_NORMED, make_batch, make_model
from torch import Tensor
from torch.nn import functional

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.depth import drop_layers, layer_scores
from edgeprune.compress.cut.linearity import Linearity
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.cut.surgery import keep_layers
from edgeprune.compress.objectives.objective import objective_of
from edgeprune.compress.recover.settings import RecoverSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.model.checkpoint import open_checkpoint
from edgeprune.model.importing import import_checkpoint
from edgeprune.model.model import Model
from edgeprune.model.store import load_model, save_model
from edgeprune.targets import find
from edgeprune.text.batches import Batch

LAYERS = 4


EVERY = [*ENCODERS, *DECODERS, "granite", "smollm3-fused", *POST_NORMED, "gemma3_text-encoder"]


@pytest.mark.parametrize("family", EVERY)
def test_a_dropped_layer_is_passed_by(family, tmp_path):
    model, batch = make_model(family, tmp_path / "hf", False, layers=LAYERS), make_batch()
    real = batch["attention_mask"] == 1
    first = 0 if model.anatomy.family.unnormed_first else 1
    expected = passing_by(model, [1 - first, 2], batch)
    with torch.no_grad():
        assert (model.module(**batch)[0] - expected).abs().max() > 1e-3
    keep_layers(model, [first, 3])
    with torch.no_grad():
        got = model.module(**batch)[0]
    kept = slice(None) if got.ndim == 2 else real
    torch.testing.assert_close(got[kept], expected[kept], rtol=0, atol=1e-5)
    assert model.layers == [first, 3]
    assert len(model.heads) == len(model.channels) == len(model.anatomy.blocks) == 2
    save_model(model, tmp_path / "cut")
    again = load_model(tmp_path / "cut")
    with torch.no_grad():
        torch.testing.assert_close(again.module(**batch)[0][kept], got[kept], rtol=0, atol=0)
    assert (again.layers, again.module.config.num_hidden_layers) == ([first, 3], 2)
    assert len(open_checkpoint(str(tmp_path / "cut")).anatomy.blocks) == 2


def test_scores_divided_by_depth_stay_so_when_layers_before_leave(tmp_path):
    """Beside transformers' written-out attention, the one that knows of the division."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=131, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=96,
        scale_attn_by_inverse_layer_idx=True,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3)
    module.save_pretrained(tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "hf", attn_implementation="eager"
    ).eval()
    batch = make_batch()
    real = batch["attention_mask"] == 1
    model = import_checkpoint(open_checkpoint(str(tmp_path / "hf")))
    for dropped in ([], [0, 2]):
        blocks = [theirs.transformer.h[layer] for layer in dropped]
        for block in blocks:
            block.forward = lambda hidden, *_others, **_named: hidden
        keep_layers(model, [layer for layer in range(LAYERS) if layer not in dropped])
        save_model(model, tmp_path / "cut")
        with torch.no_grad():
            expected = theirs(**batch).logits[real]
            for ours in (model, load_model(tmp_path / "cut", "eager")):
                got = ours.module(**batch).logits[real]
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama", "qwen3", "gpt2", "gpt_neox"])
def test_fewer_layers_are_exported_with_fewer_caches(family, tmp_path):
    model = make_model(family, tmp_path / "hf", False, layers=3)
    keep_layers(model, [0, 2])
    raw = export_onnx(model, tmp_path)
    feed = {name: value.numpy() for name, value in make_batch(rows=1).items()}
    target = find("x86-avx512-vnni")
    reports = rewrite(raw, tmp_path / "out.onnx", model.anatomy, None, [feed], target)
    undone = {report.name for report in reports if not report.kept}
    assert undone <= {"fuse attention"}  # which takes no heads as small as these
    graph = Graph.load(tmp_path / "out.onnx")
    [got] = run_graph(graph, [feed])
    with torch.no_grad():
        expected = model.module(**make_batch(rows=1))[0].numpy()
    assert np.abs(next(iter(got.values())) - expected).max() < 1e-4
    caches = [name for name in graph.inputs if name.endswith(".key")]
    decoder = model.anatomy.causal
    assert caches == ([f"past_key_values.{i}.key" for i in range(2)] if decoder else [])


def loss_of(model: Model, batch, row: int, whole: Tensor | None) -> Tensor:
    """What one text loses, from the definitions; its own loss where nothing is to be compared."""
    ids = torch.from_numpy(batch.input_ids[row : row + 1])
    mask = torch.from_numpy(batch.attention_mask[row : row + 1])
    output = model.module(ids, attention_mask=mask)
    if model.task == "feature-extraction":
        mean = output.last_hidden_state[0][mask[0] == 1].mean(0)
        return mean / mean.norm() if whole is None else 1 - (mean / mean.norm()) @ whole
    if model.task == "text-classification":
        logs = output.logits[0].log_softmax(-1)
        return logs if whole is None else (whole.exp() * (whole - logs)).sum()
    own = functional.cross_entropy(output.logits[0, :-1], ids[0, 1:])
    return own if whole is None else own - whole


@torch.no_grad()
@pytest.mark.parametrize("family", ["bert", "classifier", "llama", "gpt2", "gemma3_text"])
def test_loss_is_what_leaving_one_out_costs(family, tmp_path):
    model = make_model(family, tmp_path, False, layers=3)
    batches = make_batches(model.anatomy.causal)
    got = layer_scores(model, batches, "loss", seed=0)
    texts = [(batch, row) for batch in batches for row in range(len(batch.input_ids))]
    whole = [loss_of(model, *text, None) for text in texts]
    for left_out in range(3):
        other = load_copy(model, tmp_path)
        keep_layers(other, [layer for layer in range(3) if layer != left_out])
        lost = [loss_of(other, *text, of) for text, of in zip(texts, whole, strict=True)]
        assert float(got[left_out]) == pytest.approx(float(torch.stack(lost).mean()), abs=2e-5)
    assert len(model.anatomy.blocks) == 3  # the model itself is whole again
    assert all(
        torch.equal(loss_of(model, *text, None), of) for text, of in zip(texts, whole, strict=True)
    )


def load_copy(model: Model, folder) -> Model:
    save_model(model, folder / "copy")
    return load_model(folder / "copy")


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_taylor_is_the_sum_of_weights_times_gradients(family, tmp_path):
    model = make_model(family, tmp_path, False, layers=3)
    batches = make_batches(windows=True)
    got = layer_scores(model, batches, "taylor", seed=0)
    model.module.requires_grad_(True)
    loss = sum(
        loss_of(model, batch, row, None) for batch in batches for row in range(len(batch.input_ids))
    )
    for block, score in zip(model.anatomy.blocks, got, strict=True):
        matrices = [
            parameter
            for parameter in model.module.get_submodule(block.name).parameters()
            if parameter.ndim == 2
        ]
        slopes = torch.autograd.grad(loss, matrices, retain_graph=True)
        expected = sum(
            float((w * g).abs().sum().detach()) for w, g in zip(matrices, slopes, strict=True)
        )
        assert float(score) == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10**6), st.floats(0, 3))
def test_linearity_is_the_share_that_least_squares_explains(seed, bend):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((120, 5)) + rng.standard_normal(5)
    y = x @ rng.standard_normal((5, 5)) + bend * np.abs(x) + rng.standard_normal(5)
    seen = Linearity(5)
    for part in np.array_split(np.hstack([x, y]), 3):
        seen.add(torch.from_numpy(part[:, :5]), torch.from_numpy(part[:, 5:]))
    xc, yc = x - x.mean(0), y - y.mean(0)
    a = np.linalg.lstsq(xc, yc, rcond=None)[0]
    assert seen.finish() == pytest.approx(1 - ((xc @ a - yc) ** 2).sum() / (yc**2).sum(), abs=1e-9)


@pytest.mark.parametrize("family", ["bert", "llama", "opt"])
def test_a_layer_that_does_nothing_is_linear_and_costs_nothing(family, tmp_path):
    model = make_model(family, tmp_path, False, layers=3)
    block = model.anatomy.blocks[1]
    with torch.no_grad():
        for name in (block.attention.output, block.feed_forward.down):
            for parameter in model.linear(name).parameters():
                parameter.zero_()
    batches = make_batches(True, seed=1) * 1
    batches = [
        type(b)(np.tile(b.input_ids, (6, 1)), np.tile(b.attention_mask, (6, 1))) for b in batches
    ]
    bends = layer_scores(model, batches, "linearity", 0)
    if family == "bert":  # what is left of it are its norms, which bend a little
        assert int(bends.argmin()) == 1
        return
    assert float(bends[1]) < 1e-6
    assert float(layer_scores(model, batches, "loss", 0)[1]) == pytest.approx(0, abs=1e-6)
    assert float(layer_scores(model, batches, "taylor", 0)[1]) < 1e-6


def test_the_lowest_scores_go_and_the_ends_stay(tmp_path):
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0, 0.5])
    for first, last, count, gone in ((0, 0, 2, [0, 4]), (1, 1, 2, [2, 3]), (0, 1, 1, [0])):
        model = make_model("llama", tmp_path, False, layers=5)
        assert drop_layers(model, scores, count, first, last) == gone
        assert model.layers == [layer for layer in range(5) if layer not in gone]
    model = make_model("llama", tmp_path, False, layers=2)
    with pytest.raises(UserError, match="1 of 2 layers cannot go while 1 at the start and 1"):
        drop_layers(model, torch.rand(2), 1, 1, 1)
    with pytest.raises(UserError, match="2 of 2 layers cannot go"):
        drop_layers(model, torch.rand(2), 2)
    with pytest.raises(UserError, match="without a single layer"):
        keep_layers(model, [])


def test_layers_are_a_number_or_a_share():
    assert CutSettings(layers=3).layers_to_drop(30) == 3
    assert CutSettings(layers=0.25).layers_to_drop(30) == 8
    assert CutSettings(layers=3.0).layers == 3
    assert CutSettings(layers=1, layer_score="taylor").kept_ends() == (4, 2)
    assert CutSettings(layers=1, layer_score="taylor", keep_first=0).kept_ends() == (0, 2)
    with pytest.raises(ValidationError, match="whole number"):
        CutSettings(layers=2.5)


def test_recovery_compares_across_the_gap(tmp_path):
    """A layer before a gap is to hand on what the layer after the gap was given."""
    original = make_model("bert", tmp_path / "hf", False, layers=4)
    student = make_model("bert", tmp_path / "hf", False, layers=4)
    keep_layers(student, [0, 3])
    settings = RecoverSettings(hidden_weight=1, embedding_weight=0, similarity_weight=0)
    made = make_batch()
    batch = Batch(made["input_ids"].numpy(), made["attention_mask"].numpy())
    with torch.no_grad():
        its = original.run(batch, output_hidden_states=True)
        mine = student.run(batch, output_hidden_states=True)
        got = objective_of(student).loss(mine, its, batch, settings)
    real = made["attention_mask"] == 1
    pairs = ((1, 3), (2, 4))
    expected = sum(
        (mine.hidden_states[a] - its.hidden_states[b])[real].square().mean() for a, b in pairs
    )
    torch.testing.assert_close(got, expected)


def test_too_few_tokens_do_not_say_what_is_linear():
    seen = Linearity(8)
    seen.add(torch.randn(15, 8), torch.randn(15, 8))
    with pytest.raises(
        UserError, match=r"15 tokens are too few.*it takes 16: raise cut\.layer_samples"
    ):
        seen.finish()
    seen.add(torch.randn(1, 8), torch.randn(1, 8))
    assert 0 <= seen.finish() <= 1
    assert CutSettings(layer_score="linearity").sequences_for_layers == 256
    assert CutSettings(layer_score="linearity", layer_samples=9).sequences_for_layers == 9
    assert CutSettings(layer_score="loss").sequences_for_layers == 32
