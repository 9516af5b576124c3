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
function has one body (function.py); that is why there is a type of operator for each epilogue, norm
and kind of input.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeprune.kernels.attention_function import attention_functions
from edgeprune.kernels.formats import (
    CONTRIB,
    DOMAIN,
    EPILOGUES,
    GATES,
    QUANT_EPILOGUES,
    VNNI,
    WITH_OTHER,
    WITH_RESIDUAL,
    is_operator,
    op_type,
    quant_op_type,
)
from edgeprune.kernels.function import function
from edgeprune.kernels.pack import Packed, PackedCodes, alternate_halves

OLDEST_OPSET = 13
OLDEST_OPSET_OF_LAYER_NORM = 17


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


@dataclass(frozen=True)
class Norm:
    """A norm over a row: weight * x / sqrt(mean(x^2) + epsilon), or a LayerNorm.

    kind: "rms" or "layer"; weight and bias: as many numbers as the row has. A LayerNorm's bias may
    be left out, and a norm by mean squares has none.
    """

    kind: str
    weight: np.ndarray
    epsilon: float
    bias: np.ndarray | None = None


def make_quant_linear(
    name: str,
    x: str,
    y: str,
    packed: PackedCodes,
    scales: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    norm: Norm | None = None,
    epilogue: str = "none",
    other: str | None = None,
    norm_after: Norm | None = None,
) -> tuple[NodeProto, list[TensorProto]]:
    """The node for y = epilogue(norm(x) W + bias) with quantized weights, and its initializers.

    `add_functions` completes a model that has such nodes.

    Args:
        x: a float32 tensor [..., K]; the operator quantizes each of its rows, after the norm.
        scales: [N], a scale for each column.
        bias: [N].
        norm: of x, over K.
        epilogue: one of QUANT_EPILOGUES but "add-layer", which is "add" with `norm_after`. The
            gated ones take the columns [gate, up] and make y half as wide.
        other: a float32 tensor of y's shape that "add" adds.
        norm_after: a LayerNorm over y, after the addition.

    Raises:
        ValueError: the arguments contradict each other.
    """
    if epilogue not in QUANT_EPILOGUES or epilogue == "add-layer":
        raise ValueError(f"no epilogue {epilogue!r}")
    if (epilogue in WITH_RESIDUAL) != (other is not None):
        raise ValueError(f"epilogue {epilogue} {'needs' if other is None else 'takes no'} other")
    if norm_after is not None and (epilogue != "add" or norm_after.kind != "layer"):
        raise ValueError("a norm after the product is a LayerNorm that follows an addition")
    if epilogue in GATES and packed.N % 2:
        raise ValueError(f"{epilogue} needs as many columns of gates as of values, not {packed.N}")
    if norm_after is not None:
        epilogue = "add-layer"
    outputs = packed.N // 2 if epilogue in GATES else packed.N
    stored = alternate_halves(packed) if epilogue in GATES else packed
    settings: dict[str, Any] = {"K": packed.K, "N": outputs}
    tensors: dict[str, np.ndarray] = {"codes": stored.codes}
    if stored.multipliers is not None and packed.format.group is not None:
        tensors["multipliers"] = stored.multipliers
        settings["group"] = packed.format.group
    tensors["scales"] = _vector("scales", scales, packed.N)
    tensors["bias"] = _vector("bias", bias, packed.N)
    if norm is not None:
        tensors |= _norm_vectors("norm", norm, packed.K)
        settings["epsilon"] = norm.epsilon
    after = {} if norm_after is None else _norm_vectors("after", norm_after, outputs)
    if norm_after is not None:
        settings["epsilon_after"] = norm_after.epsilon
    before, behind = (
        [numpy_helper.from_array(value, f"{name}/{part}") for part, value in these.items()]
        for these in (tensors, after)
    )
    inputs = [x, *(tensor.name for tensor in before)]
    inputs += [other] if other else []
    inputs += [tensor.name for tensor in behind]
    kind = quant_op_type(packed.format.bits, norm.kind if norm else "none", epilogue)
    node = helper.make_node(kind, inputs, [y], name, domain=DOMAIN, **settings)
    return node, before + behind


def _norm_vectors(part: str, norm: Norm, size: int) -> dict[str, np.ndarray]:
    if norm.kind not in ("rms", "layer"):
        raise ValueError(f"no norm {norm.kind!r}")
    if norm.kind == "rms" and norm.bias is not None:
        raise ValueError("a norm by mean squares has no bias")
    vectors = {f"{part}_weight": _vector("the norm's weight", norm.weight, size)}
    if norm.kind == "layer":
        vectors[f"{part}_bias"] = _vector("the norm's bias", norm.bias, size)
    return vectors


def _vector(what: str, vector: np.ndarray | None, size: int) -> np.ndarray:
    found = np.zeros(size, np.float32) if vector is None else np.asarray(vector, np.float32)
    if found.shape != (size,):
        raise ValueError(f"{what} must have {size} numbers")
    return found


def add_functions(model: ModelProto) -> None:
    """Add the function of every operator of the library that the graph uses, for processors with
    VNNI where the model's metadata say so.

    Raises:
        ValueError: the model's operator set is older than 13, or than 17 with a LayerNorm.
    """
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    kinds = {kind for kind in used if is_operator(kind)}
    kinds -= {function.name for function in model.functions if function.domain == DOMAIN}
    oldest = max((_oldest_opset(kind) for kind in kinds), default=OLDEST_OPSET)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if kinds and opset < oldest:
        raise ValueError(f"these operators need operator set {oldest}, and this is {opset}")
    vnni = any(entry.key == VNNI for entry in model.metadata_props)
    model.functions.extend(function(kind, opset, vnni) for kind in sorted(kinds))
    known = {function.name for function in model.functions}
    for attention in attention_functions(model.graph.node, opset):
        if attention.name not in known:
            model.functions.append(attention)
    domains = [DOMAIN] if used else []
    domains += [CONTRIB] if vnni and used else []
    for domain in domains:
        if domain not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(domain, 1))


def _oldest_opset(kind: str) -> int:
    return OLDEST_OPSET_OF_LAYER_NORM if "LayerNorm" in kind else OLDEST_OPSET
