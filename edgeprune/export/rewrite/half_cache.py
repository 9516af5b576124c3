"""Store the cache of the operator library's attention in float16: half of its memory, read faster.

    key, value ─> RowAttention ─> present, float32   becomes   ... RowAttentionFloat16 ─> float16

The operator rounds what it writes, after the rotation, and computes in float32. In a stock runtime
its function turns the whole cache to float32 and back at every step.
"""

from onnx import NodeProto, TensorProto

from edgeprune.export.graph import Graph
from edgeprune.kernels.attention import ROW_ATTENTION
from edgeprune.kernels.formats import DOMAIN
from edgeprune.runtime.names import PAST, present_of


def halve_cache(graph: Graph) -> int:
    """Store every layer's keys and values in float16; return how many layers.

    Raises:
        ValueError: no attention is the operator library's.
    """
    changed = _retype(graph, "float32", "float16", TensorProto.FLOAT16)
    if not changed:
        raise ValueError("no attention is the operator library's, which has a cache in float16")
    return changed


def whole_cache(graph: Graph) -> int:
    """Undo `halve_cache`: put the cache back in float32; return how many layers."""
    return _retype(graph, "float16", "float32", TensorProto.FLOAT)


def _retype(graph: Graph, before: str, after: str, kind: int) -> int:
    nodes = [node for node in graph.nodes if _has_cache(node, ROW_ATTENTION[before])]
    for node in nodes:
        node.op_type = ROW_ATTENTION[after]
    if nodes:
        for past, _, (*_, size) in list(graph.input_shapes(PAST)):
            for name in (past, present_of(past)):
                graph.retype(name, kind, size)
    return len(nodes)


def _has_cache(node: NodeProto, op_type: str) -> bool:
    named = node.domain == DOMAIN and node.op_type == op_type
    return named and any(name.startswith(PAST) for name in node.input)
