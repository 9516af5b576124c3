"""Measure how long a dense linear takes here in each format, for budgets of time.

One thread; each linear is lowered as a build lowers it, and all formats of a shape are timed once a
round (measure/bench/linears.py); a time is the median over rounds.
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edgeprune.base.progress import track
from edgeprune.compress.quantize.layers import LayerValues, round_nearest
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry, Format, Plan, in_format
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.groups import lower_groups
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.measure.bench.linears import Call, interleaved
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median
from edgeprune.search.times.linears import OPSET
from edgeprune.targets import Target
from edgeprune.targets.format_times import form_name, from_json

FORMS: tuple[tuple[Format, int | None], ...] = (
    ("int8", None),
    ("int8-token", None),
    *(("int4", group) for group in (16, 32, 64, 128)),
)
# Inputs x outputs of encoders and small decoders; rows of a step, a few, a text.
SHAPES = ((384, 384), (384, 1536), (1536, 384), (576, 576), (576, 1536), (768, 3072), (2048, 8192))
ROWS = (1, 16, 128)


def measure_formats(
    target: Target,
    rounds: int,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    rows: tuple[int, ...] = ROWS,
) -> dict[str, Any]:
    """The table of a target's format times, measured on this machine, as
    targets/format_times.py reads it.

    Args:
        rounds: times that every linear is called.
    """
    work = [(inputs, outputs, count) for inputs, outputs in shapes for count in rows]
    points = []
    for inputs, outputs, count in track(work, "formats", len(work)):
        times = point(inputs, outputs, count, target.weight_bits, rounds)
        points.append({"inputs": inputs, "outputs": outputs, "rows": count, "us": times})
    content = {
        "target": target.name,
        "machine": machine_facts().to_json(),
        "rounds": rounds,
        "points": points,
    }
    from_json(content)  # what is kept can be read
    return content


def point(inputs: int, outputs: int, rows: int, bits: int, rounds: int) -> dict[str, float]:
    """Median microseconds of one shape by format."""
    x = np.random.default_rng(0).standard_normal((rows, inputs)).astype(np.float32)
    calls = {}
    for kind, group in FORMS:
        model = linear(inputs, outputs, kind, group, bits).SerializeToString()
        calls[form_name(kind, group)] = Call(model, x, outputs, threads=1, library=False)
    times = interleaved(calls, rounds)
    return {name: round(median(found) * 1e6, 2) for name, found in times.items()}


def linear(
    inputs: int, outputs: int, kind: Format, group: int | None, bits: int
) -> onnx.ModelProto:
    """One linear of random weights, lowered as a build does it."""
    plain = Entry("linear", "up", (outputs, inputs), "int8", bits=bits)
    entry = in_format(plain, kind, group or 0, symmetric=True)
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
    quantized = Quantized(Plan((entry,)))
    quantized.store(entry, LayerValues(round_nearest(weight, entry.scheme)))
    values = quantized.values("linear").T.numpy()
    product = helper.make_node("MatMul", ["x", "weight"], ["y"], "/linear/MatMul")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("x", inputs), ("y", outputs))
    ]
    stored = [numpy_helper.from_array(np.ascontiguousarray(values), "weight")]
    plan = helper.make_graph([product], "linear", ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", OPSET)]
    graph = Graph(helper.make_model(plan, opset_imports=opset, ir_version=8))
    lower = lower_groups if group else lower_linears
    if lower(graph, quantized) != 1:
        raise ValueError(f"{kind} was not lowered")
    return graph.model()
