"""Bundles by the operator library: a layer in five nodes, and the same answers without it."""

from collections import Counter

import numpy as np
import pytest
import torch
from lowered_graphs import BATCH, FEED, VNNI, emission, operators
from sparse_models import library_for_tests
from tiny_models import (
    DECODERS,
    FUSED_DECODERS,
    MIXTURES,
    make_model,
)

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.quant_linears import lower_quant_linears
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.seams import step_drift
from edgeprune.export.trace import export_onnx
from edgeprune.kernels import library
from edgeprune.model.model import Model
from edgeprune.runtime.cache import Decoder
from edgeprune.runtime.names import ROW_INVARIANT
from edgeprune.runtime.session import open_session
from edgeprune.targets import find

torch.set_num_threads(1)
FORMATS = {
    "int8": QuantizeSettings(operators=True),
    "int4": QuantizeSettings(operators=True, weights="int4", clip="mse"),
}
ENCODERS = ("bert", "distilbert", "mpnet", "albert", "deberta-v2", "modernbert", "classifier")
PASSES = ["quantized linears", "fuse linears", "row attention"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return library_for_tests(tmp_path_factory.mktemp("library"))


@pytest.fixture(autouse=True)
def installed(built, monkeypatch):
    monkeypatch.setattr(library, "LIBRARY", built)


def rewritten(model: Model, kind: str, folder) -> tuple[Graph, dict[str, int]]:
    """The graph after every pass, and how many nodes each changed."""
    quantized = quantize_model(model, [BATCH], FORMATS[kind], VNNI)
    source = emission(model, folder / "stage")
    path = folder / "model.onnx"
    reports = rewrite(source, path, model.anatomy, quantized, [FEED], VNNI)
    assert all(report.kept for report in reports), [each for each in reports if not each.kept]
    changed = {report.name: report.changed for report in reports}
    assert changed["quantized linears"] == len(model.anatomy.linears()) * model.anatomy.repeats
    return Graph.load(path), changed


def counted(graph: Graph) -> Counter[str]:
    """Nodes by kind of operator; quantized linears together."""
    return Counter(
        "linear" if "QuantLinear" in name else name for name in operators(graph).elements()
    )


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "int4") for family in FUSED_DECODERS), *((family, "int8") for family in DECODERS)],
)
def test_a_decoders_layer_has_five_nodes(family, kind, tmp_path):
    model = make_model(family, tmp_path / "hf")
    graph, changed = rewritten(model, kind, tmp_path)
    counts = counted(graph)
    layers = len(model.anatomy.blocks)
    if family in FUSED_DECODERS and "qwen3" not in family:
        assert counts["linear"] == 4 * layers + 1
        assert counts["RowAttention"] == changed["row attention"] == layers
        assert graph.metadata[ROW_INVARIANT] == "yes"
        assert not {"ReduceMean", "Sqrt", "Pow"} & counts.keys(), "a norm stands outside"
    assert not {"MatMulInteger", "MatMulNBits", "DynamicQuantizeLinear"} & counts.keys()


@pytest.mark.parametrize("family", ["gemma2-fused", "olmo2", "granite-fused", "mixtral"])
def test_other_decoders_end_in_operators(family, tmp_path):
    model = make_model(family, tmp_path / "hf", unequal=family not in MIXTURES)
    graph, _ = rewritten(model, "int8", tmp_path)
    assert counted(graph)["linear"] >= 4 * len(model.anatomy.blocks)


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoders_layer_has_five_nodes(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    graph, changed = rewritten(model, "int8", tmp_path)
    counts = counted(graph)
    if family in ("bert", "distilbert", "mpnet", "classifier"):
        layers = len(model.anatomy.blocks)
        assert counts["RowAttention"] == changed["row attention"] == layers
        assert counts["Softmax"] == 0
        kinds = operators(graph)
        assert kinds["QuantLinearInt8AddLayerNorm"] == 2 * layers
        assert sum(kinds[name] for name in kinds if name.endswith("Gelu")) == layers


def test_a_target_without_vnni_gets_functions_that_do_not_need_it(tmp_path):
    model = make_model("bert", tmp_path / "hf")
    products = {}
    for name in ("x86-avx512-vnni", "x86-avx2"):
        quantized = quantize_model(model, [BATCH], FORMATS["int8"], find(name))
        graph = emission(model, tmp_path / name).graph
        lower_quant_linears(graph, quantized, find(name).vnni)
        [function] = graph.model().functions
        products[name] = {node.op_type for node in function.node if "MatMul" in node.op_type}
    assert products == {"x86-avx512-vnni": {"MatMulIntegerToFloat"}, "x86-avx2": {"MatMulInteger"}}


def test_a_traced_graph_ends_in_them_too(tmp_path):
    model = make_model("bert", tmp_path / "hf")
    quantized = quantize_model(model, [BATCH], FORMATS["int8"], VNNI)
    path = tmp_path / "o.onnx"
    reports = rewrite(export_onnx(model, tmp_path), path, model.anatomy, quantized, [FEED], VNNI)
    kept = {report.name: report.changed for report in reports if report.kept}
    assert all(kept[name] for name in PASSES)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_decoders_logits_have_the_same_bits_however_tokens_come(kind, tmp_path):
    model = make_model("llama-fused", tmp_path / "hf")
    rewritten(model, kind, tmp_path)
    decoder = Decoder(open_session(tmp_path / "model.onnx", threads=1))
    ids = np.random.default_rng(0).integers(3, 120, 13)
    whole = decoder.start().feed(ids)[0]
    for cuts in ([1] * 13, [4, 9], [2, 3, 8], [12, 1]):
        decoding, parts, first = decoder.start(), [], 0
        for count in cuts:
            parts.append(decoding.feed(ids[first : first + count])[0])
            first += count
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    beside = decoder.start(2).feed(np.stack([ids[::-1], ids]))
    np.testing.assert_array_equal(beside[1], whole)


def test_without_the_library_nothing_is_drafted(tmp_path, monkeypatch):
    model = make_model("llama-fused", tmp_path / "hf")
    rewritten(model, "int8", tmp_path)
    assert Decoder(open_session(tmp_path / "model.onnx", threads=1)).drafts
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "nowhere.so")
    assert not Decoder(open_session(tmp_path / "model.onnx", threads=1)).drafts


def test_steps_that_differ_are_told(tmp_path):
    model = make_model("bert", tmp_path / "hf")
    graph, _ = rewritten(model, "int8", tmp_path)
    assert step_drift(graph, graph.snapshot(), [FEED], kernels=True) < 1e-5
    changed = graph.snapshot()
    [name, *_] = [name for name in changed.initializers if name.endswith("after_weight")]
    weight = changed.constant(name)
    assert weight is not None
    changed.add_constant(name, weight * np.float32(1.02))
    assert step_drift(graph, changed, [FEED]) > 5e-3
