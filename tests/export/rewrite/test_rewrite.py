"""The rewritten graph: every pass equals its input, values are the planned ones bit for bit."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from few import few
from onnx import numpy_helper
from rewritten_models import VNNI, rewriter
from rounded_graphs import following, run_with_codes
from tiny_models import DECODERS, EMITTED_ENCODERS, ENCODERS, make_batch, make_model

from edgeprune.base.errors import UserError
from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.attention import lay_out_attention
from edgeprune.export.rewrite.constants import fold_constants
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.export.rewrite.residual import residuals_as_sums
from edgeprune.export.rewrite.run import RewriteError, rewrite
from edgeprune.export.rewrite.verify import largest_drift, run_graph
from edgeprune.export.trace import export_onnx

torch.set_num_threads(1)
FAMILIES = (*(f for f in ENCODERS if f not in EMITTED_ENCODERS), "albert", *DECODERS)
# Attention and feed-forward side by side leave one sum per layer; OPT's norms read reshaped sums,
# which the runtime does not join with a norm, all but the first.
LEAST_SUMS = {"gpt_neox": 2, "phi": 2, "opt": 1}
FORMATS = QuantizeSettings(massive_activations="none")


BATCH = make_batch(rows=1)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return rewriter(tmp_path_factory, BATCH, FORMATS)


def _numpy(batch):
    return {name: value.numpy() for name, value in batch.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_float_pass_equals_its_input(family, build):
    model, graph = build(family).model, Graph.load(build(family).plain)
    batches = [_numpy(make_batch()), _numpy(make_batch(1, 5, seed=3))]
    before = run_graph(graph, batches)
    passes = {
        "fold": (fold_constants, 50),
        "attention": (lambda g: lay_out_attention(g, model.anatomy), 2),
        "residual": (residuals_as_sums, LEAST_SUMS.get(family, 4)),
    }
    for name, (change, least) in passes.items():
        assert change(graph) >= least, name
        after = run_graph(graph, batches)
        assert set(after[0]) == set(before[0])
        assert largest_drift(before, after) < 1e-4, name


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_equals_torch_rounding_the_same_way(family, build):
    built = build(family)
    # Heads of 8 are too small for the fused attention, which then leaves the graph as it was.
    assert [r.name for r in built.reports if not r.kept] == (
        ["fuse attention"] if built.model.anatomy.causal else []
    )
    got, coded = run_with_codes(built.path, _numpy(BATCH))
    oracle = following(built.model, BATCH, built.quantized, coded)
    np.testing.assert_allclose(got, oracle, rtol=0, atol=1e-5 * np.abs(oracle).max())


@pytest.mark.parametrize("family", ["bert", "llama", "untied", "qwen2"])
def test_codes_in_the_file_are_the_planned_ones(family, build):
    anatomy, quantized = build(family).model.anatomy, build(family).quantized
    graph = onnx.load(str(build(family).path)).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    codes = [value for value in stored.values() if value.dtype == np.int8]
    attention = anatomy.blocks[0].attention
    merged = [quantized.codes[n].numpy() for n in (attention.query, attention.key, attention.value)]
    word = anatomy.embeddings["word"]
    table = quantized.codes[word].numpy()
    wanted = [
        quantized.codes[attention.output].numpy().T,
        quantized.codes[anatomy.blocks[1].feed_forward.down].numpy().T,
        np.concatenate(merged).T,
        table.T if anatomy.tied_embeddings else table,
    ]
    for value in wanted:
        assert any(np.array_equal(stored_codes, value) for stored_codes in codes)
    for name, scales in quantized.scales.items():
        bits = scales.numpy().tobytes()
        assert any(v.dtype == np.float32 and bits in v.tobytes() for v in stored.values()), name


def test_tied_embedding_is_stored_once(build):
    graph = onnx.load(str(build("llama").path)).graph
    tables = [t for t in graph.initializer if int(np.prod(t.dims)) >= 131 * 32]
    assert [t.data_type for t in tables] == [onnx.TensorProto.INT8]
    readers = {n.op_type for n in graph.node if tables[0].name in n.input}
    assert readers == {"Gather", "MatMulInteger"}


@pytest.mark.parametrize("massive", ["none", "token-wise"])
def test_an_unpacked_head_answers_the_same_and_the_runtime_keeps_no_other_table(massive, tmp_path):
    paths = {}
    for unpacked in (False, True):
        folder = tmp_path / f"{unpacked}"
        model = make_model("llama", folder / "hf")
        settings = QuantizeSettings(
            massive_activations=massive, massive_ratio=1.001, unpacked_head=unpacked
        )
        quantized = quantize_model(model, [BATCH], settings, VNNI)
        paths[unpacked] = folder / "out.onnx"
        raw = export_onnx(model, folder)
        rewrite(raw, paths[unpacked], model.anatomy, quantized, [_numpy(BATCH)], VNNI)
    for batch in (BATCH, make_batch(rows=3)):
        packed, unpacked = (run_graph(Graph.load(path), [_numpy(batch)]) for path in paths.values())
        assert largest_drift(packed, unpacked) < 1e-5
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(paths[True]), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath).graph
    [table] = [t for t in graph.initializer if int(np.prod(t.dims)) >= 131 * 32]
    # The head reads what is no constant to the runtime, which packs constants.
    readers = {n.op_type: n.output[0] for n in graph.node if table.name in n.input}
    assert set(readers) == {"Gather", "Reshape"}
    [head] = [n for n in graph.node if readers["Reshape"] in n.input]
    assert head.op_type == "MatMulInteger"


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
def test_default_session_makes_no_skip_layer_normalization(family, build, tmp_path):
    def operators(file):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]

    built = build(family)
    result = operators(built.path)
    assert not [name for name in result if "Skip" in name]
    # Every product was joined with its quantization; none is left in pieces.
    assert "MatMulInteger" not in result
    assert any(name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat") for name in result)
    if family != "mpnet":
        return
    # The control: the runtime would fuse here, did the graph not prevent it.
    naive = Graph.load(built.path)
    for node in naive.nodes:
        node.op_type = "Add" if node.op_type == "Sum" else node.op_type
    naive.save(tmp_path / "naive.onnx")
    assert [name for name in operators(tmp_path / "naive.onnx") if "Skip" in name]


def test_lowering_refuses_other_values_than_planned(tmp_path):
    model = make_model("bert", tmp_path / "hf")
    path = export_onnx(model, tmp_path)
    quantized = quantize_model(model, [], FORMATS, VNNI)
    with pytest.raises(ValueError, match="not what was planned"):
        lower_linears(Graph.load(path), quantized)
    with pytest.raises(UserError, match=r"cannot be lowered: .* not what was planned"):
        rewrite(path, tmp_path / "o.onnx", model.anatomy, quantized, [_numpy(make_batch())], VNNI)
    assert not (tmp_path / "o.onnx").exists()


def _permute(graph):
    name = next(name for name in graph.initializers if name.endswith("merged/codes"))
    graph.add_constant(name, graph.constant(name)[::-1])


def _lose_attention(graph):
    """The first residual addition after the attention hands on what came in alone."""
    adds = [node for node in graph.nodes if node.op_type == "Sum"]
    graph.replace_uses(adds[0].output[0], adds[0].input[0])
    graph.sweep()


def _lose_a_bias(graph):
    """Of one linear in many: a little that no bound on all outputs would see."""
    name = next(name for name in graph.initializers if name.endswith("output/dense/bias"))
    graph.add_constant(name, 0 * graph.constant(name))


SPOILT = [
    *itertools.product(
        (_permute, _lose_attention, _lose_a_bias), ("dynamic", "token", "static", "int4")
    )
]


@pytest.mark.parametrize(
    ("spoil", "formats"),
    few(SPOILT, [each for each in SPOILT if each[1] == "dynamic" or each[0] is _permute]),
)
def test_a_lowering_that_does_other_than_was_planned_is_refused(
    spoil, formats, tmp_path, monkeypatch
):
    from edgeprune.export.rewrite import run

    name = "lower_groups" if formats == "int4" else "lower_linears"
    lower = getattr(run, name)

    def spoilt(graph, quantized):
        changed = lower(graph, quantized)
        spoil(graph)
        return changed

    monkeypatch.setattr(run, name, spoilt)
    model = make_model("bert", tmp_path / "hf")
    with torch.no_grad():
        for block in model.anatomy.blocks:
            model.linear(block.attention.output).bias.normal_(std=0.2)
    kind = {"weights": formats} if formats == "int4" else {"activations": formats}
    settings = QuantizeSettings(**kind)
    quantized = quantize_model(model, [make_batch()], settings, VNNI)
    path = export_onnx(model, tmp_path)
    batches = [_numpy(make_batch())]
    with pytest.raises(RewriteError, match="from what was planned"):
        rewrite(path, tmp_path / "o.onnx", model.anatomy, quantized, batches, VNNI)
    monkeypatch.undo()
    rewrite(path, tmp_path / "o.onnx", model.anatomy, quantized, batches, VNNI)


def test_a_pass_that_drifts_is_undone(tmp_path, monkeypatch):
    from edgeprune.export.rewrite import run

    def spoil(graph):
        norm = next(n for n in graph.nodes if n.op_type == "LayerNormalization")
        weight = graph.constant(norm.input[1])
        norm.input[1] = graph.add_constant("spoiled", weight * 1.5)
        return 1

    monkeypatch.setattr(run, "residuals_as_sums", spoil)
    model = make_model("bert", tmp_path / "hf")
    path = export_onnx(model, tmp_path)
    batch = _numpy(make_batch())
    reports = rewrite(path, tmp_path / "out.onnx", model.anatomy, None, [batch], VNNI)
    spoiled = next(r for r in reports if r.name == "residuals as sums")
    assert not spoiled.kept
    assert spoiled.drift > spoiled.tolerance
    before = run_graph(Graph.load(path), [batch])
    assert largest_drift(before, run_graph(Graph.load(tmp_path / "out.onnx"), [batch])) < 1e-4


def test_left_padding_gives_numbers(build, tmp_path):
    model = build("llama").model
    rewrite(build("llama").plain, tmp_path / "out.onnx", model.anatomy, None, [_numpy(BATCH)], VNNI)
    tokens = make_batch(rows=1)["input_ids"].numpy()
    padded = {
        "input_ids": np.concatenate([np.full((1, 3), 1), tokens], axis=1),
        "attention_mask": np.array([[0] * 3 + [1] * tokens.shape[1]]),
    }
    graph = Graph.load(tmp_path / "out.onnx")
    plain, shifted = run_graph(graph, [{"input_ids": tokens}, padded])
    assert np.abs(plain["logits"] - shifted["logits"][:, 3:]).max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_scale_per_token_equals_torch_and_is_computed_once(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    options = QuantizeSettings(activations="token")
    quantized = quantize_model(model, [make_batch()], options, VNNI)
    assert {entry.format for entry in quantized.plan} == {"int8-token", "int8-rows"}
    path = export_onnx(model, tmp_path)
    rewrite(path, tmp_path / "out.onnx", model.anatomy, quantized, [_numpy(BATCH)], VNNI)
    got, coded = run_with_codes(tmp_path / "out.onnx", _numpy(BATCH))
    oracle = following(model, BATCH, quantized, coded)
    np.testing.assert_allclose(got, oracle, rtol=0, atol=1e-5 * np.abs(oracle).max())
    # Per layer: q, k and v share one quantization, gate and up share one; o, down; and the head.
    graph = Graph.load(tmp_path / "out.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in graph.nodes) == 2 * 4 + 1
