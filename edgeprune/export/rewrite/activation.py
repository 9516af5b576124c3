"""Recognize an activation by its values, however an exporter has written it.

The nodes that depend only on one tensor and on constants are evaluated on a grid and compared with
the functions that an operator can end in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgeprune.export.graph import Graph
from edgeprune.export.tensors import to_proto

_GRID = np.linspace(-8, 8, 257, dtype=np.float32)
_TOLERANCE = 2e-6
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Gelu"}


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


_KNOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": _gelu,
    "gelu-tanh": _gelu_tanh,
    "silu": _silu,
}


@dataclass(frozen=True)
class Activation:
    """An activation and its output tensor."""

    name: str
    output: str


def find_activation(graph: Graph, start: str) -> Activation | None:
    """The activation of a tensor, if nothing else reads the tensor."""
    nodes = _own_nodes(graph, start)
    if not nodes or start in graph.outputs:
        return None
    inside = {name for node in nodes for name in node.output}
    leaving = [name for name in inside if _read_outside(graph, name, nodes)]
    if len(leaving) != 1 or _read_outside(graph, start, nodes):
        return None
    values = _evaluate(graph, start, leaving[0], nodes)
    wide = _GRID.astype(np.float64)
    for name, function in _KNOWN.items():
        if values.shape == wide.shape and np.allclose(
            values, function(wide), rtol=_TOLERANCE, atol=_TOLERANCE
        ):
            return Activation(name, leaving[0])
    return None


def _own_nodes(graph: Graph, start: str) -> list[NodeProto]:
    """The nodes computed from `start` and single numbers alone, in a valid order."""
    known = {start}
    found: list[NodeProto] = []
    todo = list(graph.consumers.get(start, []))
    while todo:
        node = todo.pop(0)
        ready = all(name in known or _is_number(graph, name) for name in node.input)
        if not ready or node.op_type not in _ELEMENTWISE or any(node is n for n in found):
            continue
        found.append(node)
        known.update(node.output)
        todo += [reader for name in node.output for reader in graph.consumers.get(name, [])]
    return found


def _is_number(graph: Graph, name: str) -> bool:
    return graph.is_small(name, 1)


def _read_outside(graph: Graph, name: str, nodes: list[NodeProto]) -> bool:
    readers = graph.consumers.get(name, [])
    return name in graph.outputs or any(all(r is not node for node in nodes) for r in readers)


def _evaluate(graph: Graph, start: str, end: str, nodes: list[NodeProto]) -> np.ndarray:
    read = {name for node in nodes for name in node.input}
    body = helper.make_graph(
        nodes,
        "activation",
        [helper.make_tensor_value_info(start, TensorProto.FLOAT, _GRID.shape)],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, None)],
        [
            to_proto(name, graph.initializers[name])
            for name in sorted(read)
            if name in graph.initializers
        ],
    )
    model = helper.make_model(body, opset_imports=graph.opsets)
    [values] = ReferenceEvaluator(model).run([end], {start: _GRID})
    return np.asarray(values)
