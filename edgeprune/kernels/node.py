"""A sparse linear as a node, and the function that replaces it where there is no library.

    x ─> SparseLinearInt8 ─> y          K, N; mask, values, scales, bias

The model contains a function of the same name and domain. A stock ONNX Runtime inlines its body and
folds what depends only on weights. That leaves one dense weight, and the product of a dense INT8
linear:

    mask ─> bits ─> CumSum * bits ─┐
    values, after one of zeros ────┴─> Gather ─> Transpose ─> Slice ─┐
    x ─> DynamicQuantizeLinear ──────────────────────────────────────┴─> MatMulInteger ─> ... ─> y

(Every shape follows from the inputs' shapes: the runtime does not fold NonZero and its like.)

With the library registered the operator is found first, and the function is ignored. One
function has one body; that is why there is a type of operator for each epilogue and kind of input.
"""

from dataclasses import dataclass

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from edgeprune.kernels.formats import DOMAIN, EPILOGUES, INPUTS, WITH_OTHER, is_operator, op_type
from edgeprune.kernels.pack import Packed, PackedCodes

OLDEST_OPSET = 13


@dataclass(frozen=True)
class Quantized:
    """Names of a tensor's codes (uint8), scale and zero point, from DynamicQuantizeLinear."""

    codes: str
    scale: str
    zero_point: str
    per_row: bool = False
    """The scale is [..., 1], one per row of the codes [..., K]."""


def make_sparse_linear(
    name: str,
    x: str | Quantized,
    y: str,
    packed: Packed,
    *,
    scales: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    epilogue: str = "none",
    other: str | None = None,
) -> tuple[NodeProto, list[TensorProto]]:
    """The node for y = epilogue(x W + bias), and its initializers.

    `add_functions` completes a model that has such nodes.

    Args:
        x: a float32 tensor [..., K], or its codes from a DynamicQuantizeLinear that several share.
        scales: [N] for int8, a scale for each column of codes; None for float32.
        bias: [N].
        epilogue: one of EPILOGUES: "silu-mul" is silu(x W + bias) * other, "add" is ... + other.
        other: a float32 tensor [..., N], for those two.

    Raises:
        ValueError: the arguments contradict each other.
    """
    int8 = packed.format.dtype == "int8"
    if epilogue not in EPILOGUES:
        raise ValueError(f"no epilogue {epilogue!r}")
    if int8 != (scales is not None):
        raise ValueError("int8 weights have scales, and float32 ones have none")
    if isinstance(x, Quantized) and not int8:
        raise ValueError("quantized activations need int8 weights")
    if (epilogue in WITH_OTHER) != (other is not None):
        raise ValueError(f"epilogue {epilogue} {'needs' if other is None else 'takes no'} other")
    tensors = {"mask": packed.mask, "values": packed.values}
    if scales is not None:
        tensors["scales"] = scales
    tensors["bias"] = np.zeros(packed.N, np.float32) if bias is None else bias
    for part in ("scales", "bias"):
        if part in tensors:
            tensors[part] = np.asarray(tensors[part], np.float32)
            if tensors[part].shape != (packed.N,):
                raise ValueError(f"{part} must have {packed.N} numbers")
    inputs = [x.codes, x.scale, x.zero_point] if isinstance(x, Quantized) else [x]
    initializers = [
        numpy_helper.from_array(value, f"{name}/{part}") for part, value in tensors.items()
    ]
    inputs += [tensor.name for tensor in initializers]
    inputs += [other] if other else []
    form = "plain" if isinstance(x, str) else "rows" if x.per_row else "shared"
    operator = op_type(packed.format.dtype, form, epilogue)
    node = helper.make_node(operator, inputs, [y], name, domain=DOMAIN, K=packed.K, N=packed.N)
    return node, initializers


def make_quant_linear(
    name: str,
    x: str,
    y: str,
    packed: PackedCodes,
    scales: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[NodeProto, list[TensorProto]]:
    """The node for y = x W + bias with quantized weights, and its initializers.

    The node runs only where the library is registered: it has no function.

    Args:
        x: a float32 tensor [..., K]; the operator quantizes each of its rows.
        scales: [N], a scale for each column.
        bias: [N].

    Raises:
        ValueError: the scales or the bias are not N numbers.
    """
    vectors = {"scales": scales, "bias": np.zeros(packed.N) if bias is None else bias}
    for part, vector in vectors.items():
        if np.shape(vector) != (packed.N,):
            raise ValueError(f"{part} must have {packed.N} numbers")
    tensors = {"codes": packed.codes, "multipliers": packed.multipliers}
    tensors |= {part: np.asarray(vector, np.float32) for part, vector in vectors.items()}
    initializers = [
        numpy_helper.from_array(value, f"{name}/{part}") for part, value in tensors.items()
    ]
    node = helper.make_node(
        f"QuantLinearInt{packed.format.bits}",
        [x, *(tensor.name for tensor in initializers)],
        [y],
        name,
        domain=DOMAIN,
        K=packed.K,
        N=packed.N,
        group=packed.format.group,
    )
    return node, initializers


def add_functions(model: ModelProto) -> None:
    """Add the function of every sparse operator that the graph uses.

    Raises:
        ValueError: the model's operator set is older than 13.
    """
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    kinds = {kind for kind in used if is_operator(kind)}
    kinds -= {function.name for function in model.functions if function.domain == DOMAIN}
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if kinds and opset < OLDEST_OPSET:
        raise ValueError(f"sparse operators need operator set {OLDEST_OPSET}, and this is {opset}")
    model.functions.extend(function(kind, opset) for kind in sorted(kinds))
    if used and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def function(kind: str, opset: int) -> FunctionProto:
    """The function of one operator type, in standard operators of `opset`."""
    for dtype, x in INPUTS:
        for epilogue in EPILOGUES:
            if op_type(dtype, x, epilogue) == kind:
                return parser.parse_function(_text(kind, opset, dtype, x, epilogue))
    raise ValueError(f"there is no operator {DOMAIN}::{kind}")


_DENSE = """
    shifts = Constant <value = uint8[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()
    two = Constant <value = uint8[1] {{2}}> ()
    last = Constant <value_ints = [2]> ()
    flat = Constant <value_ints = [0, -1]> ()
    first = Constant <value_ints = [1]> ()
    third = Constant <value_ints = [3]> ()
    fourth = Constant <value_ints = [4]> ()
    rest = Constant <value_ints = [-1]> ()
    start = Constant <value_int = 0> ()
    origin = Constant <value_ints = [0, 0]> ()
    bytes = Unsqueeze (mask, last)
    shifted = BitShift <direction = "RIGHT"> (bytes, shifts)
    bits = Mod (shifted, two)
    places = Reshape (bits, flat)
    grid = Shape (places)
    line = Reshape (places, rest)
    present = Cast <to = 6> (line)
    number = CumSum (present, start)
    chosen = Mul (number, present)
    stored = Shape (values)
    block = Slice (stored, first, third)
    alone = Concat <axis = 0> (first, block)
    zeros = ConstantOfShape <value = {dtype}[1] {{0}}> (alone)
    table = Concat <axis = 0> (zeros, values)
    gathered = Gather <axis = 0> (table, chosen)
    size = Concat <axis = 0> (grid, block)
    blocks = Reshape (gathered, size)
    ordered = Transpose <perm = [1, 3, 0, 2]> (blocks)
    order = Shape (ordered)
    across = Slice (order, last, fourth)
    columns = ReduceProd (across)
    area = Concat <axis = 0> (rest, columns)
    padded = Reshape (ordered, area)
    inputs = Constant <value_int: int = @K> ()
    outputs = Constant <value_int: int = @N> ()
    height = Reshape (inputs, rest)
    width = Reshape (outputs, rest)
    end = Concat <axis = 0> (height, width)
    weight = Slice (padded, origin, end)"""

_QUANTIZE = """
    x, x_scale, x_zero_point = DynamicQuantizeLinear (x_float)"""

_PRODUCTS = {
    "float32": """
    product = MatMul (x, weight)""",
    "int8": """
    sums = MatMulInteger (x, weight, x_zero_point)
    floats = Cast <to = 1> (sums)
    scale = Mul (x_scale, scales)
    product = Mul (floats, scale)""",
    # The weights' scales first: the runtime fuses them with the product.
    "rows": """
    sums = MatMulInteger (x, weight, x_zero_point)
    floats = Cast <to = 1> (sums)
    columns_scaled = Mul (floats, scales)
    product = Mul (columns_scaled, x_scale)""",
}

# The forms that ONNX Runtime fuses. A residual is a Sum, because the runtime would fuse an Add with
# the norm after it, which is slow (rewrite/residual.py).
_ENDS = {
    "none": """
    y = Add (product, bias)""",
    "gelu": """
    biased = Add (product, bias)
    root = Constant <value = float {{1.4142135381698608}}> ()
    one = Constant <value = float {{1}}> ()
    half = Constant <value = float {{0.5}}> ()
    divided = Div (biased, root)
    erf = Erf (divided)
    doubled = Add (erf, one)
    whole = Mul (biased, doubled)
    y = Mul (whole, half)""",
    "gelu-tanh": """
    biased = Add (product, bias)
    three = Constant <value = float {{3}}> ()
    small = Constant <value = float {{0.044715}}> ()
    root = Constant <value = float {{0.7978845608}}> ()
    one = Constant <value = float {{1}}> ()
    half = Constant <value = float {{0.5}}> ()
    cube = Pow (biased, three)
    bent = Mul (cube, small)
    curve = Add (biased, bent)
    scaled = Mul (curve, root)
    tanh = Tanh (scaled)
    doubled = Add (tanh, one)
    halved = Mul (biased, half)
    y = Mul (halved, doubled)""",
    "silu-mul": """
    biased = Add (product, bias)
    gate = Sigmoid (biased)
    silu = Mul (biased, gate)
    y = Mul (silu, other)""",
    "add": """
    biased = Add (product, bias)
    y = Sum (biased, other)""",
}


def _text(kind: str, opset: int, dtype: str, x: str, epilogue: str) -> str:
    int8 = dtype == "int8"
    quantized = ["x", "x_scale", "x_zero_point"]
    inputs = quantized if x != "plain" else ["x_float" if int8 else "x"]
    inputs += ["mask", "values", *(["scales"] if int8 else []), "bias"]
    inputs += ["other"] if epilogue in WITH_OTHER else []
    quantize = _QUANTIZE if int8 and x == "plain" else ""
    product = _PRODUCTS["rows" if x == "rows" else dtype]
    body = (_DENSE + quantize + product + _ENDS[epilogue]).format(dtype=_TEXT_TYPES[dtype])
    return (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{kind} <K, N> ({', '.join(inputs)}) => (y) {{{body}\n}}"
    )


_TEXT_TYPES = {"float32": "float", "int8": "int8"}
