"""Rewrite each layer's attention with that layer's own head counts as constants.

Most of the tracer's nodes between the projections are arithmetic on sizes: about 25 nodes per
encoder layer and 150 per decoder layer. They become (S tokens now, T with the cache, D the head
size):

    encoder  as attention_nodes.py has it

    decoder  the same, the rotary embedding as one operator, and the query heads that share a
             key-value head stacked as rows, (B,Hkv,G*S,D), so that no key or value is copied.

Products of q, k and v are merged later, by the INT8 lowering.
"""

import numpy as np

from edgeprune.export.attention_nodes import (
    attend,
    join_heads,
    padding_mask,
    scaled_scores,
)
from edgeprune.export.graph import CONTRIB, Graph
from edgeprune.export.rewrite.attention_parts import (
    AttentionParts,
    causal_mask,
    find_attention,
    find_caches,
    fix_heads,
    query_start,
    rotary_parts,
)
from edgeprune.model.anatomy import Anatomy


def lay_out_attention(graph: Graph, anatomy: Anatomy) -> int:
    """Rewrite the attention of every block that attends; return how many.

    Raises:
        ValueError: a block's attention is not in the graph as expected.
    """
    for parts in find_attention(graph, anatomy):
        (_causal if anatomy.causal else _bidirectional)(graph, parts)
    graph.sweep()
    return len(anatomy.attentions) * anatomy.repeats


def _bidirectional(graph: Graph, parts: AttentionParts) -> None:
    added = [padding_mask(graph) if _is_mask(graph, each) else each for each in parts.added]
    projections = (parts.query, parts.key, parts.value)
    merged = attend(graph, parts.path, parts.attention, projections, added)
    graph.replace_uses(parts.result, merged)


def _is_mask(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is computed from the attention mask, not from a weight."""
    nodes = graph.ancestors(tensor)
    read = {name for node in nodes for name in node.input}
    weights = [name for name in read if name in graph.initializers]
    return "attention_mask" in read and all(graph.is_small(name) for name in weights)


def _causal(graph: Graph, parts: AttentionParts) -> None:
    attention = parts.attention
    groups = attention.num_key_value_heads
    keys, values = find_caches(graph, parts)
    rotary = rotary_parts(graph, keys.input[1], parts)
    if rotary is None:
        query = parts.heads(graph, parts.query, "query", [0, 2, 1, 3])
        keys.input[1] = parts.heads(graph, parts.key, "key", [0, 2, 1, 3])
        values.input[1] = parts.heads(graph, parts.value, "value", [0, 2, 1, 3])
    else:
        key_start, cos, sin, width = rotary
        start = query_start(graph, parts, cos)
        for tensor in (parts.query, parts.key, parts.value):
            fix_heads(graph, parts, tensor)
        table = _rotary_tables(graph, cos, sin, width)
        query = _rotate(graph, start, cos, table, f"{parts.path}/query")
        _rotate(graph, key_start, cos, table, f"{parts.path}/key")
    graph.index()
    rows = graph.add_constant(f"{parts.path}/rows", np.array([0, groups, -1, 0], np.int64))
    heads = graph.add_constant(
        f"{parts.path}/query_heads", np.array([0, attention.num_heads, -1, 0], np.int64)
    )
    stacked = graph.add("Reshape", [query, rows], f"{parts.path}/query/Rows")
    turned = graph.add("Transpose", [keys.output[0]], f"{parts.path}/key/Turned", perm=[0, 1, 3, 2])
    scores = scaled_scores(graph, parts.path, attention.head_dim, stacked, turned)
    scores = graph.add("Reshape", [scores, heads], f"{parts.path}/ScoresByHead")
    for place, tensor in enumerate(parts.added):
        mask = causal_mask(graph, tensor)
        scores = graph.add("Add", [scores, mask], f"{parts.path}/Masked_{place}")
    weights = graph.add("Softmax", [scores], f"{parts.path}/Weights", axis=-1)
    weights = graph.add("Reshape", [weights, rows], f"{parts.path}/WeightsByGroup")
    context = graph.add("MatMul", [weights, values.output[0]], f"{parts.path}/Context")
    context = graph.add("Reshape", [context, heads], f"{parts.path}/ContextByHead")
    graph.replace_uses(parts.result, join_heads(graph, parts.path, attention, context))


def _rotary_tables(graph: Graph, cos: str, sin: str, head_dim: int) -> tuple[str, str, str]:
    """Cosines and sines of this run's tokens as tables (B*S, D/2), and each token's row."""
    path = "/rotary"
    if f"{path}/rows_output_0" in graph.producers:
        return f"{path}/rows_output_0", f"{path}/cos/Table_output_0", f"{path}/sin/Table_output_0"
    # Without position_ids, every text counts from the end of the cache.
    given = "position_ids" in graph.inputs
    for name, tensor in (("cos", cos), ("sin", sin)):
        # Both halves of a head have the same angles.
        start = graph.add_constant(f"{path}/start", np.array([0], np.int64))
        end = graph.add_constant(f"{path}/end", np.array([head_dim // 2], np.int64))
        axis = graph.add_constant(f"{path}/axis", np.array([-1], np.int64))
        half = graph.add("Slice", [tensor, start, end, axis], f"{path}/{name}/Half")
        shape = graph.add_constant(f"{path}/shape", np.array([-1, head_dim // 2], np.int64))
        graph.add("Reshape", [half, shape], f"{path}/{name}/Table")
    shape = graph.add("Shape", ["position_ids" if given else "input_ids"], f"{path}/tokens")
    if given:
        count = graph.add("Size", ["position_ids"], f"{path}/count")
    else:
        place = graph.add_constant(f"{path}/place", np.array(1, np.int64))
        count = graph.add("Gather", [shape, place], f"{path}/count")
    zero = graph.add_constant(f"{path}/zero", np.array(0, np.int64))
    one = graph.add_constant(f"{path}/one", np.array(1, np.int64))
    numbers = graph.add("Range", [zero, count, one], f"{path}/numbers")
    graph.add("Reshape" if given else "Expand", [numbers, shape], f"{path}/rows")
    return f"{path}/rows_output_0", f"{path}/cos/Table_output_0", f"{path}/sin/Table_output_0"


def _rotate(graph: Graph, start: str, cos: str, table: tuple[str, str, str], path: str) -> str:
    """Rotate `start` by one operator; return whole heads, including the part not rotated."""
    product = next(node for node in graph.consumers[cos] if start in node.input)
    [total] = graph.consumers[product.output[0]]
    [before] = total.output
    joined = next((n for n in graph.consumers[before] if n.op_type == "Concat"), None)
    turned = graph.add("RotaryEmbedding", [start, *table], f"{path}/Rotary", domain=CONTRIB)
    graph.replace_uses(before, turned)
    # The cache is also a Concat, with past rows first.
    return turned if joined is None or joined.input[0] != turned else joined.output[0]
