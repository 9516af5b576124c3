"""Find the parts of a block's attention in the graph that the tracer left."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from onnx import NodeProto

from edgeprune.anatomy import Anatomy, Attention
from edgeprune.rewrite.graph import Graph
from edgeprune.rewrite.linears import LinearNodes, find_linears

MASKED = float(np.finfo(np.float32).min)


class AttentionParts:
    """One block's projections, its softmax, and what is added to its scores."""

    def __init__(self, graph: Graph, attention: Attention, linears: dict[str, LinearNodes]) -> None:
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
            if node.op_type == "Softmax" and depends(graph, node.input[0], self.query)
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
                if depends(graph, name, self.query):
                    inner = graph.producers[name]
                else:
                    yield name
            node = inner

    @property
    def scale(self) -> np.ndarray:
        """What the scores are multiplied by."""
        return np.array(1 / math.sqrt(self.attention.head_dim), np.float32)


def find_attention(graph: Graph, anatomy: Anatomy) -> Iterator[AttentionParts]:
    """The attention of every block, in order; the graph may be changed between one and the next.

    Raises:
        ValueError: a block's attention is not in the graph as expected.
    """
    linears = find_linears(graph, list(anatomy.block_linears()))
    for block in anatomy.blocks:
        missing = [name for name in block.attention.linears() if name not in linears]
        if missing:
            raise ValueError(f"the graph has no product named for {missing[0]}")
        yield AttentionParts(graph, block.attention, linears)


def depends(graph: Graph, name: str, on: str) -> bool:
    """Whether a tensor is computed from another; a search back to where that one is made."""
    made = graph.producers[on]
    return name == on or any(on in node.input for node in graph.ancestors(name, [on, *made.input]))


def find_cache(graph: Graph, projection: str) -> NodeProto:
    """The Concat that appends a projection's new rows to the cache and yields a graph output."""
    for node in graph.nodes:
        if (
            node.op_type == "Concat"
            and node.output[0] in graph.outputs
            and len(node.input) == 2
            and node.input[0] in graph.inputs
            and depends(graph, node.input[1], projection)
        ):
            return node
    raise ValueError(f"no cache is fed from {projection}")


def rotary_parts(graph: Graph, rotated: str, start: str) -> tuple[str, str, str]:
    """Take x*cos + rotate_half(x)*sin apart: the tensors x, cos and sin."""
    total = graph.producers[rotated]
    if total.op_type != "Add":
        raise ValueError(f"{rotated} is not a rotary embedding")
    straight, crossed = (graph.producers[name] for name in total.input)
    if _half_turned(graph, straight):
        straight, crossed = crossed, straight
    x, cos = _sides(graph, straight, start)
    _, sin = _sides(graph, crossed, start)
    return x, cos, sin


def _half_turned(graph: Graph, product: NodeProto) -> bool:
    makers = [graph.producers.get(name) for name in product.input]
    return any(maker is not None and maker.op_type == "Concat" for maker in makers)


def _sides(graph: Graph, product: NodeProto, start: str) -> tuple[str, str]:
    left, right = product.input
    return (left, right) if depends(graph, left, start) else (right, left)


def query_start(graph: Graph, parts: AttentionParts, cos: str) -> str:
    """The query as it enters the rotary embedding: what is multiplied by the same cosine."""
    for node in graph.consumers[cos]:
        for name in node.input:
            if name != cos and depends(graph, name, parts.query):
                return name
    raise ValueError(f"no rotary embedding of {parts.attention.query}")


def fix_heads(graph: Graph, parts: AttentionParts, tensor: str) -> None:
    """Give the Reshape that splits a projection into heads a constant shape."""
    shape = graph.add_constant(
        f"{parts.path}/heads", np.array([0, 0, -1, parts.attention.head_dim], np.int64)
    )
    for node in graph.consumers[tensor]:
        if node.op_type == "Reshape":
            node.input[1] = shape
    graph.index()


def causal_mask(graph: Graph, mask: str) -> str:
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
    low = graph.add_constant("/causal_mask/low", np.array(MASKED, np.float32))
    return graph.add("Where", [allowed, zero, low], shared)


def _whole(graph: Graph, mask: str) -> str:
    """The mask before it is sliced to the length that it has."""
    node = graph.producers.get(mask)
    while node is not None and node.op_type == "Slice" and node.input[2] not in graph.initializers:
        mask = node.input[0]
        node = graph.producers.get(mask)
    return mask
