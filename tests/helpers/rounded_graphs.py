"""An INT8 graph beside torch, code by code, so that no rounding is decided by the processor.

Float32 sums end differently on processors that add in another order. A value on the edge of two
codes then falls either way, and what follows it is rounded anew. So the oracle goes on, linear by
linear, from the codes that the graph took, after it has seen that they were the nearest.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.verify import complete_feed
from edgeprune.model.model import Model

EDGE = 0.01
"""Part of a step by which float32 may move a value that is 255 steps large."""


@dataclass
class Coded:
    """What a graph made of a tensor: its codes, the zero point, and the step between codes."""

    codes: np.ndarray
    zero_point: np.ndarray
    step: np.ndarray

    @property
    def values(self) -> np.ndarray:
        return (self.codes.astype(np.float32) - self.zero_point) * self.step


def run_with_codes(path: Path, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, list[Coded]]:
    """A graph's first output, and everything that it codes on the way."""
    graph = Graph.load(path)
    coded = []  # the names of codes, zero point and step
    for node in graph.nodes:
        if node.op_type == "DynamicQuantizeLinear":
            codes, step, zero_point = node.output
            coded.append((codes, zero_point, step))
        elif node.op_type == "QuantizeLinear":
            levels = graph.producers.get(node.input[0])
            by_token = levels is not None and levels.name.endswith("/Levels")
            step = levels.input[1] if by_token else node.input[1]
            coded.append((node.output[0], node.input[2], step))
    model = graph.model()
    result = model.graph.output[0].name
    constants = {name for names in coded for name in names if graph.constant(name) is not None}
    kinds = (onnx.TensorProto.UINT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT)
    for names in coded:
        for name, kind in zip(names, kinds, strict=True):
            if name not in constants:
                model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, complete_feed(session, batch)), strict=True))
    found |= {name: graph.constant(name) for name in constants}
    return found[result], [Coded(*(found[name] for name in names)) for names in coded]


def following(
    model: Model, batch: dict[str, torch.Tensor], quantized: Quantized, coded: list[Coded]
) -> np.ndarray:
    """The first output of torch where each planned linear reads what the graph coded for it."""
    kinds = ("int8", "int8-token")
    entries = [entry for entry in quantized.plan if entry.format in kinds]
    followed = set()

    def follow(entry: Entry):
        def read(_module, inputs):
            x = inputs[0].numpy()
            alike = [each for each in coded if each.codes.shape == x.shape]
            mine = min(alike, key=lambda each: np.abs(each.values - x).max())
            check(entry, x, mine)
            followed.add(entry.name)
            return (torch.from_numpy(mine.values),)

        return read

    hooks = [model.linear(entry.name).register_forward_pre_hook(follow(entry)) for entry in entries]
    with torch.no_grad():
        result = model.module(**batch)[0].numpy()
    for hook in hooks:
        hook.remove()
    assert followed == {entry.name for entry in entries}
    return result


def check(entry: Entry, x: np.ndarray, coded: Coded) -> None:
    """The codes are the nearest to x on the grid that is meant."""
    away = (x - coded.values) / coded.step
    lowest, highest = coded.codes == 0, coded.codes == 255
    if entry.input_scale is not None:
        grid = (entry.input_scale, entry.input_zero_point)
        assert (float(coded.step), int(coded.zero_point)) == (np.float32(grid[0]), grid[1])
    else:
        span = (
            (max(x.max(), 0) - min(x.min(), 0)) / 255
            if entry.format == "int8"
            else np.abs(x).max(-1, keepdims=True) / 127
        )
        np.testing.assert_allclose(coded.step, span, rtol=1e-4)
        assert np.abs(away).max() < 1 + EDGE, entry.name  # the zero point is rounded, too
    assert away[~highest].max() < 0.5 + EDGE, entry.name
    assert away[~lowest].min() > -0.5 - EDGE, entry.name
