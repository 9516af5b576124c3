"""Find the parts of a block's attention in a traced graph."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from onnx import NodeProto

from edgeprune.export.attention_nodes import MASKED, split_heads
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.linears import LinearNodes, find_linears
from edgeprune.model.anatomy import Anatomy, Attention
from edgeprune.runtime.names import PAST

_ROLES = ("query", "key", "value")


class AttentionParts:
    """One block's projections, its softmax, and the tensors added to its scores."""

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
        # Earlier layers are also reached, where a size is read from a hidden state.
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

    def heads(self, graph: Graph, tensor: str, role: str, perm: list[int]) -> str:
        """A projection's output split into heads."""
        return split_heads(graph, self.path, self.attention.head_dim, tensor, role, perm)

    @property
    def scale(self) -> np.ndarray:
        """The factor of the scores."""
        return np.array(1 / math.sqrt(self.attention.head_dim), np.float32)


def find_attention(graph: Graph, anatomy: Anatomy) -> Iterator[AttentionParts]:
    """The attention of every block that attends, in order; the graph may change between two.

    Raises:
        ValueError: a block's attention is not in the graph as expected, or its scores are scaled by
            a setting, or masked by windows to both sides.
    """
    decoder = anatomy.family.decoder
    if decoder is not None and decoder.score_factor is not None:
        raise ValueError(f"scores are scaled by {decoder.score_factor}, which only emitting knows")
    if anatomy.reads_both_ways:
        raise ValueError("tokens see those after them by windows, which only emitting knows")
    if anatomy.family.disentangled is not None:
        raise ValueError("scores have parts by the distance of tokens, which only emitting knows")
    linears = find_linears(graph, list(anatomy.block_linears()))
    for turn in range(anatomy.repeats):
        for block in anatomy.blocks:
            if not isinstance(block.mixer, Attention):
                continue
            names = block.attention.linears()
            missing = [name for name in names if len(linears.get(name, ())) <= turn]
            if missing:
                raise ValueError(f"the graph has no product named for {missing[0]}")
            now = {name: linears[name][turn] for name in names}
            _unfuse(graph, block.attention, now)
            yield AttentionParts(graph, block.index, block.attention, now)


def depends(graph: Graph, name: str, on: str) -> bool:
    """Whether a tensor is computed from another, by searching back from it."""
    made = graph.producers[on]
    return name == on or any(on in node.input for node in graph.ancestors(name, [on, *made.input]))


def _unfuse(graph: Graph, attention: Attention, linears: dict[str, LinearNodes]) -> None:
    """Separate query, key and value where one projection computes all three.

    Their columns are joined either whole, and split at once, or head by head, and split after the
    heads were moved to the front.
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
            own = split_heads(graph, path, attention.head_dim, tensor, role, [0, 2, 1, 3])
        graph.replace_uses(third, own)


def _reached(
    graph: Graph, tensor: str, steps: int, wanted: Callable[[Graph, str], list[NodeProto]]
) -> list[NodeProto]:
    """The `wanted` nodes among the readers of a tensor, or of their results, within `steps`."""
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
    """The node that splits a tensor into three, or the three that slice it."""
    readers = graph.consumers.get(tensor, [])
    split = [node for node in readers if node.op_type == "Split" and len(node.output) == 3]
    slices = [node for node in readers if node.op_type == "Slice"]
    if split or len(slices) != 3:
        return split[:1]

    def start(node: NodeProto) -> float:
        value = graph.constant(node.input[1])
        return np.inf if value is None else float(np.squeeze(value))

    return sorted(slices, key=start)


def find_caches(graph: Graph, parts: AttentionParts) -> tuple[NodeProto, NodeProto]:
    """The nodes that append this run's keys and values to the cache."""
    past = f"{PAST}{parts.index}"
    return _cache(graph, f"{past}.key"), _cache(graph, f"{past}.value")


def _cache(graph: Graph, past: str) -> NodeProto:
    """The Concat that appends new rows to a part of the cache and is a graph output."""
    for node in graph.consumers.get(past, []):
        if node.op_type == "Concat" and node.input[0] == past and node.output[0] in graph.outputs:
            return node
    raise ValueError(f"nothing is appended to {past}")


def rotary_parts(
    graph: Graph, rows: str, parts: AttentionParts
) -> tuple[str, str, str, int] | None:
    """The parts of x*cos + rotate_half(x)*sin: the tensors x, cos and sin, and the width of x.

    Only a part of a head may be rotated, and joined with the rest. None if nothing is rotated.
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
    return (left, right) if depends(graph, left, start) else (right, left)


def query_start(graph: Graph, parts: AttentionParts, cos: str) -> str:
    """The query before its rotary embedding: the tensor multiplied by the same cosine."""
    for node in graph.consumers[cos]:
        for name in node.input:
            if name != cos and depends(graph, name, parts.query):
                return name
    raise ValueError(f"no rotary embedding of {parts.attention.query}")


def fix_heads(graph: Graph, parts: AttentionParts, tensor: str) -> None:
    """Give a constant shape to the Reshape that splits a projection into heads."""
    shape = graph.add_constant(
        f"{parts.path}/heads", np.array([0, 0, -1, parts.attention.head_dim], np.int64)
    )
    for node in graph.consumers[tensor]:
        if node.op_type == "Reshape":
            node.input[1] = shape
    graph.index()


def causal_mask(graph: Graph, mask: str) -> str:
    """One float mask for all layers, in place of a slice per layer.

    The most negative float replaces minus infinity, which would turn the padded rows of a
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
    """The mask before it is sliced to its own length."""
    node = graph.producers.get(mask)
    while node is not None and node.op_type == "Slice" and node.input[2] not in graph.initializers:
        mask = node.input[0]
        node = graph.producers.get(mask)
    return mask
