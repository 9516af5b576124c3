"""The functions of stock operators that stand for the library's where it is not installed.

A sparse linear unpacks its blocks, a quantized one its strips; ONNX Runtime folds that to one dense
INT8 weight when it loads the file. Every shape follows from the inputs' shapes, because the runtime
does not fold NonZero and its like.

A quantized linear is bit-equal to its operator: the same codes, exact sums, the same three
roundings. Norms and activations are as close as their own roundings allow. ONNX Runtime's products
of unsigned by signed bytes are its fastest, and saturate on processors without VNNI: so a quantized
linear's weight is int8 in a file for processors with it, and uint8 with a zero point in others.
"""

import numpy as np
from onnx import FunctionProto, helper, numpy_helper, parser

from edgeprune.kernels.formats import (
    CONTRIB,
    DOMAIN,
    EPILOGUES,
    GATES,
    INPUTS,
    MOST_MULTIPLIER,
    NORMS,
    QUANT_EPILOGUES,
    WITH_OTHER,
    WITH_RESIDUAL,
    op_type,
    quant_op_type,
)


def function(kind: str, opset: int, vnni: bool = False) -> FunctionProto:
    """The function of one operator type, in standard operators of `opset`.

    Args:
        vnni: the processor that runs it has VNNI, for which a quantized linear takes the runtime's
            own MatMulIntegerToFloat.

    Raises:
        ValueError: there is no such operator.
    """
    for dtype, x in INPUTS:
        for epilogue in EPILOGUES:
            if op_type(dtype, x, epilogue) == kind:
                return parser.parse_function(_sparse(kind, opset, dtype, x, epilogue))
    for bits in (4, 8):
        for norm in NORMS:
            for epilogue in QUANT_EPILOGUES:
                if quant_op_type(bits, norm, epilogue) == kind:
                    return _quant(kind, opset, bits, norm, epilogue, vnni)
    raise ValueError(f"there is no operator {DOMAIN}::{kind}")


# ---- What follows the product -------------------------------------------------------------------

# The forms that ONNX Runtime fuses, from `a` to `b`.
_ACTIVATIONS = {
    "gelu": """
    root = Constant <value = float {{1.4142135381698608}}> ()
    one = Constant <value = float {{1}}> ()
    half = Constant <value = float {{0.5}}> ()
    divided = Div ({a}, root)
    erf = Erf (divided)
    doubled = Add (erf, one)
    whole = Mul ({a}, doubled)
    {b} = Mul (whole, half)""",
    "gelu-tanh": """
    three = Constant <value = float {{3}}> ()
    small = Constant <value = float {{0.044715}}> ()
    root = Constant <value = float {{0.7978845608}}> ()
    one = Constant <value = float {{1}}> ()
    half = Constant <value = float {{0.5}}> ()
    cube = Pow ({a}, three)
    bent = Mul (cube, small)
    curve = Add ({a}, bent)
    scaled = Mul (curve, root)
    tanh = Tanh (scaled)
    doubled = Add (tanh, one)
    halved = Mul ({a}, half)
    {b} = Mul (halved, doubled)""",
    "silu": """
    gate_of = Sigmoid ({a})
    {b} = Mul ({a}, gate_of)""",
}


def _activation(name: str, a: str, b: str) -> str:
    return _ACTIVATIONS[name].format(a=a, b=b)


# From `biased` to `y`. A residual is a Sum, because the runtime would fuse an Add with the norm
# after it, which is slow (rewrite/residual.py).
_ENDS = {
    "gelu": _activation("gelu", "biased", "y"),
    "gelu-tanh": _activation("gelu-tanh", "biased", "y"),
    "silu-mul": _activation("silu", "biased", "silu")
    + """
    y = Mul (silu, other)""",
    "add": """
    y = Sum (biased, other)""",
    "add-layer": """
    summed = Sum (biased, other)
    y = LayerNormalization <axis = -1, epsilon: float = @epsilon_after>
        (summed, after_weight, after_bias)""",
}
for _gate in GATES:
    _ENDS[_gate] = (
        """
    columns_out = Constant <value_int: int = @N> ()
    one_half = Reshape (columns_out, rest)
    halves = Concat <axis = 0> (one_half, one_half)
    gate, up = Split <axis = -1> (biased, halves)"""
        + _activation(_gate.removesuffix("-gate"), "gate", "active")
        + """
    y = Mul (active, up)"""
    )


def _end(epilogue: str, added_by: str) -> str:
    """From `product` to `y`, with the operator that adds the bias: an Add, which the runtime fuses
    with the product before it or the activation after it, or a Sum, which stays alone."""
    if epilogue == "none":
        return """
    y = Add (product, bias)"""
    return f"""
    biased = {added_by} (product, bias){_ENDS[epilogue]}"""


# ---- Sparse linears -----------------------------------------------------------------------------

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


def _sparse(kind: str, opset: int, dtype: str, x: str, epilogue: str) -> str:
    int8 = dtype == "int8"
    quantized = ["x", "x_scale", "x_zero_point"]
    inputs = quantized if x != "plain" else ["x_float" if int8 else "x"]
    inputs += ["mask", "values", *(["scales"] if int8 else []), "bias"]
    inputs += ["other"] if epilogue in WITH_OTHER else []
    quantize = _QUANTIZE if int8 and x == "plain" else ""
    product = _PRODUCTS["rows" if x == "rows" else dtype]
    body = (_DENSE + quantize + product).format(dtype=_TEXT_TYPES[dtype])
    body += _end(epilogue, "Add")
    return _text(kind, opset, ["K", "N"], inputs, body)


_TEXT_TYPES = {"float32": "float", "int8": "int8"}


def _text(kind: str, opset: int, attributes: list[str], inputs: list[str], body: str) -> str:
    return (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{kind} <{', '.join(attributes)}> ({', '.join(inputs)}) => (y) {{{body}\n}}"
    )


# ---- Quantized linears --------------------------------------------------------------------------

_NORMS = {
    "none": "",
    # The form that the runtime fuses.
    "rms": """
    two = Constant <value = float {{2}}> ()
    least = Constant <value_float: float = @epsilon> ()
    squares = Pow (x_float, two)
    mean = {mean}
    above = Add (mean, least)
    deviation = Sqrt (above)
    even = Div (x_float, deviation)
    normed = Mul (even, norm_weight)""",
    "layer": """
    normed = LayerNormalization <axis = -1, epsilon: float = @epsilon>
        (x_float, norm_weight, norm_bias)""",
}

# A row of zeros has whatever codes, and the scale 0.
_QUANTIZE_ROWS = """
    unit = Constant <value = float {{1}}> ()
    most = Constant <value = float {{127}}> ()
    middle = Constant <value = uint8 {{128}}> ()
    sizes = Abs ({x})
    largest = {largest}
    x_scale = Div (largest, most)
    levels = Div ({x}, x_scale)
    x = QuantizeLinear (levels, unit, middle)"""

# Codes plus 128 to int8, by a table.
_SIGNED = """
    places_of_codes = Cast <to = 6> (codes)
    signed_codes = Gather <axis = 0> (table, places_of_codes)"""

# Codes to `ordered`, [blocks, ..., parts, strips of a part, 16]: uint8 and plus 128, or int8. The
# strips of a gated linear are of its two parts in turns.
_ORDERED = {
    # A byte of two codes, and a multiplier, to two weights: by a table, in the least memory.
    4: """
    lowest = Constant <value = int32 {{MOST}}> ()
    bytes = Constant <value = int32 {{256}}> ()
    block_size = Constant <value_ints = [32]> ()
    by_group = Constant <value_int: int = @group> ()
    group_size = Reshape (by_group, rest)
    times = Div (group_size, block_size)
    spread = Concat <axis = 0> (times, first)
    wide = Cast <to = 6> (multipliers)
    number = Add (wide, lowest)
    start = Mul (number, bytes)
    start_of_group = Unsqueeze (start, second)
    repeated = Expand (start_of_group, spread)
    flat = Constant <value_ints = [0, -1, 1, 16, 1]> ()
    starts = Reshape (repeated, flat)
    vectors = Constant <value_ints = [0, -1, 4, 16, 4]> ()
    blocks = Reshape (codes, vectors)
    shape = Shape (blocks)
    count = Slice (shape, first, second)
    start_of_block = Slice (starts, nothing, count, first)
    bytes_of_block = Cast <to = 6> (blocks)
    places = Add (bytes_of_block, start_of_block)
    pairs = Gather <axis = 0> (table, places)
    block = Constant <value_ints = [4, 16, 4, 2]> ()
    stripped = Concat <axis = 0> (rest, parts, count, block)
    strips = Reshape (pairs, stripped)
    ordered = Transpose <perm = [2, 3, 6, 5, 1, 0, 4]> (strips)""",
    8: """
    shape = Shape (codes)
    count = Slice (shape, first, second)
    block = Constant <value_ints = [16, 4]> ()
    stripped = Concat <axis = 0> (rest, parts, count, block)
    strips = Reshape ({codes}, stripped)
    ordered = Transpose <perm = [2, 4, 1, 0, 3]> (strips)""",
}

_WEIGHT = """
    rest = Constant <value_ints = [-1]> ()
    nothing = Constant <value_ints = [0]> ()
    first = Constant <value_ints = [1]> ()
    second = Constant <value_ints = [2]> ()
    parts = Constant <value_ints = [{parts}]> (){ordered}
    order = Shape (ordered)
    last_two = Constant <value_ints = [-2]> ()
    end = Constant <value_ints = [9]> ()
    across = Slice (order, last_two, end)
    columns = ReduceProd (across)
    area = Concat <axis = 0> (rest, parts, columns)
    padded = Reshape (ordered, area)
    inputs = Constant <value_int: int = @K> ()
    outputs = Constant <value_int: int = @N> ()
    height = Reshape (inputs, rest)
    width = Reshape (outputs, rest)
    corner = Concat <axis = 0> (height, width)
    origin = Constant <value_ints = [0, 0]> ()
    sides = Constant <value_ints = [0, 2]> ()
    cut = Slice (padded, origin, corner, sides)
    matrix = Constant <value_ints = [0, -1]> ()
    weight = Reshape (cut, matrix)"""

_PRODUCTS_OF_ROWS = {
    False: """
    sums = MatMulInteger (x, weight, middle, middle)
    floats = Cast <to = 1> (sums)
    of_columns = Mul (floats, scales)
    product = Mul (of_columns, x_scale)""",
    True: f"""
    of_columns = {CONTRIB}.MatMulIntegerToFloat (x, weight, unit, scales, middle)
    product = Mul (of_columns, x_scale)""",
}


def _quant(kind: str, opset: int, bits: int, norm: str, epilogue: str, vnni: bool) -> FunctionProto:
    parts = 2 if epilogue in GATES else 1
    reduced = "{0} ({1}, rest)" if opset >= 18 else "{0} <axes = [-1]> ({1})"
    by_table = vnni and bits == 8
    ordered = _SIGNED if by_table else ""
    ordered += (
        _ORDERED[bits]
        .replace("MOST", str(MOST_MULTIPLIER))
        .format(parts=parts, codes="signed_codes" if by_table else "codes")
    )
    body = _WEIGHT.format(parts=parts, ordered=ordered)
    body += _NORMS[norm].format(mean=reduced.format("ReduceMean", "squares"))
    body += _QUANTIZE_ROWS.format(
        x="x_float" if norm == "none" else "normed", largest=reduced.format("ReduceMax", "sizes")
    )
    # Fused with GELU a bias takes longer than alone.
    body += _PRODUCTS_OF_ROWS[vnni] + _end(epilogue, "Sum")
    inputs = ["x_float", "codes", *(["multipliers"] if bits == 4 else []), "scales", "bias"]
    inputs += {"none": [], "rms": ["norm_weight"], "layer": ["norm_weight", "norm_bias"]}[norm]
    inputs += ["other"] if epilogue in WITH_RESIDUAL else []
    inputs += ["after_weight", "after_bias"] if epilogue == "add-layer" else []
    attributes = ["K", "N", *(["group"] if bits == 4 else [])]
    attributes += [] if norm == "none" else ["epsilon"]
    attributes += ["epsilon_after"] if epilogue == "add-layer" else []
    made = parser.parse_function(_text(kind, opset, attributes, inputs, body))
    if vnni:
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    if bits == 4 or by_table:
        table = numpy_helper.from_array(_weights_of_bytes(bits, vnni))
        made.node.insert(0, helper.make_node("Constant", [], ["table"], value=table))
    return made


def _weights_of_bytes(bits: int, signed: bool) -> np.ndarray:
    """The weights that a byte stands for, int8, or plus 128 and uint8: [256] of codes of 8 bits;
    [31 * 256, 2] of two of 4, for each multiplier."""
    if bits == 8:
        weights = np.arange(256) - 128
    else:
        multipliers = np.arange(-MOST_MULTIPLIER, MOST_MULTIPLIER + 1)[:, None, None]
        codes = np.arange(256)[:, None] >> np.array([0, 4]) & 15
        weights = ((codes - 8) * multipliers).reshape(-1, 2)
    return weights.astype(np.int8) if signed else (weights + 128).astype(np.uint8)
