"""Models of one quantized linear, and its oracle in integers."""

from dataclasses import dataclass

import numpy as np
import onnx
from scipy.special import erf, expit
from sparse_models import OPSET, model_of

from edgeprune.kernels.formats import GATES, QUANT_FORMATS, VNNI, WITH_RESIDUAL
from edgeprune.kernels.node import Norm, make_quant_linear
from edgeprune.kernels.pack import pack_codes


@dataclass
class QuantLinear:
    """y = x W + bias, W = codes * multipliers of their group * scales."""

    format: str
    codes: np.ndarray
    multipliers: np.ndarray | None
    scales: np.ndarray
    bias: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """codes * multipliers, int64 [K, N]."""
        group = QUANT_FORMATS[self.format].group
        if self.multipliers is None or group is None:
            return self.codes.astype(np.int64)
        spread = self.multipliers.astype(np.int64).repeat(group, 0)[: len(self.codes)]
        return self.codes.astype(np.int64) * spread


@dataclass
class Fused:
    """What is around a linear."""

    norm: Norm | None = None
    epilogue: str = "none"
    norm_after: Norm | None = None


def random_quant(format: str, K: int, N: int, seed: int = 0) -> QuantLinear:
    """Every code and multiplier equally likely."""
    rng = np.random.default_rng(seed)
    form = QUANT_FORMATS[format]
    codes = rng.integers(form.lowest, -form.lowest, (K, N)).astype(np.int8)
    multipliers = None
    if form.group:
        multipliers = rng.integers(-15, 16, (-(-K // form.group), N)).astype(np.int8)
    scales = rng.uniform(0.001, 0.01, N).astype(np.float32)
    return QuantLinear(format, codes, multipliers, scales, rng.standard_normal(N, np.float32))


def random_norm(kind: str, size: int, seed: int = 0) -> Norm:
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 1.5, size).astype(np.float32)
    return Norm(
        kind, weight, 1e-5, rng.standard_normal(size, np.float32) if kind == "layer" else None
    )


def quant_model(
    linear: QuantLinear, fused: Fused | None = None, opset: int = OPSET, vnni: bool = False
) -> onnx.ModelProto:
    """x [rows, K], and other if the epilogue adds it, to y [rows, N]; with functions for processors
    with VNNI if asked for."""
    fused = fused or Fused()
    packed = pack_codes(linear.codes, linear.multipliers, linear.format)
    inputs, outputs = linear.codes.shape
    residual = fused.epilogue in WITH_RESIDUAL
    node, initializers = make_quant_linear(
        "linear",
        "x",
        "y",
        packed,
        linear.scales,
        linear.bias,
        norm=fused.norm,
        epilogue=fused.epilogue,
        other="other" if residual else None,
        norm_after=fused.norm_after,
    )
    outputs //= 2 if fused.epilogue in GATES else 1
    metadata = {VNNI: "yes"} if vnni else {}
    return model_of([node], initializers, inputs, outputs, residual, opset, metadata)


def quant_expected(linear: QuantLinear, x: np.ndarray) -> np.ndarray:
    """The result bit for bit: integer sums, then three roundings to float32 in the order stated."""
    scales = np.abs(x).max(1, keepdims=True) / np.float32(127)
    levels = np.divide(x, scales, out=np.zeros_like(x), where=scales > 0)
    sums = np.clip(np.rint(levels), -128, 127).astype(np.int64) @ linear.whole
    assert np.abs(sums).max(initial=0) < 2**31
    with np.errstate(over="ignore"):  # an infinity is what the operator gives as well
        return sums.astype(np.float32) * linear.scales * scales + linear.bias


def normed(norm: Norm | None, x: np.ndarray) -> np.ndarray:
    """The norm in float64."""
    if norm is None:
        return x
    x = x.astype(np.float64)
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    even = x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.epsilon)
    return even * norm.weight + (0 if norm.bias is None else norm.bias)


def finished(fused: Fused, product: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """The epilogue in float64."""
    y = product.astype(np.float64)
    if fused.epilogue in GATES:
        gate, up = np.split(y, 2, -1)
        return _ACTIVATIONS[fused.epilogue.removesuffix("-gate")](gate) * up
    if fused.epilogue in WITH_RESIDUAL:
        assert other is not None
        return normed(fused.norm_after, y + other)
    return _ACTIVATIONS[fused.epilogue](y)


_ACTIVATIONS = {
    "none": lambda y: y,
    "gelu": lambda y: y * (1 + erf(y / np.sqrt(2))) / 2,
    "gelu-tanh": lambda y: y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))) / 2,
    "silu": lambda y: y * expit(y),
}
