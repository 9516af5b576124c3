"""The nodes of single modules, named by their paths as a tracer names them.

    model.layers.0.mlp.up_proj  ->  /model/layers.0/mlp/up_proj/MatMul, /model/layers.0/mlp/up_proj/Add

By these names later passes find linears and embeddings. Each form is the one that ONNX Runtime joins
into an operator of its own when it loads a file.
"""

import math
import re
from collections.abc import Callable

import numpy as np

from edgeprune.export.emit.weights import Weights
from edgeprune.export.graph import Graph
from edgeprune.model.decoders import Norms


class Modules:
    """Adds modules with a folder's weights to a graph; a module's answer is a tensor's name."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.graph = graph
        self.weights = weights

    def number(self, value: float) -> str:
        """A number in float32, stored once."""
        return self.graph.add_constant(f"/number/{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Sizes, axes or places (values,), stored once."""
        name = "/integers/" + "_".join(map(str, values))
        return self.graph.add_constant(name, np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """One without an axis."""
        return self.graph.add_constant(f"/integer/{value}", np.array(value, np.int64))

    def vector(self, name: str) -> str:
        """A stored vector as it is."""
        return self.graph.add_tensor(name, self.weights.tensor(name))

    def linear(self, tensor: str, name: str) -> str:
        """input @ weight + bias, where there is one."""
        weight = f"{name}.weight"
        columns = self.graph.add_tensor(
            f"{weight}.columns", self.weights.tensor(weight, transposed=True)
        )
        product = self.graph.add("MatMul", [tensor, columns], f"{path(name)}/MatMul")
        return self.plus_bias(product, name)

    def tied(self, tensor: str, name: str, table: str) -> str:
        """A linear that reads the table of an embedding, (outputs, inputs), which is stored once.

        The runtime turns it when it loads the file.
        """
        columns = self.graph.add("Transpose", [f"{table}.weight"], f"{path(name)}/Columns")
        product = self.graph.add("MatMul", [tensor, columns], f"{path(name)}/MatMul")
        return self.plus_bias(product, name)

    def plus_bias(self, product: str, name: str) -> str:
        """A product with its linear's bias, where there is one."""
        if f"{name}.bias" not in self.weights:
            return product
        return self.graph.add("Add", [self.vector(f"{name}.bias"), product], f"{path(name)}/Add")

    def embedding(self, tokens: str, name: str) -> str:
        """The rows of a table by their numbers."""
        table = self.vector(f"{name}.weight")
        return self.graph.add("Gather", [table, tokens], f"{path(name)}/Gather")

    def norm(self, tensor: str, name: str, norms: Norms, width: int) -> str:
        """A norm over the last axis, which has `width` values."""
        if norms.root_mean_square:
            return self._root_mean_square(tensor, name, norms)
        parts = [
            self.vector(f"{name}.{part}")
            if f"{name}.{part}" in self.weights
            # A norm that has learnt nothing stores nothing.
            else self.graph.add_constant(f"/{part}/{width}", np.full(width, value, np.float32))
            for part, value in (("weight", 1.0), ("bias", 0.0))
        ]
        inputs = [tensor, *parts]
        return self.graph.add(
            "LayerNormalization",
            inputs,
            f"{path(name)}/LayerNormalization",
            axis=-1,
            epsilon=norms.epsilon,
        )

    def _root_mean_square(self, tensor: str, name: str, norms: Norms) -> str:
        graph, place, weight = self.graph, path(name), f"{name}.weight"
        if norms.offset:
            weight = graph.add_constant(weight, self.weights.read(weight) + np.float32(norms.offset))
        else:
            weight = self.vector(weight)
        square = graph.add("Pow", [tensor, self.number(2.0)], f"{place}/Pow")
        mean = graph.add("ReduceMean", [square], f"{place}/ReduceMean", axes=[-1], keepdims=1)
        mean = graph.add("Add", [mean, self.number(norms.epsilon)], f"{place}/Add")
        root = graph.add("Sqrt", [mean], f"{place}/Sqrt")
        inverse = graph.add("Div", [self.number(1.0), root], f"{place}/Div")
        even = graph.add("Mul", [tensor, inverse], f"{place}/Mul")
        return graph.add("Mul", [weight, even], f"{place}/Mul_1")

    def activation(self, tensor: str, kind: str, place: str) -> str:
        """An activation of ACTIVATIONS, its nodes at `place`."""
        return ACTIVATIONS[kind](self, tensor, place)

    def _gelu(self, tensor: str, place: str) -> str:
        graph, one = self.graph, self.number(1.0)
        scaled = graph.add("Div", [tensor, self.number(math.sqrt(2))], f"{place}/Div")
        below = graph.add("Add", [graph.add("Erf", [scaled], f"{place}/Erf"), one], f"{place}/Add")
        product = graph.add("Mul", [tensor, below], f"{place}/Mul")
        return graph.add("Mul", [product, self.number(0.5)], f"{place}/Mul_1")

    def _gelu_tanh(self, tensor: str, place: str) -> str:
        graph = self.graph
        half = graph.add("Mul", [tensor, self.number(0.5)], f"{place}/Mul")
        cube = graph.add("Pow", [tensor, self.number(3.0)], f"{place}/Pow")
        cube = graph.add("Mul", [cube, self.number(0.044715)], f"{place}/Mul_1")
        inner = graph.add("Add", [tensor, cube], f"{place}/Add")
        inner = graph.add("Mul", [inner, self.number(math.sqrt(2 / math.pi))], f"{place}/Mul_2")
        bent = graph.add("Tanh", [inner], f"{place}/Tanh")
        above = graph.add("Add", [bent, self.number(1.0)], f"{place}/Add_1")
        return graph.add("Mul", [half, above], f"{place}/Mul_3")

    def _silu(self, tensor: str, place: str) -> str:
        share = self.graph.add("Sigmoid", [tensor], f"{place}/Sigmoid")
        return self.graph.add("Mul", [tensor, share], f"{place}/Mul")

    def _relu(self, tensor: str, place: str) -> str:
        return self.graph.add("Relu", [tensor], f"{place}/Relu")


ACTIVATIONS: dict[str, Callable[[Modules, str, str], str]] = {
    "gelu": Modules._gelu,
    "gelu_new": Modules._gelu_tanh,
    "gelu_fast": Modules._gelu_tanh,
    "gelu_pytorch_tanh": Modules._gelu_tanh,
    "silu": Modules._silu,
    "swish": Modules._silu,
    "relu": Modules._relu,
}
"""Activations by the names that transformers gives them."""


def path(name: str) -> str:
    """'model.layers.0.norm' -> '/model/layers.0/norm'."""
    return "/" + re.sub(r"\.(?=\D)", "/", name)
