"""Models of one quantized linear, and its oracle in integers."""

from dataclasses import dataclass

import numpy as np
import onnx
from sparse_models import model_of

from edgeprune.kernels.formats import QUANT_FORMATS
from edgeprune.kernels.node import make_quant_linear
from edgeprune.kernels.pack import pack_codes


@dataclass
class QuantLinear:
    """y = x W + bias, W = codes * multipliers of their group * scales."""

    format: str
    codes: np.ndarray
    multipliers: np.ndarray
    scales: np.ndarray
    bias: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """codes * multipliers, int64 [K, N]."""
        group = QUANT_FORMATS[self.format].group
        spread = self.multipliers.astype(np.int64).repeat(group, 0)[: len(self.codes)]
        return self.codes.astype(np.int64) * spread


def random_quant(format: str, K: int, N: int, seed: int = 0) -> QuantLinear:
    """Every code and multiplier equally likely; those of INT8 small enough for K inputs."""
    rng = np.random.default_rng(seed)
    form = QUANT_FORMATS[format]
    most = 15 if form.bits == 4 or K < 8000 else 1
    shape = (-(-K // form.group), N)
    return QuantLinear(
        format,
        rng.integers(form.lowest, -form.lowest, (K, N)).astype(np.int8),
        rng.integers(-most, most + 1, shape).astype(np.int8),
        rng.uniform(0.001, 0.01, N).astype(np.float32),
        rng.standard_normal(N).astype(np.float32),
    )


def quant_model(linear: QuantLinear) -> onnx.ModelProto:
    """x [rows, K] to y [rows, N]."""
    packed = pack_codes(linear.codes, linear.multipliers, linear.format)
    node, initializers = make_quant_linear("linear", "x", "y", packed, linear.scales, linear.bias)
    return model_of([node], initializers, *linear.codes.shape)


def quant_expected(linear: QuantLinear, x: np.ndarray) -> np.ndarray:
    """The result bit for bit: integer sums, then three roundings to float32 in the order stated."""
    scales = np.abs(x).max(1, keepdims=True) / np.float32(127)
    levels = np.divide(x, scales, out=np.zeros_like(x), where=scales > 0)
    sums = np.clip(np.rint(levels), -128, 127).astype(np.int64) @ linear.whole
    assert np.abs(sums).max(initial=0) < 2**31
    with np.errstate(over="ignore"):  # an infinity is what the operator gives as well
        return sums.astype(np.float32) * scales * linear.scales + linear.bias
