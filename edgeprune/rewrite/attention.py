"""Lay out each layer's attention anew, with that layer's own head counts as constants.

What the tracer leaves between the projections is mostly arithmetic on sizes: about 25 nodes per
encoder layer and 150 per decoder layer. This is what stands there afterwards (S tokens now, T with
the cache, D a head's size):

    encoder  q (B,S,H*D) -> (B,H,S,D) \
             k (B,S,H*D) -> (B,H,D,S)  > product * 1/sqrt(D) + mask -> softmax -> product with v
             v (B,S,H*D) -> (B,H,S,D) /                             -> (B,S,H*D)

    decoder  the same, the rotary embedding as one operator, and the query heads that share a
             key-value head stacked as rows, (B,Hkv,G*S,D), so that no key or value is copied.

One fused MultiHeadAttention was measured and is no faster on a CPU: 434 us against 420 us for 12
heads of 32 and 128 tokens (AMD Zen 4, one thread, ONNX Runtime 1.31); written out, any client runs
it. Merged products of q, k and v come later, with the INT8 lowering.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from onnx import NodeProto, TensorProto

from edgeprune.anatomy import Anatomy, Attention
from edgeprune.rewrite.graph import CONTRIB, Graph
from edgeprune.rewrite.linears import LinearNodes, find_linears

_ROLES = ("query", "key", "value")
_MASKED = float(np.finfo(np.float32).min)


def lay_out_attention(graph: Graph, anatomy: Anatomy) -> int:
    """Rewrite the attention of every block; return how many.

    Raises:
        ValueError: a block's attention is not in the graph as expected.
    """
    linears = find_linears(graph, list(anatomy.block_linears()))
    for block in anatomy.blocks:
        attention = block.attention
        missing = [name for name in attention.linears() if name not in linears]
        if missing:
            raise ValueError(f"the graph has no product named for {missing[0]}")
        _unfuse(graph, attention, linears)
        parts = _Parts(graph, block.index, attention, linears)
        if anatomy.kind == "encoder":
            _encoder(graph, parts)
        else:
            _decoder(graph, parts)
    graph.sweep()
    return len(anatomy.blocks)


class _Parts:
    """One block's projections, its softmax, and what is added to its scores."""

    def __init__(
        self, graph: Graph, index: int, attention: Attention, linears: dict[str, LinearNodes]
    ) -> None:
        self.index = index
        self.attention = attention
        self.query = linears[attention.query].output
        self.key = linears[attention.key].output
        self.value = linears[attention.value].output
        self.result = linears[attention.output].input
        self.output = linears[attention.output].product
        stop = (self.query, self.key, self.value)
        inside = graph.ancestors(self.result, stop)
        # Earlier layers are reached too, where a size is read off a hidden state.
        softmax = [
            node
            for node in inside
            if node.op_type == "Softmax" and _depends(graph, node.input[0], self.query)
        ]
        if len(softmax) != 1:
            raise ValueError(f"{len(softmax)} softmax nodes between the parts of {attention.query}")
        self.softmax = softmax[0]
        self.path = self.softmax.name.removesuffix("/Softmax")
        self.added = list(self._added(graph, self.softmax.input[0]))

    def _added(self, graph: Graph, scores: str) -> Iterable[str]:
        """The tensors added to the scores that do not come from this layer's query."""
        node = graph.producers.get(scores)
        while node is not None and node.op_type == "Add":
            inner = None
            for name in node.input:
                if _depends(graph, name, self.query):
                    inner = graph.producers[name]
                else:
                    yield name
            node = inner

    def heads(self, graph: Graph, tensor: str, role: str, perm: list[int]) -> str:
        """A projection's output by heads."""
        return _heads(graph, self.path, self.attention.head_dim, tensor, role, perm)

    @property
    def scale(self) -> np.ndarray:
        return np.array(1 / math.sqrt(self.attention.head_dim), np.float32)


def _depends(graph: Graph, name: str, on: str) -> bool:
    """Whether a tensor is computed from another; a search back to where that one is made."""
    made = graph.producers[on]
    return name == on or any(on in node.input for node in graph.ancestors(name, [on, *made.input]))


def _heads(graph: Graph, path: str, head_dim: int, tensor: str, role: str, perm: list[int]) -> str:
    """(B,S,H*D) -> (B,S,H,D), transposed."""
    shape = graph.add_constant(f"{path}/heads", np.array([0, 0, -1, head_dim], np.int64))
    split = graph.add("Reshape", [tensor, shape], f"{path}/{role}/Heads")
    return graph.add("Transpose", [split], f"{path}/{role}/HeadsFirst", perm=perm)


def _scores(graph: Graph, parts: _Parts, query: str, key: str) -> str:
    product = graph.add("MatMul", [query, key], f"{parts.path}/Scores")
    scale = graph.add_constant(f"{parts.path}/scale", parts.scale)
    return graph.add("Mul", [product, scale], f"{parts.path}/Scaled")


def _merge(graph: Graph, parts: _Parts, context: str) -> None:
    """(B,H,S,D) -> (B,S,H*D), read by the output projection."""
    attention = parts.attention
    tokens = graph.add("Transpose", [context], f"{parts.path}/TokensFirst", perm=[0, 2, 1, 3])
    width = attention.num_heads * attention.head_dim
    shape = graph.add_constant(f"{parts.path}/width", np.array([0, 0, width], np.int64))
    merged = graph.add("Reshape", [tokens, shape], f"{parts.path}/Merged")
    graph.replace_uses(parts.result, merged)


def _encoder(graph: Graph, parts: _Parts) -> None:
    query = parts.heads(graph, parts.query, "query", [0, 2, 1, 3])
    key = parts.heads(graph, parts.key, "key", [0, 2, 3, 1])
    value = parts.heads(graph, parts.value, "value", [0, 2, 1, 3])
    scores = _scores(graph, parts, query, key)
    for place, tensor in enumerate(parts.added):
        mask = _padding_mask(graph) if _is_mask(graph, tensor) else tensor
        scores = graph.add("Add", [scores, mask], f"{parts.path}/Masked_{place}")
    weights = graph.add("Softmax", [scores], f"{parts.path}/Weights", axis=-1)
    context = graph.add("MatMul", [weights, value], f"{parts.path}/Context")
    _merge(graph, parts, context)


def _is_mask(graph: Graph, tensor: str) -> bool:
    """Whether a tensor is made from the attention mask, and not from a weight."""
    nodes = graph.ancestors(tensor)
    read = {name for node in nodes for name in node.input}
    weights = [name for name in read if name in graph.initializers]
    return "attention_mask" in read and all(
        np.prod(graph.initializers[name].dims) <= 64 for name in weights
    )


def _padding_mask(graph: Graph) -> str:
    """(B,S) of ones and zeros -> (B,1,1,S) of zeros and the most negative float."""
    mask = "/attention_mask/Mul_output_0"
    if mask in graph.producers:
        return mask
    axes = graph.add_constant("/attention_mask/axes", np.array([1, 2], np.int64))
    rows = graph.add("Unsqueeze", ["attention_mask", axes], "/attention_mask/Unsqueeze")
    kept = graph.add("Cast", [rows], "/attention_mask/Cast", to=TensorProto.FLOAT)
    one = graph.add_constant("/attention_mask/one", np.array(1, np.float32))
    gone = graph.add("Sub", [one, kept], "/attention_mask/Sub")
    low = graph.add_constant("/attention_mask/low", np.array(_MASKED, np.float32))
    return graph.add("Mul", [gone, low], "/attention_mask/Mul")


def _decoder(graph: Graph, parts: _Parts) -> None:
    attention = parts.attention
    groups = attention.num_key_value_heads
    keys, values = (_cache(graph, f"past_key_values.{parts.index}.{part}") for part in _ROLES[1:])
    rotary = _rotary_parts(graph, keys.input[1], parts)
    if rotary is None:
        query = parts.heads(graph, parts.query, "query", [0, 2, 1, 3])
        keys.input[1] = parts.heads(graph, parts.key, "key", [0, 2, 1, 3])
        values.input[1] = parts.heads(graph, parts.value, "value", [0, 2, 1, 3])
    else:
        key_start, cos, sin, width = rotary
        query_start = _query_start(graph, parts, cos)
        for tensor in (parts.query, parts.key, parts.value):
            _fix_heads(graph, parts, tensor)
        table = _rotary_tables(graph, cos, sin, width)
        query = _rotate(graph, query_start, cos, table, f"{parts.path}/query")
        _rotate(graph, key_start, cos, table, f"{parts.path}/key")
    graph.index()
    rows = graph.add_constant(f"{parts.path}/rows", np.array([0, groups, -1, 0], np.int64))
    heads = graph.add_constant(
        f"{parts.path}/query_heads", np.array([0, attention.num_heads, -1, 0], np.int64)
    )
    stacked = graph.add("Reshape", [query, rows], f"{parts.path}/query/Rows")
    turned = graph.add("Transpose", [keys.output[0]], f"{parts.path}/key/Turned", perm=[0, 1, 3, 2])
    scores = _scores(graph, parts, stacked, turned)
    scores = graph.add("Reshape", [scores, heads], f"{parts.path}/ScoresByHead")
    for place, tensor in enumerate(parts.added):
        mask = _causal_mask(graph, tensor)
        scores = graph.add("Add", [scores, mask], f"{parts.path}/Masked_{place}")
    weights = graph.add("Softmax", [scores], f"{parts.path}/Weights", axis=-1)
    weights = graph.add("Reshape", [weights, rows], f"{parts.path}/WeightsByGroup")
    context = graph.add("MatMul", [weights, values.output[0]], f"{parts.path}/Context")
    context = graph.add("Reshape", [context, heads], f"{parts.path}/ContextByHead")
    _merge(graph, parts, context)


def _unfuse(graph: Graph, attention: Attention, linears: dict[str, LinearNodes]) -> None:
    """Where query, key and value are joined and split again, let each go its own way.

    They are joined whole, to be split at once; or head by head, to be split after the heads were
    brought to the front.
    """
    tensors = [linears[name].output for name in (attention.query, attention.key, attention.value)]
    joined = _reached(graph, tensors[0], 2, _join)
    split = joined and _reached(graph, joined[0].output[0], 3, _thirds)
    if not joined or not split:
        return
    path = split[0].name.rsplit("/", 1)[0]
    thirds = [name for node in split for name in node.output]
    for role, tensor, third in zip(_ROLES, tensors, thirds, strict=True):
        own = tensor
        if tensor not in joined[0].input:
            own = _heads(graph, path, attention.head_dim, tensor, role, [0, 2, 1, 3])
        graph.replace_uses(third, own)


def _reached(
    graph: Graph, tensor: str, steps: int, wanted: Callable[[Graph, str], list[NodeProto]]
) -> list[NodeProto]:
    """What is wanted among the readers of a tensor, or of what they make, at most some steps on."""
    found = wanted(graph, tensor)
    if not found and steps > 1:
        makers = graph.consumers.get(tensor, [])
        further = (_reached(graph, out, steps - 1, wanted) for n in makers for out in n.output)
        found = next((nodes for nodes in further if nodes), [])
    return found


def _join(graph: Graph, tensor: str) -> list[NodeProto]:
    """The node that joins a tensor with two others."""
    readers = graph.consumers.get(tensor, [])
    return [n for n in readers if n.op_type == "Concat" and len(n.input) == 3][:1]


def _thirds(graph: Graph, tensor: str) -> list[NodeProto]:
    """The node that splits a tensor in three, or the three that slice it."""
    readers = graph.consumers.get(tensor, [])
    split = [node for node in readers if node.op_type == "Split" and len(node.output) == 3]
    slices = [node for node in readers if node.op_type == "Slice"]
    if split or len(slices) != 3:
        return split[:1]

    def start(node: NodeProto) -> float:
        value = graph.constant(node.input[1])
        return np.inf if value is None else float(np.squeeze(value))

    return sorted(slices, key=start)


def _cache(graph: Graph, past: str) -> NodeProto:
    """The Concat that appends new rows to a part of the cache and yields a graph output."""
    for node in graph.consumers.get(past, []):
        if node.op_type == "Concat" and node.input[0] == past and node.output[0] in graph.outputs:
            return node
    raise ValueError(f"nothing is appended to {past}")


def _rotary_parts(graph: Graph, rows: str, parts: _Parts) -> tuple[str, str, str, int] | None:
    """Take x*cos + rotate_half(x)*sin apart: the tensors x, cos and sin, and the width of x.

    Of a head a part may be turned, and joined with the rest. None where nothing is turned.
    """
    total = graph.producers[rows]
    partial = total.op_type == "Concat"
    if partial:
        total = graph.producers[total.input[0]]
    if total.op_type != "Add":
        return None
    straight, crossed = (graph.producers[name] for name in total.input)
    if _half_turned(graph, straight):
        straight, crossed = crossed, straight
    x, cos = _sides(graph, straight, parts.key)
    _, sin = _sides(graph, crossed, parts.key)
    width = graph.constant(graph.producers[x].input[2]) if partial else parts.attention.head_dim
    if width is None:
        raise ValueError(f"how much of a head is turned in {x} is not constant")
    return x, cos, sin, int(np.squeeze(width))


def _half_turned(graph: Graph, product: NodeProto) -> bool:
    makers = [graph.producers.get(name) for name in product.input]
    return any(maker is not None and maker.op_type == "Concat" for maker in makers)


def _sides(graph: Graph, product: NodeProto, start: str) -> tuple[str, str]:
    left, right = product.input
    return (left, right) if _depends(graph, left, start) else (right, left)


def _query_start(graph: Graph, parts: _Parts, cos: str) -> str:
    """The query as it enters the rotary embedding: what is multiplied by the same cosine."""
    for node in graph.consumers[cos]:
        for name in node.input:
            if name != cos and _depends(graph, name, parts.query):
                return name
    raise ValueError(f"no rotary embedding of {parts.attention.query}")


def _fix_heads(graph: Graph, parts: _Parts, tensor: str) -> None:
    """Give the Reshape that splits a projection into heads a constant shape."""
    shape = graph.add_constant(
        f"{parts.path}/heads", np.array([0, 0, -1, parts.attention.head_dim], np.int64)
    )
    for node in graph.consumers[tensor]:
        if node.op_type == "Reshape":
            node.input[1] = shape
    graph.index()


def _rotary_tables(graph: Graph, cos: str, sin: str, head_dim: int) -> tuple[str, str, str]:
    """Cosines and sines of this run's tokens as tables of (B*S, D/2), and each token's row."""
    path = "/rotary"
    if f"{path}/rows_output_0" in graph.producers:
        return f"{path}/rows_output_0", f"{path}/cos/Table_output_0", f"{path}/sin/Table_output_0"
    # Without positions of its own every text counts from where the cache ends.
    given = "position_ids" in graph.inputs
    for name, tensor in (("cos", cos), ("sin", sin)):
        # The angles repeat in the two halves of a head.
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
    """Turn `start` by one operator; return whole heads, with what of them is not turned."""
    product = next(node for node in graph.consumers[cos] if start in node.input)
    [total] = graph.consumers[product.output[0]]
    [before] = total.output
    joined = next((n for n in graph.consumers[before] if n.op_type == "Concat"), None)
    turned = graph.add("RotaryEmbedding", [start, *table], f"{path}/Rotary", domain=CONTRIB)
    graph.replace_uses(before, turned)
    # The cache too is joined, behind what it held.
    return turned if joined is None or joined.input[0] != turned else joined.output[0]


def _causal_mask(graph: Graph, mask: str) -> str:
    """One float mask for all layers, instead of each layer's own slice to the length it has.

    The most negative float stands for minus infinity, which would turn the padded rows of a
    left-padded batch into NaN.
    """
    node = graph.producers.get(mask)
    if node is None or node.op_type != "Where":
        return _whole(graph, mask)
    allowed = _whole(graph, node.input[0])
    shared = f"{allowed}_as_float"
    if f"{shared}_output_0" in graph.producers:
        return f"{shared}_output_0"
    zero = graph.add_constant("/causal_mask/zero", np.array(0, np.float32))
    low = graph.add_constant("/causal_mask/low", np.array(_MASKED, np.float32))
    return graph.add("Where", [allowed, zero, low], shared)


def _whole(graph: Graph, mask: str) -> str:
    """The mask before it is sliced to the length that it has."""
    node = graph.producers.get(mask)
    while node is not None and node.op_type == "Slice" and node.input[2] not in graph.initializers:
        mask = node.input[0]
        node = graph.producers.get(mask)
    return mask
