"""Activations as the nodes that a tracer writes, which the runtime and the sparse operators know.

Names are transformers' of the settings that choose them.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from edgeprune.export.graph import Graph


def _gelu(graph: Graph, x: str, path: str) -> str:
    """x * (1 + erf(x / sqrt(2))) / 2"""
    divided = graph.add("Div", [x, _number(graph, path, "root", math.sqrt(2))], f"{path}/Div")
    error = graph.add("Erf", [divided], f"{path}/Erf")
    doubled = graph.add("Add", [error, _number(graph, path, "one", 1)], f"{path}/Add")
    whole = graph.add("Mul", [x, doubled], f"{path}/Mul")
    return graph.add("Mul", [whole, _number(graph, path, "half", 0.5)], f"{path}/Mul_1")


def _gelu_tanh(graph: Graph, x: str, path: str) -> str:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))"""
    cube = graph.add("Pow", [x, _number(graph, path, "three", 3)], f"{path}/Pow")
    bent = graph.add("Mul", [cube, _number(graph, path, "small", 0.044715)], f"{path}/Mul")
    curve = graph.add("Add", [x, bent], f"{path}/Add")
    root = _number(graph, path, "root", math.sqrt(2 / math.pi))
    scaled = graph.add("Mul", [curve, root], f"{path}/Mul_1")
    tanh = graph.add("Tanh", [scaled], f"{path}/Tanh")
    doubled = graph.add("Add", [tanh, _number(graph, path, "one", 1)], f"{path}/Add_1")
    halved = graph.add("Mul", [x, _number(graph, path, "half", 0.5)], f"{path}/Mul_2")
    return graph.add("Mul", [halved, doubled], f"{path}/Mul_3")


def _silu(graph: Graph, x: str, path: str) -> str:
    """x / (1 + exp(-x))"""
    gate = graph.add("Sigmoid", [x], f"{path}/Sigmoid")
    return graph.add("Mul", [x, gate], f"{path}/Mul")


def _number(graph: Graph, path: str, name: str, value: float) -> str:
    return graph.add_constant(f"{path}/{name}", np.array(value, np.float32))


def _one(operator: str) -> Callable[[Graph, str, str], str]:
    return lambda graph, x, path: graph.add(operator, [x], f"{path}/{operator}")


ACTIVATIONS: Mapping[str, Callable[[Graph, str, str], str]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "silu": _silu,
    "swish": _silu,
    "relu": _one("Relu"),
    "tanh": _one("Tanh"),
}
"""Of (graph, tensor, path of the nodes): the name of the result."""
