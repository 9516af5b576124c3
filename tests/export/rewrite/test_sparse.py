"""Sparse linears in a rewritten graph: the dense INT8 graph in a stock runtime, and the operators'
answers with the library."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sparse_models import library_for_tests
from tiny_models import make_batch, make_model

from edgeprune.base.quiet import quiet
from edgeprune.compress.prune.patterns import Blocks
from edgeprune.compress.quantize.model import Quantized, quantize_model
from edgeprune.compress.quantize.plan import SPARSE
from edgeprune.compress.quantize.settings import QuantizeSettings
from edgeprune.export.graph import Graph, attribute
from edgeprune.export.rewrite.activation import find_activation
from edgeprune.export.rewrite.run import PassReport, rewrite
from edgeprune.export.rewrite.verify import mean_drift, run_graph
from edgeprune.export.trace import export_onnx
from edgeprune.kernels import library
from edgeprune.kernels.formats import DOMAIN, FORMATS
from edgeprune.kernels.pack import Packed, unpack
from edgeprune.targets import find
from edgeprune.targets.break_even import UNMEASURED_FROM

torch.set_num_threads(1)
TARGET = replace(find("x86-avx512-vnni"), name="unmeasured")
BATCHES = [{name: value.numpy() for name, value in make_batch(rows=1).items()}]
FAMILIES = ("bert", "mpnet", "llama")


@dataclass
class Built:
    """One model, rewritten dense and sparse, its plan, and the sparse build's passes."""

    dense: Path
    sparse: Path
    quantized: Quantized
    reports: list[PassReport]


@pytest.fixture(scope="module", autouse=True)
def operators(tmp_path_factory):
    """The operator library as an installed one."""
    built = library_for_tests(tmp_path_factory.mktemp("library"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LIBRARY", built)
        yield


def empty_blocks(model, share=0.85):
    """Empty blocks of 4x16 at random, at least one kept in each linear."""
    generator = torch.Generator().manual_seed(0)
    for name in model.anatomy.block_linears():
        weight = model.linear(name).weight
        blocks = Blocks(tuple(weight.shape), 4, 16)
        kept = torch.rand(blocks.units, generator=generator).argsort() < max(
            1, int((1 - share) * blocks.units)
        )
        weight.data.mul_(blocks.element_mask(kept))


def build_both(family, folder) -> Built:
    model = make_model(family, folder / "hf", unequal=False)
    empty_blocks(model)
    # By the tensor, and by the token where the model is a decoder.
    quantized = quantize_model(model, [make_batch()], QuantizeSettings(massive_ratio=1.1), TARGET)
    raw = export_onnx(model, folder)
    plans = {"dense": as_dense(quantized), "sparse": quantized}
    for name, plan in plans.items():
        reports = rewrite(raw, folder / f"{name}.onnx", model.anatomy, plan, BATCHES, TARGET)
    return Built(folder / "dense.onnx", folder / "sparse.onnx", quantized, reports)


def as_dense(quantized):
    """The same values, planned for the runtime's own INT8."""
    entries = tuple(
        replace(entry, format="int8-token" if entry.format.endswith("-token") else "int8")
        if entry.format in SPARSE
        else entry
        for entry in quantized.plan
    )
    return replace(quantized, plan=replace(quantized.plan, entries=entries))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds each family once."""
    done: dict[str, Built] = {}

    def make(family):
        if family not in done:
            done[family] = build_both(family, tmp_path_factory.mktemp(family))
        return done[family]

    return make


def nodes_of(path):
    return [node for node in onnx.load(str(path)).graph.node if node.domain == DOMAIN]


def optimized(path, folder):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stock_runtime_is_left_with_the_dense_graph(family, build, tmp_path):
    built = build(family)
    assert nodes_of(built.sparse)
    dense, sparse = optimized(built.dense, tmp_path), optimized(built.sparse, tmp_path)
    if family == "llama":
        # A decoder's linears without a bias have one of zeros in the operator.
        del dense["Add"], sparse["Add"]
    assert sparse == dense
    [wanted] = run_graph(Graph.load(built.dense), BATCHES)
    [got] = run_graph(Graph.load(built.sparse), BATCHES)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_answers_as_the_stock_runtime(family, build):
    graph = Graph.load(build(family).sparse)
    stock, fast = run_graph(graph, BATCHES), run_graph(graph, BATCHES, kernels=True)
    # A rounding of an activation may fall the other way after sums in another order.
    assert mean_drift(stock, fast) < 0.02
    [report] = [r for r in build(family).reports if r.name == "sparse linears"]
    assert report.kept
    assert report.changed == len([e for e in build(family).quantized.plan if e.format in SPARSE])


def test_epilogues_are_taken_in(build):
    kinds = Counter(node.op_type for node in nodes_of(build("bert").sparse))
    assert kinds == {"SparseLinearInt8": 2, "SparseLinearInt8Add": 4, "SparseLinearInt8Gelu": 2}
    kinds = Counter(node.op_type for node in nodes_of(build("llama").sparse))
    # Per layer: q, k and v in one; gate with up's result; up; output and down with the residual.
    assert kinds == {
        "SparseLinearInt8Rows": 4,
        "SparseLinearInt8RowsSiluMul": 2,
        "SparseLinearInt8RowsAdd": 4,
    }


def test_codes_in_the_file_are_the_planned_ones(build):
    quantized = build("bert").quantized
    graph = onnx.load(str(build("bert").sparse)).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = {}
    for node in graph.node:
        if node.domain == DOMAIN:
            K, N = attribute(node, "K"), attribute(node, "N")
            mask, values = (tensors[f"{node.name}/{part}"] for part in ("mask", "values"))
            found[node.name] = unpack(Packed(FORMATS["int8-4x16"], K, N, mask, values))
    for entry in quantized.plan:
        if entry.format in SPARSE:
            codes = quantized.codes[entry.name].numpy().T
            assert entry.sparsity >= UNMEASURED_FROM
            assert any(_holds(whole, codes) for whole in found.values()), entry.name


def _holds(whole, codes):
    """Whether a matrix is the other, or has it among its columns."""
    width = codes.shape[1]
    return len(whole) == len(codes) and any(
        np.array_equal(whole[:, at : at + width], codes)
        for at in range(0, whole.shape[1] - width + 1, 16)
    )


def test_a_sparse_linear_beside_a_dense_one_shares_its_quantization(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    empty_blocks(model)
    with torch.no_grad():
        for block in model.anatomy.blocks:
            model.linear(block.attention.key).weight.normal_()
    quantized = quantize_model(model, [], QuantizeSettings(), TARGET)
    raw = export_onnx(model, tmp_path)
    rewrite(raw, tmp_path / "out.onnx", model.anatomy, quantized, BATCHES, TARGET)
    graph = Graph.load(tmp_path / "out.onnx")
    shared = [node for node in graph.nodes if node.op_type == "SparseLinearInt8Shared"]
    assert len(shared) == 2
    for node in shared:
        readers = graph.consumers[node.input[0]]
        assert sorted(n.op_type for n in readers) == ["MatMulInteger", "SparseLinearInt8Shared"]


def test_a_sparse_linear_beside_one_of_a_fixed_scale_quantizes_for_itself(tmp_path):
    model = make_model("bert", tmp_path / "hf", unequal=False)
    empty_blocks(model)
    for block in model.anatomy.blocks:
        torch.nn.init.normal_(model.linear(block.attention.key).weight)
    options = QuantizeSettings(activations="static", activation_range="minmax")
    quantized = quantize_model(model, [make_batch()], options, TARGET)
    raw = export_onnx(model, tmp_path)
    reports = rewrite(raw, tmp_path / "out.onnx", model.anatomy, quantized, BATCHES, TARGET)
    assert max(report.drift for report in reports if report.name == "sparse linears") < 0.1
    graph = Graph.load(tmp_path / "out.onnx")
    static = 0
    for linear in (node for node in graph.nodes if node.op_type == "MatMulIntegerToFloat"):
        floats = graph.producers[linear.input[0]].input[0]
        readers = graph.consumers[floats]
        beside = [n for n in readers if n.domain == DOMAIN and n.input[0] == floats]
        assert [node.op_type for node in beside] == ["SparseLinearInt8"]
        static += 1
    assert static == len(model.anatomy.blocks)


def test_a_graph_keeps_its_functions(build):
    graph = Graph.load(build("bert").sparse)
    names = {function.name for function in graph.model().functions}
    assert names == {node.op_type for node in graph.nodes if node.domain == DOMAIN}
    assert {f.name for f in graph.snapshot().model().functions} == names


ACTIVATIONS = {
    "gelu": torch.nn.functional.gelu,
    "gelu-tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    None: torch.nn.functional.relu6,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_known_as_torch_exports_it(name, tmp_path):
    class Module(torch.nn.Module):
        def forward(self, x):
            y = x + 1.0
            return ACTIVATIONS[name](y) @ torch.ones(3, 3)

    path = tmp_path / "model.onnx"
    with quiet():
        torch.onnx.export(Module(), (torch.ones(2, 3),), str(path), opset_version=17, dynamo=False)
    graph = Graph.load(path)
    from edgeprune.export.rewrite.constants import fold_constants

    fold_constants(graph)
    start = next(node.output[0] for node in graph.nodes if node.op_type == "Add")
    found = find_activation(graph, start)
    assert (found.name if found else None) == name
    if found:
        assert [node.op_type for node in graph.consumers[found.output]] == ["MatMul"]


def test_an_activation_that_another_node_reads_into_is_left(tmp_path):
    """Sigmoid times x, with the sigmoid read elsewhere too."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["gate"]),
        helper.make_node("Mul", ["x", "gate"], ["y"]),
        helper.make_node("Neg", ["gate"], ["z"]),
    ]
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xyz"}
    body = helper.make_graph(nodes, "silu", [values["x"]], [values["y"], values["z"]])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)])
    assert find_activation(Graph(model), "x") is None
