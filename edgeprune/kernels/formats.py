"""The sparse and the quantized formats, and the names of their operators."""

from dataclasses import dataclass

DOMAIN = "edgeprune"
CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
VNNI = "edgeprune.vnni"
"""An entry of the graph's metadata: the functions of quantized linears are for processors with
VNNI."""


@dataclass(frozen=True)
class Format:
    """Blocks of `inputs` consecutive inputs by `outputs` consecutive outputs, of one data type."""

    name: str
    inputs: int
    outputs: int
    dtype: str

    def bytes(self, K: int, N: int, sparsity: float) -> int:
        """Bytes that pack.py stores for a matrix [K, N]: the blocks left, and a bit for each."""
        units, rows = -(-K // self.inputs), -(-N // self.outputs)
        stored = round((1 - sparsity) * units * rows)
        width = 1 if self.dtype == "int8" else 4
        return stored * self.inputs * self.outputs * width + rows * -(-units // 8)


FORMATS = {
    made.name: made
    for made in (
        Format("int8-4x16", 4, 16, "int8"),
        Format("int8-4x1", 4, 1, "int8"),
        Format("float32-1x16", 1, 16, "float32"),
        Format("float32-1x1", 1, 1, "float32"),
    )
}


@dataclass(frozen=True)
class QuantFormat:
    """Dense codes of `bits` bits, under a float32 scale for each column.

    With a `group`, each that many inputs of a column have an integer multiplier of at most 4 bits
    and a sign: a weight is code * multiplier * scale, and code * scale without.
    """

    name: str
    bits: int
    group: int | None = None

    @property
    def lowest(self) -> int:
        """The lowest code; the highest is -lowest - 1."""
        return -(2 ** (self.bits - 1))

    def bytes(self, K: int, N: int) -> int:
        """Bytes that pack.py stores for a matrix [K, N]: the codes and the multipliers."""
        columns = -(-N // 16) * 16
        groups = -(-K // self.group) if self.group else 0
        return columns * (-(-K // 32) * 4 * self.bits + groups)


QUANT_FORMATS = {
    made.name: made
    for made in (
        QuantFormat("int4-g32", 4, 32),
        QuantFormat("int4-g128", 4, 128),
        QuantFormat("int8", 8),
    )
}
MOST_MULTIPLIER = 15


def quant_format(group: int | None) -> QuantFormat:
    """INT4 in groups of so many inputs, or INT8 without."""
    return next(form for form in QUANT_FORMATS.values() if form.group == group)


# The operation after the product and the bias, and the end of the operator's name.
EPILOGUES = {
    "none": "",
    "gelu": "Gelu",
    "gelu-tanh": "GeluTanh",
    "silu-mul": "SiluMul",
    "add": "Add",
}
# These read one more tensor, of the result's shape.
WITH_OTHER = ("silu-mul", "add")


# The input x for weights of a type: as it is; quantized with one scale; with one for each row.
INPUTS = {
    ("float32", "plain"): "Float",
    ("int8", "plain"): "Int8",
    ("int8", "shared"): "Int8Shared",
    ("int8", "rows"): "Int8Rows",
}


# Quantized linears: the norm of x before it is quantized, and the beginning of the operator's name.
NORMS = {"none": "", "rms": "RmsNorm", "layer": "LayerNorm"}
# What follows the product and the bias, and the end of the operator's name. The gated ones have
# columns [gate, up] and give activation(gate) * up, half as wide; "add-layer" is the LayerNorm of
# the sum with other.
QUANT_EPILOGUES = {
    "none": "",
    "gelu": "Gelu",
    "gelu-tanh": "GeluTanh",
    "add": "Add",
    "add-layer": "AddLayerNorm",
    "silu-gate": "SiluGate",
    "gelu-gate": "GeluGate",
    "gelu-tanh-gate": "GeluTanhGate",
}
GATES = ("silu-gate", "gelu-gate", "gelu-tanh-gate")
WITH_RESIDUAL = ("add", "add-layer")


def is_operator(name: str) -> bool:
    """True for the type of a sparse or quantized operator."""
    return name.startswith("SparseLinear") or "QuantLinearInt" in name


def op_type(dtype: str, x: str, epilogue: str) -> str:
    """The operator for weights of a type, an input of INPUTS, and an epilogue."""
    return f"SparseLinear{INPUTS[dtype, x]}{EPILOGUES[epilogue]}"


def quant_op_type(bits: int, norm: str, epilogue: str) -> str:
    """The operator for codes of 4 or 8 bits, a norm of NORMS and one of QUANT_EPILOGUES."""
    return f"{NORMS[norm]}QuantLinearInt{bits}{QUANT_EPILOGUES[epilogue]}"
