"""Products in groups: the packed codes are the planned values, and q, k and v stay together."""

import numpy as np
import pytest
import torch
from tiny_models import make_batch, make_model

from edgeprune.compress.quantize.model import quantize_model
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite import groups
from edgeprune.export.rewrite.groups import lower_groups, pack_bits
from edgeprune.export.rewrite.run import rewrite
from edgeprune.export.rewrite.verify import largest_drift, mean_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.runtime.names import FUSED_ATTENTION
from edgeprune.targets import find

torch.set_num_threads(1)
VNNI = find("x86-avx512-vnni")
BATCH = {name: value.numpy() for name, value in make_batch().items()}


def _settings(weights, group, symmetric, **more):
    return QuantizeSettings(weights=weights, group=group, symmetric=symmetric, **more)


@pytest.mark.parametrize(
    ("family", "weights", "group", "symmetric"),
    [
        ("llama-fused", "int4", 32, True),
        ("llama-fused", "int4", 16, False),
        ("qwen2-fused", "int4", 32, False),
        ("untied", "int4", 128, False),
        ("qwen3-fused", "int8-groups", 32, True),
        ("untied", "int8-groups", 16, False),
        ("bert", "int4", 32, False),
    ],
)
def test_packed_weights_are_the_planned_values(
    family, weights, group, symmetric, tmp_path, monkeypatch
):
    """At accuracy level 1 the runtime multiplies in float: what is left is the weights' layout.

    Layers of 64, 32, 40 and 23 inputs end in groups that are whole, short, and of an odd number.
    """
    model = make_model(family, tmp_path / "hf")
    quantized = quantize_model(model, [], _settings(weights, group, symmetric), VNNI)
    graph = Graph.load(export_onnx(model, tmp_path))
    before = run_graph(graph, [BATCH])
    monkeypatch.setattr(groups, "_ACCURACY", 1)
    planned = [entry for entry in quantized.plan if entry.format == weights]
    assert lower_groups(graph, quantized) == len(planned) >= 12
    assert largest_drift(before, run_graph(graph, [BATCH])) < 1e-4
    # q, k and v are one product.
    merged = sum(node.op_type == groups.OPERATOR for node in graph.nodes)
    assert merged == len(planned) - 2 * 2


@pytest.mark.parametrize("family", ["llama-fused", "qwen2-fused", "qwen3-fused", "untied"])
def test_a_decoder_in_int4_is_near_its_values(family, tmp_path):
    model = make_model(family, tmp_path / "hf")
    quantized = quantize_model(model, [], _settings("int4", 16, False), VNNI)
    path = export_onnx(model, tmp_path)
    reports = rewrite(path, tmp_path / "out.onnx", model.anatomy, quantized, [BATCH], VNNI)
    graph = Graph.load(tmp_path / "out.onnx")
    drift = mean_drift(run_graph(Graph.load(path), [BATCH]), run_graph(graph, [BATCH]))
    assert 0 < drift < 0.05  # activations of 8 bits; the weights' own error is in both
    fused = [node for node in graph.nodes if node.op_type == FUSED_ATTENTION]
    packed = [node for node in fused if list(node.input[1:3]) == ["", ""]]
    report = next(report for report in reports if report.name == "pack attention")
    assert report.kept
    assert report.changed == len(packed)
    # A norm of its own stands between Qwen3's projections and the attention.
    assert len(packed) == (0 if family in ("qwen3-fused", "untied") else 2)


def test_lowering_refuses_other_values_than_planned(tmp_path):
    model = make_model("llama-fused", tmp_path / "hf")
    path = export_onnx(model, tmp_path)
    quantized = quantize_model(model, [], _settings("int4", 32, True), VNNI)
    with pytest.raises(ValueError, match="not what was planned"):
        lower_groups(Graph.load(path), quantized)


def test_two_codes_of_four_bits_share_a_byte():
    codes = np.array([[1, 2, 15], [0, 9, 4]], np.uint8)
    assert pack_bits(codes, 4).tolist() == [[0x21, 0x0F], [0x90, 0x04]]
    assert pack_bits(codes, 8) is codes


@pytest.mark.parametrize(
    ("family", "prefer", "target", "formats"),
    [
        ("llama-fused", "prompt", "x86-avx512-vnni", {"int8"}),
        ("llama-fused", "decode", "x86-avx512-vnni", {"int4"}),
        ("llama-fused", "decode", "arm", {"int8"}),
        ("llama-fused", "balanced", "x86-avx512-vnni", {"int8"}),
        ("bert", "decode", "x86-avx512-vnni", {"int8"}),
    ],
)
def test_the_preferred_work_decides_the_format(family, prefer, target, formats, tmp_path):
    model = make_model(family, tmp_path)
    settings = QuantizeSettings(prefer=prefer, massive_activations="none")
    quantized = quantize_model(model, [], settings, find(target))
    inside = model.anatomy.block_linears()
    assert {entry.format for entry in quantized.plan if entry.name in inside} == formats
