"""Measure how long a dense linear takes here in each format, for budgets of time.

    python benchmarks/format_times.py [--rounds 200] [--output FILE]

The table is written into edgeprune/targets/format_times/, under the name of this machine's target,
and is what `quantize.linears_ms` is kept by from then on. One thread; each linear is lowered as a
build lowers it, and all formats of a shape are timed once a round, in an order drawn anew
(sparse_linear.py); a time is the median over rounds. The machine must be quiet: a few minutes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sparse_linear import OPSET, Call, interleaved

from edgeprune.base.progress import track
from edgeprune.compress.quantize.layers import LayerValues, round_nearest
from edgeprune.compress.quantize.model import Quantized
from edgeprune.compress.quantize.plan import Entry, Format, Plan, in_format
from edgeprune.export.graph import Graph
from edgeprune.export.rewrite.groups import lower_groups
from edgeprune.export.rewrite.int8 import lower_linears
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median
from edgeprune.targets import detect
from edgeprune.targets.format_times import FOLDER, form_name, from_json
from edgeprune.targets.table import write_table

FORMS: tuple[tuple[Format, int | None], ...] = (
    ("int8", None),
    ("int8-token", None),
    *(("int4", group) for group in (16, 32, 64, 128)),
)
# Inputs x outputs of encoders and small decoders; rows of a step, a few, a text.
SHAPES = ((384, 384), (384, 1536), (1536, 384), (576, 576), (576, 1536), (768, 3072), (2048, 8192))
ROWS = (1, 16, 128)


def main() -> None:
    """Time every point and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--output", type=Path, help="by default the target's own table")
    given = parser.parse_args()
    target = detect()
    work = [(inputs, outputs, rows) for inputs, outputs in SHAPES for rows in ROWS]
    points = []
    for inputs, outputs, rows in track(work, "formats", len(work)):
        times = point(inputs, outputs, rows, target.weight_bits, given.rounds)
        points.append({"inputs": inputs, "outputs": outputs, "rows": rows, "us": times})
    content = {
        "target": target.name,
        "machine": machine_facts().to_json(),
        "rounds": given.rounds,
        "points": points,
    }
    from_json(content)
    written = write_table(content, FOLDER, given.output)
    print(table(content))
    print(written)


def point(inputs: int, outputs: int, rows: int, bits: int, rounds: int) -> dict[str, float]:
    """Median microseconds of one shape by format."""
    x = np.random.default_rng(0).standard_normal((rows, inputs)).astype(np.float32)
    calls = {}
    for kind, group in FORMS:
        model = linear(inputs, outputs, kind, group, bits)
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


def table(content: dict[str, Any]) -> str:
    """Microseconds, a line a shape."""
    names = [form_name(*form) for form in FORMS]
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in names)]
    for entry in content["points"]:
        work = f"{entry['inputs']}x{entry['outputs']}, {entry['rows']} rows"
        lines.append(f"{work:24}" + "".join(f"{entry['us'][name]:12.1f}" for name in names))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
