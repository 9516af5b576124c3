"""The linears and embeddings of an ONNX graph: shape, bits and bytes of each."""

import math
import re
from typing import Literal

from edgeprune.kernels.formats import DOMAIN
from edgeprune.measure.graph import told
from edgeprune.measure.inspect.record import Layer
from edgeprune.runtime.onnx_graph import (
    INT,
    INT64,
    TENSOR_BITS,
    Graph,
    Node,
    Tensor,
    all_graphs,
    stored_tensors,
)

Kind = Literal["linear", "embedding"]
_PASS_THROUGH = ("Transpose", "Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Reshape")
# The weight's place among the inputs of each operator that multiplies by one.
_LINEAR_WEIGHT = {
    "MatMul": 1,
    "Gemm": 1,
    "FusedMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "Attention": 1,
    "QAttention": 1,
}
_EMBEDDING_WEIGHT = {"Gather": 0, "GatherBlockQuantized": 0}


class BrokenNode(Exception):
    """A node or a tensor that is none of its kind; a sentence without its end."""


def stored_layers(graph: Graph) -> list[Layer]:
    """The linears and embeddings of a graph without circles, in its order.

    Raises:
        BrokenNode: a node lacks an input or a setting that its operator has.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].t and node.output:
            tensors[node.output[0]] = node.attribute[0].t
    found: list[Layer] = []
    seen: set[tuple[Kind, str]] = set()
    for node in graph.node:
        try:
            if node.domain == DOMAIN:
                found.append(_sparse_layer(node, tensors))
                continue
            kind: Kind = "linear" if node.op_type in _LINEAR_WEIGHT else "embedding"
            place = (_LINEAR_WEIGHT | _EMBEDDING_WEIGHT).get(node.op_type)
            if place is None:
                continue
            tensor, transposed = _weight(node.input[place], tensors, makers)
            # Gather also picks from small lists of shapes and constants.
            if tensor is None or len(tensor.dims) < 2 or tensor.data_type == INT64:
                continue
            layer = _layer(node, kind, tensor, transposed)
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise BrokenNode(
                f"the node {told(node)} lacks an input or a setting that its operator has, or has "
                f"one of another kind ({error})"
            ) from None
        if (kind, tensor.name) in seen:  # a layer that runs again
            continue
        tied = any(name == tensor.name for _, name in seen)  # whose bytes count once
        found.append(layer.model_copy(update={"bytes": 0}) if tied else layer)
        seen.add((kind, tensor.name))
    return found


def _weight(
    name: str, tensors: dict[str, Tensor], makers: dict[str, Node]
) -> tuple[Tensor | None, bool]:
    """The stored tensor behind an input, and whether it is transposed on the way."""
    transposed = False
    while name not in tensors:
        node = makers.get(name)
        if node is None or node.op_type not in _PASS_THROUGH:
            return None, False
        transposed ^= node.op_type == "Transpose"
        name = node.input[0]
    return tensors[name], transposed


def _layer(node: Node, kind: Kind, tensor: Tensor, transposed: bool) -> Layer:
    settings = {item.name: item.i for item in node.attribute if item.type == INT}
    bits = _bits(tensor)
    shape, group = tuple(tensor.dims), None
    if node.op_type == "MatMulNBits":
        shape, bits, group = (
            (settings["K"], settings["N"]),
            settings["bits"],
            settings["block_size"],
        )
    elif node.op_type == "GatherBlockQuantized":
        bits, group = settings.get("bits", bits if bits == 4 else 4), settings["block_size"]
        if _bits(tensor) == 8:
            shape = (*shape[:-1], shape[-1] * 8 // bits)
    elif transposed != bool(settings.get("transB", 0)):
        shape = (*shape[:-2], shape[-1], shape[-2])
    return Layer(
        name=_layer_name(node, tensor),
        kind=kind,
        operator=node.op_type,
        shape=shape,
        bits=bits,
        bytes=_bytes(tensor),
        group=group,
    )


def _sparse_layer(node: Node, tensors: dict[str, Tensor]) -> Layer:
    """A linear of edgeprune.kernels: its first two stored tensors are the mask and the blocks."""
    mask, values = [tensors[name] for name in node.input if name in tensors][:2]
    settings = {item.name: item.i for item in node.attribute}
    blocks, outputs, inputs = values.dims
    places = -(-settings["K"] // inputs) * -(-settings["N"] // outputs)
    return Layer(
        name=_layer_name(node, values),
        kind="linear",
        operator=node.op_type,
        shape=(settings["K"], settings["N"]),
        bits=_bits(values),
        bytes=_bytes(mask) + _bytes(values),
        block=f"{inputs}x{outputs}",
        sparsity=1 - blocks / places,
    )


def _layer_name(node: Node, tensor: Tensor) -> str:
    """The layer's path from the node's name ("/encoder/layer.0/query/MatMul"), or from its weight's
    where that is a parameter's name."""
    parts = [part for part in node.name.split("/") if part]
    if len(parts) > 1:
        return ".".join(parts[:-1])
    return re.sub(r"[._](weight|MatMul|quantized)\b.*$", "", tensor.name) or node.name


def stored_bytes(graph: Graph) -> int:
    """Bytes of all tensors that a graph stores, in its nodes and inner graphs too."""
    return sum(_bytes(tensor) for each in all_graphs(graph) for tensor in stored_tensors(each))


def _bytes(tensor: Tensor) -> int:
    return (math.prod(tensor.dims) * _bits(tensor) + 7) // 8


def _bits(tensor: Tensor) -> int:
    """Of one value."""
    if tensor.data_type not in TENSOR_BITS:
        raise BrokenNode(
            f"the tensor {tensor.name} is of the type {tensor.data_type}, unknown here"
        )
    if any(size < 0 for size in tensor.dims):
        raise BrokenNode(f"the tensor {tensor.name} has the shape {tensor.dims}")
    return TENSOR_BITS[tensor.data_type]
