"""Find a model's linears and embeddings in its graph by the exporter's names.

A linear whose layer runs again has a product for every time, query/MatMul and then query_1/MatMul,
query_2/MatMul and so on, which all read one weight.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry, Format
from edgeprune.export.graph import Graph, attribute

TOGETHER = {"query", "key", "value"}
"""Roles of linears that become one product if they read the same tensor."""


@dataclass(frozen=True)
class LinearNodes:
    """One linear in the graph: output = input @ weight + bias."""

    name: str
    product: NodeProto
    bias_node: NodeProto | None
    input: str
    output: str
    weight: str
    transposed: bool
    """The stored weight is (outputs, inputs) as in torch, not (inputs, outputs)."""
    bias: str | None
    turn: int = 0
    """Which time it is that its layer runs, from 0."""

    def weight_as_torch(self, graph: Graph) -> np.ndarray:
        """The stored weight as (outputs, inputs)."""
        value = graph.constant(self.weight)
        assert value is not None
        return value if self.transposed else value.T


def module_path(node: NodeProto) -> str:
    """'/encoder/layer.0/query/MatMul' -> 'encoder.layer.0.query.MatMul'."""
    return node.name.strip("/").replace("/", ".")


def find_linears(graph: Graph, names: list[str]) -> dict[str, list[LinearNodes]]:
    """The products of the linears with these module names whose weight in the graph is constant,
    in the order in which they run."""
    wanted = _paths(names, ("MatMul", "Gemm"))
    found: dict[str, list[LinearNodes]] = defaultdict(list)
    for node in graph.nodes:
        name, turn = _called(module_path(node), wanted)
        if (
            name
            and node.op_type in ("MatMul", "Gemm")
            and _table(graph, node) in graph.initializers
        ):
            found[name].append(_describe(graph, name, node, turn))
    return {name: sorted(each, key=lambda one: one.turn) for name, each in found.items()}


def check_turns(graph: Graph, names: list[str], times: int) -> None:
    """Refuse a graph that lacks a product of a linear whose layer runs so many times.

    Raises:
        ValueError: naming the linear.
    """
    found = find_linears(graph, names) if times > 1 else {}
    for name, products in found.items():
        if [each.turn for each in products] != list(range(times)):
            raise ValueError(
                f"the graph has {len(products)} products named for {name}, whose layer runs "
                f"{times} times"
            )


def _called(path: str, wanted: Mapping[str, str]) -> tuple[str | None, int]:
    """The module of a node's path, if it is wanted, and which time it is that it runs."""
    if again := re.fullmatch(r"(.+)_(\d+)(\.\w+)", path):
        module, turn, kind = again.groups()
        if path not in wanted and module + kind in wanted:
            return wanted[module + kind], int(turn)
    return wanted.get(path), 0


def _table(graph: Graph, product: NodeProto) -> str:
    """The tensor of a product's weight; where it is turned before it is read, the one that is
    stored."""
    maker = graph.producers.get(product.input[1])
    turned = maker is not None and maker.op_type == "Transpose"
    return maker.input[0] if maker is not None and turned else product.input[1]


def _paths(names: list[str], kinds: tuple[str, ...]) -> dict[str, str]:
    """Module name by the path of its node. The path lacks the base model's name if a model calls
    the base model's parts itself."""
    short = {f"{name.partition('.')[2]}.{kind}": name for name in names for kind in kinds}
    return short | {f"{name}.{kind}": name for name in names for kind in kinds}


def _describe(graph: Graph, name: str, node: NodeProto, turn: int) -> LinearNodes:
    if node.op_type == "Gemm":
        bias = node.input[2] if len(node.input) > 2 else None
        transposed = bool(attribute(node, "transB", 0))
        output = node.output[0]
        weight = node.input[1]
        return LinearNodes(name, node, None, node.input[0], output, weight, transposed, bias, turn)
    table = _table(graph, node)
    bias_node = _bias_node(graph, node)
    bias = output = None
    if bias_node is not None:
        [bias] = [name for name in bias_node.input if name != node.output[0]]
        output = bias_node.output[0]
    return LinearNodes(
        name,
        node,
        bias_node,
        node.input[0],
        output or node.output[0],
        table,
        table != node.input[1],
        bias,
        turn,
    )


def _bias_node(graph: Graph, product: NodeProto) -> NodeProto | None:
    """The node that adds a product's bias."""
    path = module_path(product).removesuffix("MatMul")
    for reader in graph.consumers.get(product.output[0], []):
        if reader.op_type == "Add" and module_path(reader) == f"{path}Add":
            return reader
    return None


def find_embeddings(graph: Graph, names: list[str]) -> dict[str, NodeProto]:
    """The Gather node of each embedding with these module names."""
    wanted = _paths(names, ("Gather",))
    return {
        wanted[module_path(node)]: node
        for node in graph.nodes
        if node.op_type == "Gather" and module_path(node) in wanted
    }


def planned_linears(
    graph: Graph, quantized: Quantized, formats: Collection[Format]
) -> list[tuple[Entry, LinearNodes]]:
    """The products of the linears planned in any of these formats, with their nodes.

    Raises:
        ValueError: one is not in the graph, or holds values other than planned.
    """
    planned = [entry for entry in quantized.plan if entry.format in formats]
    found = find_linears(graph, [entry.name for entry in planned])
    pairs = []
    for entry in planned:
        if entry.name not in found:
            raise ValueError(f"the graph has no product named for {entry.name}")
        values = quantized.values(entry.name).numpy()
        for linear in found[entry.name]:
            if not np.array_equal(linear.weight_as_torch(graph), values):
                raise ValueError(f"the exported weight of {entry.name} is not what was planned")
            pairs.append((entry, linear))
    return pairs


def merged_path(linears: Sequence[LinearNodes]) -> str:
    """The path for what is stored of one linear, or of several merged into one product, however
    often they run."""
    first = linears[0]
    path = first.product.name.rsplit("/", 1)[0]
    path = path.removesuffix(f"_{first.turn}") if first.turn else path
    return path if len(linears) == 1 else path.rsplit("/", 1)[0] + "/merged"


def nodes_path(linears: Sequence[LinearNodes]) -> str:
    """The path for the nodes of one linear, or of several merged, the time that they run."""
    path, turn = merged_path(linears), linears[0].turn
    return f"{path}_{turn}" if turn else path


def merged_bias(
    graph: Graph, linears: Sequence[LinearNodes], sizes: Sequence[int]
) -> np.ndarray | None:
    """The concatenated biases of linears, zeros for one without; None if none has a bias."""
    if all(linear.bias is None for linear in linears):
        return None
    parts = []
    for linear, size in zip(linears, sizes, strict=True):
        bias = None if linear.bias is None else graph.constant(linear.bias)
        parts.append(np.zeros(size, np.float32) if bias is None else bias)
    return np.concatenate(parts)


def distribute(
    graph: Graph, linears: Sequence[LinearNodes], product: str, sizes: Sequence[int]
) -> None:
    """Make readers of the linears read their columns of one product instead."""
    if len(linears) == 1:
        graph.replace_uses(linears[0].output, product)
        return
    path = nodes_path(linears)
    split = graph.add_constant(f"{path}/sizes", np.array(sizes, np.int64))
    names = [f"{path}/Split_output_{place}" for place in range(len(linears))]
    graph.add("Split", [product, split], f"{path}/Split", outputs=names, axis=-1)
    for linear, name in zip(linears, names, strict=True):
        graph.replace_uses(linear.output, name)


def store(graph: Graph, initializers: Sequence[TensorProto]) -> None:
    """Put a node's tensors into the graph."""
    for tensor in initializers:
        graph.add_constant(tensor.name, numpy_helper.to_array(tensor))
