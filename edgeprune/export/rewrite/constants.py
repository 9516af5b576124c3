"""Fold nodes that do not depend on the input, and drop nodes that do nothing.

A tracer leaves chains of Shape, Gather and arithmetic, most of them on sizes that the model fixes:
hundreds of nodes in a decoder, each with its overhead in every run.
"""

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper, shape_inference

from edgeprune.export.graph import Graph, attribute
from edgeprune.export.tensors import to_proto

# Folding must not turn a small constant into a large one.
_MAX_FOLDED_ELEMENTS = 4096
_NEVER = {"RandomNormal", "RandomUniform", "DynamicQuantizeLinear"}


def fold_constants(graph: Graph) -> int:
    """Fold constant nodes, fixed sizes and do-nothing casts, until nothing changes.

    Returns:
        The number of nodes removed.
    """
    before = len(graph.nodes)
    _store_constants(graph)
    while _fold_sizes(graph) + _fold_nodes(graph) + _drop_noop_casts(graph):
        graph.sweep()
    graph.sweep()
    return before - len(graph.nodes)


def _store_constants(graph: Graph) -> None:
    """Turn Constant nodes, and Identity nodes of initializers, into initializers."""
    gone = []
    for node in graph.nodes:
        if node.op_type == "Constant":
            value = attribute(node, "value")
            if value is None:
                continue
            graph.add_constant(node.output[0], numpy_helper.to_array(value))
            gone.append(node)
    graph.remove(gone)
    for node in list(graph.nodes):
        if node.op_type == "Identity" and node.output[0] not in graph.outputs:
            graph.replace_uses(node.output[0], node.input[0])


def _fold_sizes(graph: Graph) -> int:
    """Replace Gather(Shape(x), i) by a number if the size of x at i is fixed."""
    shapes = _shapes(graph)
    folded = 0
    for node in list(graph.nodes):
        if node.op_type != "Gather" or node.output[0] in graph.outputs:
            continue
        producer = graph.producers.get(node.input[0])
        place = graph.constant(node.input[1])
        if producer is None or producer.op_type != "Shape" or place is None:
            continue
        dims = shapes.get(producer.input[0])
        if dims is None or len(producer.attribute) or place.size != 1:
            continue
        size = dims[int(place.reshape(-1)[0])]
        if size is not None:
            name = graph.add_constant(f"{node.output[0]}_fixed", np.full(place.shape, size))
            graph.replace_uses(node.output[0], name)
            folded += 1
    return folded


def _shapes(graph: Graph) -> dict[str, list[int | None]]:
    """Sizes proved by shape inference; None if a size depends on the input."""
    inferred = shape_inference.infer_shapes(graph.outline(), data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _fold_nodes(graph: Graph) -> int:
    """Evaluate nodes whose inputs are all constant and small."""
    from onnx.reference import ReferenceEvaluator

    folded = []
    for node in graph.nodes:
        if node.domain or node.op_type in _NEVER or set(node.output) & set(graph.outputs):
            continue
        read = [name for name in node.input if name]
        if not read or not all(graph.is_small(name, _MAX_FOLDED_ELEMENTS) for name in read):
            continue
        results = ReferenceEvaluator(_single(node, graph)).run(None, {})
        if any(np.size(result) > _MAX_FOLDED_ELEMENTS for result in results):
            continue
        for name, result in zip(node.output, results, strict=True):
            graph.add_constant(name, np.asarray(result))
        folded.append(node)
    graph.remove(folded)
    return len(folded)


def _single(node: NodeProto, graph: Graph) -> onnx.ModelProto:
    body = helper.make_graph(
        [node],
        "constant",
        [],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [to_proto(name, graph.initializers[name]) for name in node.input if name],
    )
    return helper.make_model(body, opset_imports=graph.opsets)


def _drop_noop_casts(graph: Graph) -> int:
    """Remove casts of a tensor to its own type."""
    types = graph.types()
    dropped = 0
    for node in list(graph.nodes):
        if (
            node.op_type == "Cast"
            and node.output[0] not in graph.outputs
            and types.get(node.input[0]) == attribute(node, "to")
        ):
            graph.replace_uses(node.output[0], node.input[0])
            dropped += 1
    return dropped
