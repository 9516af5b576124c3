"""Let the operator library's quantized products take in what stands around them.

    norm ─> product                       the norm runs inside, where products alone read it
    norm ─> last tokens ─> product        which a decoder's head does, for the tokens that it wants
    product ─> GELU                       and so does the activation,
    product ─> Split ─> act(gate) * up    the gate,
    product ─> + residual (─> norm)       the residual and the norm of the sum

A layer then has five parts: an encoder's q, k, v; attention; output, residual, norm; up, GELU;
down, residual, norm. A decoder's: norm, q, k, v; attention; output, residual; norm, gate, up; down,
residual.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from edgeprune.export.graph import Graph, attribute
from edgeprune.export.rewrite.activation import find_activation
from edgeprune.export.rewrite.linears import store
from edgeprune.kernels.formats import DOMAIN, GATES, quant_format, quant_op_type
from edgeprune.kernels.node import Norm, make_quant_linear
from edgeprune.kernels.pack import PackedCodes

_PLAIN = {quant_op_type(bits, "none", "none") for bits in (4, 8)}
_SUMS = ("Add", "Sum")
_LAYER_NORM = "LayerNormalization"


def fuse_quant_linears(graph: Graph) -> int:
    """Take into every quantized product what its operator can run; return how many took any."""
    changed = 0
    for node in list(graph.nodes):
        if node.op_type in _PLAIN and node.domain == DOMAIN:
            changed += _fuse(graph, node)
    graph.sweep()
    return changed


@dataclass(frozen=True)
class _Before:
    """A norm, and what it reads."""

    norm: Norm
    input: str


@dataclass(frozen=True)
class _After:
    """The epilogue that follows a product, and the tensor that results."""

    epilogue: str
    output: str
    other: str | None = None
    norm: Norm | None = None


def _fuse(graph: Graph, node: NodeProto) -> bool:
    before, after = _norm_before(graph, node.input[0]), _after(graph, node)
    if before is None and after is None:
        return False
    packed, scales, bias = _content(graph, node)
    epilogue = after.epilogue if after else "none"
    stored = node.input[1].rpartition("/")[0]
    # A layer that runs again reads the same codes, which a gate stores in another order.
    stored = f"{stored}/Gated" if epilogue in GATES else stored
    made, initializers = make_quant_linear(
        stored,
        before.input if before else node.input[0],
        f"{node.name}Fused_output_0",
        packed,
        scales,
        bias,
        norm=before.norm if before else None,
        epilogue=epilogue,
        other=after.other if after else None,
        norm_after=after.norm if after else None,
    )
    made.name = node.name
    store(graph, initializers)
    result = graph.insert(made)
    graph.remove([node])
    graph.replace_uses(after.output if after else node.output[0], result)
    return True


def _content(graph: Graph, node: NodeProto) -> tuple[PackedCodes, np.ndarray, np.ndarray]:
    """Codes, scales and bias of a product."""
    values = [graph.constant(name) for name in node.input[1:]]
    found: list[np.ndarray] = [value for value in values if value is not None]
    group = attribute(node, "group", None)
    sizes = attribute(node, "K", 0), attribute(node, "N", 0)
    multipliers = None if group is None else found[1]
    return PackedCodes(quant_format(group), *sizes, found[0], multipliers), found[-2], found[-1]


def _after(graph: Graph, node: NodeProto) -> _After | None:
    output = node.output[0]
    if gated := _gated(graph, output):
        return gated
    if summed := _summed(graph, output):
        return summed
    activation = find_activation(graph, output)
    if activation is None or activation.name == "silu":
        return None
    return _After(activation.name, activation.output)


def _gated(graph: Graph, output: str) -> _After | None:
    """act(gate) * up, of halves that nothing else reads."""
    split = graph.only_reader(output, ("Split",))
    if split is None or len(split.output) != 2:
        return None
    sizes = graph.constant(split.input[1]) if len(split.input) > 1 else None
    if sizes is None or sizes[0] != sizes[1]:
        return None
    gate, up = split.output
    activation = find_activation(graph, gate)
    if activation is None:
        return None
    product = graph.only_reader(activation.output, ("Mul",))
    if product is None or set(product.input) != {activation.output, up}:
        return None
    if graph.only_reader(up, ("Mul",)) is None:
        return None
    return _After(f"{activation.name}-gate", product.output[0])


def _summed(graph: Graph, output: str) -> _After | None:
    """The sum with a residual, and its norm where nothing else reads the sum."""
    node = graph.only_reader(output, _SUMS)
    if node is None or len(node.input) != 2:
        return None
    [other] = [name for name in node.input if name != output]
    if other not in graph.producers and other not in graph.inputs:
        return None
    after = graph.only_reader(node.output[0], (_LAYER_NORM,))
    norm = after and _layer_norm(graph, after)
    if after is None or norm is None:
        return _After("add", node.output[0], other)
    return _After("add", after.output[0], other, norm)


def _norm_before(graph: Graph, tensor: str) -> _Before | None:
    """The norm that made a tensor which plain products alone read."""
    readers = graph.consumers.get(tensor, [])
    if tensor in graph.outputs or any(each.op_type not in _PLAIN for each in readers):
        return None
    maker = graph.producers.get(tensor)
    if maker is not None and maker.op_type == "Slice":
        return _norm_of_chosen(graph, maker)
    return _norm(graph, tensor)


def _norm_of_chosen(graph: Graph, choice: NodeProto) -> _Before | None:
    """The norm of tokens that were chosen after it, which are chosen before it instead: it looks at
    each alone."""
    tensor, *places = choice.input
    axes = graph.constant(places[2]) if len(places) > 2 else None
    alone = graph.only_reader(tensor, ("Slice",)) is not None
    before = _norm(graph, tensor) if alone and axes is not None and axes.tolist() == [1] else None
    if before is None:
        return None
    rows = graph.add("Slice", [before.input, *places], f"{choice.name}BeforeNorm")
    return _Before(before.norm, rows)


def _norm(graph: Graph, tensor: str) -> _Before | None:
    """The norm that made a tensor."""
    maker = graph.producers.get(tensor)
    if maker is None:
        return None
    if maker.op_type == _LAYER_NORM:
        norm = _layer_norm(graph, maker)
        return None if norm is None else _Before(norm, maker.input[0])
    return _root_mean_square(graph, maker)


def _layer_norm(graph: Graph, node: NodeProto) -> Norm | None:
    weight, *bias = [graph.constant(name) for name in node.input[1:]]
    plain = attribute(node, "axis", -1) == -1 and len(node.output) == 1
    if not plain or weight is None or weight.ndim != 1 or any(each is None for each in bias):
        return None
    return Norm("layer", weight, attribute(node, "epsilon", 1e-5), bias[0] if bias else None)


def _root_mean_square(graph: Graph, last: NodeProto) -> _Before | None:
    """x / sqrt(mean(x^2) + epsilon) * weight, as it is written for a decoder."""
    if last.op_type != "Mul":
        return None
    weights = (graph.constant(name) for name in last.input)
    weight = next((each for each in weights if each is not None), None)
    even = next((graph.producers.get(name) for name in last.input if name in graph.producers), None)
    if weight is None or weight.ndim != 1 or even is None or even.op_type != "Mul":
        return None
    chain = list(_chain(graph, even.input[1], ("Div", "Sqrt", "Add", "ReduceMean", "Pow")))
    if len(chain) != 5:
        return None
    inverse, _, shifted, mean, square = chain
    epsilon = _number(graph, shifted.input[1])
    whole = (
        _number(graph, inverse.input[0]) == 1
        and epsilon is not None
        and attribute(mean, "axes", None) == [-1]
        and square.input[0] == even.input[0]
        and _number(graph, square.input[1]) == 2
    )
    return _Before(Norm("rms", weight, float(epsilon or 0)), even.input[0]) if whole else None


def _chain(graph: Graph, tensor: str, kinds: tuple[str, ...]) -> Iterator[NodeProto]:
    """The nodes of these kinds, each made by the next, from the one that makes a tensor."""
    for kind in kinds:
        node = graph.producers.get(tensor)
        if node is None or node.op_type != kind:
            return
        yield node
        tensor = next((name for name in node.input if name in graph.producers), "")


def _number(graph: Graph, name: str) -> float | None:
    if not graph.is_small(name, 1):
        return None
    value = graph.constant(name)
    return None if value is None else float(value)
