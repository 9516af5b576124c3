"""Models of one sparse linear, its library, and sessions with a chosen instruction set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.kernels import compile as compiling
from edgeprune.kernels import library
from edgeprune.kernels.formats import FORMATS, WITH_OTHER
from edgeprune.kernels.node import Quantized, add_functions, make_sparse_linear
from edgeprune.kernels.pack import pack

OPSET = 17
SETS = ("plain", "avx2", "avxvnni", "avx512vnni", "neondot")


def library_for_tests(folder: Path) -> Path:
    """The one that EDGEPRUNE_TEST_LIBRARY names, the installed one if it is not older than its
    sources, or one compiled into `folder`."""
    if given := os.environ.get("EDGEPRUNE_TEST_LIBRARY"):
        return Path(given)
    newest = max(file.stat().st_mtime for file in compiling.SOURCES.iterdir())
    if library.installed() and library.LIBRARY.stat().st_mtime > newest:
        return library.LIBRARY
    try:
        return compiling.compile_library(folder / library.LIBRARY.name)
    except compiling.CannotCompile as error:
        pytest.skip(str(error))


@dataclass
class Linear:
    """y = epilogue(x W + bias); W is scales * weight where there are scales."""

    format: str
    weight: np.ndarray
    scales: np.ndarray | None
    bias: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """W in float64."""
        scales = 1.0 if self.scales is None else self.scales.astype(np.float64)
        return self.weight.astype(np.float64) * scales


def random_linear(format: str, K: int, N: int, sparsity: float, seed: int = 0) -> Linear:
    """Blocks gone at random; from 2 columns and rows on, one of each is empty whatever the rest."""
    rng = np.random.default_rng(seed)
    form = FORMATS[format]
    kept = rng.random((-(-K // form.inputs), -(-N // form.outputs))) >= sparsity
    kept = kept.repeat(form.inputs, 0).repeat(form.outputs, 1)[:K, :N]
    if sparsity > 0 and K > 1 and N > 1:
        kept[K // 2], kept[:, N // 2] = False, False
    if form.dtype == "int8":
        weight = (rng.integers(-127, 128, (K, N)) * kept).astype(np.int8)
        scales = rng.uniform(0.001, 0.01, N).astype(np.float32)
    else:
        weight, scales = (rng.standard_normal((K, N)) * kept).astype(np.float32), None
    return Linear(format, weight, scales, rng.standard_normal(N).astype(np.float32))


def sparse_model(linear: Linear, epilogue: str = "none", way: str = "plain") -> onnx.ModelProto:
    """x [..., K] (and other [..., N]) to y; `way` as formats.INPUTS has it."""
    inputs, outputs = linear.weight.shape
    x: str | Quantized = "x"
    nodes = []
    constants = []
    if way == "shared":
        x = Quantized("codes", "scale", "zero_point")
        nodes.append(
            helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero_point"])
        )
    elif way == "rows":
        x = Quantized("codes", "scale", "zero_point", per_row=True)
        constants = [
            numpy_helper.from_array(np.array([1 / 127], np.float32), "step"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
            numpy_helper.from_array(np.array(128, np.uint8), "zero_point"),
        ]
        nodes += [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("ReduceMax", ["size"], ["largest"], axes=[-1], keepdims=1),
            helper.make_node("Mul", ["largest", "step"], ["scale"]),
            helper.make_node("Div", ["x", "scale"], ["levels"]),
            helper.make_node("QuantizeLinear", ["levels", "one", "zero_point"], ["codes"]),
        ]
    node, initializers = make_sparse_linear(
        "linear",
        x,
        "y",
        pack(linear.weight, linear.format),
        scales=linear.scales,
        bias=linear.bias,
        epilogue=epilogue,
        other="other" if epilogue in WITH_OTHER else None,
    )
    initializers += constants
    return model_of([*nodes, node], initializers, inputs, outputs, epilogue in WITH_OTHER)


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    inputs: int,
    outputs: int,
    other: bool = False,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A model of x, maybe other, to y, with the functions it needs."""
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])]
    if other:
        values.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["rows", outputs]))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])
    graph = helper.make_graph(nodes, "sparse", values, [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    helper.set_model_props(model, dict(metadata or {}))
    add_functions(model)
    onnx.checker.check_model(model)
    return model


def session_options(threads: int = 1) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # Each tensor its own piece of memory, so that AddressSanitizer sees a step beyond one.
    options.enable_cpu_mem_arena = False
    return options


def open_sparse(
    model: onnx.ModelProto, library_path: Path, set_name: str = "", threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session with the library registered, on one instruction set ("" is the best)."""
    options = session_options(threads)
    options.register_custom_ops_library(str(library_path))
    before = os.environ.get(library.CHOICE)
    os.environ[library.CHOICE] = set_name
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options)
    finally:
        del os.environ[library.CHOICE]
        if before is not None:
            os.environ[library.CHOICE] = before


def open_stock(
    model: onnx.ModelProto, optimized: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session without the library."""
    options = session_options()
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def stock_quantizer(inputs: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime's own DynamicQuantizeLinear: x to codes, scale, zero point."""
    names = ["codes", "scale", "zero_point"]
    kinds = [TensorProto.UINT8, TensorProto.FLOAT, TensorProto.UINT8]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])
    results = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in zip(names, kinds, strict=True)
    ]
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], names)]
    graph = helper.make_graph(nodes, "quantize", [x], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    return onnxruntime.InferenceSession(model.SerializeToString(), session_options())
