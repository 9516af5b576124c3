"""Time quantized linears against ONNX Runtime's INT4 and INT8 products.

    python benchmarks/quant_linear.py [--rounds 200]

One line of JSON a cell in benchmarks/results/quant_linear.jsonl; a cell that is there is not run
again. Times are of the calling thread's processor, one thread, because wall time counts the
machine's other work; the ratio is the median over rounds of the runtime's time over the operator's,
with its 95 % bootstrap interval. The weights are random: speed only. The rivals are MatMulNBits in
groups of 128 with accuracy_level 4, its fastest, and DynamicQuantizeLinear with MatMulInteger.
"""

import argparse
import os
import random
import time
from pathlib import Path

import numpy as np
import onnx
from results_file import add_result, ratio_text, read_results

from edgeprune.kernels.formats import QUANT_FORMATS
from edgeprune.kernels.library import system_facts
from edgeprune.kernels.node import add_functions, make_quant_linear
from edgeprune.kernels.pack import pack_codes
from edgeprune.measure.bench.linears import Call
from edgeprune.measure.bench.machine import machine_facts
from edgeprune.measure.bench.stats import median, paired_ratio
from edgeprune.search.times.linears import dense, model_of

RESULTS = Path(__file__).parent / "results" / "quant_linear.jsonl"
SHAPES = ((384, 384), (384, 1536), (1536, 384), (576, 576), (576, 1536), (1536, 576))
ROWS = (1, 16, 64, 128, 512)
RIVALS = ("dense int4", "dense int8")


def main() -> None:
    """Run what is not there yet, a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    done = read_results(RESULTS)
    for inputs, outputs in SHAPES:
        for rows in ROWS:
            name = f"{inputs}x{outputs}, {rows} rows"
            if name not in done:
                done[name] = cell(name, inputs, outputs, rows, rounds)
                add_result(RESULTS, done[name])
            for form, ratios in done[name]["ratios"].items():
                beside = ", ".join(f"{ratio_text(r)} of {rival}" for rival, r in ratios.items())
                print(f"{name}: {form} {beside}", flush=True)


def cell(name: str, inputs: int, outputs: int, rows: int, rounds: int) -> dict[str, object]:
    """Every format beside every rival, interleaved in an order drawn anew."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    models = {rival: dense(rival, inputs, outputs, rng) for rival in RIVALS}
    models |= {form: quantized(form, inputs, outputs, rng) for form in QUANT_FORMATS}
    calls = {
        key: Call(model.SerializeToString(), x, outputs, 1, key in QUANT_FORMATS)
        for key, model in models.items()
    }
    times: dict[str, list[float]] = {key: [] for key in calls}
    order, draw = list(calls), random.Random(0)
    for turn in range(rounds + 5):
        draw.shuffle(order)
        for key in order:
            calls[key].time()  # brings the weights back that the others pushed out
            start = time.thread_time_ns()
            calls[key].time()
            if turn >= 5:
                times[key].append((time.thread_time_ns() - start) / 1e9)
    return {
        "name": name,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "machine": machine_facts().to_json(),
        "instruction_set": system_facts()["chosen"],
        "microseconds": {key: median(values) * 1e6 for key, values in times.items()},
        "ratios": {
            form: {rival: paired_ratio(times[rival], times[form]).model_dump() for rival in RIVALS}
            for form in QUANT_FORMATS
        },
    }


def quantized(form: str, inputs: int, outputs: int, rng: np.random.Generator) -> onnx.ModelProto:
    """The operator with random codes and multipliers."""
    made = QUANT_FORMATS[form]
    codes = rng.integers(made.lowest, -made.lowest, (inputs, outputs)).astype(np.int8)
    multipliers = None
    if made.group:
        multipliers = rng.integers(-15, 16, (-(-inputs // made.group), outputs)).astype(np.int8)
    packed = pack_codes(codes, multipliers, form)
    scales = np.full(outputs, 0.01, np.float32)
    node, initializers = make_quant_linear("linear", "x", "y", packed, scales)
    model = model_of([], [], inputs, outputs)
    model.graph.node.append(node)
    model.graph.initializer.extend(initializers)
    add_functions(model)
    return model


if __name__ == "__main__":
    main()
