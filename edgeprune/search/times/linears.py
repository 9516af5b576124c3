"""Linears of random weights as models of one product, x (rows, inputs) to y (rows, outputs)."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.kernels.formats import FORMATS
from edgeprune.kernels.node import add_functions, make_sparse_linear
from edgeprune.kernels.pack import pack

OPSET = 17


def sparse(
    name: str, inputs: int, outputs: int, share: float, rng: np.random.Generator
) -> onnx.ModelProto:
    """A linear with blocks gone at random."""
    form = FORMATS[name]
    kept = rng.random((-(-inputs // form.inputs), -(-outputs // form.outputs))) >= share
    kept = kept.repeat(form.inputs, 0).repeat(form.outputs, 1)[:inputs, :outputs]
    if form.dtype == "int8":
        weight = (rng.integers(1, 128, (inputs, outputs)) * kept).astype(np.int8)
        scales = np.full(outputs, 0.01, np.float32)
    else:
        weight, scales = (rng.standard_normal((inputs, outputs)) * kept).astype(np.float32), None
    node, initializers = make_sparse_linear("linear", "x", "y", pack(weight, name), scales=scales)
    return model_of([node], initializers, inputs, outputs)


def dense(name: str, inputs: int, outputs: int, rng: np.random.Generator) -> onnx.ModelProto:
    """The runtime's own product of the same shape, with a bias."""
    stored: dict[str, np.ndarray] = {"bias": np.zeros(outputs, np.float32)}
    if name == "dense int8":
        stored["weight"] = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
        stored["scales"] = np.full(outputs, 0.01, np.float32)
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["codes", "weight", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "scales"], ["both"]),
            helper.make_node("Mul", ["floats", "both"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    elif name == "dense int4":
        # Groups of 128: the fastest INT4 that the runtime has.
        groups = -(-inputs // 128)
        stored["codes"] = rng.integers(0, 256, (outputs, groups, 64)).astype(np.uint8)
        stored["scales"] = np.full(outputs * groups, 0.01, np.float32)
        settings: dict[str, Any] = {
            "K": inputs,
            "N": outputs,
            "bits": 4,
            "block_size": 128,
            "accuracy_level": 4,
        }
        nodes = [
            helper.make_node(
                "MatMulNBits",
                ["x", "codes", "scales"],
                ["product"],
                domain="com.microsoft",
                **settings,
            ),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    else:
        stored["weight"] = rng.standard_normal((inputs, outputs)).astype(np.float32)
        nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])]
    initializers = [numpy_helper.from_array(value, part) for part, value in stored.items()]
    return model_of(nodes, initializers, inputs, outputs)


def model_of(
    nodes: list[onnx.NodeProto], initializers: list[TensorProto], inputs: int, outputs: int
) -> onnx.ModelProto:
    """A model of x to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])
    graph = helper.make_graph(nodes, "linear", [x], [y], initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    add_functions(model)
    return model
