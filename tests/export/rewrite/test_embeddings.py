"""An embedding that shares its table with a head of the operator library."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry, Plan
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.embeddings import lower_embeddings
from edgeprune.export.rewrite.quant_linears import lower_quant_linears
from edgeprune.export.rewrite.verify import opened

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
_GATHER = "/model/embed_tokens/Gather"


def shared(rows: int, width: int) -> Quantized:
    """A table of every code, and the head that has it too."""
    random = torch.Generator().manual_seed(rows)
    codes = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=random)
    scales = torch.rand(rows, generator=random) + 0.1
    plan = Plan(
        (
            Entry(EMBEDDING, "word", (rows, width), "int8-rows", bits=8),
            Entry(HEAD, "head", (rows, width), "quant-int8", tied_to=EMBEDDING, bits=8),
        )
    )
    names = (EMBEDDING, HEAD)
    return Quantized(plan, dict.fromkeys(names, codes), dict.fromkeys(names, scales))


def emitted(quantized: Quantized) -> Graph:
    """input_ids ─> embedding ─> head ─> logits."""
    values = quantized.values(EMBEDDING).numpy()
    nodes = [
        helper.make_node(
            "Gather", ["table", "input_ids"], ["states"], "/model/embed_tokens/Gather"
        ),
        helper.make_node("MatMul", ["states", "weight"], ["logits"], "/lm_head/MatMul"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "shared",
        [value("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [value(name, TensorProto.FLOAT, None) for name in ("logits", "states")],
        [
            numpy_helper.from_array(values, "table"),
            numpy_helper.from_array(np.ascontiguousarray(values.T), "weight"),
        ],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize("rows", [64, 70])
@pytest.mark.parametrize("width", [4, 32, 40, 63])
def test_a_shared_table_is_stored_once_and_its_rows_have_the_same_bits(rows, width):
    quantized = shared(rows, width)
    graph = emitted(quantized)
    lower_embeddings(graph, quantized)
    assert lower_quant_linears(graph, quantized) == 1
    tables = [each for each in graph.initializers.values() if each.nbytes >= rows * width]
    tables = [each for each in tables if each.dtype.numpy() == np.uint8]
    assert len(tables) == 1
    assert not any(each.dtype.numpy() == np.int8 for each in graph.initializers.values())
    tokens = np.stack([np.arange(rows), np.arange(rows)[::-1]])
    [states, logits] = opened(graph).run(["states", "logits"], {"input_ids": tokens})
    values = quantized.values(EMBEDDING).numpy()
    np.testing.assert_array_equal(states, values[tokens])
    apart = np.abs(logits - states @ values.T).max()
    # Activations have 127 steps of their largest value.
    assert apart <= np.abs(values).sum(axis=1).max() * np.abs(values).max() / 127


def test_a_head_of_the_runtimes_products_gathers_columns():
    quantized = shared(64, 32)
    plan = [
        Entry(EMBEDDING, "word", (64, 32), "int8-rows", bits=8),
        Entry(HEAD, "head", (64, 32), "int8-token", tied_to=EMBEDDING, bits=8),
    ]
    quantized.plan = Plan(tuple(plan))
    graph = emitted(quantized)
    lower_embeddings(graph, quantized)
    assert graph.shape(f"{EMBEDDING}.codes") == (32, 64)
