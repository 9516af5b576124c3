"""Let the operator library's attention take the place of a layer's nodes.

    q, k, v ─> GroupQueryAttention                           becomes    q, k, v ─> RowAttention
    q, k, v ─> heads ─> products, mask, softmax ─> merged    becomes    q, k, v ─> RowAttention

Its rows do not depend on each other: a token's answer is the same to the bit in a prompt cut
anywhere, among others or alone, and where that holds of all products the graph says so. A Split
that feeds nothing else goes with it.
"""

import numpy as np
from onnx import NodeProto, helper

from edgeprune.export.graph import Graph, attribute
from edgeprune.kernels.attention import ROW_ATTENTION, make_row_attention
from edgeprune.kernels.formats import DOMAIN
from edgeprune.runtime.names import FUSED_ATTENTION, ROW_INVARIANT

_HEADS_FIRST = [0, 2, 1, 3]
_TURNED = [0, 2, 3, 1]
_FUSED = ROW_ATTENTION["float32"]


def take_row_attention(graph: Graph) -> int:
    """Replace every attention that the operator computes; return how many."""
    changed = 0
    for node in list(graph.nodes):
        if node.op_type == FUSED_ATTENTION:
            _retype(node)
            changed += 1
        elif node.op_type == "Softmax":
            changed += _written_out(graph, node)
    graph.index()
    graph.sweep()
    if changed and all(map(_by_row, graph.nodes)):
        graph.metadata[ROW_INVARIANT] = "yes"
    return changed


def _by_row(node: NodeProto) -> bool:
    """Whether what a node gives a token does not depend on what it computes beside it."""
    if node.domain == DOMAIN:
        return node.op_type == _FUSED or "QuantLinear" in node.op_type
    return node.op_type not in _TOGETHER


_TOGETHER = {
    "Conv",
    "DynamicQuantizeLinear",
    "Gemm",
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    FUSED_ATTENTION,
    "Softmax",
}
"""Stock operators whose sums over a token's values depend on the number of tokens."""


def _retype(node: NodeProto) -> None:
    node.op_type, node.domain = _FUSED, DOMAIN
    given = {entry.name for entry in node.attribute}
    defaults = {"softcap": 0.0, "local_window_size": -1, "causal": 1}
    node.attribute.extend(
        helper.make_attribute(name, value) for name, value in defaults.items() if name not in given
    )


def _written_out(graph: Graph, softmax: NodeProto) -> bool:
    """Attention of attention_nodes.py around its softmax."""
    masked = graph.producers.get(softmax.input[0])
    context = graph.only_reader(softmax.output[0], ("MatMul",))
    if masked is None or masked.op_type != "Add" or context is None:
        return False
    scaled = graph.producers.get(masked.input[0])
    scores = None if scaled is None or scaled.op_type != "Mul" else _maker(graph, scaled, 0)
    if scaled is None or scores is None or scores.op_type != "MatMul":
        return False
    scale = graph.constant(scaled.input[1])
    read = [
        _by_heads(graph, name, perm)
        for name, perm in (
            (scores.input[0], _HEADS_FIRST),
            (scores.input[1], _TURNED),
            (context.input[1], _HEADS_FIRST),
        )
    ]
    tokens = graph.only_reader(context.output[0], ("Transpose",))
    merged = None if tokens is None else graph.only_reader(tokens.output[0], ("Reshape",))
    width = None if merged is None else graph.constant(merged.input[1])
    if merged is None or width is None or width[-1] < 1 or scale is None or scale.size != 1:
        return False
    sizes = {size for _, size in read}
    if None in sizes or len(sizes) != 1:
        return False
    [size] = sizes
    heads = int(width[-1]) // int(size or 1)
    names = [name for name, _ in read]
    query, key, value = _packed(graph, names)
    name = f"{merged.name.rpartition('/')[0]}/{_FUSED}"
    node = make_row_attention(
        name,
        query,
        f"{name}_output_0",
        num_heads=heads,
        kv_num_heads=heads,
        key=key,
        value=value,
        bias=masked.input[1],
        scale=float(np.float32(scale)),
        causal=False,
    )
    graph.replace_uses(merged.output[0], graph.insert(node))
    return True


def _maker(graph: Graph, node: NodeProto, place: int) -> NodeProto | None:
    return graph.producers.get(node.input[place])


def _by_heads(graph: Graph, tensor: str, perm: list[int]) -> tuple[str, int | None]:
    """The tensor (B,S,H*D) that one by heads was made from, and D."""
    turned = graph.producers.get(tensor)
    if turned is None or turned.op_type != "Transpose" or attribute(turned, "perm") != perm:
        return "", None
    apart = _maker(graph, turned, 0)
    shape = None if apart is None else graph.constant(apart.input[1])
    if apart is None or apart.op_type != "Reshape" or shape is None or shape.size != 4:
        return "", None
    return apart.input[0], int(shape[3])


def _packed(graph: Graph, names: list[str]) -> tuple[str, str, str]:
    """Query, key and value; or what they are equal parts of, and nothing."""
    split = graph.producers.get(names[0])
    if split is not None and split.op_type == "Split" and list(split.output) == names:
        sizes = graph.constant(split.input[1]) if len(split.input) > 1 else None
        if sizes is not None and len(set(sizes.tolist())) == 1:
            return split.input[0], "", ""
    return names[0], names[1], names[2]
