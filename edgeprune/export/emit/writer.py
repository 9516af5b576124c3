"""A graph that is written node by node, with weights that are read when it is saved.

Nodes are named by the modules whose work they do, as a tracer names them, so that every pass finds
them: encoder.layer.0.output.dense becomes /encoder/layer.0/output/dense/MatMul.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from edgeprune.export.emit.weights import Weights
from edgeprune.export.graph import Graph

# LayerNormalization is one operator from 17 on; ONNX Runtime 1.17 reads up to 20.
OPSET = 17
_IR_VERSION = 8
BATCH, TOKENS = "batch_size", "sequence_length"
Sizes = Sequence[str | int]


def path_of(module: str) -> str:
    """The path of a module's nodes; a number belongs to the list that it counts."""
    return "/" + re.sub(r"\.(?!\d+(\.|$))", "/", module)


class Writer:
    """Writes the linears, norms and tables of one model's files."""

    def __init__(
        self,
        weights: Weights,
        inputs: Mapping[str, Sizes],
        outputs: Mapping[str, Sizes],
        caches: Mapping[str, Sizes] | None = None,
    ) -> None:
        """`inputs` are integers, `outputs` and `caches`, which are inputs too, floats, with their
        sizes."""
        self.weights = weights
        given, kept, made = (
            [helper.make_tensor_value_info(name, kind, sizes) for name, sizes in named.items()]
            for named, kind in (
                (inputs, TensorProto.INT64),
                (caches or {}, TensorProto.FLOAT),
                (outputs, TensorProto.FLOAT),
            )
        )
        self.graph = Graph(
            helper.make_model(
                helper.make_graph([], "main_graph", given + kept, made),
                opset_imports=[helper.make_opsetid("", OPSET)],
                ir_version=_IR_VERSION,
                producer_name="edgeprune",
            )
        )

    def constant(self, name: str, value: object) -> str:
        """A constant: an array, or whole numbers."""
        return self.graph.add_constant(name, np.asarray(value))

    def weight(self, name: str, transposed: bool = False) -> str:
        """A tensor of the files under its own name, or with swapped axes under one beside it."""
        own = f"{name}.transposed" if transposed else name
        if own not in self.graph.initializers:
            self.graph.add_tensor(own, self.weights.tensor(name, transposed))
        return own

    def linear(self, x: str, module: str) -> str:
        """x @ weight.T, and the bias where the module has one."""
        path = path_of(module)
        weight = self.weight(f"{module}.weight", transposed=True)
        return self.biased(self.graph.add("MatMul", [x, weight], f"{path}/MatMul"), module)

    def tied(self, x: str, module: str, table: str) -> str:
        """A linear that reads the table of an embedding (outputs, inputs), which is stored once:
        the runtime turns it when it loads the file."""
        path = path_of(module)
        columns = self.graph.add("Transpose", [self.weight(f"{table}.weight")], f"{path}/Columns")
        return self.biased(self.graph.add("MatMul", [x, columns], f"{path}/MatMul"), module)

    def biased(self, product: str, module: str) -> str:
        """A linear's product, and its bias where it has one."""
        if f"{module}.bias" not in self.weights:
            return product
        bias = self.weight(f"{module}.bias")
        return self.graph.add("Add", [bias, product], f"{path_of(module)}/Add")

    def rows(self, table: str, numbers: str) -> str:
        """The rows of an embedding by their numbers."""
        name = f"{path_of(table)}/Gather"
        return self.graph.add("Gather", [self.weight(f"{table}.weight"), numbers], name)

    def norm(self, x: str, module: str, epsilon: float) -> str:
        """Layer normalization of the last axis; some norms have no bias."""
        names = [f"{module}.weight", f"{module}.bias"]
        inputs = [x, *(self.weight(name) for name in names if name in self.weights)]
        name = f"{path_of(module)}/LayerNormalization"
        return self.graph.add("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)
