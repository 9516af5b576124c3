"""Write the residual additions as Sum.

ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization when it loads a model, and
runs that several times slower than the two apart on a CPU (benchmarks/README.md,
"SkipLayerNormalization"). It does not fuse Sum, which is as fast as Add, so the file keeps its
speed in any session.
"""

from onnx import NodeProto

from edgeprune.export.graph import Graph

_NORMS = {"LayerNormalization", "SimplifiedLayerNormalization"}
# An RMS norm that the runtime has not fused yet begins with a square of the same tensor.
_NORM_STARTS = {"Pow"}


def residuals_as_sums(graph: Graph) -> int:
    """Replace every addition of two computed tensors that a norm reads by Sum; return how many."""
    changed = 0
    for node in graph.nodes:
        if node.op_type == "Add" and _feeds_norm(graph, node) and not _has_constant(graph, node):
            node.op_type = "Sum"
            changed += 1
    return changed


def _feeds_norm(graph: Graph, node: NodeProto) -> bool:
    readers = graph.consumers.get(node.output[0], [])
    return any(
        reader.op_type in _NORMS | _NORM_STARTS and reader.input[0] == node.output[0]
        for reader in readers
    )


def _has_constant(graph: Graph, node: NodeProto) -> bool:
    return any(name in graph.initializers for name in node.input)
