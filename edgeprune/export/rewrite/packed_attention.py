"""Pass the merged product of q, k and v to the fused attention without splitting it.

    x ─> one product ─> Split ─> q, k, v ─> GroupQueryAttention      becomes
    x ─> one product ─> GroupQueryAttention

The operator accepts q, k and v concatenated as its query; splitting them first copies each.
"""

from edgeprune.export.graph import Graph
from edgeprune.runtime.names import FUSED_ATTENTION


def pack_attention(graph: Graph) -> int:
    """Remove every Split that feeds nothing but a fused attention; return how many."""
    packed = 0
    for node in graph.nodes:
        if node.op_type != FUSED_ATTENTION:
            continue
        split = graph.producers.get(node.input[0])
        if (
            split is not None
            and split.op_type == "Split"
            and list(split.output) == list(node.input[:3])
            and all(graph.consumers[name] == [node] for name in split.output)
        ):
            node.input[0] = split.input[0]
            node.input[1] = node.input[2] = ""
            packed += 1
    graph.index()
    graph.sweep()
    return packed
