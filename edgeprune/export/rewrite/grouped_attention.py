"""Fuse a decoder's attention into the runtime's GroupQueryAttention, with its cache in place.

    q, k, v ─> GroupQueryAttention (rotary embedding, cache, product, softmax, product) ─> o

One operator replaces about 150 of the tracer's nodes. If the client binds past and present to one
buffer, it writes a token's key and value directly into that cache; otherwise the client gets the
longer copy, as from a plain export. Each node has its layer's own head counts.

Everything is taken from the graph, not from a configuration. The angles of the rotary embedding
become a table by running the nodes that compute them. The mask (padding on either side, a sliding
window) is the model's own, added to the scores; its sizes are read from attention_mask and
input_ids, because the cache may be longer than its contents.

A token's position is its index in the cache, whatever position_ids say: in a prompt the operator
reads only the first row's (ONNX Runtime 1.31), which is wrong for rows with different padding on
the left. Attention depends only on differences of positions, so the results of such rows are
unchanged; only position_ids with gaps would mean something else.
"""

from collections.abc import Iterable

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper

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
from edgeprune.export.tensors import to_proto
from edgeprune.model.anatomy import FUSED_HEADS, Anatomy
from edgeprune.runtime.names import FUSED_ATTENTION, PAST, SHARED_CACHE

_PATH = "/attention"


def fuse_attention(graph: Graph, anatomy: Anatomy) -> int:
    """Fuse the attention of every block of a decoder; return how many.

    Raises:
        ValueError: a block's attention is not in the graph as expected, or the operator cannot
            compute it.
    """
    if not anatomy.attends:
        raise ValueError("short convolutions have caches that no operator writes in place")
    tables = _RotaryTables(graph, anatomy.max_positions)
    lengths = _lengths(graph)
    for parts in find_attention(graph, anatomy):
        _fuse(graph, parts, tables, lengths)
    graph.sweep()
    _sizes_without_cache(graph)
    graph.sweep()
    graph.metadata[SHARED_CACHE] = "yes"
    return len(anatomy.blocks)


def _fuse(
    graph: Graph, parts: AttentionParts, tables: "_RotaryTables", lengths: tuple[str, str]
) -> None:
    attention = parts.attention
    if attention.head_dim % FUSED_HEADS:
        raise ValueError(f"heads of {attention.head_dim}, which is not a multiple of {FUSED_HEADS}")
    if len(parts.added) != 1:
        raise ValueError(f"{len(parts.added)} tensors are added to the scores, not one mask")
    keys, values = find_caches(graph, parts)
    rotary = rotary_parts(graph, keys.input[1], parts)
    if rotary is None:
        raise ValueError("keys are not turned by their position")
    key_start, cos, sin, width = rotary
    if width != attention.head_dim:
        raise ValueError(f"{width} of a head's {attention.head_dim} values are turned")
    start = query_start(graph, parts, cos)
    for tensor in (parts.query, parts.key, parts.value):
        fix_heads(graph, parts, tensor)
    query = _tokens_first(graph, parts, start, parts.query, "query")
    key = _tokens_first(graph, parts, key_start, parts.key, "key")
    value = _tokens_first(graph, parts, values.input[1], parts.value, "value")
    mask = causal_mask(graph, parts.added[0])
    past = [keys.input[0], values.input[0]]
    present = [keys.output[0], values.output[0]]
    graph.remove([keys, values])
    output = f"{parts.path}/{FUSED_ATTENTION}_output_0"
    graph.add(
        FUSED_ATTENTION,
        [query, key, value, *past, *lengths, *tables.of(cos, sin), "", mask],
        f"{parts.path}/{FUSED_ATTENTION}",
        outputs=[output, *present],
        domain=CONTRIB,
        num_heads=attention.num_heads,
        kv_num_heads=attention.num_key_value_heads,
        scale=float(parts.scale),
        do_rotary=1,
    )
    graph.replace_uses(parts.result, output)


def _tokens_first(
    graph: Graph, parts: AttentionParts, tensor: str, projection: str, role: str
) -> str:
    """(B,H,S,D) -> the (B,S,H*D) that it was transposed from."""
    turn = graph.producers[tensor]
    if turn.op_type != "Transpose":
        raise ValueError(f"{tensor} was not transposed from its projection")
    split = graph.producers[turn.input[0]]
    if split.op_type == "Reshape" and split.input[0] == projection:
        return projection
    shape = graph.add_constant(f"{parts.path}/joined", np.array([0, 0, -1], np.int64))
    return graph.add("Reshape", [turn.input[0], shape], f"{parts.path}/{role}/Joined")


def _lengths(graph: Graph) -> tuple[str, str]:
    """The operator's lengths: tokens minus one of each row (B,), and the total length (1,)."""
    total = graph.add("Shape", ["attention_mask"], f"{_PATH}/total", start=1, end=2)
    total = graph.add("Cast", [total], f"{_PATH}/total_int32", to=TensorProto.INT32)
    one = graph.add_constant(f"{_PATH}/one", np.array([1], np.int32))
    last = graph.add("Sub", [total, one], f"{_PATH}/last")
    batch = graph.add("Shape", ["input_ids"], f"{_PATH}/batch", start=0, end=1)
    return graph.add("Expand", [last, batch], f"{_PATH}/last_of_rows"), total


def _sizes_without_cache(graph: Graph) -> None:
    """Make nodes that read the cache's size compute it from the other inputs.

    Raises:
        ValueError: the cache is read for anything but its size.
    """
    caches = [name for name in graph.inputs if name.startswith(PAST)]
    for cache in caches:
        for reader in list(graph.consumers[cache]):
            if reader.op_type == FUSED_ATTENTION:
                continue
            sizes = graph.consumers[reader.output[0]] if reader.op_type == "Shape" else []
            if reader.op_type != "Shape" or reader.attribute:
                raise ValueError(f"{reader.name} reads the cache beside the attention")
            for size in list(sizes):
                graph.replace_uses(size.output[0], _cache_size(graph, size))


def _cache_size(graph: Graph, size: NodeProto) -> str:
    """The number of rows or of cached tokens, whichever a node reads from the cache's shape."""
    place = graph.constant(size.input[1]) if size.op_type == "Gather" else None
    if place is None or place.size != 1 or int(place.reshape(-1)[0]) not in (0, 2):
        raise ValueError(f"{size.name} reads the shape of the cache in an unknown way")
    if int(place.reshape(-1)[0]) == 0:
        rows = f"{_PATH}/rows_{place.ndim}"
        shape = graph.add("Shape", ["input_ids"], f"{rows}/Shape")
        return graph.add("Gather", [shape, size.input[1]], rows)
    path = f"{_PATH}/past_{place.ndim}"
    if f"{path}_output_0" not in graph.producers:
        one = graph.add_constant(f"{path}/axis", np.ones(place.shape, np.int64))
        counts = []
        for name in ("attention_mask", "input_ids"):
            shape = graph.add("Shape", [name], f"{path}/{name}/Shape")
            counts.append(graph.add("Gather", [shape, one], f"{path}/{name}/Gather"))
        graph.add("Sub", counts, path)
    return f"{path}_output_0"


class _RotaryTables:
    """Cosines and sines of every position, (positions, D/2), by the graph's own computation."""

    def __init__(self, graph: Graph, positions: int) -> None:
        self.graph = graph
        self.positions = positions
        self._made: dict[str, str] = {}

    def of(self, *tensors: str) -> list[str]:
        """The tables of tensors that hold a run's angles, (B,S,D) or (B,1,S,D)."""
        return [self._table(self._root(tensor)) for tensor in tensors]

    def _root(self, tensor: str) -> str:
        """The tensor of angles that every layer unsqueezes for itself."""
        node = self.graph.producers[tensor]
        return node.input[0] if node.op_type == "Unsqueeze" else tensor

    def _table(self, tensor: str) -> str:
        if tensor not in self._made:
            asked = self.graph.sources(tensor)
            if asked != {"position_ids"}:
                raise ValueError(f"the rotary embedding depends on {', '.join(sorted(asked))}")
            whole = _evaluate(self.graph, tensor, self.positions)
            left, right = np.split(whole.reshape(self.positions, -1), 2, axis=-1)
            if not np.array_equal(left, right):
                raise ValueError("the angles do not repeat in the two halves of a head")
            self._made[tensor] = self.graph.add_constant(f"{tensor}_table", left)
        return self._made[tensor]


def _evaluate(graph: Graph, tensor: str, positions: int) -> np.ndarray:
    """A tensor's value for one row of position_ids 0, 1, 2, ..."""
    graph.sort()
    wanted = {id(node) for node in graph.ancestors(tensor)}
    nodes = [node for node in graph.nodes if id(node) in wanted]
    read = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "angles",
            [helper.make_tensor_value_info("position_ids", TensorProto.INT64, [1, positions])],
            [helper.make_empty_tensor_value_info(tensor)],
            [to_proto(name, graph.initializers[name]) for name in _stored(graph, read)],
        ),
        opset_imports=graph.opsets,
        ir_version=graph.ir_version,
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [value] = session.run(None, {"position_ids": np.arange(positions, dtype=np.int64)[None]})
    return np.asarray(value, np.float32)


def _stored(graph: Graph, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name in graph.initializers)
