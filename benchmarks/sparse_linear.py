"""Time one sparse linear against ONNX Runtime's dense INT8, INT4 and float32 products.

    python benchmarks/sparse_linear.py [--shape 384x1536] [--rows 128] [--threads 1] [--rounds 300]

Every contestant is timed once a round, in an order drawn anew, inputs and outputs bound beforehand;
the ratio is the median over rounds of dense over sparse, with its 95 % bootstrap interval. The
weights are random: speed only. JSON goes to --json FILE, or - for the screen.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeprune.kernels import register
from edgeprune.kernels.formats import FORMATS
from edgeprune.kernels.library import system_facts
from edgeprune.kernels.node import add_functions, make_sparse_linear
from edgeprune.kernels.pack import pack
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median, paired_ratio

OPSET = 17
BASELINES = ("dense int8", "dense int4", "dense float32")


def main() -> None:
    """Time, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="384x1536", help="inputs x outputs")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--call", nargs=2, metavar=("CONTESTANT", "TIMES"), help="call one, for a counter outside"
    )
    given = parser.parse_args()
    inputs, outputs = map(int, given.shape.split("x"))
    rng = np.random.default_rng(0)
    if given.call:
        call_only(given.call[0], int(given.call[1]), inputs, outputs, given.rows)
        return
    contestants = {name: dense(name, inputs, outputs, rng) for name in BASELINES}
    fallback = sparse("int8-4x16", inputs, outputs, given.sparsity[-1], rng)
    contestants["int8-4x16 without the library"] = fallback
    for name in given.formats:
        for share in given.sparsity:
            contestants[f"{name} {share:.0%}"] = sparse(name, inputs, outputs, share, rng)
    x = rng.standard_normal((given.rows, inputs)).astype(np.float32)
    calls = {
        name: Call(model, x, outputs, given.threads, library="%" in name)
        for name, model in contestants.items()
    }
    times = interleaved(calls, given.rounds)
    result = {
        "shape": [inputs, outputs],
        "rows": given.rows,
        "threads": given.threads,
        "rounds": given.rounds,
        "machine": machine_facts().to_json(),
        "kernels": system_facts(),
        "contestants": {name: summary(name, times) for name in times},
    }
    text = json.dumps(result, indent=2)
    if given.json == "-":
        print(text)
        return
    print(table(result))
    if given.json:
        Path(given.json).write_text(text + "\n", encoding="utf-8")


def call_only(name: str, times: int, inputs: int, outputs: int, rows: int) -> None:
    """Make one contestant, "dense int8" or "int8-4x16 80%", and call it: nothing is timed."""
    rng = np.random.default_rng(0)
    form, _, share = name.rpartition(" ")
    is_sparse = form in FORMATS
    model = (
        sparse(form, inputs, outputs, float(share.rstrip("%")) / 100, rng)
        if is_sparse
        else dense(name, inputs, outputs, rng)
    )
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    call = Call(model, x, outputs, threads=1, library=is_sparse)
    for _ in range(times):
        call.time()


class Call:
    """A session with its input and output bound."""

    def __init__(
        self, model: onnx.ModelProto, x: np.ndarray, outputs: int, threads: int, library: bool
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Many sessions in one process: threads that spin for work would take it from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if library:
            register(options)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self._y = np.empty((len(x), outputs), np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("x", x)
        self._binding.bind_output("y", "cpu", 0, np.float32, self._y.shape, self._y.ctypes.data)

    def time(self) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return time.perf_counter() - start


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds by name; the k-th of each list are of one round."""
    order = list(calls)
    draw = random.Random(0)
    for call in calls.values():
        for _ in range(5):
            call.time()
    times: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            # What ran before has emptied the caches; a product in a model finds its input there.
            calls[name].time()
            times[name].append(calls[name].time())
    return times


def summary(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """Median microseconds, and the ratio of each baseline's time to this one's."""
    found: dict[str, Any] = {
        "microseconds": median(times[name]) * 1e6,
        "p20_microseconds": float(np.percentile(times[name], 20)) * 1e6,
    }
    for baseline in BASELINES:
        ratio = paired_ratio(times[baseline], times[name])
        found[f"over {baseline}"] = [ratio.value, ratio.low, ratio.high]
    return found


def table(result: dict[str, Any]) -> str:
    """One line a contestant."""
    lines = [f"{'':32}{'us':>8}" + "".join(f"{'x ' + name:>26}" for name in BASELINES)]
    for name, row in result["contestants"].items():
        ratios = ["{:.2f} ({:.2f} to {:.2f})".format(*row[f"over {base}"]) for base in BASELINES]
        lines.append(
            f"{name:32}{row['microseconds']:8.0f}" + "".join(f"{text:>26}" for text in ratios)
        )
    return "\n".join(lines)


def sparse(
    name: str, inputs: int, outputs: int, share: float, rng: np.random.Generator
) -> onnx.ModelProto:
    """A linear with blocks gone at random."""
    form = FORMATS[name]
    kept = rng.random((-(-inputs // form.inputs), -(-outputs // form.outputs))) >= share
    kept = kept.repeat(form.inputs, 0).repeat(form.outputs, 1)[:inputs, :outputs]
    if form.dtype == "int8":
        weight = (rng.integers(1, 128, (inputs, outputs)) * kept).astype(np.int8)
        scales = np.full(outputs, 0.01, np.float32)
    else:
        weight, scales = (rng.standard_normal((inputs, outputs)) * kept).astype(np.float32), None
    node, initializers = make_sparse_linear("linear", "x", "y", pack(weight, name), scales=scales)
    return model_of([node], initializers, inputs, outputs)


def dense(name: str, inputs: int, outputs: int, rng: np.random.Generator) -> onnx.ModelProto:
    """The runtime's own product of the same shape, with a bias."""
    stored: dict[str, np.ndarray] = {"bias": np.zeros(outputs, np.float32)}
    if name == "dense int8":
        stored["weight"] = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
        stored["scales"] = np.full(outputs, 0.01, np.float32)
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["codes", "weight", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "scales"], ["both"]),
            helper.make_node("Mul", ["floats", "both"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    elif name == "dense int4":
        # Groups of 128: the fastest INT4 that the runtime has.
        groups = -(-inputs // 128)
        stored["codes"] = rng.integers(0, 256, (outputs, groups, 64)).astype(np.uint8)
        stored["scales"] = np.full(outputs * groups, 0.01, np.float32)
        settings = {"K": inputs, "N": outputs, "bits": 4, "block_size": 128, "accuracy_level": 4}
        nodes = [
            helper.make_node(
                "MatMulNBits",
                ["x", "codes", "scales"],
                ["product"],
                domain="com.microsoft",
                **settings,
            ),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    else:
        stored["weight"] = rng.standard_normal((inputs, outputs)).astype(np.float32)
        nodes = [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])]
    initializers = [numpy_helper.from_array(value, part) for part, value in stored.items()]
    return model_of(nodes, initializers, inputs, outputs)


def model_of(
    nodes: list[onnx.NodeProto], initializers: list[TensorProto], inputs: int, outputs: int
) -> onnx.ModelProto:
    """A model of x to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])
    graph = helper.make_graph(nodes, "linear", [x], [y], initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    add_functions(model)
    return model


if __name__ == "__main__":
    sys.exit(main())
