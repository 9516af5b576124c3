"""Lower the planned linears to the runtime's INT8 products.

A linear becomes standard operators, which ONNX Runtime fuses into one when it loads the file:

    x ─> DynamicQuantizeLinear ─> MatMulInteger (codes) ─> Cast ─> Mul (scale of x * scales) ─> Add

Activations are unsigned and weights signed: signed times signed runs a naive loop on x86. Linears
that read the same tensor become one product, whose columns are then split, which is faster
(benchmarks/README.md, "q, k and v as one product").

With a scale fixed by calibration, the input is coded by QuantizeLinear and the runtime's
MatMulIntegerToFloat is written explicitly, because the runtime does not fuse constant scales.

The runtime packs a product's weights into its own copy and frees the original, except for a table
that a decoder's head shares with its embedding, which is then in memory twice. An unpacked head
keeps it once. On x86 the runtime multiplies a single row by unpacked weights if there is no zero
point, so the zero point is subtracted through the column sums. The runtime packs constants, so the
table goes through a Reshape that it cannot recognize as a no-op:

    x ─> codes ─────────────────────────> MatMulInteger ─> Sub (zero point * sums) ─> Cast ─> Mul
    table ─> Reshape (0 * shape of ids) ──────┘

That saves memory and is faster for a single row, but much slower for more (benchmarks/README.md,
"unpacked head").

With a scale per token ("int8-token"), for models with massive activations, the quantization is
written out row by row and takes somewhat longer (benchmarks/README.md, "a scale per token").
"""

from collections import defaultdict

import numpy as np
from onnx import TensorProto

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.linears import (
    TOGETHER,
    LinearNodes,
    distribute,
    merged_bias,
    merged_path,
    nodes_path,
    planned_linears,
)

_ZERO_POINT = 128


def lower_linears(graph: Graph, quantized: Quantized) -> int:
    """Replace every planned linear with its INT8 form; return how many.

    Raises:
        ValueError: a planned linear is not in the graph, or holds values other than planned.
    """
    groups: dict[tuple[str, str, str], list[LinearNodes]] = defaultdict(list)
    planned = planned_linears(graph, quantized, ("int8", "int8-token"))
    for entry, linear in planned:
        merged = "together" if entry.role in TOGETHER else entry.name
        groups[linear.input, entry.format, merged].append(linear)
    for (_, kind, _), linears in groups.items():
        _lower(graph, linears, quantized, token_wise=kind == "int8-token")
    graph.sweep()
    return len(planned)


def _lower(
    graph: Graph, linears: list[LinearNodes], quantized: Quantized, token_wise: bool
) -> None:
    stored, path = merged_path(linears), nodes_path(linears)
    scales = np.concatenate([quantized.scales[linear.name].numpy() for linear in linears])
    scale = graph.add_constant(f"{stored}/scales", scales)
    codes = _codes(graph, linears, quantized, stored)
    sizes = [len(quantized.scales[linear.name]) for linear in linears]
    bias = merged_bias(graph, linears, sizes)
    bias_name = "" if bias is None else graph.add_constant(f"{stored}/bias", bias)
    entry = quantized.plan[linears[0].name]
    if entry.input_scale is not None:
        weights = (codes, scale, bias_name)
        product = _static_product(graph, entry, linears[0].input, path, weights)
        distribute(graph, linears, product, sizes)
        return
    quantize = quantize_tokens if token_wise else quantize_tensor
    activations, zero_point, factor = quantize(graph, linears[0].input, path)
    if entry.unpacked and entry.tied_to is not None:
        columns = quantized.codes[entry.tied_to].numpy()
        sums = _unpacked_product(graph, activations, codes, zero_point, columns, path)
    else:
        sums = graph.add("MatMulInteger", [activations, codes, zero_point], f"{path}/MatMulInteger")
    floats = graph.add("Cast", [sums], f"{path}/Cast", to=TensorProto.FLOAT)
    if token_wise:
        # The weights' scales first: the runtime fuses them with the product.
        product = graph.add("Mul", [floats, scale], f"{path}/Scaled")
        product = graph.add("Mul", [product, factor], f"{path}/ScaledTokens")
    else:
        both = graph.add("Mul", [factor, scale], f"{path}/Scale")
        product = graph.add("Mul", [floats, both], f"{path}/Scaled")
    if bias_name:
        product = graph.add("Add", [product, bias_name], f"{path}/Add")
    distribute(graph, linears, product, sizes)


def _codes(graph: Graph, linears: list[LinearNodes], quantized: Quantized, path: str) -> str:
    """The codes as (inputs, outputs); a head tied to an embedding reads the embedding's codes."""
    first = linears[0].name
    tied = quantized.plan[first].tied_to
    if tied is not None:
        return tied_codes(graph, tied, quantized)
    names = [linear.name for linear in linears]
    shapes = [quantized.plan[name].shape for name in names]

    def columns() -> np.ndarray:
        return np.concatenate([quantized.codes[name].numpy().T for name in names], axis=1)

    sizes = (shapes[0][1], sum(outputs for outputs, _ in shapes))
    return graph.add_made(f"{path}/codes", "int8", sizes, columns)


def tied_codes(graph: Graph, embedding: str, quantized: Quantized) -> str:
    """The one copy of an embedding's codes that its head shares, as (width, rows)."""
    name = f"{embedding}.codes"
    if name not in graph.initializers:
        rows, width = quantized.plan[embedding].shape
        table = (width, rows)
        graph.add_made(name, "int8", table, lambda: quantized.codes[embedding].numpy().T)
    return name


def _unpacked_product(
    graph: Graph, activations: str, codes: str, zero_point: str, columns: np.ndarray, path: str
) -> str:
    """(activations - zero_point) @ codes in integers, with unpacked codes.

    columns: the codes, [columns, inputs].
    """
    nought = graph.add_constant(f"{path}/nought", np.array(0, np.int64))
    shape = graph.add("Shape", ["input_ids"], f"{path}/IdsShape")
    kept = graph.add("Mul", [shape, nought], f"{path}/KeptShape")  # 0 keeps a dimension
    codes = graph.add("Reshape", [codes, kept], f"{path}/Codes")
    sums = graph.add("MatMulInteger", [activations, codes], f"{path}/MatMulInteger")
    totals = graph.add_constant(f"{path}/sums", columns.sum(axis=1, dtype=np.int32))
    zero = graph.add("Cast", [zero_point], f"{path}/ZeroPoint", to=TensorProto.INT32)
    excess = graph.add("Mul", [zero, totals], f"{path}/Excess")
    return graph.add("Sub", [sums, excess], f"{path}/Sub")


def _static_product(
    graph: Graph, entry: Entry, tensor: str, path: str, weights: tuple[str, str, str]
) -> str:
    """input @ codes.T * scales + bias, with activations on the plan's fixed grid."""
    codes, scales, bias = weights
    step = graph.add_constant(f"{path}/input_scale", np.array(entry.input_scale, np.float32))
    zero = graph.add_constant(f"{path}/input_zero", np.array(entry.input_zero_point, np.uint8))
    activations = graph.add("QuantizeLinear", [tensor, step, zero], f"{path}/Quantize")
    inputs = [activations, codes, step, scales, zero, *(["", bias] if bias else [])]
    name = f"{path}/MatMulIntegerToFloat"
    return graph.add("MatMulIntegerToFloat", inputs, name, domain="com.microsoft")


def quantize_tensor(graph: Graph, tensor: str, path: str) -> tuple[str, str, str]:
    """One scale for the whole tensor: codes, zero point and scale, shared by all its readers."""
    for node in graph.consumers[tensor]:
        if node.op_type == "DynamicQuantizeLinear":
            codes, scale, zero_point = node.output
            return codes, zero_point, scale
    outputs = [f"{path}/Quantize_{part}" for part in ("codes", "scale", "zero_point")]
    graph.add("DynamicQuantizeLinear", [tensor], f"{path}/Quantize", outputs=outputs)
    return outputs[0], outputs[2], outputs[1]


def quantize_tokens(graph: Graph, tensor: str, path: str) -> tuple[str, str, str]:
    """A scale per token, symmetric about a zero point of 128: codes, zero point and scales."""
    for node in graph.consumers[tensor]:
        if node.op_type == "Div" and node.name.endswith("/Levels"):
            [reader] = graph.consumers[node.output[0]]
            return reader.output[0], reader.input[2], node.input[1]
    axis = -1
    magnitude = graph.add("Abs", [tensor], f"{path}/Abs")
    largest = graph.add("ReduceMax", [magnitude], f"{path}/Largest", axes=[axis], keepdims=1)
    if _may_lack_rows(graph, tensor):
        # ONNX Runtime 1.31 leaves the last axis of a tensor without rows as it was.
        ends = [
            graph.add_constant(f"{path}/{name}", np.array([value], np.int64))
            for name, value in (("first", 0), ("second", 1), ("last_axis", axis))
        ]
        largest = graph.add("Slice", [largest, *ends], f"{path}/LargestColumn")
    step = graph.add_constant(f"{path}/step", np.array(1 / 127, np.float32))
    least = graph.add_constant(f"{path}/least", np.array(1e-12, np.float32))
    scales = graph.add("Mul", [largest, step], f"{path}/TokenScales")
    scales = graph.add("Max", [scales, least], f"{path}/TokenScalesPositive")
    levels = graph.add("Div", [tensor, scales], f"{path}/Levels")
    one = graph.add_constant(f"{path}/unit", np.array(1, np.float32))
    zero = graph.add_constant(f"{path}/zero_point", np.array(_ZERO_POINT, np.uint8))
    codes = graph.add("QuantizeLinear", [levels, one, zero], f"{path}/Quantize")
    return codes, zero, scales


def _may_lack_rows(graph: Graph, tensor: str) -> bool:
    """Whether a tensor has the rows that were given to one expert of a mixture: a piece of a split
    whose sizes are computed, or made of one."""
    node = graph.producers.get(tensor)
    while node is not None:
        if node.op_type == "Split":
            return node.input[1] not in graph.initializers
        node = graph.producers.get(node.input[0])
    return False
